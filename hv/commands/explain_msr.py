"""Say what a model-specific register is: who may read and write it, its bits, and whether this hypervisor has it.

MSR is an index (0x40000083) or a name (SIMP, HV_X64_MSR_SIMP, IA32_EFER). With VALUE the bits are decoded as they stand
in it, and what WRMSR would refuse is said. Without MSR every synthetic one is listed.
"""

from __future__ import annotations

import argparse

from hv.commands.errors import CommandError
from hv.commands.subjects import add_output_arguments, answer, number_of, number_or_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv explain msr`."""
    parser.add_argument("msr", metavar="MSR", nargs="?", help="an index or a name; nothing: all synthetic MSRs")
    parser.add_argument("value", metavar="VALUE", nargs="?", help="what stands in it, to decode")
    add_output_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Explain, and print."""
    from hv.debug import msr_text as text
    from hv.spec.msrs import Msr
    from hv.spec.synthetic_msrs import SYNTHETIC_MSR_TABLE

    if args.msr is None:
        return answer(args, lambda: [text.msr_as_data(Msr(index)) for index in sorted(SYNTHETIC_MSR_TABLE)],
                      text.msrs_told)
    names = {name: int(msr) for msr in Msr
             for name in (msr.name, text.manual_name(msr), msr.name.removeprefix("HV_"))}
    index = number_or_name(args.msr, names, "MSR")
    if index not in Msr.__members__.values():
        raise CommandError(f"no MSR {index:#x} is known here", "`hv explain msr` lists the synthetic ones")
    msr, value = Msr(index), None if args.value is None else _value(args.value)
    return answer(args, lambda: text.msr_as_data(msr, value), lambda: text.msr_told(msr, value))


def _value(text: str) -> int:
    value = number_of(text)
    if value is None or value >> 64:
        raise CommandError(f"VALUE is `{text}`; expected a number of 64 bits", "such as 0x10001")
    return value

"""Say what a hypercall does: its privilege, its input and output by offset, and whether this hypervisor has it.

CALL is a call code (0x5c), a whole input value (0x0003005000010050: its fields are decoded, and what the door would
refuse is said), or a name (PostMessage). Without CALL every call is listed.
"""

from __future__ import annotations

import argparse

from hv.commands.errors import CommandError
from hv.commands.subjects import add_output_arguments, answer, number_or_name

_CODE = 0xFFFF


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv explain hypercall`."""
    parser.add_argument("call", metavar="CALL", nargs="?", help="a code, an input value, or a name; nothing: all calls")
    add_output_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Explain, and print."""
    from hv.debug import interface_text as text
    from hv.spec.hypercalls.codes import HypercallCode

    if args.call is None:
        return answer(args, lambda: [text.call_as_data(code) for code in HypercallCode], text.calls_told)
    names = {name: int(code) for code in HypercallCode for name in (code.name, text.call_name(code))}
    value = number_or_name(args.call, names, "call")
    code = value & _CODE
    if value >> 64:
        raise CommandError(f"{value:#x} is wider than 64 bits", "expected a call code, or an input value as in RCX")
    if code not in HypercallCode.__members__.values():
        raise CommandError(f"no hypercall has the code {code:#06x}", "`hv explain hypercall` lists them all")
    call, whole = HypercallCode(code), value if value > _CODE else None
    return answer(args, lambda: text.call_as_data(call), lambda: text.call_told(call, whole))

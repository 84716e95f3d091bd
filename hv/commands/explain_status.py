"""Say what a hypercall's status means, and what its caller does about it.

STATUS is a code (0x5), a whole result value (0x0000000300000005: reps completed and status), or a name
(ACCESS_DENIED, HV_STATUS_ACCESS_DENIED). Without STATUS all of them are listed.
"""

from __future__ import annotations

import argparse

from hv.commands.errors import CommandError
from hv.commands.subjects import add_output_arguments, answer, number_or_name

_CODE = 0xFFFF


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv explain status`."""
    parser.add_argument("status", metavar="STATUS", nargs="?", help="a code, a result value, or a name; nothing: all")
    add_output_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Explain, and print."""
    from hv.debug import interface_text as text
    from hv.spec.hv_status import HvStatus

    if args.status is None:
        return answer(args, lambda: [text.status_as_data(status) for status in HvStatus], text.statuses_told)
    names = {name: int(status) for status in HvStatus for name in (status.name, f"HV_STATUS_{status.name}")}
    value = number_or_name(args.status, names, "status")
    code = value & _CODE
    if value >> 64 or code not in HvStatus.__members__.values():
        raise CommandError(f"no status has the code {code:#06x}", "`hv explain status` lists them all")
    status, whole = HvStatus(code), value if value > _CODE else None
    return answer(args, lambda: text.status_as_data(status, whole), lambda: text.status_told(status, whole))

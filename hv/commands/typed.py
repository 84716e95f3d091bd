"""`hv run --input FILE`: what is typed at the serial port of a guest, at once or when it has printed something."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hv.commands.errors import CommandError

if TYPE_CHECKING:
    from hv.replay.changes import TypeText

LARGEST_BYTES = 1 << 20


class Typing(NamedTuple):
    """*data* is typed when the guest has printed *after*; at once, when that is empty."""

    data: bytes
    after: str

    def is_due(self, machine: Any) -> bool:
        """The moment has come; asked between two turns."""
        return machine.vms[0].ended is None and self.after in machine.vms[0].serial

    def change(self, machine: Any) -> TypeText:
        """What is done then."""
        from hv.replay.changes import TypeText

        return TypeText(machine.vms[0].partition_id, self.data)


def read(args: argparse.Namespace) -> Typing | None:
    """What the arguments ask for; CommandError."""
    if args.input is None:
        if args.after is not None:
            raise CommandError("--after says when to type, and nothing says what", "name the text: --input FILE")
        return None
    if args.root:
        raise CommandError("--input with --root: nobody types at the machine itself", "leave one of them out")
    return Typing(_content(args.input), args.after or "")


def _content(place: Path) -> bytes:
    try:
        with place.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise CommandError(f"{place} cannot be read: {getattr(error, 'strerror', None) or error}",
                           "check the path and its permissions") from None
    if len(content) > LARGEST_BYTES:
        raise CommandError(f"{place.name} is larger than {LARGEST_BYTES >> 20} MiB", "is it what is to be typed?")
    return content


def run(machine: Any, until_tsc: int, text: Typing) -> None:
    """As `building.run`, with *text* typed at the first VM."""
    from hv.commands import building

    with building.ctrl_c() as interrupted:
        machine.run(until_tsc, paused=lambda: interrupted.asked or text.is_due(machine))
        if not interrupted.asked and text.is_due(machine):
            text.change(machine).apply(machine)
        machine.run(until_tsc, paused=lambda: interrupted.asked)
    if interrupted.asked:
        raise KeyboardInterrupt

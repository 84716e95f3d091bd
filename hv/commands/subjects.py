"""What the subjects of `hv explain` have in common: a number or a name comes in, lines or JSON go out."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hv.commands.errors import TRUE, CommandError
from hv.commands.screen import console, is_plain
from hv.printable import LONGEST_LINE, printable

if TYPE_CHECKING:
    from hv.debug.entry_text import Line

STYLES = {"": "", "bold": "bold", "dim": "dim", "good": "green", "bad": "red"}
_LONGEST_NUMBER = 40            # characters
_MOST_NAMES = 3                # that a hint offers


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """How the answer is printed."""
    parser.add_argument("--json", action="store_true", help="print the answer as JSON, and nothing else")
    parser.add_argument("--plain", action="store_true", help="no colours")


def number_of(text: str) -> int | None:
    """The number that *text* writes, in any base of Python's; None when it writes none."""
    try:
        value = int(text, 0) if len(text) <= _LONGEST_NUMBER else -1
    except ValueError:
        return None
    return value if value >= 0 else None


def _spelled(name: str) -> str:
    """`HV_STATUS_ACCESS_DENIED`, `hv status access denied` and so on are one name."""
    return "".join(char for char in name.casefold() if char.isalnum())


def find(text: str, names: Mapping[str, int], what: str) -> int:
    """The number of what goes by the name *text*; CommandError with the nearest names when nothing does."""
    known = {_spelled(name): (name, number) for name, number in names.items()}
    wanted = _spelled(text)
    if wanted in known:
        return known[wanted][1]
    close = difflib.get_close_matches(wanted, known, _MOST_NAMES)
    near = [known[name][0] for name in close] or _containing(wanted, known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"give its number, or leave {what.upper()} out for a list"
    raise CommandError(f"`{printable(text)}` is no {what}", hint)


def _containing(part: str, known: Mapping[str, tuple[str, int]]) -> list[str]:
    """The first names with *part* in them, one for each number."""
    found: dict[int, str] = {}
    for spelled, (name, number) in known.items():
        if part and part in spelled:
            found.setdefault(number, name)
    return list(found.values())[:_MOST_NAMES]


def number_or_name(text: str, names: Mapping[str, int], what: str) -> int:
    """The number that *text* writes, or of what goes by that name; CommandError."""
    value = number_of(text)
    return find(text, names, what) if value is None else value


def answer(args: argparse.Namespace, data: Callable[[], Any], lines: Callable[[], Iterator[Line]]) -> int:
    """Print what `add_output_arguments` asks for: the plain data as JSON, or the lines. TRUE."""
    if args.json:
        print(json.dumps(data(), indent=1))
    else:
        show(lines(), args.plain)
    return TRUE


def show(lines: Iterator[Line], asked_plain: bool) -> None:
    """Print the lines, in colours where somebody looks."""
    from hv.debug.entry_text import plain

    if is_plain(asked_plain):
        print("\n".join(printable(line, LONGEST_LINE) for line in plain(lines).split("\n")))
        return
    from rich.text import Text

    screen = console(plain=False)
    for line in lines:
        screen.print(Text.assemble(*((printable(text, LONGEST_LINE), STYLES[style]) for style, text in line)),
                     soft_wrap=True)

"""help, quit: what there is, and the way out."""

from __future__ import annotations

from collections.abc import Iterator

from hv.debug.completion import Word
from hv.debug.registry import COMMANDS, Command, command, find
from hv.debug.session import Session


def _names(session: Session, typed: str) -> Iterator[Word]:
    for entry in COMMANDS.values():
        yield Word(entry.name, entry.summary)


@command("help", "h", name=_names)
def help(session: Session, name: str = "") -> str:
    """List the commands, or explain one.

    A number is an expression of registers, symbols and constants without spaces: `rsp+8`, `start`, `1000h`. Anything
    else that is no command is Python over machine, vm, vp, regs, partition, hypervisor, root; `!` makes sure.

    Example: `help step`
    """
    if name:
        return explained(find(name))
    width = max(len(entry.usage) for entry in COMMANDS.values())
    families: dict[str, list[str]] = {}
    for entry in COMMANDS.values():
        families.setdefault(entry.family, []).append(f"  {entry.usage:<{width}}  {entry.summary}")
    return "\n".join(line for family, lines in families.items() for line in (family, *lines))


def explained(entry: Command) -> str:
    """The usage of a command, its whole docstring, and its other names."""
    others = f"\nalso: {', '.join(entry.aliases)}" if entry.aliases else ""
    return f"{entry.usage}\n\n{entry.help}{others}"


@command("quit", "q", "exit")
def quit(session: Session) -> None:
    """Leave.

    Example: `quit`
    """
    session.finished = True

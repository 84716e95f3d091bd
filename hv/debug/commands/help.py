"""help, quit."""

from __future__ import annotations

from hv.debug.registry import COMMANDS, command, find
from hv.debug.session import Session


@command("help", "h")
def help(session: Session, name: str = "") -> str | dict[str, str]:
    """List the commands, or explain one.

    A number is an expression of registers, symbols and constants without spaces: `rsp+8`, `start`, `1000h`. Anything
    else that is no command is Python over machine, vm, vp, regs, partition, hypervisor, root; `!` makes sure.
    """
    if not name:
        return {entry.usage: entry.summary for entry in COMMANDS.values()}
    entry = find(name)
    others = f"\nalso: {', '.join(entry.aliases)}" if entry.aliases else ""
    return f"{entry.usage}\n\n{entry.help}{others}"


@command("quit", "q", "exit")
def quit(session: Session) -> None:
    """Leave."""
    session.finished = True

"""type, keys: somebody types at the serial port, or at the keyboard, of the VM looked at."""

from __future__ import annotations

import ast

from hv.debug.errors import DebugError
from hv.debug.registry import command
from hv.debug.session import Session
from hv.replay.changes import StrikeKeys, TypeText


@command("type")
def type_text(session: Session, text: str) -> str:
    """Type text at COM1 of the VM looked at. The guest gets it as fast as it takes it; a recorded run has it, too.

    Example: `type "uname -a\\n"`, `type "poweroff\\n"`
    """
    typed = _quoted(text, 'type "uname -a\\n"')
    session.change(TypeText(session.vp.partition.id, typed.encode()))
    return f"{len(typed.encode())} bytes typed at COM1 of partition {session.vp.partition.id}"


@command("keys")
def strike_keys(session: Session, text: str) -> str:
    """Type text at the PC's keyboard: US keys, Enter as \\n, Esc as \\x1b. A recorded run has it, too.

    Example: `keys "y\\n"`, `keys "\\x1b"`
    """
    typed = _quoted(text, 'keys "y\\n"')
    session.change(StrikeKeys(session.vp.partition.id, typed))
    return f"{len(typed)} keys struck at the keyboard of partition {session.vp.partition.id}"


def _quoted(text: str, example: str) -> str:
    try:
        typed = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        typed = None
    if not isinstance(typed, str):
        raise DebugError("the text is to be in quotes", f"write {example}")
    return typed

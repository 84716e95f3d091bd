"""type: somebody types at the serial port of the VM looked at."""

from __future__ import annotations

import ast

from hv.debug.errors import DebugError
from hv.debug.registry import command
from hv.debug.session import Session
from hv.replay.changes import TypeText


@command("type")
def type_text(session: Session, text: str) -> str:
    """Type text at COM1 of the VM looked at. The guest gets it as fast as it takes it; a recorded run has it, too.

    Example: `type "uname -a\\n"`, `type "poweroff\\n"`
    """
    try:
        typed = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        typed = None
    if not isinstance(typed, str):
        raise DebugError("the text is to be in quotes", 'write type "uname -a\\n"')
    session.change(TypeText(session.vp.partition.id, typed.encode()))
    return f"{len(typed.encode())} bytes typed at COM1 of partition {session.vp.partition.id}"

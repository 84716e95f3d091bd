"""What came of a call into a piece, in words for a learner."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hv.lab.sandbox.limits import Limits
from hv.printable import one_line, printable


class Ending(StrEnum):
    """How a call ended. Only *returned* has a value."""

    RETURNED = "returned"
    RAISED = "raised"           # an exception of the piece's own
    WRONG = "wrong"             # no Python, no such function, or an answer that is no plain data
    STEPS = "steps"             # it ran on for longer than a call may
    TIME = "time"               # the safety net: seconds
    MEMORY = "memory"
    PRINTED = "printed"         # much more than a piece may print
    ENDED = "ended"             # its process ended before it answered
    FORGED = "forged"           # what came over the pipe is no answer to the question


@dataclass(frozen=True, slots=True)
class Outcome:
    """*value* is what the piece claims; *message* is one line, empty when it returned; *printed* may be cut."""

    ending: Ending
    value: Any = None
    message: str = ""
    line: int = 0               # of the piece; 0 when none is to blame
    printed: str = ""

    @property
    def returned(self) -> bool:
        """There is a value."""
        return self.ending is Ending.RETURNED


def told(message: list[Any], limits: Limits, name: str, printed: str) -> Outcome | None:
    """The outcome that the last word of the process stands for; None when it is no such word."""
    match message:
        case ["returned", value]:
            return Outcome(Ending.RETURNED, value, printed=printed)
        case ["raised", str(kind), str(words), int(line)]:
            what = one_line(f"{kind}: {words}" if words else kind)
            return Outcome(Ending.RAISED, None, f"{_at(name, line)}raised {what}", line, printed)
        case ["wrong", str(words), int(line), int(column)] if line > 0 and column > 0:
            return Outcome(Ending.WRONG, None, f"{printable(name)}:{line}:{column}: {one_line(words)}", line, printed)
        case ["wrong", str(words), int(line), *_]:
            return Outcome(Ending.WRONG, None, f"{_at(name, line)}{one_line(words)}", line, printed)
        case ["steps", int(line)]:
            words = f"still running after {limits.steps} lines: is there a loop that does not end?"
            return Outcome(Ending.STEPS, None, _at(name, line) + words, line, printed)
        case ["memory", int(line)]:
            words = f"needs more than {limits.memory_mib} MiB of memory"
            return Outcome(Ending.MEMORY, None, _at(name, line) + words, line, printed)
    return None


def _at(name: str, line: int) -> str:
    return f"{printable(name)}:{line}: " if line > 0 else f"{printable(name)}: "

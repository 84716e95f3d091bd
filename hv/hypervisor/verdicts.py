"""What an exit handler decides. Only the run loop moves RIP, so no handler can forget to or do it twice."""

from __future__ import annotations

from typing import NamedTuple


class Advance:
    """Done: RIP moves past the instruction, and the guest goes on."""


class Yield:
    """Somebody else may run first: the guest halted, paused, or was interrupted. An instruction there was is done."""


class Sent:
    """Done, and an interrupt is on its way: a sibling that was woken comes first, if there is one."""


class Retry:
    """What stopped it is repaired: the same instruction runs again."""


class Inject(NamedTuple):
    """The guest gets an exception at this instruction; *address* is CR2 of a page fault."""

    vector: int
    error_code: int | None = None
    address: int | None = None


class AskParent:
    """The intercept message is on its way: the VP waits until its parent has completed the instruction."""


class Halt(NamedTuple):
    """This VP cannot go on, for the reason given."""

    why: str


Verdict = Advance | Yield | Sent | Retry | Inject | AskParent | Halt
ADVANCE, YIELD, SENT, RETRY, ASK_PARENT = Advance(), Yield(), Sent(), Retry(), AskParent()

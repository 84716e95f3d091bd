"""How a hypercall may end other than by its result: refused, or interrupted."""

from __future__ import annotations

from hv.spec.hv_status import HvStatus


class HypercallError(Exception):
    """A caller's mistake, which the door turns into the result value.

    *text* says what was found and what was expected; the guest sees only *status*.
    """

    def __init__(self, status: HvStatus, text: str = "") -> None:
        self.status, self.text = status, text
        super().__init__(f"{status.name}: {text}" if text else status.name)


class CallIntercepted(Exception):
    """The caller's parent wants to do this call itself: it gets a message, and the caller waits."""


class CallInterrupted(Exception):
    """A rep call is not done: its caller makes it again with *control*, whose rep start is where to go on."""

    def __init__(self, control: int) -> None:
        super().__init__()
        self.control = control

"""The one exception of a hypercall that is refused; the door turns it into the caller's result value."""

from __future__ import annotations

from hv.spec.hv_status import HvStatus


class HypercallError(Exception):
    """A caller's mistake. *text* says what was found and what was expected; the guest sees only *status*."""

    def __init__(self, status: HvStatus, text: str = "") -> None:
        self.status, self.text = status, text
        super().__init__(f"{status.name}: {text}" if text else status.name)

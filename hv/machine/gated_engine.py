"""An engine whose guest code runs at the same time as that of others: with `gate.py` between it and what is ours."""

from __future__ import annotations

from collections.abc import Callable

from hv.machine.engine import Engine
from hv.machine.gate import GatedProcessor
from hv.machine.ram import PhysicalMemory
from hv.machine.state import ProcessorState


class GatedEngine(Engine):
    """Works for *processor*: each way into guest code and out of it goes by its gate.

    Hooks that only look at this engine (a block was translated, a breakpoint met) stay on the guest's side. What other
    engines ask of this one, they ask with the lock, and this one is still then.
    """

    def __init__(self, memory: PhysicalMemory, processor: GatedProcessor, code_buffer_bytes: int = 16 << 20) -> None:
        self._processor = processor
        super().__init__(memory, processor.counter, code_buffer_bytes)

    def run(self, state: ProcessorState, until: int, window: bool = False, instructions: int = 0) -> bool:
        """As `Engine.run`; a processor that was kicked enters no guest code: it was stopped, as by a trap handler."""
        if self._processor.kicked:
            return True
        return super().run(state, until, window, instructions)

    def _execute(self, rip: int, instructions: int) -> int:
        self._processor.enter_guest()
        try:
            return super()._execute(rip, instructions)
        finally:
            self._processor.leave_guest()

    def on_intercept(self, _uc: int, number: int, _frame: int) -> int:
        """The engine's hook, with the lock."""
        self._processor.leave_guest()
        try:
            return super().on_intercept(_uc, number, _frame)
        finally:
            self._processor.enter_guest()

    def _guarded(self, action: Callable[[], int | None]) -> int:
        self._processor.leave_guest()
        try:
            return super()._guarded(action)
        finally:
            self._processor.enter_guest()

    # --- what others do to it -----------------------------------------------------------------------------

    def _code_written(self, spa: int, data: bytes) -> None:
        """The guest goes on once the stale translation is forgotten; its next block comes after that."""
        super()._code_written(spa, data)
        if self._processor.gate.here is not self._processor:
            self._processor.kick()

    def invept(self) -> None:
        """Drop everything cached of the second level."""
        self._processor.still()
        super().invept()

    def guard(self, page: int) -> None:
        """Another engine has code of *page*."""
        if self.nested.leads_to(page):
            self._processor.still()
            super().guard(page)

    def end_code(self, page: int) -> None:
        """Another engine stores to *page*."""
        self._processor.still()
        super().end_code(page)

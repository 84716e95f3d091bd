"""Translations that the engine is shown for a moment, because its tables cannot say what the second level allows.

The engine's format knows no page that may be fetched from and not read; and the engine walks a guest's page tables as
if it wrote to them, so it cannot walk over a page that may only be read. Such a page is not in its tables. When it is
needed it is shown, and hidden again before anything could misuse it:

* an execute-only page until the block of code begins that the engine was looking for. The engine needs the page to find
  and to translate the block, and not to run it, and nothing is loaded or stored before the block begins;
* page tables that may only be read while one instruction, which does not store to them, runs as a block of its own.

A guest that has no such page is not asked for anything: the head of a block and an intercept come here only while
something is shown, by other functions in the places of the usual ones.
"""

from __future__ import annotations

import ctypes
from typing import Protocol

from hv.machine import stubs
from hv.machine.hooks import PythonHooks
from hv.machine.nested import NestedTables
from hv.machine.state import ProcessorState

_HANDLER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
_BLOCK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p)
_NO_FETCH = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)
_IF = 1 << 9


class Shows(Protocol):
    """What an engine offers for this."""

    counter: stubs.WorkCounter
    current: ProcessorState | None

    def flush_tlb(self) -> None: ...
    def stop(self) -> None: ...
    def flags(self) -> int: ...
    def on_intercept(self, uc: int, number: int, frame: int) -> int: ...


class Exposure:
    """What *engine* is shown of *nested* at the moment."""

    def __init__(self, engine: Shows, nested: NestedTables, frame: stubs.ExitFrame) -> None:
        self._engine, self._nested, self._frame = engine, nested, frame
        self.python_hooks: PythonHooks | None = None
        self.kept = False                       # the intercept that is being handled needs what is shown
        self.code: set[int] = set()            # gpa of the pages shown until the next block begins
        self.tables: set[int] = set()          # ... until the instruction is done
        self._flush = False                     # the engine's TLB may hold more than is allowed
        self._alone_at: int | None = None       # RIP of that instruction
        self._shadowed = False                  # it is a block of its own because we said so
        self._begins_again = False              # the next block is that instruction, once more
        self._saved: tuple[int, int, int, int | None, int | None] | None = None     # while armed: what was there
        self._handler, self._block = _HANDLER(self._on_intercept), _BLOCK(self._on_block)

    def until_block(self, gpa: int) -> None:
        """The page of *gpa*, which was just entered, is there until the next block begins."""
        self.code.add(gpa)
        self._flush = self.kept = True
        self._arm()
        # The routine of an intercept would fetch the instruction by the page that is hidden by then, and not come back.
        self._frame.fetch = ctypes.cast(_NO_FETCH, ctypes.c_void_p).value

    def for_instruction(self, gpa: int, state: ProcessorState, flush: bool) -> None:
        """The page of *gpa*, which was just entered, is there until the instruction at RIP is done.

        *flush*: the instruction accesses the page as data too, so the engine's TLB will hold that translation.
        """
        self.tables.add(gpa)
        self._flush |= flush
        self._alone_at = state.rip
        self.kept = self._begins_again = True
        if not state.interrupt_shadow:
            state.interrupt_shadow = self._shadowed = True
        self._arm()

    def hide(self) -> None:
        """Nothing is shown any more."""
        self._disarm()
        self._hide(self.code)
        self._hide_tables()

    def _hide_tables(self) -> None:
        self._hide(self.tables)
        state = self._engine.current
        if self._shadowed and state is not None and state.rip == self._alone_at:
            state.interrupt_shadow = False
        self._alone_at, self._shadowed = None, False

    def _hide(self, pages: set[int]) -> None:
        for gpa in pages:
            self._nested.drop(gpa)
        if pages and self._flush:
            self._engine.flush_tlb()
            self._flush = False
        pages.clear()

    # --- the places where it is noticed ------------------------------------------------------------------

    def _arm(self) -> None:
        if self._saved is not None:
            return
        counter, frame = self._engine.counter, self._frame
        self._saved = counter.limit, counter.window, counter.skip, counter.stop, frame.handler
        counter.limit = counter.window = counter.skip = 0       # each block takes the slow way, and that stops
        counter.stop = ctypes.cast(self._block, ctypes.c_void_p).value
        frame.handler = ctypes.cast(self._handler, ctypes.c_void_p).value
        if self.python_hooks is not None:
            self.python_hooks.replace(self._handler, self._on_block)

    def _disarm(self) -> None:
        if self._saved is None:
            return
        counter, frame = self._engine.counter, self._frame
        counter.limit, counter.window, counter.skip, counter.stop, frame.handler = self._saved
        self._saved = None
        if self.python_hooks is not None:
            self.python_hooks.restore()

    def _on_block(self, uc: int, address: int, done: int, _counter: int) -> None:
        """A block begins; with it, the clock would show *done*."""
        self._disarm()
        self._hide(self.code)
        if not self._begins_again:
            self._hide(self.tables)
            self._alone_at, self._shadowed = None, False
        self._begins_again = False
        if self._must_stop(done):
            self._engine.stop()
            return
        self._engine.counter.done = done
        if self.tables:
            self._arm()

    def _must_stop(self, done: int) -> bool:
        """What the usual routine decides."""
        counter = self._engine.counter
        if done < counter.limit:
            return False
        if counter.skip:
            counter.skip -= 1
            return False
        return done >= counter.deadline or not counter.window or bool(self._engine.flags() & _IF)

    def _on_intercept(self, uc: int, number: int, frame: int) -> int:
        """An intercept comes first: unless it only asks for more of the same instruction, what is shown is hidden."""
        self._disarm()
        state = self._engine.current
        assert state is not None, "an intercept without a running VP"
        same = state.rip == self._alone_at
        if not same:
            self._hide(self.tables)
            self._alone_at, self._shadowed = None, False
        shadowed = self._shadowed
        if shadowed:
            state.interrupt_shadow = False
        self.kept = False
        again = self._engine.on_intercept(uc, number, frame)
        if not self.kept:
            self._shadowed = False          # the state is what the handler made of it
            self.hide()
        elif self.code or self.tables:
            self._begins_again = bool(self.tables)
            if shadowed:
                state.interrupt_shadow = self._shadowed = True
            self._arm()
        return again

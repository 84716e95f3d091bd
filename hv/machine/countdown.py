"""A stop after so many instructions, in the middle of a run that goes on as if nobody counted.

Single steps start the engine anew for each instruction, which moves the clock: a block is work when it begins. Here the
blocks stay what they are, and only code that is translated while there is a count calls its routine.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import Any

from unicorn import UC_HOOK_CODE
from unicorn.unicorn_py3.unicorn import uclib

from hv.machine import stubs

_INSTRUCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)


class Countdown:
    """Of the engine with *handle*. `over` says that it has stopped the engine, before the last instruction counted."""

    def __init__(self, handle: Any, stop: int | None, forget_all_code: Callable[[], None]) -> None:
        self._handle, self._forget_all_code = handle, forget_all_code
        self._frame = self._own = stubs.Countdown(0, stop)
        self._hook: ctypes.c_size_t | None = None
        self._in_python = _INSTRUCTION(self._count)
        self.counts = False

    @property
    def over(self) -> bool:
        """It was wanted, and has come to its end."""
        return self.counts and not self._frame.left

    @property
    def left(self) -> int:
        """How many are still to come, with the last one."""
        return int(self._frame.left) if self.counts else 0

    def begin(self, instructions: int) -> None:
        """Stop before the one that is number *instructions* (from 1) of those to come. At an exit, or between runs."""
        self._own.left = instructions
        self._begin(self._own)

    def join(self, other: Countdown) -> None:
        """Count down together with *other*, which has begun."""
        self._begin(other._frame)

    def _begin(self, frame: stubs.Countdown) -> None:
        self.end()
        self._frame = frame
        native = stubs.routines().count if stubs.available() else ctypes.cast(self._in_python, ctypes.c_void_p).value
        hook = ctypes.c_size_t()
        status = uclib.uc_hook_add(self._handle, ctypes.byref(hook), UC_HOOK_CODE, ctypes.c_void_p(native),
                                   ctypes.byref(self._frame), ctypes.c_uint64(1), ctypes.c_uint64(0))
        if status:
            raise RuntimeError(f"the engine refuses the hook of the instructions (error {status})")
        self._hook, self.counts = hook, True
        self._forget_all_code()             # what was translated calls nobody

    def end(self) -> None:
        """Nothing is counted any more."""
        if self._hook is not None:
            uclib.uc_hook_del(self._handle, self._hook)
            self._hook, self.counts = None, False
            self._forget_all_code()

    def _count(self, _uc: int, _address: int, _size: int, _user: int) -> None:
        self._frame.left -= 1
        if not self._frame.left:
            uclib.uc_emu_stop(self._handle)


def begin_together(countdowns: Iterable[Countdown], instructions: int) -> None:
    """Stop whoever is about to execute the instruction of that number of all those to come, on any of the engines."""
    first: Countdown | None = None
    for countdown in countdowns:
        if first is None:
            first = countdown
            first.begin(instructions)
        else:
            countdown.join(first)

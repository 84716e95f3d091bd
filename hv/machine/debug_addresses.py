"""Where an engine stops before the instruction because the debug registers of the VP that runs say so.

Only code that is translated while an address is watched asks for it, so nobody else pays. Whether what is met is an
instruction breakpoint of the VP, and what follows, is decided above.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from unicorn import UC_HOOK_CODE, Uc
from unicorn.unicorn_py3.unicorn import uclib

from hv.machine.state import ProcessorState
from hv.machine.stubs import WorkCounter
from hv.spec.x86 import Rflags

_RF = Rflags.RF.value
_NONE: frozenset[int] = frozenset()


class DebugAddresses:
    """Of the engine *uc*. *met* is the linear address at which it stopped last, until somebody takes it."""

    def __init__(self, uc: Uc, running: Callable[[], ProcessorState | None], flags: Callable[[], int],
                 counter: WorkCounter, forget_all_code: Callable[[], None]) -> None:
        self._uc, self._running, self._flags, self._counter = uc, running, flags, counter
        self._forget_all_code = forget_all_code
        self._hooks: dict[int, int] = {}            # linear address -> the API's hook
        self._of: WeakKeyDictionary[ProcessorState, frozenset[int]] = WeakKeyDictionary()
        self._passed: set[int] = set()              # by RF, since the run began
        self.met: int | None = None

    def use(self, state: ProcessorState, addresses: frozenset[int]) -> None:
        """*state*, which is about to run, stops before the instructions at the linear *addresses*, and at no others."""
        self._passed.clear()
        if self._of.get(state, _NONE) == addresses:
            return
        if addresses:
            self._of[state] = addresses
        else:
            del self._of[state]
        self._hook(frozenset().union(*self._of.values()))

    def _hook(self, wanted: frozenset[int]) -> None:
        for gva in sorted(wanted - self._hooks.keys()):
            self._hooks[gva] = self._uc.hook_add(UC_HOOK_CODE, self._on_code, None, gva, gva)
        for gva in sorted(self._hooks.keys() - wanted):
            self._uc.hook_del(self._hooks.pop(gva))
        self._forget_all_code()         # what was translated calls what is gone, and does not call what is new

    def take(self) -> int | None:
        """Where it stopped, told once."""
        met, self.met = self.met, None
        return met

    def forget(self) -> None:
        """No address is watched; who still wants one says so before it runs."""
        self._of.clear()
        self.met = None
        if self._hooks:
            self._hook(_NONE)

    def close(self) -> None:
        """Let the engine go."""
        del self._uc, self._running, self._flags, self._forget_all_code

    def _on_code(self, _uc: Any, gva: int, _size: int, _user: Any) -> None:
        """RF lets the instruction pass that an IRET leads to. It is over then, which the engine notices late."""
        running = self._running()
        if running is None or gva not in self._of.get(running, _NONE):
            return
        if gva == self._counter.block and gva not in self._passed and self._flags() & _RF:
            self._passed.add(gva)
            return
        self.met = gva
        uclib.uc_emu_stop(self._uc._uch)

"""Breakpoints of an engine: the VP stops before the instruction at a linear address, whichever VP it is.

One costs nothing until it is met: only code that is translated while it is there calls its hook.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from unicorn import UC_HOOK_CODE, Uc
from unicorn.unicorn_py3.unicorn import uclib
from unicorn.x86_const import UC_X86_REG_RSP

from hv.machine.state import ProcessorState

_ALL = -1


class Breakpoints:
    """Of the engine *uc*. *hit* is the linear address of the one that stopped a VP, until it is taken.

    # Simplified: the block that is stopped in counts as work when it is entered, and again when it goes on.
    """

    def __init__(self, uc: Uc, running: Callable[[], ProcessorState | None],
                 forget_all_code: Callable[[], None], guarded: Callable[[Callable[[], None]], object]) -> None:
        self._uc, self._running, self._forget_all_code, self._guarded = uc, running, forget_all_code, guarded
        # Asked instead of stopping, with who meets one, its address, and RSP; what it raises ends the run.
        self.on_met: Callable[[ProcessorState, int, int], None] | None = None
        self._hooks: dict[int, int] = {}            # linear address -> the API's hook
        self.exist = False                          # there is one
        self.matter = False                         # a VP that is about to run is asked about
        self.held = False                           # nobody runs
        self._passing: int | None = None
        self._stopped_at: WeakKeyDictionary[ProcessorState, int] = WeakKeyDictionary()     # each VP by its own
        self.hit: int | None = None

    def add(self, gva: int) -> None:
        """Stop every VP before it executes the instruction at linear address *gva*."""
        if gva not in self._hooks:
            self._hooks[gva] = self._uc.hook_add(UC_HOOK_CODE, self._on_code, None, gva, gva)
            self.exist = self.matter = True
            self._forget_all_code()

    def remove(self, gva: int) -> None:
        """Undo `add`."""
        self._uc.hook_del(self._hooks.pop(gva))
        self.exist = bool(self._hooks)
        self._forget_all_code()             # what was translated still calls the hook

    def take(self) -> int | None:
        """The linear address of the breakpoint that stopped the VP which ran last, told once."""
        hit, self.hit = self.hit, None
        return hit

    def hold(self) -> None:
        """Let nobody run from now on, as if each one stood before a breakpoint; until `held` is False again."""
        self.held = self.matter = True

    def begin(self, state: ProcessorState, single_step: bool) -> None:
        """*state* is about to run: the breakpoint it stands at does not stop it, and a single step meets none."""
        if self.held:
            return
        stopped = self._stopped_at.pop(state, None)
        self.matter = self.exist or single_step or bool(self._stopped_at)
        self._passing = _ALL if single_step else None
        if not single_step and state.linear_rip == stopped:
            self._passing = stopped

    def close(self) -> None:
        """Let the engine go."""
        del self._uc, self._running, self._forget_all_code, self._guarded

    def _on_code(self, _uc: Any, gva: int, _size: int, _user: Any) -> None:
        on_met = self.on_met
        if on_met is not None:
            self._guarded(lambda: on_met(self._who(), gva, self._uc.reg_read(UC_X86_REG_RSP)))
        elif self._passing not in (gva, _ALL):
            running = self._who()
            self.hit = self._stopped_at[running] = gva
            uclib.uc_emu_stop(self._uc._uch)
        elif self._passing == gva:
            self._passing = None

    def _who(self) -> ProcessorState:
        running = self._running()
        assert running is not None, "code runs"
        return running

"""The routines of `stubs.py` in Python, for hosts where that machine code cannot run: slower, same counts, same traps.

One thing differs inside: an abandoned Python frame would be fatal, so IN, OUT, SYSCALL and SYSENTER cannot leave by the
engine's long jump. They save the state at the instruction, note what was asked and stop the engine, which counts
instructions here so that it stops before the next one; what the engine did meanwhile is thrown away with its state,
and the trap is handled outside the run.

# Simplified: where the engine counts, a block of more than about 100 bytes is divided earlier, so a guest that faults
in one, or whose time ends there, is not at the same instruction at the same time.

Counting has a price in correctness too, which is paid here: before each instruction the engine puts the arithmetic
flags together, and when that instruction does not complete, it takes the result for the operand of the one before.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from unicorn import UC_HOOK_BLOCK, UC_HOOK_INSN, UC_HOOK_INTR, x86_const
from unicorn.unicorn_py3.unicorn import uclib

from hv.machine import context as at
from hv.machine import stubs
from hv.machine.traps import INSTRUCTION_TRAPS, Trap

EVERY_INSTRUCTION = 1 << 62         # a limit that is never reached, but makes the engine look before each instruction
_IF = 1 << 9
_U64, _CS64 = (1 << 64) - 1, 1 << 15
_SINGLE_STEP = 0x141                # comes between instructions, unlike what else is reported inside a block

_INTERRUPT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
_BLOCK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)
_IN = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p)
_OUT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p)
_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
_EXIT_HANDLER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)


class PythonHooks:
    """Installs itself by *add_hook(kind, address of the callback, user data, ...)* and shares the same three frames."""

    def __init__(self, add_hook: Callable[..., None], frame: stubs.ExitFrame, asked: stubs.InstructionFrame,
                 counter: stubs.WorkCounter) -> None:
        self.frame, self.asked, self.counter = frame, asked, counter
        self._handler: Any = _EXIT_HANDLER(frame.handler)
        self._usual_handler = self._handler
        self._at_block: Callable[[int, int, int, int], None] | None = None
        self._flags = ctypes.c_uint64()
        self._first, self._end = 0, 0       # linear addresses of the block that runs
        self._kept: list[Any] = []
        self._add(add_hook, UC_HOOK_INTR, _INTERRUPT(self._interrupt), frame)
        self._add(add_hook, UC_HOOK_BLOCK, _BLOCK(self._block), counter)
        self._add(add_hook, UC_HOOK_INSN, _IN(self._in), asked, x86_const.UC_X86_INS_IN)
        self._add(add_hook, UC_HOOK_INSN, _OUT(self._out), asked, x86_const.UC_X86_INS_OUT)
        for instruction, kind in ((x86_const.UC_X86_INS_SYSCALL, stubs.KIND_SYSCALL),
                                  (x86_const.UC_X86_INS_SYSENTER, stubs.KIND_SYSENTER)):
            self._add(add_hook, UC_HOOK_INSN, _CALL(lambda uc, user, kind=kind: self._leave(uc, kind)), asked,
                      instruction)

    def _add(self, add_hook: Callable[..., None], kind: int, callback: Any, user: ctypes.Structure,
             *extra: int) -> None:
        self._kept.append(callback)
        add_hook(kind, ctypes.cast(callback, ctypes.c_void_p).value, user, *extra)

    def replace(self, handler: Any, at_block: Callable[[int, int, int, int], None]) -> None:
        """Until `restore`, intercepts go to *handler*, and each block that begins to *at_block*."""
        self._handler, self._at_block = handler, at_block

    def restore(self) -> None:
        """Do the usual again."""
        self._handler, self._at_block = self._usual_handler, None

    def _interrupt(self, uc: int, number: int, user: int) -> None:
        if self.asked.kind:     # the #DB behind an instruction that is to be undone
            uclib.uc_emu_stop(ctypes.c_void_p(uc))
            return
        handle, context = ctypes.c_void_p(uc), ctypes.c_void_p(self.frame.context)
        uclib.uc_context_save(handle, context)
        mended = number != _SINGLE_STEP and self._mend_flags()
        self.frame.fetched = 0              # the API's fetch could jump out of this frame
        if self._handler(uc, number, user) or mended:
            uclib.uc_context_restore(handle, ctypes.c_void_p(self.frame.context))   # another VP's, if it took over

    def _mend_flags(self) -> bool:
        """Of an instruction that did not complete, the flags stand in the context as they are; True when changed.

        A fault of fetching comes between two blocks, where the flags are what the last one left.
        """
        context = self.frame.context or 0
        rip, base, hidden = (ctypes.c_uint64.from_address(context + offset).value
                             for offset in (at.RIP, at.SEGMENTS + 24 + 8, at.HFLAGS))
        linear = rip + base & (_U64 if hidden & _CS64 else 0xFFFF_FFFF)
        form = ctypes.c_uint32.from_address(context + at.CC_OP)
        wrong = self._first <= linear < self._end and form.value != at.CC_OP_EFLAGS
        if wrong:
            form.value = at.CC_OP_EFLAGS
        return wrong

    def _block(self, uc: int, address: int, size: int, user: int) -> None:
        self._first, self._end = address, address + size
        counter = self.counter
        done = counter.done + size
        if self._at_block is not None:
            self._at_block(uc, address, done, 0)
        elif done >= counter.limit and self._must_stop(uc, done):
            uclib.uc_emu_stop(ctypes.c_void_p(uc))
        else:
            counter.done = done

    def _must_stop(self, uc: int, done: int) -> bool:
        counter = self.counter
        if counter.skip:
            counter.skip -= 1
            return False
        if done >= counter.deadline or not counter.window:
            return True
        uclib.uc_reg_read(ctypes.c_void_p(uc), x86_const.UC_X86_REG_EFLAGS, ctypes.byref(self._flags))
        return bool(self._flags.value & _IF)

    def _in(self, uc: int, port: int, size: int, user: int) -> int:
        self.asked.port, self.asked.size = port, size
        self._leave(uc, stubs.KIND_IN)
        return 0

    def _out(self, uc: int, port: int, size: int, value: int, user: int) -> None:
        self.asked.port, self.asked.size, self.asked.value = port, size, value
        self._leave(uc, stubs.KIND_OUT)

    def _leave(self, uc: int, kind: int) -> None:
        self.asked.kind = kind
        self.frame.fetched = 0
        uclib.uc_context_save(ctypes.c_void_p(uc), ctypes.c_void_p(self.frame.context))
        self._mend_flags()
        uclib.uc_emu_stop(ctypes.c_void_p(uc))

    def deferred(self) -> Trap | None:
        """The trap of an instruction that stopped the engine and waits to be handled, once; else None."""
        if not self.asked.kind:
            return None
        kind, self.asked.kind = self.asked.kind, 0
        return INSTRUCTION_TRAPS[kind]

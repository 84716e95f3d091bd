"""The worker's thread for one VP: what it does each time HvCallDispatchVp comes back with an intercept.

The intercept message and the VP's registers stand in two pages that the hypervisor shows to root. A port access, which
is what most intercepts are, is answered there and then; any other message goes to the worker, which makes hypercalls.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from hv.instructions.moves import move_of
from hv.root.winhv import HvError
from hv.spec.hypercalls.vps import DispatchVpFlags
from hv.spec.synic import (
    HvExecutionState,
    HvIoPortAccessInfo,
    HvMemoryAccessInfo,
    HvMessage,
    HvMessageHeader,
    HvMessageType,
    HvSegmentAttributes,
    InterceptAccess,
    IoPortIntercept,
    MemoryIntercept,
)
from hv.spec.vp_state import HvRegisterPage, HvRegisterPageDirtyFlags
from hv.spec.x86 import MAX_INSTRUCTION_LENGTH, PAGE_SIZE, Rflags

if TYPE_CHECKING:
    from hv.root.vmwp import Worker

CLEAR_INTERCEPT_SUSPEND = DispatchVpFlags(clear_intercept_suspend=1).raw
_U64 = (1 << 64) - 1
_PORT_INTERCEPT = HvMessageType.X64_IO_PORT_INTERCEPT
_ACCESS_SIZE, _WRITE = HvIoPortAccessInfo(access_size=7).raw, int(InterceptAccess.WRITE)
_PORT = Struct(f"<I{HvMessageHeader.SIZE - 4}x" + IoPortIntercept.picker(
    "header.length_and_cr8", "header.access_type", "header.rip", "port", "access_info", "rax").format[1:]).unpack_from
_GENERAL = HvRegisterPage.offset_of("gp_registers")
_RIP, _DIRTY = HvRegisterPage.offset_of("rip"), HvRegisterPage.offset_of("dirty")
_put_rip = Struct("<Q").pack_into
_put_dirty = Struct("<I").pack_into
_put_rax = Struct("<IQ").pack_into      # the dirty flags, and RAX, which comes first of the general registers
_UNMAPPED_GPA, _EXECUTE = HvMessageType.UNMAPPED_GPA, int(InterceptAccess.EXECUTE)
_MEMORY = Struct(f"<{HvMessageHeader.SIZE}x" + MemoryIntercept.picker(
    "header.access_type", "header.execution_state", "header.cs.attributes", "header.rip", "header.rflags",
    "instruction_byte_count", "access_info", "gva", "gpa", "instruction_bytes").format[1:]).unpack_from
_GVA_GPA_VALID = HvMemoryAccessInfo(gva_valid=1, gva_gpa_valid=1).raw
_LMA = HvExecutionState(efer_lma=1).raw
_INTERRUPTION_PENDING = HvExecutionState(interruption_pending=1).raw
_LONG, _BIG = HvSegmentAttributes(long=1).raw, HvSegmentAttributes(default_big=1).raw
_VM, _OFFSET = Rflags.VM.value, PAGE_SIZE - 1
_DIRTY_RIP = HvRegisterPageDirtyFlags(instruction_pointer=1).raw
_DIRTY_BOTH = HvRegisterPageDirtyFlags(instruction_pointer=1, general_purpose=1).raw


class VpThread:
    """That of VP *vp_index* of *worker*."""

    def __init__(self, worker: Worker, vp_index: int) -> None:
        winhv, partition = worker.winhv, worker.partition_id
        self._worker, self._vp_index, self._board = worker, vp_index, worker.motherboard
        self._message = winhv.memory.map(winhv.map_message_page(partition, vp_index))
        self._registers = winhv.memory.map(winhv.map_register_page(partition, vp_index))
        self._general = self._registers[_GENERAL : _GENERAL + 16 * 8].cast("Q")

    def come_back(self) -> int:
        """There is an intercept; the flags of the next call."""
        kind, length, access, rip, port, size, rax = _PORT(self._message)
        worker = self._worker
        if kind != _PORT_INTERCEPT or worker.ended is not None or worker.unanswered:
            if kind == _UNMAPPED_GPA and worker.ended is None and not worker.unanswered and self._move():
                return self._done()
            worker.on_intercept(HvMessage.parse(bytes(self._message[: HvMessage.SIZE])))
            return 0
        size &= _ACCESS_SIZE
        mask = (1 << 8 * size) - 1
        try:
            if access == _WRITE:
                self._board.write(port, size, rax & mask)
                _put_dirty(self._registers, _DIRTY, _DIRTY_RIP)
            else:
                value = self._board.read(port, size)
                _put_rax(self._registers, _DIRTY, _DIRTY_BOTH, rax & ~mask | value if size < 4 else value)
        except HvError as error:
            worker.refuse(error)
        _put_rip(self._registers, _RIP, rip + (length & 0xF) & _U64)
        return CLEAR_INTERCEPT_SUSPEND if worker.ending is None else self._done()

    def _done(self) -> int:
        """An instruction is done, which may have been the last."""
        if self._worker.ending is None:
            return CLEAR_INTERCEPT_SUSPEND
        self._worker.end_as_asked(self._vp_index)
        return 0

    def _move(self) -> bool:
        """The usual access to a device: a move of flat code, whose operand is in one page. False, and nothing done, for
        any other, which `emulator.py` carries out."""
        access, state, attributes, rip, rflags, count, info, gva, gpa, code = _MEMORY(self._message)
        if (count != MAX_INSTRUCTION_LENGTH or info & _GVA_GPA_VALID != _GVA_GPA_VALID or access == _EXECUTE
                or state & _INTERRUPTION_PENDING):
            return False
        bits = 64 if state & _LMA and attributes & _LONG else 32 if attributes & _BIG and not rflags & _VM else 16
        move, general = move_of(code[:count], bits), self._general
        # An offset that is the linear address: the segment begins at 0.
        if (move is None or move.address(general, rip) != gva or (gva & _OFFSET) + move.size > PAGE_SIZE
                or rip + move.length >> bits):          # RIP wraps
            return False
        size = move.size
        try:
            if move.value is not None:
                self._board.write_memory(gpa, size, move.value(general))
                _put_dirty(self._registers, _DIRTY, _DIRTY_RIP)
            elif move.load is not None:
                move.load(general, self._board.read_memory(gpa, size))
                _put_dirty(self._registers, _DIRTY, _DIRTY_BOTH)
        except HvError as error:
            self._worker.refuse(error)
        _put_rip(self._registers, _RIP, rip + move.length & _U64)
        return True

"""The worker's thread for one VP: what it does each time HvCallDispatchVp comes back with an intercept.

The intercept message and the VP's registers stand in two pages that the hypervisor shows to root. A port access, which
is what most intercepts are, is answered there and then; any other message goes to the worker, which makes hypercalls.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from hv.root.winhv import HvError
from hv.spec.hypercalls.vps import DispatchVpFlags
from hv.spec.synic import (
    HvIoPortAccessInfo,
    HvMessage,
    HvMessageHeader,
    HvMessageType,
    InterceptAccess,
    IoPortIntercept,
)
from hv.spec.vp_state import HvRegisterPage, HvRegisterPageDirtyFlags

if TYPE_CHECKING:
    from hv.root.vmwp import Worker

CLEAR_INTERCEPT_SUSPEND = DispatchVpFlags(clear_intercept_suspend=1).raw
_U64 = (1 << 64) - 1
_PORT_INTERCEPT = HvMessageType.X64_IO_PORT_INTERCEPT
_ACCESS_SIZE, _WRITE = HvIoPortAccessInfo(access_size=7).raw, int(InterceptAccess.WRITE)
_PORT = Struct(f"<I{HvMessageHeader.SIZE - 4}x" + IoPortIntercept.picker(
    "header.length_and_cr8", "header.access_type", "header.rip", "port", "access_info", "rax").format[1:]).unpack_from
_RIP, _DIRTY = HvRegisterPage.offset_of("rip"), HvRegisterPage.offset_of("dirty")
_put_rip = Struct("<Q").pack_into
_put_dirty = Struct("<I").pack_into
_put_rax = Struct("<IQ").pack_into      # the dirty flags, and RAX, which comes first of the general registers
_DIRTY_RIP = HvRegisterPageDirtyFlags(instruction_pointer=1).raw
_DIRTY_BOTH = HvRegisterPageDirtyFlags(instruction_pointer=1, general_purpose=1).raw


class VpThread:
    """That of VP *vp_index* of *worker*."""

    def __init__(self, worker: Worker, vp_index: int) -> None:
        winhv, partition = worker.winhv, worker.partition_id
        self._worker, self._vp_index, self._board = worker, vp_index, worker.motherboard
        self._message = winhv.memory.map(winhv.map_message_page(partition, vp_index))
        self._registers = winhv.memory.map(winhv.map_register_page(partition, vp_index))

    def come_back(self) -> int:
        """There is an intercept; the flags of the next call."""
        kind, length, access, rip, port, size, rax = _PORT(self._message)
        worker = self._worker
        if kind != _PORT_INTERCEPT or worker.ended is not None or worker.unanswered:
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
        if worker.ending is not None:
            worker.end_as_asked(self._vp_index)
            return 0
        return CLEAR_INTERCEPT_SUSPEND

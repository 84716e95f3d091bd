"""The debug session by MSR: HV_X64_MSR_SYNDBG_*, as KVM's synthetic debugger has them.

A guest names a page to send from, one to receive into and one whose first byte says that data wait. Writing the control
register is the request; the status register says what became of it. Each of them is the partition's.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.msrs.registry import provide
from hv.machine.faults import NestedFault
from hv.spec.cpuid import HvPrivilege
from hv.spec.hypercalls.debug import HvSyndbgControl, HvSyndbgStatus
from hv.spec.msrs import Msr
from hv.spec.x86 import PAGE_SIZE

if TYPE_CHECKING:
    from hv.hypervisor.partitions.debug_channels import DebugEnd
    from hv.hypervisor.vps.vp import VirtualProcessor

_SEND, _RECEIVE = Msr.HV_SYNTH_DEBUG_SEND_BUFFER, Msr.HV_SYNTH_DEBUG_RECEIVE_BUFFER
_STATUS, _PENDING = Msr.HV_SYNTH_DEBUG_STATUS, Msr.HV_SYNTH_DEBUG_PENDING_BUFFER


def _read(vp: VirtualProcessor, index: int) -> int:
    return vp.partition.debug_msrs.get(index, 0)


def _write(vp: VirtualProcessor, index: int, value: int) -> None:
    vp.partition.debug_msrs[index] = value


def _write_control(vp: VirtualProcessor, index: int, value: int) -> None:
    """Send or receive at once; the status is 0 without a debugger, and where the page cannot be reached."""
    control, msrs = HvSyndbgControl(value), vp.partition.debug_msrs
    msrs[index] = value
    try:
        end = vp.partition.debug_channels.end_of(vp.partition)
        status = _send(end, control.size) if control.send else _receive(end) if control.receive else 0
    except (HypercallError, NestedFault):
        status = 0
    msrs[_STATUS] = status


def _send(end: DebugEnd, size: int) -> int:
    """All of it or nothing is sent: there is no count to say more."""
    if end.peer is None or len(end.peer.incoming) + size > PAGE_SIZE:
        return 0
    end.send(end.partition.space.read(end.partition.debug_msrs.get(_SEND, 0), size))
    return HvSyndbgStatus(sent=1).raw


def _receive(end: DebugEnd) -> int:
    if not end.incoming:
        return 0
    end.partition.space.write(end.partition.debug_msrs.get(_RECEIVE, 0), end.take(PAGE_SIZE, keep=True))
    return HvSyndbgStatus(received=1, size=len(end.take(PAGE_SIZE))).raw


def _write_pending(vp: VirtualProcessor, index: int, value: int) -> None:
    """From now on the first byte there is 1 while data wait."""
    vp.partition.debug_msrs[index] = value
    with suppress(HypercallError):          # nobody will send
        vp.partition.debug_channels.end_of(vp.partition).tell()


P = HvPrivilege
provide(Msr.HV_SYNTH_DEBUG_CONTROL, _read, _write_control, privilege=P.ACCESS_DEBUG_MSRS)
provide(_STATUS, _read, privilege=P.ACCESS_DEBUG_MSRS)
provide(_SEND, _read, _write, privilege=P.ACCESS_DEBUG_MSRS)
provide(_RECEIVE, _read, _write, privilege=P.ACCESS_DEBUG_MSRS)
provide(_PENDING, _read, _write_pending, privilege=P.ACCESS_DEBUG_MSRS)

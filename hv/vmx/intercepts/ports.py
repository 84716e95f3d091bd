"""I/O instructions: permission first, then the bitmaps; SDM "Unconditional I/O Exiting", "I/O-Bitmap Addresses"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.machine.faults import GuestFault
from hv.machine.io_permission import io_permitted
from hv.spec.exits import ExitReason, IoQualification
from hv.spec.vmcs import PrimaryControls
from hv.spec.x86 import Vector
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.operands import advance, decoded_at
from hv.vmx.region import read_physical

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu


def port_in(vcpu: Vcpu, detail: int) -> VmExit | None:
    return _port(vcpu, read=True)


def port_out(vcpu: Vcpu, detail: int) -> VmExit | None:
    return _port(vcpu, read=False)


def _port(vcpu: Vcpu, read: bool) -> VmExit | None:
    """IN, OUT, INS, OUTS: #GP without permission, an exit when the bitmaps say so, else an empty bus."""
    port, size, _ = vcpu.engine.port()
    if not io_permitted(vcpu.state, vcpu.memory, port, size):
        raise GuestFault(Vector.GP, 0)
    decoded = decoded_at(vcpu)
    access = decoded.port
    if access is None:      # what the engine executed does not stand there any more
        vcpu.engine.distrust_code()
        return None
    if _port_exits(vcpu, port, size):
        return VmExit(ExitReason.IO_INSTRUCTION, IoQualification(
            size_minus_1=size - 1, in_=int(read), string=int(access.string), rep=int(access.repeat),
            immediate=int(access.port is not None), port=port).raw, decoded.length)
    if read:
        vcpu.state.rax = vcpu.state.rax | (1 << 8 * size) - 1       # nothing answers: all ones
    advance(vcpu, decoded.length)
    return None


def _port_exits(vcpu: Vcpu, port: int, size: int) -> bool:
    if vcpu.io_bitmaps is None:
        return bool(vcpu.primary & PrimaryControls.UNCONDITIONAL_IO_EXITING)
    if port + size > 0x10000:
        return True
    memory, bitmaps = vcpu.second_level.memory, vcpu.io_bitmaps
    return any(read_physical(memory, bitmaps[each >> 15] + ((each & 0x7FFF) >> 3), 1)[0] >> (each & 7) & 1
               for each in range(port, port + size))

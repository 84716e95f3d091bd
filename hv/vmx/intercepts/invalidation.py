"""INVLPG and INVPCID; SDM "Instructions That Cause VM Exits Conditionally"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import Decoded, RegisterOperand, linear_address, read_register
from hv.machine.faults import GuestFault
from hv.machine.paging import is_canonical
from hv.spec.exits import ExitReason
from hv.spec.vmcs import PrimaryControls, SecondaryControls
from hv.spec.x86 import Vector
from hv.vmx.exit import VmExit, operand_exit
from hv.vmx.intercepts.operands import advance, decoded_at

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_INVLPG_EXITING, _ENABLED = PrimaryControls.INVLPG_EXITING.value, SecondaryControls.ENABLE_INVPCID.value
_INDIVIDUAL_ADDRESS, _SINGLE_CONTEXT, _LAST_TYPE = 0, 1, 3
_DESCRIPTOR_SIZE = 16


def invlpg(vcpu: Vcpu, detail: int) -> VmExit | None:
    """It leaves the guest only to exit; the qualification is the linear address, canonical or not."""
    decoded = decoded_at(vcpu)
    if decoded.mnemonic != "invlpg":        # what the engine executed does not stand there any more
        vcpu.engine.distrust_code()
        return None
    return VmExit(ExitReason.INVLPG, linear_address(decoded, vcpu.state), decoded.length)


def invpcid(vcpu: Vcpu, decoded: Decoded) -> VmExit | bool:
    """The processor has no PCIDs but 0, so each type drops whatever is cached; SDM "INVPCID"."""
    if not vcpu.controls.secondary & _ENABLED:
        return False
    if vcpu.state.cpl:
        raise GuestFault(Vector.GP, 0)
    if vcpu.controls.primary & _INVLPG_EXITING:
        return operand_exit(ExitReason.INVPCID, decoded, vcpu.state.rip)
    register = decoded.operands[0]
    assert isinstance(register, RegisterOperand), decoded.text
    descriptor = vcpu.memory.read_integer(linear_address(decoded, vcpu.state), _DESCRIPTOR_SIZE)
    if not _is_valid(read_register(vcpu.state, register.name), descriptor & (1 << 64) - 1, descriptor >> 64):
        raise GuestFault(Vector.GP, 0)
    vcpu.engine.flush_tlb()
    advance(vcpu, decoded.length)
    return True


def _is_valid(kind: int, pcid: int, gva: int) -> bool:
    """CR4.PCIDE is 0 always, so the only PCID is 0."""
    if kind > _LAST_TYPE or pcid >> 12:
        return False
    if kind in (_INDIVIDUAL_ADDRESS, _SINGLE_CONTEXT) and pcid:
        return False
    return kind != _INDIVIDUAL_ADDRESS or is_canonical(gva)

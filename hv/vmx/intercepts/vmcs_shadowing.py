"""VMREAD and VMWRITE of a guest that has a shadow VMCS; SDM "VMCS Shadowing", "VMREAD", "VMWRITE".

Where the bitmaps let it, the instruction works on the VMCS of the link pointer as it would on a current one, and tells
the outcome in RFLAGS.
# Simplified: the limit and the rights of the operand's segment are not checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import Decoded, RegisterOperand, linear_address, read_register, write_register
from hv.machine.faults import GuestFault
from hv.machine.ram import read_physical
from hv.spec.vmcs import NO_VMCS, VmcsField
from hv.spec.x86 import ARITHMETIC_FLAGS, Rflags, Vector
from hv.vmx.intercepts.operands import advance
from hv.vmx.root_operation.operation import VmFail, VmxOperation
from hv.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_OUTCOME = ARITHMETIC_FLAGS.value
_ENCODINGS = 1 << 15            # of fields; each has a bit in the bitmaps


def exits(vcpu: Vcpu, decoded: Decoded) -> bool:
    """The encoding is too wide, or has its bit set in the bitmap of the instruction."""
    bitmap = VmcsField.VMREAD_BITMAP if decoded.mnemonic == "vmread" else VmcsField.VMWRITE_BITMAP
    encoding = _encoding(vcpu, decoded)
    if encoding >= _ENCODINGS:
        return True
    byte = read_physical(vcpu.second_level.memory, vcpu.vmcs.read(bitmap) + (encoding >> 3), 1)[0]
    return bool(byte >> (encoding & 7) & 1)


def access_shadow(vcpu: Vcpu, operation: VmxOperation, decoded: Decoded) -> None:
    """Carry the instruction out on the shadow VMCS; GuestFault."""
    state, flags = vcpu.state, 0
    if state.cpl:
        raise GuestFault(Vector.GP, 0)
    try:
        pointer = vcpu.vmcs.read(VmcsField.VMCS_LINK_POINTER)
        if pointer == NO_VMCS:
            raise VmFail
        (_read if decoded.mnemonic == "vmread" else _write)(vcpu, operation, operation.activate(pointer), decoded)
    except VmFail as failure:
        flags = operation.fail(failure) if pointer != NO_VMCS else Rflags.CF.value
    state.rflags = state.rflags & ~_OUTCOME | flags
    advance(vcpu, decoded.length)


def _encoding(vcpu: Vcpu, decoded: Decoded) -> int:
    operand = decoded.operands[1 if decoded.mnemonic == "vmread" else 0]
    assert isinstance(operand, RegisterOperand), decoded.text
    return read_register(vcpu.state, operand.name)


def _read(vcpu: Vcpu, operation: VmxOperation, shadow: Vmcs, decoded: Decoded) -> None:
    value, target = operation.read_component(shadow, _encoding(vcpu, decoded)), decoded.operands[0]
    if isinstance(target, RegisterOperand):
        write_register(vcpu.state, target.name, value)
        return
    size = _size(decoded)
    vcpu.memory.write(linear_address(decoded, vcpu.state), (value & (1 << 8 * size) - 1).to_bytes(size, "little"))


def _write(vcpu: Vcpu, operation: VmxOperation, shadow: Vmcs, decoded: Decoded) -> None:
    source = decoded.operands[1]
    value = (read_register(vcpu.state, source.name) if isinstance(source, RegisterOperand)
             else vcpu.memory.read_integer(linear_address(decoded, vcpu.state), _size(decoded)))
    operation.write_component(shadow, _encoding(vcpu, decoded), value)


def _size(decoded: Decoded) -> int:
    return 8 if decoded.bits == 64 else 4

"""The instruction at which a guest stopped: its length, its operands, and what it means to be done with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import (
    SHORT_LENGTHS,
    Decoded,
    MemoryOperand,
    RegisterOperand,
    Undecodable,
    decode,
    instruction_length,
    linear_address,
    read_register,
    write_register,
)
from hv.instructions.memory_operations import MemoryAccess, described, memory_access
from hv.machine.faults import GuestFault
from hv.machine.fetch import decode_at
from hv.spec.x86 import MAX_INSTRUCTION_LENGTH, Vector
from hv.vmx.events.non_register import SINGLE_STEP

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu


def length_of(vcpu: Vcpu) -> int:
    """Length of the instruction at RIP."""
    length = SHORT_LENGTHS.get(vcpu.engine.code_head() & 0xFFFF)
    if length is not None:
        return length
    code = vcpu.engine.code_bytes()
    try:
        return instruction_length(code, vcpu.state.bits)
    except Undecodable:
        return decoded_at(vcpu).length


def decoded_at(vcpu: Vcpu) -> Decoded:
    """The instruction at RIP; #UD when it is none."""
    code = vcpu.engine.code_bytes()
    try:
        return decode(code, vcpu.state.bits) if len(code) == 15 else decode_at(vcpu.state, vcpu.memory)
    except Undecodable:
        raise GuestFault(Vector.UD) from None


def access_at(vcpu: Vcpu) -> tuple[Decoded, MemoryAccess]:
    """The instruction at RIP, whose access was refused, and what it does to memory; Undecodable, or what `decode_at`
    raises."""
    code = vcpu.engine.known_code()
    if len(code) == MAX_INSTRUCTION_LENGTH:
        return described(code, vcpu.state.bits)
    decoded = decode_at(vcpu.state, vcpu.memory)
    return decoded, memory_access(decoded)


def advance(vcpu: Vcpu, length: int) -> None:
    """The instruction was done here; its #DB pends when it was single-stepped."""
    if vcpu.state.complete_instruction(length):
        single_stepped(vcpu)


def single_stepped(vcpu: Vcpu) -> None:
    """An instruction was done here while RFLAGS.TF was set."""
    vcpu.non_register.pending_debug |= SINGLE_STEP


def read_operand(vcpu: Vcpu, decoded: Decoded) -> int:
    operand = next(o for o in reversed(decoded.operands) if not names_control_register(o))
    if isinstance(operand, RegisterOperand):
        return read_register(vcpu.state, operand.name)
    assert isinstance(operand, MemoryOperand)
    return vcpu.memory.read_integer(linear_address(decoded, vcpu.state, operand), 2)


def write_operand(vcpu: Vcpu, decoded: Decoded, value: int) -> None:
    operand = next(o for o in decoded.operands if not names_control_register(o))
    if isinstance(operand, RegisterOperand):
        write_register(vcpu.state, operand.name, value & (1 << 8 * operand.size) - 1)
    else:
        assert isinstance(operand, MemoryOperand)
        vcpu.memory.write(linear_address(decoded, vcpu.state, operand), (value & 0xFFFF).to_bytes(2, "little"))


def names_control_register(operand: object) -> bool:
    return isinstance(operand, RegisterOperand) and operand.name[:2] in ("cr", "dr")

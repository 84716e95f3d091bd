"""Instructions with a memory operand, carried out by hand: what a device behind MMIO needs.

`memory_access` describes the instruction, `perform` does it: the caller supplies what reading gives and takes what is
written, this file moves registers and flags as the processor would. SDM volume 2.

# Simplified: MOVS, CMPS and SCAS, shifts, CMPXCHG, XADD, x87 and SSE are not here (Undecodable).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hv.instructions.decode import (
    Decoded,
    ImmediateOperand,
    MemoryOperand,
    Operand,
    RegisterOperand,
    Undecodable,
    read_register,
    register_number,
    write_register,
)
from hv.instructions.registers import InstructionRegisters
from hv.spec.x86 import ARITHMETIC_FLAGS, Rflags

_DF, _CF, _PF, _AF, _ZF, _SF, _OF = (
    flag.value for flag in (Rflags.DF, Rflags.CF, Rflags.PF, Rflags.AF, Rflags.ZF, Rflags.SF, Rflags.OF))
_ARITHMETIC = ARITHMETIC_FLAGS.value
_COPIES = frozenset({"mov", "movabs", "movnti", "movzx", "movsx", "movsxd"})
_BINARY = frozenset({"add", "adc", "sub", "sbb", "and", "or", "xor", "cmp", "test"})
_UNARY = frozenset({"inc", "dec", "not", "neg"})
_BIT_TESTS = frozenset({"bt", "bts", "btr", "btc"})
_READ_ONLY = frozenset({"cmp", "test", "bt"})       # they write flags, and no operand
_STRING = {name + size: name for name in ("stos", "lods") for size in "bwdq"}


class MemoryAccess(NamedTuple):
    """What one instruction does with its memory operand."""

    operation: str                  # "mov", "movzx", "xchg", "add", "stos" ...
    memory: MemoryOperand
    other: Operand | None           # register or immediate on the other side; None for INC, NOT ...
    read: bool                      # of the memory
    write: bool                     # of the memory
    to_memory: bool                 # the memory operand is the destination
    repeat: bool                    # REP: count in (R/E)CX

    @property
    def size(self) -> int:
        """Bytes of memory accessed."""
        return self.memory.size


def memory_access(decoded: Decoded) -> MemoryAccess:
    """Describe what *decoded* does to its memory operand; Undecodable for what `perform` does not know."""
    operation = _STRING.get(decoded.mnemonic, decoded.mnemonic)
    match decoded.operands:
        case (MemoryOperand() as memory, RegisterOperand() | ImmediateOperand() as other):
            to_memory = True
        case (RegisterOperand() as other, MemoryOperand() as memory):
            to_memory = False
        case (MemoryOperand() as memory,) if operation in _UNARY:
            return MemoryAccess(operation, memory, None, True, True, True, False)
        case _:
            raise Undecodable(f"{decoded.text} is not one we carry out on memory")
    read, write = _directions(operation, to_memory, decoded)
    if isinstance(other, RegisterOperand):
        register_number(other.name)         # segment and vector registers are refused here
    return MemoryAccess(operation, memory, other, read, write, to_memory, bool(decoded.repeat))


def _directions(operation: str, to_memory: bool, decoded: Decoded) -> tuple[bool, bool]:
    if operation in _COPIES or operation in ("stos", "lods"):
        return not to_memory, to_memory
    if operation == "xchg":
        return True, True
    bit_offset_is_constant = isinstance(decoded.operands[-1], ImmediateOperand)     # a register's reaches far memory
    if operation in _BINARY or (operation in _BIT_TESTS and bit_offset_is_constant):
        return True, to_memory and operation not in _READ_ONLY
    raise Undecodable(f"{decoded.text} is not one we carry out on memory")


def perform(state: InstructionRegisters, access: MemoryAccess, read: Callable[[], int],
            write: Callable[[int], None]) -> bool:
    """Carry out *access* once: *read* gives the memory's value, *write* takes the new one.

    True when the instruction is complete and RIP may advance; False when a REP has more to do. RIP is not touched.
    """
    if access.repeat and not elements_left(state, access.memory):
        return True
    memory = read() if access.read else 0
    if access.operation in _COPIES or access.operation in ("stos", "lods"):
        _copy(state, access, memory, write)
    elif access.operation == "xchg":
        assert isinstance(access.other, RegisterOperand)
        write(_value(state, access.other))
        write_register(state, access.other.name, memory)
    else:
        _modify(state, access, memory, write)
    if access.operation in ("stos", "lods"):
        return next_element(state, access.memory, access.repeat)
    return True


def _copy(state: InstructionRegisters, access: MemoryAccess, memory: int, write: Callable[[int], None]) -> None:
    assert access.other is not None
    if access.to_memory:
        write(_value(state, access.other))
        return
    assert isinstance(access.other, RegisterOperand)
    if access.operation in ("movsx", "movsxd") and memory >> 8 * access.size - 1:
        memory -= 1 << 8 * access.size
    write_register(state, access.other.name, memory)


def _modify(state: InstructionRegisters, access: MemoryAccess, memory: int, write: Callable[[int], None]) -> None:
    """Flags first in a register of ours, since a refused *write* must leave them alone."""
    other = _value(state, access.other) if access.other is not None else 0
    left, right = (memory, other) if access.to_memory else (other, memory)
    result, flags = compute(access.operation, left, right, access.size, state.rflags)
    if access.write:
        write(result)
    elif access.operation not in _READ_ONLY:
        assert isinstance(access.other, RegisterOperand)
        write_register(state, access.other.name, result)
    state.rflags = flags


def compute(operation: str, left: int, right: int, size: int, flags: int) -> tuple[int, int]:
    """The result of *operation* on operands of *size* bytes, and RFLAGS after it.

    Undefined flags (AF of the logical operations) are cleared, those of bit tests kept.
    """
    mask = (1 << 8 * size) - 1
    carry = flags & _CF
    if operation in ("add", "adc", "inc"):
        right = 1 if operation == "inc" else right
        total = left + right + (carry if operation == "adc" else 0)
        return total & mask, _keep(operation, flags, _sum_flags(left, right, total, mask))
    if operation in ("sub", "sbb", "cmp", "dec", "neg"):
        left, right = (0, left) if operation == "neg" else (left, 1 if operation == "dec" else right)
        total = left - right - (carry if operation == "sbb" else 0)
        return total & mask, _keep(operation, flags, _difference_flags(left, right, total, mask))
    if operation in _BIT_TESTS:
        bit = 1 << right % (8 * size)
        result = {"bt": left, "bts": left | bit, "btr": left & ~bit, "btc": left ^ bit}[operation]
        return result, flags & ~_CF | (_CF if left & bit else 0)
    if operation == "not":
        return ~left & mask, flags
    result = {"and": left & right, "test": left & right, "or": left | right, "xor": left ^ right}[operation]
    return result, flags & ~_ARITHMETIC | _result_flags(result, mask)


def _keep(operation: str, before: int, after: int) -> int:
    """INC and DEC leave the carry alone."""
    written = _ARITHMETIC & ~_CF if operation in ("inc", "dec") else _ARITHMETIC
    return before & ~written | after & written


def _result_flags(result: int, mask: int) -> int:
    parity = 0 if (result & 0xFF).bit_count() & 1 else _PF
    return parity | (0 if result else _ZF) | (_SF if result & (mask >> 1) + 1 else 0)


def _sum_flags(left: int, right: int, total: int, mask: int) -> int:
    result, sign = total & mask, (mask >> 1) + 1
    flags = _result_flags(result, mask) | (_CF if total > mask else 0) | (left ^ right ^ result) & _AF
    return flags | (_OF if (left ^ result) & (right ^ result) & sign else 0)


def _difference_flags(left: int, right: int, total: int, mask: int) -> int:
    result, sign = total & mask, (mask >> 1) + 1
    flags = _result_flags(result, mask) | (_CF if total < 0 else 0) | (left ^ right ^ result) & _AF
    return flags | (_OF if (left ^ right) & (left ^ result) & sign else 0)


def _value(state: InstructionRegisters, operand: Operand) -> int:
    if isinstance(operand, RegisterOperand):
        return read_register(state, operand.name)
    assert isinstance(operand, ImmediateOperand)
    return operand.value


_COUNT = {16: "cx", 32: "ecx", 64: "rcx"}


def elements_left(state: InstructionRegisters, memory: MemoryOperand) -> int:
    """What the counter of a REP string instruction with this memory operand says."""
    return read_register(state, _COUNT[memory.address_bits])


def next_element(state: InstructionRegisters, memory: MemoryOperand, repeat: bool) -> bool:
    """Move the string pointer by one element and, under REP, count down; True when that was the last one."""
    assert memory.base is not None
    step = -memory.size if state.rflags & _DF else memory.size
    write_register(state, memory.base, read_register(state, memory.base) + step)
    if not repeat:
        return True
    left = elements_left(state, memory) - 1
    write_register(state, _COUNT[memory.address_bits], left)
    return left == 0

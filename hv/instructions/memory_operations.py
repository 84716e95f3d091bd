"""Instructions with one memory operand, carried out by hand: what a device behind MMIO needs.

`memory_access` describes the instruction, `perform` does it: the caller supplies what reading gives and takes what is
written, this file moves registers and flags as the processor would. SDM volume 2. `execute.py` does all that `perform`
does, and instructions with more than one access to memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from hv.instructions.arithmetic import BINARY, BIT_TESTS, ROTATES, SHIFTS, UNARY, compute
from hv.instructions.decode import (
    Decoded,
    ImmediateOperand,
    MemoryOperand,
    Operand,
    RegisterOperand,
    Undecodable,
    decode,
    linear_address,
    read_register,
    register_number,
    write_register,
)
from hv.instructions.registers import InstructionRegisters
from hv.spec.x86 import Rflags

_DF, _ZF = Rflags.DF.value, Rflags.ZF.value
LOADS = frozenset({"mov", "movabs", "movzx", "movsx", "movsxd", "movbe"})      # as long as they are from memory
_COPIES = LOADS | {"movnti"}
_READ_ONLY = frozenset({"cmp", "test", "bt"})       # they write flags, and no operand
_MODIFY = BINARY | BIT_TESTS | SHIFTS | ROTATES
_STRING = {name + size: name for name in ("stos", "lods") for size in "bwdq"}
_ACCUMULATOR = {1: "al", 2: "ax", 4: "eax", 8: "rax"}
_ONE = ImmediateOperand(1, 1)


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
        case (MemoryOperand() as memory,) if operation in UNARY:
            return MemoryAccess(operation, memory, None, True, True, True, False)
        case (MemoryOperand() as memory,) if operation in SHIFTS or operation in ROTATES:
            other, to_memory = _ONE, True
        case _:
            raise Undecodable(f"{decoded.text} is not one we carry out on memory")
    read, write = _directions(operation, to_memory, decoded)
    if isinstance(other, RegisterOperand):
        register_number(other.name)         # segment and vector registers are refused here
    return MemoryAccess(operation, memory, other, read, write, to_memory, bool(decoded.repeat))


@lru_cache(maxsize=1024)
def described(code: bytes, bits: int) -> tuple[Decoded, MemoryAccess]:
    """The instruction that *code* begins with, and what it does to its memory operand; Undecodable."""
    decoded = decode(code, bits)
    return decoded, memory_access(decoded)


def _directions(operation: str, to_memory: bool, decoded: Decoded) -> tuple[bool, bool]:
    if operation in _COPIES or operation in ("stos", "lods"):
        return not to_memory, to_memory
    if operation in ("xchg", "cmpxchg"):
        return True, True
    if operation in _MODIFY:
        return True, to_memory and operation not in _READ_ONLY
    raise Undecodable(f"{decoded.text} is not one we carry out on memory")


def operand_address(decoded: Decoded, state: InstructionRegisters, access: MemoryAccess) -> int:
    """The linear address of *access*. BT and its kin by a register reach beyond their operand, to either side."""
    if access.operation in BIT_TESTS and isinstance(access.other, RegisterOperand):
        size, offset = access.size, read_register(state, access.other.name)
        offset -= (offset >> 8 * size - 1) << 8 * size          # signed
        displacement = access.memory.displacement + offset // (8 * size) * size
        return linear_address(decoded, state, access.memory.displaced(displacement))
    return linear_address(decoded, state, access.memory)


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
    elif access.operation == "cmpxchg":
        _compare_and_exchange(state, access, memory, write)
    else:
        _modify(state, access, memory, write)
    if access.operation in ("stos", "lods"):
        return next_element(state, access.memory, access.repeat)
    return True


def _copy(state: InstructionRegisters, access: MemoryAccess, memory: int, write: Callable[[int], None]) -> None:
    assert access.other is not None
    swap = access.operation == "movbe"
    if access.to_memory:
        value = _value(state, access.other)
        write(_swapped(value, access.size) if swap else value)
        return
    assert isinstance(access.other, RegisterOperand)
    if swap:
        memory = _swapped(memory, access.size)
    elif access.operation in ("movsx", "movsxd") and memory >> 8 * access.size - 1:
        memory -= 1 << 8 * access.size
    write_register(state, access.other.name, memory)


def _swapped(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "little"), "big")


def _compare_and_exchange(state: InstructionRegisters, access: MemoryAccess, memory: int,
                          write: Callable[[int], None]) -> None:
    """The memory is written either way; SDM "CMPXCHG"."""
    assert access.other is not None
    accumulator = _ACCUMULATOR[access.size]
    _, flags = compute("cmp", read_register(state, accumulator), memory, access.size, state.rflags)
    write(_value(state, access.other) if flags & _ZF else memory)
    if not flags & _ZF:
        write_register(state, accumulator, memory)
    state.rflags = flags


def _modify(state: InstructionRegisters, access: MemoryAccess, memory: int, write: Callable[[int], None]) -> None:
    """Flags first in a register of ours, since a refused *write* must leave them alone."""
    other = _value(state, access.other) if access.other is not None else 0
    left, right = (memory, other) if access.to_memory else (other, memory)
    result, flags = compute(access.operation, left, right, access.size, state.rflags)
    if access.write:
        write(result)
    if access.operation == "xadd" or (not access.write and access.operation not in _READ_ONLY):
        assert isinstance(access.other, RegisterOperand)
        write_register(state, access.other.name, memory if access.operation == "xadd" else result)
    state.rflags = flags


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
    next_address(state, memory)
    if not repeat:
        return True
    return count_down(state, memory) == 0


def next_address(state: InstructionRegisters, memory: MemoryOperand) -> None:
    """Move the string pointer by one element, up or down."""
    assert memory.base is not None
    step = -memory.size if state.rflags & _DF else memory.size
    write_register(state, memory.base, read_register(state, memory.base) + step)


def count_down(state: InstructionRegisters, memory: MemoryOperand) -> int:
    """One element less to do; how many are left."""
    left = elements_left(state, memory) - 1
    write_register(state, _COUNT[memory.address_bits], left)
    return left

"""Moves between one general register, or a constant, and memory: made ready once, to be done many times.

MOV, MOVZX, MOVSX and MOVSXD are what drivers reach the registers of devices by. `memory_operations.py` carries out any
instruction with one memory operand, and asks at each step what it is; here that is asked once, and what is left is
arithmetic on the general registers, RAX 0 to R15 15, each an unsigned number of 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, Protocol

from hv.instructions.decode import (
    ImmediateOperand,
    MemoryOperand,
    RegisterOperand,
    Undecodable,
    is_high_byte,
    register_number,
)
from hv.instructions.memory_operations import described


class GeneralRegisters(Protocol):
    """RAX 0 to R15 15."""

    def __getitem__(self, number: int, /) -> int: ...
    def __setitem__(self, number: int, value: int, /) -> None: ...


Address = Callable[[GeneralRegisters, int], int]
Value = Callable[[GeneralRegisters], int]
Load = Callable[[GeneralRegisters, int], None]
_MOVES = frozenset({"mov", "movabs", "movzx", "movsx", "movsxd"})
_U64 = (1 << 64) - 1


class Move(NamedTuple):
    """One move, *length* bytes long, of *size* bytes of memory."""

    code: bytes             # that it begins, as `move_of` was asked
    length: int
    size: int
    segment: str            # "ds", "fs" ...
    address: Address        # of the registers and RIP: the offset in the segment
    value: Value | None     # of the registers: what a store writes; None for a load
    load: Load | None       # into the registers, of the memory's value (what is above *size* bytes does not count)


@lru_cache(maxsize=1024)
def move_of(code: bytes, bits: int) -> Move | None:
    """The instruction that *code* (15 bytes are enough) begins with, in *bits*-bit code; None when it is no such move.
    """
    try:
        decoded, access = described(code, bits)
    except Undecodable:
        return None
    if access.operation not in _MOVES or decoded.lock or access.repeat:
        return None
    other, memory = access.other, access.memory
    address = _address(memory, decoded.length)
    if isinstance(other, RegisterOperand) and not access.to_memory:
        load = _load(other, memory.size, access.operation in ("movsx", "movsxd"))
        return Move(code, decoded.length, memory.size, memory.segment, address, None, load)
    if not access.to_memory:
        return None
    value = _register(other) if isinstance(other, RegisterOperand) else _constant(other, memory.size)
    return Move(code, decoded.length, memory.size, memory.segment, address, value, None)


def _address(operand: MemoryOperand, length: int) -> Address:
    displacement, scale, mask = operand.displacement, operand.scale, (1 << operand.address_bits) - 1
    if operand.base in ("rip", "eip"):
        behind = displacement + length
        return lambda registers, rip: rip + behind & mask
    base = register_number(operand.base) if operand.base else -1
    if operand.index is None:
        if base < 0:
            return lambda registers, rip: displacement & mask
        return lambda registers, rip: registers[base] + displacement & mask
    index = register_number(operand.index)
    if base < 0:
        return lambda registers, rip: registers[index] * scale + displacement & mask
    return lambda registers, rip: registers[base] + registers[index] * scale + displacement & mask


def _register(operand: RegisterOperand) -> Value:
    number, mask = register_number(operand.name), (1 << 8 * operand.size) - 1
    if is_high_byte(operand.name):
        return lambda registers: registers[number] >> 8 & mask
    return lambda registers: registers[number] & mask


def _constant(operand: object, size: int) -> Value:
    assert isinstance(operand, ImmediateOperand), "a store is of a register or of a constant"
    value = operand.value & (1 << 8 * size) - 1
    return lambda registers: value


def _load(operand: RegisterOperand, size: int, signed: bool) -> Load:
    """4 bytes clear the upper half of the register, 1 and 2 leave the rest as it is."""
    number, mask = register_number(operand.name), (1 << 8 * size) - 1
    if operand.size >= 4 and not signed:
        def load(registers: GeneralRegisters, value: int) -> None:
            registers[number] = value & mask
        return load
    sign, shift = (1 << 8 * size - 1 if signed else 0), 8 if is_high_byte(operand.name) else 0
    wanted = (1 << 8 * operand.size) - 1
    kept = 0 if operand.size >= 4 else _U64 & ~(wanted << shift)

    def load_part(registers: GeneralRegisters, value: int) -> None:
        value &= mask
        extended = (value ^ sign) - sign & wanted
        registers[number] = registers[number] & kept | extended << shift
    return load_part

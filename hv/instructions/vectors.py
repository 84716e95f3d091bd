"""SSE and MMX instructions with an operand in memory that move data or combine bits: what drivers copy frames with.

SDM volume 2. A load of 4 or 8 bytes clears the rest of an XMM register, but for those that say which half they are.
# Simplified: arithmetic is not here, nor inserts, extracts and shuffles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hv.instructions.decode import Decoded, MemoryOperand, RegisterOperand, Undecodable, linear_address
from hv.instructions.faults import InstructionFault
from hv.instructions.operand_memory import OperandMemory
from hv.instructions.registers import InstructionRegisters
from hv.spec.x86 import Vector

_XMM_BYTES, _MMX_BYTES = 16, 8
_LOW_HALF = (1 << 64) - 1


class VectorRegisters(InstructionRegisters, Protocol):
    """With XMM registers, 16 bytes each, and MMX registers, 8 bytes each."""

    def read_xmm(self, number: int) -> bytes: ...
    def write_xmm(self, number: int, value: bytes) -> None: ...
    def read_mmx(self, number: int) -> int: ...
    def write_mmx(self, number: int, value: int) -> None: ...
    def enter_mmx(self) -> None: ...        # all registers are in use, and the stack's top is the first


Handler = Callable[[VectorRegisters, Decoded, OperandMemory], None]
Combine = Callable[[int, int], int]


class _Access:
    """The operands: the register by kind and number, *gva* and *size* of the memory; and whether that is loaded."""

    def __init__(self, state: VectorRegisters, decoded: Decoded) -> None:
        match decoded.operands:
            case (RegisterOperand(name), MemoryOperand() as operand):
                self.loads = True
            case (MemoryOperand() as operand, RegisterOperand(name)):
                self.loads = False
            case _:
                raise Undecodable(f"{decoded.text} is not one we carry out on memory")
        if not name.startswith(("xmm", "mm")):
            raise Undecodable(f"{decoded.text} is not one we carry out on memory")
        self.gva, self.size = linear_address(decoded, state, operand), operand.size
        self.is_mmx, self.number = name.startswith("mm"), int(name.lstrip("xm"))


def _read(state: VectorRegisters, access: _Access) -> int:
    if access.is_mmx:
        return state.read_mmx(access.number)
    return int.from_bytes(state.read_xmm(access.number), "little")


def _write(state: VectorRegisters, access: _Access, value: int) -> None:
    if access.is_mmx:
        state.write_mmx(access.number, value)
    else:
        state.write_xmm(access.number, value.to_bytes(_XMM_BYTES, "little"))


def _check_alignment(access: _Access) -> None:
    """SDM "Data Alignment": 16 bytes on their boundary, or #GP(0)."""
    if access.size == _XMM_BYTES and access.gva % _XMM_BYTES:
        raise InstructionFault(Vector.GP, 0)


def _move(state: VectorRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    access = _Access(state, decoded)
    if access.loads:
        _write(state, access, memory.read(access.gva, access.size))
    else:
        memory.write(access.gva, access.size, _read(state, access) & (1 << 8 * access.size) - 1)
    if access.is_mmx:
        state.enter_mmx()


def _move_aligned(state: VectorRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    _check_alignment(_Access(state, decoded))
    _move(state, decoded, memory)


def _half(shift: int) -> Handler:
    """The lower half of an XMM register, or with *shift* 64 the upper one; the other stays."""
    def move(state: VectorRegisters, decoded: Decoded, memory: OperandMemory) -> None:
        access = _Access(state, decoded)
        value = _read(state, access)
        if access.loads:
            found = memory.read(access.gva, access.size)
            _write(state, access, value & ~(_LOW_HALF << shift) | found << shift)
        else:
            memory.write(access.gva, access.size, value >> shift & _LOW_HALF)
    return move


def _bits(combine: Combine) -> Handler:
    """The register is combined with the memory, bit by bit."""
    def change(state: VectorRegisters, decoded: Decoded, memory: OperandMemory) -> None:
        access = _Access(state, decoded)
        _check_alignment(access)
        width = 8 * (_MMX_BYTES if access.is_mmx else _XMM_BYTES)
        found = memory.read(access.gva, access.size)
        _write(state, access, combine(_read(state, access), found) & (1 << width) - 1)
        if access.is_mmx:
            state.enter_mmx()
    return change


_AND, _AND_NOT = _bits(lambda left, right: left & right), _bits(lambda left, right: ~left & right)
_OR, _XOR = _bits(lambda left, right: left | right), _bits(lambda left, right: left ^ right)

VECTORS: dict[str, Handler] = {
    **dict.fromkeys(("movd", "movq", "movss", "movsd", "movdqu", "movups", "movupd", "lddqu", "movntq"), _move),
    **dict.fromkeys(("movdqa", "movaps", "movapd", "movntdq", "movntps", "movntpd", "movntdqa"), _move_aligned),
    "movlps": _half(0), "movlpd": _half(0), "movhps": _half(64), "movhpd": _half(64),
    "pand": _AND, "andps": _AND, "andpd": _AND, "pandn": _AND_NOT, "andnps": _AND_NOT, "andnpd": _AND_NOT,
    "por": _OR, "orps": _OR, "orpd": _OR, "pxor": _XOR, "xorps": _XOR, "xorpd": _XOR,
}

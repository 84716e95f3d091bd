"""Integer instructions with an operand in memory and results in more than one place, or none that `compute` gives:
products and quotients, double shifts, bit scans, CMPXCHG8B and CMPXCHG16B, XLAT. SDM volume 2.

Flags that the manual leaves undefined are the engine's, as in `arithmetic.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.instructions.arithmetic import compute
from hv.instructions.decode import (
    Decoded,
    ImmediateOperand,
    MemoryOperand,
    RegisterOperand,
    Undecodable,
    linear_address,
    read_register,
    write_register,
)
from hv.instructions.faults import InstructionFault
from hv.instructions.operand_memory import OperandMemory
from hv.instructions.registers import InstructionRegisters
from hv.spec.x86 import ARITHMETIC_FLAGS, Rflags, Vector

_CF, _OF, _ZF = Rflags.CF.value, Rflags.OF.value, Rflags.ZF.value
_ARITHMETIC = ARITHMETIC_FLAGS.value
_LOW = {1: "al", 2: "ax", 4: "eax", 8: "rax"}
_HIGH = {2: "dx", 4: "edx", 8: "rdx"}
_NEW_LOW, _NEW_HIGH = {4: "ebx", 8: "rbx"}, {4: "ecx", 8: "rcx"}
_TABLES = {16: "bx", 32: "ebx", 64: "rbx"}


Handler = Callable[[InstructionRegisters, Decoded, OperandMemory], None]


def _mask(size: int) -> int:
    return (1 << 8 * size) - 1


def _signed(value: int, size: int) -> int:
    return value - (value >> 8 * size - 1 << 8 * size)


def _operand(state: InstructionRegisters, decoded: Decoded) -> tuple[int, int]:
    """Address and size of the operand in memory; Undecodable when there is none, as where code was changed behind the
    processor's back."""
    memory = decoded.memory
    if memory is None:
        raise Undecodable(f"{decoded.text} is not one we carry out on memory")
    return linear_address(decoded, state, memory), memory.size


# --- Products and quotients ----------------------------------------------------------------------

def _multiply(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    """MUL and IMUL. CF and OF say that the upper half is needed."""
    gva, size = _operand(state, decoded)
    value, signed = memory.read(gva, size), decoded.mnemonic == "imul"
    left = _factor(state, decoded, size)
    product = _signed(left, size) * _signed(value, size) if signed else left * value
    low = product & _mask(size)
    if isinstance(decoded.operands[0], RegisterOperand):
        write_register(state, decoded.operands[0].name, low)
    else:
        _write_pair(state, size, low, product >> 8 * size & _mask(size))
    overflow = product != (_signed(low, size) if signed else low)
    state.rflags = compute("or", low, 0, size, state.rflags)[1] | (_CF | _OF if overflow else 0)


def _factor(state: InstructionRegisters, decoded: Decoded, size: int) -> int:
    """The one that is not in memory: the immediate, the destination, or the accumulator."""
    match decoded.operands:
        case (_, _, ImmediateOperand(value)):
            return value
        case (RegisterOperand(name), _):
            return read_register(state, name)
    return read_register(state, _LOW[size])


def _divide(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    """DIV and IDIV: rounded towards zero; #DE when the quotient does not fit. The flags are undefined, and stay."""
    gva, size = _operand(state, decoded)
    divisor, dividend = memory.read(gva, size), _dividend(state, size)
    if not divisor:
        raise InstructionFault(Vector.DE)
    if decoded.mnemonic == "div":
        quotient, rest = divmod(dividend, divisor)
        fits = quotient <= _mask(size)
    else:
        dividend, divisor = _signed(dividend, 2 * size), _signed(divisor, size)
        quotient = abs(dividend) // abs(divisor) * (-1 if (dividend < 0) != (divisor < 0) else 1)
        rest = dividend - quotient * divisor
        fits = quotient == _signed(quotient & _mask(size), size)
    if not fits:
        raise InstructionFault(Vector.DE)
    _write_pair(state, size, quotient & _mask(size), rest & _mask(size))


def _dividend(state: InstructionRegisters, size: int) -> int:
    if size == 1:
        return read_register(state, "ax")
    return read_register(state, _HIGH[size]) << 8 * size | read_register(state, _LOW[size])


def _write_pair(state: InstructionRegisters, size: int, low: int, high: int) -> None:
    """AH:AL, DX:AX, EDX:EAX or RDX:RAX."""
    if size == 1:
        write_register(state, "ax", high << 8 | low)
        return
    write_register(state, _LOW[size], low)
    write_register(state, _HIGH[size], high)


# --- Shifts and scans ----------------------------------------------------------------------------

def _double_shift(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    """SHLD and SHRD: bits of a register come in where those of the memory go out."""
    gva, size = _operand(state, decoded)
    _, source, last = decoded.operands
    assert isinstance(source, RegisterOperand)
    by = last.value if isinstance(last, ImmediateOperand) else read_register(state, "cl")
    count, width, other = by & (0x3F if size == 8 else 0x1F), 8 * size, read_register(state, source.name)
    memory.check_write(gva, size)
    value = memory.read(gva, size)
    if not count:
        return
    if decoded.mnemonic == "shld":
        result, before = (value << width | other) << count >> width & _mask(size), value << count - 1
        carry = before >> width - 1 & 1
    else:
        result, before = (other << width | value) >> count & _mask(size), value >> count - 1
        carry = before & 1
    memory.write(gva, size, result)
    overflow = (before ^ result) >> width - 1 & 1
    state.rflags = compute("or", result, 0, size, state.rflags)[1] | (_CF if carry else 0) | (_OF if overflow else 0)


def _scan(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    """BSF and BSR: of 0 there is none, and the destination stays. TZCNT is not offered: its prefix means nothing."""
    gva, size = _operand(state, decoded)
    target = _target(decoded)
    value = memory.read(gva, size)
    if not value:
        found = read_register(state, target)
    else:
        found = value.bit_length() - 1 if decoded.mnemonic == "bsr" else (value & -value).bit_length() - 1
    write_register(state, target, found)
    state.rflags = compute("test", value, value, size, state.rflags)[1]


def _count(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    """POPCNT and LZCNT."""
    gva, size = _operand(state, decoded)
    value, leading = memory.read(gva, size), decoded.mnemonic == "lzcnt"
    found = 8 * size - value.bit_length() if leading else value.bit_count()
    write_register(state, _target(decoded), found)
    state.rflags = state.rflags & ~_ARITHMETIC | (0 if found else _ZF) | (_CF if leading and not value else 0)


def _target(decoded: Decoded) -> str:
    target = decoded.operands[0]
    assert isinstance(target, RegisterOperand)
    return target.name


# --- Exchanges and tables ------------------------------------------------------------------------

def _exchange_wide(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    """CMPXCHG8B and CMPXCHG16B: the memory is written either way, and of the flags only ZF."""
    gva, size = _operand(state, decoded)
    half = size // 2
    if size == 16 and gva & 15:
        raise InstructionFault(Vector.GP, 0)
    memory.check_write(gva, size)
    found = memory.read(gva, size)
    if found == read_register(state, _HIGH[half]) << 8 * half | read_register(state, _LOW[half]):
        new = read_register(state, _NEW_HIGH[half]) << 8 * half | read_register(state, _NEW_LOW[half])
        memory.write(gva, size, new)
        state.rflags |= _ZF
        return
    memory.write(gva, size, found)
    _write_pair(state, half, found & _mask(half), found >> 8 * half)
    state.rflags &= ~_ZF


def _translate(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    """XLAT: AL becomes the byte at DS:(E/R)BX + AL. # Simplified: only without prefixes, which say another segment."""
    if decoded.length != 1:
        raise Undecodable(f"{decoded.text} with a prefix is not one we carry out on memory")
    table = read_register(state, _TABLES[decoded.bits])
    place = MemoryOperand("ds", None, None, 1, table + read_register(state, "al"), 1, decoded.bits)
    write_register(state, "al", memory.read(linear_address(decoded, state, place), 1))


WIDE_INTEGERS: dict[str, Handler] = {
    "mul": _multiply, "imul": _multiply, "div": _divide, "idiv": _divide, "shld": _double_shift, "shrd": _double_shift,
    "bsf": _scan, "bsr": _scan, "tzcnt": _scan, "popcnt": _count, "lzcnt": _count, "cmpxchg8b": _exchange_wide,
    "cmpxchg16b": _exchange_wide, "xlatb": _translate,
}

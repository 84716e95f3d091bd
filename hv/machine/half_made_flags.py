"""Instructions that leave the engine's lazy flags half made when their access to memory is refused.

The engine keeps the last operation and its operands instead of the arithmetic flags. SETcc, RCL and RCR of memory put
the flags together, over an operand, before they access it. When that access faults, the engine goes back to the
operation as it was, whose operand is gone: what the guest's handler finds, and what the instruction itself finds when
it is done again, would be wrong. Whether an operand was overwritten follows from the instruction, from the operation,
and from whether the engine knew the operation when it translated the block: that it does from the first instruction in
the block on that has one.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.instructions.decode import Undecodable, disassemble, instruction_length

# Operations (CC_OP) that are treated apart: SUB and CMP of 1 to 8 bytes, and a register XORed with itself, whose flags
# are always the same. POPCNT and ADX, apart too, are not offered.
_SUBTRACTIONS, _CLEAR = range(14, 18), 49
_CARRY, _ZERO, _SIGN = 1, 4 >> 1, 8 >> 1    # conditions without their lowest bit, which negates
_ORDER = (6 >> 1, 0xC >> 1, 0xE >> 1)       # BE, L, LE
_ROTATION = 8                               # any number that is no condition
_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_ROTATIONS = frozenset(b"\xc0\xc1\xd0\xd1\xd2\xd3")
_SHIFTS = frozenset({"shl", "sal", "shr", "sar", "rol", "ror", "shld", "shrd"})
_KEEP_OPERATION = frozenset({"div", "idiv"})    # flags undefined to the manual, untouched by the engine


def overwrites_operand(code: bytes, bits: int, operation: int, block_before: Callable[[], bytes | None]) -> bool:
    """The instruction that *code* begins with had put the flags of *operation* together when its access was refused.

    *block_before* gives the code of its block up to it, or None when that is unknown.
    # Simplified: one that crosses into another page is left alone; it could be its fetch that was refused.
    """
    condition = _condition(code, bits)
    if condition is None or condition == _CARRY or not _is_whole(code, bits):   # the carry alone is computed elsewhere
        return False
    if operation == _CLEAR:
        return False
    if condition in (_ZERO, _SIGN) or (condition in _ORDER and operation in _SUBTRACTIONS):
        before = block_before()
        return before is not None and not knows_operation(before, bits)
    return True


def _condition(code: bytes, bits: int) -> int | None:
    """What SETcc of memory asks for, `_ROTATION` for RCL or RCR of memory, None for any other instruction."""
    at = 0
    while at < len(code) and (code[at] in _PREFIXES or (bits == 64 and code[at] & 0xF0 == 0x40)):
        at += 1
    opcode, second, third = code[at : at + 3].ljust(3, b"\0")
    if opcode == 0x0F and second & 0xF0 == 0x90 and third < 0xC0:
        return (second & 0xF) >> 1
    return _ROTATION if opcode in _ROTATIONS and second < 0xC0 and second >> 3 & 7 in (2, 3) else None


def _is_whole(code: bytes, bits: int) -> bool:
    try:
        return instruction_length(code, bits) <= len(code)
    except Undecodable:
        return False


def knows_operation(code: bytes, bits: int) -> bool:
    """Behind *code*, which begins a block, the engine knows while it translates which operation made the flags."""
    known = False
    for instruction in disassemble(code, bits):
        if instruction.sets_flags and instruction.mnemonic not in _KEEP_OPERATION:
            known = not (instruction.mnemonic in _SHIFTS and instruction.text.endswith("cl"))
    return known

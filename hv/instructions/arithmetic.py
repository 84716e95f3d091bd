"""What arithmetic instructions leave: a result, and the flags; SDM volume 2, "Operation" and "Flags Affected".

Flags that the manual leaves undefined are the engine's, so that an instruction gives the same on a device as on RAM:
AF of logical operations and shifts is cleared, OF of shifts by more than one is that of the last step.
"""

from __future__ import annotations

from hv.spec.x86 import ARITHMETIC_FLAGS, Rflags

_CF, _PF, _AF, _ZF, _SF, _OF = (
    flag.value for flag in (Rflags.CF, Rflags.PF, Rflags.AF, Rflags.ZF, Rflags.SF, Rflags.OF))
_ARITHMETIC = ARITHMETIC_FLAGS.value
BINARY = frozenset({"add", "adc", "sub", "sbb", "and", "or", "xor", "cmp", "test", "xadd"})
UNARY = frozenset({"inc", "dec", "not", "neg"})
BIT_TESTS = frozenset({"bt", "bts", "btr", "btc"})
SHIFTS = frozenset({"shl", "sal", "shr", "sar"})
ROTATES = frozenset({"rol", "ror", "rcl", "rcr"})


def compute(operation: str, left: int, right: int, size: int, flags: int) -> tuple[int, int]:
    """The result of *operation* on operands of *size* bytes, and RFLAGS after it.

    Undefined flags (AF of the logical operations) are cleared, those of bit tests kept.
    """
    mask = (1 << 8 * size) - 1
    carry = flags & _CF
    if operation in ("add", "adc", "inc", "xadd"):
        right = 1 if operation == "inc" else right
        total = left + right + (carry if operation == "adc" else 0)
        return total & mask, _keep(operation, flags, _sum_flags(left, right, total, mask))
    if operation in ("sub", "sbb", "cmp", "dec", "neg"):
        left, right = (0, left) if operation == "neg" else (left, 1 if operation == "dec" else right)
        total = left - right - (carry if operation == "sbb" else 0)
        return total & mask, _keep(operation, flags, _difference_flags(left, right, total, mask))
    if operation in BIT_TESTS:
        bit = 1 << right % (8 * size)
        result = {"bt": left, "bts": left | bit, "btr": left & ~bit, "btc": left ^ bit}[operation]
        return result, flags & ~_CF | (_CF if left & bit else 0)
    if operation == "not":
        return ~left & mask, flags
    if operation in SHIFTS:
        return _shift(operation, left, right & (0x3F if size == 8 else 0x1F), 8 * size, flags)
    if operation in ROTATES:
        return _rotate(operation, left, right & (0x3F if size == 8 else 0x1F), 8 * size, flags)
    result = {"and": left & right, "test": left & right, "or": left | right, "xor": left ^ right}[operation]
    return result, flags & ~_ARITHMETIC | _result_flags(result, mask)


def _shift(operation: str, value: int, count: int, width: int, flags: int) -> tuple[int, int]:
    """All steps but the last, then the last: its bit is the carry. No step, no flag."""
    if not count:
        return value, flags
    mask, top = (1 << width) - 1, 1 << width - 1
    if operation in ("shl", "sal"):
        before = value << count - 1 & mask
        result, out = before << 1 & mask, before & top
    else:
        signed = value - (1 << width) if operation == "sar" and value & top else value
        before = signed >> count - 1 & mask
        result, out = signed >> count & mask, before & 1
    carry, overflow = _CF if out else 0, _OF if (before ^ result) & top else 0
    return result, flags & ~_ARITHMETIC | _result_flags(result, mask) | carry | overflow


def _rotate(operation: str, value: int, count: int, width: int, flags: int) -> tuple[int, int]:
    """RCL and RCR rotate one bit more, the carry above the value; only CF and OF change, and only by a step."""
    through = operation in ("rcl", "rcr")
    ring = width + 1 if through else width
    if not count or (through and not count % ring):
        return value, flags
    whole = value | (flags & _CF) << width if through else value
    steps = count % ring if operation in ("rol", "rcl") else -count % ring
    turned = (whole << steps | whole >> ring - steps) & (1 << ring) - 1
    result, top = turned & (1 << width) - 1, width - 1
    if through:
        carry, overflow = turned >> width, (value ^ result) >> top & 1
    elif operation == "rol":
        carry, overflow = result & 1, (result >> top ^ result) & 1
    else:
        carry, overflow = result >> top, (result >> top ^ result >> top - 1) & 1
    return result, flags & ~(_CF | _OF) | (_CF if carry else 0) | (_OF if overflow else 0)


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


def holds(condition: int, flags: int) -> bool:
    """The condition that the low four bits of SETcc, CMOVcc and Jcc number; SDM "EFLAGS Condition Codes"."""
    carry, zero, sign, overflow = flags & _CF, flags & _ZF, flags & _SF, flags & _OF
    less = bool(sign) != bool(overflow)
    answer = (overflow, carry, zero, carry or zero, sign, flags & _PF, less, less or zero)[condition >> 1]
    return bool(answer) != bool(condition & 1)

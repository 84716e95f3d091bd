"""What rules find, said the same way everywhere: bits that must be 0 or 1, addresses, capability MSRs.

Each gives None when it holds, else what was found, what is required, and the smallest change of the field.
"""

from __future__ import annotations

from hv.spec.msrs import Msr
from hv.spec.vmcs import VmcsField
from hv.spec.x86 import PAGE_SIZE, Cr3, MemoryType
from hv.vmx.checks.rule import Broken, Entry
from hv.vmx.checks.words import in_words

_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1
_LAM_U57_U48 = int(Cr3.LAM_U57 | Cr3.LAM_U48)
_PAT_TYPES = frozenset(int(kind) for kind in MemoryType)


def are(mask: int) -> str:
    """`is` or `are`, for the bits of *mask*."""
    return "is" if mask.bit_count() == 1 else "are"


def zero(field: VmcsField, value: int, mask: int, why: str = "") -> Broken | None:
    """The bits of *mask* are 0 in *value* of *field*."""
    wrong = value & mask
    if not wrong:
        return None
    return Broken(f"{in_words(field, wrong)} {are(wrong)} 1", f"{'it is' if wrong.bit_count() == 1 else 'they are'} 0"
                  + (f", as {why}" if why else ""), {field: value & ~mask})


def one(field: VmcsField, value: int, mask: int, why: str = "") -> Broken | None:
    """The bits of *mask* are 1 in *value* of *field*."""
    wrong = ~value & mask
    if not wrong:
        return None
    return Broken(f"{in_words(field, wrong)} {are(wrong)} 0", f"{'it is' if wrong.bit_count() == 1 else 'they are'} 1"
                  + (f", as {why}" if why else ""), {field: value | mask})


def within(field: VmcsField, value: int, must: int, may: int, must_why: str, may_why: str) -> Broken | None:
    """*value* has every bit of *must* and none outside *may*."""
    missing, forbidden = must & ~value, value & ~may
    if not missing and not forbidden:
        return None
    found, required = [], []
    if missing:
        found.append(f"{in_words(field, missing)} {are(missing)} 0")
        required.append(f"1 by {must_why}")
    if forbidden:
        found.append(f"{in_words(field, forbidden)} {are(forbidden)} 1")
        required.append(f"0 by {may_why}")
    return Broken("; ".join(found), "; ".join(required), {field: (value | must) & may})


def allowed(entry: Entry, field: VmcsField, value: int, index: Msr) -> Broken | None:
    """The control bits *value* are among what the capability MSR *index* (allowed 0- and 1-settings) says."""
    raw = entry.msrs[index]
    if not raw & _U32 & ~value and not value & ~(raw >> 32):
        return None
    name = f"IA32_{index.name}"
    return within(field, value, raw & _U32, raw >> 32, f"{name} bits 31:0 = {raw & _U32:#x}",
                  f"{name} bits 63:32 = {raw >> 32:#x}")


def allowed_1(entry: Entry, field: VmcsField, value: int, index: Msr) -> Broken | None:
    """The same for 64 control bits, whose MSR has allowed 1-settings only; a missing MSR allows none."""
    raw = entry.msrs.get(index, 0)
    return zero(field, value, ~raw & _U64, f"IA32_{index.name} = {raw:#x} does not offer it")


def _linear(address: int) -> str:
    """Kernels are in the upper half, where no physical address is."""
    return "; it looks like a linear address" if address >> 47 == 0x1_FFFF else ""


def physical(entry: Entry, field: VmcsField, address: int, alignment: int = PAGE_SIZE) -> Broken | None:
    """*address* is a multiple of *alignment* and within the physical-address width."""
    if not address & alignment - 1 and not address >> entry.physical_bits:
        return None
    low, high = address & alignment - 1, address >> entry.physical_bits << entry.physical_bits
    found = [f"{in_words(field, bits)} {are(bits)} 1" for bits in (low, high) if bits]
    return Broken(f"{address:#x}: {'; '.join(found)}{_linear(address)}",
                  f"a multiple of {alignment:#x} below 2^{entry.physical_bits} (the physical-address width)",
                  {field: address & -alignment & (1 << entry.physical_bits) - 1})


def cr3(entry: Entry, field: VmcsField, value: int) -> Broken | None:
    """No bit of CR3 beyond the physical-address width is 1, but LAM_U57 and LAM_U48 where the processor has them."""
    wide = value >> entry.physical_bits
    if not wide:
        return None
    lam = _LAM_U57_U48 if entry.masks_addresses else 0
    return zero(field, value, -1 << entry.physical_bits & _U64 & ~lam,
                f"the physical-address width is {entry.physical_bits} bits")


def canonical(entry: Entry, field: VmcsField, address: int) -> Broken | None:
    """*address* is canonical for the processor's linear-address width."""
    half = entry.canonical_half
    if address + half & _U64 < 2 * half:
        return None
    top = half.bit_length() - 1
    upper = _U64 & ~(2 * half - 1) | half if address & half else 0
    return Broken(f"{address:#x} is not canonical", f"bits 63:{top} all equal", {field: address & half - 1 | upper})


def high_half_zero(field: VmcsField, value: int, why: str = "") -> Broken | None:
    """Bits 63:32 are 0."""
    return zero(field, value, _U64 & ~_U32, why) if value >> 32 else None


def memory_types(field: VmcsField, value: int) -> Broken | None:
    """Each of the eight bytes of a PAT is a memory type: 0, 1, 4, 5, 6 or 7."""
    bytes_ = value.to_bytes(8, "little")
    wrong = [n for n, kind in enumerate(bytes_) if kind not in _PAT_TYPES]
    if not wrong:
        return None
    fixed = bytes(kind if kind in _PAT_TYPES else 0 for kind in bytes_)
    return Broken(", ".join(f"PA{n} is {bytes_[n]:#x}" for n in wrong),
                  "each byte is 0 (UC), 1 (WC), 4 (WT), 5 (WP), 6 (WB) or 7 (UC-)",
                  {field: int.from_bytes(fixed, "little")})


def msr_area(entry: Entry, field: VmcsField, address: int, count: int) -> Broken | None:
    """An MSR area of *count* entries of 16 bytes is 16-byte aligned, and all of it within the physical addresses."""
    if not count or (not address & 0xF and not address + 16 * count - 1 >> entry.physical_bits):
        return None
    limit = 1 << entry.physical_bits
    start = min(address & -16 & limit - 1, limit - 16 * count & -16)
    return Broken(f"{count} entries from {address:#x} to {address + 16 * count - 1:#x}{_linear(address)}",
                  f"a multiple of 16, and the last byte below 2^{entry.physical_bits} (the physical-address width)",
                  {field: start})

"""The guest's own page tables: from a linear address to a guest-physical one, with every rule that can refuse it.

Three formats (32-bit, PAE, 4-level) are three tables of levels, walked by one loop; SDM "Paging". Whoever walks brings
`load` and `store`, so the same walk serves a running guest (second-level translation is behind them) and a bytearray.

# Simplified: no 5-level paging, protection keys, shadow stacks or PCID effects; a PAE walk reads its PDPTE from memory
# and not from the copy that MOV to CR3 took; accessed flags are set only when the whole walk succeeds.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.registers import Registers
from hv.spec.x86 import PAGE_SIZE, PDPTE_RESERVED, Cr0, Cr4, Efer, PageFaultError, PageTableEntry, Vector

Load = Callable[[int, int], int]            # (gpa, size in bytes) -> the little-endian value there
Store = Callable[[int, int, int], None]     # (gpa, value, size in bytes)

PHYSICAL_BITS = 40      # MAXPHYADDR unless said otherwise
LINEAR_32 = (1 << 32) - 1
LINEAR_64 = (1 << 64) - 1

# Plain integers: `&` with an IntFlag would build an enum member at every level of every walk.
_WP, _PG = Cr0.WP.value, Cr0.PG.value
_PSE, _PAE, _SMEP, _SMAP = Cr4.PSE.value, Cr4.PAE.value, Cr4.SMEP.value, Cr4.SMAP.value
_LMA, _NXE = Efer.LMA.value, Efer.NXE.value
_PRESENT = PageTableEntry(present=1).raw
_WRITABLE = PageTableEntry(writable=1).raw
_USER = PageTableEntry(user=1).raw
_ACCESSED = PageTableEntry(accessed=1).raw
_DIRTY = PageTableEntry(dirty=1).raw
_LARGE = PageTableEntry(large=1).raw
_NO_EXECUTE = PageTableEntry(no_execute=1).raw
_SHORT_WAY = _WRITABLE | _USER | _ACCESSED
_READ, _WRITE, _EXECUTE = Access.READ.value, Access.WRITE.value, Access.EXECUTE.value


class PagingFormat(Enum):
    """Which structures translate; SDM "Paging Modes and Control Bits". The value is the manual's name."""

    NONE = "no paging"
    LEGACY = "32-bit"
    PAE = "PAE"
    LONG = "4-level"


class LevelRule(NamedTuple):
    """What one level of a format looks like."""

    name: str               # of an entry, as the manual writes it
    shift: int              # an entry covers 2**shift bytes
    index_mask: int
    large: int              # the PS bit where an entry may map a page itself, else 0
    reserved: int           # bits that must be 0 in an entry that names a table, or is the last
    reserved_large: int     # ... in one that maps a large page
    has_rights: bool = True     # False: a PAE PDPTE has neither U/S nor R/W


class PagingMode(NamedTuple):
    """How linear addresses are translated, and what is refused, at one moment."""

    format: PagingFormat
    root: int               # gpa of the first structure
    entry_size: int         # bytes
    levels: tuple[LevelRule, ...]
    address_mask: int       # bits MAXPHYADDR-1..12
    write_protect: bool     # CR0.WP
    no_execute: bool        # EFER.NXE, and the format has the bit
    smep: bool
    smap: bool
    ac: bool                # RFLAGS.AC lifts SMAP for explicit accesses

    @staticmethod
    def of(state: Registers, physical_bits: int = PHYSICAL_BITS, gigabyte_pages: bool = True) -> PagingMode:
        """The mode that *state*'s control registers select; *gigabyte_pages* is CPUID.80000001H:EDX[26]."""
        return _mode(*state.paging_registers, physical_bits, gigabyte_pages)

    @staticmethod
    def of_values(cr0: int, cr3: int, cr4: int, efer: int) -> PagingMode:
        """The mode that these values would select."""
        return _mode(cr0, cr3, cr4, efer, 0, PHYSICAL_BITS, True)


class WalkLevel(NamedTuple):
    """One paging-structure entry that a walk used."""

    name: str       # "PML4E", "PDPTE", "PDE" or "PTE"
    gpa: int        # of the entry
    raw: int        # its value before the walk set accessed and dirty


class Walk(NamedTuple):
    """A translation: the address found, and the rights that all levels together give."""

    gpa: int            # of the byte asked for
    page_size: int      # bytes mapped by the last entry; 4096 without paging
    levels: list[WalkLevel]
    writable: bool
    user: bool
    executable: bool

    def inspect(self) -> dict[str, Any]:
        """Plain data, for the REPL and for JSON."""
        levels = [level._asdict() for level in self.levels]
        return {"gpa": self.gpa, "page_size": self.page_size, "levels": levels, "writable": self.writable,
                "user": self.user, "executable": self.executable}


class PageFault(GuestFault):
    """#PF, with the walk as far as it came: *levels*, and in words the *reason* it was refused."""

    def __init__(self, code: int, gva: int, levels: list[WalkLevel], reason: str) -> None:
        super().__init__(Vector.PF, code, gva)
        self.levels, self.reason = levels, reason


class NonCanonical(GuestFault):
    """A linear address whose bits 63:47 are not all equal: #GP(0), unless the caller knows it for a stack access."""

    def __init__(self, gva: int) -> None:
        super().__init__(Vector.GP, 0)
        self.gva = gva


def is_canonical(gva: int) -> bool:
    """Bits 63:47 are all equal; SDM "Canonical Addressing"."""
    return gva + (1 << 47) & LINEAR_64 < 1 << 48


def walk(mode: PagingMode, gva: int, access: Access | int, cpl: int, load: Load, store: Store | None = None,
         implicit: bool = False) -> Walk:
    """Translate *gva* for *access* (a read-modify-write is READ | WRITE) made at *cpl*.

    Raises PageFault, or NonCanonical under 4-level paging. A NestedFault of *load* or *store* comes out with its
    `during_walk` and `gva` set. With *store*, accessed and dirty flags are set. *implicit* marks the processor's own
    accesses to GDT, LDT, IDT and TSS: made with cpl 0, and RFLAGS.AC does not excuse them from SMAP.
    """
    if mode.format is PagingFormat.NONE:
        return Walk(gva & LINEAR_32, PAGE_SIZE, [], True, True, True)
    if mode.format is not PagingFormat.LONG:
        gva &= LINEAR_32
    elif not is_canonical(gva):
        raise NonCanonical(gva)
    try:
        return _walk(mode, gva, int(access), cpl, load, store, implicit)
    except NestedFault as fault:
        fault.gva, fault.during_walk = gva, True
        raise


def translate(mode: PagingMode, gva: int, access: int, cpl: int, load: Load, store: Store | None = None,
              implicit: bool = False) -> int:
    """The gpa that `walk` finds, by a short way for what is usual: all entries in order and marked already.

    Whatever is refused, or needs an accessed or dirty flag, is left to `walk`, so the exceptions are the same.
    """
    format = mode.format
    if format is PagingFormat.NONE:
        return gva & LINEAR_32
    if format is PagingFormat.LONG:
        offset = gva
        if not is_canonical(gva):
            raise NonCanonical(gva)
    else:
        offset = gva & LINEAR_32
    try:
        gpa = _short_way(mode, offset, access, cpl, load, implicit)
    except NestedFault:
        gpa = None      # met again, and reported, by the long way
    return walk(mode, gva, access, cpl, load, store, implicit).gpa if gpa is None else gpa


def _short_way(mode: PagingMode, gva: int, access: int, cpl: int, load: Load, implicit: bool) -> int | None:
    table, rights, no_execute, size, mask = mode.root, _SHORT_WAY, 0, mode.entry_size, mode.address_mask
    for _, shift, index_mask, large, reserved, reserved_large, has_rights in mode.levels:
        raw = load(table + (gva >> shift & index_mask) * size, size)
        if has_rights:
            rights &= raw
            no_execute |= raw
        if raw & large:
            reserved = reserved_large
        if not raw & _PRESENT or raw & reserved:
            return None
        table = raw & mask
        if raw & large:
            table = _large_base(mode, raw, 1 << shift)
            break
    if not rights & _ACCESSED or (access & _WRITE and not raw & _DIRTY):
        return None
    if _refusal(mode, access, cpl, rights, no_execute & _NO_EXECUTE, implicit):
        return None
    return table | gva & (1 << shift) - 1


def load_pdptes(mode: PagingMode, load: Load) -> list[int]:
    """The four PDPTEs as MOV to CR3 loads them under PAE paging: #GP(0) when a present one has a reserved bit.

    SDM "PDPTE Registers".
    """
    loaded = [load(mode.root + 8 * n, 8) for n in range(4)]
    if any(raw & _PRESENT and raw & mode.levels[0].reserved for raw in loaded):
        raise GuestFault(Vector.GP, 0)
    return loaded


def _walk(mode: PagingMode, gva: int, access: int, cpl: int, load: Load, store: Store | None, implicit: bool) -> Walk:
    table, rights, no_execute = mode.root, _WRITABLE | _USER, 0
    levels: list[WalkLevel] = []
    for rule in mode.levels:
        entry_gpa = table + (gva >> rule.shift & rule.index_mask) * mode.entry_size
        raw = load(entry_gpa, mode.entry_size)
        levels.append(WalkLevel(rule.name, entry_gpa, raw))
        large = raw & rule.large
        if not raw & _PRESENT:
            raise PageFault(_code(mode, access, cpl, 0), gva, levels, f"{rule.name} is not present")
        if raw & (rule.reserved_large if large else rule.reserved):
            code = _code(mode, access, cpl, PageFaultError.PRESENT | PageFaultError.RESERVED)
            raise PageFault(code, gva, levels, f"{rule.name} has a reserved bit set")
        if rule.has_rights:
            rights &= raw
        no_execute |= raw & _NO_EXECUTE
        if large:
            break
        table = raw & mode.address_mask
    refused = _refusal(mode, access, cpl, rights, no_execute, implicit)
    if refused:
        raise PageFault(_code(mode, access, cpl, PageFaultError.PRESENT), gva, levels, refused)
    if store is not None:
        _mark_used(mode, levels, access, store)
    size = 1 << rule.shift
    base = _large_base(mode, raw, size) if large else table
    return Walk(base | gva & size - 1, size, levels, bool(rights & _WRITABLE), bool(rights & _USER), not no_execute)


def _large_base(mode: PagingMode, raw: int, size: int) -> int:
    if mode.format is not PagingFormat.LEGACY:
        return raw & mode.address_mask & -size
    return raw & 0xFFC0_0000 | (raw >> 13 & 0xFF) << 32     # PSE-36: bits 20:13 are address bits 39:32


def _refusal(mode: PagingMode, access: int, cpl: int, rights: int, no_execute: int, implicit: bool) -> str | None:
    """Why the *rights* of all levels together refuse, in words; SDM "Determination of Access Rights"."""
    if access & _EXECUTE and no_execute and mode.no_execute:
        return "the page is no-execute"
    if cpl == 3:
        if not rights & _USER:
            return "user access to a supervisor page"
        return "write to a read-only page" if access & _WRITE and not rights & _WRITABLE else None
    if rights & _USER:
        if access & _EXECUTE and mode.smep:
            return "SMEP: supervisor fetch from a user page"
        if access & (_READ | _WRITE) and mode.smap and (implicit or not mode.ac):
            return "SMAP: supervisor access to a user page"
    if access & _WRITE and mode.write_protect and not rights & _WRITABLE:
        return "write to a read-only page"
    return None


def _code(mode: PagingMode, access: int, cpl: int, cause: int) -> int:
    """The error code of #PF; SDM "Page-Fault Exceptions". The fetch bit exists only with NX or SMEP enabled."""
    code = int(cause)
    if access & _WRITE:
        code |= PageFaultError.WRITE.value
    if cpl == 3:
        code |= PageFaultError.USER.value
    if access & _EXECUTE and (mode.no_execute or mode.smep):
        code |= PageFaultError.FETCH.value
    return code


def _mark_used(mode: PagingMode, levels: list[WalkLevel], access: int, store: Store) -> None:
    """Set accessed in every entry and, for a write, dirty in the last; a PAE PDPTE has no such flags."""
    for level, rule in zip(levels, mode.levels, strict=False):
        if not rule.has_rights:
            continue
        used = level.raw | _ACCESSED
        if access & _WRITE and level is levels[-1]:
            used |= _DIRTY
        if used != level.raw:
            store(level.gpa, used, mode.entry_size)


@lru_cache(maxsize=256)
def _mode(cr0: int, cr3: int, cr4: int, efer: int, ac: int, physical_bits: int, gigabyte_pages: bool) -> PagingMode:
    levels: tuple[LevelRule, ...]
    if not cr0 & _PG:
        format, root, levels = PagingFormat.NONE, 0, ()
    elif not cr4 & _PAE:
        format, root, levels = PagingFormat.LEGACY, cr3 & 0xFFFF_F000, _legacy_levels(bool(cr4 & _PSE), physical_bits)
    elif efer & _LMA:
        format, root = PagingFormat.LONG, cr3 & _bits(physical_bits, 12)
        levels = _long_levels(bool(efer & _NXE), physical_bits, gigabyte_pages)
    else:
        format, root, levels = PagingFormat.PAE, cr3 & 0xFFFF_FFE0, _pae_levels(bool(efer & _NXE), physical_bits)
    return PagingMode(
        format, root, entry_size=4 if format is PagingFormat.LEGACY else 8, levels=levels,
        address_mask=0xFFFF_F000 if format is PagingFormat.LEGACY else _bits(physical_bits, 12),
        write_protect=bool(cr0 & _WP), no_execute=bool(efer & _NXE) and format is not PagingFormat.LEGACY,
        smep=bool(cr4 & _SMEP), smap=bool(cr4 & _SMAP), ac=bool(ac))


def _bits(end: int, start: int) -> int:
    """A mask of bits *end* - 1 down to *start*."""
    return (1 << end) - (1 << start) if end > start else 0


def _legacy_levels(pse: bool, physical_bits: int) -> tuple[LevelRule, ...]:
    """32-bit paging: 2 levels of 4-byte entries; bit 21 of a 4 MiB entry is reserved, and PSE-36 bits out of reach."""
    beyond = _bits(21, 13 + max(physical_bits - 32, 0)) | 1 << 21
    return (LevelRule("PDE", 22, 0x3FF, _LARGE if pse else 0, 0, beyond),
            LevelRule("PTE", 12, 0x3FF, 0, 0, 0))


def _pae_levels(nxe: bool, physical_bits: int) -> tuple[LevelRule, ...]:
    """PAE paging: 4 PDPTEs without rights, then 2 levels of 8-byte entries in which bits 62:MAXPHYADDR are reserved."""
    high = _bits(63, physical_bits) | (0 if nxe else _NO_EXECUTE)
    return (LevelRule("PDPTE", 30, 3, 0, PDPTE_RESERVED | _bits(64, physical_bits), 0, has_rights=False),
            LevelRule("PDE", 21, 0x1FF, _LARGE, high, high | _bits(21, 13)),
            LevelRule("PTE", 12, 0x1FF, 0, high, 0))


def _long_levels(nxe: bool, physical_bits: int, gigabyte_pages: bool) -> tuple[LevelRule, ...]:
    """4-level paging; PS is reserved in a PML4E, and in a PDPTE of a processor without 1 GiB pages."""
    high = _bits(52, physical_bits) | (0 if nxe else _NO_EXECUTE)
    gigabyte = LevelRule("PDPTE", 30, 0x1FF, _LARGE, high, high | _bits(30, 13))
    if not gigabyte_pages:
        gigabyte = gigabyte._replace(large=0, reserved=high | _LARGE)
    return (LevelRule("PML4E", 39, 0x1FF, 0, high | _LARGE, 0), gigabyte,
            LevelRule("PDE", 21, 0x1FF, _LARGE, high, high | _bits(21, 13)),
            LevelRule("PTE", 12, 0x1FF, 0, high, 0))

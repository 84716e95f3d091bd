"""What a processor's registers are to the code that interprets them: segments, descriptor tables, and the whole set.

`Segment` is a segment register with its hidden part, in the access-rights format of VMX (SDM "Guest Register State").
`Registers` is the protocol which paging, event delivery and instruction decoding ask for; the processor's own state and
the fakes of the tests satisfy it alike.
"""

from __future__ import annotations

from collections.abc import Hashable, MutableMapping
from typing import NamedTuple, Protocol, Self

from hv.spec.x86 import AccessRights, CodeDataBits

# Plain integers: `&` with an IntFlag would build an enum member every time.
TYPE = AccessRights(type=0xF).raw
ACCESSED = CodeDataBits.ACCESSED.value
WRITABLE = CodeDataBits.WRITABLE.value          # of code: readable
CONFORMING = CodeDataBits.CONFORMING.value      # of data: expand-down
CODE = CodeDataBits.CODE.value
CODE_OR_DATA = AccessRights(s=1).raw
PRESENT = AccessRights(present=1).raw
LONG = AccessRights(long=1).raw
BIG = AccessRights(big=1).raw
GRANULAR = AccessRights(granularity=1).raw
UNUSABLE = AccessRights(unusable=1).raw

REAL_DATA_RIGHTS = 0x93         # present, read/write data, accessed
_DESCRIPTOR_RIGHTS = 0xF0FF     # bits of (descriptor >> 40) which are rights; between them is limit[19:16]


class Segment(NamedTuple):
    """A segment register: what software sees (*selector*) and what the processor uses (*base*, *limit*, *rights*).

    *limit* is in bytes, granularity already applied; *rights* is in the VMX format, bit 16 = unusable.
    """

    selector: int
    base: int
    limit: int
    rights: int

    @classmethod
    def from_descriptor(cls, selector: int, raw: int) -> Self:
        """The segment that loading *selector* gives when its descriptor is *raw*; SDM "Segment Descriptors".

        *raw* is an integer of 8 bytes, or of 16 for a long-mode TSS or LDT. Nothing is checked here.
        """
        limit = raw & 0xFFFF | raw >> 32 & 0xF_0000
        rights = raw >> 40 & _DESCRIPTOR_RIGHTS
        if rights & GRANULAR:
            limit = limit << 12 | 0xFFF
        base = raw >> 16 & 0xFF_FFFF | raw >> 32 & 0xFF00_0000 | (raw >> 64 & 0xFFFF_FFFF) << 32
        return cls(selector, base, limit, rights)

    @classmethod
    def null(cls, selector: int = 0) -> Self:
        """The register after a null selector was loaded: unusable; its DPL repeats the selector's RPL."""
        return cls(selector, 0, 0, UNUSABLE | (selector & 3) << 5)

    @property
    def type(self) -> int:
        """The four type bits; their meaning depends on `code_or_data`."""
        return self.rights & TYPE

    @property
    def dpl(self) -> int:
        """Descriptor privilege level, 0..3."""
        return self.rights >> 5 & 3

    @property
    def rpl(self) -> int:
        """Requested privilege level, the low bits of the selector."""
        return self.selector & 3

    @property
    def present(self) -> bool:
        return bool(self.rights & PRESENT)

    @property
    def usable(self) -> bool:
        return not self.rights & UNUSABLE

    @property
    def code_or_data(self) -> bool:
        """S = 1; otherwise a system segment (TSS, LDT, gate)."""
        return bool(self.rights & CODE_OR_DATA)

    @property
    def code(self) -> bool:
        """A code segment."""
        return self.rights & (CODE_OR_DATA | CODE) == CODE_OR_DATA | CODE

    @property
    def data(self) -> bool:
        """A data or stack segment."""
        return self.rights & (CODE_OR_DATA | CODE) == CODE_OR_DATA

    @property
    def writable(self) -> bool:
        """A data segment that may be written."""
        return self.data and bool(self.rights & WRITABLE)

    @property
    def readable(self) -> bool:
        """A data segment, or a code segment with the readable bit."""
        return self.data or (self.code and bool(self.rights & WRITABLE))

    @property
    def conforming(self) -> bool:
        """A code segment which keeps its caller's privilege."""
        return self.code and bool(self.rights & CONFORMING)

    @property
    def expand_down(self) -> bool:
        """A data segment whose valid offsets lie above its limit."""
        return self.data and bool(self.rights & CONFORMING)

    @property
    def long(self) -> bool:
        """L = 1: 64-bit code (when EFER.LMA = 1)."""
        return bool(self.rights & LONG)

    @property
    def big(self) -> bool:
        """D/B = 1: 32-bit code or stack."""
        return bool(self.rights & BIG)

    def inspect(self) -> dict[str, int]:
        """Plain data, for the REPL and for JSON."""
        return {"selector": self.selector, "base": self.base, "limit": self.limit, "rights": self.rights}


class Table(NamedTuple):
    """A descriptor-table register (GDTR, IDTR): linear *base*, and *limit* in bytes, the last valid offset."""

    base: int
    limit: int


def real_mode_segment(selector: int) -> Segment:
    """The segment that a load of *selector* gives in real-address mode: base is selector * 16, limit 64 KiB."""
    return Segment(selector, selector << 4, 0xFFFF, REAL_DATA_RIGHTS)


def virtual_8086_segment(selector: int) -> Segment:
    """The segment that a load of *selector* gives in virtual-8086 mode: as in real mode, but of privilege 3."""
    return Segment(selector, selector << 4, 0xFFFF, REAL_DATA_RIGHTS | 3 << 5)


class Registers(Protocol):
    """The registers of one logical processor, all readable and writable; integers hold the unsigned value."""

    rax: int
    rcx: int
    rdx: int
    rbx: int
    rsp: int
    rbp: int
    rsi: int
    rdi: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    rip: int
    rflags: int
    cpl: int
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    efer: int
    dr6: int
    dr7: int
    es: Segment
    cs: Segment
    ss: Segment
    ds: Segment
    fs: Segment
    gs: Segment
    ldtr: Segment
    tr: Segment
    gdtr: Table
    idtr: Table
    interrupt_shadow: bool
    @property
    def paging_registers(self) -> tuple[int, int, int, int, int]: ...   # CR0, CR3, CR4, EFER, RFLAGS.AC in its place
    @property
    def interrupted(self) -> tuple[int, int, int, int, int]: ...    # RIP, CS, RFLAGS, RSP, SS, the selectors of the two
    def continue_at(self, rip: int, rflags: int, rsp: int) -> None: ...     # and no shadow of STI or MOV SS
    @property
    def descriptor_tables(self) -> Hashable: ...                # differs when LDTR, GDTR or IDTR does
    @property
    def msrs(self) -> MutableMapping[int, int]: ...

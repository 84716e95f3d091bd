"""The processor's own words: control-register bits, vectors, descriptors, gates, TSS and paging-structure entries.

What Intel's manual volume 3A says and no hypervisor invented. Nothing here behaves; `hv/machine/` does.
"""

from __future__ import annotations

from hv.spec.layout import Layout, Register, bits, u16, u32, u64
from hv.spec.numbering import Flags, Numbering


class Cr0(Flags):
    """SDM "Control Registers", CR0."""

    PE = 1 << 0     # protection enable
    MP = 1 << 1     # WAIT obeys TS
    EM = 1 << 2
    TS = 1 << 3
    ET = 1 << 4     # always 1 since the 486
    NE = 1 << 5     # x87 errors are #MF, not an external interrupt
    WP = 1 << 16    # read-only pages hold for the supervisor too
    AM = 1 << 18
    NW = 1 << 29
    CD = 1 << 30
    PG = 1 << 31


class Cr3(Flags):
    """The two cache bits of CR3, those of linear-address masking, and the one which keeps the TLB (CR4.PCIDE = 1)."""

    PWT = 1 << 3
    PCD = 1 << 4
    LAM_U57 = 1 << 61     # user addresses carry metadata in bits 62:57
    LAM_U48 = 1 << 62     # in bits 62:48
    NO_FLUSH = 1 << 63    # only in the source of MOV to CR3; never read back


class Cr4(Flags):
    """SDM "Control Registers", CR4."""

    VME = 1 << 0
    PVI = 1 << 1
    TSD = 1 << 2          # RDTSC needs CPL 0
    DE = 1 << 3           # DR4 and DR5 are #UD, not aliases
    PSE = 1 << 4
    PAE = 1 << 5
    MCE = 1 << 6
    PGE = 1 << 7
    PCE = 1 << 8          # RDPMC at any CPL
    OSFXSR = 1 << 9
    OSXMMEXCPT = 1 << 10
    UMIP = 1 << 11
    LA57 = 1 << 12
    VMXE = 1 << 13
    SMXE = 1 << 14
    FSGSBASE = 1 << 16
    PCIDE = 1 << 17
    OSXSAVE = 1 << 18
    KL = 1 << 19
    SMEP = 1 << 20
    SMAP = 1 << 21
    PKE = 1 << 22
    CET = 1 << 23
    PKS = 1 << 24
    UINTR = 1 << 25
    LAM_SUP = 1 << 28


class Efer(Flags):
    """IA32_EFER. SVME and the two after it exist on AMD processors only; the engine here is one."""

    SCE = 1 << 0      # SYSCALL enable
    LME = 1 << 8      # long mode enable
    LMA = 1 << 10     # long mode active; follows LME and CR0.PG
    NXE = 1 << 11
    SVME = 1 << 12
    LMSLE = 1 << 13
    FFXSR = 1 << 14


class Rflags(Flags):
    """SDM "EFLAGS Register". Bit 1 always reads 1."""

    CF = 1 << 0
    FIXED = 1 << 1
    PF = 1 << 2
    AF = 1 << 4
    ZF = 1 << 6
    SF = 1 << 7
    TF = 1 << 8
    IF = 1 << 9
    DF = 1 << 10
    OF = 1 << 11
    IOPL = 3 << 12
    NT = 1 << 14
    RF = 1 << 16
    VM = 1 << 17
    AC = 1 << 18
    VIF = 1 << 19
    VIP = 1 << 20
    ID = 1 << 21


# The six flags a VMX instruction answers with; SDM "VMX Instruction Reference", Conventions.
ARITHMETIC_FLAGS = Rflags.CF | Rflags.PF | Rflags.AF | Rflags.ZF | Rflags.SF | Rflags.OF
# Bits 63:22, 15, 5 and 3 are 0, bit 1 is 1: the shape VM entry wants (SDM "Checks on Guest RIP, RFLAGS, and SSP").
RFLAGS_DEFINED = (1 << 22) - 1 & ~(1 << 15 | 1 << 5 | 1 << 3)


# --- Exceptions ----------------------------------------------------------------------------------

class Vector(Numbering):
    """SDM "Exceptions and Interrupts": the vectors the processor itself uses. 32..255 are the system's."""

    DE = 0      # divide error
    DB = 1      # debug
    NMI = 2
    BP = 3      # INT3
    OF = 4      # INTO
    BR = 5      # BOUND
    UD = 6      # invalid opcode
    NM = 7      # no math: device not available
    DF = 8      # double fault
    CSO = 9     # coprocessor segment overrun; none since the 386
    TS = 10     # invalid TSS
    NP = 11     # segment not present
    SS = 12     # stack segment
    GP = 13     # general protection
    PF = 14     # page fault
    MF = 16     # x87 error
    AC = 17     # alignment check
    MC = 18     # machine check
    XM = 19     # SIMD error
    VE = 20     # virtualization exception
    CP = 21     # control protection
    HV = 28     # AMD: hypervisor injection
    VC = 29     # AMD: VMM communication
    SX = 30     # AMD: security


FIRST_SYSTEM_VECTOR = 32      # below are the processor's own
LOWEST_APIC_VECTOR = 16       # a local APIC refuses 0..15

PUSHES_ERROR_CODE = frozenset({
    Vector.DF, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.PF, Vector.AC, Vector.CP, Vector.VC, Vector.SX,
})
# VM entry knows no AMD exception: only these may carry one ("Checks on VM-Entry Control Fields").
ENTRY_DELIVERS_ERROR_CODE = PUSHES_ERROR_CODE - {Vector.VC, Vector.SX}
CONTRIBUTORY = frozenset({Vector.DE, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.CP, Vector.SX})
PAGE_FAULT_CLASS = frozenset({Vector.PF, Vector.VE})
# Traps and aborts; the rest of 0..31 are faults. #DB is either, so its RF follows from what raised it.
TRAPS = frozenset({Vector.BP, Vector.OF})
ABORTS = frozenset({Vector.DF, Vector.MC})
FAULTS = frozenset(Vector) - TRAPS - ABORTS - {Vector.DB, Vector.NMI, Vector.HV}
# RF = 1 in the pushed image, so that an instruction breakpoint does not hit again after IRET.
PUSHES_RF = FAULTS


class PageFaultError(Flags):
    """The error code #PF pushes; SDM "Page-Fault Exceptions"."""

    PRESENT = 1 << 0      # 0: an entry was not present; 1: the rights refused
    WRITE = 1 << 1
    USER = 1 << 2
    RESERVED = 1 << 3     # a reserved bit was set in an entry
    FETCH = 1 << 4
    PROTECTION_KEY = 1 << 5
    SHADOW_STACK = 1 << 6
    HLAT = 1 << 7
    SGX = 1 << 15


class SelectorErrorCode(Register):
    """The error code of #TS, #NP, #SS and #GP when a selector or a gate is to blame; SDM "Error Code"."""

    WIDTH = 32

    external = bits(0)    # the event being delivered came from outside the program
    idt = bits(1)         # index counts gates of the IDT
    ldt = bits(2)         # TI: index counts descriptors of the LDT (when idt = 0)
    index = bits(15, 3)


# --- Segments ------------------------------------------------------------------------------------

class Selector(Register):
    """A segment selector; SDM "Segment Selectors". index 0 with ti 0 is the null selector, whatever its RPL."""

    WIDTH = 16

    rpl = bits(1, 0)
    ti = bits(2)          # 0 = GDT, 1 = LDT
    index = bits(15, 3)


class AccessRights(Register):
    """A segment's rights as the VMCS keeps them; SDM "Guest Register State". Bits 11:8 are 0."""

    WIDTH = 32

    type = bits(3, 0)     # CodeDataType or SystemType
    s = bits(4)           # 1 = code or data, 0 = system
    dpl = bits(6, 5)
    present = bits(7)
    available = bits(12)  # for software
    long = bits(13)       # CS: 64-bit code
    big = bits(14)        # D/B: 32-bit default
    granularity = bits(15)    # the limit counts 4 KiB units
    unusable = bits(16)


class CodeDataBits(Flags):
    """The type of a code or data segment (S = 1)."""

    ACCESSED = 1
    WRITABLE = 2          # data: writable. code: readable
    READABLE = 2
    EXPAND_DOWN = 4       # data
    CONFORMING = 4        # code
    CODE = 8


class SystemType(Numbering):
    """The type of a system descriptor or gate (S = 0); SDM "System Descriptor Types".

    64-bit mode knows 2, 9, B, C, E and F only.
    """

    TSS16_AVAILABLE = 1
    LDT = 2
    TSS16_BUSY = 3
    CALL_GATE16 = 4
    TASK_GATE = 5
    INTERRUPT_GATE16 = 6
    TRAP_GATE16 = 7
    TSS_AVAILABLE = 9     # 32 or 64 bit
    TSS_BUSY = 11
    CALL_GATE = 12
    INTERRUPT_GATE = 14
    TRAP_GATE = 15


class SegmentDescriptor(Register):
    """8 bytes of a GDT or LDT; SDM "Segment Descriptors". A system descriptor of 64-bit mode has 8 more."""

    limit_low = bits(15, 0)
    base_low = bits(39, 16)
    type = bits(43, 40)
    s = bits(44)
    dpl = bits(46, 45)
    present = bits(47)
    limit_high = bits(51, 48)
    available = bits(52)
    long = bits(53)
    big = bits(54)
    granularity = bits(55)
    base_high = bits(63, 56)

    @property
    def base(self) -> int:
        """The 32-bit base that stands in two pieces."""
        return self.base_high << 24 | self.base_low

    @property
    def limit(self) -> int:
        """The limit in bytes: the last offset that is inside."""
        limit = self.limit_high << 16 | self.limit_low
        return limit << 12 | 0xFFF if self.granularity else limit

    @property
    def rights(self) -> AccessRights:
        """The same rights in the VMCS's form."""
        return AccessRights(self.raw >> 40 & 0xF0FF)

    @classmethod
    def of(cls, base: int, limit: int, rights: int) -> SegmentDescriptor:
        """The descriptor of a 32-bit *base*, a *limit* in bytes and VMX *rights*; ValueError when one does not fit."""
        if rights & AccessRights.RESERVED or rights >> 16:
            raise ValueError(f"access rights {rights:#x} do not fit a descriptor")
        units = limit >> 12 if rights >> 15 & 1 else limit
        made = cls(rights << 40)
        made.limit_low, made.limit_high = units & 0xFFFF, units >> 16
        made.base_low, made.base_high = base & 0xFFFFFF, base >> 24
        return made


class SystemDescriptor64(Layout):
    """A TSS or LDT descriptor of 64-bit mode: 16 bytes."""

    low: u64              # SegmentDescriptor
    base_63_32: u32
    reserved: u32


class GateDescriptor(Register):
    """An 8-byte gate of the IDT, or the lower half of a 16-byte one; SDM "IDT Descriptors"."""

    offset_low = bits(15, 0)
    selector = bits(31, 16)       # task gate: of the TSS
    ist = bits(34, 32)            # 64-bit mode only; 0 = none
    type = bits(43, 40)           # SystemType
    s = bits(44)                  # 0
    dpl = bits(46, 45)            # INT n, INT3 and INTO need CPL <= this
    present = bits(47)
    offset_high = bits(63, 48)

    @property
    def offset(self) -> int:
        """Bits 31:0 of the handler's address."""
        return self.offset_high << 16 | self.offset_low

    @classmethod
    def of(cls, offset: int, selector: int, type: int, dpl: int = 0, ist: int = 0) -> GateDescriptor:
        """A present gate to *selector*:*offset* (bits 31:0 of it)."""
        return cls(offset_low=offset & 0xFFFF, offset_high=offset >> 16 & 0xFFFF,
                   selector=selector, type=type, dpl=dpl, ist=ist, present=1)


class CallGateDescriptor(Register):
    """A call gate or task gate of the GDT or LDT, outside IA-32e mode; SDM "Call Gates", "Task-Gate Descriptor"."""

    offset_low = bits(15, 0)
    selector = bits(31, 16)         # task gate: of the TSS
    parameter_count = bits(36, 32)  # words copied to an inner stack
    type = bits(43, 40)             # SystemType
    s = bits(44)                    # 0
    dpl = bits(46, 45)
    present = bits(47)
    offset_high = bits(63, 48)

    @property
    def offset(self) -> int:
        """Where in the code segment it leads."""
        return self.offset_high << 16 | self.offset_low


class GateDescriptor64(Layout):
    """A gate of 64-bit mode: 16 bytes."""

    low: u64              # GateDescriptor
    offset_63_32: u32
    reserved: u32


class TablePointer32(Layout):
    """What LGDT and LIDT read outside 64-bit mode: 6 bytes."""

    limit: u16
    base: u32


class TablePointer64(Layout):
    """What LGDT and LIDT read in 64-bit mode: 10 bytes."""

    limit: u16
    base: u64


class Tss32(Layout):
    """SDM "Task-State Segment (TSS)"; 104 bytes, then the I/O permission bitmap somewhere at io_map_base."""

    back_link: u16
    reserved_0: u16
    esp0: u32
    ss0: u16
    reserved_1: u16
    esp1: u32
    ss1: u16
    reserved_2: u16
    esp2: u32
    ss2: u16
    reserved_3: u16
    cr3: u32
    eip: u32
    eflags: u32
    eax: u32
    ecx: u32
    edx: u32
    ebx: u32
    esp: u32
    ebp: u32
    esi: u32
    edi: u32
    es: u16
    reserved_4: u16
    cs: u16
    reserved_5: u16
    ss: u16
    reserved_6: u16
    ds: u16
    reserved_7: u16
    fs: u16
    reserved_8: u16
    gs: u16
    reserved_9: u16
    ldtr: u16
    reserved_10: u16
    trap: u16             # bit 0: #DB after a switch to this task
    io_map_base: u16      # from the start of the TSS


class Tss64(Layout):
    """SDM "Task Management in 64-bit Mode"; 104 bytes: stack pointers only, no task switching."""

    reserved_0: u32
    rsp0: u64
    rsp1: u64
    rsp2: u64
    reserved_1: u64
    ist1: u64
    ist2: u64
    ist3: u64
    ist4: u64
    ist5: u64
    ist6: u64
    ist7: u64
    reserved_2: u64
    reserved_3: u16
    io_map_base: u16


# --- Paging --------------------------------------------------------------------------------------

class PageTableEntry(Register):
    """One entry of a PAE or 4-level paging structure; SDM "Linear-Address Translation with 4-Level Paging"."""

    present = bits(0)
    writable = bits(1)
    user = bits(2)
    write_through = bits(3)
    cache_disable = bits(4)
    accessed = bits(5)
    dirty = bits(6)       # of the entry that maps the page
    large = bits(7)       # PS: maps a 2 MiB or 1 GiB page. In a last-level entry: PAT
    global_ = bits(8)
    ignored_low = bits(11, 9)
    frame = bits(51, 12)  # page number of the next table or the page; bit 12 is PAT when large
    ignored_high = bits(58, 52)
    protection_key = bits(62, 59)
    no_execute = bits(63)     # reserved while EFER.NXE = 0


class PageTableEntry32(Register):
    """One entry of a 32-bit paging structure; SDM "Linear-Address Translation with 32-Bit Paging"."""

    WIDTH = 32

    present = bits(0)
    writable = bits(1)
    user = bits(2)
    write_through = bits(3)
    cache_disable = bits(4)
    accessed = bits(5)
    dirty = bits(6)
    large = bits(7)       # a 4 MiB page when CR4.PSE = 1: bits 31:22 address, 20:13 are address bits 39:32
    global_ = bits(8)
    ignored = bits(11, 9)
    frame = bits(31, 12)


PDPTE_RESERVED = 0x1E6        # bits 8:5 and 2:1 of a PAE PDPTE; the bits from MAXPHYADDR up are reserved too


# --- Debug registers -----------------------------------------------------------------------------

class Dr6(Flags):
    """SDM "Debug Status Register (DR6)"."""

    B0 = 1 << 0
    B1 = 1 << 1
    B2 = 1 << 2
    B3 = 1 << 3
    BLD = 1 << 11         # inverted: 0 = a bus lock was detected
    BD = 1 << 13          # a MOV to or from DR met DR7.GD
    BS = 1 << 14          # single step
    BT = 1 << 15          # task switch
    RTM = 1 << 16         # inverted


DR6_RESET = 0xFFFF0FF0
DR7_RESET = 0x400
DR6_WRITABLE = 0xE00F   # the other bits are as after reset, whatever is written
DR7_WRITABLE = 0xFFFF23FF


class Dr7(Register):
    """SDM "Debug Control Register (DR7)"."""

    l0 = bits(0)
    g0 = bits(1)
    l1 = bits(2)
    g1 = bits(3)
    l2 = bits(4)
    g2 = bits(5)
    l3 = bits(6)
    g3 = bits(7)
    le = bits(8)
    ge = bits(9)
    fixed = bits(10)      # reads 1
    rtm = bits(11)
    gd = bits(13)         # the next DR access is #DB; cleared by that #DB
    rw0 = bits(17, 16)    # BreakOn
    len0 = bits(19, 18)   # 0: 1 byte, 1: 2, 2: 8, 3: 4
    rw1 = bits(21, 20)
    len1 = bits(23, 22)
    rw2 = bits(25, 24)
    len2 = bits(27, 26)
    rw3 = bits(29, 28)
    len3 = bits(31, 30)


class BreakOn(Numbering):
    """RWn of DR7."""

    EXECUTE = 0
    WRITE = 1
    IO = 2                # with CR4.DE = 1 only
    READ_WRITE = 3


# --- Sizes and small facts -----------------------------------------------------------------------

PAGE_SIZE = 4096
PAGE_SHIFT = 12
LARGE_PAGE_SIZE = 2 << 20
LARGE_PAGES = LARGE_PAGE_SIZE // PAGE_SIZE        # pages of 4 KiB in one of 2 MiB
HUGE_PAGE_SIZE = 1 << 30
MAX_INSTRUCTION_LENGTH = 15   # bytes; a longer one is #GP


class MemoryType(Numbering):
    """SDM "Methods of Caching Available"; numbers as in MTRRs, PAT and EPT."""

    UC = 0
    WC = 1
    WT = 4
    WP = 5
    WB = 6
    UC_MINUS = 7          # PAT only


PAT_RESET = 0x0007040600070406

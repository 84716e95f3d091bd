"""The second level of translation as VT-x reads it: pointer, entries, rights, and what a refusal says.

SDM "The Extended Page Table Mechanism (EPT)". Left out: sub-page permissions and HLAT are named, and nothing uses them.
"""

from __future__ import annotations

from hv.spec.layout import Layout, Register, bits, u16, u32, u64
from hv.spec.numbering import Flags, Numbering

ENTRIES_PER_TABLE = 512
WALK_LEVELS = 4
GPA_BITS = 48             # what four levels translate


class EptMemoryType(Numbering):
    """The memory types an EPT leaf or EPTP may name; 2, 3 and 7 are a misconfiguration."""

    UC = 0
    WC = 1
    WT = 4
    WP = 5
    WB = 6


class EptRights(Flags):
    """Bits 2:0 of an entry. Bit 10 counts only with mode-based execute control."""

    NONE = 0
    READ = 1 << 0
    WRITE = 1 << 1
    EXECUTE = 1 << 2
    USER_EXECUTE = 1 << 10
    ALL = 7


class Eptp(Register):
    """The EPT pointer of the VMCS; SDM "Extended-Page-Table Pointer (EPTP)"."""

    memory_type = bits(2, 0)      # of the tables themselves: UC or WB
    walk_length = bits(5, 3)      # levels minus one: 3
    accessed_dirty = bits(6)      # keep accessed and dirty flags
    shadow_stack = bits(7)
    root = bits(51, 12)           # page number of the PML4 table

    @property
    def ep4ta(self) -> int:
        """The physical address that tags guest-physical and combined mappings."""
        return self.raw & 0x000F_FFFF_FFFF_F000


class EptEntry(Register):
    """One of 512 entries of a table at any level; the comments say where a field means something else or nothing."""

    read = bits(0)
    write = bits(1)
    execute = bits(2)             # supervisor only, when mode-based execute control is on
    memory_type = bits(5, 3)      # leaves; reserved 0 elsewhere
    ignore_pat = bits(6)          # leaves; reserved 0 elsewhere
    large = bits(7)               # a PDPTE or PDE that is a leaf; reserved 0 in a PML4E, ignored in a PTE
    accessed = bits(8)            # ignored unless Eptp.accessed_dirty
    dirty = bits(9)               # leaves; ignored unless Eptp.accessed_dirty
    user_execute = bits(10)       # with mode-based execute control
    ignored_11 = bits(11)
    frame = bits(51, 12)          # page number; a large leaf keeps its low 9 or 18 bits 0
    ignored_56_52 = bits(56, 52)
    verify_paging = bits(57)
    paging_write = bits(58)
    ignored_59 = bits(59)
    shadow_stack = bits(60)
    sub_page_write = bits(61)     # PTE
    ignored_62 = bits(62)
    suppress_ve = bits(63)        # leaf, or the entry found not present

    @property
    def present(self) -> bool:
        """Some right is there. (Mode-based execute control counts bit 10 too; see `EptRights`.)"""
        return bool(self.raw & EptRights.ALL)

    @property
    def rights(self) -> EptRights:
        """Read, write and execute of this entry alone."""
        return EptRights(self.raw & EptRights.ALL)

    @property
    def address(self) -> int:
        """Physical address of the next table or of the page."""
        return self.raw & 0x000F_FFFF_FFFF_F000


# W without R, and X without R when the processor lacks execute-only; SDM "EPT Misconfigurations".
MISCONFIGURED_RIGHTS = frozenset({EptRights.WRITE, EptRights.WRITE | EptRights.EXECUTE})
EXECUTE_ONLY_RIGHTS = EptRights.EXECUTE


class EptViolationQualification(Register):
    """Exit qualification of reason 48; SDM "Exit Qualification for EPT Violations"."""

    read = bits(0)                # what was tried; a read-modify-write sets both
    write = bits(1)
    fetch = bits(2)
    readable = bits(3)            # what the entries allowed: the AND over all levels, 0 when one is not present
    writable = bits(4)
    executable = bits(5)
    user_executable = bits(6)     # with mode-based execute control
    linear_valid = bits(7)        # the guest linear address field holds one
    final = bits(8)               # 1: access to the page itself, 0: to a guest paging structure on the way
    linear_user = bits(9)         # 9..11: only with advanced information, and bits 7 and 8
    linear_writable = bits(10)
    linear_no_execute = bits(11)
    nmi_unblocking = bits(12)     # an IRET had already removed NMI blocking
    shadow_stack_access = bits(13)
    shadow_stack_page = bits(14)
    paging_verification = bits(15)
    asynchronous = bits(16)


class InveptType(Numbering):
    """Register operand of INVEPT."""

    SINGLE_CONTEXT = 1
    ALL_CONTEXT = 2


class InvvpidType(Numbering):
    """Register operand of INVVPID."""

    INDIVIDUAL_ADDRESS = 0
    SINGLE_CONTEXT = 1
    ALL_CONTEXT = 2
    SINGLE_CONTEXT_RETAINING_GLOBALS = 3


class InveptDescriptor(Layout):
    """Memory operand of INVEPT: 16 bytes."""

    eptp: u64
    reserved: u64


class InvvpidDescriptor(Layout):
    """Memory operand of INVVPID: 16 bytes."""

    vpid: u16
    reserved_0: u16
    reserved_1: u32
    linear_address: u64


class EptVpidCap(Register):
    """IA32_VMX_EPT_VPID_CAP: what this processor's EPT and VPID can do."""

    execute_only = bits(0)
    walk_length_4 = bits(6)
    walk_length_5 = bits(7)
    memory_type_uc = bits(8)
    memory_type_wb = bits(14)
    page_2m = bits(16)
    page_1g = bits(17)
    invept = bits(20)
    accessed_dirty = bits(21)
    advanced_violation_information = bits(22)
    shadow_stack = bits(23)
    invept_single_context = bits(25)
    invept_all_context = bits(26)
    invvpid = bits(32)
    invvpid_individual_address = bits(40)
    invvpid_single_context = bits(41)
    invvpid_all_context = bits(42)
    invvpid_single_context_retaining_globals = bits(43)
    max_hlat_prefix_size = bits(53, 48)


class VirtualizationExceptionArea(Layout):
    """What #VE leaves for the guest; SDM "Convertible EPT Violations". 34 bytes at the start of a page."""

    reason: u32                   # 48
    busy: u32                     # FFFFFFFF while the guest has not finished; 0 lets the next #VE through
    exit_qualification: u64
    guest_linear_address: u64
    guest_physical_address: u64
    eptp_index: u16

"""The DMA and interrupt remapping unit as Intel's "Virtualization Technology for Directed I/O" lays it out.

Registers, the tables in memory (root, context, second level, interrupt remapping), invalidation descriptors, fault
records and fault reasons. Legacy mode only: scalable mode, PASIDs and page requests have no declaration here. No
behaviour: that is `hv/iommu/`.
"""

from __future__ import annotations

from typing import ClassVar

from hv.spec.layout import Register, bits
from hv.spec.numbering import Numbering

ENTRY_SIZE = 16                 # bytes of a root, context, interrupt remapping entry, descriptor and fault record
HOST_ADDRESS_WIDTH = 46         # bits of a physical address that the unit can produce
GUEST_ADDRESS_WIDTH = 48        # MGAW: bits of the largest address a device may use
MAXIMUM_ADDRESS_MASK = 18       # MAMV: largest page-selective invalidation is 2^18 pages
IOTLB_OFFSET = 0x0F0            # of IVA; the IOTLB register follows
FAULT_OFFSET = 0x220            # of the first fault record
FAULT_RECORDS = 8
REGISTERS_SIZE = 4096           # bytes of the register file
IGNORED_FUNCTION_BITS = (0b000, 0b100, 0b110, 0b111)    # of a requester id, by FM of an invalidation and SQ of an Irte


class VtdRegister(Numbering):
    """Offsets in the register file; VT-d "Register Descriptions"."""

    VER = 0x000
    CAP = 0x008
    ECAP = 0x010
    GCMD = 0x018
    GSTS = 0x01C
    RTADDR = 0x020
    CCMD = 0x028
    FSTS = 0x034
    FECTL = 0x038
    FEDATA = 0x03C
    FEADDR = 0x040
    FEUADDR = 0x044
    PMEN = 0x064
    IQH = 0x080
    IQT = 0x088
    IQA = 0x090
    ICS = 0x09C
    IECTL = 0x0A0
    IEDATA = 0x0A4
    IEADDR = 0x0A8
    IEUADDR = 0x0AC
    IQERCD = 0x0B0
    IRTA = 0x0B8
    IVA = IOTLB_OFFSET
    IOTLB = IOTLB_OFFSET + 8
    FRCD = FAULT_OFFSET


# The registers of 8 bytes; the others have 4. Fault records are 16 and come apart.
WIDE_REGISTERS = frozenset(VtdRegister[name] for name in (
    "CAP", "ECAP", "RTADDR", "CCMD", "IQH", "IQT", "IQA", "IQERCD", "IRTA", "IVA", "IOTLB"))


class FaultReason(Numbering):
    """Why the unit blocked a request; VT-d "Fault Reason Encodings"."""

    ROOT_NOT_PRESENT = 0x1
    CONTEXT_NOT_PRESENT = 0x2
    CONTEXT_INVALID = 0x3
    ADDRESS_BEYOND_WIDTH = 0x4
    WRITE_REFUSED = 0x5
    READ_REFUSED = 0x6
    SECOND_LEVEL_ACCESS = 0x7
    ROOT_ACCESS = 0x8
    CONTEXT_ACCESS = 0x9
    ROOT_RESERVED = 0xA
    CONTEXT_RESERVED = 0xB
    SECOND_LEVEL_RESERVED = 0xC
    TYPE_BLOCKED = 0xD
    REQUEST_RESERVED = 0x20
    INDEX_BEYOND_TABLE = 0x21
    IRTE_NOT_PRESENT = 0x22
    IRTE_ACCESS = 0x23
    IRTE_RESERVED = 0x24
    COMPATIBILITY_BLOCKED = 0x25
    SOURCE_REFUSED = 0x26
    DESCRIPTOR_ACCESS = 0x27        # (unconfirmed), like the next one
    DESCRIPTOR_RESERVED = 0x28

    @property
    def text(self) -> str:
        """The reason in one line."""
        return FAULT_TEXTS[self]


FAULT_TEXTS = {
    FaultReason.ROOT_NOT_PRESENT: "the root entry of the bus is not present",
    FaultReason.CONTEXT_NOT_PRESENT: "the context entry of the device is not present",
    FaultReason.CONTEXT_INVALID: "the context entry asks for a width or a translation type the unit has not",
    FaultReason.ADDRESS_BEYOND_WIDTH: "the address is beyond the width of the domain or of the unit",
    FaultReason.WRITE_REFUSED: "a write to an address the domain may not write",
    FaultReason.READ_REFUSED: "a read from an address the domain may not read",
    FaultReason.SECOND_LEVEL_ACCESS: "a second-level entry lies outside memory",
    FaultReason.ROOT_ACCESS: "the root entry lies outside memory",
    FaultReason.CONTEXT_ACCESS: "the context entry lies outside memory",
    FaultReason.ROOT_RESERVED: "reserved bits are set in the root entry",
    FaultReason.CONTEXT_RESERVED: "reserved bits are set in the context entry",
    FaultReason.SECOND_LEVEL_RESERVED: "reserved bits are set in a second-level entry",
    FaultReason.TYPE_BLOCKED: "the translation type of the context entry blocks this kind of request",
    FaultReason.REQUEST_RESERVED: "reserved bits are set in the interrupt request",
    FaultReason.INDEX_BEYOND_TABLE: "the index is beyond the interrupt remapping table",
    FaultReason.IRTE_NOT_PRESENT: "the interrupt remapping entry is not present",
    FaultReason.IRTE_ACCESS: "the interrupt remapping entry lies outside memory",
    FaultReason.IRTE_RESERVED: "reserved bits are set in the interrupt remapping entry",
    FaultReason.COMPATIBILITY_BLOCKED: "an interrupt request in compatibility format, while these are blocked",
    FaultReason.SOURCE_REFUSED: "the interrupt remapping entry belongs to another device",
    FaultReason.DESCRIPTOR_ACCESS: "the posted-interrupt descriptor lies outside memory",
    FaultReason.DESCRIPTOR_RESERVED: "reserved bits are set in the posted-interrupt descriptor",
}


class Cap(Register):
    """Capability register; VT-d "Capability Register"."""

    domains = bits(2, 0)            # ND: 2^(4 + 2 ND) domain ids
    advanced_fault_log = bits(3)
    write_buffer = bits(4)          # RWBF: a flush is required
    protected_low = bits(5)
    protected_high = bits(6)
    caching_mode = bits(7)          # CM: entries that are not present may be cached too
    sagaw = bits(12, 8)             # bit n: AW = n is supported
    mgaw = bits(21, 16)             # width of an address, minus 1
    zero_length_read = bits(22)
    fault_offset = bits(33, 24)     # FRO, in units of 16 bytes
    large_pages = bits(37, 34)      # SLLPS: bit 0 2 MiB, bit 1 1 GiB
    page_selective = bits(39)       # PSI
    fault_records = bits(47, 40)    # NFR, minus 1
    address_mask = bits(53, 48)     # MAMV
    drain_writes = bits(54)
    drain_reads = bits(55)
    posted = bits(59)               # PI


class Ecap(Register):
    """Extended capability register; VT-d "Extended Capability Register"."""

    coherent = bits(0)
    queued = bits(1)                # QI
    device_tlb = bits(2)            # DT
    interrupt_remapping = bits(3)   # IR
    extended_interrupts = bits(4)   # EIM: 32-bit APIC ids
    pass_through = bits(6)          # PT
    snoop_control = bits(7)         # SC
    iotlb_offset = bits(17, 8)      # IRO, in units of 16 bytes
    handle_mask = bits(23, 20)      # MHMV


class GlobalCommand(Register):
    """GCMD and GSTS share their places; VT-d "Global Command Register", "Global Status Register"."""

    WIDTH: ClassVar[int] = 32
    compatibility_format = bits(23)         # CFI: let compatibility-format interrupts through
    set_interrupt_table = bits(24)          # SIRTP, one-shot
    interrupt_remapping = bits(25)          # IRE
    queued_invalidation = bits(26)          # QIE
    write_buffer_flush = bits(27)           # WBF, one-shot
    advanced_fault_log = bits(28)
    set_fault_log = bits(29)
    set_root_table = bits(30)               # SRTP, one-shot
    translation = bits(31)                  # TE


GCMD_ONE_SHOT = 0x69000000      # bits of GSTS that software masks before it writes them back to GCMD


class RootTableAddress(Register):
    """RTADDR; VT-d "Root Table Address Register"."""

    mode = bits(11, 10)             # TTM: 0 legacy
    page = bits(63, 12)


class ContextCommand(Register):
    """CCMD; VT-d "Context Command Register"."""

    domain_id = bits(15, 0)
    source_id = bits(31, 16)
    function_mask = bits(33, 32)    # FM, as SQ of an Irte: IGNORED_FUNCTION_BITS
    actual = bits(60, 59)           # CAIG: what was done, Granularity
    granularity = bits(62, 61)      # CIRG, Granularity
    invalidate = bits(63)           # ICC


class IotlbAddress(Register):
    """IVA; VT-d "Invalidate Address Register"."""

    address_mask = bits(5, 0)       # AM: 2^AM pages
    hint = bits(6)                  # IH: only leaf entries changed
    page = bits(63, 12)


class IotlbCommand(Register):
    """IOTLB; VT-d "IOTLB Invalidate Register"."""

    domain_id = bits(47, 32)
    drain_writes = bits(48)
    drain_reads = bits(49)
    actual = bits(58, 57)           # IAIG
    granularity = bits(61, 60)      # IIRG, Granularity
    invalidate = bits(63)           # IVT


class Granularity(Numbering):
    """How much an invalidation covers; SELECTIVE is one device (context) or a range of pages (IOTLB)."""

    NONE = 0
    GLOBAL = 1
    DOMAIN = 2
    SELECTIVE = 3


class FaultStatus(Register):
    """FSTS; VT-d "Fault Status Register"."""

    WIDTH: ClassVar[int] = 32
    overflow = bits(0)              # PFO, RW1C
    pending = bits(1)               # PPF, read-only: some record has its F bit set
    queue_error = bits(4)           # IQE, RW1C
    completion_error = bits(5)      # ICE, RW1C
    timeout_error = bits(6)         # ITE, RW1C
    record_index = bits(15, 8)      # FRI: the record that raised PPF


class EventControl(Register):
    """FECTL and IECTL; VT-d "Fault Event Control Register", "Invalidation Event Control Register"."""

    WIDTH: ClassVar[int] = 32
    pending = bits(30)              # IP, read-only
    masked = bits(31)               # IM, 1 after reset


class FaultRecord(Register):
    """FRCD; VT-d "Fault Recording Registers". 16 bytes."""

    WIDTH: ClassVar[int] = 128
    page = bits(63, 12)             # DMA: page of the address; interrupt: index in the bits 63:48
    source_id = bits(79, 64)
    reason = bits(103, 96)          # FaultReason
    address_type = bits(125, 124)   # AddressType
    is_read = bits(126)             # T
    fault = bits(127)               # F, RW1C

    @property
    def index(self) -> int:
        """Of an interrupt fault: the entry that was asked for."""
        return self.page >> 36


class QueueAddress(Register):
    """IQA; VT-d "Invalidation Queue Address Register"."""

    size = bits(2, 0)               # QS: 2^(QS + 8) descriptors of 16 bytes
    wide = bits(11)                 # DW: 32-byte descriptors, scalable mode only
    page = bits(63, 12)


class QueuePointer(Register):
    """IQH and IQT; VT-d "Invalidation Queue Head Register", "Invalidation Queue Tail Register"."""

    index = bits(18, 4)             # of a 16-byte descriptor


class CompletionStatus(Register):
    """ICS; VT-d "Invalidation Completion Status Register"."""

    WIDTH: ClassVar[int] = 32
    wait_complete = bits(0)         # IWC, RW1C


class InterruptTableAddress(Register):
    """IRTA; VT-d "Interrupt Remapping Table Address Register"."""

    size = bits(3, 0)               # S: 2^(S + 1) entries
    extended = bits(11)             # EIME: 32-bit APIC ids
    page = bits(63, 12)


class RootEntry(Register):
    """One bus; VT-d "Root Entry". 16 bytes."""

    WIDTH: ClassVar[int] = 128
    present = bits(0)
    context_table = bits(HOST_ADDRESS_WIDTH - 1, 12)


class AddressType(Numbering):
    """AT of a request: what its address is. PCI Express "Address Translation Services"."""

    UNTRANSLATED = 0
    TRANSLATION_REQUEST = 1         # a device asks, to fill a TLB of its own
    TRANSLATED = 2                  # a device that has asked


class TranslationType(Numbering):
    """TT of a context entry."""

    SECOND_LEVEL = 0
    DEVICE_TLB = 1                  # likewise, and the device may send translated requests
    PASS_THROUGH = 2
    RESERVED = 3


class ContextEntry(Register):
    """One device and function; VT-d "Context Entry". 16 bytes."""

    WIDTH: ClassVar[int] = 128
    present = bits(0)
    fault_disabled = bits(1)        # FPD
    type = bits(3, 2)               # TranslationType
    second_level = bits(HOST_ADDRESS_WIDTH - 1, 12)     # SLPTPTR
    address_width = bits(66, 64)    # AW: 1 39 bits, 2 48 bits; AW + 2 levels
    ignored = bits(70, 67)
    domain_id = bits(87, 72)


class SecondLevelEntry(Register):
    """An entry at any level of a domain's page tables; VT-d "Second-Level Paging Entries". 8 bytes."""

    readable = bits(0)
    writable = bits(1)
    ignored_low = bits(6, 2)
    large = bits(7)                 # PS; ignored in the last level
    ignored_middle = bits(10, 8)
    page = bits(HOST_ADDRESS_WIDTH - 1, 12)
    ignored_high = bits(63, 52)


class RemappableAddress(Register):
    """An MSI address in remappable format; VT-d "Interrupt Requests in Remappable Format"."""

    handle_high = bits(2)           # bit 15 of the handle
    subhandle_valid = bits(3)       # SHV
    remappable = bits(4)
    handle_low = bits(19, 5)
    window = bits(63, 20)           # 0xFEE


class RemappableData(Register):
    """The data of such an MSI."""

    WIDTH: ClassVar[int] = 32
    subhandle = bits(15, 0)


class SourceValidation(Numbering):
    """SVT of an interrupt remapping entry."""

    NONE = 0
    REQUESTER = 1                   # the requester id, but for the function bits that SQ ignores
    BUS_RANGE = 2
    RESERVED = 3


class Irte(Register):
    """Interrupt remapping entry; VT-d "Interrupt Remapping Table Entry (IRTE) for Remapped Interrupts". 16 bytes."""

    WIDTH: ClassVar[int] = 128
    present = bits(0)
    fault_disabled = bits(1)        # FPD
    logical = bits(2)
    redirection_hint = bits(3)
    level = bits(4)
    delivery_mode = bits(7, 5)      # DeliveryMode
    software = bits(11, 8)
    vector = bits(23, 16)
    destination = bits(63, 32)      # 32-bit APIC id; without EIME see XapicIrteDestination
    source_id = bits(79, 64)
    qualifier = bits(81, 80)        # SQ: 0 all bits, 1 not fn[2], 2 not fn[2:1], 3 no function bit
    validation = bits(83, 82)       # SourceValidation


class PostedIrte(Register):
    """Likewise; VT-d "Interrupt Remapping Table Entry (IRTE) for Posted Interrupts"."""

    WIDTH: ClassVar[int] = 128
    present = bits(0)
    fault_disabled = bits(1)
    software = bits(11, 8)
    urgent = bits(14)               # URG: a notification is sent even while they are suppressed
    posted = bits(15)               # IM, the mode of the entry
    vector = bits(23, 16)           # of the descriptor's requests
    descriptor_low = bits(63, 38)   # bits 31:6 of the descriptor's address
    source_id = bits(79, 64)
    qualifier = bits(81, 80)
    validation = bits(83, 82)
    descriptor_high = bits(127, 96)

    @property
    def descriptor(self) -> int:
        """The address of the posted-interrupt descriptor."""
        return self.descriptor_high << 32 | self.descriptor_low << 6


PID_SIZE, PID_CONTROL_OFFSET = 64, 32       # bytes of a posted-interrupt descriptor; 256 requests come first


class PidControl(Register):
    """Bits 319:256 of a posted-interrupt descriptor; VT-d "Posted Interrupt Descriptor"."""

    outstanding = bits(0)           # ON: a notification was sent, and its receiver has not looked yet
    suppressed = bits(1)            # SN: none is sent but for what is urgent
    vector = bits(23, 16)           # NV: of the notification
    destination = bits(63, 32)      # NDST: an APIC id; without EIME see XapicIrteDestination


class XapicIrteDestination(Register):
    """The destination of an Irte while EIME is 0: other bits are reserved."""

    WIDTH: ClassVar[int] = 32
    id = bits(15, 8)


class DescriptorType(Numbering):
    """Type of an invalidation descriptor; VT-d "Queued Invalidation Interface"."""

    CONTEXT = 1
    IOTLB = 2
    DEVICE_TLB = 3
    INTERRUPT = 4
    WAIT = 5


class Descriptor(Register):
    """What every invalidation descriptor begins with. 16 bytes."""

    WIDTH: ClassVar[int] = 128
    type = bits(3, 0)


class ContextDescriptor(Descriptor):
    """VT-d "Context-cache Invalidate Descriptor"."""

    granularity = bits(5, 4)        # Granularity
    domain_id = bits(31, 16)
    source_id = bits(47, 32)
    function_mask = bits(49, 48)


class IotlbDescriptor(Descriptor):
    """VT-d "IOTLB Invalidate Descriptor"."""

    granularity = bits(5, 4)        # Granularity
    drain_writes = bits(6)
    drain_reads = bits(7)
    domain_id = bits(31, 16)
    address_mask = bits(69, 64)
    hint = bits(70)
    page = bits(127, 76)


class DeviceTlbDescriptor(Descriptor):
    """VT-d "Device-TLB Invalidate Descriptor"."""

    queue_depth = bits(20, 16)
    source_id = bits(47, 32)
    size = bits(64)
    page = bits(127, 76)


class InterruptDescriptor(Descriptor):
    """VT-d "Interrupt Entry Cache Invalidate Descriptor"."""

    selective = bits(4)             # 0 all entries, 1 the 2^index_mask from index on
    index_mask = bits(31, 27)
    index = bits(47, 32)


class WaitDescriptor(Descriptor):
    """VT-d "Invalidation Wait Descriptor"."""

    interrupt = bits(4)             # IF: set ICS.IWC, raise the invalidation event
    write_status = bits(5)          # SW: store status_data at the status address
    fence = bits(6)
    status_data = bits(63, 32)
    status_dword = bits(127, 66)    # address / 4

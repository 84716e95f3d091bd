"""The synthetic interrupt controller's layouts: messages, event flags, ports, intercept payloads.

TLFS "Inter-Partition Communication" and "Intercepts". Offsets of payloads count from the start of the payload.
"""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, Register, array, bits, raw, u8, u16, u32, u64
from hv.spec.numbering import Numbering

MESSAGE_SIZE = 256                  # bytes of a slot, header included
MESSAGE_PAYLOAD_SIZE = 240
EVENT_FLAGS_COUNT = 2048            # flags of one SINT
EVENT_FLAGS_SIZE = 256              # bytes of one SINT
MESSAGE_BUFFERS_PER_PORT = 16
PORT_ID_LIMIT = 1 << 24             # port and connection ids are 24 bits wide
SINT_INTERCEPT, SINT_IOMMU_FAULT, SINT_VMBUS = 0, 1, 2


class HvMessageType(Numbering):
    """HV_MESSAGE_TYPE. Bit 31 is set in everything the hypervisor itself sends."""

    NONE = 0x00000000
    UNMAPPED_GPA = 0x80000000
    GPA_INTERCEPT = 0x80000001
    UNACCEPTED_GPA = 0x80000003
    GPA_ATTRIBUTE_INTERCEPT = 0x80000004
    ENABLE_PARTITION_VTL_INTERCEPT = 0x80000005
    TIMER_EXPIRED = 0x80000010
    INVALID_VP_REGISTER_VALUE = 0x80000020
    UNRECOVERABLE_EXCEPTION = 0x80000021
    UNSUPPORTED_FEATURE = 0x80000022
    TLB_PAGE_SIZE_MISMATCH = 0x80000023
    IOMMU_FAULT = 0x80000024
    EVENT_LOG_BUFFER_COMPLETE = 0x80000040
    HYPERCALL_INTERCEPT = 0x80000050
    SYNIC_EVENT_INTERCEPT = 0x80000060
    SYNIC_SINT_INTERCEPT = 0x80000061
    SYNIC_SINT_DELIVERABLE = 0x80000062
    ASYNC_CALL_COMPLETION = 0x80000070
    INSUFFICIENT_MEMORY = 0x80000071
    SCHEDULER_VP_SIGNAL_BITSET = 0x80000100
    SCHEDULER_VP_SIGNAL_PAIR = 0x80000101
    X64_IO_PORT_INTERCEPT = 0x80010000
    X64_MSR_INTERCEPT = 0x80010001
    X64_CPUID_INTERCEPT = 0x80010002
    X64_EXCEPTION_INTERCEPT = 0x80010003
    X64_APIC_EOI = 0x80010004
    X64_LEGACY_FP_ERROR = 0x80010005
    REGISTER_INTERCEPT = 0x80010006
    X64_HALT = 0x80010007
    X64_INTERRUPTION_DELIVERABLE = 0x80010008
    X64_SIPI_INTERCEPT = 0x80010009
    X64_RDTSC_INTERCEPT = 0x8001000A
    X64_APIC_SMI_INTERCEPT = 0x8001000B
    X64_APIC_INIT_SIPI_INTERCEPT = 0x8001000D
    X64_APIC_WRITE_INTERCEPT = 0x8001000E
    X64_PROXY_INTERRUPT_INTERCEPT = 0x8001000F
    X64_ISOLATION_CTRL_REG_INTERCEPT = 0x80010010
    X64_SNP_GUEST_REQUEST_INTERCEPT = 0x80010011
    X64_EXCEPTION_TRAP_INTERCEPT = 0x80010012
    X64_SEV_VMGEXIT_INTERCEPT = 0x80010013
    X64_MSR_LIST_INTERCEPT = 0x80010015


HYPERVISOR_MESSAGE = 1 << 31        # the bit of a type no guest may post


class HvMessageHeader(Layout):
    """HV_MESSAGE_HEADER: 16 bytes, then 0..240 of payload."""

    message_type: u32               # HvMessageType, or what the sender posted; 0 = the slot is empty
    payload_size: u8                # bytes
    message_flags: u8               # bit 0: another message waits, write EOM
    reserved: u16
    sender: u64                     # port id, or partition id of an intercept, or 0


MESSAGE_PENDING = 1                 # HvMessageHeader.message_flags


class HvMessage(Layout):
    """HV_MESSAGE: one slot of the message page."""

    header: HvMessageHeader
    payload: raw[240]


class HvEventFlags(Layout):
    """HV_SYNIC_EVENT_FLAGS of one SINT: flag f is bit f & 7 of byte f >> 3."""

    flags: raw[256]


class PortType(Numbering):
    """HV_PORT_TYPE."""

    MESSAGE = 1
    EVENT = 2
    MONITOR = 3
    DOORBELL = 4


class HvPortInfo(Layout):
    """HV_PORT_INFO of a message or an event port. The last two fields belong to event ports, and are 0 for others."""

    port_type: u32                  # PortType
    padding: u32
    target_sint: u32                # 1..15; SINT0 is the hypervisor's
    target_vp: u32                  # an index, or ANY_VP
    base_flag_number: u16
    flag_count: u16                 # base + count <= 2048
    reserved: u32


class HvMonitorPortInfo(Layout):
    """HV_PORT_INFO of a monitor port."""

    port_type: u32
    padding: u32
    monitor_address: u64            # gpa of the monitor page in the port's partition
    reserved: u64


class HvConnectionInfo(Layout):
    """HV_CONNECTION_INFO. What follows the type is 0 for messages and events."""

    port_type: u32                  # the type of the port it is for
    padding: u32
    gpa: u64                        # of the monitor page, or the doorbell, in the connection's partition
    trigger_value: u64              # of a doorbell, like the next
    trigger_flags: u64


class HvPortProperty(Numbering):
    """HV_PORT_PROPERTY_CODE."""

    POST_COUNT = 0                  # messages posted since it was made
    PREFERRED_TARGET_VP = 1         # of a port for ANY_VP
    MONITOR_ADDRESS = 2
    USE_RING_BUFFER = 3
    TARGET_VP = 4
    PREFERRED_TARGET_DURATION = 5
    RETRY_POST_MESSAGE = 6
    INTERCEPT_ON_SIGNAL = 7
    SIGNAL_COUNT = 8                # events signalled since it was made
    PENDING_RING = 9


class HvSegmentRegister(Layout):
    """HV_X64_SEGMENT_REGISTER: also the value of a segment in Get/SetVpRegisters."""

    base: u64
    limit: u32                      # bytes
    selector: u16
    attributes: u16                 # HvSegmentAttributes


class HvSegmentAttributes(Register):
    """The attributes word of `HvSegmentRegister`."""

    WIDTH = 16
    segment_type = bits(3, 0)
    non_system = bits(4)
    dpl = bits(6, 5)
    present = bits(7)
    reserved = bits(11, 8)
    available = bits(12)
    long = bits(13)
    default_big = bits(14)
    granularity = bits(15)


class HvTableRegister(Layout):
    """HV_X64_TABLE_REGISTER: GDTR or IDTR."""

    padding: raw[6]
    limit: u16
    base: u64


class HvExecutionState(Register):
    """HV_X64_VP_EXECUTION_STATE."""

    WIDTH = 16
    cpl = bits(1, 0)
    cr0_pe = bits(2)
    cr0_am = bits(3)
    efer_lma = bits(4)
    debug_active = bits(5)
    interruption_pending = bits(6)
    vtl = bits(10, 7)
    interrupt_shadow = bits(12)


class InterceptAccess(Numbering):
    """HV_INTERCEPT_ACCESS_TYPE of an intercept message."""

    READ = 0
    WRITE = 1
    EXECUTE = 2


class HvInterceptHeader(Layout):
    """HV_X64_INTERCEPT_MESSAGE_HEADER: 40 bytes in front of every intercept of an instruction."""

    vp_index: u32
    length_and_cr8: u8              # bits 3..0 instruction length, bits 7..4 CR8
    access_type: u8                 # InterceptAccess
    execution_state: u16            # HvExecutionState
    cs: HvSegmentRegister
    rip: u64
    rflags: u64


class HvIoPortAccessInfo(Register):
    """HV_X64_IO_PORT_ACCESS_INFO."""

    WIDTH = 8
    access_size = bits(2, 0)        # 1, 2 or 4 bytes
    string_op = bits(3)
    rep_prefix = bits(4)


class IoPortIntercept(Layout):
    """HV_X64_IO_PORT_INTERCEPT_MESSAGE."""

    header: HvInterceptHeader
    port: u16
    access_info: u8                 # HvIoPortAccessInfo
    instruction_byte_count: u8
    reserved: u32
    rax: u64
    instruction_bytes: raw[16]
    ds: HvSegmentRegister
    es: HvSegmentRegister
    rcx: u64
    rsi: u64
    rdi: u64


class HvMemoryAccessInfo(Register):
    """HV_X64_MEMORY_ACCESS_INFO."""

    WIDTH = 8
    gva_valid = bits(0)
    gva_gpa_valid = bits(1)
    hypercall_output_pending = bits(2)
    tlb_locked = bits(3)


class MemoryIntercept(Layout):
    """HV_X64_MEMORY_INTERCEPT_MESSAGE: an unmapped page, or rights that forbid the access."""

    header: HvInterceptHeader
    cache_type: u32
    instruction_byte_count: u8
    access_info: u8                 # HvMemoryAccessInfo
    tpr_priority: u8
    reserved: u8
    gva: u64
    gpa: u64
    instruction_bytes: raw[16]


class MsrIntercept(Layout):
    """HV_X64_MSR_INTERCEPT_MESSAGE; the header's access type tells RDMSR from WRMSR."""

    header: HvInterceptHeader
    msr_number: u32
    reserved: u32
    rdx: u64
    rax: u64


class CpuidIntercept(Layout):
    """HV_X64_CPUID_INTERCEPT_MESSAGE, with what the hypervisor would have answered."""

    header: HvInterceptHeader
    rax: u64
    rcx: u64
    rdx: u64
    rbx: u64
    default_rax: u64
    default_rcx: u64
    default_rdx: u64
    default_rbx: u64


class HypercallIntercept(Layout):
    """HV_X64_HYPERCALL_INTERCEPT_MESSAGE: the registers of the calling convention."""

    header: HvInterceptHeader
    rax: u64
    rbx: u64
    rcx: u64
    rdx: u64
    r8: u64
    rsi: u64
    rdi: u64
    xmm_registers: raw[96]          # XMM0..XMM5
    flags: u32                      # bit 0: of an isolated partition
    reserved: raw[12]


class HvExceptionInfo(Register):
    """HV_X64_EXCEPTION_INFO."""

    WIDTH = 8
    error_code_valid = bits(0)
    software_exception = bits(1)


class ExceptionIntercept(Layout):
    """HV_X64_EXCEPTION_INTERCEPT_MESSAGE: fills the payload to its last byte."""

    header: HvInterceptHeader
    exception_vector: u16
    exception_info: u8              # HvExceptionInfo
    instruction_byte_count: u8
    error_code: u32
    exception_parameter: u64        # CR2 of a page fault
    reserved: u64
    instruction_bytes: raw[16]
    ds: HvSegmentRegister
    ss: HvSegmentRegister
    registers: array["u64", 16]  # noqa: UP037  RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8..R15


class HeaderOnlyIntercept(Layout):
    """The payload of UNRECOVERABLE_EXCEPTION and X64_HALT."""

    header: HvInterceptHeader


class PendingInterruptionType(Numbering):
    """HV_X64_PENDING_INTERRUPTION_TYPE, those of them that can be waited for."""

    INTERRUPT = 0
    NMI = 2


class InterruptionDeliverable(Layout):
    """HV_X64_INTERRUPTION_DELIVERABLE_MESSAGE: the parent waited for this."""

    header: HvInterceptHeader
    deliverable_type: u8            # PendingInterruptionType
    reserved: raw[7]


class SintDeliverable(Layout):
    """HV_X64_SINT_DELIVERABLE_MESSAGE."""

    header: HvInterceptHeader
    deliverable_sints: u16          # bit n: SINT n takes a message
    reserved: raw[6]


class InvalidVpRegisterMessage(Layout):
    """HV_INVALID_VP_REGISTER_MESSAGE; it has no intercept header."""

    vp_index: u32
    reserved: u32


class ApicEoiMessage(Layout):
    """HV_X64_APIC_EOI_MESSAGE; it has no intercept header."""

    vp_index: u32
    interrupt_vector: u32


class TimerMessage(Layout):
    """HV_TIMER_MESSAGE_PAYLOAD, times in 100 ns."""

    timer_index: u32
    reserved: u32
    expiration_time: u64
    delivery_time: u64

"""Hypercalls: codes, the control and result words, and the input and output of each call that is built.

TLFS "Hypercall Interface" and the page of each call. A rep call's input is a header followed by a list of elements; its
output is a list of elements. Field names and order are the document's.
"""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from enum import IntEnum

from hv.spec.layout import Layout, Register, bits, raw, u8, u16, u32, u64
from hv.spec.synic import HvConnectionInfo, HvPortInfo


class HypercallCode(IntEnum):
    """Call codes; TLFS "Appendix A: Hypercall Code Reference". Without their prefix HvCall."""

    SWITCH_VIRTUAL_ADDRESS_SPACE = 0x0001
    FLUSH_VIRTUAL_ADDRESS_SPACE = 0x0002
    FLUSH_VIRTUAL_ADDRESS_LIST = 0x0003
    GET_LOGICAL_PROCESSOR_RUN_TIME = 0x0004
    NOTIFY_LONG_SPIN_WAIT = 0x0008
    PARKED_VIRTUAL_PROCESSORS = 0x0009
    INVOKE_HYPERVISOR_DEBUGGER = 0x000A
    SEND_SYNTHETIC_CLUSTER_IPI = 0x000B
    MODIFY_VTL_PROTECTION_MASK = 0x000C
    ENABLE_PARTITION_VTL = 0x000D
    DISABLE_PARTITION_VTL = 0x000E
    ENABLE_VP_VTL = 0x000F
    DISABLE_VP_VTL = 0x0010
    VTL_CALL = 0x0011
    VTL_RETURN = 0x0012
    FLUSH_VIRTUAL_ADDRESS_SPACE_EX = 0x0013
    FLUSH_VIRTUAL_ADDRESS_LIST_EX = 0x0014
    SEND_SYNTHETIC_CLUSTER_IPI_EX = 0x0015
    CREATE_PARTITION = 0x0040
    INITIALIZE_PARTITION = 0x0041
    FINALIZE_PARTITION = 0x0042
    DELETE_PARTITION = 0x0043
    GET_PARTITION_PROPERTY = 0x0044
    SET_PARTITION_PROPERTY = 0x0045
    GET_PARTITION_ID = 0x0046
    GET_NEXT_CHILD_PARTITION = 0x0047
    DEPOSIT_MEMORY = 0x0048
    WITHDRAW_MEMORY = 0x0049
    GET_MEMORY_BALANCE = 0x004A
    MAP_GPA_PAGES = 0x004B
    UNMAP_GPA_PAGES = 0x004C
    INSTALL_INTERCEPT = 0x004D
    CREATE_VP = 0x004E
    DELETE_VP = 0x004F
    GET_VP_REGISTERS = 0x0050
    SET_VP_REGISTERS = 0x0051
    TRANSLATE_VIRTUAL_ADDRESS = 0x0052
    READ_GPA = 0x0053
    WRITE_GPA = 0x0054
    ASSERT_VIRTUAL_INTERRUPT_V1 = 0x0055
    CLEAR_VIRTUAL_INTERRUPT = 0x0056
    CREATE_PORT_V1 = 0x0057
    DELETE_PORT = 0x0058
    CONNECT_PORT_V1 = 0x0059
    GET_PORT_PROPERTY = 0x005A
    DISCONNECT_PORT = 0x005B
    POST_MESSAGE = 0x005C
    SIGNAL_EVENT = 0x005D
    SAVE_PARTITION_STATE = 0x005E
    RESTORE_PARTITION_STATE = 0x005F
    INITIALIZE_EVENT_LOG_BUFFER_GROUP = 0x0060
    FINALIZE_EVENT_LOG_BUFFER_GROUP = 0x0061
    CREATE_EVENT_LOG_BUFFER = 0x0062
    DELETE_EVENT_LOG_BUFFER = 0x0063
    MAP_EVENT_LOG_BUFFER = 0x0064
    UNMAP_EVENT_LOG_BUFFER = 0x0065
    SET_EVENT_LOG_GROUP_SOURCES = 0x0066
    RELEASE_EVENT_LOG_BUFFER = 0x0067
    FLUSH_EVENT_LOG_BUFFER = 0x0068
    POST_DEBUG_DATA = 0x0069
    RETRIEVE_DEBUG_DATA = 0x006A
    RESET_DEBUG_SESSION = 0x006B
    MAP_STATS_PAGE = 0x006C
    UNMAP_STATS_PAGE = 0x006D
    MAP_SPARSE_GPA_PAGES = 0x006E
    SET_SYSTEM_PROPERTY = 0x006F
    SET_PORT_PROPERTY = 0x0070
    OUTPUT_DEBUG_CHARACTER = 0x0071
    ADD_LOGICAL_PROCESSOR = 0x0076
    REMOVE_LOGICAL_PROCESSOR = 0x0077
    QUERY_NUMA_DISTANCE = 0x0078
    SET_LOGICAL_PROCESSOR_PROPERTY = 0x0079
    GET_LOGICAL_PROCESSOR_PROPERTY = 0x007A
    GET_SYSTEM_PROPERTY = 0x007B
    MAP_DEVICE_INTERRUPT = 0x007C
    UNMAP_DEVICE_INTERRUPT = 0x007D
    RETARGET_DEVICE_INTERRUPT = 0x007E
    MAP_DEVICE_PAGES = 0x0080
    UNMAP_DEVICE_PAGES = 0x0081
    ATTACH_DEVICE = 0x0082
    DETACH_DEVICE = 0x0083
    ENTER_SLEEP_STATE = 0x0084
    NOTIFY_STANDBY_TRANSITION = 0x0085
    PREPARE_FOR_HIBERNATE = 0x0086
    NOTIFY_PARTITION_EVENT = 0x0087
    GET_LOGICAL_PROCESSOR_REGISTERS = 0x0088
    SET_LOGICAL_PROCESSOR_REGISTERS = 0x0089
    QUERY_ASSOCIATED_LPS_FOR_MCA = 0x008A
    NOTIFY_PORT_RING_EMPTY = 0x008B
    INJECT_SYNTHETIC_MACHINE_CHECK = 0x008C
    SCRUB_PARTITION = 0x008D
    COLLECT_LIVEDUMP = 0x008E
    DISABLE_HYPERVISOR = 0x008F
    MODIFY_SPARSE_GPA_PAGES = 0x0090
    REGISTER_INTERCEPT_RESULT = 0x0091
    UNREGISTER_INTERCEPT_RESULT = 0x0092
    ASSERT_VIRTUAL_INTERRUPT = 0x0094
    CREATE_PORT = 0x0095
    CONNECT_PORT = 0x0096
    GET_SPA_PAGE_LIST = 0x0097
    START_VIRTUAL_PROCESSOR = 0x0099
    GET_VP_INDEX_FROM_APIC_ID = 0x009A
    GET_POWER_PROPERTY = 0x009B
    SET_POWER_PROPERTY = 0x009C
    CREATE_PASID_SPACE = 0x009D
    DELETE_PASID_SPACE = 0x009E
    SET_PASID_ADDRESS_SPACE = 0x009F
    FLUSH_PASID_ADDRESS_SPACE = 0x00A0
    FLUSH_PASID_ADDRESS_LIST = 0x00A1
    ATTACH_PASID_SPACE = 0x00A2
    DETACH_PASID_SPACE = 0x00A3
    ENABLE_PASID = 0x00A4
    DISABLE_PASID = 0x00A5
    ACKNOWLEDGE_DEVICE_PAGE_REQUEST = 0x00A6
    CREATE_DEVICE_PR_QUEUE = 0x00A7
    DELETE_DEVICE_PR_QUEUE = 0x00A8
    SET_DEVICE_PRQ_PROPERTY = 0x00A9
    GET_PHYSICAL_DEVICE_PROPERTY = 0x00AA
    SET_PHYSICAL_DEVICE_PROPERTY = 0x00AB
    TRANSLATE_VIRTUAL_ADDRESS_EX = 0x00AC
    CHECK_FOR_IO_INTERCEPT = 0x00AD
    SET_GPA_PAGE_ATTRIBUTES = 0x00AE
    FLUSH_GUEST_PHYSICAL_ADDRESS_SPACE = 0x00AF
    FLUSH_GUEST_PHYSICAL_ADDRESS_LIST = 0x00B0
    CREATE_DEVICE_DOMAIN = 0x00B1
    ATTACH_DEVICE_DOMAIN = 0x00B2
    MAP_DEVICE_GPA_PAGES = 0x00B3
    UNMAP_DEVICE_GPA_PAGES = 0x00B4
    CREATE_CPU_GROUP = 0x00B5
    DELETE_CPU_GROUP = 0x00B6
    GET_CPU_GROUP_PROPERTY = 0x00B7
    SET_CPU_GROUP_PROPERTY = 0x00B8
    GET_CPU_GROUP_AFFINITY = 0x00B9
    GET_NEXT_CPU_GROUP = 0x00BA
    GET_NEXT_CPU_GROUP_PARTITION = 0x00BB
    ADD_PHYSICAL_MEMORY = 0x00BC
    COMPLETE_INTERCEPT = 0x00BD
    PRECOMMIT_GPA_PAGES = 0x00BE
    UNCOMMIT_GPA_PAGES = 0x00BF
    SIGNAL_EVENT_DIRECT = 0x00C0
    POST_MESSAGE_DIRECT = 0x00C1
    DISPATCH_VP = 0x00C2
    PROCESS_IOMMU_PRQ = 0x00C3
    DETACH_DEVICE_DOMAIN = 0x00C4
    DELETE_DEVICE_DOMAIN = 0x00C5
    QUERY_DEVICE_DOMAIN = 0x00C6
    MAP_SPARSE_DEVICE_GPA_PAGES = 0x00C7
    UNMAP_SPARSE_DEVICE_GPA_PAGES = 0x00C8
    GET_GPA_PAGES_ACCESS_STATE = 0x00C9
    GET_SPARSE_GPA_PAGES_ACCESS_STATE = 0x00CA
    QUERY_VTL_PROTECTION_MASK_RANGE = 0x00CC
    MODIFY_VTL_PROTECTION_MASK_RANGE = 0x00CD
    CONFIGURE_DEVICE_DOMAIN = 0x00CE
    QUERY_DEVICE_DOMAIN_PROPERTIES = 0x00CF
    FLUSH_DEVICE_DOMAIN = 0x00D0
    FLUSH_DEVICE_DOMAIN_LIST = 0x00D1
    ACQUIRE_SPARSE_GPA_PAGE_HOST_ACCESS = 0x00D2
    RELEASE_SPARSE_GPA_PAGE_HOST_ACCESS = 0x00D3
    CHECK_SPARSE_GPA_PAGE_VTL_ACCESS = 0x00D4
    ENABLE_DEVICE_INTERRUPT = 0x00D5
    ACQUIRE_SPARSE_SPA_PAGE_HOST_ACCESS = 0x00D7
    RELEASE_SPARSE_SPA_PAGE_HOST_ACCESS = 0x00D8
    ACCEPT_GPA_PAGES = 0x00D9
    UNACCEPT_GPA_PAGES = 0x00DA
    MODIFY_SPARSE_GPA_PAGE_HOST_VISIBILITY = 0x00DB
    MAP_VP_STATE_PAGE = 0x00E1
    UNMAP_VP_STATE_PAGE = 0x00E2
    GET_VP_STATE = 0x00E3
    SET_VP_STATE = 0x00E4
    GET_VP_SET_FROM_MDA = 0x00E5
    GET_VP_CPUID_VALUES = 0x00F4
    RESTORE_PARTITION_TIME = 0x0103
    MEMORY_MAPPED_IO_READ = 0x0106
    MEMORY_MAPPED_IO_WRITE = 0x0107
    SET_PARTITION_PROPERTY_EX = 0x010A
    INSTALL_INTERCEPT_EX = 0x0110
    PIN_GPA_PAGE_RANGES = 0x0112
    UNPIN_GPA_PAGE_RANGES = 0x0113
    QUERY_SPARSE_GPA_PAGE_HOST_VISIBILITY = 0x011C
    SET_VIRTUAL_INTERRUPT_TARGET = 0x011F
    GET_IOMMU_CAPABILITIES = 0x0125
    GET_LOGICAL_DEVICE_PROPERTY = 0x0127
    MAP_STATS_PAGE2 = 0x0131
    EXT_CALL_QUERY_CAPABILITIES = 0x8001
    EXT_CALL_GET_BOOT_ZEROED_MEMORY = 0x8002
    EXT_CALL_MEMORY_HEAT_HINT = 0x8003
    EXT_CALL_EPF_SETUP = 0x8004
    EXT_CALL_MEMORY_HEAT_HINT_ASYNC = 0x8006

class HypercallControl(Register):
    """The hypercall input value: RCX in 64-bit mode; TLFS "Hypercall Inputs". Bits no field names must be zero."""

    call_code = bits(15, 0)
    fast = bits(16)                     # parameters in registers
    variable_header_size = bits(26, 17)     # units of 8 bytes
    is_nested = bits(31)
    rep_count = bits(43, 32)            # elements in the whole list
    rep_start = bits(59, 48)            # the first one to do now


class HypercallResult(Register):
    """The hypercall result value: RAX in 64-bit mode; TLFS "Hypercall Outputs"."""

    status = bits(15, 0)                # HvStatus
    reps_complete = bits(43, 32)        # absolute: rep_start + what this attempt did


class HvInputVtl(Register):
    """HV_INPUT_VTL: which virtual trust level a call means; 0 = the current one."""

    WIDTH = 8
    target_vtl = bits(3, 0)
    use_target_vtl = bits(4)


class HvInterruptControl(Register):
    """HV_INTERRUPT_CONTROL of HvCallAssertVirtualInterrupt."""

    interrupt_type = bits(31, 0)        # HvInterruptType
    level_triggered = bits(32)
    logical_destination_mode = bits(33)


class HvInterruptType(IntEnum):
    """HV_INTERRUPT_TYPE; TLFS "Virtual Interrupt Types"."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    REMOTE_READ = 3
    NMI = 4
    INIT = 5
    SIPI = 6
    EXT_INT = 7
    LOCAL_INT0 = 8
    LOCAL_INT1 = 9


INTERRUPT_VECTOR_NONE = 0xFFFFFFFF


class HvDeviceId(Register):
    """HV_DEVICE_ID of a PCI function; type 1."""

    rid = bits(15, 0)                   # bus 8, device 5, function 3
    segment = bits(31, 16)
    shadow_bus_range = bits(47, 32)
    phantom_function_bits = bits(49, 48)
    source_shadow = bits(50)
    device_type = bits(63, 62)          # 0 logical, 1 PCI, 2 IOAPIC, 3 ACPI


class PartitionInput(Layout):
    """The input of InitializePartition, FinalizePartition, DeletePartition, ClearVirtualInterrupt."""

    partition_id: u64


class PartitionIdOutput(Layout):
    """One partition id: the output of CreatePartition, GetPartitionId and GetNextChildPartition."""

    partition_id: u64


class CreatePartitionInput(Layout):
    """HvCallCreatePartition."""

    flags: u64                          # CreatePartitionFlags
    proximity_domain_info: u64
    compatibility_version: u32
    padding: u32
    disabled_processor_features: u64
    disabled_processor_features1: u64
    disabled_xsave_features: u64
    isolation_properties: u64           # must be zero


class GetPartitionPropertyInput(Layout):
    """HvCallGetPartitionProperty."""

    partition_id: u64
    property_code: u32                  # HvPartitionProperty
    padding: u32


class GetPartitionPropertyOutput(Layout):
    """HvCallGetPartitionProperty."""

    property_value: u64


class SetPartitionPropertyInput(Layout):
    """HvCallSetPartitionProperty."""

    partition_id: u64
    property_code: u32
    padding: u32
    property_value: u64


class GetNextChildPartitionInput(Layout):
    """HvCallGetNextChildPartition."""

    parent_id: u64
    previous_child_id: u64              # 0 asks for the first


class GpaPageNumber(Layout):
    """An element: the number of one guest-physical page of the caller."""

    page_number: u64


class DepositMemoryInput(Layout):
    """HvCallDepositMemory; the elements are `GpaPageNumber`."""

    partition_id: u64


class WithdrawMemoryInput(Layout):
    """HvCallWithdrawMemory; the output elements are `GpaPageNumber`."""

    partition_id: u64
    proximity_domain_info: u64


class GetMemoryBalanceOutput(Layout):
    """HvCallGetMemoryBalance, in pages."""

    pages_available: u64
    pages_in_use: u64


class MapGpaPagesInput(Layout):
    """HvCallMapGpaPages; the elements are `GpaPageNumber`s of the caller, mapped at consecutive target pages."""

    target_partition_id: u64
    target_gpa_base: u64                # a page number
    map_flags: u32                      # HvMapGpaFlags
    padding: u32


class UnmapGpaPagesInput(Layout):
    """HvCallUnmapGpaPages; the rep count is the number of pages, there is no list."""

    target_partition_id: u64
    target_gpa_base: u64
    unmap_flags: u32
    padding: u32


class TranslateVirtualAddressInput(Layout):
    """HvCallTranslateVirtualAddress."""

    partition_id: u64
    vp_index: u32
    padding: u32
    control_flags: u64                  # TranslateGvaFlags
    gva_page: u64


class TranslateVirtualAddressOutput(Layout):
    """HvCallTranslateVirtualAddress. The call succeeds when the translation does not."""

    result_code: u32                    # TranslateGvaResult
    cache_type: u8
    overlay_page: u8
    padding: u16
    gpa_page: u64


class TranslateGvaFlags(Register):
    """HV_TRANSLATE_GVA_CONTROL_FLAGS."""

    validate_read = bits(0)
    validate_write = bits(1)
    validate_execute = bits(2)
    privilege_exempt = bits(3)
    set_page_table_bits = bits(4)
    tlb_flush_inhibit = bits(5)
    supervisor_access = bits(6)
    user_access = bits(7)


class TranslateGvaResult(IntEnum):
    """HV_TRANSLATE_GVA_RESULT_CODE."""

    SUCCESS = 0
    PAGE_NOT_PRESENT = 1
    PRIVILEGE_VIOLATION = 2
    INVALID_PAGE_TABLE_FLAGS = 3
    GPA_UNMAPPED = 4
    GPA_NO_READ_ACCESS = 5
    GPA_NO_WRITE_ACCESS = 6
    GPA_ILLEGAL_OVERLAY_ACCESS = 7
    INTERCEPT = 8


class ReadGpaInput(Layout):
    """HvCallReadGpa: at most 16 bytes, within one page."""

    partition_id: u64
    vp_index: u32
    byte_count: u32
    base_gpa: u64                       # a byte address
    control_flags: u64                  # bits 7..0: cache type


class ReadGpaOutput(Layout):
    """HvCallReadGpa."""

    access_result: u64                  # AccessGpaResult
    data: raw[16]


class WriteGpaInput(Layout):
    """HvCallWriteGpa: at most 16 bytes, within one page."""

    partition_id: u64
    vp_index: u32
    byte_count: u32
    base_gpa: u64
    control_flags: u64
    data: raw[16]


class WriteGpaOutput(Layout):
    """HvCallWriteGpa."""

    access_result: u64


class AccessGpaResult(IntEnum):
    """HV_ACCESS_GPA_RESULT_CODE."""

    SUCCESS = 0
    UNMAPPED = 1
    READ_INTERCEPT = 2
    WRITE_INTERCEPT = 3
    ILLEGAL_OVERLAY_ACCESS = 4


class CreateVpInput(Layout):
    """HvCallCreateVp."""

    partition_id: u64
    vp_index: u32
    padding: raw[3]
    subnode_type: u8
    subnode_id: u64
    proximity_domain_info: u64
    flags: u64


class DeleteVpInput(Layout):
    """HvCallDeleteVp."""

    partition_id: u64
    vp_index: u32
    padding: u32


class VpRegistersInput(Layout):
    """The header of GetVpRegisters (elements: `RegisterName`) and SetVpRegisters (elements: `RegisterAssoc`)."""

    partition_id: u64
    vp_index: u32
    input_vtl: u8                       # HvInputVtl
    padding: raw[3]


class RegisterName(Layout):
    """An input element of GetVpRegisters."""

    name: u32                           # HvRegisterName


class RegisterValue(Layout):
    """An output element of GetVpRegisters; HV_REGISTER_VALUE."""

    value: raw[16]


class RegisterAssoc(Layout):
    """An element of SetVpRegisters; HV_REGISTER_ASSOC."""

    name: u32
    padding: raw[12]
    value: raw[16]


class AssertVirtualInterruptInput(Layout):
    """HvCallAssertVirtualInterrupt."""

    partition_id: u64
    interrupt_control: u64              # HvInterruptControl
    destination: u64                    # APIC id (or logical mask)
    vector: u32                         # 0..255 or INTERRUPT_VECTOR_NONE
    target_vtl: u8
    padding: raw[3]


class InterruptEntry(Layout):
    """HV_INTERRUPT_ENTRY of an MSI: what is written into the device."""

    source: u32                         # 1 = MSI
    reserved: u32
    address: u32
    data: u32


INTERRUPT_SOURCE_MSI = 1


class MapDeviceInterruptInput(Layout):
    """HvCallMapDeviceInterrupt with a VP mask as target."""

    partition_id: u64
    device_id: u64                      # HvDeviceId
    flags: u32
    base_irt_index: u32
    interrupt_entry: InterruptEntry
    interrupt_type: u32                 # HvInterruptType
    trigger_mode: u32                   # 0 edge, 1 level
    vector_count: u32
    reserved: u32
    target_vector: u32
    target_flags: u32                   # bit 0 multicast, bit 1 processor set
    target_vp_mask: u64


class MapDeviceInterruptOutput(Layout):
    """HvCallMapDeviceInterrupt: the message the device shall send."""

    interrupt_entry: InterruptEntry


class UnmapDeviceInterruptInput(Layout):
    """HvCallUnmapDeviceInterrupt."""

    partition_id: u64
    device_id: u64
    interrupt_entry: InterruptEntry


class AttachDeviceInput(Layout):
    """HvCallAttachDevice."""

    partition_id: u64
    device_id: u64
    flags: u32
    attach_vtl: u8
    reserved0: u8
    reserved1: u16
    logical_device_id: u64
    pci_capabilities: u32
    pf_rid: u16
    reserved2: u16


class DetachDeviceInput(Layout):
    """HvCallDetachDevice."""

    partition_id: u64
    logical_device_id: u64


class CreatePortInput(Layout):
    """HvCallCreatePort."""

    port_partition: u64
    port_id: u32                        # 24 bits
    port_vtl: u8
    min_connection_vtl: u8
    padding: u16
    connection_partition: u64           # who may connect
    port_info: HvPortInfo
    proximity_domain_info: u64


class DeletePortInput(Layout):
    """HvCallDeletePort."""

    port_partition: u64
    port_id: u32
    reserved: u32


class ConnectPortInput(Layout):
    """HvCallConnectPort."""

    connection_partition: u64
    connection_id: u32                  # 24 bits
    connection_vtl: u8
    padding: raw[3]
    port_partition: u64
    port_id: u32
    reserved: u32
    connection_info: HvConnectionInfo
    proximity_domain_info: u64


class DisconnectPortInput(Layout):
    """HvCallDisconnectPort."""

    connection_partition: u64
    connection_id: u32
    is_doorbell: u8
    padding: raw[3]


class PostMessageInput(Layout):
    """HvCallPostMessage."""

    connection_id: u32
    reserved: u32
    message_type: u32
    payload_size: u32                   # bytes, 0..240
    payload: raw[240]


class SignalEventInput(Layout):
    """HvCallSignalEvent."""

    connection_id: u32
    flag_number: u16
    reserved: u16


class NotifyLongSpinWaitInput(Layout):
    """HvCallNotifyLongSpinWait."""

    spin_count: u32
    unused: u32                         # not checked: the call always succeeds

"""Result codes of hypercalls; TLFS "Hypercall Status Codes".

Codes from 0x65 on are younger than the printed specification and follow the headers that guests are built with.
0x01 and 0x0F are not assigned.
"""

from __future__ import annotations

from hv.spec.numbering import Numbering


class HvStatus(Numbering):
    """HV_STATUS: bits 15..0 of a hypercall's result value."""

    SUCCESS = 0x0000
    INVALID_HYPERCALL_CODE = 0x0002
    INVALID_HYPERCALL_INPUT = 0x0003
    INVALID_ALIGNMENT = 0x0004
    INVALID_PARAMETER = 0x0005
    ACCESS_DENIED = 0x0006
    INVALID_PARTITION_STATE = 0x0007
    OPERATION_DENIED = 0x0008
    UNKNOWN_PROPERTY = 0x0009
    PROPERTY_VALUE_OUT_OF_RANGE = 0x000A
    INSUFFICIENT_MEMORY = 0x000B
    PARTITION_TOO_DEEP = 0x000C
    INVALID_PARTITION_ID = 0x000D
    INVALID_VP_INDEX = 0x000E
    NOT_FOUND = 0x0010
    INVALID_PORT_ID = 0x0011
    INVALID_CONNECTION_ID = 0x0012
    INSUFFICIENT_BUFFERS = 0x0013
    NOT_ACKNOWLEDGED = 0x0014
    INVALID_VP_STATE = 0x0015
    ACKNOWLEDGED = 0x0016
    INVALID_SAVE_RESTORE_STATE = 0x0017
    INVALID_SYNIC_STATE = 0x0018
    OBJECT_IN_USE = 0x0019
    INVALID_PROXIMITY_DOMAIN_INFO = 0x001A
    NO_DATA = 0x001B
    INACTIVE = 0x001C
    NO_RESOURCES = 0x001D
    FEATURE_UNAVAILABLE = 0x001E
    PARTIAL_PACKET = 0x001F
    PROCESSOR_FEATURE_SSE3_NOT_SUPPORTED = 0x0020
    PROCESSOR_FEATURE_LAHFSAHF_NOT_SUPPORTED = 0x0021
    PROCESSOR_FEATURE_SSSE3_NOT_SUPPORTED = 0x0022
    PROCESSOR_FEATURE_SSE4_1_NOT_SUPPORTED = 0x0023
    PROCESSOR_FEATURE_SSE4_2_NOT_SUPPORTED = 0x0024
    PROCESSOR_FEATURE_SSE4A_NOT_SUPPORTED = 0x0025
    PROCESSOR_FEATURE_XOP_NOT_SUPPORTED = 0x0026
    PROCESSOR_FEATURE_POPCNT_NOT_SUPPORTED = 0x0027
    PROCESSOR_FEATURE_CMPXCHG16B_NOT_SUPPORTED = 0x0028
    PROCESSOR_FEATURE_ALTMOVCR8_NOT_SUPPORTED = 0x0029
    PROCESSOR_FEATURE_LZCNT_NOT_SUPPORTED = 0x002A
    PROCESSOR_FEATURE_MISALIGNED_SSE_NOT_SUPPORTED = 0x002B
    PROCESSOR_FEATURE_MMX_EXT_NOT_SUPPORTED = 0x002C
    PROCESSOR_FEATURE_3DNOW_NOT_SUPPORTED = 0x002D
    PROCESSOR_FEATURE_EXTENDED_3DNOW_NOT_SUPPORTED = 0x002E
    PROCESSOR_FEATURE_PAGE_1GB_NOT_SUPPORTED = 0x002F
    PROCESSOR_CACHE_LINE_FLUSH_SIZE_INCOMPATIBLE = 0x0030
    PROCESSOR_FEATURE_XSAVE_NOT_SUPPORTED = 0x0031
    PROCESSOR_FEATURE_XSAVEOPT_NOT_SUPPORTED = 0x0032
    INSUFFICIENT_BUFFER = 0x0033
    PROCESSOR_FEATURE_XSAVE_AVX_NOT_SUPPORTED = 0x0034
    PROCESSOR_FEATURE_XSAVE_FEATURE_NOT_SUPPORTED = 0x0035
    PROCESSOR_XSAVE_SAVE_AREA_INCOMPATIBLE = 0x0036
    INCOMPATIBLE_PROCESSOR = 0x0037
    INSUFFICIENT_DEVICE_DOMAINS = 0x0038
    PROCESSOR_FEATURE_AES_NOT_SUPPORTED = 0x0039
    PROCESSOR_FEATURE_PCLMULQDQ_NOT_SUPPORTED = 0x003A
    PROCESSOR_FEATURE_INCOMPATIBLE_XSAVE_FEATURES = 0x003B
    CPUID_FEATURE_VALIDATION_ERROR = 0x003C
    CPUID_XSAVE_FEATURE_VALIDATION_ERROR = 0x003D
    PROCESSOR_STARTUP_TIMEOUT = 0x003E
    SMX_ENABLED = 0x003F
    PROCESSOR_FEATURE_PCID_NOT_SUPPORTED = 0x0040
    INVALID_LP_INDEX = 0x0041
    PROCESSOR_FEATURE_FMA4_NOT_SUPPORTED = 0x0042
    PROCESSOR_FEATURE_F16C_NOT_SUPPORTED = 0x0043
    PROCESSOR_FEATURE_RDRAND_NOT_SUPPORTED = 0x0044
    PROCESSOR_FEATURE_RDWRFSGS_NOT_SUPPORTED = 0x0045
    PROCESSOR_FEATURE_SMEP_NOT_SUPPORTED = 0x0046
    PROCESSOR_FEATURE_ENHANCED_FAST_STRING_NOT_SUPPORTED = 0x0047
    PROCESSOR_FEATURE_MOVBE_NOT_SUPPORTED = 0x0048
    PROCESSOR_FEATURE_BMI1_NOT_SUPPORTED = 0x0049
    PROCESSOR_FEATURE_BMI2_NOT_SUPPORTED = 0x004A
    PROCESSOR_FEATURE_HLE_NOT_SUPPORTED = 0x004B
    PROCESSOR_FEATURE_RTM_NOT_SUPPORTED = 0x004C
    PROCESSOR_FEATURE_XSAVE_FMA_NOT_SUPPORTED = 0x004D
    PROCESSOR_FEATURE_XSAVE_AVX2_NOT_SUPPORTED = 0x004E
    PROCESSOR_FEATURE_NPIEP1_NOT_SUPPORTED = 0x004F
    INVALID_REGISTER_VALUE = 0x0050
    INVALID_VTL_STATE = 0x0051
    PROCESSOR_FEATURE_RDSEED_NOT_SUPPORTED = 0x0052
    PROCESSOR_FEATURE_ADX_NOT_SUPPORTED = 0x0053
    PROCESSOR_FEATURE_SMAP_NOT_SUPPORTED = 0x0054
    NX_NOT_DETECTED = 0x0055
    PROCESSOR_FEATURE_INTEL_PREFETCH_NOT_SUPPORTED = 0x0056
    INVALID_DEVICE_ID = 0x0057
    INVALID_DEVICE_STATE = 0x0058
    PENDING_PAGE_REQUESTS = 0x0059
    PAGE_REQUEST_INVALID = 0x0060
    KEY_ALREADY_EXISTS = 0x0065
    DEVICE_ALREADY_IN_DOMAIN = 0x0066
    INVALID_CPU_GROUP_ID = 0x006F
    INVALID_CPU_GROUP_STATE = 0x0070
    OPERATION_FAILED = 0x0071
    NOT_ALLOWED_WITH_NESTED_VIRT_ACTIVE = 0x0072
    INSUFFICIENT_ROOT_MEMORY = 0x0073
    EVENT_BUFFER_ALREADY_FREED = 0x0074
    TIMEOUT = 0x0078
    CALL_PENDING = 0x0079
    VTL_ALREADY_ENABLED = 0x0086
    UNKNOWN_REGISTER_NAME = 0x0087


# What each means, and what a caller does about it; those of processor features are made from their names.
_MEANINGS: dict[HvStatus, tuple[str, str]] = {
    HvStatus.SUCCESS: ("the call is done", ""),
    HvStatus.INVALID_HYPERCALL_CODE: (
        "no call has this code, or this hypervisor does not offer it", "check bits 15..0 of the input value"),
    HvStatus.INVALID_HYPERCALL_INPUT: (
        "the input value itself is wrong: a reserved bit, a rep count or start that the call cannot have, a variable "
        "header it has not, or parameters that do not fit registers",
        "compare the input value with the call's form: `hv explain hypercall VALUE`"),
    HvStatus.INVALID_ALIGNMENT: (
        "an input or output address is not a multiple of 8, its block crosses a page, or it is beyond the GPA space",
        "give each block a place of its own inside one page"),
    HvStatus.INVALID_PARAMETER: (
        "a value inside the parameters is refused: reserved field, flag, range, or combination",
        "set reserved fields to zero, then check each field's range"),
    HvStatus.ACCESS_DENIED: (
        "the caller lacks the privilege, or is not the parent of the partition it names",
        "look at CPUID 0x40000003: EAX and EBX are the privileges"),
    HvStatus.INVALID_PARTITION_STATE: (
        "the partition is not in the state that the call needs", "most calls need an active partition"),
    HvStatus.OPERATION_DENIED: (
        "the object exists, but this may not be done to it", "a page may be lent, a property only readable"),
    HvStatus.UNKNOWN_PROPERTY: ("no property has this code", ""),
    HvStatus.PROPERTY_VALUE_OUT_OF_RANGE: ("the property exists, and does not take this value", ""),
    HvStatus.INSUFFICIENT_MEMORY: (
        "the pool of the partition is empty, and the hypervisor stores nothing for free",
        "deposit pages (HvCallDepositMemory) and make the call again"),
    HvStatus.PARTITION_TOO_DEEP: ("partitions cannot be nested any deeper", ""),
    HvStatus.INVALID_PARTITION_ID: ("no partition has this id", "HV_PARTITION_ID_SELF is all ones"),
    HvStatus.INVALID_VP_INDEX: (
        "the partition has no such VP; of CreateVp: it has it already, or the index is too high", ""),
    HvStatus.NOT_FOUND: ("what is looked for is not there", ""),
    HvStatus.INVALID_PORT_ID: (
        "no port has this id, it is taken, wider than 24 bits, of another type, or it was deleted", ""),
    HvStatus.INVALID_CONNECTION_ID: (
        "the caller has no connection of this id; of ConnectPort: it is taken or wider than 24 bits", ""),
    HvStatus.INSUFFICIENT_BUFFERS: (
        "all message buffers of the port hold messages that their receiver has not taken", "wait, and post again"),
    HvStatus.NOT_ACKNOWLEDGED: ("the external interrupt was not acknowledged yet", ""),
    HvStatus.INVALID_VP_STATE: ("the VP is not in the state that the call needs", "a VP is started only once"),
    HvStatus.ACKNOWLEDGED: ("the external interrupt was acknowledged and not cleared", "HvCallClearVirtualInterrupt"),
    HvStatus.INVALID_SAVE_RESTORE_STATE: ("a save or restore of the partition is under way, or is not", ""),
    HvStatus.INVALID_SYNIC_STATE: (
        "the receiver's SynIC is off, its page is off, or its SINT is masked",
        "look at SCONTROL, SIMP or SIEFP, and the SINT of the receiving VP"),
    HvStatus.OBJECT_IN_USE: ("something still uses the object", "take that away first"),
    HvStatus.INVALID_PROXIMITY_DOMAIN_INFO: ("there is no such proximity domain", "there is one: 0"),
    HvStatus.NO_DATA: ("there is nothing to read", ""),
    HvStatus.INACTIVE: ("nobody is at the other end", ""),
    HvStatus.NO_RESOURCES: (
        "there are no more of what is asked for; of WithdrawMemory: the pool has no unused page, its normal end", ""),
    HvStatus.FEATURE_UNAVAILABLE: ("the machine, or this hypervisor, does not have it", ""),
    HvStatus.PARTIAL_PACKET: ("only a part was sent", "send the rest"),
    HvStatus.PROCESSOR_CACHE_LINE_FLUSH_SIZE_INCOMPATIBLE: ("CLFLUSH works on lines of another size here", ""),
    HvStatus.INSUFFICIENT_BUFFER: ("the caller's buffer is too small", ""),
    HvStatus.PROCESSOR_XSAVE_SAVE_AREA_INCOMPATIBLE: ("the area of XSAVE has another size here", ""),
    HvStatus.INCOMPATIBLE_PROCESSOR: ("the processor is of another kind", ""),
    HvStatus.INSUFFICIENT_DEVICE_DOMAINS: ("there are no more device domains", "delete one"),
    HvStatus.PROCESSOR_FEATURE_INCOMPATIBLE_XSAVE_FEATURES: ("XSAVE has other features here", ""),
    HvStatus.CPUID_FEATURE_VALIDATION_ERROR: ("CPUID's feature bits contradict one another", ""),
    HvStatus.CPUID_XSAVE_FEATURE_VALIDATION_ERROR: ("CPUID's XSAVE leaves contradict one another", ""),
    HvStatus.PROCESSOR_STARTUP_TIMEOUT: ("the processor did not start", ""),
    HvStatus.SMX_ENABLED: ("the firmware has SMX on", ""),
    HvStatus.INVALID_LP_INDEX: ("there is no such logical processor", "there is one: 0"),
    HvStatus.INVALID_REGISTER_VALUE: (
        "the register does not take this value", "reps completed says which element it was"),
    HvStatus.INVALID_VTL_STATE: ("the virtual trust level is not there, or not in the state the call needs", ""),
    HvStatus.NX_NOT_DETECTED: ("the processor has no-execute off", ""),
    HvStatus.INVALID_DEVICE_ID: ("there is no such device, or it is not this partition's", ""),
    HvStatus.INVALID_DEVICE_STATE: ("the device is not in the state that the call needs", "attached, or detached?"),
    HvStatus.PENDING_PAGE_REQUESTS: ("page requests of the device are under way", ""),
    HvStatus.PAGE_REQUEST_INVALID: ("there is no such page request", ""),
    HvStatus.KEY_ALREADY_EXISTS: ("the key is there already", ""),
    HvStatus.DEVICE_ALREADY_IN_DOMAIN: ("the device is in this domain already", "nothing is left to do"),
    HvStatus.INVALID_CPU_GROUP_ID: ("there is no such CPU group", ""),
    HvStatus.INVALID_CPU_GROUP_STATE: ("the CPU group is not in the state that the call needs", ""),
    HvStatus.OPERATION_FAILED: ("it was tried and failed", ""),
    HvStatus.NOT_ALLOWED_WITH_NESTED_VIRT_ACTIVE: ("a guest hypervisor is running", ""),
    HvStatus.INSUFFICIENT_ROOT_MEMORY: ("root's own pool is empty", "deposit pages for root, and call again"),
    HvStatus.EVENT_BUFFER_ALREADY_FREED: ("the event buffer is free already", ""),
    HvStatus.TIMEOUT: ("it took too long", ""),
    HvStatus.CALL_PENDING: ("the call goes on; its end comes as a message", ""),
    HvStatus.VTL_ALREADY_ENABLED: ("the virtual trust level is enabled already", ""),
    HvStatus.UNKNOWN_REGISTER_NAME: ("no register has this name", ""),
}
_FEATURE, _MISSING = "PROCESSOR_FEATURE_", "_NOT_SUPPORTED"


def meaning(status: HvStatus) -> tuple[str, str]:
    """What *status* says, and what a caller does about it (which may be nothing)."""
    found = _MEANINGS.get(status)
    if found is None:
        feature = status.name.removeprefix(_FEATURE).removesuffix(_MISSING)
        return f"the processor lacks {feature}, which the partition was made or saved with", ""
    return found

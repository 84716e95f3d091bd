"""What a parent cannot hear of: intercept types and message types that are named in the manual and not built, and why.

A type of intercept that stands here is INVALID_PARAMETER for HvCallInstallIntercept; a message of a type that stands
here is never sent. A test sees that every name of the manual is built or stands here, and not both.
"""

from __future__ import annotations

from hv.spec.intercepts import HvInterceptType
from hv.spec.synic import HvMessageType

T, M = HvInterceptType, HvMessageType
_NO_SMI = "there is no system-management mode, and so no SMI"
_NO_INIT_LAYOUT = "no public document has the layout of its message, which tells INIT from SIPI"
_NO_WRITE_LAYOUT = "no public document says which bit of its mask is which register, nor how its message looks"
_NO_TRAP = "no public document says what it is a trap of: exceptions are intercepted as faults, before delivery"
_NO_VTL = "it tells a higher trust level, and virtual trust levels are not built"
_NOT_ISOLATED = "isolated partitions are not built"
_NO_EVENT_LOG = "the hypervisor writes no event log"
_NO_ROOT_SCHEDULER = "the hypervisor schedules: root is signalled about no VP"
_NOT_TOLD = "the manual has its name only"

INTERCEPT_TYPES: dict[HvInterceptType, str] = {
    T.RESERVED0: "it was control registers once; nothing has the number now",
    T.MMIO: "an access to a page that is not mapped is a message without asking",
    T.APIC_SMI: _NO_SMI,
    T.APIC_INIT_SIPI: _NO_INIT_LAYOUT,
    T.MC_UPDATE_PATCH_LEVEL_MSR_READ: "the MSR of the microcode's version is like any other: MSR intercepts it",
    T.APIC_WRITE: _NO_WRITE_LAYOUT,
    T.MSR_INDEX: "MSR is the same, for each MSR by its index",
    T.EXCEPTION_TRAP: _NO_TRAP,
    T.REGISTER: _NO_VTL,
}

MESSAGE_TYPES: dict[HvMessageType, str] = {
    M.NONE: "it is an empty slot, and no message",
    M.UNACCEPTED_GPA: _NOT_ISOLATED,
    M.GPA_ATTRIBUTE_INTERCEPT: _NOT_ISOLATED,
    M.ENABLE_PARTITION_VTL_INTERCEPT: _NO_VTL,
    M.UNSUPPORTED_FEATURE: "what a guest asks for in vain is a fault of its own, or stops the VP with a reason",
    M.TLB_PAGE_SIZE_MISMATCH: "the processor caches pages of all sizes alike",
    M.IOMMU_FAULT: "its layout is not public; root reads the IOMMU's fault records itself",
    M.EVENT_LOG_BUFFER_COMPLETE: _NO_EVENT_LOG,
    M.SYNIC_EVENT_INTERCEPT: _NOT_TOLD,
    M.SYNIC_SINT_INTERCEPT: _NOT_TOLD,
    M.ASYNC_CALL_COMPLETION: "every hypercall is done when it returns",
    M.INSUFFICIENT_MEMORY: "a call that needs memory says so by its status",
    M.SCHEDULER_VP_SIGNAL_BITSET: _NO_ROOT_SCHEDULER,
    M.SCHEDULER_VP_SIGNAL_PAIR: _NO_ROOT_SCHEDULER,
    M.X64_LEGACY_FP_ERROR: "x87 errors are exceptions here (CR0.NE is 1), never the interrupt of old machines",
    M.REGISTER_INTERCEPT: _NO_VTL,
    M.X64_HALT: "no public document says what asks for it: a halted VP waits in the hypervisor",
    M.X64_SIPI_INTERCEPT: "the hypervisor has the APICs of its children, so it starts their VPs itself",
    M.X64_RDTSC_INTERCEPT: "no type of intercept asks for it",
    M.X64_APIC_SMI_INTERCEPT: _NO_SMI,
    M.X64_APIC_INIT_SIPI_INTERCEPT: _NO_INIT_LAYOUT,
    M.X64_APIC_WRITE_INTERCEPT: _NO_WRITE_LAYOUT,
    M.X64_PROXY_INTERRUPT_INTERCEPT: "its layout is not public, nor what a SINT with the proxy bit does",
    M.X64_ISOLATION_CTRL_REG_INTERCEPT: _NOT_ISOLATED,
    M.X64_SNP_GUEST_REQUEST_INTERCEPT: _NOT_ISOLATED,
    M.X64_EXCEPTION_TRAP_INTERCEPT: _NO_TRAP,
    M.X64_SEV_VMGEXIT_INTERCEPT: _NOT_ISOLATED,
    M.X64_MSR_LIST_INTERCEPT: _NOT_TOLD,
}

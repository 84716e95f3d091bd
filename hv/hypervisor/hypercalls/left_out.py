"""The calls that are not built, each with the reason; a test sees that every code is built or stands here, not both.

They are told in groups: a whole subject of the manual that is missing here, something the machine does not have, and
calls of which the public documents have a name only.
"""

from __future__ import annotations

from hv.spec.hypercalls.codes import HypercallCode

C = HypercallCode
_NO_VSM = "virtual secure mode (VTLs) is not built"
_NOT_ISOLATED = "isolated partitions are not built: a parent sees all memory of its children"
_NOT_NESTED = "a guest is offered no virtualization of its own"
_NO_LAYOUT = "no public document gives its layout"
_NO_MEANING = "no public document says what it does beyond its layout"
_NO_PASID = "the IOMMU has no PASIDs: a device has one address space, not one for each process"
_NO_EVENT_LOG = "the hypervisor's events are those of the trace; it writes no log into root's memory"
_NO_GROUPS = "all partitions share the same processor, so there are no groups of them to share out"
_FIXED_PROCESSORS = "the logical processors are those the machine began with; none comes, goes, or has settings"
_NO_POWER = "the machine has no sleep states, and no processor power settings"
_NO_MACHINE_CHECK = "the machine has no memory errors, and so no machine checks that root would handle"
_EXTENDED = "HvExtCallQueryCapabilities does not offer it"

LEFT_OUT: dict[HypercallCode, str] = {
    # Subjects of the manual.
    **dict.fromkeys((C.MODIFY_VTL_PROTECTION_MASK, C.ENABLE_PARTITION_VTL, C.DISABLE_PARTITION_VTL, C.ENABLE_VP_VTL,
                     C.DISABLE_VP_VTL, C.VTL_CALL, C.VTL_RETURN, C.CHECK_SPARSE_GPA_PAGE_VTL_ACCESS,
                     C.QUERY_VTL_PROTECTION_MASK_RANGE, C.MODIFY_VTL_PROTECTION_MASK_RANGE), _NO_VSM),
    **dict.fromkeys((C.ACCEPT_GPA_PAGES, C.UNACCEPT_GPA_PAGES, C.MODIFY_SPARSE_GPA_PAGE_HOST_VISIBILITY,
                     C.QUERY_SPARSE_GPA_PAGE_HOST_VISIBILITY, C.ACQUIRE_SPARSE_GPA_PAGE_HOST_ACCESS,
                     C.RELEASE_SPARSE_GPA_PAGE_HOST_ACCESS, C.ACQUIRE_SPARSE_SPA_PAGE_HOST_ACCESS,
                     C.RELEASE_SPARSE_SPA_PAGE_HOST_ACCESS), _NOT_ISOLATED),
    **dict.fromkeys((C.FLUSH_GUEST_PHYSICAL_ADDRESS_SPACE, C.FLUSH_GUEST_PHYSICAL_ADDRESS_LIST), _NOT_NESTED),
    **dict.fromkeys((C.QUERY_DEVICE_DOMAIN, C.MAP_SPARSE_DEVICE_GPA_PAGES, C.UNMAP_SPARSE_DEVICE_GPA_PAGES,
                     C.QUERY_DEVICE_DOMAIN_PROPERTIES, C.FLUSH_DEVICE_DOMAIN_LIST), _NO_LAYOUT),
    **dict.fromkeys((C.CREATE_PASID_SPACE, C.DELETE_PASID_SPACE, C.SET_PASID_ADDRESS_SPACE, C.FLUSH_PASID_ADDRESS_SPACE,
                     C.FLUSH_PASID_ADDRESS_LIST, C.ATTACH_PASID_SPACE, C.DETACH_PASID_SPACE, C.ENABLE_PASID,
                     C.DISABLE_PASID, C.ACKNOWLEDGE_DEVICE_PAGE_REQUEST, C.CREATE_DEVICE_PR_QUEUE,
                     C.DELETE_DEVICE_PR_QUEUE, C.SET_DEVICE_PRQ_PROPERTY, C.PROCESS_IOMMU_PRQ), _NO_PASID),
    **dict.fromkeys((C.INITIALIZE_EVENT_LOG_BUFFER_GROUP, C.FINALIZE_EVENT_LOG_BUFFER_GROUP, C.CREATE_EVENT_LOG_BUFFER,
                     C.DELETE_EVENT_LOG_BUFFER, C.MAP_EVENT_LOG_BUFFER, C.UNMAP_EVENT_LOG_BUFFER,
                     C.SET_EVENT_LOG_GROUP_SOURCES, C.RELEASE_EVENT_LOG_BUFFER, C.FLUSH_EVENT_LOG_BUFFER),
                    _NO_EVENT_LOG),
    **dict.fromkeys((C.CREATE_CPU_GROUP, C.DELETE_CPU_GROUP, C.GET_CPU_GROUP_PROPERTY, C.SET_CPU_GROUP_PROPERTY,
                     C.GET_CPU_GROUP_AFFINITY, C.GET_NEXT_CPU_GROUP, C.GET_NEXT_CPU_GROUP_PARTITION), _NO_GROUPS),
    # What the machine, or this hypervisor, does not have.
    **dict.fromkeys((C.ADD_LOGICAL_PROCESSOR, C.REMOVE_LOGICAL_PROCESSOR, C.GET_LOGICAL_PROCESSOR_REGISTERS,
                     C.SET_LOGICAL_PROCESSOR_REGISTERS), _FIXED_PROCESSORS),
    C.PARKED_VIRTUAL_PROCESSORS: "no VP is parked: one that has nothing to do halts, and costs nothing",
    **dict.fromkeys((C.ENTER_SLEEP_STATE, C.NOTIFY_STANDBY_TRANSITION, C.PREPARE_FOR_HIBERNATE, C.GET_POWER_PROPERTY,
                     C.SET_POWER_PROPERTY), _NO_POWER),
    **dict.fromkeys((C.QUERY_ASSOCIATED_LPS_FOR_MCA, C.INJECT_SYNTHETIC_MACHINE_CHECK), _NO_MACHINE_CHECK),
    C.DISABLE_HYPERVISOR: "root cannot run without the hypervisor: it is code in a partition, like any other",
    C.ADD_PHYSICAL_MEMORY: "the machine's memory does not grow while it runs",
    C.INVOKE_HYPERVISOR_DEBUGGER: "the hypervisor has no debugger on a wire: who runs the machine sees all of it",
    C.COLLECT_LIVEDUMP: "the hypervisor is no machine code, so there is no memory of its own to dump",
    **dict.fromkeys((C.GET_GPA_PAGES_ACCESS_STATE, C.GET_SPARSE_GPA_PAGES_ACCESS_STATE),
                    "the tables of a child keep no accessed and dirty flags"),
    **dict.fromkeys((C.MAP_DEVICE_PAGES, C.UNMAP_DEVICE_PAGES),
                    "later versions have another call at this code: devices are attached by HvCallAttachDevice"),
    C.SET_VIRTUAL_INTERRUPT_TARGET: "no public document gives its layout",
    C.ENABLE_DEVICE_INTERRUPT: "a device's interrupt is enabled from when it is mapped",
    C.NOTIFY_PORT_RING_EMPTY: "messages wait in queues of their ports; no port has a ring buffer",
    C.INSTALL_INTERCEPT_EX: "it is for the intercepts of another architecture (arm64)",
    C.COMPLETE_INTERCEPT: "its layout is not public; an intercept is completed by registers (RIP, InterceptSuspend)",
    **dict.fromkeys((C.SAVE_PARTITION_STATE, C.RESTORE_PARTITION_STATE),
                    "the form of the saved state is not public; root saves a VP by HvCallGetVpState and its registers"),
    C.ASSERT_VIRTUAL_INTERRUPT_V1: "it is deprecated: HvCallAssertVirtualInterrupt is there",
    C.RESTORE_PARTITION_TIME: "a child is not moved while it runs: its time is set by the property ReferenceTime",
    # Known by name only.
    **dict.fromkeys((C.GET_SPA_PAGE_LIST, C.SET_GPA_PAGE_ATTRIBUTES, C.PRECOMMIT_GPA_PAGES, C.UNCOMMIT_GPA_PAGES,
                     C.GET_SYSTEM_PROPERTY, C.SET_SYSTEM_PROPERTY, C.GET_LOGICAL_PROCESSOR_PROPERTY,
                     C.SET_LOGICAL_PROCESSOR_PROPERTY, C.QUERY_NUMA_DISTANCE, C.NOTIFY_PARTITION_EVENT,
                     C.GET_PHYSICAL_DEVICE_PROPERTY, C.SET_PHYSICAL_DEVICE_PROPERTY), _NO_LAYOUT),
    **dict.fromkeys((C.PIN_GPA_PAGE_RANGES, C.UNPIN_GPA_PAGE_RANGES, C.MEMORY_MAPPED_IO_READ,
                     C.MEMORY_MAPPED_IO_WRITE), _NO_MEANING),
    **dict.fromkeys((C.EXT_CALL_GET_BOOT_ZEROED_MEMORY, C.EXT_CALL_MEMORY_HEAT_HINT, C.EXT_CALL_EPF_SETUP,
                     C.EXT_CALL_MEMORY_HEAT_HINT_ASYNC), _EXTENDED),
}


def reason(code: HypercallCode) -> str:
    """Why the call *code* is not built."""
    return LEFT_OUT[code]

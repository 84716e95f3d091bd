"""The properties of partitions, one `provide` each; TLFS "HV_PARTITION_PROPERTY_CODE".

A property that means nothing here is UNKNOWN_PROPERTY. What a guest has been told at its start (privileges, processor
features) is settled before the partition is initialized; INVALID_PARTITION_STATE afterwards, and for every property of
a partition that is finalized.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hv.hypervisor.devices.virtual_iommu import VirtualIommu
from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.registry import Call, hypercall, require
from hv.hypervisor.partitions.partition import Partition, PartitionState
from hv.hypervisor.partitions.processor_leaves import ADDRESS_BITS_PHYSICAL
from hv.machine.clock import APIC_BUS_HZ, TSC_HZ
from hv.spec.cpuid import CpuidLeaf, FeaturesEbx
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.partitions import (
    GetPartitionPropertyInput,
    GetPartitionPropertyOutput,
    SetPartitionPropertyExInput,
    SetPartitionPropertyInput,
)
from hv.spec.partition import HvPartitionProperty
from hv.trace.events import PropertySet

MAX_WEIGHT, MAX_SHARE = 10_000, 1 << 16
VENDOR_INTEL = 1
NOT_ISOLATED = 0
LATEST_TIME = 1 << 58           # units of 100 ns, 900 years: ticks of the clock fit 64 bits
_AT_FIRST = (PartitionState.CREATED,)
_OWN = (HvPartitionProperty.DEBUG_CHANNEL_ID,)          # root sets its own, to be the debugger
_WHILE_ALIVE = (PartitionState.CREATED, PartitionState.ACTIVE)

Get = Callable[[Partition], int]
Set = Callable[[Partition, int], None]


class Property(NamedTuple):
    """How to read one, how to set it (None: it is only read), and in which states."""

    get: Get
    set: Set | None
    states: tuple[PartitionState, ...]


PROPERTIES: dict[int, Property] = {}


def provide(code: HvPartitionProperty, get: Get, set: Set | None = None,
            states: tuple[PartitionState, ...] = _WHILE_ALIVE) -> None:
    """The property *code* is there; TypeError when it was before."""
    if code in PROPERTIES:
        raise TypeError(f"property {code.name} is provided twice")
    PROPERTIES[int(code)] = Property(get, set, states)


@hypercall(HypercallCode.GET_PARTITION_PROPERTY, input=GetPartitionPropertyInput, output=GetPartitionPropertyOutput)
def get_partition_property(call: Call, input: GetPartitionPropertyInput) -> GetPartitionPropertyOutput:
    """A property of a child, or of root asked by itself."""
    partition = call.partition if call.partition.is_root and call.find(input.partition_id) is call.partition \
        else call.find_child(input.partition_id)
    return GetPartitionPropertyOutput(property_value=_find(input.property_code).get(partition))


@hypercall(HypercallCode.SET_PARTITION_PROPERTY, input=SetPartitionPropertyInput)
def set_partition_property(call: Call, input: SetPartitionPropertyInput) -> None:
    """A property of a child, or root's own debug channel. One that can only be read is OPERATION_DENIED."""
    _set(call, input.partition_id, input.property_code, input.property_value)


@hypercall(HypercallCode.SET_PARTITION_PROPERTY_EX, input=SetPartitionPropertyExInput, variable=True)
def set_partition_property_ex(call: Call, input: SetPartitionPropertyExInput, units: tuple[int, ...]) -> None:
    """The same, with the value in a variable header; every property here has one unit of 8 bytes."""
    call.find_child(input.partition_id)
    require(len(units) == 1, f"{len(units)} units of 8 bytes; a property has one")
    _set(call, input.partition_id, input.property_code, units[0])


def _find(code: int) -> Property:
    found = PROPERTIES.get(code)
    if found is None:
        raise HypercallError(HvStatus.UNKNOWN_PROPERTY, f"property {code:#x}")
    return found


def _set(call: Call, partition_id: int, code: int, value: int) -> None:
    own = code in _OWN and call.partition.is_root and call.find(partition_id) is call.partition
    partition, found = call.partition if own else call.find_child(partition_id), _find(code)
    if found.set is None:
        raise HypercallError(HvStatus.OPERATION_DENIED, f"property {code:#x} is only read")
    partition.require_state(*found.states)
    found.set(partition, value)
    call.emit(PropertySet(partition.id, code, value))


def _in_range(value: int, low: int, high: int) -> int:
    require(low <= value <= high, f"{value} is out of range {low}..{high}", HvStatus.PROPERTY_VALUE_OUT_OF_RANGE)
    return value


def _set_privileges(partition: Partition, value: int) -> None:
    """A child's privileges are some of its parent's."""
    assert partition.parent is not None, "root's privileges are not set"
    excess = value & ~partition.parent.privileges
    require(not excess, f"privileges {excess:#x} are not the parent's to give", HvStatus.PROPERTY_VALUE_OUT_OF_RANGE)
    partition.set_privileges(value)


def _set_features(partition: Partition, value: int) -> None:
    """No feature that the processor, or the parent at creation, does not give."""
    offered = partition.cpuid.processor_features
    require(not value & ~offered, f"features {value & ~offered:#x} are not there", HvStatus.PROPERTY_VALUE_OUT_OF_RANGE)
    partition.disable_features(partition.disabled_features | offered & ~value)


def _set_reference_time(partition: Partition, value: int) -> None:
    """Only while nobody watches it: in state Created, or frozen."""
    if partition.state is not PartitionState.CREATED and not partition.time.frozen:
        raise HypercallError(HvStatus.INVALID_PARTITION_STATE, "the reference counter is set while time is frozen")
    partition.set_reference_time(_in_range(value, 0, LATEST_TIME))


def _set_weight(partition: Partition, value: int) -> None:
    partition.schedule.weight = _in_range(value, 1, MAX_WEIGHT)


def _set_cap(partition: Partition, value: int) -> None:
    partition.schedule.cap = _in_range(value, 0, MAX_SHARE)


def _set_reserve(partition: Partition, value: int) -> None:
    partition.schedule.reserve = _in_range(value, 0, MAX_SHARE)


def _set_debug_channel(partition: Partition, value: int) -> None:
    partition.debug_channels.join(partition, _in_range(value, 0, (1 << 32) - 1))


def _set_msr_action(partition: Partition, value: int) -> None:
    partition.unimplemented_msr_action = _in_range(value, 0, 1)


def _set_virtual_iommu(partition: Partition, value: int) -> None:
    """Once, and before the partition has devices. INSUFFICIENT_MEMORY."""
    has, value = partition.virtual_iommu is not None, _in_range(value, 0, 1)
    require(value or not has, "a virtual IOMMU is not taken away", HvStatus.PROPERTY_VALUE_OUT_OF_RANGE)
    require(has or not value or not partition.devices, "the partition has devices", HvStatus.INVALID_PARTITION_STATE)
    if value and not has:
        partition.virtual_iommu = VirtualIommu(partition)


def _cl_flush_size(partition: Partition) -> int:
    """In units of 8 bytes, as CPUID says it."""
    return FeaturesEbx(partition.cpuid.lookup(CpuidLeaf.FEATURES, 0)[1]).clflush_size


P = HvPartitionProperty
provide(P.PRIVILEGE_FLAGS, lambda partition: partition.privileges, _set_privileges, _AT_FIRST)
provide(P.REFERENCE_TSC_PAGE_ACTIVE, lambda partition: int(partition.state is PartitionState.ACTIVE
                                                           and partition.reference_tsc.msr.enable))
provide(P.SUSPEND, lambda partition: int(partition.suspended),
        lambda partition, value: partition.suspend(bool(_in_range(value, 0, 1))))
provide(P.CPU_RESERVE, lambda partition: partition.schedule.reserve, _set_reserve)
provide(P.CPU_CAP, lambda partition: partition.schedule.cap, _set_cap)
provide(P.CPU_WEIGHT, lambda partition: partition.schedule.weight, _set_weight)
provide(P.TIME_FREEZE, lambda partition: int(partition.time.frozen),
        lambda partition, value: partition.freeze_time(bool(_in_range(value, 0, 1))))
provide(P.APIC_FREQUENCY, lambda partition: APIC_BUS_HZ)
provide(P.REFERENCE_TIME, lambda partition: partition.reference_time, _set_reference_time)
provide(P.ISOLATION_STATE, lambda partition: NOT_ISOLATED)
provide(P.DEBUG_CHANNEL_ID, lambda partition: partition.debug_channels.number_of(partition), _set_debug_channel,
        (PartitionState.ACTIVE,))
provide(P.UNIMPLEMENTED_MSR_ACTION, lambda partition: partition.unimplemented_msr_action, _set_msr_action)
provide(P.AUTO_EOI_ENABLED, lambda partition: 1)
provide(P.VIRTUAL_IOMMU, lambda partition: int(partition.virtual_iommu is not None), _set_virtual_iommu,
        (PartitionState.ACTIVE,))
provide(P.PROCESSOR_VENDOR, lambda partition: VENDOR_INTEL)
provide(P.PROCESSOR_FEATURES, lambda partition: partition.cpuid.processor_features, _set_features, _AT_FIRST)
provide(P.PROCESSOR_FEATURES0, lambda partition: partition.cpuid.processor_features, _set_features, _AT_FIRST)
provide(P.PROCESSOR_CL_FLUSH_SIZE, _cl_flush_size)
provide(P.COMPATIBILITY_VERSION, lambda partition: partition.compatibility_version)
provide(P.PHYSICAL_ADDRESS_WIDTH, lambda partition: ADDRESS_BITS_PHYSICAL)
provide(P.PROCESSOR_CLOCK_FREQUENCY, lambda partition: TSC_HZ)
provide(P.GUEST_OS_ID, lambda partition: partition.guest_os_id.raw)

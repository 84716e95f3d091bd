"""Messages of devices that a parent emulates, for a child whose guest has a remapping unit of its own.

HvCallAssertVirtualInterrupt says who is interrupted, so nothing is left for the guest's interrupt remapping table to
decide. This call takes what a bus carries instead: who writes, where to, and what. No call of TLFS does; this one is
made of HV_DEVICE_ID and HV_INTERRUPT_ENTRY as HvCallMapDeviceInterrupt is, and `docs/references.md` lists it.
"""

from __future__ import annotations

from hv.hypervisor.hypercalls.devices import requester_id
from hv.hypervisor.hypercalls.registry import Call, hypercall, require
from hv.hypervisor.partitions.partition import PartitionState
from hv.iommu.unit import is_interrupt_address
from hv.spec.apic import DeliveryMode
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.interrupts import (
    INTERRUPT_SOURCE_MSI,
    INTERRUPT_VECTOR_NONE,
    AssertDeviceInterruptInput,
    AssertDeviceInterruptOutput,
    HvInterruptControl,
)
from hv.trace.events import InterruptRequested


@hypercall(HypercallCode.ASSERT_DEVICE_INTERRUPT, input=AssertDeviceInterruptInput, output=AssertDeviceInterruptOutput)
def assert_device_interrupt(call: Call, input: AssertDeviceInterruptInput) -> AssertDeviceInterruptOutput:
    """A device of a child sends a message: the child's own remapping unit says what it becomes, and that is delivered.

    Answers what it became, INTERRUPT_VECTOR_NONE for what is posted and tells no processor; an ExtInt the caller
    delivers itself, as the vector is its interrupt controller's.
    FEATURE_UNAVAILABLE without a unit, OPERATION_DENIED when the unit refuses (it has recorded why), INVALID_VP_INDEX
    when nobody is meant. A type of interrupt that there is not is lost.
    """
    partition, entry = call.find_child(input.partition_id), input.interrupt_entry
    device = requester_id(input.device_id)
    require(entry.source == INTERRUPT_SOURCE_MSI and is_interrupt_address(entry.address),
            f"{entry.address:#x} is no address of interrupts")
    partition.require_state(PartitionState.ACTIVE)
    unit = partition.virtual_iommu
    require(unit, f"partition {partition.id} has no remapping unit", HvStatus.FEATURE_UNAVAILABLE)
    assert unit is not None, "just checked"
    made = unit.remap(device, entry.address, entry.data)
    require(made, f"the guest's unit refuses the message of device {device:#x}", HvStatus.OPERATION_DENIED)
    assert made is not None, "just checked"
    message = made.message
    if message is None:
        return AssertDeviceInterruptOutput(vector=INTERRUPT_VECTOR_NONE)
    if message.delivery_mode != DeliveryMode.EXTINT:
        require(unit.deliver(message), f"destination {message.destination:#x} is nobody", HvStatus.INVALID_VP_INDEX)
        call.emit(InterruptRequested(message.vector, "hypercall"))
    control = HvInterruptControl(interrupt_type=message.delivery_mode, level_triggered=int(message.level),
                                 logical_destination_mode=int(message.logical))
    return AssertDeviceInterruptOutput(interrupt_control=control.raw, destination=message.destination,
                                       vector=message.vector)

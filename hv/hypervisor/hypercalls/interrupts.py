"""Interrupts that a parent raises in a child: what its I/O APIC, its 8259s, or its LINT pins would do.

TLFS "Virtual Interrupt Controller", "HvCallAssertVirtualInterrupt", "HvCallClearVirtualInterrupt".
# Simplified: an SMI is INVALID_PARAMETER, as there is no system-management mode.
"""

from __future__ import annotations

from hv.hypervisor.hypercalls.registry import Call, hypercall, require, require_vtl0
from hv.hypervisor.partitions.partition import Partition, PartitionState
from hv.machine.apic import LocalApic
from hv.machine.interconnect import Message
from hv.spec.apic import BROADCAST_X2APIC, BROADCAST_XAPIC, LOWEST_LEGAL_VECTOR, ApicRegister, DeliveryMode
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.interrupts import (
    INTERRUPT_VECTOR_NONE,
    AssertVirtualInterruptInput,
    ClearVirtualInterruptInput,
    HvInterruptControl,
    HvInterruptType,
)
from hv.trace.events import InterruptRequested

T = HvInterruptType
_MESSAGES = {T.FIXED: DeliveryMode.FIXED, T.LOWEST_PRIORITY: DeliveryMode.LOWEST_PRIORITY, T.NMI: DeliveryMode.NMI,
             T.INIT: DeliveryMode.INIT, T.SIPI: DeliveryMode.STARTUP}
_PINS = {T.LOCAL_INT0: ApicRegister.LVT_LINT0, T.LOCAL_INT1: ApicRegister.LVT_LINT1}
_WITH_VECTOR = (T.FIXED, T.LOWEST_PRIORITY, T.SIPI, T.EXT_INT)
_FIXED = (T.FIXED, T.LOWEST_PRIORITY)


@hypercall(HypercallCode.ASSERT_VIRTUAL_INTERRUPT, input=AssertVirtualInterruptInput)
def assert_virtual_interrupt(call: Call, input: AssertVirtualInterruptInput) -> None:
    """Raise an interrupt in a child. ExtInt waits for who takes it, the others reach the VPs of the destination.

    INVALID_VP_INDEX when that names nobody; ACKNOWLEDGED for an ExtInt while the last one is not cleared. An ExtInt
    with INTERRUPT_VECTOR_NONE takes a level-triggered one back.
    """
    partition = call.find_child(input.partition_id)
    control = HvInterruptControl(input.interrupt_control)
    kind, level = control.interrupt_type, bool(control.level_triggered)
    require(not control.raw & HvInterruptControl.RESERVED, f"reserved bits in interrupt control {control.raw:#x}")
    require(kind in _MESSAGES or kind in _PINS or kind == T.EXT_INT, f"interrupt type {kind}")
    _check_vector(kind, input.vector)
    require_vtl0(input.target_vtl)
    partition.require_state(PartitionState.ACTIVE)      # INIT and SIPI write registers, which go with the engine
    if kind == T.EXT_INT:
        require(not input.destination, f"destination {input.destination:#x} of an external interrupt")
        _assert_external(partition, input.vector, level)
    else:
        targets = _named(partition, input.destination, bool(control.logical_destination_mode))
        require(targets, f"destination {input.destination:#x} is nobody", HvStatus.INVALID_VP_INDEX)
        _deliver(partition, kind, input.vector, level, targets)
    if input.vector != INTERRUPT_VECTOR_NONE:
        call.emit(InterruptRequested(input.vector, "hypercall"))


def _check_vector(kind: int, vector: int) -> None:
    none = kind == T.EXT_INT and vector == INTERRUPT_VECTOR_NONE
    require(none or vector <= 0xFF, f"vector {vector:#x} is out of range 0..255")
    require(kind in _WITH_VECTOR or not vector, f"vector {vector:#x} with interrupt type {kind}")
    require(kind not in _FIXED or vector >= LOWEST_LEGAL_VECTOR, f"vector {vector:#x} is below 16")


def _assert_external(partition: Partition, vector: int, level: bool) -> None:
    if vector == INTERRUPT_VECTOR_NONE:
        partition.external.lower()
    else:
        partition.external.raise_vector(vector, level)


def _named(partition: Partition, destination: int, logical: bool) -> list[LocalApic]:
    """The APICs that are meant. All ones is everybody: of eight bits for an xAPIC, of 32 for any."""
    wires = partition.interconnect
    if destination in (BROADCAST_XAPIC, BROADCAST_X2APIC):
        return [apic for apic in wires.apics if apic.is_present
                and (destination == BROADCAST_X2APIC or not apic.is_x2apic or apic.answers_to(destination, logical))]
    return wires.targets(destination, logical)


def _deliver(partition: Partition, kind: int, vector: int, level: bool, targets: list[LocalApic]) -> None:
    """As a message, or at a pin, where the local vector table says what it means."""
    if kind in _PINS:
        for apic in targets:
            apic.raise_local(_PINS[T(kind)])
    else:
        partition.interconnect.hand_out(Message(vector, _MESSAGES[T(kind)], level), targets)


@hypercall(HypercallCode.CLEAR_VIRTUAL_INTERRUPT, input=ClearVirtualInterruptInput)
def clear_virtual_interrupt(call: Call, input: ClearVirtualInterruptInput) -> None:
    """The external interrupt that a VP of the child took is done with; NOT_ACKNOWLEDGED when none was taken."""
    partition = call.find_child(input.partition_id)
    partition.require_state(PartitionState.ACTIVE)
    partition.external.clear()

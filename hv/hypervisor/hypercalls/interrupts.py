"""Interrupts that a parent raises in a child: what its I/O APIC, its 8259s, or its LINT pins would do.

TLFS "Virtual Interrupt Controller", "HvCallAssertVirtualInterrupt", "HvCallClearVirtualInterrupt".
# Simplified: an SMI is INVALID_PARAMETER, as there is no system-management mode.
"""

from __future__ import annotations

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.registry import Call, hypercall, require, require_vtl0
from hv.hypervisor.partitions.partition import Partition, PartitionState
from hv.machine.apic import LocalApic
from hv.machine.interconnect import Message
from hv.spec.apic import LOWEST_LEGAL_VECTOR, ApicRegister, DeliveryMode
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
_MESSAGES: dict[int, DeliveryMode] = {
    T.FIXED: DeliveryMode.FIXED, T.LOWEST_PRIORITY: DeliveryMode.LOWEST_PRIORITY, T.NMI: DeliveryMode.NMI,
    T.INIT: DeliveryMode.INIT, T.SIPI: DeliveryMode.STARTUP,
}
_PINS: dict[int, ApicRegister] = {T.LOCAL_INT0: ApicRegister.LVT_LINT0, T.LOCAL_INT1: ApicRegister.LVT_LINT1}
_WITH_VECTOR = (T.FIXED, T.LOWEST_PRIORITY, T.SIPI, T.EXT_INT)
_FIXED = (T.FIXED, T.LOWEST_PRIORITY)
# An emulated device's interrupt goes by these, and naming a member of an enumeration costs a call.
_EXT_INT = int(T.EXT_INT)
_LEVEL, _LOGICAL = HvInterruptControl(level_triggered=1).raw, HvInterruptControl(logical_destination_mode=1).raw
_USUAL = _LEVEL | _LOGICAL | int(T.LOWEST_PRIORITY)             # fixed or lowest priority, and nothing else


@hypercall(HypercallCode.ASSERT_VIRTUAL_INTERRUPT, input=AssertVirtualInterruptInput)
def assert_virtual_interrupt(call: Call, input: AssertVirtualInterruptInput) -> None:
    """Raise an interrupt in a child. ExtInt waits for who takes it, the others reach the VPs of the destination.

    INVALID_VP_INDEX when that names nobody; ACKNOWLEDGED for an ExtInt while the last one is not cleared. An ExtInt
    with INTERRUPT_VECTOR_NONE takes a level-triggered one back.
    """
    partition = call.find_child(input.partition_id)
    control, vector, destination = input.interrupt_control, input.vector, input.destination
    if control & ~_USUAL or not LOWEST_LEGAL_VECTOR <= vector <= 0xFF:
        _check(control, vector, destination)
    if input.target_vtl:
        require_vtl0(input.target_vtl)
    partition.require_state(PartitionState.ACTIVE)      # INIT and SIPI write registers, which go with the engine
    kind = control & 0xFFFF_FFFF
    if kind == _EXT_INT:
        _assert_external(partition, vector, bool(control & _LEVEL))
    else:
        targets = partition.interconnect.named(destination, bool(control & _LOGICAL))
        if not targets:
            raise HypercallError(HvStatus.INVALID_VP_INDEX, f"destination {destination:#x} is nobody")
        _deliver(partition, kind, vector, bool(control & _LEVEL), targets)
    if vector != INTERRUPT_VECTOR_NONE and call.hypervisor.trace.listening:
        call.emit(InterruptRequested(vector, "hypercall"))


def _check(control: int, vector: int, destination: int) -> None:
    """INVALID_PARAMETER for a control word, a vector or a destination that the type does not have."""
    kind = HvInterruptControl(control).interrupt_type
    require(not control & HvInterruptControl.RESERVED, f"reserved bits in interrupt control {control:#x}")
    require(kind in _MESSAGES or kind in _PINS or kind == T.EXT_INT, f"interrupt type {kind}")
    none = kind == T.EXT_INT and vector == INTERRUPT_VECTOR_NONE
    require(none or vector <= 0xFF, f"vector {vector:#x} is out of range 0..255")
    require(kind in _WITH_VECTOR or not vector, f"vector {vector:#x} with interrupt type {kind}")
    require(kind not in _FIXED or vector >= LOWEST_LEGAL_VECTOR, f"vector {vector:#x} is below 16")
    require(kind != T.EXT_INT or not destination, f"destination {destination:#x} of an external interrupt")


def _assert_external(partition: Partition, vector: int, level: bool) -> None:
    if vector == INTERRUPT_VECTOR_NONE:
        partition.external.lower()
    else:
        partition.external.raise_vector(vector, level)


def _deliver(partition: Partition, kind: int, vector: int, level: bool, targets: list[LocalApic]) -> None:
    """As a message, or at a pin, where the local vector table says what it means."""
    if kind in _PINS:
        for apic in targets:
            apic.raise_local(_PINS[kind])
    else:
        partition.interconnect.hand_out(Message(vector, _MESSAGES[kind], level), targets)


@hypercall(HypercallCode.CLEAR_VIRTUAL_INTERRUPT, input=ClearVirtualInterruptInput)
def clear_virtual_interrupt(call: Call, input: ClearVirtualInterruptInput) -> None:
    """The external interrupt that a VP of the child took is done with; NOT_ACKNOWLEDGED when none was taken."""
    partition = call.find_child(input.partition_id)
    partition.require_state(PartitionState.ACTIVE)
    partition.external.clear()

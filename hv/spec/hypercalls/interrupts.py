"""Inputs and outputs of the interrupt calls; TLFS "Virtual Interrupt Controller"."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, Register, bits, raw, u8, u32, u64
from hv.spec.numbering import Flags, Numbering


class HvInterruptControl(Register):
    """HV_INTERRUPT_CONTROL of HvCallAssertVirtualInterrupt."""

    interrupt_type = bits(31, 0)        # HvInterruptType
    level_triggered = bits(32)
    logical_destination_mode = bits(33)


class HvInterruptType(Numbering):
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


class AssertVirtualInterruptInput(Layout):
    """HvCallAssertVirtualInterrupt."""

    partition_id: u64
    interrupt_control: u64              # HvInterruptControl
    destination: u64                    # APIC id (or logical mask)
    vector: u32                         # 0..255 or INTERRUPT_VECTOR_NONE
    target_vtl: u8
    padding: raw[3]


class ClearVirtualInterruptInput(Layout):
    """HvCallClearVirtualInterrupt."""

    partition_id: u64


class InterruptEntry(Layout):
    """HV_INTERRUPT_ENTRY of an MSI: what is written into the device."""

    source: u32                         # 1 = MSI
    reserved: u32
    address: u32
    data: u32


INTERRUPT_SOURCE_MSI = 1


class DeviceInterruptTargetFlags(Flags):
    """HV_DEVICE_INTERRUPT_TARGET flags."""

    MULTICAST = 1                       # every VP of the target, not one of them
    PROCESSOR_SET = 2                   # the target is a VP set, not a mask
    PROXY_REDIRECT = 4


class DeviceInterruptTarget(Layout):
    """HV_DEVICE_INTERRUPT_TARGET; of a VP set the bank mask and the banks follow."""

    target_vector: u32
    target_flags: u32                   # DeviceInterruptTargetFlags
    target_vp_mask: u64                 # or the format of the set, HvGenericSetFormat


class MapDeviceInterruptInput(Layout):
    """HvCallMapDeviceInterrupt."""

    partition_id: u64
    device_id: u64                      # HvDeviceId
    flags: u32
    base_irt_index: u32
    logical_interrupt_entry: InterruptEntry     # the message as the guest wrote it; source 0 = none
    interrupt_type: u32                 # HvInterruptType
    trigger_mode: u32                   # 0 edge, 1 level
    vector_count: u32
    reserved: u32
    target: DeviceInterruptTarget


class MapDeviceInterruptOutput(Layout):
    """HvCallMapDeviceInterrupt: the message the device shall send."""

    interrupt_entry: InterruptEntry


class RetargetDeviceInterruptInput(Layout):
    """HvCallRetargetDeviceInterrupt."""

    partition_id: u64
    device_id: u64                      # HvDeviceId
    interrupt_entry: InterruptEntry
    reserved: u64
    target: DeviceInterruptTarget


class AssertDeviceInterruptInput(Layout):
    """HvCallAssertDeviceInterrupt, which is ours: a message of a device that the parent emulates."""

    partition_id: u64
    device_id: u64                      # HvDeviceId: the requester id that the child knows the device by
    interrupt_entry: InterruptEntry     # the write that the device makes


class AssertDeviceInterruptOutput(Layout):
    """HvCallAssertDeviceInterrupt: what the message became."""

    interrupt_control: u64              # HvInterruptControl
    destination: u64
    vector: u32                         # or INTERRUPT_VECTOR_NONE
    reserved: u32


class UnmapDeviceInterruptInput(Layout):
    """HvCallUnmapDeviceInterrupt."""

    partition_id: u64
    device_id: u64
    interrupt_entry: InterruptEntry

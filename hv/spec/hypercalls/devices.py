"""Inputs and outputs of the device calls; TLFS "HvCallAttachDevice" and its neighbours."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, Register, bits, u8, u16, u32, u64


class HvDeviceId(Register):
    """HV_DEVICE_ID of a PCI function; type 1."""

    rid = bits(15, 0)                   # bus 8, device 5, function 3
    segment = bits(31, 16)
    shadow_bus_range = bits(47, 32)
    phantom_function_bits = bits(49, 48)
    source_shadow = bits(50)
    device_type = bits(63, 62)          # 0 logical, 1 PCI, 2 IOAPIC, 3 ACPI


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

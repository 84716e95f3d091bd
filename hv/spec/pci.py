"""Configuration space of a PCI function, as the "PCI Local Bus Specification 3.0" lays it out.

The type 0 header, the command and status bits, the capabilities MSI and MSI-X, and the requester id by which the
IOMMU knows a function. No behaviour: that is `hv/machine/pci.py`.
"""

from __future__ import annotations

from typing import ClassVar

from hv.spec.layout import Layout, Register, bits, u8, u16, u32

CONFIG_SIZE = 256               # bytes
CAPABILITY_MSI = 0x05
CAPABILITY_MSIX = 0x11


class Rid(Register):
    """Requester id: bus, device, function. VT-d calls it the source-id."""

    WIDTH: ClassVar[int] = 16
    function = bits(2, 0)
    device = bits(7, 3)
    bus = bits(15, 8)

    def __str__(self) -> str:
        return f"{self.bus:02x}:{self.device:02x}.{self.function:x}"


class PciHeader(Layout):
    """Type 0 configuration header; PCI "Configuration Space Organization". 64 bytes."""

    vendor_id: u16
    device_id: u16
    command: u16                # PciCommand
    status: u16                 # PciStatus
    revision: u8
    programming_interface: u8
    subclass: u8
    base_class: u8
    cache_line_size: u8
    latency_timer: u8
    header_type: u8             # 0; bit 7: more functions follow
    self_test: u8
    bar0: u32                   # base addresses; functions of this machine use the first
    bar1: u32
    bar2: u32
    bar3: u32
    bar4: u32
    bar5: u32
    cardbus_pointer: u32
    subsystem_vendor_id: u16
    subsystem_id: u16
    rom_address: u32
    capabilities: u8            # offset of the first capability, 0 = none
    reserved_byte: u8
    reserved_word: u16
    reserved_dword: u32
    interrupt_line: u8
    interrupt_pin: u8
    minimum_grant: u8
    maximum_latency: u8


class PciCommand(Register):
    """Command register; PCI "Device Control"."""

    WIDTH: ClassVar[int] = 16
    io_enabled = bits(0)
    memory_enabled = bits(1)    # the function answers at its memory BARs
    bus_master = bits(2)        # the function may write and read memory, MSIs included
    intx_disabled = bits(10)


class PciStatus(Register):
    """Status register; PCI "Device Status"."""

    WIDTH: ClassVar[int] = 16
    interrupt = bits(3)
    has_capabilities = bits(4)
    master_abort = bits(13)     # RW1C: a request of this function was not answered


class MsiControl(Register):
    """Message control; PCI "Message Control for MSI"."""

    WIDTH: ClassVar[int] = 16
    enabled = bits(0)
    capable = bits(3, 1)        # log2 of the vectors wished for, read-only
    granted = bits(6, 4)        # log2 of the vectors given
    is_64_bit = bits(7)         # read-only
    per_vector_mask = bits(8)   # read-only


class MsiCapability(Layout):
    """MSI capability with a 64-bit address and no masks; PCI "MSI Capability Structure". 14 bytes."""

    capability_id: u8           # CAPABILITY_MSI
    next: u8
    control: u16                # MsiControl
    address_low: u32
    address_high: u32
    data: u16


class MsixControl(Register):
    """Message control; PCI "Message Control for MSI-X"."""

    WIDTH: ClassVar[int] = 16
    last_entry = bits(10, 0)    # entries - 1, read-only
    function_masked = bits(14)
    enabled = bits(15)


class MsixCapability(Layout):
    """MSI-X capability; PCI "MSI-X Capability and Table Structures". 12 bytes."""

    capability_id: u8           # CAPABILITY_MSIX
    next: u8
    control: u16                # MsixControl
    table: u32                  # bits 2:0 BAR number, 31:3 offset / 8
    pending: u32                # same, of the pending bit array


class MsixEntry(Layout):
    """One entry of the MSI-X table. 16 bytes."""

    address_low: u32
    address_high: u32
    data: u32
    vector_control: u32         # bit 0 masked

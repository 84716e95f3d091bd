"""Configuration space of a PCI function, as the "PCI Local Bus Specification 3.0" lays it out.

The type 0 header, the command and status bits, base addresses, the capabilities that our functions have, and the
requester id by which the IOMMU knows a function. No behaviour: that is `hv/pci/`.
"""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from hv.spec.layout import Layout, Register, bits, raw, u8, u16, u32

CONFIG_SIZE = 256               # bytes that the ports reach
EXTENDED_CONFIG_SIZE = 4096     # bytes of a PCI Express function, by ECAM
FIRST_CAPABILITY = 0x40
MULTI_FUNCTION = 0x80           # of the header type: functions 1..7 of the device may be there
NOBODY = 0xFFFF                 # the vendor id where no function is
BAR_COUNT = 6
CAPABILITY_POWER = 0x01
CAPABILITY_MSI = 0x05
CAPABILITY_PCI_EXPRESS = 0x10
CAPABILITY_MSIX = 0x11


OUR_VENDOR = 0x1414


class DeviceId(IntEnum):
    """The device ids of OUR_VENDOR."""

    DMA_ENGINE = 0x0DAE
    NETWORK_CARD = 0x0417
    HOST_BRIDGE = 0x29C0        # of a VM's own bus


class Rid(Register):
    """Requester id: bus, device, function. VT-d calls it the source-id."""

    WIDTH: ClassVar[int] = 16
    function = bits(2, 0)
    device = bits(7, 3)
    bus = bits(15, 8)

    def __str__(self) -> str:
        return f"{self.bus:02x}:{self.device:02x}.{self.function:x}"


class ConfigAddress(Register):
    """The dword at port 0xCF8; PCI "Configuration Mechanism". The port behind it, 0xCFC, is the register's data."""

    WIDTH: ClassVar[int] = 32
    register = bits(7, 0)       # the low two bits are 0
    rid = bits(23, 8)
    enabled = bits(31)


class EcamOffset(Register):
    """Where a register is in the memory of PCI Express' configuration space; PCI Express "Enhanced Configuration Access
    Mechanism"."""

    WIDTH: ClassVar[int] = 28
    register = bits(11, 0)
    rid = bits(27, 12)


class BarKind(IntEnum):
    """The read-only low bits of a base address; PCI "Base Addresses"."""

    MEMORY_32 = 0b000
    IO = 0b001
    MEMORY_64 = 0b100           # takes the next base address register too
    PREFETCHABLE_64 = 0b1100


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
    header_type: u8             # 0; bit 7: MULTI_FUNCTION
    self_test: u8
    bar0: u32                   # base addresses
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
    """MSI capability with a 64-bit address and masks; PCI "MSI Capability Structure". 24 bytes."""

    capability_id: u8           # CAPABILITY_MSI
    next: u8
    control: u16                # MsiControl
    address_low: u32
    address_high: u32
    data: u16
    reserved: u16
    mask: u32                   # bit n: message n waits
    pending: u32                # read-only: it does wait


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


class PowerCapability(Layout):
    """Power management; "PCI Bus Power Management Interface Specification". 8 bytes."""

    capability_id: u8           # CAPABILITY_POWER
    next: u8
    capabilities: u16
    control: u16                # PowerControl
    bridge: u8
    data: u8


class PowerControl(Register):
    """PMCSR."""

    WIDTH: ClassVar[int] = 16
    state = bits(1, 0)          # 0 = D0, 3 = D3hot: answers at no BAR, sends nothing
    no_soft_reset = bits(3)     # read-only: D3hot and back keeps everything


class PciExpressCapability(Layout):
    """PCI Express capability, version 2; PCI Express "PCI Express Capability Structure". 60 bytes."""

    capability_id: u8           # CAPABILITY_PCI_EXPRESS
    next: u8
    flags: u16                  # 3:0 version, 7:4 type of device
    device_capabilities: u32    # ExpressDeviceCapabilities
    device_control: u16         # ExpressDeviceControl
    device_status: u16
    link_capabilities: u32
    link_control: u16
    link_status: u16
    rest: raw[40]               # slots, root ports, and the second registers of all


class ExpressDeviceCapabilities(Register):
    """Device Capabilities; those we have."""

    WIDTH: ClassVar[int] = 32
    role_based_errors = bits(15)
    function_reset = bits(28)   # the function can be reset alone


class ExpressDeviceControl(Register):
    """Device Control; those we have."""

    WIDTH: ClassVar[int] = 16
    function_reset = bits(15)   # writing 1 resets the function; reads 0


EXPRESS_VERSION, INTEGRATED_ENDPOINT = 2, 9     # of PciExpressCapability.flags: it is part of the root complex

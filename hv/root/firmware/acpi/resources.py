"""What a device uses, as resource descriptors; `template` puts them into the buffer that _CRS names.

ACPI "Resource Data Types for ACPI", "ASL Macros for Resource Descriptors". Lengths are in ports, bytes or buses.
"""

from __future__ import annotations

from hv.root.firmware.acpi import aml
from hv.spec.aml import (
    AddressFlags,
    DwordAddressDescriptor,
    IoDescriptor,
    IrqDescriptor,
    Memory32Descriptor,
    ResourceTag,
    ResourceType,
    WordAddressDescriptor,
)
from hv.spec.layout import Layout

_LARGE_HEADER = 3               # bytes in front of what descriptor_length counts
_FIXED = AddressFlags(min_fixed=1, max_fixed=1).raw
_DECODES_16_BITS, _WRITABLE = 1, 1
_EVERY_PORT = 3                 # ISA and other ranges


def template(*descriptors: Layout) -> bytes:
    """ResourceTemplate () { descriptors }. The end tag's checksum 0 counts as right."""
    return aml.buffer(b"".join(each.pack() for each in descriptors) + bytes([ResourceTag.END, 0]))


def ports(*of: range) -> list[Layout]:
    """Each of these, for the device itself."""
    return [IoDescriptor(tag=ResourceTag.IO, information=_DECODES_16_BITS, minimum=each.start, maximum=each.start,
                         alignment=1, length=len(each)) for each in of]


def irq(line: int) -> Layout:
    """One line of the 8259s, as ISA has it."""
    return IrqDescriptor(tag=ResourceTag.IRQ_NO_FLAGS, mask=1 << line)


def memory(gpas: range) -> Layout:
    """Memory of the device itself."""
    return Memory32Descriptor(
        tag=ResourceTag.MEMORY_32_FIXED, descriptor_length=Memory32Descriptor.SIZE - _LARGE_HEADER,
        information=_WRITABLE, base=gpas.start, length=len(gpas))


def bus_numbers(count: int) -> Layout:
    """Buses 0 to *count* - 1, for what is below."""
    return _word(ResourceType.BUS_NUMBER, range(count), 0)


def port_window(of: range) -> Layout:
    """Ports for what is below."""
    return _word(ResourceType.IO, of, _EVERY_PORT)


def _word(kind: int, values: range, type_flags: int) -> Layout:
    return WordAddressDescriptor(
        tag=ResourceTag.WORD_ADDRESS, descriptor_length=WordAddressDescriptor.SIZE - _LARGE_HEADER, resource_type=kind,
        general_flags=_FIXED, type_flags=type_flags, minimum=values.start, maximum=values[-1], length=len(values))


def memory_window(gpas: range) -> Layout:
    """Memory for what is below, not cached."""
    return DwordAddressDescriptor(
        tag=ResourceTag.DWORD_ADDRESS, descriptor_length=DwordAddressDescriptor.SIZE - _LARGE_HEADER,
        resource_type=ResourceType.MEMORY, general_flags=_FIXED, type_flags=_WRITABLE, minimum=gpas.start,
        maximum=gpas[-1], length=len(gpas))

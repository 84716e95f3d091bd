"""ACPI Machine Language: the opcodes of a DSDT, and the resource descriptors inside it.

ACPI "ACPI Machine Language (AML) Specification"; "Resource Data Types for ACPI". Only what a description of a small PC
needs is named: no operation regions, no arithmetic.
"""

from __future__ import annotations

from typing import ClassVar

from hv.spec.layout import Layout, Register, bits, u8, u16, u32, u64
from hv.spec.numbering import Numbering

ROOT_CHARACTER, PARENT_CHARACTER = ord("\\"), ord("^")
NULL_NAME, DUAL_NAME, MULTI_NAME = 0x00, 0x2E, 0x2F
SEGMENT_SIZE = 4                # bytes of one name
EXTENDED = 0x5B                 # the opcode's second byte follows
LARGE_RESOURCE = 0x80           # tag bit: two bytes of length follow, else the length is in the tag
MOST_PACKAGE_LENGTH = (1 << 28) - 1


class Opcode(Numbering):
    """First bytes of a term; "AML Byte Stream Byte Values"."""

    ZERO = 0x00
    ONE = 0x01
    NAME = 0x08
    BYTE = 0x0A
    WORD = 0x0B
    DWORD = 0x0C
    STRING = 0x0D
    QWORD = 0x0E
    SCOPE = 0x10
    BUFFER = 0x11
    PACKAGE = 0x12
    METHOD = 0x14
    RETURN = 0xA4
    ONES = 0xFF
    DEVICE = EXTENDED << 8 | 0x82


class ResourceTag(Numbering):
    """First byte of a resource descriptor; a small one has its length in the low three bits."""

    IRQ_NO_FLAGS = 0x22
    IRQ = 0x23
    IO = 0x47
    END = 0x79
    MEMORY_32_FIXED = 0x86
    DWORD_ADDRESS = 0x87
    WORD_ADDRESS = 0x88
    EXTENDED_INTERRUPT = 0x89
    QWORD_ADDRESS = 0x8A


class ResourceType(Numbering):
    """resource_type of an address space descriptor."""

    MEMORY = 0
    IO = 1
    BUS_NUMBER = 2


class AddressFlags(Register):
    """general_flags of an address space descriptor."""

    WIDTH: ClassVar[int] = 8
    consumer = bits(0)          # 1: the device uses it, 0: it hands it on to what is below
    subtractive = bits(1)
    min_fixed = bits(2)
    max_fixed = bits(3)


class IoDescriptor(Layout):
    """"I/O Port Descriptor"."""

    tag: u8
    information: u8             # bit 0: all 16 address lines are decoded
    minimum: u16
    maximum: u16
    alignment: u8
    length: u8                  # ports


class IrqDescriptor(Layout):
    """"IRQ Descriptor" without flags: edge-triggered, active high, not shared."""

    tag: u8
    mask: u16                   # bit n: line n


class Memory32Descriptor(Layout):
    """"32-Bit Fixed Memory Range Descriptor"."""

    tag: u8
    descriptor_length: u16      # bytes behind this field
    information: u8             # bit 0: writable
    base: u32
    length: u32


class WordAddressDescriptor(Layout):
    """"Word Address Space Descriptor"."""

    tag: u8
    descriptor_length: u16
    resource_type: u8           # ResourceType
    general_flags: u8           # AddressFlags
    type_flags: u8              # of I/O, bits 0-1: 3 ISA and other ranges
    granularity: u16
    minimum: u16
    maximum: u16
    translation: u16
    length: u16


class DwordAddressDescriptor(Layout):
    """"DWord Address Space Descriptor"."""

    tag: u8
    descriptor_length: u16
    resource_type: u8
    general_flags: u8
    type_flags: u8              # of memory, bit 0 writable, bits 1-2: 0 not cached
    granularity: u32
    minimum: u32
    maximum: u32
    translation: u32
    length: u32


class QwordAddressDescriptor(Layout):
    """"QWord Address Space Descriptor"."""

    tag: u8
    descriptor_length: u16
    resource_type: u8
    general_flags: u8
    type_flags: u8
    granularity: u64
    minimum: u64
    maximum: u64
    translation: u64
    length: u64

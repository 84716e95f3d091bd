"""The resource descriptors of a _CRS, one line each. ACPI "Resource Data Types for ACPI"."""

from __future__ import annotations

from typing import Any

from hv.spec.aml import (
    LARGE_RESOURCE,
    AddressFlags,
    DwordAddressDescriptor,
    IoDescriptor,
    IrqDescriptor,
    Memory32Descriptor,
    QwordAddressDescriptor,
    ResourceTag,
    ResourceType,
    WordAddressDescriptor,
)
from hv.spec.layout import Layout

_LAYOUTS: dict[int, type[Layout]] = {
    ResourceTag.IRQ_NO_FLAGS: IrqDescriptor, ResourceTag.IRQ: IrqDescriptor, ResourceTag.IO: IoDescriptor,
    ResourceTag.MEMORY_32_FIXED: Memory32Descriptor, ResourceTag.WORD_ADDRESS: WordAddressDescriptor,
    ResourceTag.DWORD_ADDRESS: DwordAddressDescriptor, ResourceTag.QWORD_ADDRESS: QwordAddressDescriptor}
_KINDS = {ResourceType.MEMORY: "memory", ResourceType.IO: "ports", ResourceType.BUS_NUMBER: "buses"}


def resources(data: bytes) -> list[str] | None:
    """A line for each descriptor; None when *data* is no list of them."""
    found: list[str] = []
    at = 0
    while at < len(data):
        tag, size = data[at], _size(data, at)
        if size is None or at + size > len(data):
            return None
        if tag == ResourceTag.END:
            return found or ["nothing"]
        found.append(_line(tag, data[at : at + size]))
        at += size
    return None


def _size(data: bytes, at: int) -> int | None:
    """Bytes of the descriptor at *at*."""
    if data[at] < LARGE_RESOURCE:
        return 1 + (data[at] & 7)
    return 3 + int.from_bytes(data[at + 1 : at + 3], "little") if at + 3 <= len(data) else None


def _line(tag: int, data: bytes) -> str:
    layout = _LAYOUTS.get(tag)
    if layout is None or len(data) < layout.SIZE:
        return f"descriptor {tag:#x}: {len(data)} bytes, not decoded"
    each: Any = layout.parse(data)
    if isinstance(each, IrqDescriptor):
        return "irq " + (", ".join(str(line) for line in range(16) if each.mask >> line & 1) or "none")
    if isinstance(each, IoDescriptor):
        return f"ports {_range(each.minimum, each.length)}" + (
            "" if each.minimum == each.maximum else f", may move up to {each.maximum:#x}")
    if isinstance(each, Memory32Descriptor):
        return f"memory {_range(each.base, each.length)}"
    handed_on = "" if each.general_flags & AddressFlags(consumer=1).raw else ", for what is below"
    return f"{_KINDS.get(each.resource_type, f'type {each.resource_type:#x}')} " \
           f"{_range(each.minimum, each.length)}{handed_on}"


def _range(first: int, length: int) -> str:
    return f"{first:#x}..{first + length - 1:#x}" if length > 1 else f"{first:#x}" if length else "none"

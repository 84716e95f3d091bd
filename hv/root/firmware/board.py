"""What firmware is told of the board it describes."""

from __future__ import annotations

from typing import NamedTuple


class Scope(NamedTuple):
    """A device that a remapping unit stands in front of: its kind (ScopeType), its requester id, and the id that an I/O
    APIC or HPET has in another table."""

    kind: int
    source_id: int
    enumeration_id: int = 0


class RemappingUnit(NamedTuple):
    """The virtual IOMMU of a PC: where its registers are, the width of the addresses it takes and of those it makes,
    whether it remaps interrupts, whether it stands in front of all functions of PCI, and the devices named besides."""

    base: int
    host_address_width: int
    remaps_interrupts: bool
    includes_all: bool
    scopes: tuple[Scope, ...] = ()


class Board(NamedTuple):
    """The processors, whose VP index is their APIC id, and which of the devices are there that not every board has."""

    vp_count: int
    cpu_signature: int = 0              # EAX of CPUID leaf 1
    cpu_features: int = 0               # EDX of it
    has_pci: bool = False
    has_keyboard: bool = False
    hpet_block_id: int | None = None    # the low half of its capabilities register
    iommu: RemappingUnit | None = None

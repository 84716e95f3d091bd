"""The MSR-store and MSR-load areas: lists of MSRs that VM entry loads and VM exit stores and loads.

SDM "Loading MSRs", "Saving MSRs". An area is 16-byte entries in physical memory. A list of no entries, which is the
usual one, costs nothing.
"""

from __future__ import annotations

from typing import Protocol

from hv.machine.faults import GuestFault
from hv.machine.ram import PhysicalMemory, read_physical, write_physical
from hv.spec.msrs import Msr
from hv.spec.vmcs import MsrListEntry

MOST_ENTRIES = 512              # IA32_VMX_MISC 27:25 is 0. Simplified: one more fails, where silicon may check-stop
_X2APIC = range(0x800, 0x900)
_NEVER_LOADED = frozenset({int(Msr.FS_BASE), int(Msr.GS_BASE), int(Msr.BIOS_UPDATE_TRIGGER), *_X2APIC})
_NEVER_STORED = frozenset({int(Msr.SMBASE), *_X2APIC})


class MsrAccess(Protocol):
    """RDMSR and WRMSR at CPL 0 of a processor; GuestFault for their #GP."""

    def read(self, index: int) -> int: ...
    def write(self, index: int, value: int) -> None: ...


def load_msrs(memory: PhysicalMemory, address: int, count: int, msrs: MsrAccess) -> int:
    """Load *count* MSRs from the area at *address*, in order: 0, or the number, from 1, of the entry that fails."""
    for number in range(count):
        entry = _entry(memory, address, number)
        if number >= MOST_ENTRIES or entry.reserved or entry.index in _NEVER_LOADED:
            return number + 1
        try:
            msrs.write(entry.index, entry.data)
        except GuestFault:
            return number + 1
    return 0


def store_msrs(memory: PhysicalMemory, address: int, count: int, msrs: MsrAccess) -> int:
    """Store *count* MSRs into the area at *address*: 0, or the number of the entry that fails."""
    for number in range(count):
        entry = _entry(memory, address, number)
        if number >= MOST_ENTRIES or entry.reserved or entry.index in _NEVER_STORED:
            return number + 1
        try:
            entry.data = msrs.read(entry.index)
        except GuestFault:
            return number + 1
        write_physical(memory, address + number * MsrListEntry.SIZE, entry.pack())
    return 0


def _entry(memory: PhysicalMemory, address: int, number: int) -> MsrListEntry:
    return MsrListEntry.parse(read_physical(memory, address + number * MsrListEntry.SIZE, MsrListEntry.SIZE))

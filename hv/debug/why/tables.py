"""What the guest's own tables say: the walk of a linear address, a descriptor, a gate, as the manual lays them out.

SDM "Page-Fault Exceptions", "Error Code", "64-Bit Mode IDT".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hv.debug.errors import DebugError
from hv.debug.looking import read_gpa, read_gva
from hv.debug.session import Session
from hv.debug.why.chain import Link
from hv.debug.why.names import vector_name
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.paging import PageFault, PagingFormat, PagingMode, walk
from hv.spec.x86 import GateDescriptor, PageFaultError, PageTableEntry, SelectorErrorCode


@dataclass(frozen=True, slots=True)
class Place:
    """Where the VP looked at is: its machine may be run again, so it is looked up each time."""

    session: Session

    @property
    def vp(self) -> VirtualProcessor:
        """The VP; DebugError when it is gone."""
        return self.session.vp

    def name(self, gva: int) -> str:
        """`start+0x12 (timer.asm:31)`."""
        places, vm = self.session.places, self.session.vm.name
        source = places.source(vm, gva)
        return places.name(vm, gva) + (f" ({source})" if source else "")


# --- pages --------------------------------------------------------------------------------------------------

def page_fault(place: Place, gva: int, code: int) -> list[Link]:
    """The walk of the guest's own tables for *gva*, as the error code says that it was wanted."""
    bits = " ".join(str(flag.name) for flag in PageFaultError if code & flag)
    links = [Link(f"linear address {gva:#x} (CR2); error code {code:#x}: {bits or 'not present, read, supervisor'}"),
             Link(f"CR3 is {place.vp.regs.cr3:#x}", look=lambda: place.vp.regs.cr3)]
    access = Access.EXECUTE if code & PageFaultError.FETCH else Access.WRITE if code & PageFaultError.WRITE \
        else Access.READ
    try:
        walk(PagingMode.of(place.vp.regs), gva, access, 3 if code & PageFaultError.USER else 0,
             lambda gpa, size: int.from_bytes(read_gpa(place.vp.partition, gpa, size), "little"))
    except PageFault as fault:
        return links + list(_levels(place, fault))
    except (GuestFault, NestedFault, DebugError) as error:
        return [*links, Link(f"the tables cannot be walked: {error}")]
    return [*links, Link("the tables allow it now: they were changed since, or a cached translation is older than they "
                         "are (`INVLPG` is missing)")]


def _levels(place: Place, fault: PageFault) -> Iterator[Link]:
    """Each entry of the walk; the last one, or the first that takes the right away, is to blame."""
    blamed = next((level for level in fault.levels if _takes_away(level.raw, fault.reason)), fault.levels[-1])
    for level in fault.levels:
        entry, wrong = PageTableEntry(level.raw), level is blamed
        rights = f"P={entry.present} W={entry.writable} U={entry.user} NX={entry.no_execute}"
        why = f": {fault.reason}" if wrong else ""
        yield Link(f"{level.name} at gpa {level.gpa:#x} is {level.raw:#x}: {rights}{why}", ok=not wrong,
                   look=_entry(place, level.gpa) if wrong else None)


def _takes_away(raw: int, reason: str) -> bool:
    entry = PageTableEntry(raw)
    if "read-only" in reason:
        return not entry.writable
    if "supervisor page" in reason:
        return not entry.user
    return bool("no-execute" in reason and entry.no_execute)


def _entry(place: Place, gpa: int) -> Callable[[], int]:
    """The entry without its accessed and dirty flags."""
    return lambda: int.from_bytes(read_gpa(place.vp.partition, gpa, 8), "little") & ~0x60


# --- selectors and gates --------------------------------------------------------------------------------------

def selector(place: Place, code: int) -> Link:
    """Which descriptor or gate an error code names, and what it is."""
    named = SelectorErrorCode(code)
    if named.idt:
        return gate(place, named.index)
    vp, table = place.vp, "LDT" if named.ldt else "GDT"
    base = vp.regs.ldtr if named.ldt else vp.regs.gdtr
    offset = named.index * 8
    head = f"selector {code & ~7 | named.ldt << 2:#x} names entry {named.index} of the {table}"
    if offset + 7 > base.limit:
        return Link(f"{head}, which ends at {base.limit:#x}", ok=False)
    return Link(f"{head}: {_descriptor(vp, base.base + offset)}", ok=False)


def _descriptor(vp: VirtualProcessor, gva: int) -> str:
    try:
        raw = int.from_bytes(read_gva(vp, gva, 8), "little")
    except (GuestFault, NestedFault, DebugError):
        return "it cannot be read"
    return f"{raw:#018x}, type {raw >> 40 & 0xF:#x}, S={raw >> 44 & 1}, DPL={raw >> 45 & 3}, P={raw >> 47 & 1}"


def gate(place: Place, vector: int) -> Link:
    """What the IDT has for *vector*."""
    vp = place.vp
    size = 16 if PagingMode.of(vp.regs).format is PagingFormat.LONG else 8
    head, table = f"the gate of {vector_name(vector)} is at offset {vector * size:#x} of the IDT", vp.regs.idtr
    if vector * size + size - 1 > table.limit:
        return Link(f"{head}, whose limit is {table.limit:#x}: it lies beyond", ok=False,
                    look=lambda: place.vp.regs.idtr)
    try:
        raw = int.from_bytes(read_gva(vp, table.base + vector * size, 8), "little")
    except (GuestFault, NestedFault, DebugError):
        return Link(f"{head}, linear address {table.base + vector * size:#x}, which cannot be read", ok=False)
    found = GateDescriptor(raw)
    gva = table.base + vector * size
    return Link(f"{head}: {raw:#x}: type {found.type:#x}, DPL={found.dpl}, P={found.present}, selector "
                f"{found.selector:#x}", ok=False, look=lambda: read_gva(place.vp, gva, size))

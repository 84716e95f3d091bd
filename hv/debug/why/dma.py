"""Why the IOMMU refused a device: the root entry, the context entry, the entry of the domain's tables, or the interrupt
remapping entry at which the way of the request ends.

VT-d "DMA Remapping", "Interrupt Remapping", "Fault Reason Encodings". The tables are read in memory; what the unit has
cached of them is not asked, since an entry that refuses is never cached.
"""

from __future__ import annotations

from functools import partial

from hv.debug.errors import DebugError
from hv.debug.facts import Fact
from hv.debug.session import Session
from hv.debug.why.chain import Answer, Link, Tells
from hv.debug.why.setting import find_settings
from hv.debug.why.visit import away
from hv.iommu.interrupts import allowed_sources
from hv.machine.faults import BusError
from hv.spec.vtd import ENTRY_SIZE, ContextEntry, FaultReason, Irte, RootEntry, SecondLevelEntry, TranslationType
from hv.spec.x86 import PAGE_SIZE
from hv.trace.events import DeviceAttached, DeviceDetached, DeviceInDomain, DmaFault, InterruptRemapFault

_REFUSALS = (DmaFault, InterruptRemapFault)
_AS_NOW = "the tables are those of now: `record` keeps the past, and finds who set them"


def why_dma(session: Session) -> Answer:
    """Why the last DMA or interrupt of a device was refused. DebugError when none was."""
    with away(session):
        fact, position = _last(session)
        event = fact.record.event
        links = _interrupt(session, event) if isinstance(event, InterruptRemapFault) else _dma(session, event)
        find_settings(session, links, fact)
    what = f"interrupt {event.index:#x}" if isinstance(event, InterruptRemapFault) else \
        f"{'write to' if event.write else 'read of'} {event.iova:#x}"
    note = _AS_NOW if session.timeline is None else ""
    return Answer(f"{what} by device {event.source_id:#x} was refused: {event.text}", links, position, note)


def _last(session: Session) -> tuple[Fact, str]:
    """The last refusal, and where it was; in a recording the machine stands there."""
    if session.timeline is not None:
        moment = session.timeline.backward(lambda record: isinstance(record.event, _REFUSALS))
        if moment is not None:
            return session.recent.newest(), str(moment.position)
    else:
        fact = next((fact for fact in reversed(list(session.recent.facts()))
                     if isinstance(fact.record.event, _REFUSALS)), None)
        if fact is not None:
            return fact, f"#{fact.record.sequence}"
    raise DebugError("no device has been refused anything", "`events where event == Dma` shows what passed")


# --- DMA --------------------------------------------------------------------------------------------------------

def _dma(session: Session, event: DmaFault) -> list[Link]:
    """From the root table to the entry that refuses."""
    source, links = event.source_id, [_owner(session, event.source_id)]
    root_table = session.machine.iommu.translator.root_table
    at = root_table + (source >> 8) * ENTRY_SIZE
    root = RootEntry(_read(session, at))
    links.append(_entry(session, at, f"root entry of bus {source >> 8:#x}", bool(root.present), event, (
        FaultReason.ROOT_NOT_PRESENT, FaultReason.ROOT_RESERVED, FaultReason.ROOT_ACCESS)))
    if links[-1].ok is False:
        return links
    at = root.context_table * PAGE_SIZE + (source & 0xFF) * ENTRY_SIZE
    context = ContextEntry(_read(session, at))
    link = _entry(session, at, f"context entry of device {source & 0xFF:#x}", bool(context.present), event, (
        FaultReason.CONTEXT_NOT_PRESENT, FaultReason.CONTEXT_INVALID, FaultReason.CONTEXT_RESERVED,
        FaultReason.CONTEXT_ACCESS, FaultReason.TYPE_BLOCKED), _attaches(source))
    if link.ok:
        kind = TranslationType(context.type).name
        link.text += f": domain {context.domain_id}, {kind}, {context.address_width + 2} levels"
    links.append(link)
    return links if link.ok is False else links + _walk(session, context, event)


def _owner(session: Session, source_id: int) -> Link:
    """Whose the device is."""
    machine = session.machine
    driver = machine.hypervisor.iommu.driver
    domain = driver.domain_of(source_id)
    owner = next((vm.name for vm in session.vms if vm.worker.device is not None
                  and vm.worker.device.source_id == source_id), "") if hasattr(session.vms[0], "worker") else ""
    return Link(f"device {source_id:#x} is {'in domain ' + str(domain.id) if domain else 'in no domain'}"
                + (f", and assigned to {owner}" if owner else ""), tells=_attaches(source_id),
                look=lambda: getattr(driver.domain_of(source_id), "id", None))


def _walk(session: Session, context: ContextEntry, event: DmaFault) -> list[Link]:
    """The domain's tables, down to the entry that does not let the access through."""
    if event.reason == FaultReason.ADDRESS_BEYOND_WIDTH:
        return [Link(f"address {event.iova:#x} is wider than the domain's {12 + 9 * (context.address_width + 2)} bits",
                     ok=False)]
    links, table, level = list[Link](), context.second_level * PAGE_SIZE, context.address_width + 2
    while level:
        at = table + (event.iova >> 12 + 9 * (level - 1) & 0x1FF) * 8
        entry = SecondLevelEntry(_read(session, at, 8))
        lets = bool(entry.writable if event.write else entry.readable) \
            and event.reason != FaultReason.SECOND_LEVEL_RESERVED
        text = f"level-{level} entry at spa {at:#x} is {entry.raw:#x}: R={entry.readable} W={entry.writable}"
        links.append(Link(text, ok=lets, look=None if lets else partial(_read, session, at, 8),
                          never="before the recording began" if entry.raw else "never mapped"))
        if not lets or entry.large:
            break
        table, level = entry.page * PAGE_SIZE, level - 1
    if links[-1].ok:
        links.append(Link("the tables allow it: what the unit has cached of them is older", ok=False))
    return links


def _entry(session: Session, at: int, name: str, present: bool, event: DmaFault, blames: tuple[FaultReason, ...],
           tells: Tells | None = None) -> Link:
    """An entry that is all right unless the fault's reason is one of *blames*."""
    wrong = event.reason in blames
    link = Link(f"{name} at spa {at:#x} is {'' if present else 'not '}present", ok=not wrong)
    if wrong:
        link.text += f", raw {_read(session, at):#x}"
        link.look = partial(_read, session, at)
        link.tells = tells
    return link


def _attaches(source_id: int) -> Tells:
    """An event that puts the device into a domain, or takes it out."""
    return lambda event: (isinstance(event, DeviceAttached | DeviceDetached | DeviceInDomain)
                          and event.source_id == source_id)


# --- interrupts ----------------------------------------------------------------------------------------------------

def _interrupt(session: Session, event: InterruptRemapFault) -> list[Link]:
    """The entry of the interrupt remapping table that the device's message names."""
    table, source = session.machine.iommu.remapper.table, event.source_id
    links = [_owner(session, source)]
    if event.reason == FaultReason.COMPATIBILITY_BLOCKED:
        return [*links, Link("the message is in compatibility format, which names a vector itself: that is blocked",
                             ok=False, look=lambda: session.machine.iommu.remapper.compatibility)]
    if event.reason == FaultReason.REQUEST_RESERVED:
        return [*links, Link("reserved bits are set in the message", ok=False)]
    entries = 2 << table.size
    inside = event.index < entries
    links.append(Link(f"entry {event.index:#x} is {'inside' if inside else 'beyond'} the table, which has {entries:#x} "
                      f"at spa {table.page * PAGE_SIZE:#x}", ok=inside))
    if inside:
        at = table.page * PAGE_SIZE + event.index * ENTRY_SIZE
        links.append(Link(_remapping(Irte(_read(session, at)), at, source), ok=False, look=partial(_read, session, at)))
    return links


def _remapping(entry: Irte, at: int, source: int) -> str:
    head = f"the entry at spa {at:#x} is {entry.raw:#x}"
    if not entry.present:
        return f"{head}: not present"
    mask, first, last = allowed_sources(entry)
    if not first <= source & mask <= last:
        return f"{head}: it is for requester {entry.source_id:#x}, not for {source:#x}"
    return f"{head}: reserved bits, or a delivery mode that there is not"


def _read(session: Session, spa: int, size: int = ENTRY_SIZE) -> int:
    try:
        return int.from_bytes(session.machine.memory.read(spa, size), "little")
    except BusError:
        return 0

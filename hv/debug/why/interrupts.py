"""Why an interrupt that is expected has not come: the chain from who would raise it to the processor that would take
it, each link with a check mark or not. The first that is not is the answer.

SDM "Local APIC", "Task and Processor Priorities", "Signaling Interrupt Servicing Completion"; TLFS "SynIC".
"""

from __future__ import annotations

from functools import partial

from hv.debug.errors import DebugError
from hv.debug.facts import Fact
from hv.debug.session import Session
from hv.debug.why.chain import Answer, Link, first_wrong
from hv.debug.why.names import who
from hv.debug.why.setting import find_settings
from hv.debug.why.sources import sources, vectors
from hv.debug.why.tables import Place
from hv.debug.why.visit import away
from hv.replay.position import Position
from hv.spec.apic import ApicRegister
from hv.spec.msrs import Msr
from hv.spec.x86 import Rflags, Vector
from hv.trace.bus import Record
from hv.trace.events import Injected, MmioAccess, MsrWrite
from hv.vmx.exit import VmExit

_EOI_MSRS = (Msr.HV_EOI, 0x800 + (ApicRegister.EOI >> 4))
_CLASS = 0xF0


def why_no_interrupt(session: Session, vector: int | None = None) -> Answer:
    """Why *vector*, or the one that is most likely waited for, has not come to the VP looked at. DebugError."""
    if vector is not None and not (vector == Vector.NMI or 16 <= vector <= 255):
        raise DebugError(f"vector {vector:#x} is no interrupt; expected 2 (NMI) or 0x10..0xff")
    if vector is None:
        vector = expected(session)
    with away(session):
        place = Place(session)
        links = _nmi(place) if vector == Vector.NMI else _fixed(place, vector)
        links += _processor(place, nmi=vector == Vector.NMI)
        serving = _serving(links)
        find_settings(session, links, session.recent.newest() if session.recent.records else None)
        if serving is not None:
            serving.causes += _dropped(session, serving)
    return Answer(_conclusion(session, vector, links), links, _position(session))


def expected(session: Session) -> int:
    """The vector that is requested, else the one that something is set up for; DebugError when nothing is."""
    vp = session.vp
    if vp.apic.irr:
        return vp.apic.irr.bit_length() - 1
    if vp.nmi_pending:
        return int(Vector.NMI)
    found = vectors(vp)
    if not found:
        raise DebugError("nothing is set up to interrupt this VP", "say which vector: `why no interrupt 0x30`")
    return found[0]


def _position(session: Session) -> str:
    timeline = session.timeline
    return "" if timeline is None or timeline.live else str(timeline.position)


def _conclusion(session: Session, vector: int, links: list[Link]) -> str:
    name = "an NMI" if vector == Vector.NMI else f"vector {vector:#x}"
    target, wrong = who(session, session.vm.partition_id, session.vp_index), first_wrong(links)
    if wrong is None:
        return f"nothing keeps {name} from {target}: it comes as soon as the VP runs"
    return f"{name} has not come to {target}: {wrong.text}"


# --- a fixed interrupt ------------------------------------------------------------------------------------

def _fixed(place: Place, vector: int) -> list[Link]:
    """From the source to the processor priority."""
    apic = place.vp.apic
    links = [_present(place), _enabled(place)]
    if apic.irr >> vector & 1:
        links.append(Link(f"vector {vector:#x} is requested: its bit in IRR is 1", ok=True,
                          look=lambda: place.vp.apic.irr >> vector & 1))
        links += [_in_service(place, vector), _task_priority(place, vector)]
        return links
    in_service = apic.isr >> vector & 1
    if in_service:
        return [*links, _in_service(place, vector), *_requested(place, vector)]
    return links + _requested(place, vector)


def _requested(place: Place, vector: int) -> list[Link]:
    return [Link(f"vector {vector:#x} is not requested: its bit in IRR is 0", sources(place, vector),
                 ok=None if _comes(place, vector) else False, look=lambda: place.vp.apic.irr >> vector & 1)]


def _comes(place: Place, vector: int) -> bool:
    """Somebody is about to raise it."""
    return any(first_wrong([source]) is None for source in sources(place, vector))


def _present(place: Place) -> Link:
    apic = place.vp.apic
    return Link(f"the local APIC is {'on' if apic.is_present else 'off'} (IA32_APIC_BASE)", ok=apic.is_present,
                look=lambda: place.vp.apic.base.raw)


def _enabled(place: Place) -> Link:
    on = bool(place.vp.apic.svr.enabled)
    return Link(f"software has {'' if on else 'not '}enabled it: bit 8 of SVR is {int(on)}", ok=on,
                look=lambda: place.vp.apic.svr.enabled)


def _in_service(place: Place, vector: int) -> Link:
    """What is in service holds back all of its class and below."""
    isr = place.vp.apic.isr
    serving = isr.bit_length() - 1 if isr else 0
    if not isr or serving & _CLASS < vector & _CLASS:
        return Link("nothing of its class or a higher one is in service (ISR)", ok=True)
    return Link(f"vector {serving:#x} is in service (ISR), and holds back all of class {serving >> 4:#x} and below "
                "until its handler writes EOI", ok=False, look=lambda: place.vp.apic.isr >> serving & 1)


def _task_priority(place: Place, vector: int) -> Link:
    tpr = place.vp.apic.tpr
    lower = tpr & _CLASS < vector & _CLASS
    return Link(f"the task priority is {tpr:#x}: class {tpr >> 4:#x} {'lets it through' if lower else 'holds it back'}",
                ok=lower, look=lambda: place.vp.apic.tpr)


# --- an NMI -------------------------------------------------------------------------------------------------

def _nmi(place: Place) -> list[Link]:
    pending, vcpu = place.vp.nmi_pending, place.vp.vcpu
    blocked = vcpu.non_register.nmi_blocked
    return [Link(f"an NMI is {'' if pending else 'not '}pending", ok=pending, look=lambda: place.vp.nmi_pending),
            Link("NMIs are blocked: the handler of the last one has not executed IRET" if blocked else
                 "NMIs are not blocked", ok=not blocked, look=lambda: place.vp.vcpu.non_register.nmi_blocked)]


# --- the processor -------------------------------------------------------------------------------------------

def _processor(place: Place, nmi: bool) -> list[Link]:
    """Whether the VP would take what is requested."""
    vp, links = place.vp, list[Link]()
    if not nmi:
        on = bool(vp.regs.rflags & Rflags.IF)
        links.append(Link(f"RFLAGS.IF is {int(on)}", ok=on, look=lambda: bool(place.vp.regs.rflags & Rflags.IF)))
        shadow = bool(vp.regs.interrupt_shadow)
        links.append(Link("the instruction behind STI or MOV SS is still to be executed" if shadow else
                          "neither STI nor MOV SS blocks", ok=not shadow))
    return [*links, *_suspended(place)]


def _suspended(place: Place) -> list[Link]:
    vp = place.vp
    waits = {"explicit_suspend": "suspended: its parent has not let it run",
             "intercept_suspend": "waiting for its parent's answer to an intercept",
             "wait_for_sipi": "waiting for a start-up IPI"}
    links = [Link(f"the VP is {words}", ok=False, look=partial(_attribute, place, name))
             for name, words in waits.items() if getattr(vp, name)]
    if vp.stopped_because:
        links.append(Link(f"the VP has stopped for good: {vp.stopped_because}", ok=False))
    if place.session.vm.ended is not None:
        links.append(Link(f"the VM has ended: {place.session.vm.ended}"))
    return links or [Link("the VP sleeps, and an interrupt wakes it" if vp.halted else "the VP may run", ok=True)]


def _attribute(place: Place, name: str) -> object:
    return getattr(place.vp, name)


# --- a missing EOI --------------------------------------------------------------------------------------------

def _serving(links: list[Link]) -> Link | None:
    return next((link for link in links if link.ok is False and "is in service" in link.text), None)


def _dropped(session: Session, serving: Link) -> list[Link]:
    """Whether the guest has written EOI since the vector was taken, although it is still in service."""
    since = _since(session, serving)
    taken = sum(isinstance(fact.record.event, Injected) and fact.record.event.kind == 0 for _, fact in since)
    ends = [place for place, fact in since if _is_eoi(session, fact)]
    if ends and len(ends) >= taken:
        return [Link(f"the guest has written EOI since, at {ends[-1]}, and it is in service still: the hypervisor has "
                     "not ended it (missing EOI)", ok=False)]
    return [Link("the guest has not written EOI since, as far as that is told: with a virtual APIC it makes no exit")]


def _is_eoi(session: Session, fact: Fact) -> bool:
    event = fact.record.event
    if isinstance(event, MsrWrite):
        return event.msr in _EOI_MSRS
    page = session.vp.apic.base.page << 12
    return isinstance(event, MmioAccess) and event.write and event.gpa == page + ApicRegister.EOI


def _since(session: Session, serving: Link) -> list[tuple[str, Fact]]:
    """The events of the VP since it took the vector, the taking included, with their places."""
    timeline, position = session.timeline, serving.set_by.position if serving.set_by else ""
    if timeline is None or not position.startswith("E"):
        facts = [(f"#{fact.record.sequence}", fact) for fact in session.recent.facts() if _of_vp(session, fact)]
        taken = [n for n, (_, fact) in enumerate(facts) if isinstance(fact.record.event, Injected)]
        return facts[taken[-1]:] if taken else []
    end = session.recent.newest().record.sequence if session.recent.records else 1 << 62
    timeline.go(Position.parse(position))
    exits, _, events = timeline.position
    found = [(position, session.recent.newest())]

    def collect(record: Record) -> bool:
        nonlocal exits, events
        exits, events = (exits + 1, 0) if isinstance(record.event, VmExit) else (exits, events + 1)
        fact = session.recent.newest()
        if _of_vp(session, fact):
            found.append((str(Position(exits, 0, events)), fact))
        return record.sequence >= end

    timeline.forward(collect)
    return found


def _of_vp(session: Session, fact: Fact) -> bool:
    return (fact.record.partition, fact.record.vp) == (session.vm.partition_id, session.vp_index)

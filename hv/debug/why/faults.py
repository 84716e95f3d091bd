"""Why a VP got its last exception: what raised it, the tables or the selector that refused, and what its delivery met.

In a recording the machine is taken to the instruction, as it was before it faulted. Without one, the tables are those
of now. SDM "Interrupt and Exception Handling", "Page-Fault Exceptions", "Error Code".
"""

from __future__ import annotations

from hv.debug.errors import DebugError
from hv.debug.looking import instructions
from hv.debug.session import Session
from hv.debug.why.chain import Answer, Link
from hv.debug.why.handled import handled
from hv.debug.why.names import vector_name, who
from hv.debug.why.setting import find_settings
from hv.debug.why.tables import Place, page_fault, selector
from hv.debug.why.visit import Scene, away, scene
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.instructions.decode import Undecodable, decode, linear_address
from hv.machine.faults import GuestFault, NestedFault
from hv.machine.idt import Event, EventKind
from hv.machine.paging import is_canonical
from hv.replay.origin import instruction, origins
from hv.replay.position import Position
from hv.replay.timeline import Timeline
from hv.spec.exits import ExitReason
from hv.spec.x86 import PageFaultError, Vector
from hv.vmx.checks.explain import explain
from hv.vmx.events.delivery import Raised
from hv.vmx.exit import VmExit

_SELECTORS = frozenset({Vector.TS, Vector.NP, Vector.SS, Vector.GP})
_BY_INSTRUCTION = {EventKind.SOFTWARE_EXCEPTION: "INT3 or INTO asks for it",
                   EventKind.PRIVILEGED_SOFTWARE_EXCEPTION: "INT1 asks for it"}
_AS_NOW = "the tables are those of now: `record` keeps the past, and finds who set them"


def why_fault(session: Session) -> Answer:
    """Why the VP looked at got its last exception, or why VM entry fails. DebugError when there was none."""
    entry, raised = entry_failures(session.vp), session.vp.vcpu.raised
    if entry:
        return Answer(f"VM entry of {who(session, session.vm.partition_id, session.vp_index)} fails", entry)
    if raised is None:
        raise DebugError("this VP has had no exception", "`why` asks about its last VM exit")
    with away(session):
        return _answer(session, raised)


def entry_failures(vp: VirtualProcessor) -> list[Link]:
    """Every rule that keeps VM entry from succeeding, when the last one failed; `hv explain vmentry` tells more."""
    if vp.vcpu.entry_result.failure is None:
        return []
    links = []
    for failure in explain(vp.vcpu.entry()).failures:
        fields = ", ".join(field.name for field in failure.rule.fields)
        links.append(Link(f"{failure.rule.id}: {failure.broken.found}; required: {failure.broken.required}", ok=False,
                          causes=[Link(f"{failure.words}; fields {fields}")]))
    return links


# --- the answer ---------------------------------------------------------------------------------------------

def _answer(session: Session, raised: Raised) -> Answer:
    place, position, note = Place(session), "", "" if session.timeline else _AS_NOW
    subject = (f"{_named(raised.events[0])} of {who(session, session.vm.partition_id, session.vp_index)} at "
               f"{place.name(raised.linear_rip)}")
    until = session.recent.newest() if session.recent.records else None
    if raised.injected:
        here = _exit_of(session, raised)
        links, position, until = [_by_hypervisor(place, raised, here)], here.position if here else "", until
    else:
        if session.timeline is not None:
            position, note = _go_to_fault(session, session.timeline, raised)
        links = [_found(place, raised)]
    links += _nesting(place, raised)
    find_settings(session, links, until)
    return Answer(subject, links, position, note)


def _named(event: Event) -> str:
    code = "" if event.error_code is None else f"({event.error_code:#x})"
    return vector_name(event.vector) + code


def _go_to_fault(session: Session, timeline: Timeline, raised: Raised) -> tuple[str, str]:
    """Where the instruction that faulted is about to run: its position; else where the recording has none, and why.

    What shuts the processor down changes no register, so that is looked at where it exits. An instruction that could
    not be fetched never runs: then it is the first one of the handler.
    """
    def number() -> object:
        last = session.vp.vcpu.raised
        return None if last is None else last.number

    (change,) = origins(timeline, [number])
    if change is None:
        timeline.go_to_end()
        return "", "it was before the recording began: the tables are those of its end"
    exits = change.position.exits
    if not change.behind:
        timeline.go(change.position)
        event = session.recent.newest().record.event
        if isinstance(event, VmExit) and event.reason == ExitReason.TRIPLE_FAULT:
            return str(change.position), ""
        exits -= isinstance(event, VmExit)
    place = instruction(timeline, exits, number, raised.number) or Position(exits)
    timeline.go(place)
    if session.vp.regs.linear_rip != raised.linear_rip and place.instructions:
        timeline.go(Position(exits, place.instructions + 1))
    return str(timeline.position), ""


# --- given by the hypervisor --------------------------------------------------------------------------------

def _exit_of(session: Session, raised: Raised) -> Scene | None:
    """The exit at which the hypervisor gave the exception."""
    def wanted(fact: object) -> bool:
        record = getattr(fact, "record", None)
        if record is None or not isinstance(record.event, VmExit):
            return False
        if (record.partition, record.vp) != (session.vm.partition_id, session.vp_index):
            return False
        if session.timeline is None:
            return bool(getattr(fact, "operands", {}).get("rip") == raised.rip)
        before = session.vp.vcpu.raised
        return before is None or before.number < raised.number

    try:
        return scene(session, "", wanted)
    except DebugError:
        return None


def _by_hypervisor(place: Place, raised: Raised, here: Scene | None) -> Link:
    link = Link(f"the hypervisor, or the parent, gave it to the guest: {_instruction(place, raised)}")
    if here is not None:
        link.causes += handled(here)
    return link


# --- found by the processor ---------------------------------------------------------------------------------

def _found(place: Place, raised: Raised) -> Link:
    event = raised.events[0]
    link = Link(f"raised at CPL {raised.cpl} by {_instruction(place, raised)}")
    if event.kind in _BY_INSTRUCTION:
        link.causes.append(Link(_BY_INSTRUCTION[event.kind]))
    elif event.kind is EventKind.EXCEPTION:
        link.causes += _reasons(place, event, raised)
    else:
        link.text = f"vector {event.vector:#x} came from outside, and its delivery faulted"
    return link


def _instruction(place: Place, raised: Raised) -> str:
    first = raised.events[0]
    if first.vector == Vector.PF and (first.error_code or 0) & PageFaultError.FETCH:
        return "the fetch of an instruction"
    try:
        text = next(instructions(place.vp, raised.linear_rip, 1))[2]
    except (GuestFault, NestedFault, DebugError, StopIteration):
        return "the fetch of an instruction: no code can be read there"
    return f"`{text}`"


def _reasons(place: Place, event: Event, raised: Raised) -> list[Link]:
    """What of the guest's own state refused."""
    if event.vector == Vector.PF and event.address is not None:
        return page_fault(place, event.address, event.error_code or 0)
    if event.vector in _SELECTORS and event.error_code:
        return [selector(place, event.error_code)]
    if event.vector == Vector.UD:
        return [Link("no instruction of this processor in this mode is written so, or CPUID does not offer it",
                     ok=False)]
    if event.vector in (Vector.GP, Vector.SS):
        return _general_protection(place, raised)
    return [Link(_WORDS[event.vector], ok=False)] if event.vector in _WORDS else []


_WORDS = {
    int(Vector.DE): "the divisor is 0, or the quotient does not fit its register",
    int(Vector.DB): "RFLAGS.TF is set, or a debug register says so: DR6 tells which",
    int(Vector.NM): "CR0.TS or CR0.EM is set: the x87 and SSE registers are not there",
    int(Vector.AC): "the address is not aligned, at CPL 3 with CR0.AM and RFLAGS.AC set",
}


# --- #GP without a selector -----------------------------------------------------------------------------------

def _general_protection(place: Place, raised: Raised) -> list[Link]:
    vp = place.vp
    try:
        decoded = decode(next(instructions(vp, raised.linear_rip, 1))[1], vp.regs.bits)
    except (Undecodable, GuestFault, NestedFault, DebugError, StopIteration):
        return []
    if decoded.memory is not None and place.session.timeline is not None and vp.regs.bits == 64:
        gva = linear_address(decoded, vp.regs)
        if not is_canonical(gva):
            return [Link(f"linear address {gva:#x} is not canonical: bits 63:47 are not all equal", ok=False)]
    if raised.cpl:
        return [Link(f"CPL is {raised.cpl}: the instruction is the kernel's, or needs IOPL {raised.cpl} "
                     f"(it is {vp.regs.rflags >> 12 & 3}) or the TSS's permission", ok=False)]
    return [Link("a reserved bit, or a value that its register does not take", ok=False)]


# --- nesting --------------------------------------------------------------------------------------------------

def _nesting(place: Place, raised: Raised) -> list[Link]:
    """What the delivery of each met, down to #DF and the triple fault."""
    links, delivering = list[Link](), raised.events[0]
    for event in raised.events[1:]:
        if event.vector == Vector.DF and links and links[-1].text.startswith("the delivery"):
            links.append(Link("two such exceptions make #DF, which is delivered instead"))
        else:
            links.append(Link(f"the delivery of {vector_name(delivering.vector)} met {_named(event)}",
                              _reasons(place, event, raised) if event.error_code else [], ok=False))
        delivering = event
    if links and len(raised.events) > 1 and raised.events[-2].vector == Vector.DF:
        links.append(Link("a fault in the delivery of #DF shuts the processor down: a triple fault", ok=False))
    return links

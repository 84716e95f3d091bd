"""What the hypervisor did about an exit, and why: answered it itself, asked the parent, or gave the guest a fault.

What was done is told by the events behind the exit; why, by the tables that the handler of `hypervisor/exits/` asks.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.debug.why.chain import Link
from hv.debug.why.names import event_text, hypercall_name, msr_name, vector_name
from hv.debug.why.refusals import msr_refusal, vmcall_refusal
from hv.debug.why.visit import Scene
from hv.spec.exits import ExitReason, InterruptionInfo, IoQualification
from hv.spec.hv_status import HvStatus
from hv.spec.intercepts import HvInterceptAccess, HvInterceptType
from hv.spec.synic import HvMessageType
from hv.trace.events import (
    Cpuid,
    Fault,
    Hypercall,
    HypercallInterrupted,
    Injected,
    InterceptCompleted,
    InterceptInstalled,
    InterceptSent,
    InterruptRouted,
    MmioAccess,
    MsrRead,
    MsrWrite,
    VpEnded,
    VpHalted,
)

T = HvInterceptType
_READ, _WRITE, _EXECUTE = HvInterceptAccess.READ, HvInterceptAccess.WRITE, HvInterceptAccess.EXECUTE
_NOBODY_ELSE = "a child's parent hears of everything that its map does not allow"


def handled(scene: Scene) -> list[Link]:
    """What was done, as far as the events tell."""
    ended = scene.next(VpEnded)
    if ended is not None:
        return [Link(f"the VP stopped for good: {ended.why}", ok=False)]
    sent = scene.next(InterceptSent)
    if sent is not None and (sent.child, sent.vp) == (scene.vp.partition.id, scene.vp.index):
        return [_asked(scene, sent)]
    fault = scene.next(Fault)
    if fault is not None:
        return [Link(f"the guest got {vector_name(fault.vector)} at the instruction", _refused(scene))]
    return _done(scene)


# --- the parent was asked -----------------------------------------------------------------------------------

def _asked(scene: Scene, sent: InterceptSent) -> Link:
    name = HvMessageType(sent.message_type).name
    causes = _interest(scene)
    completed = scene.next_fact(InterceptCompleted)
    answered = f"answered at {scene.at(completed)}" if completed is not None else "not answered yet"
    return Link(f"{scene.parent} was asked ({name}), and the VP waited: {answered}", causes)


def _interest(scene: Scene) -> list[Link]:
    """Why the parent hears of it."""
    get, reason = scene.fact.get, scene.exit.reason
    match reason:
        case ExitReason.IO_INSTRUCTION:
            io = IoQualification(scene.exit.qualification)
            return [_port(scene, io)]
        case ExitReason.RDMSR | ExitReason.WRMSR:
            access = _READ if reason == ExitReason.RDMSR else _WRITE
            index = int(get("msr") or 0)
            return [_installed(scene, T.MSR, index, access, f"MSR {msr_name(index)}")]
        case ExitReason.CPUID:
            leaf = int(get("leaf") or 0)
            every = scene.vp.partition.intercepts.wants(T.GLOBAL_CPUID, 0, _EXECUTE)
            return [_installed(scene, T.GLOBAL_CPUID, 0, _EXECUTE, "every CPUID leaf") if every
                    else _installed(scene, T.CPUID, leaf, _EXECUTE, f"CPUID leaf {leaf:#x}")]
        case ExitReason.EXCEPTION_OR_NMI:
            vector = InterruptionInfo(scene.exit.interruption_info).vector
            return [_installed(scene, T.EXCEPTION, vector, _EXECUTE, vector_name(vector))]
        case ExitReason.VMCALL:
            return [_installed(scene, T.HYPERCALL, 0, _EXECUTE, "every hypercall")]
        case ExitReason.EPT_VIOLATION | ExitReason.APIC_ACCESS:
            return [Link(_NOBODY_ELSE)]
    return [Link("the VP cannot go on by itself: its parent decides what becomes of it")]


def _port(scene: Scene, io: IoQualification) -> Link:
    access = _READ if io.in_ else _WRITE

    def tells(event: object) -> bool:
        return (isinstance(event, InterceptInstalled) and event.partition == scene.vp.partition.id
                and event.kind in (T.IO_PORT, T.IO_PORT_RANGE) and event.first <= io.port <= event.last)

    return Link(f"{scene.parent} installed an intercept of port {io.port:#x}",
                look=lambda: bool(scene.vp.partition.intercepts.wants_port(io.port, access)), tells=tells)


def _installed(scene: Scene, kind: HvInterceptType, parameter: int, access: int, what: str) -> Link:
    partition = scene.vp.partition.id

    def tells(event: object) -> bool:
        return (isinstance(event, InterceptInstalled) and event.partition == partition and event.kind == kind
                and event.first == parameter)

    return Link(f"{scene.parent} installed an intercept of {what}",
                look=lambda: scene.vp.partition.intercepts.wants(kind, parameter, access), tells=tells)


# --- the guest got a fault ----------------------------------------------------------------------------------

def _refused(scene: Scene) -> list[Link]:
    reason, get = scene.exit.reason, scene.fact.get
    if reason in (ExitReason.RDMSR, ExitReason.WRMSR):
        write = reason == ExitReason.WRMSR
        return [msr_refusal(scene, int(get("msr") or 0), int(get("value") or 0) if write else None)]
    if reason == ExitReason.VMCALL:
        return [vmcall_refusal(scene)]
    if reason in (ExitReason.MONITOR, ExitReason.MWAIT) or ExitReason(reason).name.startswith(("VM", "INV")):
        return [Link("CPUID does not offer VMX, MONITOR and MWAIT, so the instruction is undefined")
                if reason != ExitReason.INVD else Link("INVD would throw away what is in the caches: no guest may")]
    if reason == ExitReason.EXCEPTION_OR_NMI:
        return [Link(f"no intercept of {scene.parent}'s is installed any more: it goes back to the guest")]
    if reason == ExitReason.CR_ACCESS:
        return [Link("the bit is the hypervisor's, or no processor takes the value")]
    return []


# --- done ---------------------------------------------------------------------------------------------------

def _done(scene: Scene) -> list[Link]:
    reason = ExitReason(scene.exit.reason)
    if reason in _WORDS:
        return [_WORDS[reason](scene)]
    if reason in (ExitReason.APIC_ACCESS, ExitReason.APIC_WRITE, ExitReason.EPT_VIOLATION):
        access = scene.next_fact(MmioAccess)
        if access is not None:
            return [Link(f"the hypervisor carried it out on the virtual APIC: {event_text(access.record)}")]
    injected = scene.next(Injected)
    if injected is not None:
        return [Link(f"behind it the guest got {vector_name(injected.vector)}")]
    return []


def _cpuid(scene: Scene) -> Link:
    answer: Cpuid | None = scene.next(Cpuid)
    if answer is None:
        return Link("the hypervisor answers from the partition's own table, never from the host")
    words = " ".join(f"{name}={value:#x}" for name, value in zip(("eax", "ebx", "ecx", "edx"), answer.answer,
                                                                   strict=True))
    result = scene.vp.partition.cpuid_results.find(scene.vp.index, answer.leaf, answer.subleaf)
    link = Link(f"the hypervisor answered from the partition's own table, never from the host: {words}")
    if result is not None:
        link.causes.append(Link(f"{scene.parent} registered a result for the leaf: HvCallRegisterInterceptResult"))
    return link


def _msr(scene: Scene) -> Link:
    done = scene.next(MsrRead, MsrWrite)
    value = "" if done is None else f": {'stored' if isinstance(done, MsrWrite) else 'the value is'} {done.value:#x}"
    return Link(f"the hypervisor did it itself{value}; no intercept of {scene.parent}'s comes first")


def _io(scene: Scene) -> Link:
    io = IoQualification(scene.exit.qualification)
    if scene.vp.partition.is_root:
        return Link(f"root's access to port {io.port:#x} reaches the machine")
    access = _READ if io.in_ else _WRITE
    return Link(f"no intercept of port {io.port:#x} is installed: "
                + ("IN gives all ones" if io.in_ else "what OUT sends is dropped"),
                look=lambda: bool(scene.vp.partition.intercepts.wants_port(io.port, access)))


def _vmcall(scene: Scene) -> Link:
    interrupted: HypercallInterrupted | None = scene.next(HypercallInterrupted)
    done: Hypercall | None = scene.next(Hypercall)
    name = hypercall_name(int(scene.fact.get("code") or 0))
    if interrupted is not None and (done is None or interrupted.code == done.code):
        return Link(f"{name} did {interrupted.done} of its {interrupted.count} reps: the guest comes again for more")
    if done is None:
        return Link(f"it asks for {name}")
    why = f": {done.why}" if done.why else ""
    return Link(f"{name} ended with {HvStatus(done.status).name}{why}", ok=None if not done.status else False)


def _halt(scene: Scene) -> Link:
    first = scene.next_fact(Injected)
    if scene.next(VpHalted) is None:
        return Link("the VP sleeps until an interrupt")
    if first is None:
        return Link("the VP sleeps; nothing has woken it (`why no interrupt`)")
    return Link(f"the VP slept, until {vector_name(first.record.event.vector)} came at {scene.at(first)}")


def _pause(scene: Scene) -> Link:
    return Link("the VP spins: who holds what it waits for has the processor first, if there is one")


def _external(scene: Scene) -> Link:
    routed: InterruptRouted | None = scene.next(InterruptRouted)
    if routed is None:
        return Link("it is for the processor alone: another VP may have its turn")
    return Link(f"routed to vector {routed.vector:#x} of partition {routed.partition}, vp {routed.vp}; the guest that "
                "was interrupted does not notice")


_WORDS: dict[ExitReason, Callable[[Scene], Link]] = {
    ExitReason.CPUID: _cpuid, ExitReason.RDMSR: _msr, ExitReason.WRMSR: _msr, ExitReason.IO_INSTRUCTION: _io,
    ExitReason.VMCALL: _vmcall, ExitReason.HLT: _halt, ExitReason.PAUSE: _pause,
    ExitReason.EXTERNAL_INTERRUPT: _external,
}

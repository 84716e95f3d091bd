"""inject, nmi, interrupt: events and interrupts come to the VP looked at, as from its parent."""

from __future__ import annotations

from collections.abc import Iterator

from hv.debug.commands.changing import in_width
from hv.debug.commands.parent import ask_parent
from hv.debug.completion import Word
from hv.debug.errors import DebugError
from hv.debug.registry import command
from hv.debug.render import Changed
from hv.debug.session import Session
from hv.hypervisor.registers.table import get_register
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.machine.idt import Event, EventKind
from hv.replay.changes import SetRegister
from hv.spec.hv_registers import HvRegisterName, PendingInterruptionRegister
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.interrupts import AssertVirtualInterruptInput, HvInterruptControl, HvInterruptType
from hv.spec.x86 import ENTRY_DELIVERS_ERROR_CODE, FIRST_SYSTEM_VECTOR, Vector
from hv.vmx.events.injection import is_injectable

_PENDING = HvRegisterName.PENDING_INTERRUPTION


def _vectors(session: Session, typed: str) -> Iterator[Word]:
    yield from (Word(vector.name, f"vector {int(vector)}") for vector in Vector if vector < FIRST_SYSTEM_VECTOR)


@command("inject", vector=_vectors)
def inject(session: Session, vector: str, error: int | None = None) -> Changed:
    """Let the next VM entry of the VP inject an event: an exception with its error code, or an interrupt from 32 on.

    It is delivered through the guest's IDT whatever RFLAGS.IF says, as a parent's HvRegisterPendingInterruption is.
    CR2 of a page fault stays as it is: `set cr2` first.

    Example: `inject GP 0`, `inject UD`, `inject 0x30`
    """
    vp, number = session.vp, _vector(session, vector)
    wants_code = number in ENTRY_DELIVERS_ERROR_CODE and bool(vp.regs.cr0 & 1)
    if wants_code is (error is None):
        raise DebugError(f"vector {number} has {'an' if wants_code else 'no'} error code",
                         f"write inject {vector}{' 0' if wants_code else ''}")
    kind = EventKind.NMI if number == Vector.NMI else \
        EventKind.EXCEPTION if number < FIRST_SYSTEM_VECTOR else EventKind.EXTERNAL
    wanted = PendingInterruptionRegister(
        interruption_pending=1, interruption_type=kind, interruption_vector=number, deliver_error_code=int(wants_code),
        error_code=0 if error is None else in_width(session, str(error), "an error code", 32))
    event = Event(number, kind, wanted.error_code if wants_code else None)
    if not is_injectable(event, bool(vp.regs.cr0 & 1)):
        raise DebugError(f"VM entry injects no event of vector {number}",
                         "SDM \"VM-Entry Controls for Event Injection\" has its rules")
    before = _pending(vp)
    session.change(SetRegister(vp.partition.id, vp.index, _PENDING.name, wanted.raw))
    return Changed("event of the next VM entry", before, _pending(vp))


def _vector(session: Session, text: str) -> int:
    known = Vector.__members__
    number = int(known[text.upper()]) if text.upper() in known else session.number(text)
    if not 0 <= number <= 0xFF:
        raise DebugError(f"vector {number:#x} is out of range 0..255")
    return number


def _pending(vp: VirtualProcessor) -> str:
    """`GP, error code 0x0`, `interrupt 0x30`, or `none`."""
    now = PendingInterruptionRegister(int.from_bytes(get_register(vp, _PENDING)[:8], "little"))
    if not now.interruption_pending:
        return "none"
    vector = now.interruption_vector
    what = f"interrupt {vector:#x}" if now.interruption_type == EventKind.EXTERNAL else \
        f"#{Vector(vector).name}" if vector in Vector.__members__.values() else f"exception {vector}"
    return f"{what}, error code {now.error_code:#x}" if now.deliver_error_code else what


@command("nmi")
def nmi(session: Session) -> Changed:
    """Let an NMI come to the VP looked at, as HvCallAssertVirtualInterrupt does.

    Example: `nmi`
    """
    vp = session.vp
    before = vp.nmi_pending
    _assert(session, vp, HvInterruptType.NMI, 0)
    return Changed("NMI pending", before, vp.nmi_pending,
                   () if vp.vcpu.takes_nmi else ("NMIs are blocked until the handler's IRET",))


@command("interrupt", "irq")
def interrupt(session: Session, vector: int) -> Changed:
    """Request a fixed interrupt from the VP's virtual APIC, as HvCallAssertVirtualInterrupt does.

    It waits in IRR for its priority and RFLAGS.IF. `inject` asks neither.

    Example: `interrupt 0x30`
    """
    vp = session.vp
    if not 0 <= vector <= 0xFF:
        raise DebugError(f"vector {vector:#x} is out of range 0..255")
    before = _requested(vp)
    _assert(session, vp, HvInterruptType.FIXED, vector)
    return Changed("requested", before, _requested(vp), tuple(_waits(vp, vector)))


def _requested(vp: VirtualProcessor) -> str:
    return ", ".join(f"{vector:#x}" for vector in vp.apic.inspect()["irr"]) or "none"


def _waits(vp: VirtualProcessor, vector: int) -> Iterator[str]:
    """Why the interrupt does not come at once."""
    apic = vp.apic
    if not apic.is_enabled:
        yield "the APIC is disabled: it drops fixed interrupts"
        return
    if vector >> 4 <= apic.ppr >> 4:
        yield f"it waits: its class {vector >> 4} is not above the processor priority {apic.ppr:#x}"
    if not vp.regs.interrupts_enabled:
        yield "it waits: RFLAGS.IF is 0"


def _assert(session: Session, vp: VirtualProcessor, kind: HvInterruptType, vector: int) -> None:
    ask_parent(session, vp.partition, HypercallCode.ASSERT_VIRTUAL_INTERRUPT, AssertVirtualInterruptInput(
        partition_id=vp.partition.id, interrupt_control=HvInterruptControl(interrupt_type=kind).raw,
        destination=vp.apic.apic_id, vector=vector).pack())

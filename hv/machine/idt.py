"""Delivery of interrupts and exceptions through the IDT, in every mode of the processor.

SDM "Interrupt and Exception Handling", and the pseudo-code of "INT n/INTO/INT3/INT1". All checks and the push of the
frame come before the first register changes, so a fault while delivering leaves the processor as it was. Read `deliver`
first; each mode plans an `_Entry`, and `_enter` is the only function that writes registers.

# Simplified: no VME redirection of INT n in virtual-8086 mode, no shadow stacks, and the accessed bits of the loaded
# descriptors are set in the segment registers but not in the tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from hv.machine.faults import Access, GuestFault, TripleFault
from hv.machine.linear import LinearMemory
from hv.machine.paging import LINEAR_32, LINEAR_64, NonCanonical, is_canonical
from hv.machine.registers import ACCESSED, Registers, Segment
from hv.machine.tasks import check_new_task
from hv.spec.exits import TaskSwitchSource
from hv.spec.x86 import (
    CONTRIBUTORY,
    PAGE_FAULT_CLASS,
    PUSHES_ERROR_CODE,
    PUSHES_RF,
    Cr0,
    Efer,
    GateDescriptor,
    Rflags,
    SystemType,
    Tss64,
    Vector,
)

_PE, _LMA = Cr0.PE.value, Efer.LMA.value
_IF, _TF, _RF, _VM, _AC = Rflags.IF.value, Rflags.TF.value, Rflags.RF.value, Rflags.VM.value, Rflags.AC.value
_IOPL = Rflags.IOPL.value
_CLEARED = _TF | Rflags.NT.value | _RF | _VM       # on every entry through a gate of protected or long mode
_INTERRUPT_GATES = frozenset({SystemType.INTERRUPT_GATE16.value, SystemType.INTERRUPT_GATE.value})
_GATES_32 = frozenset({SystemType.INTERRUPT_GATE.value, SystemType.TRAP_GATE.value})
_GATES = _GATES_32 | {t.value for t in (SystemType.TASK_GATE, SystemType.INTERRUPT_GATE16, SystemType.TRAP_GATE16)}
_TSS16 = frozenset({SystemType.TSS16_AVAILABLE.value, SystemType.TSS16_BUSY.value})
_RSP0, _IST1 = Tss64.offset_of("rsp0"), Tss64.offset_of("ist1")


class EventKind(IntEnum):
    """Where an event comes from; the numbers are VMX's interruption types."""

    EXTERNAL = 0
    NMI = 2
    EXCEPTION = 3                           # found by the processor
    SOFTWARE_INTERRUPT = 4                  # INT n
    PRIVILEGED_SOFTWARE_EXCEPTION = 5       # INT1
    SOFTWARE_EXCEPTION = 6                  # INT3, INTO


_BY_PROGRAM = frozenset({EventKind.SOFTWARE_INTERRUPT, EventKind.SOFTWARE_EXCEPTION})
_BY_INSTRUCTION = _BY_PROGRAM | {EventKind.PRIVILEGED_SOFTWARE_EXCEPTION}


@dataclass(frozen=True, slots=True)
class Event:
    """One interrupt or exception to deliver."""

    vector: int
    kind: EventKind
    error_code: int | None = None
    instruction_length: int = 0         # bytes; of the INT that asks, since the frame holds the RIP behind it
    address: int | None = None          # of a #PF, what CR2 gets

    @property
    def by_program(self) -> bool:
        """INT n, INT3 or INTO: the gate's DPL is checked, and EXT is 0 in the error codes of what goes wrong."""
        return self.kind in _BY_PROGRAM


class TaskGate(Exception):
    """The event leads to a task gate: a task switch to the TSS *selector* is asked for, and nothing is changed yet."""

    def __init__(self, selector: int, event: Event) -> None:
        self.selector, self.event = selector, event
        super().__init__(f"vector {event.vector} leads to a task gate of selector {selector:#x}")


def exception(fault: GuestFault) -> Event:
    """The event that *fault* asks for."""
    return Event(fault.vector, EventKind.EXCEPTION, fault.error_code, address=fault.address)


def deliver(state: Registers, memory: LinearMemory, event: Event) -> None:
    """Enter the handler of *event*: push the frame, load CS:RIP and the stack, adjust RFLAGS and CPL.

    Raises GuestFault when delivery itself faults, TaskGate, or the NestedFault of *memory*; registers are then as
    before. Neither CR2 nor DR6 is written: that belongs to raising an exception, not to delivering it.
    """
    memory = memory.fixed()
    if not state.cr0 & _PE:
        entry = _plan_real(state, memory, event)
    elif state.efer & _LMA:
        entry = _plan_long(state, memory, event)
    else:
        entry = _plan_protected(state, memory, event)
    _enter(state, memory, entry)


def deliver_combined(state: Registers, memory: LinearMemory, event: Event) -> Event:
    """Deliver *event*, or what its delivery turns into, and return what was delivered.

    CR2 is written for *event* when it carries an address, and for each page fault on the way. Raises TripleFault when a
    double fault cannot be delivered; SDM "Interrupt 8 - Double Fault Exception".
    """
    if event.address is not None:
        state.cr2 = event.address
    while True:
        try:
            deliver(state, memory, event)
            return event
        except GuestFault as fault:
            if fault.address is not None:
                state.cr2 = fault.address
            event = combine(event, fault)


def combine(first: Event, fault: GuestFault) -> Event:
    """What the processor delivers when delivering *first* met *fault*: the fault, or #DF; TripleFault after a #DF.

    SDM "Interrupt 8 - Double Fault Exception". Events that are not exceptions are benign.
    """
    if first.kind is EventKind.EXCEPTION:
        if first.vector == Vector.DF:
            raise TripleFault(f"{fault} while a double fault was being delivered")
        contributory = fault.vector in CONTRIBUTORY
        if contributory and first.vector in CONTRIBUTORY:
            return Event(Vector.DF, EventKind.EXCEPTION, 0)
        if first.vector in PAGE_FAULT_CLASS and (contributory or fault.vector in PAGE_FAULT_CLASS):
            return Event(Vector.DF, EventKind.EXCEPTION, 0)
    return exception(fault)


# --- What every mode plans, and how it becomes true ----------------------------------------------

@dataclass(slots=True)
class _Stack:
    """Where the frame goes."""

    segment: Segment        # what SS will be; the old one unless the level changes
    pointer: int            # before the first push
    wrap: int               # mask of the stack pointer: 16, 32 or 64 bits
    error_code: int         # of the #SS when there is no room


@dataclass(slots=True)
class _Entry:
    """The handler's registers, and the words to push, in order."""

    cs: Segment
    rip: int
    cpl: int
    rflags: int
    stack: _Stack
    frame: list[int]
    width: int              # bytes of each word
    from_v86: bool = False


def _enter(state: Registers, memory: LinearMemory, entry: _Entry) -> None:
    rsp = _push(state, memory, entry)
    state.cs = entry.cs
    if entry.cpl != state.cpl:
        state.ss = entry.stack.segment
        state.cpl = entry.cpl
    state.rflags = entry.rflags
    state.rsp = rsp
    state.rip = entry.rip
    if entry.from_v86:
        state.es = state.ds = state.fs = state.gs = Segment.null()
    state.interrupt_shadow = False


def _push(state: Registers, memory: LinearMemory, entry: _Entry) -> int:
    """Write the frame, first word highest, and return the new RSP. From CPL 3, RFLAGS.AC does not lift SMAP."""
    stack, width = entry.stack, entry.width
    size = width * len(entry.frame)
    below = stack.pointer - size & stack.wrap
    mask = (1 << 8 * width) - 1
    words = [(word & mask).to_bytes(width, "little") for word in reversed(entry.frame)]
    implicit = state.cpl == 3
    try:
        if stack.pointer & stack.wrap >= size or stack.wrap == LINEAR_64:
            pieces = [(_stack_gva(stack, below, size), b"".join(words))]
        else:
            pieces = [(_stack_gva(stack, below + n * width & stack.wrap, width), word) for n, word in enumerate(words)]
        if len(pieces) > 1:
            for gva, data in pieces:
                memory.check(gva, len(data), Access.WRITE, entry.cpl, implicit)
        for gva, data in pieces:
            memory.write(gva, data, entry.cpl, implicit)
    except NonCanonical:
        raise GuestFault(Vector.SS, stack.error_code) from None
    return stack.pointer & ~stack.wrap | below


def _stack_gva(stack: _Stack, offset: int, size: int) -> int:
    """The linear address of *size* bytes of stack; #SS when they are not inside the segment."""
    if stack.wrap == LINEAR_64:
        if not is_canonical(offset) or not is_canonical(offset + size - 1 & LINEAR_64):
            raise GuestFault(Vector.SS, stack.error_code)
        return offset
    last, segment = offset + size - 1, stack.segment
    if segment.expand_down:
        inside = offset > segment.limit and last <= (LINEAR_32 if segment.big else 0xFFFF)
    else:
        inside = last <= segment.limit
    if not inside:
        raise GuestFault(Vector.SS, stack.error_code)
    return segment.base + offset & LINEAR_32


def _image(state: Registers, event: Event) -> int:
    """RFLAGS as pushed: RF is set for a fault, so that an instruction breakpoint does not hit twice."""
    fault = event.kind is EventKind.EXCEPTION and event.vector in PUSHES_RF
    return state.rflags | _RF if fault else state.rflags


def _return_rip(state: Registers, event: Event) -> int:
    return state.rip + event.instruction_length if event.kind in _BY_INSTRUCTION else state.rip


def _error_words(event: Event) -> list[int]:
    """The error code to push, if the event has one; #DF and #AC always push 0 when none was given."""
    if event.error_code is not None:
        return [event.error_code]
    return [0] if event.kind is EventKind.EXCEPTION and event.vector in PUSHES_ERROR_CODE else []


# --- Real-address mode ---------------------------------------------------------------------------

def _plan_real(state: Registers, memory: LinearMemory, event: Event) -> _Entry:
    """SDM "Interrupt and Exception Handling" in "8086 Emulation": a vector is 4 bytes, no error code is ever pushed."""
    if event.vector * 4 + 3 > state.idtr.limit:
        raise GuestFault(Vector.GP)
    pointer = memory.read_system(state.idtr.base + event.vector * 4, 4)
    offset, selector = pointer & 0xFFFF, pointer >> 16
    cs = state.cs._replace(selector=selector, base=selector << 4)
    if offset > cs.limit:
        raise GuestFault(Vector.GP)
    stack = _Stack(state.ss, state.rsp, 0xFFFF, 0)
    frame = [state.rflags, state.cs.selector, _return_rip(state, event)]
    return _Entry(cs, offset, 0, state.rflags & ~(_IF | _TF | _AC | _RF), stack, frame, width=2)


# --- Protected mode ------------------------------------------------------------------------------

@dataclass(slots=True)
class _Gate:
    """A checked gate of the IDT, and the code segment it leads to."""

    type: int
    offset: int
    ist: int
    code: Segment       # selector with RPL = the new CPL
    cpl: int            # after entry


def _plan_protected(state: Registers, memory: LinearMemory, event: Event) -> _Entry:
    ext = 0 if event.by_program else 1
    v86 = bool(state.rflags & _VM)
    if v86 and event.kind is EventKind.SOFTWARE_INTERRUPT and state.rflags & _IOPL != _IOPL:
        raise GuestFault(Vector.GP, 0)
    gate = _gate(state, memory, event, ext)
    if v86 and gate.cpl != 0:
        raise GuestFault(Vector.GP, gate.code.selector & ~3 | ext)
    width = 4 if gate.type in _GATES_32 else 2
    rip = gate.offset if width == 4 else gate.offset & 0xFFFF
    if rip > gate.code.limit:
        raise GuestFault(Vector.GP, ext)
    frame: list[int] = []
    if v86:
        frame += [segment.selector for segment in (state.gs, state.fs, state.ds, state.es)]
    if gate.cpl != state.cpl:
        stack = _inner_stack(state, memory, gate.cpl, ext)
        frame += [state.ss.selector, state.rsp]
    else:
        stack = _Stack(state.ss, state.rsp, _stack_wrap(state.ss), ext)
    frame += [_image(state, event), state.cs.selector, _return_rip(state, event), *_error_words(event)]
    return _Entry(gate.code, rip, gate.cpl, _entry_flags(state, gate), stack, frame, width, v86)


def _inner_stack(state: Registers, memory: LinearMemory, cpl: int, ext: int) -> _Stack:
    """The stack that the TSS names for *cpl*; SDM "Stack Switching", errors #TS, and #SS when it is not present."""
    wide = state.tr.type not in _TSS16
    size = 4 if wide else 2
    offset = (4 if wide else 2) + cpl * 2 * size
    if offset + size + 1 > state.tr.limit:
        raise GuestFault(Vector.TS, state.tr.selector & ~3 | ext)
    pointer = memory.read_system(state.tr.base + offset, size)
    selector = memory.read_system(state.tr.base + offset + size, 2)
    error_code = selector & ~3 | ext
    if not selector & ~3 or selector & 3 != cpl:
        raise GuestFault(Vector.TS, error_code)
    segment = _descriptor(state, memory, selector, Vector.TS, error_code)
    if segment.dpl != cpl or not segment.writable:
        raise GuestFault(Vector.TS, error_code)
    if not segment.present:
        raise GuestFault(Vector.SS, error_code)
    return _Stack(segment, pointer, _stack_wrap(segment), error_code)


def _stack_wrap(segment: Segment) -> int:
    return LINEAR_32 if segment.big else 0xFFFF


def _entry_flags(state: Registers, gate: _Gate) -> int:
    cleared = _CLEARED | _IF if gate.type in _INTERRUPT_GATES else _CLEARED
    return state.rflags & ~cleared


# --- Long mode -----------------------------------------------------------------------------------

def _plan_long(state: Registers, memory: LinearMemory, event: Event) -> _Entry:
    """SDM "Exception and Interrupt Handling in 64-bit Mode": SS:RSP is always pushed, on a 16-byte boundary."""
    ext = 0 if event.by_program else 1
    gate = _gate(state, memory, event, ext)
    inner = gate.cpl != state.cpl
    pointer, segment = old_pointer, old_stack = state.rsp, state.ss
    if gate.ist:
        pointer = _tss64_pointer(state, memory, _IST1 + 8 * (gate.ist - 1), ext)
    elif inner:
        pointer = _tss64_pointer(state, memory, _RSP0 + 8 * gate.cpl, ext)
    if inner:
        segment = Segment.null(gate.cpl)
    if not is_canonical(gate.offset):
        raise GuestFault(Vector.GP, ext)
    stack = _Stack(segment, pointer & ~0xF, LINEAR_64, ext)
    frame = [old_stack.selector, old_pointer, _image(state, event), state.cs.selector, _return_rip(state, event),
             *_error_words(event)]
    return _Entry(gate.code, gate.offset, gate.cpl, _entry_flags(state, gate), stack, frame, width=8)


def _tss64_pointer(state: Registers, memory: LinearMemory, offset: int, ext: int) -> int:
    if offset + 7 > state.tr.limit:
        raise GuestFault(Vector.TS, state.tr.selector & ~3 | ext)
    pointer = memory.read_system(state.tr.base + offset, 8)
    if not is_canonical(pointer):
        raise GuestFault(Vector.SS, ext)
    return pointer


# --- Gates and descriptors -----------------------------------------------------------------------

def _gate(state: Registers, memory: LinearMemory, event: Event, ext: int) -> _Gate:
    """Read and check the gate of *event* and its code segment, in the manual's order."""
    long = bool(state.efer & _LMA)
    error_code = event.vector << 3 | 2 | ext
    size = 16 if long else 8
    if event.vector * size + size - 1 > state.idtr.limit:
        raise GuestFault(Vector.GP, error_code)
    gate = _parse_gate(memory.read_system(state.idtr.base + event.vector * size, size))
    if gate.type not in (_GATES_32 if long else _GATES):
        raise GuestFault(Vector.GP, error_code)
    if event.by_program and gate.dpl < state.cpl:
        raise GuestFault(Vector.GP, error_code)
    if not gate.present:
        raise GuestFault(Vector.NP, error_code)
    if gate.type == SystemType.TASK_GATE:
        check_new_task(state, memory, gate.selector, TaskSwitchSource.IDT_TASK_GATE, ext)
        raise TaskGate(gate.selector, event)
    code, cpl = _target_code(state, memory, gate.selector, ext, long)
    return _Gate(gate.type, gate.offset, gate.ist if long else 0, code, cpl)


class _ParsedGate(NamedTuple):
    type: int           # SystemType; -1 when S = 1, which is no gate at all
    dpl: int
    present: int
    selector: int
    offset: int
    ist: int


@lru_cache(maxsize=1024)
def _parse_gate(raw: int) -> _ParsedGate:
    """The fields of a gate of 8 or 16 bytes, kept because the same few gates are used all the time."""
    gate = GateDescriptor(raw & LINEAR_64)
    offset = gate.offset | (raw >> 64 & LINEAR_32) << 32
    return _ParsedGate(-1 if gate.s else gate.type, gate.dpl, gate.present, gate.selector, offset, gate.ist)


def _target_code(state: Registers, memory: LinearMemory, selector: int, ext: int, long: bool) -> tuple[Segment, int]:
    """The code segment a gate leads to, and the CPL it runs at."""
    if not selector & ~3:
        raise GuestFault(Vector.GP, ext)
    error_code, old_cpl = selector & ~3 | ext, state.cpl
    code = _descriptor(state, memory, selector, Vector.GP, error_code)
    if not code.code or code.dpl > old_cpl or (long and (not code.long or code.big)):
        raise GuestFault(Vector.GP, error_code)
    if not code.present:
        raise GuestFault(Vector.NP, error_code)
    cpl = old_cpl if code.conforming else code.dpl
    return Segment(selector & ~3 | cpl, code.base, code.limit, code.rights), cpl


def _descriptor(state: Registers, memory: LinearMemory, selector: int, vector: int, error_code: int) -> Segment:
    """The code or data segment of *selector* in the GDT or LDT; exception *vector* when it lies beyond the limit."""
    local = selector & 4
    table = state.ldtr if local else state.gdtr
    offset = selector & ~7
    if offset + 7 > table.limit or (local and not state.ldtr.usable):
        raise GuestFault(vector, error_code)
    return _parse_descriptor(selector, memory.read_system(table.base + offset, 8))


@lru_cache(maxsize=1024)
def _parse_descriptor(selector: int, raw: int) -> Segment:
    segment = Segment.from_descriptor(selector, raw)
    return segment._replace(rights=segment.rights | ACCESSED)

"""Delivery of interrupts and exceptions through the IDT, in every mode of the processor.

SDM "Interrupt and Exception Handling", and the pseudo-code of "INT n/INTO/INT3/INT1". All checks and the push of the
frame come before the first register changes, so a fault while delivering leaves the processor as it was. Read `deliver`
first; each mode checks, pushes its frame, and ends in `enter`, the only function that writes registers.

# Simplified: no VME redirection of INT n in virtual-8086 mode, no shadow stacks, and the accessed bits of the loaded
# descriptors are set in the segment registers but not in the tables.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable
from enum import IntEnum
from functools import lru_cache, partial
from typing import NamedTuple

from hv.machine.faults import Access, GuestFault, NestedFault, TripleFault
from hv.machine.linear import LinearMemory
from hv.machine.paging import LINEAR_32, LINEAR_64, NonCanonical, PagingFormat, is_canonical
from hv.machine.registers import ACCESSED, Registers, Segment
from hv.machine.tasks import check_new_task
from hv.spec.exits import TaskSwitchSource
from hv.spec.x86 import (
    CONTRIBUTORY,
    PAGE_FAULT_CLASS,
    PUSHES_ERROR_CODE,
    PUSHES_RF,
    Cr0,
    Dr6,
    GateDescriptor,
    Rflags,
    SystemType,
    Tss64,
    Vector,
)

_PE = Cr0.PE.value
_IF, _TF, _RF, _VM, _AC = Rflags.IF.value, Rflags.TF.value, Rflags.RF.value, Rflags.VM.value, Rflags.AC.value
_IOPL, _BD = Rflags.IOPL.value, Dr6.BD.value
_CLEARED = _TF | Rflags.NT.value | _RF | _VM       # on every entry through a gate of protected or long mode
_INTERRUPT_GATES = frozenset({SystemType.INTERRUPT_GATE16.value, SystemType.INTERRUPT_GATE.value})
_GATES_32 = frozenset({SystemType.INTERRUPT_GATE.value, SystemType.TRAP_GATE.value})
_GATES = _GATES_32 | {t.value for t in (SystemType.TASK_GATE, SystemType.INTERRUPT_GATE16, SystemType.TRAP_GATE16)}
_TSS16 = frozenset({SystemType.TSS16_AVAILABLE.value, SystemType.TSS16_BUSY.value})
_TASK_GATE = SystemType.TASK_GATE.value
_FRAMES = {5: struct.Struct("<5Q"), 6: struct.Struct("<6Q")}    # of long mode, without and with an error code
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
_EXCEPTION, _EXTERNAL = EventKind.EXCEPTION, EventKind.EXTERNAL     # looked up once: naming a member costs a call
BY_INSTRUCTION = _BY_PROGRAM | {EventKind.PRIVILEGED_SOFTWARE_EXCEPTION}


class Event(NamedTuple):
    """One interrupt or exception to deliver."""

    vector: int
    kind: EventKind
    error_code: int | None = None
    instruction_length: int = 0         # bytes; of the INT that asks, since the frame holds the RIP behind it
    address: int | None = None          # of a #PF, what CR2 gets
    general_detect: bool = False        # the #DB of DR7.GD, which is a fault

    @property
    def by_program(self) -> bool:
        """INT n, INT3 or INTO: the gate's DPL is checked, and EXT is 0 in the error codes of what goes wrong."""
        return self.kind in _BY_PROGRAM


EXTERNAL_INTERRUPTS = tuple(Event(vector, EventKind.EXTERNAL) for vector in range(256))     # made once, by vector

class TaskGate(Exception):
    """The event leads to a task gate: a task switch to the TSS *selector* is asked for, and nothing is changed yet."""

    def __init__(self, selector: int, event: Event) -> None:
        self.selector, self.event = selector, event
        super().__init__(f"vector {event.vector} leads to a task gate of selector {selector:#x}")


def exception(fault: GuestFault) -> Event:
    """The event that *fault* asks for."""
    return Event(fault.vector, _EXCEPTION, fault.error_code, 0, fault.address, bool(fault.debug_bits & _BD))


def pushes_rf(event: Event) -> bool:
    """RF is 1 in the image of RFLAGS: *event* is an exception of the class of faults, but of no instruction
    breakpoint. SDM "Instruction-Breakpoint Exception Condition"."""
    return event.kind is _EXCEPTION and (event.vector in PUSHES_RF or event.general_detect)


class Intercepted(Exception):
    """Exception *event*, of *fault*, came up while *delivering* was being delivered, and is not to be delivered."""

    def __init__(self, event: Event, fault: GuestFault, delivering: Event) -> None:
        super().__init__()
        self.event, self.fault, self.delivering = event, fault, delivering


def deliver(state: Registers, memory: LinearMemory, event: Event, injected: bool = False) -> None:
    """Enter the handler of *event*: push the frame, load CS:RIP and the stack, adjust RFLAGS and CPL.

    *injected* events, those of VM entry, push RFLAGS as they are, and INT n asks for no IOPL in virtual-8086 mode.

    Raises GuestFault when delivery itself faults, TaskGate, or the NestedFault of *memory*; registers are then as
    before. Neither CR2 nor DR6 is written: that belongs to raising an exception, not to delivering it.
    """
    memory = memory.fixed()
    if (memory.fixed_mode or memory.mode).format is PagingFormat.LONG:
        _deliver_long(state, memory, event, injected)
    elif state.cr0 & _PE:
        _deliver_protected(state, memory, event, injected)
    else:
        _deliver_real(state, memory, event)


def deliver_combined(state: Registers, memory: LinearMemory, event: Event,
                     intercepts: Callable[[Event], bool] = lambda event: False, injected: bool = False) -> Event:
    """Deliver *event*, or what its delivery turns into, and return what was delivered.

    *intercepts* is asked about each exception that comes up on the way, and about the #DF it makes: Intercepted.

    CR2 is written for *event* when it carries an address, and for each page fault on the way. Raises TripleFault when a
    double fault cannot be delivered; SDM "Interrupt 8 - Double Fault Exception". A TaskGate or NestedFault says which
    event it met.
    """
    if event.address is not None:
        state.cr2 = event.address
    while True:
        try:
            deliver(state, memory, event, injected)
            return event
        except GuestFault as fault:
            event, injected = _next(state, event, fault, intercepts), False
        except NestedFault as nested:
            nested.delivering = event
            raise


def _next(state: Registers, event: Event, fault: GuestFault, intercepts: Callable[[Event], bool]) -> Event:
    """What to deliver after delivering *event* met *fault*.

    The fault's own intercept comes before it is combined: a hypervisor that fills page tables on demand must see a #PF
    within a #PF as such.
    """
    found = exception(fault)
    if intercepts(found):
        raise Intercepted(found, fault, event)
    if fault.address is not None:
        state.cr2 = fault.address
    combined = combine(event, fault)
    if combined.vector != found.vector and intercepts(combined):
        raise Intercepted(combined, fault, event)
    return combined


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


# --- What every mode does ------------------------------------------------------------------------

class Stack(NamedTuple):
    """Where the frame goes, outside 64-bit mode."""

    segment: Segment        # what SS will be; the old one unless the level changes
    pointer: int            # before the first push
    wrap: int               # mask of the stack pointer: 16 or 32 bits
    error_code: int         # of the #SS when there is no room


def enter(state: Registers, cs: Segment, cpl: int, rip: int, rflags: int, ss: Segment | None, rsp: int) -> None:
    """The handler's registers; *ss* is None when the stack segment stays."""
    state.cs = cs
    if ss is not None:
        state.ss = ss
        state.cpl = cpl
    state.continue_at(rip, rflags, rsp)


def push(state: Registers, memory: LinearMemory, stack: Stack, frame: list[int], width: int, cpl: int) -> int:
    """Write *frame*, words of *width* bytes, the first one highest, as *cpl*; the new RSP.

    From CPL 3, RFLAGS.AC does not lift SMAP.
    """
    size = width * len(frame)
    below = stack.pointer - size & stack.wrap
    mask = (1 << 8 * width) - 1
    words = [(word & mask).to_bytes(width, "little") for word in reversed(frame)]
    implicit = state.cpl == 3
    if stack.pointer & stack.wrap >= size:
        pieces = [(stack_gva(stack, below, size), b"".join(words))]
    else:
        pieces = [(stack_gva(stack, below + n * width & stack.wrap, width), word) for n, word in enumerate(words)]
        for gva, data in pieces:
            memory.check(gva, len(data), Access.WRITE, cpl, implicit)
    for gva, data in pieces:
        memory.write(gva, data, cpl, implicit)
    return stack.pointer & ~stack.wrap | below


def stack_gva(stack: Stack, offset: int, size: int) -> int:
    """The linear address of *size* bytes of stack; #SS when they are not inside the segment."""
    last, segment = offset + size - 1, stack.segment
    if segment.expand_down:
        inside = offset > segment.limit and last <= (LINEAR_32 if segment.big else 0xFFFF)
    else:
        inside = last <= segment.limit
    if not inside:
        raise GuestFault(Vector.SS, stack.error_code)
    return segment.base + offset & LINEAR_32


def _image(rflags: int, event: Event) -> int:
    """RFLAGS as pushed: RF is set for a fault, so that an instruction breakpoint does not hit twice.

    Else the instruction is done, and with it RF is over, which the engine notices late.
    """
    return rflags | _RF if pushes_rf(event) else rflags & ~_RF


def _return_rip(state: Registers, event: Event) -> int:
    return state.rip + event.instruction_length if event.kind in BY_INSTRUCTION else state.rip


def _error_words(event: Event) -> list[int]:
    """The error code to push, if the event has one; #DF and #AC always push 0 when none was given."""
    if event.error_code is not None:
        return [event.error_code]
    return [0] if event.kind is _EXCEPTION and event.vector in PUSHES_ERROR_CODE else []


# --- Real-address mode ---------------------------------------------------------------------------

def _deliver_real(state: Registers, memory: LinearMemory, event: Event) -> None:
    """SDM "Interrupt and Exception Handling" in "8086 Emulation": a vector is 4 bytes, no error code is ever pushed."""
    if event.vector * 4 + 3 > state.idtr.limit:
        raise GuestFault(Vector.GP)
    pointer = memory.read_system(state.idtr.base + event.vector * 4, 4)
    offset, selector = pointer & 0xFFFF, pointer >> 16
    cs = state.cs._replace(selector=selector, base=selector << 4)
    if offset > cs.limit:
        raise GuestFault(Vector.GP)
    rflags = state.rflags
    stack = Stack(state.ss, state.rsp, 0xFFFF, 0)
    rsp = push(state, memory, stack, [rflags, state.cs.selector, _return_rip(state, event)], 2, 0)
    enter(state, cs, 0, offset, rflags & ~(_IF | _TF | _AC | _RF), None, rsp)


# --- Protected mode ------------------------------------------------------------------------------

def _deliver_protected(state: Registers, memory: LinearMemory, event: Event, injected: bool) -> None:
    ext, rflags, old_cpl = 0 if event.by_program else 1, state.rflags, state.cpl
    v86 = bool(rflags & _VM)
    if v86 and event.kind is EventKind.SOFTWARE_INTERRUPT and rflags & _IOPL != _IOPL and not injected:
        raise GuestFault(Vector.GP, 0)
    gate, code, cpl = _gate(state, memory, event, ext, long=False)
    if v86 and cpl != 0:
        raise GuestFault(Vector.GP, code.selector & ~3 | ext)
    width = 4 if gate.type in _GATES_32 else 2
    rip = gate.offset if width == 4 else gate.offset & 0xFFFF
    if rip > code.limit:
        raise GuestFault(Vector.GP, ext)
    frame = [segment.selector for segment in (state.gs, state.fs, state.ds, state.es)] if v86 else []
    if cpl != old_cpl:
        stack = inner_stack(state, memory, cpl, ext)
        frame += [state.ss.selector, state.rsp]
    else:
        stack = Stack(state.ss, state.rsp, stack_wrap(state.ss), ext)
    image = rflags if injected else _image(rflags, event)
    frame += [image, state.cs.selector, _return_rip(state, event), *_error_words(event)]
    rsp = push(state, memory, stack, frame, width, cpl)
    enter(state, code, cpl, rip, _entry_flags(rflags, gate), stack.segment if cpl != old_cpl else None, rsp)
    if v86:
        state.es = state.ds = state.fs = state.gs = Segment.null()


def inner_stack(state: Registers, memory: LinearMemory, cpl: int, ext: int) -> Stack:
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
    segment = code_or_data(state, memory, selector, Vector.TS, error_code)
    if segment.dpl != cpl or not segment.writable:
        raise GuestFault(Vector.TS, error_code)
    if not segment.present:
        raise GuestFault(Vector.SS, error_code)
    return Stack(segment, pointer, stack_wrap(segment), error_code)


def stack_wrap(segment: Segment) -> int:
    return LINEAR_32 if segment.big else 0xFFFF


def _entry_flags(rflags: int, gate: _Gate) -> int:
    return rflags & ~(_CLEARED | _IF if gate.type in _INTERRUPT_GATES else _CLEARED)


# --- Long mode -----------------------------------------------------------------------------------

def _deliver_long(state: Registers, memory: LinearMemory, event: Event, injected: bool) -> None:
    """SDM "Exception and Interrupt Handling in 64-bit Mode": SS:RSP is always pushed, on a 16-byte boundary."""
    ext, old_cpl = 0 if event.by_program else 1, state.cpl
    rip, old_cs, rflags, old_rsp, old_ss = state.interrupted
    gate, code, cpl = memory.remember(gate_key(state, event.vector, ext, old_cpl),
                                      partial(_gate, state, memory, event, ext, long=True))
    pointer = old_rsp
    if gate.ist:
        pointer = _tss64_pointer(state, memory, _IST1 + 8 * (gate.ist - 1), ext)
    elif cpl != old_cpl:
        pointer = _tss64_pointer(state, memory, _RSP0 + 8 * cpl, ext)
    if not gate.canonical:
        raise GuestFault(Vector.GP, ext)
    if event.kind is _EXTERNAL:         # the usual: no error code, RFLAGS and RIP as they are
        frame = _FRAMES[5].pack(rip, old_cs, rflags, old_rsp, old_ss)
    else:
        words = [*_error_words(event), _return_rip(state, event) & LINEAR_64, old_cs,
                 rflags if injected else _image(rflags, event), old_rsp, old_ss]
        frame = _FRAMES[len(words)].pack(*words)
    rsp = (pointer & ~0xF) - len(frame) & LINEAR_64
    if not is_canonical(rsp) or not is_canonical(rsp + len(frame) - 1 & LINEAR_64):
        raise GuestFault(Vector.SS, ext)
    try:
        memory.write(rsp, frame, cpl, implicit=old_cpl == 3)
    except NonCanonical:
        raise GuestFault(Vector.SS, ext) from None
    enter(state, code, cpl, gate.offset, _entry_flags(rflags, gate), Segment.null(cpl) if cpl != old_cpl else None,
           rsp)


def _tss64_pointer(state: Registers, memory: LinearMemory, offset: int, ext: int) -> int:
    if offset + 7 > state.tr.limit:
        raise GuestFault(Vector.TS, state.tr.selector & ~3 | ext)
    pointer = memory.read_system(state.tr.base + offset, 8)
    if not is_canonical(pointer):
        raise GuestFault(Vector.SS, ext)
    return pointer


# --- Gates and descriptors -----------------------------------------------------------------------

class _Gate(NamedTuple):
    """The fields of a gate; *ist* means nothing outside long mode."""

    type: int           # SystemType; -1 when S = 1, which is no gate at all
    dpl: int
    present: int
    selector: int
    offset: int
    ist: int
    canonical: bool     # the offset is


def _gate(state: Registers, memory: LinearMemory, event: Event, ext: int, long: bool) -> tuple[_Gate, Segment, int]:
    """The gate of *event*, the code segment it leads to, and the CPL there, checked in the manual's order."""
    error_code = event.vector << 3 | 2 | ext
    size, table = 16 if long else 8, state.idtr
    if event.vector * size + size - 1 > table.limit:
        raise GuestFault(Vector.GP, error_code)
    gate = _parse_gate(memory.read_system(table.base + event.vector * size, size))
    if gate.type not in (_GATES_32 if long else _GATES):
        raise GuestFault(Vector.GP, error_code)
    if not ext and gate.dpl < state.cpl:
        raise GuestFault(Vector.GP, error_code)
    if not gate.present:
        raise GuestFault(Vector.NP, error_code)
    if gate.type == _TASK_GATE:
        check_new_task(state, memory, gate.selector, TaskSwitchSource.IDT_TASK_GATE, ext)
        raise TaskGate(gate.selector, event)
    if not gate.selector & ~3:
        raise GuestFault(Vector.GP, ext)
    raw = _descriptor(state, memory, gate.selector, Vector.GP, gate.selector & ~3 | ext)
    return gate, *_target_code(gate.selector, raw, state.cpl, ext, long)


# What is parsed is kept, because the same few gates and segments are used all the time.

@lru_cache(maxsize=1024)
def _parse_gate(raw: int) -> _Gate:
    """The fields of a gate of 8 or 16 bytes."""
    gate = GateDescriptor(raw & LINEAR_64)
    offset = gate.offset | (raw >> 64 & LINEAR_32) << 32
    return _Gate(-1 if gate.s else gate.type, gate.dpl, gate.present, gate.selector, offset, gate.ist,
                 is_canonical(offset))


@lru_cache(maxsize=1024)
def _target_code(selector: int, raw: int, old_cpl: int, ext: int, long: bool) -> tuple[Segment, int]:
    """The code segment of *selector*, whose descriptor is *raw*, as a gate leads to it, and the CPL it runs at."""
    error_code, code = selector & ~3 | ext, _parse_descriptor(selector, raw)
    if not code.code or code.dpl > old_cpl or (long and (not code.long or code.big)):
        raise GuestFault(Vector.GP, error_code)
    if not code.present:
        raise GuestFault(Vector.NP, error_code)
    cpl = old_cpl if code.conforming else code.dpl
    return Segment(selector & ~3 | cpl, code.base, code.limit, code.rights), cpl


class HandlerEntry(NamedTuple):
    """Where an event of 64-bit code leads."""

    cs: Segment
    rip: int
    kept_flags: int     # of RFLAGS


def gate_key(state: Registers, vector: int, ext: int, cpl: int) -> Hashable:
    """What the gate of *vector* is remembered by, in long mode: for an event at *cpl*, by the program if *ext* is 0."""
    return vector, ext, cpl, state.descriptor_tables


def same_level_entry(found: tuple[_Gate, Segment, int], cpl: int) -> HandlerEntry | None:
    """Where an event at *cpl* goes on, which *found* this in long mode; None when CPL or stack change."""
    gate, code, new_cpl = found
    if gate.ist or new_cpl != cpl or not gate.canonical:
        return None
    return HandlerEntry(code, gate.offset, _entry_flags(LINEAR_64, gate))


def _descriptor(state: Registers, memory: LinearMemory, selector: int, vector: int, error_code: int) -> int:
    """The descriptor of *selector* in the GDT or LDT; exception *vector* when it lies beyond the limit."""
    local = selector & 4
    table = state.ldtr if local else state.gdtr
    offset = selector & ~7
    if offset + 7 > table.limit or (local and not state.ldtr.usable):
        raise GuestFault(vector, error_code)
    return memory.read_system(table.base + offset, 8)


def code_or_data(state: Registers, memory: LinearMemory, selector: int, vector: int, error_code: int) -> Segment:
    """The code or data segment that a load of *selector* gives; exception *vector* when it lies beyond the limit."""
    return _parse_descriptor(selector, _descriptor(state, memory, selector, vector, error_code))


@lru_cache(maxsize=1024)
def _parse_descriptor(selector: int, raw: int) -> Segment:
    segment = Segment.from_descriptor(selector, raw)
    return segment._replace(rights=segment.rights | ACCESSED)

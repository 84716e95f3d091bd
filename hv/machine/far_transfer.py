"""Far JMP and CALL through a system descriptor, and IRET: protected mode outside IA-32e mode, done in software.

The engine would do a task switch itself, and has no intercept for one. So it is made to refuse what could be one
(`ProcessorState.refresh_hidden_flags`), and what it refused ends here: task switches become `TaskSwitch`, call gates
are entered, and an IRET without NT is simply done. All checks and every access to memory come before the first register
changes. SDM "JMP - Jump", "CALL - Call Procedure", "IRET/IRETD/IRETQ - Interrupt Return".
"""

from __future__ import annotations

from hv.machine.faults import GuestFault
from hv.machine.idt import Stack, code_or_data, enter, inner_stack, push, stack_gva, stack_wrap
from hv.machine.linear import LinearMemory
from hv.machine.paging import LINEAR_32
from hv.machine.registers import Registers, Segment, virtual_8086_segment
from hv.machine.tasks import TaskSwitch, check_new_task
from hv.spec.exits import TaskSwitchSource
from hv.spec.x86 import CallGateDescriptor, Rflags, SystemType, Vector

_NT, _VM, _IF, _IOPL = Rflags.NT.value, Rflags.VM.value, Rflags.IF.value, Rflags.IOPL.value
_STATUS = (Rflags.CF | Rflags.PF | Rflags.AF | Rflags.ZF | Rflags.SF | Rflags.OF).value
_ALWAYS = _STATUS | (Rflags.TF | Rflags.DF | Rflags.NT).value
_WIDE = (Rflags.RF | Rflags.AC | Rflags.ID).value               # IRET of 32 bits
_WIDE_KERNEL = (Rflags.VIF | Rflags.VIP).value                  # and at CPL 0
_EVERY = _ALWAYS | _WIDE | _WIDE_KERNEL | _VM | _IF | _IOPL
_TSS = (SystemType.TSS16_AVAILABLE.value, SystemType.TSS_AVAILABLE.value)
_CALL_GATES = {SystemType.CALL_GATE16.value: 2, SystemType.CALL_GATE.value: 4}      # type -> bytes of a word


# --- JMP and CALL ----------------------------------------------------------------------------------

def through_system_descriptor(state: Registers, memory: LinearMemory, selector: int, source: TaskSwitchSource,
                              next_rip: int) -> bool:
    """Do the far JMP or CALL to *selector* when it leads to a TSS or a gate; False when it leads elsewhere.

    Raises TaskSwitch, or the GuestFault of the transfer; registers are then as before.
    """
    table = state.ldtr if selector & 4 else state.gdtr
    if not selector & ~3 or (selector & ~7) + 7 > table.limit:
        return False
    raw = memory.read_system(table.base + (selector & ~7), 8)
    descriptor, error_code = Segment.from_descriptor(selector, raw), selector & ~3
    known = descriptor.type in _TSS or descriptor.type in _CALL_GATES or descriptor.type == SystemType.TASK_GATE
    if descriptor.code_or_data or not known:
        return False
    if descriptor.dpl < max(state.cpl, selector & 3):
        raise GuestFault(Vector.GP, error_code)
    if descriptor.type in _TSS:
        check_new_task(state, memory, selector, source)
        raise TaskSwitch(selector, source)
    if not descriptor.present:
        raise GuestFault(Vector.NP, error_code)
    gate = CallGateDescriptor(raw)
    if descriptor.type == SystemType.TASK_GATE:
        check_new_task(state, memory, gate.selector, source)
        raise TaskSwitch(gate.selector, source)
    _through_call_gate(state, memory, gate, source is TaskSwitchSource.CALL, next_rip)
    return True


def _through_call_gate(state: Registers, memory: LinearMemory, gate: CallGateDescriptor, call: bool,
                       next_rip: int) -> None:
    if not gate.selector & ~3:
        raise GuestFault(Vector.GP, 0)
    width, error_code, cpl = _CALL_GATES[gate.type], gate.selector & ~3, state.cpl
    code = code_or_data(state, memory, gate.selector, Vector.GP, error_code)
    allowed = code.dpl <= cpl if call or code.conforming else code.dpl == cpl
    if not code.code or not allowed:
        raise GuestFault(Vector.GP, error_code)
    if not code.present:
        raise GuestFault(Vector.NP, error_code)
    new_cpl = cpl if code.conforming else code.dpl
    rip = gate.offset if width == 4 else gate.offset & 0xFFFF
    cs = Segment(gate.selector & ~3 | new_cpl, code.base, code.limit, code.rights)
    if not call:
        if rip > code.limit:
            raise GuestFault(Vector.GP, 0)
        state.cs, state.rip = cs, rip
        return
    if new_cpl != cpl:
        stack = inner_stack(state, memory, new_cpl, 0)
        frame = [state.ss.selector, state.rsp, *_parameters(state, memory, gate.parameter_count, width)]
    else:
        stack, frame = Stack(state.ss, state.rsp, stack_wrap(state.ss), 0), []
    if rip > code.limit:
        raise GuestFault(Vector.GP, 0)
    frame += [state.cs.selector, next_rip]
    rsp = push(state, memory, stack, frame, width, new_cpl)
    enter(state, cs, new_cpl, rip, state.rflags, stack.segment if new_cpl != cpl else None, rsp)


def _parameters(state: Registers, memory: LinearMemory, count: int, width: int) -> list[int]:
    """The words on top of the caller's stack, in the order in which they are pushed again."""
    found = _Words(state, memory, width, state.cpl).pop(count)
    return found[::-1]


# --- IRET ------------------------------------------------------------------------------------------

class _Words:
    """The stack of *state*, read upwards and not changed."""

    def __init__(self, state: Registers, memory: LinearMemory, width: int, cpl: int) -> None:
        self._memory, self._width, self._cpl = memory, width, cpl
        self.stack = Stack(state.ss, state.rsp, stack_wrap(state.ss), 0)
        self.pointer = state.rsp

    def pop(self, count: int) -> list[int]:
        width, wrap = self._width, self.stack.wrap
        first = self.pointer & wrap
        if first + count * width <= wrap:       # the usual: one access
            data = self._memory.read(stack_gva(self.stack, first, count * width), count * width, cpl=self._cpl)
        else:
            data = b"".join(self._memory.read(stack_gva(self.stack, first + n * width & wrap, width), width,
                                              cpl=self._cpl) for n in range(count))
        self.pointer += count * width
        return [int.from_bytes(data[at : at + width], "little") for at in range(0, count * width, width)]


def interrupt_return(state: Registers, memory: LinearMemory, width: int) -> None:
    """IRET of *width* bytes, 2 or 4, in protected mode; not for virtual-8086 mode or IA-32e mode.

    Raises TaskSwitch when NT is set, or the GuestFault of the return; registers are then as before.
    """
    memory, old_flags = memory.fixed(), state.rflags
    if old_flags & _NT:
        selector = memory.read_system(state.tr.base, 2)
        check_new_task(state, memory, selector, TaskSwitchSource.IRET)
        raise TaskSwitch(selector, TaskSwitchSource.IRET)
    words = _Words(state, memory, width, state.cpl)
    rip, selector, flags = words.pop(3)
    selector &= 0xFFFF
    if flags & _VM and width == 4 and state.cpl == 0:
        _return_to_virtual_8086(state, rip, selector, flags, words.pop(6))
        return
    code = _return_code(state, memory, selector)
    cpl = selector & 3
    stack, pointer = state.ss, words.pointer
    if cpl != state.cpl:
        pointer, new_ss = words.pop(2)
        stack = _return_stack(state, memory, new_ss & 0xFFFF, cpl)
    if rip > code.limit:
        raise GuestFault(Vector.GP, 0)
    mask = _returned_flags(state.cpl, old_flags, width)
    _leave(state, code, rip, old_flags & ~mask | flags & mask, stack, pointer)


def _return_code(state: Registers, memory: LinearMemory, selector: int) -> Segment:
    error_code, rpl = selector & ~3, selector & 3
    if not error_code:
        raise GuestFault(Vector.GP, 0)
    code = code_or_data(state, memory, selector, Vector.GP, error_code)
    allowed = code.dpl <= rpl if code.conforming else code.dpl == rpl
    if not code.code or rpl < state.cpl or not allowed:
        raise GuestFault(Vector.GP, error_code)
    if not code.present:
        raise GuestFault(Vector.NP, error_code)
    return code


def _return_stack(state: Registers, memory: LinearMemory, selector: int, cpl: int) -> Segment:
    error_code = selector & ~3
    if not error_code:
        raise GuestFault(Vector.GP, 0)
    stack = code_or_data(state, memory, selector, Vector.GP, error_code)
    if selector & 3 != cpl or not stack.writable or stack.dpl != cpl:
        raise GuestFault(Vector.GP, error_code)
    if not stack.present:
        raise GuestFault(Vector.SS, error_code)
    return stack


def _returned_flags(cpl: int, flags: int, width: int) -> int:
    """Which flags the return may change; *flags* are those before it."""
    mask = _ALWAYS | (_WIDE if width == 4 else 0)
    if cpl == 0:
        mask |= _IOPL | (_WIDE_KERNEL if width == 4 else 0)
    return mask | _IF if cpl <= (flags & _IOPL) >> 12 else mask


def _leave(state: Registers, code: Segment, rip: int, flags: int, stack: Segment, pointer: int) -> None:
    cpl, wrap = code.selector & 3, stack_wrap(stack)
    outer = cpl != state.cpl
    state.cs = code
    if outer:
        state.ss = stack
        state.cpl = cpl
        for name in ("es", "ds", "fs", "gs"):
            segment: Segment = getattr(state, name)
            if segment.usable and segment.dpl < cpl and not segment.conforming:
                setattr(state, name, Segment.null())
    state.rflags = flags
    state.rsp = state.rsp & LINEAR_32 & ~wrap | pointer & wrap
    state.rip = rip
    state.interrupt_shadow = False


def _return_to_virtual_8086(state: Registers, rip: int, selector: int, flags: int, words: list[int]) -> None:
    if rip > 0xFFFF:
        raise GuestFault(Vector.GP, 0)
    rsp, ss, es, ds, fs, gs = words
    state.rflags = flags & _EVERY | Rflags.FIXED.value
    for name, value in (("cs", selector), ("ss", ss), ("es", es), ("ds", ds), ("fs", fs), ("gs", gs)):
        setattr(state, name, virtual_8086_segment(value & 0xFFFF))
    state.cpl, state.rsp, state.rip = 3, rsp, rip
    state.interrupt_shadow = False

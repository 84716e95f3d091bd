"""The loop of a guest that is watched: VM entry, what is due at the boundary, a piece of guest code, and again.

`Vcpu.run` comes here while `Vcpu.watchful` is set. Everything rare is in it, so that the usual loop asks for none of
it: each trap ends the piece of code that runs, and what is due (`boundary.py`) is looked for before the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import Undecodable
from hv.instructions.memory_operations import elements_left
from hv.machine.faults import GuestFault, NestedFault
from hv.machine.fetch import decode_at
from hv.spec.exits import InterruptionInfo, InterruptionType
from hv.spec.vmcs import VmcsField
from hv.spec.x86 import MAX_INSTRUCTION_LENGTH
from hv.vmx.events.boundary import at_boundary, something_could_be_due
from hv.vmx.events.data_breakpoints import data_bits
from hv.vmx.events.debug_registers import ENABLES, MET, execution_addresses, watches_data
from hv.vmx.events.injection import event_of
from hv.vmx.events.non_register import ACTIVE, PENDING, SHUTDOWN, WAIT_FOR_SIPI

if TYPE_CHECKING:
    from hv.machine.state import ProcessorState
    from hv.vmx.vcpu import Vcpu

_FOR_EVER = 1 << 62
NOWHERE: frozenset[int] = frozenset()
_VALID = 1 << 31
_NOT_DELIVERED = (1, InterruptionType.OTHER_EVENT)       # 1 is reserved: VM entry refuses it


def run(vcpu: Vcpu) -> bool:
    """Run *vcpu* as `Vcpu.run` does; True when nothing needs to be watched any more, False when the run ends."""
    vcpu.engine.on_trap, counter = vcpu.on_trap_watchfully, vcpu.engine.counter
    while something_could_be_due(vcpu):
        vcpu.look_first = False
        if vcpu.outside and not _enter(vcpu):
            return False
        done = None if vcpu.outside or _returning(vcpu) else at_boundary(vcpu)
        if done is False or vcpu.clock.tsc >= counter.until:
            return False
        if done is None and not vcpu.outside and not _piece(vcpu, counter.until):
            return False
    vcpu.watchful = False
    vcpu.engine.debug_addresses.use(vcpu.state, NOWHERE)
    return True


def step(vcpu: Vcpu) -> bool:
    """One instruction, or what was due before it; True when an exit handler said stop."""
    vcpu.engine.on_trap = vcpu.on_trap_watchfully
    vcpu.look_first, before = False, vcpu.clock.tsc
    if vcpu.outside and not _enter(vcpu):
        return True
    done = None if vcpu.outside or _returning(vcpu) else at_boundary(vcpu)
    if done is not None or vcpu.clock.tsc != before or vcpu.non_register.activity != ACTIVE:
        return done is False    # an exit at the entry, and a delivery, take time
    return not _one_instruction(vcpu)


def _enter(vcpu: Vcpu) -> bool:
    """VM entry; False when something exited and the handler said stop."""
    if not vcpu.may_enter():
        return False
    now = vcpu.non_register
    vcpu.outside = False
    now.entered()
    if vcpu.controls.timer_runs:
        vcpu.timer.load(vcpu.vmcs.read(VmcsField.VMX_PREEMPTION_TIMER_VALUE))
    vcpu.trap_like = vcpu.apic.virtual.enter() if vcpu.apic.virtual is not None else None
    if vcpu.event_waits:
        return _inject_from_fields(vcpu)
    if now.activity in (SHUTDOWN, WAIT_FOR_SIPI) or not now.pending_debug & PENDING:
        now.pending_debug = 0
    return True


def _inject_from_fields(vcpu: Vcpu) -> bool:
    """SDM "Event Injection". Any VM exit clears the valid bit, and software sees the field after one only."""
    read = vcpu.vmcs.read
    raw = read(VmcsField.VM_ENTRY_INTERRUPTION_INFO)
    kind = InterruptionInfo(raw).type
    vcpu.event_waits = False
    vcpu.vmcs.store(VmcsField.VM_ENTRY_INTERRUPTION_INFO, raw & ~_VALID)
    if kind in _NOT_DELIVERED:
        vcpu.mtf_pending = kind == InterruptionType.OTHER_EVENT
        return True
    return vcpu.inject(event_of(raw, read(VmcsField.VM_ENTRY_EXCEPTION_ERROR_CODE),
                                read(VmcsField.VM_ENTRY_INSTRUCTION_LENGTH)))


def _returning(vcpu: Vcpu) -> bool:
    """An IRET has unblocked NMIs and is not done yet: this is no boundary."""
    state = vcpu.state
    if vcpu.non_register.returning == (state.rip, state.rsp):
        return True
    vcpu.non_register.returning = None
    return False


def _piece(vcpu: Vcpu, until: int) -> bool:
    """Run the guest up to the next moment at which something may be due; False when the run ends."""
    if vcpu.non_register.activity != ACTIVE:
        return _sleep(vcpu, until)
    debugged = vcpu.state.dr7 & ENABLES
    stepped = vcpu.controls.monitor_trap_flag or (debugged and watches_data(vcpu.state))
    vcpu.engine.debug_addresses.use(vcpu.state, _addresses(vcpu.state) if debugged and not stepped else NOWHERE)
    if stepped:
        return _one_instruction(vcpu)
    if vcpu.state.interrupt_shadow or vcpu.non_register.returning:
        return _one_block(vcpu)
    return _run_to(vcpu, min(until, vcpu.timer.deadline))


def _addresses(state: ProcessorState) -> frozenset[int]:
    """Where to stop: behind MOV SS not at the instruction that comes next."""
    found = execution_addresses(state)
    return found - {state.linear_rip} if state.interrupt_shadow else found


def _run_to(vcpu: Vcpu, deadline: int) -> bool:
    engine, counter = vcpu.engine, vcpu.engine.counter
    if engine.run(vcpu.state, deadline, _interrupts_wait(vcpu)):
        return _goes_on(vcpu)
    vcpu.non_register.instruction_done()
    if engine.debug_addresses.met is not None:
        return True
    opened = counter.window and vcpu.state.interrupts_enabled
    if counter.deadline and not opened:
        counter.done = max(counter.done, counter.deadline)      # the block that would pass it waits
    return True


def _one_block(vcpu: Vcpu) -> bool:
    """The instruction in the shadow of STI or MOV SS, and an IRET, are blocks of their own."""
    vcpu.engine.pass_one_block()
    trapped = vcpu.engine.run(vcpu.state, vcpu.clock.tsc)
    vcpu.engine.counter.skip = 0
    if trapped:
        return _goes_on(vcpu)
    vcpu.non_register.instruction_done()
    return True


def _one_instruction(vcpu: Vcpu) -> bool:
    """Run one instruction, or one iteration of a string instruction, and let the monitor trap, and the #DB of a data
    breakpoint, come behind it."""
    state, now, clock = vcpu.state, vcpu.non_register, vcpu.clock
    rip, rcx, pending, began = state.rip, state.rcx, now.pending_debug, clock.tsc
    met = data_bits(vcpu) if state.dr7 & ENABLES else 0
    raised = vcpu.raised
    if vcpu.engine.run(state, _FOR_EVER, instructions=1):
        if not _goes_on(vcpu):
            return False
        done = (state.rip != rip or state.rcx != rcx            # an iteration of REP, done here
                or now.pending_debug != pending or now.activity != ACTIVE)
    else:
        clock.counter.done = began + _length(state.rip - rip)    # the engine has counted the block it is part of
        done = not _is_finished_repetition(vcpu)
    if done and not vcpu.outside:
        now.instruction_done()
        if met and vcpu.raised is raised:
            now.pending_debug |= met | MET
        vcpu.mtf_pending = vcpu.mtf_pending or vcpu.controls.monitor_trap_flag
    return True


def _length(moved: int) -> int:
    return moved if 0 < moved <= MAX_INSTRUCTION_LENGTH else 2


def _is_finished_repetition(vcpu: Vcpu) -> bool:
    """The engine needs one look more to see that the count of REP is 0; to the processor that is no iteration."""
    state = vcpu.state
    try:
        decoded = decode_at(state, vcpu.memory)
    except (Undecodable, GuestFault, NestedFault):
        return False
    return bool(decoded.repeat and decoded.memory is not None and not elements_left(state, decoded.memory))


def _goes_on(vcpu: Vcpu) -> bool:
    """A trap ended the piece: True when the loop is to look and go on."""
    goes_on, vcpu.interrupted = vcpu.interrupted, False
    return goes_on


def _interrupts_wait(vcpu: Vcpu) -> bool:
    """Something waits for RFLAGS.IF."""
    return vcpu.flag_matters or (not vcpu.controls.interrupts_exit and vcpu.interrupt_waits())


def _sleep(vcpu: Vcpu, until: int) -> bool:
    """Nothing is due, and no instruction runs: time jumps to the next moment at which that may change."""
    timer = vcpu.clock.next_deadline()
    wake = until if timer is None else min(until, timer)
    if vcpu.non_register.activity != WAIT_FOR_SIPI:
        wake = min(wake, vcpu.timer.deadline)
    vcpu.clock.counter.done = max(vcpu.clock.tsc, wake)
    return timer is None or timer > vcpu.clock.tsc

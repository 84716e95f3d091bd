"""A logical processor in VMX non-root operation: runs a guest until something exits, and goes on as told.

The exit handler is called from inside the engine's hook, so the sentence "enter, exit, handle, enter" costs no
leaving of the engine; `docs/decisions/0001-the-run-loop-lives-in-the-hook.md` says why. Whatever is not a VM exit by
the VMCS's controls is completed here as the processor would: faults go through the guest's IDT, clocks are read.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.machine.clock import EXIT_TICKS, VirtualClock
from hv.machine.engine import Engine
from hv.machine.faults import GuestFault, NestedFault, TripleFault
from hv.machine.idt import Event, TaskGate, deliver_combined, exception
from hv.machine.state import ProcessorState
from hv.machine.traps import Trap
from hv.spec.exits import ENTRY_FAILURES, ExitReason
from hv.spec.vmcs import PinControls, PrimaryControls, VmcsField
from hv.vmx.entry import broken_rules, info_of
from hv.vmx.exit import VmExit
from hv.vmx.intercepts import BY_TRAP
from hv.vmx.intercepts.controls import InstructionControls
from hv.vmx.intercepts.events import external_interrupt, single_step, task_gate
from hv.vmx.intercepts.memory import nested_fault
from hv.vmx.remembered import RememberingMemory
from hv.vmx.second_level import SecondLevel
from hv.vmx.vmcs import Vmcs

ExitHandler = Callable[[VmExit], bool]


class Vcpu:
    """One virtual processor as the processor sees it.

    *on_exit* gets each VM exit and answers whether to enter again. *external_interrupt* says whether a physical
    interrupt waits (it exits when the controls want that); *exits* counts by reason.
    """

    def __init__(self, engine: Engine, clock: VirtualClock, second_level: SecondLevel,
                 vmcs: Vmcs | None = None) -> None:
        self.engine, self.clock, self.second_level = engine, clock, second_level
        self.state: ProcessorState = engine.new_state()
        self.memory = RememberingMemory(self.state, second_level)
        self.vmcs = vmcs or Vmcs()
        self.on_exit: ExitHandler = lambda exit: False
        self.external_interrupt: Callable[[], int | None] = lambda: None
        self.exits = [0] * 128
        self._work = engine.counter.words       # word 0 is the clock
        self.state_written = True               # by software: the next entry checks it
        self.broken_rules: list[str] = []       # what the last failed entry found
        self.window_wanted = False
        self.step_pending = False               # an instruction that was done in software has a #DB coming
        self._interrupted = False
        self.attach(self.vmcs)

    def attach(self, vmcs: Vmcs) -> None:
        """Work with *vmcs* from now on: its controls are obeyed, its guest-state fields are the registers."""
        self.vmcs = vmcs
        vmcs.attach(self.state, self._read_controls, self._guest_state_changed)
        self.state_written = True
        self._read_controls()

    def _guest_state_changed(self) -> None:
        self.state_written = True

    # --- controls --------------------------------------------------------------------------------------

    def _read_controls(self) -> None:
        read = self.vmcs.read
        primary = read(VmcsField.PRIMARY_PROC_CONTROLS)
        self.primary = primary
        self.controls = InstructionControls(read)
        self.state.watch(self.controls.watched)
        self.exception_bitmap = read(VmcsField.EXCEPTION_BITMAP)
        self.pf_mask = read(VmcsField.PAGE_FAULT_ERROR_CODE_MASK)
        self.pf_match = read(VmcsField.PAGE_FAULT_ERROR_CODE_MATCH)
        self.msr_bitmap = read(VmcsField.MSR_BITMAP) if primary & PrimaryControls.USE_MSR_BITMAPS else None
        self.io_bitmaps = ((read(VmcsField.IO_BITMAP_A), read(VmcsField.IO_BITMAP_B))
                           if primary & PrimaryControls.USE_IO_BITMAPS else None)
        self.tsc_offset = read(VmcsField.TSC_OFFSET) if primary & PrimaryControls.USE_TSC_OFFSETTING else 0
        self.interrupts_exit = bool(read(VmcsField.PIN_BASED_CONTROLS) & PinControls.EXTERNAL_INTERRUPT_EXITING)

    @property
    def tsc(self) -> int:
        """The guest's time-stamp counter."""
        return self.clock.tsc + self.tsc_offset & (1 << 64) - 1

    def set_tsc(self, value: int) -> None:
        """Let the guest's counter be *value* now, by TSC offsetting; SDM "Time-Stamp Counter Offset and Multiplier"."""
        self.vmcs.write(VmcsField.TSC_OFFSET, value - self.clock.tsc)
        self.vmcs.write(VmcsField.PRIMARY_PROC_CONTROLS, self.primary | PrimaryControls.USE_TSC_OFFSETTING)

    def want_window(self, wanted: bool) -> None:
        """Set or clear interrupt-window exiting, at once, also inside an exit; SDM "Interrupt-Window Exiting"."""
        if wanted is not self.window_wanted:
            self.window_wanted = wanted
            if self.engine.current is self.state:
                self.engine.watch_interrupt_flag(wanted)

    # --- the loop --------------------------------------------------------------------------------------

    def run(self, until: int) -> None:
        """Run the guest until the clock reaches *until*, a timer is due, or the exit handler says stop."""
        engine, clock = self.engine, self.clock
        engine.on_trap = self._on_trap
        while not self.state_written or self._check_entry():
            vector = self.external_interrupt() if self.interrupts_exit else None
            if vector is not None:
                if not self.exit(external_interrupt(vector)):
                    return
            elif clock.tsc >= until:
                return
            elif engine.run(self.state, until, self.window_wanted):
                if not self._interrupted:
                    return
                self._interrupted = False
            elif engine.counter.deadline and not self._window_is_open():
                clock.counter.done = max(clock.tsc, engine.counter.deadline)     # the block that would pass it waits
                return
            elif engine.counter.deadline and not self._pass_window():
                return

    def _window_is_open(self) -> bool:
        return self.window_wanted and self.state.interrupts_enabled

    def step(self) -> bool:
        """Run one instruction; True when an exit handler said stop. An exit counts as its instruction."""
        self.engine.on_trap = self._on_trap
        if self.state_written and not self._check_entry():
            return True
        return self.engine.run(self.state, 1 << 62, False, instructions=1)

    def _pass_window(self) -> bool:
        """Interrupts are enabled and a window was asked for: exit, or let the shadow of STI or MOV SS pass first."""
        if self.state.interrupt_shadow:
            self.engine.pass_one_block()
            return True
        return self.exit(VmExit(ExitReason.INTERRUPT_WINDOW))

    def _check_entry(self) -> bool:
        self.state_written = False
        self.broken_rules = broken_rules(self.state)
        self.state.ignore_code_base()
        if self.broken_rules:
            return self.exit(VmExit(ExitReason.ENTRY_FAILURE_GUEST_STATE))
        self.vmcs.entered()
        return True

    def exit(self, exit: VmExit) -> bool:
        """Record a VM exit and ask the handler; True to enter again."""
        if exit.reason in ENTRY_FAILURES:
            self.vmcs.record_entry_failure(exit)
        else:
            self.vmcs.last_exit = exit
        self.exits[exit.reason] += 1
        self._work[0] += EXIT_TICKS
        return self.on_exit(exit)

    def _on_trap(self, trap: Trap, detail: int) -> bool:
        try:
            exit = BY_TRAP[trap](self, detail)
        except GuestFault as fault:
            return self.inject(exception(fault)) and self._time_is_left()
        except NestedFault as fault:
            exit = nested_fault(self, fault)
        if exit is not None:
            self.vmcs.last_exit = exit          # `exit`, without its call: this is the way of every exit
            self.exits[exit.reason] += 1
            self._work[0] += EXIT_TICKS
            return self.on_exit(exit)
        if self.step_pending:
            self.step_pending = False
            return self.single_step() and self._time_is_left()
        return self._time_is_left()

    def single_step(self) -> bool:
        """An instruction that software completed was single-stepped: #DB; False when an exit said stop."""
        try:
            return self.exit(single_step(self))
        except GuestFault as fault:
            return self.inject(exception(fault))

    def _time_is_left(self) -> bool:
        """A guest whose every instruction faults runs no block of code, so nobody else would stop it."""
        deadline = int(self.engine.counter.deadline)
        self._interrupted = not deadline        # the processor's APIC has something: look, and go on
        return self.clock.tsc < deadline

    # --- events ----------------------------------------------------------------------------------------

    def inject(self, event: Event) -> bool:
        """Deliver *event* and do what the handler says if that exits; False when it said stop."""
        exit = self.deliver(event)
        return exit is None or self.exit(exit)

    def deliver(self, event: Event) -> VmExit | None:
        """Deliver *event* through the guest's IDT now, with all that can come of it; the exit, if that is one.

        It costs as much time as an exit: a guest whose handler faults again for ever must come to its end.
        """
        self._work[0] += EXIT_TICKS
        self.engine.clear_in_flight(self.state)
        try:
            deliver_combined(self.state, self.memory, event)
            self.state.ignore_code_base()
        except TripleFault:
            return VmExit(ExitReason.TRIPLE_FAULT)
        except NestedFault as fault:
            exit = nested_fault(self, fault)
            met = fault.delivering or event
            exit.idt_vectoring_info, exit.idt_vectoring_error_code = info_of(met), met.error_code or 0
            exit.instruction_length = met.instruction_length
            return exit
        except TaskGate as gate:
            return task_gate(gate.selector, gate.event)
        return None

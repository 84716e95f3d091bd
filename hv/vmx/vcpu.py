"""A logical processor in VMX non-root operation: runs a guest until something exits, and goes on as told.

The exit handler is called from inside the engine's hook, so the sentence "enter, exit, handle, enter" costs no
leaving of the engine; `docs/decisions/0001-the-run-loop-lives-in-the-hook.md` says why. Whatever is not a VM exit by
the VMCS's controls is completed here as the processor would: faults go through the guest's IDT, clocks are read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hv.machine.clock import EXIT_TICKS, VirtualClock
from hv.machine.engine import Engine
from hv.machine.faults import GuestFault, NestedFault, TripleFault
from hv.machine.idt import Event, EventKind, Intercepted, TaskGate, deliver_combined, exception
from hv.machine.state import ProcessorState
from hv.machine.traps import Trap
from hv.spec.exits import ENTRY_FAILURES, ExitReason, InterruptionType
from hv.spec.vmcs import PrimaryControls, VmcsField
from hv.spec.x86 import PUSHES_RF, Vector
from hv.vmx.apic.controls import ApicControls
from hv.vmx.capabilities import PROCESSOR
from hv.vmx.checks import Entry, EntryResult
from hv.vmx.checks.incremental import EntryChecks
from hv.vmx.controls import Controls
from hv.vmx.events import watchful
from hv.vmx.events.injection import event_of, info_of
from hv.vmx.events.non_register import ACTIVE, MOV_SS, PENDING, SHUTDOWN, SINGLE_STEP, WAIT_FOR_SIPI, NonRegisterState
from hv.vmx.events.preemption_timer import PreemptionTimer
from hv.vmx.exit import VmExit
from hv.vmx.intercepts import BY_TRAP
from hv.vmx.intercepts.events import bitmap_exits, debug_trap, exception_exit, external_interrupt, raised, task_gate
from hv.vmx.intercepts.memory import nested_fault, only_walks, refused
from hv.vmx.intercepts.waiting import Waiting
from hv.vmx.root_operation.operation import VmxOperation
from hv.vmx.translation.controls import read_translation_controls
from hv.vmx.translation.remembered import RememberingMemory
from hv.vmx.translation.second_level import SecondLevel
from hv.vmx.vmcs import Vmcs

ExitHandler = Callable[[VmExit], bool]

# Plain integers: naming a member of an enumeration costs a call.
_PRIMARY, _TIMER = VmcsField.PRIMARY_PROC_CONTROLS, VmcsField.VMX_PREEMPTION_TIMER_VALUE
_EVENT, _EVENT_ERROR, _EVENT_LENGTH = (VmcsField.VM_ENTRY_INTERRUPTION_INFO, VmcsField.VM_ENTRY_EXCEPTION_ERROR_CODE,
                                       VmcsField.VM_ENTRY_INSTRUCTION_LENGTH)
_NMI_WINDOW = PrimaryControls.NMI_WINDOW_EXITING.value
_VALID, _OTHER_EVENT = 1 << 31, InterruptionType.OTHER_EVENT.value
_NOT_DELIVERED = (1, _OTHER_EVENT)              # 1 is reserved: VM entry refuses it
_NMI, _EXTERNAL = EventKind.NMI, EventKind.EXTERNAL
_WATCHED = 3                    # word of the work counter: the engine watches RFLAGS.IF
_NMI_UNBLOCKING = 1 << 12
_QUALIFIED = frozenset({ExitReason.EPT_VIOLATION, ExitReason.PAGE_MODIFICATION_LOG_FULL})


class Vcpu:
    """One virtual processor as the processor sees it.

    *on_exit* gets each VM exit and answers whether to enter again. *interrupt_waits* says whether a physical interrupt
    waits, *external_interrupt* acknowledges it and gives its vector. *exits* counts by reason.
    """

    def __init__(self, engine: Engine, clock: VirtualClock, second_level: SecondLevel,
                 vmcs: Vmcs | None = None) -> None:
        self.engine, self.clock, self.second_level = engine, clock, second_level
        self.state: ProcessorState = engine.new_state()
        self.memory = RememberingMemory(self.state, second_level)
        self.vmcs = vmcs or Vmcs()
        self.on_exit: ExitHandler = lambda exit: False
        self.external_interrupt: Callable[[], int | None] = lambda: None
        self.interrupt_waits: Callable[[], bool] = lambda: False
        self.on_virtual_interrupt: Callable[[int], None] = lambda vector: None      # it is about to be delivered
        self.exits = [0] * 128
        self._work = engine.counter.words       # word 0 is the clock
        self.processor = PROCESSOR
        self.state_written = True               # by software: the next entry checks it
        self.checks, self.entry_result = EntryChecks(), EntryResult()
        self.on_vmfail: Callable[[], None] = lambda: None       # `entry_result` says why
        self.interrupted = False                # a trap ended the engine's run only so that the loop looks
        self.waiting = Waiting()
        self.vmx: VmxOperation | None = None    # the processor's, which has the VMCSs that shadowing reads
        self.violations_convert = False         # EPT violations may be #VE
        self._only_walks = partial(only_walks, self)
        self.cr8 = 0                            # without a TPR shadow
        self.apic = ApicControls(second_level.memory)
        self.apic_acted = False                 # an instruction was virtualized on it
        self.controls = Controls(self.vmcs.read)
        self._prepare_events()
        self.attach(self.vmcs)

    def _prepare_events(self) -> None:
        """What `boundary.py` asks for."""
        self.non_register = NonRegisterState(self.state, self.memory)
        self.timer = PreemptionTimer(self.clock)
        self.watchful = False                   # the run is that of `watchful.py`
        self.outside = True                     # VMX root operation: the next thing is a VM entry
        self.look_first = False                 # before anything the guest does
        self.mtf_pending = self.nmi_pending = self.init_pending = False
        self.sipi_vector: int | None = None
        self.trap_like: VmExit | None = None    # the exit behind the instruction that has just been done

    def attach(self, vmcs: Vmcs) -> None:
        """Work with *vmcs* from now on: its controls are obeyed, its guest-state fields are the registers."""
        self.vmcs = vmcs
        self.checks, self.entry_result = EntryChecks(), EntryResult()
        vmcs.attach(self.state, self._read_controls, self._guest_state_changed)
        vmcs.provide(VmcsField.GUEST_INTERRUPTIBILITY_STATE, lambda: self.non_register.interruptibility,
                     self._write_interruptibility)
        vmcs.provide(VmcsField.GUEST_ACTIVITY_STATE, lambda: self.non_register.activity, self._write_activity)
        vmcs.provide(VmcsField.GUEST_INTERRUPT_STATUS, self.apic.interrupt_status, self.apic.set_interrupt_status)
        vmcs.provide(VmcsField.GUEST_PENDING_DEBUG_EXCEPTIONS, lambda: self.non_register.pending_debug,
                     self._write_pending_debug)
        self.state_written = True
        self._read_controls()

    def checked(self) -> None:
        """The VM entry that comes was checked by whoever loaded the guest: nothing is due."""
        self.state_written = False
        self.vmcs.written.clear()

    def _guest_state_changed(self) -> None:
        self.state_written = True

    # --- controls --------------------------------------------------------------------------------------

    def _read_controls(self) -> None:
        read, had_window = self.vmcs.read, self.controls.interrupt_window
        self.controls = Controls(read)
        self.state.watch(self.controls.watched)
        read_translation_controls(self)
        self._trap_handler = self._on_trap if self.second_level.vpid else self._on_trap_without_vpid
        if not self.watchful and self.engine.current is self.state:
            self.engine.on_trap = self._trap_handler
        self.apic.follow(read)
        self.second_level.use_access_page(self.apic.access_page)
        if self.controls.interrupt_window is not had_window:
            self._window_changed()
        self._read_event_controls()

    def _read_event_controls(self) -> None:
        controls = self.controls
        self.event_waits = bool(self.vmcs.read(_EVENT) & _VALID)
        self.block_nmis(self.non_register.nmi_blocked)
        self.outside = True
        if self.event_waits or controls.timer_runs or controls.monitor_trap_flag or controls.nmi_window:
            self.look()

    def _write_interruptibility(self, value: int) -> None:
        self.non_register.interruptibility = value
        self.block_nmis(self.non_register.nmi_blocked)
        self.outside = True
        self.look()

    def _write_activity(self, value: int) -> None:
        self.non_register.activity = value
        self.outside = True
        self.look()

    def _write_pending_debug(self, value: int) -> None:
        self.non_register.pending_debug = value
        self.outside = True
        self.look()

    @property
    def tsc(self) -> int:
        """The guest's time-stamp counter; SDM "Time-Stamp Counter Offset and Multiplier"."""
        return self.controls.tsc(self.clock.tsc)

    def set_tsc(self, value: int) -> None:
        """Let the guest's counter be *value* now, by TSC offsetting; SDM "Time-Stamp Counter Offset and Multiplier"."""
        self.vmcs.write(VmcsField.TSC_OFFSET, self.controls.tsc_offset_for(self.clock.tsc, value))
        self.vmcs.write(_PRIMARY, self.controls.primary | PrimaryControls.USE_TSC_OFFSETTING)

    def want_window(self, wanted: bool) -> None:
        """Set or clear interrupt-window exiting, at once, also inside an exit; SDM "Interrupt-Window Exiting"."""
        controls = self.controls
        if wanted is not controls.interrupt_window:
            controls.set_interrupt_window(wanted)
            self.vmcs.store(_PRIMARY, controls.primary)
            self._window_changed()

    def _window_changed(self) -> None:
        self.apic.hold_back(self.controls.interrupt_window)
        self._watch()

    def _watch(self) -> None:
        """What waits for RFLAGS.IF has changed."""
        if self.engine.current is self.state:
            self.engine.watch_interrupt_flag(self.controls.interrupt_window or self.apic.recognizes)

    def want_nmi_window(self, wanted: bool) -> None:
        """Set or clear NMI-window exiting; SDM "NMI-Window Exiting"."""
        if wanted is not self.controls.nmi_window:
            self.vmcs.write(_PRIMARY, self.controls.primary ^ _NMI_WINDOW)

    # --- what the hypervisor's software asks ----------------------------------------------------------------

    @property
    def takes_nmi(self) -> bool:
        """An NMI may be injected: none is being handled, MOV SS does not block, and no #DB pends that would be lost."""
        now = self.non_register
        return not now.nmi_blocked and not now.pending_debug and not now.shadow & MOV_SS

    @property
    def debug_pends(self) -> bool:
        """A #DB comes next, unless an event is injected."""
        return bool(self.non_register.pending_debug)

    def owe_single_step(self) -> None:
        """Software did an instruction of a guest that is single-stepped: its #DB pends."""
        self._write_pending_debug(self.non_register.pending_debug | SINGLE_STEP)

    def reset_events(self) -> None:
        """INIT: nothing is blocked, and nothing pends."""
        self.non_register.reset()
        self.block_nmis(False)
        self.want_nmi_window(False)
        self.mtf_pending = False

    # --- signals ---------------------------------------------------------------------------------------

    def signal_nmi(self) -> None:
        """A physical NMI reaches the processor."""
        self.nmi_pending = True
        self.look()

    def signal_init(self) -> None:
        """An INIT signal reaches the processor."""
        self.init_pending = True
        self.look()

    def signal_sipi(self, vector: int) -> None:
        """A start-up IPI reaches the processor; it is dropped unless the guest waits for one."""
        if self.non_register.activity == WAIT_FOR_SIPI:
            self.sipi_vector = vector & 0xFF
            self.look()

    def look(self) -> None:
        """Something may be due: a guest that runs is stopped before its next instruction, and `boundary.py` asked."""
        self.watchful = self.look_first = True
        engine = self.engine
        if engine.current is self.state:
            engine.on_trap = self.on_trap_watchfully
            engine.counter.limit = engine.counter.deadline = engine.counter.skip = 0

    def unblock_nmis(self) -> bool:
        """An IRET is about to run; True when it unblocks NMIs, and is to be run again to do the rest of its work."""
        if not self.non_register.nmi_blocked:
            return False
        self.block_nmis(False)
        self.non_register.returning = self.state.rip, self.state.rsp
        self.look()
        return True

    def block_nmis(self, blocked: bool) -> None:
        """NMIs are blocked or not; while they are, and IRET unblocks them, it is watched for."""
        self.non_register.nmi_blocked = blocked
        self.state.watch_iret(blocked and (self.controls.virtual_nmis or not self.controls.nmis_exit))

    # --- the loop --------------------------------------------------------------------------------------

    def run(self, until: int) -> None:
        """Run the guest until the clock reaches *until*, a timer is due, or the exit handler says stop."""
        self._enter()
        while watchful.run(self, until) if self.watchful else self._run_freely(until):
            pass

    def _enter(self) -> None:
        """The engine works for this vcpu now."""
        self.second_level.enter()
        self.engine.only_walks = self._only_walks

    def _run_freely(self, until: int) -> bool:
        """Run a guest of which nothing rare is asked; True when something is now."""
        engine, clock = self.engine, self.clock
        engine.on_trap = self._trap_handler
        if (self._entry_is_due() and not self._check_entry()) or not self.enter_apic():
            return False
        while not self._entry_is_due() or self._check_entry():
            if self.interrupt_is_held():
                self.watchful = True
            if self.watchful:
                return True
            vector = self.external_interrupt() if self.controls.interrupts_taken else None
            if vector is not None:
                if not self.take_physical(vector):
                    return False
            elif clock.tsc >= until:
                return False
            elif engine.run(self.state, until, self.controls.interrupt_window or self.apic.recognizes):
                if not self.interrupted:
                    return False
                self.interrupted = False
            elif engine.counter.deadline and not self._window_is_open():
                clock.counter.done = max(clock.tsc, engine.counter.deadline)     # the block that would pass it waits
                return False
            elif engine.counter.deadline and not self._pass_window():
                return False
        return False

    def interrupt_is_held(self) -> bool:
        """A physical interrupt waits, and is not simply taken: by the controls, or in the shadow of STI or MOV SS."""
        return (not self.controls.interrupts_taken or self.state.interrupt_shadow) and self.interrupt_waits()

    def _window_is_open(self) -> bool:
        return (self.controls.interrupt_window or self.apic.recognizes) and self.state.interrupts_enabled

    def step(self) -> bool:
        """Run one instruction; True when an exit handler said stop. An exit counts as its instruction."""
        self._enter()
        if self.watchful:
            return watchful.step(self)
        self.engine.on_trap = self._trap_handler
        if (self._entry_is_due() and not self._check_entry()) or not self.enter_apic():
            return True
        return self.engine.run(self.state, 1 << 62, False, instructions=1)

    def _pass_window(self) -> bool:
        """Interrupts are enabled and a window was asked for: exit, or let the shadow of STI or MOV SS pass first."""
        if self.state.interrupt_shadow:
            self.engine.pass_one_block()
            return True
        if self.apic.recognizes:
            return self._deliver_virtual()
        return self.exit(VmExit(ExitReason.INTERRUPT_WINDOW))

    # --- VM entry and VM exit --------------------------------------------------------------------------

    def enter(self) -> bool:
        """VM entry of a guest that is watched; False when something exited and the handler said stop."""
        if self._entry_is_due() and not self._check_entry():
            return False
        self.outside = False
        self.non_register.entered()
        if self.controls.timer_runs:
            self.timer.load(self.vmcs.read(_TIMER))
        if self.apic.apic is not None:
            self.trap_like = self.apic.apic.enter()
        if self.event_waits:
            return self._inject_from_fields()
        now = self.non_register
        if now.activity in (SHUTDOWN, WAIT_FOR_SIPI) or not now.pending_debug & PENDING:
            now.pending_debug = 0
        return True

    def _inject_from_fields(self) -> bool:
        """SDM "Event Injection". Any VM exit clears the valid bit, and software sees the field after one only."""
        read, store = self.vmcs.read, self.vmcs.store
        info = read(_EVENT)
        self.event_waits = False
        store(_EVENT, info & ~_VALID)
        if info >> 8 & 7 in _NOT_DELIVERED:
            self.mtf_pending = info >> 8 & 7 == _OTHER_EVENT
            return True
        return self.inject(event_of(info, read(_EVENT_ERROR), read(_EVENT_LENGTH)))

    def _entry_is_due(self) -> bool:
        """VM entry may have something to check: software wrote, or the last one failed."""
        return self._software_wrote() or not self.entry_result.entered

    def _software_wrote(self) -> bool:
        return self.state_written or bool(self.vmcs.written)

    def entry(self) -> Entry:
        """The VM entry that comes next, as its checks see it. The host of this machine is in IA-32e mode."""
        return Entry(self.vmcs.snapshot(), self.processor, self.second_level.memory, current_vmcs=self.vmcs.address)

    def _check_entry(self) -> bool:
        """Check what can have changed; False when VM entry failed, and nobody mended that."""
        while True:
            rules = self.checks.due(self.vmcs.written, self.state_written)
            self.vmcs.written.clear()
            self.state_written = False
            if rules:
                self.entry_result = self.checks.check(self.entry(), rules)
            self.state.ignore_code_base()
            if self.entry_result.entered:
                self.vmcs.entered()
                return True
            if not self._entry_failed(self.entry_result) or not self._software_wrote():
                return False

    def _entry_failed(self, result: EntryResult) -> bool:
        """VMfail, or a VM exit; False when VMLAUNCH is not to be tried again. SDM "VM-Entry Failures"."""
        if result.error is None:
            return self.exit(VmExit(ExitReason.ENTRY_FAILURE_GUEST_STATE, int(result.qualification)))
        self.vmcs.store(VmcsField.VM_INSTRUCTION_ERROR, int(result.error))
        self.on_vmfail()
        return False

    def exit(self, exit: VmExit) -> bool:
        """Record a VM exit and ask the handler; True to enter again."""
        if self.watchful:
            self._leave_guest()
        if exit.reason in ENTRY_FAILURES:
            self.vmcs.record_entry_failure(exit)
        else:
            self.vmcs.last_exit = exit
        self.exits[exit.reason] += 1
        self._work[0] += EXIT_TICKS
        if not self.second_level.vpid:
            self.engine.flush_tlb()
        return self.on_exit(exit)

    def _leave_guest(self) -> None:
        if self.controls.timer_runs and not self.outside:
            if self.controls.timer_saved:
                self.vmcs.store(_TIMER, self.timer.value)
            self.timer.stop()
        self.outside, self.mtf_pending, self.non_register.returning = True, False, None

    # --- traps -----------------------------------------------------------------------------------------

    def _on_trap_without_vpid(self, trap: Trap, detail: int) -> bool:
        """VM exits and VM entries end all linear and combined mappings of VPID 0; SDM "Operations that Invalidate
        Cached Mappings"."""
        again = self._on_trap(trap, detail)
        self.engine.flush_tlb()
        return again

    def _on_trap(self, trap: Trap, detail: int) -> bool:
        try:
            exit = BY_TRAP[trap](self, detail)
        except GuestFault as fault:
            return self.fault(fault) and self._time_is_left()
        except NestedFault as fault:
            exit = refused(self, fault)
            if exit is None:
                return self.fault(GuestFault(Vector.VE)) and self._time_is_left()
        if exit is not None:
            self.vmcs.last_exit = exit          # `exit`, without its call: this is the way of every exit
            self.exits[exit.reason] += 1
            self._work[0] += EXIT_TICKS
            return self.on_exit(exit)
        if self.apic_acted and not self._follow_apic():
            return False
        if self.non_register.pending_debug & PENDING:
            return debug_trap(self) and self._time_is_left()
        return self._time_is_left()

    def on_trap_watchfully(self, trap: Trap, detail: int) -> bool:
        """The same for a guest that is watched: it is always left, and what pends waits for its turn."""
        self.interrupted = self.outside or self.look_first or self._handle_trap(trap, detail)
        return False

    def _handle_trap(self, trap: Trap, detail: int) -> bool:
        try:
            exit = BY_TRAP[trap](self, detail)
        except GuestFault as fault:
            return self.fault(fault)
        except NestedFault as fault:
            exit = refused(self, fault)
            if exit is None:
                return self.fault(GuestFault(Vector.VE))
        if exit is None:
            return True
        if self._iret_faulted and exit.reason in _QUALIFIED and not exit.idt_vectoring_info:
            exit.qualification |= _NMI_UNBLOCKING
        return self.exit(exit)

    @property
    def _iret_faulted(self) -> bool:
        """The instruction at RIP is an IRET that has just unblocked NMIs."""
        return self.non_register.returning == (self.state.rip, self.state.rsp)

    def _time_is_left(self) -> bool:
        """A guest whose every instruction faults runs no block of code, so nobody else would stop it."""
        deadline = int(self.engine.counter.deadline)
        self.interrupted = not deadline         # the processor's APIC has something: look, and go on
        return self.clock.tsc < deadline

    # --- the virtual APIC ------------------------------------------------------------------------------

    def enter_apic(self) -> bool:
        """What VM entry does about the virtual APIC: software calls it when it changed the page or the guest interrupt
        status in an exit that it answers with True. False when an exit handler said stop."""
        apic = self.apic.apic
        if apic is not None:
            exit = apic.enter()
            if exit is not None and not self.exit(exit):
                return False
        return self._deliver_virtual()

    def _follow_apic(self) -> bool:
        """An instruction was virtualized on the APIC: its exit, or the interrupt that it let through."""
        self.apic_acted = False
        exit, self.trap_like = self.trap_like, None
        if exit is not None:
            if self.non_register.pending_debug:
                self.look()
            return self.exit(exit)
        return bool(self.non_register.pending_debug) or self._deliver_virtual()

    def _deliver_virtual(self) -> bool:
        """The virtual interrupt that is recognized is delivered, or waits for RFLAGS.IF."""
        apic, state = self.apic.apic, self.state
        if apic is not None and apic.recognized and state.interrupts_enabled and not state.interrupt_shadow \
                and not self.watchful and not self.non_register.pending_debug \
                and not self.take(Event(self.take_virtual_interrupt(), _EXTERNAL)):
            return False
        if bool(self._work[_WATCHED]) is not (self.controls.interrupt_window or self.apic.recognizes):
            self._watch()
        return True

    def virtual_interrupt_waits(self) -> bool:
        """One is recognized: it waits for RFLAGS.IF at most."""
        return self.apic.recognizes

    def take_virtual_interrupt(self) -> int:
        """The vector of the one that is recognized, which is in service now."""
        vector = self.apic.take()
        self.on_virtual_interrupt(vector)
        return vector

    def take_physical(self, vector: int) -> bool:
        """A physical interrupt was acknowledged: posted-interrupt processing, or an exit; False when that said stop."""
        if vector != self.apic.notification_vector:
            return self.exit(external_interrupt(vector))
        self.apic.process_posted()
        return self._deliver_virtual()

    # --- events ----------------------------------------------------------------------------------------

    def fault(self, fault: GuestFault) -> bool:
        """The guest's instruction met an exception: an exit by the exception bitmap, or the guest's own affair."""
        event = exception(fault)
        if event.error_code is not None and not self.state.protected:
            event = event._replace(error_code=None)
        if not bitmap_exits(self, event.vector, event.error_code or 0):
            raised(self, fault)
            return self.take(event)
        exit = exception_exit(event, fault.qualification)
        if event.vector in PUSHES_RF:
            self.state.set_resume_flag()
        if self._iret_faulted and event.vector != Vector.DB:
            exit.interruption_info |= _NMI_UNBLOCKING
        return self.exit(exit)

    def single_step(self) -> bool:
        """An instruction that software completed was single-stepped: #DB; False when an exit said stop."""
        self.non_register.pending_debug |= SINGLE_STEP
        return debug_trap(self)

    def inject(self, event: Event) -> bool:
        """VM entry with *event*: deliver it and do what the handler says if that exits; False when it said stop.

        The fields of the VMCS come here too. SDM "Event Injection".
        """
        now = self.non_register
        if now.pending_debug and not (event.by_program and now.shadow & MOV_SS):
            now.pending_debug = 0
        exit = self.deliver(event, True)
        return exit is None or self.exit(exit)

    def take(self, event: Event) -> bool:
        """Deliver what came to the guest by itself; False when that exited, and the handler said stop."""
        exit = self.deliver(event)
        return exit is None or self.exit(exit)

    def deliver(self, event: Event, injected: bool = False) -> VmExit | None:
        """Deliver *event* through the guest's IDT now, with all that can come of it; the exit, if that is one.

        It costs as much time as an exit: a guest whose handler faults again for ever must come to its end.
        """
        self._work[0] += EXIT_TICKS
        self.engine.clear_in_flight(self.state)
        self.non_register.activity = ACTIVE
        self.non_register.instruction_done()
        if event.kind is _NMI:
            self.block_nmis(True)
        try:
            deliver_combined(self.state, self.memory, event, self._intercepts, injected)
        except TripleFault:
            return VmExit(ExitReason.TRIPLE_FAULT)
        except NestedFault as fault:
            return self._during(fault.delivering or event, nested_fault(self, fault))
        except Intercepted as stop:
            exit = exception_exit(stop.event, stop.fault.qualification)
            return exit if stop.event.vector == Vector.DF else self._during(stop.delivering, exit)
        except TaskGate as gate:
            return task_gate(gate.selector, gate.event)
        self.state.ignore_code_base()
        self.mtf_pending = self.controls.monitor_trap_flag
        return None

    def _intercepts(self, event: Event) -> bool:
        return bitmap_exits(self, event.vector, event.error_code or 0)

    def _during(self, event: Event, exit: VmExit) -> VmExit:
        """*exit* came while *event* was being delivered."""
        exit.idt_vectoring_info, exit.idt_vectoring_error_code = info_of(event), event.error_code or 0
        exit.instruction_length = event.instruction_length
        return exit

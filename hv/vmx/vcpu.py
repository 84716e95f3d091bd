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
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.idt import Event, exception, pushes_rf
from hv.machine.state import ProcessorState
from hv.machine.traps import Trap
from hv.spec.exits import ENTRY_FAILURES, ExitReason
from hv.spec.vmcs import PrimaryControls, VmcsField
from hv.spec.x86 import MAX_INSTRUCTION_LENGTH, PAGE_SIZE, Vector
from hv.vmx.apic.controls import ApicControls
from hv.vmx.apic.interrupts import WATCHED, behind_instruction, deliver_virtual, enter_apic, take_physical
from hv.vmx.capabilities import PROCESSOR
from hv.vmx.checks import Entry, EntryResult
from hv.vmx.checks.incremental import EntryChecks
from hv.vmx.controls import Controls
from hv.vmx.events import watchful
from hv.vmx.events.debug_registers import ENABLES
from hv.vmx.events.delivery import Raised, deliver
from hv.vmx.events.exits import bitmap_exits, exception_exit
from hv.vmx.events.known_gates import KnownGates
from hv.vmx.events.non_register import MOV_SS, PENDING, SINGLE_STEP, WAIT_FOR_SIPI, NonRegisterState
from hv.vmx.events.preemption_timer import PreemptionTimer
from hv.vmx.exit import VmExit
from hv.vmx.intercepts import BY_TRAP
from hv.vmx.intercepts.events import debug_trap, raised
from hv.vmx.intercepts.known_accesses import KnownAccesses
from hv.vmx.intercepts.memory import only_walks, refused_access
from hv.vmx.intercepts.waiting import Waiting
from hv.vmx.root_operation.operation import VmxOperation
from hv.vmx.translation.controls import read_translation_controls
from hv.vmx.translation.remembered import RememberingMemory
from hv.vmx.translation.second_level import SecondLevel
from hv.vmx.vmcs import Vmcs

ExitHandler = Callable[[VmExit], bool]

# Plain integers: naming a member of an enumeration costs a call.
_PRIMARY, _TIMER = VmcsField.PRIMARY_PROC_CONTROLS, VmcsField.VMX_PREEMPTION_TIMER_VALUE
_EVENT, _VALID = VmcsField.VM_ENTRY_INTERRUPTION_INFO, 1 << 31
_NMI_WINDOW = PrimaryControls.NMI_WINDOW_EXITING.value
_NMI_UNBLOCKING = 1 << 12
_SPACE = -1 << 5                # bits of CR3 that say where the tables are; those of PAE paging are the smallest
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
        self.deliver: Callable[[Event], VmExit | None] = partial(deliver, self)
        self.external_interrupt: Callable[[], int | None] = lambda: None
        self.interrupt_waits: Callable[[], bool] = lambda: False
        self.on_virtual_interrupt: Callable[[int], None] = lambda vector: None      # it is about to be delivered
        self.exits = [0] * 128
        self.work = engine.counter.words        # word 0 is the clock
        self.processor = PROCESSOR
        self.state_written = True               # by software: the next entry checks it
        self.checks, self.entry_result = EntryChecks(), EntryResult()
        self.on_vmfail: Callable[[], None] = lambda: None       # `entry_result` says why
        self.raised: Raised | None = None       # the guest's last exception
        self.interrupted = False                # a trap ended the engine's run only so that the loop looks
        self.waiting = Waiting()
        self.tsc_reads = 0                      # how often the guest has read the time-stamp counter
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
        self.gates = KnownGates(self.state, self.memory)
        self.accesses = KnownAccesses(self)
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
        vmcs.provide(VmcsField.GUEST_PENDING_DEBUG_EXCEPTIONS, lambda: self.non_register.saved_debug,
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
        self.trap_handler = self._on_trap if self.second_level.vpid else self._on_trap_without_vpid
        if not self.watchful and self.engine.current is self.state:
            self.engine.on_trap = self.trap_handler
        self.apic.follow(read, self.controls)
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
        self.non_register.pending_debug = self.non_register.saved_debug     # a field of its own
        self.non_register.interruptibility = value
        self.block_nmis(self.non_register.nmi_blocked)
        self._look_from_outside()

    def _write_activity(self, value: int) -> None:
        self.non_register.activity = value
        self._look_from_outside()

    def _write_pending_debug(self, value: int) -> None:
        self.non_register.pending_debug = value
        self._look_from_outside()

    def _look_from_outside(self) -> None:
        """Software wrote what only a VM entry takes up."""
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
        self.watch_interrupt_flag()

    @property
    def flag_matters(self) -> bool:
        """Something waits for RFLAGS.IF: interrupt-window exiting, or a virtual interrupt."""
        virtual = self.apic.virtual
        return self.controls.interrupt_window or (virtual is not None and virtual.recognized)

    def watch_interrupt_flag(self) -> None:
        """What waits for RFLAGS.IF has changed."""
        if self.engine.current is self.state:
            self.engine.watch_interrupt_flag(self.flag_matters)

    def want_nmi_window(self, wanted: bool) -> None:
        """Set or clear NMI-window exiting; SDM "NMI-Window Exiting"."""
        if wanted is not self.controls.nmi_window:
            self.vmcs.write(_PRIMARY, self.controls.primary ^ _NMI_WINDOW)

    # --- what the hypervisor's software asks ----------------------------------------------------------------

    @property
    def takes_nmi(self) -> bool:
        """An NMI may be injected: none is being handled, nor is its IRET on its way, MOV SS does not block, and no #DB
        pends that would be lost."""
        now = self.non_register
        return not now.nmi_blocked and not now.pending_debug and not now.shadow & MOV_SS and not self._returns

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

    def run(self, until: int, apic_entered: bool = False) -> None:
        """Run the guest until the clock reaches *until*, a timer is due, or the exit handler says stop.

        *apic_entered*: `enter_apic` was done already.
        """
        self._enter()
        self.engine.counter.until = until       # whoever wants the run to end earlier says so there
        while watchful.run(self) if self.watchful else self._run_freely(apic_entered):
            apic_entered = False

    def _enter(self) -> None:
        """The engine works for this vcpu now."""
        second_level = self.second_level
        if second_level.cached.entered is not second_level:
            second_level.cached.enter(second_level)
        engine, self.interrupted = self.engine, False
        engine.only_walks, engine.fetch_code = self._only_walks, self._code_at_rip
        engine.known_access = self.accesses.again

    def _code_at_rip(self) -> bytes:
        """The bytes at RIP, up to 15 or the end of the page; none when they are refused."""
        linear = self.state.linear_rip
        try:
            return self.memory.read(linear, min(MAX_INSTRUCTION_LENGTH, PAGE_SIZE - linear % PAGE_SIZE), Access.EXECUTE)
        except (GuestFault, NestedFault):
            return b""

    def flush_translations(self, cr3: int | None) -> bool:
        """Forget linear translations of the address space *cr3*, or of all (None); True when the engine forgot all.

        What the engine has cached is that of the vcpu that ran last, and of those that translate alike.
        """
        now = self.engine.current
        if now is None or (now is not self.state and not now.translates_like(self.state)) \
                or (cr3 is not None and (now.cr3 ^ cr3) & _SPACE):
            return False
        self.engine.flush_tlb()
        return True

    def come_next(self) -> None:
        """Inside an exit of another vcpu of the engine: from here on it is this one's turn there."""
        engine, second_level = self.engine, self.second_level
        engine.adopt(self.state)
        if second_level.cached.entered is not second_level:
            second_level.cached.enter(second_level)
        engine.only_walks, engine.on_trap, self.interrupted = self._only_walks, self.trap_handler, False
        engine.fetch_code, engine.known_access = self._code_at_rip, self.accesses.again

    def take_over(self, until: int, apic_entered: bool = False) -> bool:
        """After `come_next`: VM entry, and the engine runs on with this one until *until*; False when that ended it.

        *apic_entered*: `enter_apic` was done since then.
        """
        if self.watchful or not self.may_enter() or not (apic_entered or enter_apic(self)):
            return False
        if (self.state.interrupt_shadow or not self.controls.interrupts_taken) and self.interrupt_waits():
            return False                # `interrupt_is_held`, without its call
        watched = bool(self.work[WATCHED])      # `enter_apic` has asked whether the flag matters
        if watched and self.state.interrupts_enabled and self.flag_matters:
            # Its last turn ended where the window opened; this one would end there too, and so for ever.
            in_shadow = self.state.interrupt_shadow
            if not self._pass_window():
                return False
            if not in_shadow:
                return self.take_over(until)
        self.engine.go_on(until, watched)
        return True

    def _run_freely(self, apic_entered: bool) -> bool:
        """Run a guest of which nothing rare is asked; True when something is now."""
        engine, counter, work = self.engine, self.engine.counter, self.work
        handed_over = engine.handed_over
        engine.on_trap = self.trap_handler
        if not (apic_entered or (self.may_enter() and enter_apic(self))):
            return False
        while self.may_enter():
            if self.watchful:
                return True
            vector = None
            if self.interrupt_waits():
                if self.interrupt_is_held():
                    self.watchful = True
                    return True
                vector = self.external_interrupt()
            if vector is not None:
                if not take_physical(self, vector):
                    return False
            elif work[0] >= counter.until:
                return False
            elif engine.run(self.state, counter.until, self.flag_matters):
                if not self.interrupted or engine.handed_over != handed_over:
                    return False
                self.interrupted = False
            elif engine.handed_over != handed_over:
                return False                # the turn of this one is over
            elif counter.deadline and not (work[WATCHED] and self.state.interrupts_enabled):
                work[0] = max(work[0], counter.deadline)    # the block that would pass it waits
                return False
            elif counter.deadline and not self._pass_window():
                return False
        return False

    def interrupt_is_held(self) -> bool:
        """A physical interrupt waits, and is not simply taken: by the controls, or in the shadow of STI or MOV SS."""
        return (not self.controls.interrupts_taken or self.state.interrupt_shadow) and self.interrupt_waits()

    def step(self) -> bool:
        """Run one instruction; True when an exit handler said stop. An exit counts as its instruction."""
        self._enter()
        if self.watchful:
            return watchful.step(self)
        self.engine.on_trap = self.trap_handler
        if not self.may_enter() or not enter_apic(self):
            return True
        return self.engine.run(self.state, 1 << 62, False, instructions=1)

    def _pass_window(self) -> bool:
        """Interrupts are enabled and a window was asked for: exit, or let the shadow of STI or MOV SS pass first."""
        if self.state.interrupt_shadow:
            self.engine.pass_one_block()
            return True
        if self.apic.recognizes:
            return deliver_virtual(self)
        return self.exit(VmExit(ExitReason.INTERRUPT_WINDOW))

    # --- VM entry and VM exit --------------------------------------------------------------------------

    def may_enter(self) -> bool:
        """The checks of VM entry hold, as far as they are due; False when VM entry failed, and nobody mended that."""
        if self.state_written or self.vmcs.written or self.entry_result.failure is not None:
            return self._check_entry()
        return True

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
            if self.state.dr7 & ENABLES:
                self.look()
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
        self.work[0] += EXIT_TICKS
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
            return self.fault(fault) and self.time_is_left()
        except NestedFault as fault:
            exit = refused_access(self, fault)
            if exit is None:
                return self.fault(GuestFault(Vector.VE)) and self.time_is_left()
        if exit is not None:
            self.vmcs.last_exit = exit          # `exit`, without its call: this is the way of every exit
            self.exits[exit.reason] += 1
            self.work[0] += EXIT_TICKS
            return self.on_exit(exit)
        if self.apic_acted and not behind_instruction(self):
            return False
        if self.non_register.pending_debug & PENDING:
            return debug_trap(self) and self.time_is_left()
        return self.time_is_left()

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
            exit = refused_access(self, fault)
            if exit is None:
                return self.fault(GuestFault(Vector.VE))
        if exit is None:
            return True
        if self._returns and exit.reason in _QUALIFIED and not exit.idt_vectoring_info:
            exit.qualification |= _NMI_UNBLOCKING
        return self.exit(exit)

    @property
    def _returns(self) -> bool:
        """The instruction at RIP is an IRET that has just unblocked NMIs, and is not done yet."""
        return self.non_register.returning == (self.state.rip, self.state.rsp)

    def time_is_left(self) -> bool:
        """The run may go on. Where every instruction faults, no block of code runs, so nobody else stops it."""
        deadline = int(self.engine.counter.deadline)
        self.interrupted = not deadline         # the processor's APIC has something: look, and go on
        return self.clock.tsc < deadline

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
        if pushes_rf(event):
            self.state.set_resume_flag()
        if self._returns and event.vector != Vector.DB:
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
        exit = deliver(self, event, injected=True)
        return exit is None or self.exit(exit)

    def take(self, event: Event) -> bool:
        """Deliver what came to the guest by itself; False when that exited, and the handler said stop."""
        exit = deliver(self, event)
        return exit is None or self.exit(exit)

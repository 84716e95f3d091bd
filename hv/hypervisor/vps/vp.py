"""A virtual processor: a vcpu, its virtual APIC, and whether it may run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from hv.hypervisor.intercepts.shown import ShownRegisters
from hv.hypervisor.intercepts.string_io import StringElement
from hv.hypervisor.interrupts import deliverability
from hv.hypervisor.interrupts.apic_virtualization import new_apic
from hv.hypervisor.partitions.statistics import do_nothing
from hv.hypervisor.run import obey
from hv.hypervisor.vps import npiep
from hv.hypervisor.vps.guest_registers import GuestRegisters
from hv.hypervisor.vps.vmcs import VpVmcs
from hv.machine.idt import Event, EventKind
from hv.machine.state import ProcessorState
from hv.spec.apic import DEFAULT_BASE, ApicBase
from hv.spec.msrs import Msr
from hv.spec.processor_features import HvProcessorFeatures
from hv.spec.vmcs import SecondaryControls, VmcsField
from hv.spec.x86 import Vector
from hv.trace import events
from hv.vmx.apic.interrupts import enter_apic
from hv.vmx.reset import init_registers, startup_registers
from hv.vmx.translation.pdptes import load_by_cr3
from hv.vmx.vcpu import Vcpu

if TYPE_CHECKING:
    from hv.hypervisor.hypercalls.registry import Call
    from hv.hypervisor.hypervisor import Hypervisor
    from hv.hypervisor.interrupts.eoi_messages import EoiMessages
    from hv.hypervisor.partitions.partition import Partition
    from hv.hypervisor.registers.dispatched import DispatchedVp
    from hv.hypervisor.registers.register_page import RegisterPage
    from hv.hypervisor.registers.state_pages import MessagePage
    from hv.hypervisor.synic.synic import QueuedMessage, Synic
    from hv.hypervisor.timers.stimer import SyntheticTimer
    from hv.hypervisor.timers.synthetic_timers import SyntheticTimers
    from hv.hypervisor.timers.unhalted import UnhaltedTimer


CallSite = tuple[tuple[int, int, int], int, bool]       # location, hypercall MSR, 64-bit code
_U64 = (1 << 64) - 1
_ENABLED = ApicBase(enabled=1, extended=1).raw
_KEPT_BY_INIT = (Msr.STAR, Msr.LSTAR, Msr.CSTAR, Msr.SFMASK, Msr.KERNEL_GS_BASE, Msr.SYSENTER_CS, Msr.SYSENTER_ESP,
                 Msr.SYSENTER_EIP, Msr.TSC_AUX)
_RDTSCP, _SECONDARY = HvProcessorFeatures.RDTSCP.value, VmcsField.SECONDARY_PROC_CONTROLS
_EXTERNAL = EventKind.EXTERNAL          # naming a member of an enumeration costs a call


class VirtualProcessor:
    """VP *index* of *partition*. It waits for its parent's word (explicit_suspend) after it was made."""

    prompt = False                  # it has slices, like all others
    synic: Synic
    eoi_messages: EoiMessages
    timers: SyntheticTimers

    def __init__(self, hypervisor: Hypervisor, partition: Partition, index: int, vcpu: Vcpu, vmcs: VpVmcs) -> None:
        self.partition, self.index, self.vcpu, self.vmcs = partition, index, vcpu, vmcs
        self.trace = partition.trace
        self.regs: ProcessorState = vcpu.state
        self.apic = new_apic(self)
        self.apic_delivers = False              # the processor delivers its interrupts, and ends them
        self.apic.on_pending = self.kick
        self.apic.on_nmi, self.apic.on_init, self.apic.on_sipi = self._on_nmi, self._on_init, self._on_sipi
        self.explicit_suspend = True
        self.intercept_suspend = False
        self.halted = False
        self.wait_for_sipi = index != 0
        self.nmi_pending = self.init_pending = False
        self.idles = False                      # halted by HV_GUEST_IDLE: an interrupt wakes it whatever IF says
        self.leaving: Callable[[], object] | None = None    # what to do once its instruction is done
        self.deliver_interrupt = self._deliver_interrupt    # or the one for when INTR is asserted
        self.event_pending = False              # something may be deliverable: look before going on
        self.notifications = 0                  # HvRegisterDeliverabilityNotifications, as its parent wrote it
        self.pending_event: Event | None = None  # what the parent asked to be injected at the next entry
        self.shown = ShownRegisters(self)       # what its parent is shown of it
        self.asked_at = 0                       # RIP of the last intercept message
        self.message: tuple[VirtualProcessor, QueuedMessage] | None = None  # to its parent's VP, not yet delivered
        self.string_element: StringElement | None = None    # of INS or OUTS, that the parent was asked about
        self.register_page: RegisterPage | None = None      # that its parent has mapped
        self.message_page: MessagePage | None = None        # the same
        self.dispatched: DispatchedVp | None = None         # by its parent, which is told of intercepts in that page
        self.stopped_because = ""               # why it can never run again
        self.caller: Call | None = None         # who it is to the hypercalls, since its first one
        self.call_site: CallSite | None = None  # of the last VMCALL
        self.tsc_adjust = 0                     # IA32_TSC_ADJUST: how far the guest has moved its counter
        self.kept_msrs: dict[int, int] = {}     # synthetic MSRs of its own that are nothing but their value
        self.npiep = 0                          # an HvNpiepConfig: what its programs may not do
        self.late_timers: list[SyntheticTimer] = []     # lazy ones that expired while it did not run
        self.clock_of_work: UnhaltedTimer | None = None     # its timer of the time it executes, while that is on
        self.running = False                    # it has its turn
        self.ran = 0                            # ticks, until it began to run
        self._since = 0                         # when that was, later by what it slept
        vcpu.on_exit = partial(obey, self)
        vcpu.on_vmfail = self._on_vmfail
        self.hypervisor = hypervisor
        self.guest_regs = GuestRegisters(self.regs, vmcs)
        self._reset_registers()
        self.show_exceptions()
        if partition.cpuid.processor_features & _RDTSCP:
            vmcs.write(_SECONDARY, vmcs.read(_SECONDARY) | SecondaryControls.ENABLE_RDTSCP)

    @property
    def runtime(self) -> int:
        """Ticks in which it ran."""
        return self.ran + (self.partition.clock.tsc - self._since if self.running else 0)

    def sleep(self) -> bool:
        """It halts in its turn; True when only time had to pass until it was woken, which is no time that it ran."""
        clock, counting = self.partition.clock, self.clock_of_work
        if counting is not None:
            counting.stop()
        start = clock.tsc
        woken = self.hypervisor.on_halt(self)
        self._since += clock.tsc - start
        if woken and counting is not None:
            counting.start()
        return woken

    def pass_time(self, ticks: int) -> None:
        """Its turn goes on while somebody else is at work for it, for so long."""
        counting = self.clock_of_work
        if counting is not None:
            counting.stop()
        self.vcpu.work[0] += ticks              # word 0 is the clock
        self._since += ticks
        if counting is not None:
            counting.start()

    @property
    def tsc_reads(self) -> int:
        """How often its program has read the time-stamp counter."""
        return self.vcpu.tsc_reads

    @property
    def exit_counts(self) -> list[int]:
        """Number of its VM exits by basic reason."""
        return self.vcpu.exits

    @property
    def runtime_100ns(self) -> int:
        """Time it ran, in units of 100 ns; HV_X64_MSR_VP_RUNTIME."""
        return self.runtime // 200

    @property
    def tsc_offset(self) -> int:
        """Ticks that its time-stamp counter is ahead of the machine's; negative when it is behind."""
        ahead = self.vcpu.tsc - self.partition.clock.tsc & _U64
        return ahead - (ahead >> 63 << 64)

    @property
    def runnable(self) -> bool:
        """The scheduler may pick it: nobody suspended it, and it has something to do."""
        if self.explicit_suspend or self.intercept_suspend or self.wait_for_sipi or self.stopped_because \
                or self.partition.stands_still:
            return False
        if not self.halted or ((self.idles or self.regs.interrupts_enabled) and self.apic.deliverable() is not None):
            return True
        return self._wakes() or (self.notifications != 0 and deliverability.due(self))

    @property
    def is_available(self) -> bool:
        """It runs, or idles and can be woken: what it is told now it can hear now."""
        suspended = self.explicit_suspend or self.intercept_suspend or self.partition.stands_still
        return self.running or (self.halted and not suspended)

    @property
    def asleep_for_good(self) -> bool:
        """Nothing but another VP of its partition could wake it: halted with interrupts off, or never started."""
        if self.explicit_suspend or self.intercept_suspend or self.pending_event is not None:
            return False
        if self.partition.stands_still:
            return False
        if self.nmi_pending and self.vcpu.takes_nmi:
            return False
        return self.wait_for_sipi or (self.halted and not (self.idles or self.regs.interrupts_enabled))

    def _wakes(self) -> bool:
        """A halted processor wakes for an NMI, or for an interrupt it may take; SDM "HLT"."""
        if (self.idles or self.regs.interrupts_enabled) and (self.apic.deliverable() is not None
                                                             or self._takes_external):
            return True
        return ((self.nmi_pending and self.vcpu.takes_nmi) or self.vcpu.debug_pends
                or self.pending_event is not None)

    def run(self, until: int) -> None:
        """Run the guest until the clock reaches *until*, or it halts, waits for its parent, or stops."""
        if self.notifications and self._only_tells():
            return
        try:
            self._begin()
            if self.deliver_pending():      # by `enter_apic`, where the processor does that
                self.vcpu.run(until if self.clock_of_work is None else self.clock_of_work.limit(until),
                              self.apic_delivers)
        finally:
            self.leave()

    def end_run_with(self, action: Callable[[], object]) -> None:
        """Its instruction is the last one of this run; *action* comes behind it."""
        self.leaving, self.event_pending = action, True

    def idle(self) -> None:
        """Halt behind the instruction, until an interrupt is pending; TLFS "Guest Idle"."""
        self.halted = self.idles = True
        if self.trace.listening:
            self.trace.emit(events.VpHalted())
        if not self.notifications and (self.runnable or self.sleep()):
            self.halted = self.idles = False
        else:
            self.end_run_with(lambda: None)

    def reset(self) -> None:
        """The state after its creation: reset registers (INIT keeps more of them), APIC and TSC, and it waits for its
        parent's word."""
        self.notifications = 0
        self.apic.write_msr(Msr.APIC_BASE, self.apic.base.raw & ~_ENABLED)
        self.apic.write_msr(Msr.APIC_BASE, ApicBase(DEFAULT_BASE, enabled=1, bsp=int(self.apic.bsp)).raw)
        for index in _KEPT_BY_INIT:
            self.regs.msrs[index] = 0
        self.regs.fp.reset()
        npiep.set_config(self, 0)
        self.kept_msrs.clear()
        self.regs.kept_msrs.clear()
        self.tsc_adjust = 0
        with self.vmcs.current():
            self.vcpu.set_tsc(self.partition.clock.tsc)
        self.explicit_suspend = True
        self._init()

    def step(self) -> None:
        """Run one instruction, or take the interrupt that waits."""
        if self.notifications and self._only_tells():
            return
        try:
            self._begin()
            if self.deliver_pending():
                self.vcpu.step()
        finally:
            self.leave()

    def _only_tells(self) -> bool:
        """It sleeps on: what it was woken for is that its parent wanted to be told."""
        if not self.halted or self._wakes() or not deliverability.due(self):
            return False
        deliverability.tell(self)
        return True

    def _begin(self) -> None:
        self._since, self.halted, self.idles, self.running = self.vcpu.work[0], False, False, True
        if self.hypervisor.before_run is not do_nothing:
            self.hypervisor.before_run()
        self.vmcs.enter()
        if self.late_timers:
            self._catch_up()
        if self.clock_of_work is not None:
            self.clock_of_work.start()

    def flush_translations(self, cr3: int | None) -> bool:
        """Forget what it has cached of linear translations: of the address space *cr3*, or of all (None).

        True when everything was forgotten, whoever's it was.
        """
        return self.vcpu.flush_translations(cr3)

    def load_cr3(self, value: int) -> None:
        """MOV to CR3 of *value*; GuestFault when PAE paging refuses it."""
        load_by_cr3(self.vcpu, value)
        self.regs.cr3 = value

    def leave(self) -> None:
        """Its turn is over."""
        if self.running:
            self.ran += self.vcpu.work[0] - self._since         # word 0 is the clock
            self.running = False
        if self.clock_of_work is not None:
            self.clock_of_work.stop()

    def stays(self) -> bool:
        """It paused, and nobody takes over: its turn goes on; False when what is to be delivered ended it."""
        return not self.event_pending or self.deliver_pending()

    def can_follow(self, other: VirtualProcessor) -> bool:
        """The engine may go on with this VP where *other* stands in it: neither of them is watched closely."""
        return not self.vcpu.watchful and not other.vcpu.watchful and not self.notifications

    def take_over(self, until: int) -> bool:
        """The engine goes on with this VP, inside an exit of a sibling; False when its turn ended at once."""
        if self.clock_of_work is not None:
            until = self.clock_of_work.limit(until)
        self.vcpu.come_next()
        self._begin()
        if not self.event_pending:
            return self.vcpu.take_over(until)
        return self.deliver_pending() and self.vcpu.take_over(until, self.apic_delivers)

    def _catch_up(self) -> None:
        late, self.late_timers = self.late_timers, []
        for timer in late:
            timer.catch_up()

    def stop_time(self) -> None:
        """The partition's time is frozen: no timer of the VP expires. It does not run."""
        self.apic.timer.pause()
        self.timers.pause()

    def resume_time(self, stood: int) -> None:
        """The partition's time goes on after it *stood* (ticks): so do the time-stamp counter and the timers."""
        with self.vmcs.current():
            self.vcpu.set_tsc(self.vcpu.tsc - stood)
        self.apic.timer.resume()
        self.timers.resume()

    def drop_state_pages(self) -> None:
        """Its parent has no page of it any more, and so cannot dispatch it."""
        if self.dispatched is not None:
            self.dispatched.end()
        for page in (self.register_page, self.message_page):
            if page is not None:
                page.close()
        self.register_page = self.message_page = None

    def kick(self) -> None:
        """Something changed: look for interrupts before going on, and tell the scheduler."""
        self.event_pending = True
        self.hypervisor.on_wake(self)

    def registers_written(self) -> None:
        """Software wrote its registers: the next VM entry checks them, and RFLAGS.IF may let it wake."""
        self.vcpu.state_written = True
        self.hypervisor.on_wake(self)

    def show_exceptions(self) -> None:
        """What the parent asked for is what exits; SDM "Exception Bitmap"."""
        self.vmcs.write(VmcsField.EXCEPTION_BITMAP, self.partition.intercepts.exceptions)

    def stop(self, why: str) -> None:
        """It can never run again."""
        self.stopped_because = why
        self.partition.stopped = self.partition.stopped or self
        if self.trace.listening:
            self.trace.emit(events.VpEnded(why))

    def _on_vmfail(self) -> None:
        """Only a bug of the hypervisor's own, or a hand in the REPL, writes such controls."""
        self.stop(f"VM entry failed: {self.vcpu.entry_result.failure}")

    # --- events into the guest -------------------------------------------------------------------------

    def deliver_pending(self) -> bool:
        """Inject what is due, or ask for the exit that says when it may be; False when that ended the run."""
        if self.init_pending:
            self._init()
            return False
        if self.leaving is not None:
            leaving, self.leaving = self.leaving, None
            leaving()
            return False
        if self.pending_event is not None:
            event, self.pending_event = self.pending_event, None
            if not self._inject(event):
                return False
        if self.nmi_pending and not self._deliver_nmi():
            return False
        if self.notifications:
            return self.deliver_interrupt() and deliverability.look(self)
        return self.deliver_interrupt()

    def _deliver_nmi(self) -> bool:
        """The next one waits for the IRET of the last one's handler; SDM "Handling Multiple NMIs"."""
        if not self.vcpu.takes_nmi:
            self.vcpu.want_nmi_window(True)
            return True
        self.nmi_pending = False
        self.vcpu.want_nmi_window(False)
        return self._inject(Event(Vector.NMI, EventKind.NMI))

    def _deliver_interrupt(self) -> bool:
        if self.apic_delivers:
            self.event_pending = False
            return enter_apic(self.vcpu)
        vector = self.apic.deliverable()
        if (vector is not None and self.regs.interrupts_enabled and not self.regs.interrupt_shadow
                and not self.vcpu.debug_pends):         # an injection would discard it
            if not self._inject(Event(self.acknowledge(), _EXTERNAL)):
                return False
            vector = self.apic.deliverable() if self.apic.irr else None
        self.event_pending = False
        self.vcpu.want_window(vector is not None)
        return True

    def show_external_line(self, asserted: bool) -> None:
        """The INTR line of the partition changed; nothing looks at it while nothing stands there."""
        self.deliver_interrupt = self._deliver_external if asserted else self._deliver_interrupt
        self.vcpu.want_window(False)        # whoever delivers now asks anew
        self.kick()

    @property
    def _takes_external(self) -> bool:
        return self.partition.external.vector is not None and self.apic.takes_external

    def _deliver_external(self) -> bool:
        """What stands on INTR comes before what waits in the APIC, whatever the task priority."""
        if not self._takes_external:
            self.vcpu.want_window(False)        # it may have been let in before
            return self._deliver_interrupt()
        if not self.regs.interrupts_enabled or self.regs.interrupt_shadow or self.vcpu.debug_pends:
            self.event_pending = False
            self.vcpu.want_window(True)
            return True
        return self._inject(Event(self.partition.external.acknowledge(), _EXTERNAL)) and self.deliver_interrupt()

    def acknowledge(self) -> int:
        """Take the highest interrupt from the APIC; one of a SINT with AutoEOI is ended with that."""
        vector = self.apic.acknowledge()
        if vector in self.synic.auto_eoi_vectors:
            self.apic.eoi()
        return vector

    def owe_single_step(self) -> None:
        """An instruction was done for a guest with RFLAGS.TF set: #DB before the next one, as a trap behind its own.

        SDM "Single-Step Exception Condition".
        """
        self.vcpu.owe_single_step()

    def _inject(self, event: Event) -> bool:
        if self.trace.listening:
            self.trace.emit(events.Injected(event.vector, event.kind))
        return self.vcpu.inject(event)

    @property
    def nmi_masked(self) -> bool:
        """An NMI is being handled: the next one waits for IRET."""
        return self.vcpu.non_register.nmi_blocked

    @nmi_masked.setter
    def nmi_masked(self, masked: bool) -> None:
        self.vcpu.block_nmis(masked)
        self.kick()

    def _on_nmi(self) -> None:
        self.nmi_pending = True
        self.kick()

    def _on_init(self) -> None:
        """INIT. A processor that sends it to itself first ends the instruction that did it."""
        if self.running:
            self.init_pending = True
            self.kick()
        else:
            self._init()

    def _init(self) -> None:
        """Back to the reset state; all but the first processor then wait for SIPI."""
        self.init_pending = False
        self.apic.init()
        self._reset_registers()
        self.vcpu.state_written = True
        self.vcpu.reset_events()
        self.halted = self.idles = self.nmi_pending = False
        self.pending_event = self.string_element = None
        self.wait_for_sipi = not self.apic.bsp
        self.kick()

    def _reset_registers(self) -> None:
        init_registers(self.regs)
        self.guest_regs.cr0, self.guest_regs.cr4 = self.regs.cr0, self.regs.cr4

    def _on_sipi(self, vector: int) -> None:
        """SIPI: start in real mode at page *vector*, if it waits for that."""
        if self.wait_for_sipi:
            startup_registers(self.regs, vector)
            self.vcpu.state_written = True
            self.wait_for_sipi = False
            self.kick()

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {
            "index": self.index, "partition": self.partition.id, "runnable": self.runnable, "halted": self.halted,
            "explicit_suspend": self.explicit_suspend, "intercept_suspend": self.intercept_suspend,
            "notifications": self.notifications,
            "wait_for_sipi": self.wait_for_sipi, "stopped_because": self.stopped_because, "runtime": self.runtime,
            "apic": self.apic.inspect(), "synic": self.synic.inspect(),
            "timers": self.timers.inspect(), "vmcs": self.vcpu.vmcs.inspect(),
        }

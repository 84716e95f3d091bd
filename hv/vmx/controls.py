"""What the controls of a VMCS ask for, looked up when one of them is written and not at each exit.

SDM "VM-Execution Control Fields", "VM-Exit Control Fields". Those about translation are in `translation/controls.py`,
those about the virtual APIC in `apic/controls.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.machine.watched import Watched
from hv.spec.vmcs import ExitControls, PinControls, PrimaryControls, SecondaryControls, VmcsField
from hv.spec.x86 import Cr0
from hv.vmx.capabilities import PROCESSOR

_EXEMPT = int(Cr0.PE | Cr0.PG)      # from the fixed bits, by "unrestricted guest"
_REFUSED = int(PrimaryControls.MOV_DR_EXITING | PrimaryControls.RDPMC_EXITING)
_PORTS = int(PrimaryControls.UNCONDITIONAL_IO_EXITING | PrimaryControls.USE_IO_BITMAPS)
_TARGETS = tuple(VmcsField(VmcsField.CR3_TARGET_VALUE0 + 2 * n) for n in range(PROCESSOR.misc.cr3_target_count))
_WINDOW = PrimaryControls.INTERRUPT_WINDOW_EXITING.value
_TSC_FRACTION = 48              # bits of the TSC multiplier behind the point
_U64 = (1 << 64) - 1


class Controls:
    """The controls of one VMCS; *read* gives a field of it."""

    def __init__(self, read: Callable[[VmcsField], int]) -> None:
        self.primary = primary = read(VmcsField.PRIMARY_PROC_CONTROLS)
        active = primary & PrimaryControls.ACTIVATE_SECONDARY_CONTROLS
        self.secondary = read(VmcsField.SECONDARY_PROC_CONTROLS) if active else 0
        self._read_register_controls(read)
        self._read_instruction_controls(read)
        self._read_tsc_controls(read)
        self._read_event_controls(read)

    def _read_register_controls(self, read: Callable[[VmcsField], int]) -> None:
        self.cr_masks = {0: read(VmcsField.CR0_GUEST_HOST_MASK), 4: read(VmcsField.CR4_GUEST_HOST_MASK)}
        self.cr_shadows = {0: read(VmcsField.CR0_READ_SHADOW), 4: read(VmcsField.CR4_READ_SHADOW)}
        self.cr3_targets = tuple(map(read, _TARGETS[: read(VmcsField.CR3_TARGET_COUNT)]))
        exempt = _EXEMPT if self.secondary & SecondaryControls.UNRESTRICTED_GUEST else 0
        self.cr_fixed = {0: PROCESSOR.cr0_fixed & ~exempt, 4: PROCESSOR.cr4_fixed}

    def _read_instruction_controls(self, read: Callable[[VmcsField], int]) -> None:
        primary = self.primary
        self.msr_bitmap = read(VmcsField.MSR_BITMAP) if primary & PrimaryControls.USE_MSR_BITMAPS else None
        self.io_bitmaps = ((read(VmcsField.IO_BITMAP_A), read(VmcsField.IO_BITMAP_B))
                           if primary & PrimaryControls.USE_IO_BITMAPS else None)
        self.ports_exit = bool(primary & PrimaryControls.UNCONDITIONAL_IO_EXITING)
        self.ports_may_exit = bool(primary & _PORTS)
        self.refused_exit = bool(primary & _REFUSED)    # what the engine answers with #GP may be an exit
        self.pause_loops = ((read(VmcsField.PLE_GAP), read(VmcsField.PLE_WINDOW))
                            if self.secondary & SecondaryControls.PAUSE_LOOP_EXITING else None)

    def _read_tsc_controls(self, read: Callable[[VmcsField], int]) -> None:
        """The multiplier counts only together with the offset; SDM "Time-Stamp Counter Offset and Multiplier"."""
        offsets = self.primary & PrimaryControls.USE_TSC_OFFSETTING
        scales = offsets and self.secondary & SecondaryControls.USE_TSC_SCALING
        self._tsc_offset = read(VmcsField.TSC_OFFSET) if offsets else 0
        self._tsc_multiplier = read(VmcsField.TSC_MULTIPLIER) if scales else 1 << _TSC_FRACTION

    def _read_event_controls(self, read: Callable[[VmcsField], int]) -> None:
        pin, at_exit = read(VmcsField.PIN_BASED_CONTROLS), read(VmcsField.VM_EXIT_CONTROLS)
        self.exception_bitmap = read(VmcsField.EXCEPTION_BITMAP)
        self.pf_mask = read(VmcsField.PAGE_FAULT_ERROR_CODE_MASK)
        self.pf_match = read(VmcsField.PAGE_FAULT_ERROR_CODE_MATCH)
        self.interrupts_exit = bool(pin & PinControls.EXTERNAL_INTERRUPT_EXITING)
        self.acknowledges = bool(at_exit & ExitControls.ACKNOWLEDGE_INTERRUPT)
        self.interrupts_taken = self.interrupts_exit and self.acknowledges      # at once, with their vector
        self.nmis_exit, self.virtual_nmis = bool(pin & PinControls.NMI_EXITING), bool(pin & PinControls.VIRTUAL_NMIS)
        self.timer_runs = bool(pin & PinControls.ACTIVATE_PREEMPTION_TIMER)
        self.timer_saved = bool(at_exit & ExitControls.SAVE_PREEMPTION_TIMER)
        self.monitor_trap_flag = bool(self.primary & PrimaryControls.MONITOR_TRAP_FLAG)
        self.nmi_window = bool(self.primary & PrimaryControls.NMI_WINDOW_EXITING)
        self.interrupt_window = bool(self.primary & PrimaryControls.INTERRUPT_WINDOW_EXITING)

    def set_interrupt_window(self, wanted: bool) -> None:
        """Interrupt-window exiting alone is set or cleared: between two interrupts, so that nothing else is read."""
        self.interrupt_window = wanted
        self.primary = self.primary | _WINDOW if wanted else self.primary & ~_WINDOW

    def tsc(self, counter: int) -> int:
        """What the guest reads when the processor's time-stamp counter is *counter*."""
        return self._scaled(counter) + self._tsc_offset & _U64

    def tsc_offset_for(self, counter: int, wanted: int) -> int:
        """The TSC offset with which the guest reads *wanted* when the processor's counter is *counter*."""
        return wanted - self._scaled(counter)

    def _scaled(self, counter: int) -> int:
        return counter * self._tsc_multiplier >> _TSC_FRACTION

    @property
    def watched(self) -> int:
        """What must leave the guest, as `ProcessorState.watch` takes it: reads too, where a mask may hide a bit."""
        wanted = {
            Watched.READ_CR0: self.cr_masks[0], Watched.READ_CR4: self.cr_masks[4],
            Watched.READ_CR3: self.primary & PrimaryControls.CR3_STORE_EXITING,
            Watched.WRITE_CR3: self.primary & PrimaryControls.CR3_LOAD_EXITING,
            Watched.INVLPG: self.primary & PrimaryControls.INVLPG_EXITING,
            Watched.STORE_TABLES: self.secondary & SecondaryControls.DESCRIPTOR_TABLE_EXITING,
            Watched.LOAD_TABLES: True,          # the engine does not check what it loads
        }
        return sum(instructions for instructions, asked in wanted.items() if asked)

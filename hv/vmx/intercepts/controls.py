"""What the VMCS asks of instructions, looked up when one of its controls is written and not at each exit."""

from __future__ import annotations

from collections.abc import Callable

from hv.machine.watched import Watched
from hv.spec.vmcs import PrimaryControls, SecondaryControls, VmcsField
from hv.spec.x86 import Cr0
from hv.vmx.capabilities import PROCESSOR

_EXEMPT = int(Cr0.PE | Cr0.PG)      # from the fixed bits, by "unrestricted guest"
_REFUSED = int(PrimaryControls.MOV_DR_EXITING | PrimaryControls.RDPMC_EXITING)
_PORTS = int(PrimaryControls.UNCONDITIONAL_IO_EXITING | PrimaryControls.USE_IO_BITMAPS)
_TARGETS = tuple(VmcsField(VmcsField.CR3_TARGET_VALUE0 + 2 * n) for n in range(PROCESSOR.misc.cr3_target_count))


class InstructionControls:
    """The controls that decide about instructions; *read* gives a field of the VMCS."""

    def __init__(self, read: Callable[[VmcsField], int]) -> None:
        self.primary = primary = read(VmcsField.PRIMARY_PROC_CONTROLS)
        active = primary & PrimaryControls.ACTIVATE_SECONDARY_CONTROLS
        self.secondary = secondary = read(VmcsField.SECONDARY_PROC_CONTROLS) if active else 0
        self.cr_masks = {0: read(VmcsField.CR0_GUEST_HOST_MASK), 4: read(VmcsField.CR4_GUEST_HOST_MASK)}
        self.cr_shadows = {0: read(VmcsField.CR0_READ_SHADOW), 4: read(VmcsField.CR4_READ_SHADOW)}
        self.cr3_targets = tuple(map(read, _TARGETS[: read(VmcsField.CR3_TARGET_COUNT)]))
        exempt = _EXEMPT if secondary & SecondaryControls.UNRESTRICTED_GUEST else 0
        self.cr_fixed = {0: PROCESSOR.cr0_fixed & ~exempt, 4: PROCESSOR.cr4_fixed}
        self.pause_loops = ((read(VmcsField.PLE_GAP), read(VmcsField.PLE_WINDOW))
                            if secondary & SecondaryControls.PAUSE_LOOP_EXITING else None)
        self.ports_exit = bool(primary & PrimaryControls.UNCONDITIONAL_IO_EXITING)
        self.ports_may_exit = bool(primary & _PORTS)
        self.refused_exit = bool(primary & _REFUSED)    # what the engine answers with #GP may be an exit

    @property
    def watched(self) -> int:
        """What must leave the guest, as `ProcessorState.watch` takes it: reads too, where a mask may hide a bit."""
        wanted = {
            Watched.READ_CR0: self.cr_masks[0], Watched.READ_CR4: self.cr_masks[4],
            Watched.READ_CR3: self.primary & PrimaryControls.CR3_STORE_EXITING,
            Watched.WRITE_CR3: self.primary & PrimaryControls.CR3_LOAD_EXITING,
            Watched.INVLPG: self.primary & PrimaryControls.INVLPG_EXITING,
            Watched.DESCRIPTOR_TABLES: self.secondary & SecondaryControls.DESCRIPTOR_TABLE_EXITING,
        }
        return sum(instructions for instructions, asked in wanted.items() if asked)

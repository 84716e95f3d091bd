"""What the VMCS asks of instructions, looked up when one of its controls is written and not at each exit."""

from __future__ import annotations

from collections.abc import Callable

from hv.machine.watched import Watched
from hv.spec.vmcs import PrimaryControls, SecondaryControls, VmcsField
from hv.spec.x86 import Cr0
from hv.vmx.capabilities import PROCESSOR

_READ_CR0, _READ_CR4 = Watched.READ_CR0.value, Watched.READ_CR4.value
_EXEMPT = int(Cr0.PE | Cr0.PG)      # from the fixed bits, by "unrestricted guest"


class InstructionControls:
    """The controls that decide about instructions; *read* gives a field of the VMCS."""

    def __init__(self, read: Callable[[VmcsField], int]) -> None:
        self.primary = primary = read(VmcsField.PRIMARY_PROC_CONTROLS)
        active = primary & PrimaryControls.ACTIVATE_SECONDARY_CONTROLS
        self.secondary = secondary = read(VmcsField.SECONDARY_PROC_CONTROLS) if active else 0
        self.cr_masks = {0: read(VmcsField.CR0_GUEST_HOST_MASK), 4: read(VmcsField.CR4_GUEST_HOST_MASK)}
        self.cr_shadows = {0: read(VmcsField.CR0_READ_SHADOW), 4: read(VmcsField.CR4_READ_SHADOW)}
        exempt = _EXEMPT if secondary & SecondaryControls.UNRESTRICTED_GUEST else 0
        self.cr_fixed = {0: PROCESSOR.cr0_fixed & ~exempt, 4: PROCESSOR.cr4_fixed}

    @property
    def watched(self) -> int:
        """What must leave the guest, as `ProcessorState.watch` takes it: reads too, where a mask may hide a bit."""
        return (_READ_CR0 if self.cr_masks[0] else 0) | (_READ_CR4 if self.cr_masks[4] else 0)

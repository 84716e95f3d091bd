"""What a parent is shown of a VP that waits for it, and seldom changes: segments, mode, control registers.

Most intercepts of a program follow one another with the same segments and control registers. So they are brought into
the form of intercept messages once, and again when the processor's own are others. (The register page does likewise.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.machine.registers import Segment
from hv.spec.synic import HvExecutionState, HvSegmentRegister
from hv.spec.x86 import Cr0, Efer

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

_ATTRIBUTES = 0xFFFF                    # VMX access rights and HV_X64_SEGMENT_REGISTER agree in these bits
_UNUSABLE = 1 << 16
_PRESENT = 1 << 7
_DR7_ENABLES = 0xFF                     # L0, G0 .. L3, G3
SegmentFields = tuple[int, int, int, int]           # as they stand in a message: base, limit, selector, attributes


class ShownRegisters:
    """Those of *vp*, since it was told to `look`: `cs`, `ds`, `es`, `cr8`; `state`, an HvExecutionState; and
    `page_end`,
    what stands behind RFLAGS in the register page, which `make_page_end` makes when it is empty."""

    def __init__(self, vp: VirtualProcessor) -> None:
        self._vp = vp
        self.made_of: tuple[object, ...] = ()
        self.cs = self.ds = self.es = (0, 0, 0, 0)
        self.state = self.cr8 = 0

    def look(self) -> None:
        """Make them anew, if the VP's are others than they were."""
        vp = self._vp
        vcpu, self.cr8 = vp.vcpu, vp.apic.cr8
        of = vp.regs.settings, self.cr8, vp.pending_event, vcpu.non_register.nmi_blocked, vcpu.controls
        if of != self.made_of:
            self.made_of = of
            self._make()

    def _make(self) -> None:
        vp, regs = self._vp, self._vp.regs
        self.cs, self.ds, self.es = fields_of(regs.cs), fields_of(regs.ds), fields_of(regs.es)
        self.state = HvExecutionState(
            cpl=regs.cpl, cr0_pe=int(bool(regs.cr0 & Cr0.PE)), cr0_am=int(bool(regs.cr0 & Cr0.AM)),
            efer_lma=int(bool(regs.efer & Efer.LMA)), debug_active=int(bool(regs.dr7 & _DR7_ENABLES)),
            interruption_pending=int(vp.pending_event is not None), interrupt_shadow=int(regs.interrupt_shadow)).raw


def fields_of(segment: Segment) -> SegmentFields:
    """A segment in the hypervisor's form; an unusable one is not present there."""
    selector, base, limit, rights = segment
    return base, limit, selector, rights & _ATTRIBUTES & ~_PRESENT if rights & _UNUSABLE else rights & _ATTRIBUTES


def segment_register(segment: Segment) -> HvSegmentRegister:
    """The same as a layout."""
    base, limit, selector, attributes = fields_of(segment)
    return HvSegmentRegister(base=base, limit=limit, selector=selector, attributes=attributes)


def segment_of(register: HvSegmentRegister) -> Segment:
    """The reverse: what is not present is unusable."""
    rights = register.attributes if register.attributes & _PRESENT else register.attributes | _UNUSABLE
    return Segment(register.selector, register.base, register.limit, rights)

"""How the hypervisor has the processor virtualize the APICs of a partition: pages, bitmap, and the controls of each VP.

A VP whose APIC is on takes its interrupts, ends them and changes its task priority without an exit; SDM "APIC
Virtualization and Virtual Interrupts". Two things are told to the hypervisor: an EOI that somebody waits for, and a
write that has an effect beyond the page. A VP with an AutoEOI SINT is left to software: the processor knows no
interrupt that is over when it is delivered; so is one whose APIC is switched off by software, which takes no self-IPI,
and one of which the parent waits to hear when it may take an interrupt (`deliverability.py`).

The APIC-access page stands in the partition's memory while all its VPs have their registers there. Else an access is
an EPT violation, and is emulated as it is without any of this.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.interrupts.assisted_apic import AssistedApic
from hv.hypervisor.interrupts.deliverability import needs_exits
from hv.hypervisor.interrupts.vp_apic import VpApic
from hv.hypervisor.memory.gpa_space import READ_WRITE, Overlay
from hv.machine.apic import LocalApic
from hv.machine.ram import PhysicalMemory
from hv.spec.apic import DEFAULT_BASE, ApicRegister
from hv.spec.exits import InterruptionType
from hv.spec.vmcs import PrimaryControls, SecondaryControls, VmcsField
from hv.spec.x86 import PAGE_SHIFT, PAGE_SIZE
from hv.trace.events import Injected

if TYPE_CHECKING:
    from hv.hypervisor.partitions.partition import Partition
    from hv.hypervisor.vps.vp import VirtualProcessor

_P, _S, R = PrimaryControls, SecondaryControls, ApicRegister
DEFAULT_PAGE = DEFAULT_BASE >> PAGE_SHIFT
_CR8_EXITS = int(_P.CR8_LOAD_EXITING | _P.CR8_STORE_EXITING)
_DELIVERY = int(_S.APIC_REGISTER_VIRTUALIZATION | _S.VIRTUAL_INTERRUPT_DELIVERY)
_PRIMARY = _CR8_EXITS | int(_P.USE_TPR_SHADOW | _P.USE_MSR_BITMAPS)
_SECONDARY = _DELIVERY | int(_S.VIRTUALIZE_APIC_ACCESSES | _S.VIRTUALIZE_X2APIC_MODE)
_BITMAPS = (VmcsField.EOI_EXIT_BITMAP0, VmcsField.EOI_EXIT_BITMAP1, VmcsField.EOI_EXIT_BITMAP2,
            VmcsField.EOI_EXIT_BITMAP3)
_U64 = (1 << 64) - 1
_EXTERNAL = InterruptionType.EXTERNAL_INTERRUPT

# The x2APIC MSRs that a guest reads from its page; PPR, and the count that runs, are computed when they are asked for.
_READ = (R.ID, R.VERSION, R.TPR, R.LDR, R.SVR, *range(R.ISR, R.ESR, 0x10), R.ESR, R.LVT_CMCI, R.ICR_LOW, R.LVT_TIMER,
         R.LVT_THERMAL, R.LVT_PERFORMANCE, R.LVT_LINT0, R.LVT_LINT1, R.LVT_ERROR, R.TIMER_INITIAL, R.TIMER_DIVIDE)
_WRITTEN = (R.TPR, R.EOI, R.SELF_IPI)


def msr_bitmap() -> bytes:
    """Every MSR exits but those of the x2APIC that the processor virtualizes; SDM "MSR-Bitmap Address"."""
    bitmap = bytearray(b"\xff" * PAGE_SIZE)
    for half, offsets in ((0, _READ), (0x800, _WRITTEN)):
        for offset in offsets:
            msr = 0x800 + (offset >> 4)
            bitmap[half + (msr >> 3)] &= ~(1 << (msr & 7))
    return bytes(bitmap)


class ApicPages:
    """The two pages that the APICs of all partitions share, as spa. Nobody ever reads or writes the first one."""

    def __init__(self, memory: PhysicalMemory, access: int, bitmap: int) -> None:
        self.access, self.bitmap = access, bitmap
        memory.write(bitmap, msr_bitmap())


class PartitionApics:
    """The APIC-access page of *partition*, and which of its VPs it serves."""

    def __init__(self, partition: Partition, pages: ApicPages) -> None:
        self.partition, self.pages = partition, pages
        self._overlay = Overlay("APIC-access page", pages.access, READ_WRITE)
        self.shown = False                      # the page is mapped

    def follow(self) -> None:
        """A VP has come, gone, or changed the mode of its APIC."""
        vps = [self.partition.vps[index] for index in sorted(self.partition.vps)]
        wanted = bool(vps) and all(_has_default_page(vp) for vp in vps)
        if wanted is not self.shown:
            self._show(wanted)
        for vp in vps:
            if isinstance(vp.apic, VpApic):
                virtualize(vp, self.pages, self.shown)

    def _show(self, wanted: bool) -> None:
        """Without memory for the tables, the page stays away."""
        space = self.partition.space
        try:
            (space.cover if wanted else space.uncover)(DEFAULT_PAGE, self._overlay)
        except HypercallError:
            return
        self.shown = wanted


def _has_default_page(vp: VirtualProcessor) -> bool:
    apic = vp.apic
    return isinstance(apic, VpApic) and apic.is_present and not apic.is_x2apic and apic.base.page == DEFAULT_PAGE


def new_apic(vp: VirtualProcessor) -> LocalApic:
    """The local APIC of a new VP: on its virtual-APIC page, unless the partition is to do without."""
    partition, index, vcpu = vp.partition, vp.index, vp.vcpu
    if not partition.apic_virtualization:
        return AssistedApic(index, partition.clock, index == 0, partition.memory, partial(_assist_page, vp))
    vp.vmcs.write(VmcsField.VIRTUAL_APIC_PAGE_ADDR, partition.vp_pages[index].virtual_apic)
    vp.vmcs.write(VmcsField.PRIMARY_PROC_CONTROLS, vcpu.controls.primary | _P.USE_TPR_SHADOW)
    assert vcpu.apic.virtual is not None, "there is a TPR shadow"
    apic = VpApic(index, partition.clock, index == 0, vcpu.apic.virtual, partial(let_eois_exit, vp))
    apic.on_mode = partition.follow_apics
    vcpu.on_virtual_interrupt = partial(_tell, vp)
    return apic


def _assist_page(vp: VirtualProcessor) -> int | None:
    return vp.synic.assist_page if vp.synic.assist.enable else None


def _tell(vp: VirtualProcessor, vector: int) -> None:
    if vp.trace.listening:
        vp.trace.emit(Injected(vector, _EXTERNAL))


def virtualize(vp: VirtualProcessor, pages: ApicPages, page_shown: bool) -> None:
    """Set the controls of *vp* for the mode its APIC is in."""
    read, write = vp.vcpu.vmcs.read, vp.vmcs.write
    apic = vp.apic
    vp.apic_delivers = apic.is_enabled and not vp.synic.auto_eoi_vectors and not needs_exits(vp)
    primary, secondary = _CR8_EXITS, int(_S.VIRTUALIZE_APIC_ACCESSES) if page_shown else 0
    if vp.apic_delivers:
        primary, secondary = int(_P.USE_TPR_SHADOW), secondary | _DELIVERY
        if apic.is_x2apic:
            primary, secondary = primary | _P.USE_MSR_BITMAPS, secondary | _S.VIRTUALIZE_X2APIC_MODE
    fields = {
        VmcsField.APIC_ACCESS_ADDR: pages.access, VmcsField.MSR_BITMAP: pages.bitmap,
        VmcsField.PRIMARY_PROC_CONTROLS: read(VmcsField.PRIMARY_PROC_CONTROLS) & ~_PRIMARY | primary,
        VmcsField.SECONDARY_PROC_CONTROLS: read(VmcsField.SECONDARY_PROC_CONTROLS) & ~_SECONDARY | secondary,
    }
    changed = [(field, value) for field, value in fields.items() if read(field) != value]
    for field, value in changed:
        write(field, value)
    if changed:
        vp.vcpu.want_window(False)      # whoever delivers now asks anew
        vp.kick()


def let_eois_exit(vp: VirtualProcessor, vectors: int) -> None:
    """Write the EOI-exit bitmaps; bit n of *vectors* is vector n."""
    read, write = vp.vcpu.vmcs.read, vp.vmcs.write
    for n, field in enumerate(_BITMAPS):
        value = vectors >> 64 * n & _U64
        if read(field) != value:
            write(field, value)

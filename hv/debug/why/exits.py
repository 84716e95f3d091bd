"""Why a guest was left: for each reason the control bit, the bitmap or the table entry that made it a VM exit.

SDM "Instructions That Cause VM Exits", "Other Causes of VM Exits". Most reasons obey one control (`BY_CONTROL`); those
that look at a bitmap, a mask or a table have a function of their own, here, in `exit_events.py` and in
`exit_memory.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag

from hv.debug.why.chain import Link
from hv.debug.why.names import FIELDS, control_name, msr_name
from hv.debug.why.visit import Scene
from hv.spec.exits import (
    INSTRUCTIONS,
    UNCONDITIONAL,
    ApicAccessQualification,
    CrQualification,
    ExitReason,
    IoQualification,
)
from hv.spec.vmcs import PinControls, PrimaryControls, SecondaryControls, VmcsField
from hv.trace.events import VpCreated
from hv.vmx.left_out import EXITS as LEFT_OUT
from hv.vmx.vmcs import DEFAULT_CONTROLS

Because = Callable[[Scene], list[Link]]
P, S = PrimaryControls, SecondaryControls
BECAUSE: dict[ExitReason, Because] = {}
BY_CONTROL: dict[ExitReason, IntFlag] = {
    ExitReason.HLT: P.HLT_EXITING, ExitReason.MWAIT: P.MWAIT_EXITING, ExitReason.MONITOR: P.MONITOR_EXITING,
    ExitReason.RDTSC: P.RDTSC_EXITING, ExitReason.RDTSCP: P.RDTSC_EXITING, ExitReason.RDPMC: P.RDPMC_EXITING,
    ExitReason.INVLPG: P.INVLPG_EXITING, ExitReason.INVPCID: P.INVLPG_EXITING, ExitReason.MOV_DR: P.MOV_DR_EXITING,
    ExitReason.MONITOR_TRAP_FLAG: P.MONITOR_TRAP_FLAG, ExitReason.WBINVD: S.WBINVD_EXITING,
    ExitReason.PREEMPTION_TIMER_EXPIRED: PinControls.ACTIVATE_PREEMPTION_TIMER,
}
_ALWAYS = {
    ExitReason.INIT_SIGNAL: "an INIT signal reached the processor in VMX non-root operation",
    ExitReason.SIPI: "a start-up IPI reached a processor that waited for it",
}
_LOW_END, _HIGH, _HIGH_END = 0x1FFF, 0xC000_0000, 0xC000_1FFF


def because(*reasons: ExitReason) -> Callable[[Because], Because]:
    """Register who knows why there are exits of these *reasons*."""
    def register(function: Because) -> Because:
        BECAUSE.update(dict.fromkeys(reasons, function))
        return function
    return register


def causes(scene: Scene) -> list[Link]:
    """What made it a VM exit."""
    reason = ExitReason(scene.exit.reason)
    if reason in BECAUSE:
        return BECAUSE[reason](scene)
    if reason in BY_CONTROL:
        return [Link(f"{instructions(reason)} exits, since a control asks for it",
                     [control(scene, BY_CONTROL[reason])])]
    if reason in UNCONDITIONAL:
        return [Link(f"{instructions(reason)} exits unconditionally: no control has a say in it")]
    if reason in LEFT_OUT:
        return [Link(f"this processor has no such exit: {LEFT_OUT[reason]}")]
    return [Link(_ALWAYS.get(reason, f"{reason.name} is no exit of an instruction"))]


def instructions(reason: ExitReason) -> str:
    """The instructions of *reason* in words: `MOV DR`."""
    names = INSTRUCTIONS.get(reason, (reason.name,))
    return " or ".join(name.replace("_", " ") for name in names)


def control(scene: Scene, bit: IntFlag, ok: bool | None = None) -> Link:
    """The control *bit* as it is, and who set it."""
    field = FIELDS[type(bit)]

    def look() -> int:
        return int(bool(scene.vp.vcpu.vmcs.read(field) & bit))

    usual = look() == bool(DEFAULT_CONTROLS.get(field, 0) & bit)
    return Link(f"{control_name(bit)} is {look()}", ok=ok, look=look, tells=_makes(scene) if usual else None)


def _makes(scene: Scene) -> Callable[[object], bool]:
    """What is so in every VMCS of this hypervisor was so when the VP was made."""
    partition, index = scene.vp.partition.id, scene.vp.index
    return lambda event: isinstance(event, VpCreated) and (event.partition, event.vp) == (partition, index)


def field_link(scene: Scene, field: VmcsField, text: str) -> Link:
    """The VMCS *field* as it is: *text* has a place for its value."""
    def look() -> int:
        return scene.vp.vcpu.vmcs.read(field)

    return Link(text.format(f"{look():#x}"), look=look)


# --- MSRs -------------------------------------------------------------------------------------------------

@because(ExitReason.RDMSR, ExitReason.WRMSR)
def msr(scene: Scene) -> list[Link]:
    """SDM "MSR-Bitmap Address": without bitmaps every access exits, with them the bit of the MSR says."""
    name, write = ExitReason(scene.exit.reason).name, scene.exit.reason == ExitReason.WRMSR
    index = int(scene.fact.get("msr") or 0)
    head = f"{name} of {msr_name(index)}"
    bitmap = scene.vp.vcpu.controls.msr_bitmap
    if bitmap is None:
        return [Link(f"{head} exits: every access does while there are no MSR bitmaps",
                     [control(scene, P.USE_MSR_BITMAPS)])]
    if not (index <= _LOW_END or _HIGH <= index <= _HIGH_END):
        return [Link(f"{head} exits: the bitmaps cover 0..0x1fff and 0xc0000000..0xc0001fff only",
                     [control(scene, P.USE_MSR_BITMAPS)])]
    return [Link(f"{head} exits, since its bit says so",
                 [_msr_bit(scene, bitmap, index, write), control(scene, P.USE_MSR_BITMAPS)])]


def _msr_bit(scene: Scene, bitmap: int, index: int, write: bool) -> Link:
    bit = index & _LOW_END
    place = bitmap + (0x800 if write else 0) + (0x400 if index > _LOW_END else 0) + (bit >> 3)
    half = f"{'write' if write else 'read'} bitmap for {'high' if index > _LOW_END else 'low'} MSRs"
    look = _bit_in_memory(scene, place, bit & 7)
    return Link(f"bit {bit:#x} of the {half} is {look()} (bit {bit & 7} of spa {place:#x}, in the page that MSR_BITMAP "
                "names)", [field_link(scene, VmcsField.MSR_BITMAP, "MSR_BITMAP is {}")], look=look)


def _bit_in_memory(scene: Scene, spa: int, bit: int) -> Callable[[], int]:
    memory = scene.session.machine.memory
    return lambda: memory.read(spa, 1)[0] >> bit & 1 if spa < memory.size else 1


# --- ports ------------------------------------------------------------------------------------------------

@because(ExitReason.IO_INSTRUCTION)
def port(scene: Scene) -> list[Link]:
    """SDM "Unconditional I/O Exiting", "I/O-Bitmap Addresses"."""
    io = IoQualification(scene.exit.qualification)
    name = ("INS" if io.in_ else "OUTS") if io.string else ("IN" if io.in_ else "OUT")
    head = f"{name} of {io.size} byte{'s' * (io.size > 1)} at port {io.port:#x}"
    bitmaps = scene.vp.vcpu.controls.io_bitmaps
    if bitmaps is None:
        return [Link(f"{head} exits: every port does", [control(scene, P.UNCONDITIONAL_IO_EXITING),
                                                        control(scene, P.USE_IO_BITMAPS)])]
    links = [control(scene, P.USE_IO_BITMAPS)]
    if io.port + io.size > 0x10000:
        return [Link(f"{head} exits: it reaches beyond port 0xffff", links)]
    return [Link(f"{head} exits, since a bit says so", [_port_bit(scene, bitmaps, io), *links])]


def _port_bit(scene: Scene, bitmaps: tuple[int, int], io: IoQualification) -> Link:
    for each in range(io.port, io.port + io.size):
        place = bitmaps[each >> 15] + ((each & 0x7FFF) >> 3)
        look = _bit_in_memory(scene, place, each & 7)
        if look():
            break
    name = "AB"[each >> 15]
    return Link(f"bit {each & 0x7FFF:#x} of I/O bitmap {name}, that of port {each:#x}, is {look()} (bit {each & 7} of "
                f"spa {place:#x})", [field_link(scene, VmcsField[f"IO_BITMAP_{name}"], f"IO_BITMAP_{name} is {{}}")],
                look=look)


# --- registers --------------------------------------------------------------------------------------------

@because(ExitReason.CR_ACCESS)
def control_register(scene: Scene) -> list[Link]:
    """SDM "Guest/Host Masks and Read Shadows for CR0 and CR4", "CR3-Target Controls", "CR8-load exiting"."""
    access = CrQualification(scene.exit.qualification)
    verb = ("MOV to", "MOV from", "CLTS of", "LMSW to")[access.access]
    head, load = f"{verb} CR{access.number}", access.access == 0
    if access.number == 8:
        return [Link(f"{head} exits, since a control asks for it",
                     [control(scene, P.CR8_LOAD_EXITING if load else P.CR8_STORE_EXITING)])]
    if access.number == 3:
        links = [control(scene, P.CR3_LOAD_EXITING if load else P.CR3_STORE_EXITING)]
        if load:
            links.append(field_link(scene, VmcsField.CR3_TARGET_COUNT, "the value is none of the {} CR3-target values"))
        return [Link(f"{head} exits, since a control asks for it", links)]
    return [Link(f"{head} exits: a bit that the hypervisor owns would get another value than the read shadow has",
                 _masks(scene, access))]


def _masks(scene: Scene, access: CrQualification) -> list[Link]:
    number = access.number
    mask, shadow = scene.vp.vcpu.controls.cr_masks[number], scene.vp.vcpu.controls.cr_shadows[number]
    links = [field_link(scene, VmcsField[f"CR{number}_GUEST_HOST_MASK"], f"CR{number}_GUEST_HOST_MASK is {{}}: those "
                        "are the bits that are not the guest's own"),
             field_link(scene, VmcsField[f"CR{number}_READ_SHADOW"], f"CR{number}_READ_SHADOW is {{}}")]
    if scene.exact and access.access == 0:
        wanted = scene.vp.regs.gpr[access.register]
        links.insert(0, Link(f"the value is {wanted:#x}: bits {(wanted ^ shadow) & mask:#x} of the mask differ"))
    return links


@because(ExitReason.GDTR_IDTR_ACCESS, ExitReason.LDTR_TR_ACCESS)
def descriptor_table(scene: Scene) -> list[Link]:
    """SDM "Descriptor-table exiting"; a VP's own wish: TLFS "Non-Privileged Instruction Execution Prevention"."""
    wish = Link(f"the VP asks to keep these instructions from its programs: HV_NPIEP_CONFIG is {scene.vp.npiep:#x}",
                look=lambda: scene.vp.npiep)
    return [Link(f"{instructions(ExitReason(scene.exit.reason))} exits, since a control asks for it",
                 [control(scene, S.DESCRIPTOR_TABLE_EXITING), wish])]


@because(ExitReason.PAUSE)
def pause(scene: Scene) -> list[Link]:
    """SDM "Controls for PAUSE-Loop Exiting"."""
    links = [control(scene, P.PAUSE_EXITING)]
    if not scene.vp.vcpu.controls.primary & P.PAUSE_EXITING:
        links.append(control(scene, S.PAUSE_LOOP_EXITING))
        links.append(field_link(scene, VmcsField.PLE_WINDOW, "the loop has lasted longer than PLE_WINDOW, {} ticks"))
    return [Link("PAUSE exits, since a control asks for it", links)]


@because(ExitReason.VMREAD, ExitReason.VMWRITE)
def shadowing(scene: Scene) -> list[Link]:
    """SDM "VMCS shadowing"."""
    return [Link(f"{ExitReason(scene.exit.reason).name} exits, since no shadow VMCS has the field",
                 [control(scene, S.VMCS_SHADOWING)])]


# --- the virtual APIC ---------------------------------------------------------------------------------------

@because(ExitReason.APIC_ACCESS)
def apic_access(scene: Scene) -> list[Link]:
    """SDM "APIC-Access VM Exits"."""
    access = ApicAccessQualification(scene.exit.qualification)
    return [Link(f"an access to offset {access.offset:#x} of the APIC-access page exits: the processor does not "
                 "virtualize that register by itself, or not for that instruction",
                 [control(scene, S.VIRTUALIZE_APIC_ACCESSES), control(scene, S.APIC_REGISTER_VIRTUALIZATION),
                  field_link(scene, VmcsField.APIC_ACCESS_ADDR, "APIC_ACCESS_ADDR is {}")])]


@because(ExitReason.APIC_WRITE)
def apic_write(scene: Scene) -> list[Link]:
    """SDM "APIC-Write VM Exits": the value is in the page, software does the rest."""
    return [Link(f"a write to offset {scene.exit.qualification:#x} of the APIC is done in the page, and has an effect "
                 "beyond it that the processor leaves to software", [control(scene, S.APIC_REGISTER_VIRTUALIZATION)])]


@because(ExitReason.VIRTUALIZED_EOI)
def virtualized_eoi(scene: Scene) -> list[Link]:
    """SDM "EOI Virtualization": the EOI-exit bitmap names who is waited for."""
    vector = scene.exit.qualification & 0xFF
    field = VmcsField(VmcsField.EOI_EXIT_BITMAP0 + 2 * (vector >> 6))

    def look() -> int:
        return scene.vp.vcpu.vmcs.read(field) >> (vector & 63) & 1

    return [Link(f"the guest ended vector {vector:#x}, and somebody waits for that",
                 [Link(f"bit {vector & 63} of {field.name} is {look()}", look=look),
                  control(scene, S.VIRTUAL_INTERRUPT_DELIVERY)])]


@because(ExitReason.TPR_BELOW_THRESHOLD)
def below_threshold(scene: Scene) -> list[Link]:
    """SDM "TPR Virtualization"."""
    return [Link("the guest's task priority fell below the threshold", [
        field_link(scene, VmcsField.TPR_THRESHOLD, "TPR_THRESHOLD is {}"), control(scene, P.USE_TPR_SHADOW),
        control(scene, S.VIRTUAL_INTERRUPT_DELIVERY)])]

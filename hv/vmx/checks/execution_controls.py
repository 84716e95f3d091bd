"""VM entry's checks of the VM-execution controls; SDM "VM-Execution Control Fields" (of "Checks on VMX Controls").

Those about EPT and VPID are in `translation_controls.py`. Left out, because no processor here has the feature and the
rules could be compared with nothing: HLAT paging, IPI virtualization, PASID translation, Processor Trace with
guest-physical addresses.
"""

from __future__ import annotations

from hv.spec.msrs import Msr
from hv.spec.vmcs import (
    ExitControls,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)
from hv.vmx.checks.findings import allowed, allowed_1, one, physical, zero
from hv.vmx.checks.rule import (
    BY_SECONDARY,
    BY_TERTIARY,
    EXIT,
    NO_MEMORY,
    PIN,
    PRIMARY,
    SECONDARY,
    TERTIARY,
    Broken,
    Entry,
    Finding,
    Group,
    rules_of,
)

rule = rules_of(Group.EXECUTION_CONTROLS, "VM-Execution Control Fields")
_F = VmcsField
_CR3_TARGET_COUNT, _IO_A, _IO_B, _MSR_BITMAP = _F.CR3_TARGET_COUNT, _F.IO_BITMAP_A, _F.IO_BITMAP_B, _F.MSR_BITMAP
_VIRTUAL_APIC, _APIC_ACCESS, _THRESHOLD = _F.VIRTUAL_APIC_PAGE_ADDR, _F.APIC_ACCESS_ADDR, _F.TPR_THRESHOLD
_NOTIFICATION, _DESCRIPTOR = _F.POSTED_INTR_NOTIFICATION_VECTOR, _F.POSTED_INTR_DESC_ADDR

_EXTERNAL, _NMI = PinControls.EXTERNAL_INTERRUPT_EXITING.value, PinControls.NMI_EXITING.value
_VIRTUAL_NMIS, _POSTED = PinControls.VIRTUAL_NMIS.value, PinControls.PROCESS_POSTED_INTERRUPTS.value
_P = PrimaryControls
_TPR_SHADOW, _NMI_WINDOW = _P.USE_TPR_SHADOW.value, _P.NMI_WINDOW_EXITING.value
_USE_IO, _USE_MSR = _P.USE_IO_BITMAPS.value, _P.USE_MSR_BITMAPS.value
_ACTIVATE_SECONDARY, _ACTIVATE_TERTIARY = _P.ACTIVATE_SECONDARY_CONTROLS.value, _P.ACTIVATE_TERTIARY_CONTROLS.value
_S = SecondaryControls
_APIC_ACCESSES, _X2APIC, _VID = (_S.VIRTUALIZE_APIC_ACCESSES.value, _S.VIRTUALIZE_X2APIC_MODE.value,
                                 _S.VIRTUAL_INTERRUPT_DELIVERY.value)
_SHADOWED_APIC = _X2APIC | _S.APIC_REGISTER_VIRTUALIZATION.value | _VID
_ACKNOWLEDGE = ExitControls.ACKNOWLEDGE_INTERRUPT.value
_VTPR = 0x80                                # offset in the virtual-APIC page
_PIN_MSR, _PRIMARY_MSR, _MISC_MSR = Msr.VMX_TRUE_PINBASED_CTLS, Msr.VMX_TRUE_PROCBASED_CTLS, Msr.VMX_MISC
_SECONDARY_MSR, _TERTIARY_MSR = Msr.VMX_PROCBASED_CTLS2, Msr.VMX_PROCBASED_CTLS3


# --- What the processor offers -----------------------------------------------------------------------------------

@rule("pin-based-controls", PIN)
def pin_based(entry: Entry) -> Finding:
    """Reserved bits in the pin-based VM-execution controls are as the capability MSR says."""
    return allowed(entry, PIN, entry.pin, _PIN_MSR)


@rule("primary-processor-based-controls", PRIMARY)
def primary(entry: Entry) -> Finding:
    """Reserved bits in the primary processor-based controls are as the capability MSR says."""
    return allowed(entry, PRIMARY, entry.primary, _PRIMARY_MSR)


@rule("secondary-processor-based-controls", SECONDARY, when=BY_SECONDARY)
def secondary(entry: Entry) -> Finding:
    """If "activate secondary controls" is 1, the secondary controls are among those that the processor offers."""
    return allowed(entry, SECONDARY, entry.secondary, _SECONDARY_MSR) if entry.primary & _ACTIVATE_SECONDARY else None


@rule("tertiary-processor-based-controls", TERTIARY, when=BY_TERTIARY)
def tertiary(entry: Entry) -> Finding:
    """If "activate tertiary controls" is 1, the tertiary controls are among those that the processor offers."""
    return allowed_1(entry, TERTIARY, entry.tertiary, _TERTIARY_MSR) if entry.primary & _ACTIVATE_TERTIARY else None


@rule("cr3-target-count", _CR3_TARGET_COUNT)
def cr3_target_count(entry: Entry) -> Finding:
    """The CR3-target count is not greater than what IA32_VMX_MISC bits 24:16 say."""
    count = entry.values[_CR3_TARGET_COUNT]
    if not count:
        return None
    most = entry.msrs[_MISC_MSR] >> 16 & 0x1FF
    return Broken(f"{count} targets", f"at most {most}", {_CR3_TARGET_COUNT: most}) if count > most else None


# --- Bitmaps -----------------------------------------------------------------------------------------------------

@rule("io-bitmap-a-address", _IO_A, when=(PRIMARY,))
def io_bitmap_a(entry: Entry) -> Finding:
    """If "use I/O bitmaps" is 1, the address of bitmap A is 4-KByte aligned and not too wide."""
    return physical(entry, _IO_A, entry.values[_IO_A]) if entry.primary & _USE_IO else None


@rule("io-bitmap-b-address", _IO_B, when=(PRIMARY,))
def io_bitmap_b(entry: Entry) -> Finding:
    """If "use I/O bitmaps" is 1, the address of bitmap B is 4-KByte aligned and not too wide."""
    return physical(entry, _IO_B, entry.values[_IO_B]) if entry.primary & _USE_IO else None


@rule("msr-bitmap-address", _MSR_BITMAP, when=(PRIMARY,))
def msr_bitmap(entry: Entry) -> Finding:
    """If "use MSR bitmaps" is 1, the MSR-bitmap address is 4-KByte aligned and not too wide."""
    return physical(entry, _MSR_BITMAP, entry.values[_MSR_BITMAP]) if entry.primary & _USE_MSR else None


# --- APIC virtualization and interrupts --------------------------------------------------------------------------

@rule("virtual-apic-address", _VIRTUAL_APIC, when=(PRIMARY,))
def virtual_apic(entry: Entry) -> Finding:
    """If "use TPR shadow" is 1, the virtual-APIC address is 4-KByte aligned and not too wide."""
    return physical(entry, _VIRTUAL_APIC, entry.values[_VIRTUAL_APIC]) if entry.primary & _TPR_SHADOW else None


@rule("tpr-threshold-reserved-bits", _THRESHOLD, when=BY_SECONDARY)
def tpr_threshold_reserved(entry: Entry) -> Finding:
    """If "use TPR shadow" is 1 and "virtual-interrupt delivery" is 0, bits 31:4 of the TPR threshold are 0."""
    if not entry.primary & _TPR_SHADOW or entry.secondary & _VID:
        return None
    return zero(_THRESHOLD, entry.values[_THRESHOLD], 0xFFFF_FFF0)


@rule("tpr-threshold-not-above-vtpr", _THRESHOLD, _VIRTUAL_APIC, when=BY_SECONDARY, reads_memory=True)
def tpr_threshold_vtpr(entry: Entry) -> Finding:
    """If "use TPR shadow" is 1 and both "virtualize APIC accesses" and "virtual-interrupt delivery" are 0, bits 3:0 of
    the TPR threshold are not greater than bits 7:4 of VTPR, byte 80H of the virtual-APIC page."""
    if not entry.primary & _TPR_SHADOW or entry.secondary & (_VID | _APIC_ACCESSES):
        return None
    threshold = entry.values[_THRESHOLD]
    vtpr = entry.load(entry.values[_VIRTUAL_APIC] + _VTPR, 1)
    if vtpr is None:
        return NO_MEMORY
    if threshold & 0xF <= vtpr >> 4:
        return None
    return Broken(f"the threshold's bits 3:0 are {threshold & 0xF}, VTPR is {vtpr:#04x}", f"at most {vtpr >> 4}",
                  {_THRESHOLD: threshold & ~0xF | vtpr >> 4})


@rule("virtual-nmis-need-nmi-exiting", PIN)
def virtual_nmis(entry: Entry) -> Finding:
    """If "NMI exiting" is 0, "virtual NMIs" is 0."""
    return one(PIN, entry.pin, _NMI, '"virtual NMIs" is 1') if entry.pin & _VIRTUAL_NMIS else None


@rule("nmi-window-exiting-needs-virtual-nmis", PIN, PRIMARY)
def nmi_window(entry: Entry) -> Finding:
    """If "virtual NMIs" is 0, "NMI-window exiting" is 0."""
    return zero(PRIMARY, entry.primary, _NMI_WINDOW, '"virtual NMIs" is 0') if not entry.pin & _VIRTUAL_NMIS else None


@rule("apic-access-address", _APIC_ACCESS, when=BY_SECONDARY)
def apic_access(entry: Entry) -> Finding:
    """If "virtualize APIC accesses" is 1, the APIC-access address is 4-KByte aligned and not too wide."""
    return physical(entry, _APIC_ACCESS, entry.values[_APIC_ACCESS]) if entry.secondary & _APIC_ACCESSES else None


@rule("apic-virtualization-needs-tpr-shadow", PRIMARY, SECONDARY)
def apic_needs_shadow(entry: Entry) -> Finding:
    """If "use TPR shadow" is 0, "virtualize x2APIC mode", "APIC-register virtualization" and "virtual-interrupt
    delivery" are 0."""
    if entry.primary & _TPR_SHADOW:
        return None
    return zero(SECONDARY, entry.secondary, _SHADOWED_APIC, '"use TPR shadow" is 0')


@rule("x2apic-mode-excludes-apic-accesses", SECONDARY, when=BY_SECONDARY)
def x2apic_alone(entry: Entry) -> Finding:
    """If "virtualize x2APIC mode" is 1, "virtualize APIC accesses" is 0."""
    if not entry.secondary & _X2APIC:
        return None
    return zero(SECONDARY, entry.secondary, _APIC_ACCESSES, '"virtualize x2APIC mode" is 1')


@rule("virtual-interrupt-delivery-needs-external-interrupt-exiting", PIN, SECONDARY, when=BY_SECONDARY)
def delivery_needs_exiting(entry: Entry) -> Finding:
    """If "virtual-interrupt delivery" is 1, "external-interrupt exiting" is 1."""
    return one(PIN, entry.pin, _EXTERNAL, '"virtual-interrupt delivery" is 1') if entry.secondary & _VID else None


@rule("posted-interrupts-need-virtual-interrupt-delivery", PIN, PRIMARY, SECONDARY)
def posted_needs_delivery(entry: Entry) -> Finding:
    """If "process posted interrupts" is 1, "virtual-interrupt delivery" is 1."""
    if not entry.pin & _POSTED or entry.secondary & _VID:
        return None
    return zero(PIN, entry.pin, _POSTED, '"virtual-interrupt delivery" is 0')


@rule("posted-interrupts-need-acknowledge-on-exit", PIN, EXIT)
def posted_needs_acknowledge(entry: Entry) -> Finding:
    """If "process posted interrupts" is 1, "acknowledge interrupt on exit" is 1."""
    return one(EXIT, entry.exit, _ACKNOWLEDGE, '"process posted interrupts" is 1') if entry.pin & _POSTED else None


@rule("posted-interrupt-notification-vector", _NOTIFICATION, when=(PIN,))
def notification_vector(entry: Entry) -> Finding:
    """If "process posted interrupts" is 1, bits 15:8 of the notification vector are 0."""
    return zero(_NOTIFICATION, entry.values[_NOTIFICATION], 0xFF00) if entry.pin & _POSTED else None


@rule("posted-interrupt-descriptor-address", _DESCRIPTOR, when=(PIN,))
def descriptor_address(entry: Entry) -> Finding:
    """If "process posted interrupts" is 1, the descriptor's address is 64-byte aligned and not too wide."""
    return physical(entry, _DESCRIPTOR, entry.values[_DESCRIPTOR], 64) if entry.pin & _POSTED else None

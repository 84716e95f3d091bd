"""VM entry's checks of the VM-execution controls; SDM "VM-Execution Control Fields" (of "Checks on VMX Controls").

Left out, because no offered processor has the feature and its rules could not be compared with anything: HLAT paging,
IPI virtualization, PASID translation, Processor Trace with guest-physical addresses.
"""

from __future__ import annotations

from hv.spec.ept import Eptp
from hv.spec.msrs import Msr
from hv.spec.vmcs import (
    ExitControls,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
    VmFunctions,
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
_NOTIFICATION, _DESCRIPTOR, _VPID = _F.POSTED_INTR_NOTIFICATION_VECTOR, _F.POSTED_INTR_DESC_ADDR, _F.VPID
_EPTP, _PML, _SPP, _VE, _MULTIPLIER = (_F.EPT_POINTER, _F.PML_ADDRESS, _F.SPP_TABLE_POINTER, _F.VE_INFO_ADDRESS,
                                       _F.TSC_MULTIPLIER)
_VM_FUNCTIONS, _EPTP_LIST = _F.VM_FUNCTION_CONTROLS, _F.EPTP_LIST_ADDRESS
_VMREAD, _VMWRITE = _F.VMREAD_BITMAP, _F.VMWRITE_BITMAP

_EXTERNAL, _NMI = PinControls.EXTERNAL_INTERRUPT_EXITING.value, PinControls.NMI_EXITING.value
_VIRTUAL_NMIS, _POSTED = PinControls.VIRTUAL_NMIS.value, PinControls.PROCESS_POSTED_INTERRUPTS.value
_P = PrimaryControls
_TPR_SHADOW, _NMI_WINDOW = _P.USE_TPR_SHADOW.value, _P.NMI_WINDOW_EXITING.value
_USE_IO, _USE_MSR = _P.USE_IO_BITMAPS.value, _P.USE_MSR_BITMAPS.value
_S = SecondaryControls
_APIC_ACCESSES, _X2APIC, _VID = (_S.VIRTUALIZE_APIC_ACCESSES.value, _S.VIRTUALIZE_X2APIC_MODE.value,
                                 _S.VIRTUAL_INTERRUPT_DELIVERY.value)
_SHADOWED_APIC = _X2APIC | _S.APIC_REGISTER_VIRTUALIZATION.value | _VID
_EPT, _USE_VPID, _URG = _S.ENABLE_EPT.value, _S.ENABLE_VPID.value, _S.UNRESTRICTED_GUEST.value
_MODE_BASED, _USE_PML, _USE_SPP = (_S.MODE_BASED_EXECUTE_CONTROL.value, _S.ENABLE_PML.value,
                                   _S.SUB_PAGE_WRITE_PERMISSIONS.value)
_USE_VE, _USE_FUNCTIONS, _SHADOWING = (_S.EPT_VIOLATION_VE.value, _S.ENABLE_VM_FUNCTIONS.value,
                                       _S.VMCS_SHADOWING.value)
_SCALING, _SWITCHING = _S.USE_TSC_SCALING.value, VmFunctions.EPTP_SWITCHING.value
_ACKNOWLEDGE = ExitControls.ACKNOWLEDGE_INTERRUPT.value
_ACTIVATE_SECONDARY, _ACTIVATE_TERTIARY = _P.ACTIVATE_SECONDARY_CONTROLS.value, _P.ACTIVATE_TERTIARY_CONTROLS.value
_VTPR = 0x80                                # offset in the virtual-APIC page
_PIN_MSR, _PRIMARY_MSR = Msr.VMX_TRUE_PINBASED_CTLS, Msr.VMX_TRUE_PROCBASED_CTLS
_SECONDARY_MSR, _TERTIARY_MSR, _FUNCTIONS_MSR = Msr.VMX_PROCBASED_CTLS2, Msr.VMX_PROCBASED_CTLS3, Msr.VMX_VMFUNC
_MISC_MSR, _EPT_MSR = Msr.VMX_MISC, Msr.VMX_EPT_VPID_CAP
_TYPE_OFFERED, _LENGTH_OFFERED = {6: 14, 0: 8}, {3: 6, 4: 7}     # by what the EPTP says: the bit of the capability MSR
_EPTP_RESERVED = Eptp.RESERVED & 0xFFF


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


# --- EPT, VPID, and what stands on them --------------------------------------------------------------------------

@rule("vpid-not-zero", _VPID, when=BY_SECONDARY)
def vpid(entry: Entry) -> Finding:
    """If "enable VPID" is 1, the VPID is not 0000H."""
    if not entry.secondary & _USE_VPID or entry.values[_VPID]:
        return None
    return Broken("VPID 0000H, which is the host's", "1..FFFFH", {_VPID: 1})


@rule("eptp-memory-type", _EPTP, when=BY_SECONDARY)
def eptp_memory_type(entry: Entry) -> Finding:
    """If "enable EPT" is 1, bits 2:0 of the EPTP are a memory type that IA32_VMX_EPT_VPID_CAP offers: UC or WB."""
    if not entry.secondary & _EPT:
        return None
    value, offered = entry.values[_EPTP], entry.msrs[_EPT_MSR]
    place = _TYPE_OFFERED.get(value & 7)
    if place is not None and offered >> place & 1:
        return None
    good = [kind for kind, bit in _TYPE_OFFERED.items() if offered >> bit & 1]
    return Broken(f"memory type {value & 7}", "0 (UC) or 6 (WB), as IA32_VMX_EPT_VPID_CAP bits 8 and 14 offer",
                  {_EPTP: value & ~7 | good[0]} if good else {})


@rule("eptp-page-walk-length", _EPTP, when=BY_SECONDARY)
def eptp_walk_length(entry: Entry) -> Finding:
    """If "enable EPT" is 1, bits 5:3 of the EPTP are the length of a page walk that is offered, less 1."""
    if not entry.secondary & _EPT:
        return None
    value, offered = entry.values[_EPTP], entry.msrs[_EPT_MSR]
    length = value >> 3 & 7
    place = _LENGTH_OFFERED.get(length)
    if place is not None and offered >> place & 1:
        return None
    good = [walk for walk, bit in _LENGTH_OFFERED.items() if offered >> bit & 1]
    words = " or ".join(f"{walk} ({walk + 1} levels)" for walk in good) or "none is offered"
    return Broken(f"bits 5:3 are {length}: {length + 1} levels", words,
                  {_EPTP: value & ~0x38 | good[0] << 3} if good else {})


@rule("eptp-accessed-dirty", _EPTP, when=BY_SECONDARY)
def eptp_accessed_dirty(entry: Entry) -> Finding:
    """If "enable EPT" is 1, bit 6 of the EPTP is 0 on a processor without accessed and dirty flags for EPT."""
    if not entry.secondary & _EPT or not entry.values[_EPTP] & 1 << 6 or entry.msrs[_EPT_MSR] >> 21 & 1:
        return None
    return zero(_EPTP, entry.values[_EPTP], 1 << 6, "IA32_VMX_EPT_VPID_CAP bit 21 is 0")


@rule("eptp-supervisor-shadow-stack", _EPTP, when=BY_SECONDARY)
def eptp_shadow_stack(entry: Entry) -> Finding:
    """If "enable EPT" is 1, bit 7 of the EPTP is 0 on a processor without supervisor shadow-stack control."""
    if not entry.secondary & _EPT or not entry.values[_EPTP] & 1 << 7 or entry.msrs[_EPT_MSR] >> 23 & 1:
        return None
    return zero(_EPTP, entry.values[_EPTP], 1 << 7, "IA32_VMX_EPT_VPID_CAP bit 23 is 0")


@rule("eptp-reserved-bits", _EPTP, when=BY_SECONDARY)
def eptp_reserved(entry: Entry) -> Finding:
    """If "enable EPT" is 1, bits 11:8 of the EPTP, and those beyond the physical-address width, are 0."""
    if not entry.secondary & _EPT:
        return None
    value = entry.values[_EPTP]
    if not value & _EPTP_RESERVED and not value >> entry.physical_bits:
        return None
    return zero(_EPTP, value, _EPTP_RESERVED | (1 << 64) - (1 << entry.physical_bits),
                f"they are reserved (the physical-address width is {entry.physical_bits} bits)")


def _needs_ept(id: str, control: int, name: str) -> None:
    @rule(id, SECONDARY, when=BY_SECONDARY, text=f'If "{name}" is 1, "enable EPT" is 1.')
    def check(entry: Entry) -> Finding:
        if not entry.secondary & control:
            return None
        return one(SECONDARY, entry.secondary, _EPT, f'"{name}" is 1')


_needs_ept("unrestricted-guest-needs-ept", _URG, "unrestricted guest")
_needs_ept("mode-based-execute-control-needs-ept", _MODE_BASED, "mode-based execute control for EPT")
_needs_ept("pml-needs-ept", _USE_PML, "enable PML")


@rule("pml-address", _PML, when=BY_SECONDARY)
def pml_address(entry: Entry) -> Finding:
    """If "enable PML" is 1, the PML address is 4-KByte aligned and not too wide."""
    return physical(entry, _PML, entry.values[_PML]) if entry.secondary & _USE_PML else None


_needs_ept("sub-page-write-permissions-need-ept", _USE_SPP, "sub-page write permissions for EPT")


@rule("sub-page-permission-table-pointer", _SPP, when=BY_SECONDARY)
def spp_pointer(entry: Entry) -> Finding:
    """If "sub-page write permissions for EPT" is 1, the SPPTP is 4-KByte aligned and not too wide."""
    return physical(entry, _SPP, entry.values[_SPP]) if entry.secondary & _USE_SPP else None


@rule("virtualization-exception-information-address", _VE, when=BY_SECONDARY)
def ve_information(entry: Entry) -> Finding:
    """If "EPT-violation #VE" is 1, the virtualization-exception information address is 4-KByte aligned and not too
    wide."""
    return physical(entry, _VE, entry.values[_VE]) if entry.secondary & _USE_VE else None


@rule("vm-function-controls", _VM_FUNCTIONS, when=BY_SECONDARY)
def vm_functions(entry: Entry) -> Finding:
    """If "enable VM functions" is 1, reserved bits in the VM-function controls are 0."""
    if not entry.secondary & _USE_FUNCTIONS:
        return None
    return allowed_1(entry, _VM_FUNCTIONS, entry.values[_VM_FUNCTIONS], _FUNCTIONS_MSR)


@rule("eptp-switching-needs-ept", SECONDARY, _VM_FUNCTIONS, when=BY_SECONDARY)
def switching_needs_ept(entry: Entry) -> Finding:
    """If "EPTP switching" is 1, "enable EPT" is 1."""
    if not entry.secondary & _USE_FUNCTIONS or not entry.values[_VM_FUNCTIONS] & _SWITCHING:
        return None
    return one(SECONDARY, entry.secondary, _EPT, '"EPTP switching" is 1')


@rule("eptp-list-address", _EPTP_LIST, when=(*BY_SECONDARY, _VM_FUNCTIONS))
def eptp_list(entry: Entry) -> Finding:
    """If "EPTP switching" is 1, the EPTP-list address is 4-KByte aligned and not too wide."""
    if not entry.secondary & _USE_FUNCTIONS or not entry.values[_VM_FUNCTIONS] & _SWITCHING:
        return None
    return physical(entry, _EPTP_LIST, entry.values[_EPTP_LIST])


@rule("vmread-bitmap-address", _VMREAD, when=BY_SECONDARY)
def vmread_bitmap(entry: Entry) -> Finding:
    """If "VMCS shadowing" is 1, the VMREAD-bitmap address is 4-KByte aligned and not too wide."""
    return physical(entry, _VMREAD, entry.values[_VMREAD]) if entry.secondary & _SHADOWING else None


@rule("vmwrite-bitmap-address", _VMWRITE, when=BY_SECONDARY)
def vmwrite_bitmap(entry: Entry) -> Finding:
    """If "VMCS shadowing" is 1, the VMWRITE-bitmap address is 4-KByte aligned and not too wide."""
    return physical(entry, _VMWRITE, entry.values[_VMWRITE]) if entry.secondary & _SHADOWING else None


@rule("tsc-multiplier-not-zero", _MULTIPLIER, when=BY_SECONDARY)
def tsc_multiplier(entry: Entry) -> Finding:
    """If "use TSC scaling" is 1, the TSC multiplier is not 0."""
    if not entry.secondary & _SCALING or entry.values[_MULTIPLIER]:
        return None
    return Broken("0: the guest's TSC would stand still", "not 0; 2^48 leaves the TSC as it is", {_MULTIPLIER: 1 << 48})

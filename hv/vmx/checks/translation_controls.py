"""VM entry's checks of the controls of address translation: VPID, EPT, and what stands on them.

SDM "VM-Execution Control Fields" (of "Checks on VMX Controls"); goes on where `execution_controls.py` ends.
"""

from __future__ import annotations

from hv.spec.ept import Eptp
from hv.spec.msrs import Msr
from hv.spec.vmcs import (
    SecondaryControls,
    VmcsField,
    VmFunctions,
)
from hv.vmx.checks.findings import allowed_1, one, physical, zero
from hv.vmx.checks.rule import (
    BY_SECONDARY,
    SECONDARY,
    Broken,
    Entry,
    Finding,
    Group,
    rules_of,
)
from hv.vmx.checks.words import levels

rule = rules_of(Group.EXECUTION_CONTROLS, "VM-Execution Control Fields")
_F = VmcsField
_EPTP, _PML, _SPP, _VE, _MULTIPLIER = (_F.EPT_POINTER, _F.PML_ADDRESS, _F.SPP_TABLE_POINTER, _F.VE_INFO_ADDRESS,
                                       _F.TSC_MULTIPLIER)
_VPID, _VM_FUNCTIONS, _EPTP_LIST = _F.VPID, _F.VM_FUNCTION_CONTROLS, _F.EPTP_LIST_ADDRESS
_VMREAD, _VMWRITE = _F.VMREAD_BITMAP, _F.VMWRITE_BITMAP

_S = SecondaryControls
_EPT, _USE_VPID, _URG = _S.ENABLE_EPT.value, _S.ENABLE_VPID.value, _S.UNRESTRICTED_GUEST.value
_MODE_BASED, _USE_PML, _USE_SPP = (_S.MODE_BASED_EXECUTE_CONTROL.value, _S.ENABLE_PML.value,
                                   _S.SUB_PAGE_WRITE_PERMISSIONS.value)
_USE_VE, _USE_FUNCTIONS, _SHADOWING = (_S.EPT_VIOLATION_VE.value, _S.ENABLE_VM_FUNCTIONS.value,
                                       _S.VMCS_SHADOWING.value)
_SCALING, _SWITCHING = _S.USE_TSC_SCALING.value, VmFunctions.EPTP_SWITCHING.value
_EPT_MSR, _FUNCTIONS_MSR = Msr.VMX_EPT_VPID_CAP, Msr.VMX_VMFUNC
_TYPE_OFFERED, _LENGTH_OFFERED = {6: 14, 0: 8}, {3: 6, 4: 7}     # by what the EPTP says: the bit of the capability MSR
_EPTP_RESERVED = Eptp.RESERVED & 0xFFF


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
    return Broken(f"bits 5:3 are {length}: {levels(length)}", words,
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
                f"every reserved bit (the physical-address width is {entry.physical_bits} bits)")


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

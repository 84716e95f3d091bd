"""Spot checks of VT-x's numbers: field encodings, controls, reasons, qualifications, EPT."""

import pytest

from hv.spec import ept, exits, vmcs
from hv.spec.exits import ExitReason, VmInstructionError
from hv.spec.vmcs import FieldEncoding, FieldKind, FieldWidth, VmcsField, field_of


@pytest.mark.parametrize(("layout", "size"), [
    (vmcs.VmcsRegion, 8), (vmcs.MsrListEntry, 16), (ept.InveptDescriptor, 16), (ept.InvvpidDescriptor, 16),
    (ept.VirtualizationExceptionArea, 34),
])
def test_sizes(layout, size):
    assert size == layout.SIZE


@pytest.mark.parametrize("field", VmcsField, ids=lambda field: field.name)
def test_a_field_is_what_its_encoding_says(field):
    """SDM "Field Encoding in VMCS": bit 0 and bits 31:15 and 12 of a full encoding are 0; the name tells the kind."""
    encoding = FieldEncoding(field)
    assert encoding.raw & FieldEncoding.RESERVED == 0
    assert encoding.high == 0
    assert (encoding.width, encoding.kind, encoding.index) == (field.width, field.kind, field.index)
    if field.name.startswith("HOST_"):
        assert field.kind is FieldKind.HOST_STATE
    if field.kind is FieldKind.READ_ONLY_DATA:
        assert field.read_only
    if field.name.endswith("SELECTOR"):
        assert field.width is FieldWidth.BITS_16
    assert field_of(field) == (field, False)


@pytest.mark.parametrize(("field", "encoding"), [
    (VmcsField.VPID, 0x0000), (VmcsField.GUEST_TR_SELECTOR, 0x080E), (VmcsField.HOST_TR_SELECTOR, 0x0C0C),
    (VmcsField.EPT_POINTER, 0x201A), (VmcsField.GUEST_PHYSICAL_ADDRESS, 0x2400), (VmcsField.GUEST_IA32_EFER, 0x2806),
    (VmcsField.VM_ENTRY_INTERRUPTION_INFO, 0x4016), (VmcsField.EXIT_REASON, 0x4402),
    (VmcsField.VMX_PREEMPTION_TIMER_VALUE, 0x482E), (VmcsField.EXIT_QUALIFICATION, 0x6400),
    (VmcsField.GUEST_RIP, 0x681E), (VmcsField.HOST_RIP, 0x6C16),
])
def test_field_encodings(field, encoding):
    assert field == encoding


def test_only_64_bit_fields_have_a_high_half():
    """VMREAD of any other odd encoding is VMfail 12."""
    assert VmcsField.TSC_OFFSET.high_half == 0x2011
    assert field_of(0x2011) == (VmcsField.TSC_OFFSET, True)
    assert field_of(VmcsField.GUEST_RIP | 1) is None
    assert field_of(0x482C) is None
    assert field_of(VmcsField.VPID | 1 << 15) is None
    with pytest.raises(ValueError, match="GUEST_RIP"):
        _ = VmcsField.GUEST_RIP.high_half


def test_widths_give_masks():
    assert VmcsField.VPID.mask == 0xFFFF
    assert VmcsField.EXIT_REASON.mask == 0xFFFFFFFF
    assert VmcsField.GUEST_RIP.mask == VmcsField.TSC_OFFSET.mask == (1 << 64) - 1


def test_default1_masks():
    """SDM "Reserved Controls and Default Settings": the TRUE MSRs release CR3 exiting and the debug controls."""
    released = vmcs.PrimaryControls.CR3_LOAD_EXITING | vmcs.PrimaryControls.CR3_STORE_EXITING
    assert sum(1 << n for n in (1, 4, 5, 6, 8, 13, 14, 15, 16, 26)) == vmcs.PRIMARY_DEFAULT1
    assert vmcs.PRIMARY_DEFAULT1 & ~released == vmcs.TRUE_PRIMARY_DEFAULT1
    assert sum(1 << n for n in (*range(9), 10, 11, 13, 14, 16, 17)) == vmcs.EXIT_DEFAULT1
    assert vmcs.EXIT_DEFAULT1 & ~vmcs.ExitControls.SAVE_DEBUG_CONTROLS == vmcs.TRUE_EXIT_DEFAULT1
    assert vmcs.ENTRY_DEFAULT1 & ~vmcs.EntryControls.LOAD_DEBUG_CONTROLS == vmcs.TRUE_ENTRY_DEFAULT1
    assert vmcs.PIN_DEFAULT1 == 1 << 1 | 1 << 2 | 1 << 4


def test_allowed_settings_judge_controls():
    settings = vmcs.AllowedSettings(allowed_0=0x16, allowed_1=0x3F)
    assert settings.allows(0x17)
    assert not settings.allows(0x07)
    assert not settings.allows(0x56)


@pytest.mark.parametrize(("reason", "number"), [
    (ExitReason.EXCEPTION_OR_NMI, 0), (ExitReason.TRIPLE_FAULT, 2), (ExitReason.CPUID, 10), (ExitReason.VMCALL, 18),
    (ExitReason.CR_ACCESS, 28), (ExitReason.WRMSR, 32), (ExitReason.ENTRY_FAILURE_GUEST_STATE, 33),
    (ExitReason.EPT_VIOLATION, 48), (ExitReason.PREEMPTION_TIMER_EXPIRED, 52), (ExitReason.TPAUSE, 68),
    (ExitReason.WRMSRNS_IMMEDIATE, 85),
])
def test_exit_reasons(reason, number):
    assert reason == number


def test_nobody_uses_the_reasons_that_mean_nothing():
    assert not {35, 38, 42, 71, 82, 83} & {int(reason) for reason in ExitReason}


def test_qualifications_read_as_in_the_manual():
    io = exits.IoQualification(0x03F80040)
    assert (io.port, io.size, io.in_, io.immediate, io.string) == (0x3F8, 1, 0, 1, 0)
    cr = exits.CrQualification(0x00000304)
    assert (cr.number, cr.access, cr.register) == (4, exits.CrAccess.MOV_TO_CR, 3)
    violation = exits.EptViolationQualification(0x182)
    assert (violation.write, violation.linear_valid, violation.final, violation.readable) == (1, 1, 1, 0)
    assert exits.InterruptionInfo(vector=14, type=exits.InterruptionType.HARDWARE_EXCEPTION,
                                  error_code_valid=1, valid=1).raw == 0x80000B0E
    assert vmcs.PendingDebugExceptions.RESERVED & 0xFFFFFFFF == 0xFFFFFFFF & ~0x1580F


def test_every_vm_instruction_error_has_a_text():
    assert VmInstructionError(7).text == "VM entry with an invalid control field"
    assert all(error.text for error in VmInstructionError)
    assert not {14, 21, 27} & {int(error) for error in VmInstructionError}


def test_an_ept_entry_says_rights_and_address():
    entry = ept.EptEntry(read=1, write=1, execute=1, memory_type=ept.EptMemoryType.WB, frame=0x1234)
    assert entry.raw == 0x1234037
    assert (entry.present, entry.rights, entry.address) == (True, ept.EptRights.ALL, 0x1234000)
    assert not ept.EptEntry(frame=5).present
    assert ept.Eptp(memory_type=6, walk_length=3, root=0x10).raw == 0x1001E
    assert ept.Eptp(0x1001E).ep4ta == 0x10000
    assert ept.EptRights.WRITE in ept.MISCONFIGURED_RIGHTS

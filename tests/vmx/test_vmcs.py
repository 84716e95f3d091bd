"""The VMCS: guest fields are the registers, exit fields are those of the last exit, widths are kept."""

from __future__ import annotations

import pytest

from hv.machine.registers import Segment
from hv.spec.exits import ExitReason
from hv.spec.vmcs import EntryControls, FieldEncoding, FieldKind, FieldWidth, VmcsField
from hv.vmx.exit import VmExit
from hv.vmx.vmcs import _EXIT_INFORMATION, _GUEST, DEFAULT_CONTROLS, Vmcs, VmcsError
from tests.proves import proves

F = VmcsField
NATURAL = {F.GUEST_CR0: "cr0", F.GUEST_CR3: "cr3", F.GUEST_CR4: "cr4", F.GUEST_DR7: "dr7", F.GUEST_RSP: "rsp",
           F.GUEST_RIP: "rip", F.GUEST_IA32_EFER: "efer"}


@pytest.fixture
def vmcs(box) -> Vmcs:
    return Vmcs(box.state(), lambda: None)


@pytest.mark.parametrize("field", NATURAL, ids=lambda field: field.name)
def test_a_guest_field_is_the_register(vmcs, field):
    vmcs.write(field, 0x80000031 if field is F.GUEST_CR0 else 0x500)
    assert getattr(vmcs.state, NATURAL[field]) == vmcs.read(field) != 0
    setattr(vmcs.state, NATURAL[field], 0x100)
    assert vmcs.read(field) == 0x100


@pytest.mark.parametrize("segment", ["es", "cs", "ss", "ds", "fs", "gs", "ldtr"])
def test_the_parts_of_a_segment_are_fields(vmcs, segment):
    name = segment.upper()
    for part, value in (("SELECTOR", 0x2B), ("BASE", 0x5000), ("LIMIT", 0xFFFFF), ("ACCESS_RIGHTS", 0x40F3)):
        vmcs.write(F[f"GUEST_{name}_{part}"], value)
        assert vmcs.read(F[f"GUEST_{name}_{part}"]) == value
    assert getattr(vmcs.state, segment) == Segment(0x2B, 0x5000, 0xFFFFF, 0x40F3)


@pytest.mark.parametrize("field", [field for field in VmcsField if field.read_only], ids=lambda field: field.name)
@pytest.mark.parametrize("after", [None, VmExit(ExitReason.CPUID, 0, 2)])
def test_a_read_only_field_keeps_what_is_written_until_the_next_exit(vmcs, field, after):
    """Who may write it is VMWRITE's business."""
    vmcs.last_exit = after
    vmcs.write(field, (1 << 80) - 1)
    assert vmcs.read(field) == field.mask
    vmcs.last_exit = VmExit(ExitReason.HLT, 0, 1)
    if field in _EXIT_INFORMATION:
        assert vmcs.read(field) == {F.EXIT_REASON: 12, F.EXIT_INSTRUCTION_LENGTH: 1}.get(field, 0)


def test_writing_one_exit_field_leaves_the_others_of_the_last_exit(vmcs):
    vmcs.last_exit = VmExit(ExitReason.CPUID, 0x77, 2)
    vmcs.write(F.EXIT_REASON, 5)
    assert [vmcs.read(f) for f in (F.EXIT_REASON, F.EXIT_QUALIFICATION, F.EXIT_INSTRUCTION_LENGTH)] == [5, 0x77, 2]


@proves("event/GUEST_STATE")
@pytest.mark.parametrize("reason", [ExitReason.ENTRY_FAILURE_GUEST_STATE, ExitReason.ENTRY_FAILURE_MSR_LOADING])
def test_a_failed_entry_writes_reason_and_qualification_only(vmcs, reason):
    """SDM "VM-Entry Failures During or After Loading Guest State": bit 31, and all other fields stay."""
    vmcs.last_exit = VmExit(ExitReason.EPT_VIOLATION, 0x181, 3)
    vmcs.record_entry_failure(VmExit(reason, 4))
    assert vmcs.read(F.EXIT_REASON) == 1 << 31 | reason
    assert vmcs.read(F.EXIT_QUALIFICATION) == 4
    assert vmcs.read(F.EXIT_INSTRUCTION_LENGTH) == 3
    assert vmcs.inspect()["EXIT_REASON_NAME"] == reason.name


@pytest.mark.parametrize(("field", "value"), [(F.GUEST_RFLAGS, 0), (F.GUEST_TR_ACCESS_RIGHTS, 0x1FFFF),
                                              (F.GUEST_CS_ACCESS_RIGHTS, 0xF00), (F.GUEST_RFLAGS, (1 << 64) - 1)])
def test_a_value_that_no_register_holds_is_seen_until_entry_or_until_the_register_changes(vmcs, field, value):
    """VM entry shall refuse what was written, not what became of it."""
    before = vmcs.read(field)
    vmcs.write(field, value)
    assert vmcs.read(field) == value
    vmcs.entered()
    assert vmcs.read(field) != value
    vmcs.write(field, value)
    vmcs.write(field, before)
    assert vmcs.read(field) == before


def test_a_vmcs_without_a_vcpu_is_plain_data(box):
    vmcs = Vmcs(fields={})
    for field in VmcsField:
        vmcs.write(field, int(field) * 0x1_0001_0001_0001)
    assert all(vmcs.read(field) == int(field) * 0x1_0001_0001_0001 & field.mask for field in VmcsField)


def test_what_the_registers_held_stays_when_the_vcpu_goes(vmcs):
    vmcs.state.rip, vmcs.state.efer = 0x1234, 0xD00
    vmcs.write(F.GUEST_RFLAGS, 0)
    state = vmcs.state
    vmcs.detach()
    state.rip, state.efer = 0, 0
    assert (vmcs.read(F.GUEST_RIP), vmcs.read(F.GUEST_RFLAGS)) == (0x1234, 0)
    assert vmcs.read(F.VM_ENTRY_CONTROLS) & EntryControls.IA32E_MODE_GUEST
    vmcs.detach()
    assert vmcs.read(F.GUEST_RIP) == 0x1234


def test_a_random_exit_reason_can_be_shown(vmcs):
    vmcs.write(F.EXIT_REASON, 0xFFFF)
    assert vmcs.inspect()["EXIT_REASON_NAME"] == "0xffff"


@pytest.mark.parametrize("number", [0x1, 0xFFFF, 0x7777, 0x123456])
def test_an_unknown_field_is_an_error(vmcs, number):
    with pytest.raises(VmcsError, match="is no VMCS field"):
        vmcs.read(number)
    with pytest.raises(VmcsError, match="is no VMCS field"):
        vmcs.write(number, 0)


@pytest.mark.parametrize("field", [field for field in VmcsField if FieldEncoding(field).kind in
                                   (FieldKind.CONTROL, FieldKind.HOST_STATE) and field is not F.VM_ENTRY_CONTROLS],
                         ids=lambda field: field.name)
def test_a_control_or_host_field_keeps_what_fits_its_width(vmcs, field):
    vmcs.write(field, (1 << 80) - 1)
    bits = {FieldWidth.BITS_16: 16, FieldWidth.BITS_32: 32}.get(FieldWidth(FieldEncoding(field).width), 64)
    assert vmcs.read(field) == (1 << bits) - 1


def test_a_write_of_a_control_is_announced_and_one_of_guest_state_is_not(box):
    told = []
    vmcs = Vmcs(box.state(), lambda: told.append(1))
    vmcs.write(F.EXCEPTION_BITMAP, 1)
    vmcs.write(F.GUEST_RIP, 1)
    assert told == [1]


@pytest.mark.parametrize("efer", [0, 0x500])
def test_the_entry_control_for_long_mode_says_what_efer_says(vmcs, efer):
    vmcs.state.efer = efer
    assert bool(vmcs.read(F.VM_ENTRY_CONTROLS) & EntryControls.IA32E_MODE_GUEST) is bool(efer)


@pytest.mark.parametrize("efer", [0, 0x500])
def test_every_other_entry_control_is_kept_named_or_not(vmcs, efer):
    vmcs.state.efer = efer
    vmcs.write(F.VM_ENTRY_CONTROLS, 0xFFFF_FFFF)
    assert vmcs.read(F.VM_ENTRY_CONTROLS) == 0xFFFF_FDFF | (0x200 if efer else 0)


def test_exit_fields_are_zero_before_the_first_exit_and_then_the_exits(vmcs):
    assert all(vmcs.read(field) == 0 for field in _EXIT_INFORMATION)
    exit = VmExit(ExitReason.EPT_VIOLATION, 0x181, 3)
    exit.guest_physical_address, exit.guest_linear_address = 0x1234, 0x5678
    exit.interruption_info, exit.idt_vectoring_info = 0x80000B0E, 0x80000306
    vmcs.last_exit = exit
    assert [vmcs.read(field) for field in (
        F.EXIT_REASON, F.EXIT_QUALIFICATION, F.EXIT_INSTRUCTION_LENGTH, F.GUEST_PHYSICAL_ADDRESS,
        F.GUEST_LINEAR_ADDRESS,
        F.EXIT_INTERRUPTION_INFO, F.IDT_VECTORING_INFO)] == [48, 0x181, 3, 0x1234, 0x5678, 0x80000B0E, 0x80000306]


def test_the_interrupt_shadow_is_the_interruptibility_state(vmcs):
    vmcs.write(F.GUEST_INTERRUPTIBILITY_STATE, 1)
    assert vmcs.state.interrupt_shadow
    vmcs.state.interrupt_shadow = False
    assert vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE) == 0


def test_every_guest_field_can_be_read_and_written_back(vmcs):
    before = {field: vmcs.read(field) for field in _GUEST}
    for field, value in before.items():
        vmcs.write(field, value)
    assert {field: vmcs.read(field) for field in _GUEST} == before


def test_inspecting_names_what_is_not_zero(vmcs):
    shown = vmcs.inspect()
    assert shown["GUEST_CR0"] == 0x80010033
    assert shown["PIN_BASED_CONTROLS"] == DEFAULT_CONTROLS[F.PIN_BASED_CONTROLS]
    assert "TSC_OFFSET" not in shown
    assert all(value for value in shown.values())

"""Every rule of VM entry by itself: a VMCS that breaks this one only, and the change that mends it."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.spec.exits import EntryFailure, VmInstructionError
from hv.spec.vmcs import VmcsField
from hv.vmx.capabilities import COMPLETE, PROCESSOR
from hv.vmx.checks import RULES, Broken, Entry, Group, Unchecked, entry_result
from hv.vmx.checks.example import valid_guest
from hv.vmx.checks.rule import rules_of
from tests.proves import proves
from tests.vmx.checks.guest_rows import ROWS
from tests.vmx.checks.rows import APIC, CURRENT, LINKED, PROTECTED, F, Row, memory

RAM = memory()
MANUAL = [
    (Group.EXECUTION_CONTROLS, "VM-Execution Control Fields"),
    (Group.EXIT_CONTROLS, "VM-Exit Control Fields"),
    (Group.ENTRY_CONTROLS, "VM-Entry Control Fields"),
    (Group.HOST_STATE, "Checks on Host Control Registers, MSRs, and SSP"),
    (Group.HOST_STATE, "Checks on Host Segment and Descriptor-Table Registers"),
    (Group.HOST_STATE, "Checks Related to Address-Space Size"),
    (Group.GUEST_STATE, "Checks on Guest Control Registers, Debug Registers, and MSRs"),
    (Group.GUEST_STATE, "Checks on Guest Segment Registers"),
    (Group.GUEST_STATE, "Checks on Guest Descriptor-Table Registers"),
    (Group.GUEST_STATE, "Checks on Guest RIP, RFLAGS, and SSP"),
    (Group.GUEST_STATE, "Checks on Guest Non-Register State"),
    (Group.GUEST_STATE, "Checks on Guest Page-Directory-Pointer-Table Entries"),
]


def broken(entry: Entry) -> dict[str, Broken]:
    found = ((rule.id, rule.check(entry)) for rule in RULES)
    return {id: finding for id, finding in found if isinstance(finding, Broken)}


def every(rows: list[Row]) -> list[object]:
    """One parameter for each row, by the name of its rule; a rule with several has numbers behind them."""
    seen: dict[str, int] = {}
    made = []
    for row in rows:
        seen[row.id] = seen.get(row.id, 0) + 1
        name = row.id if seen[row.id] == 1 else f"{row.id}-{seen[row.id]}"
        made.append(pytest.param(row, id=name, marks=proves(f"rule/{row.id}")))
    return made


@pytest.mark.parametrize("row", every(ROWS))
def test_a_vmcs_that_breaks_one_rule_breaks_no_other(row: Row):
    """The VMCS is valid before, and exactly this rule fails after; what must fail with it is named, with the reason."""
    assert broken(row.entry(RAM, broken=False)) == {}
    found = broken(row.entry(RAM))
    assert set(found) == {row.id, *row.also}
    assert bool(row.also) is bool(row.why)


@pytest.mark.parametrize("row", every(ROWS))
def test_the_smallest_change_mends_the_rule(row: Row):
    entry = row.entry(RAM)
    rule = next(rule for rule in RULES if rule.id == row.id)
    finding = broken(entry)[row.id]
    assert finding.fix
    assert all(0 <= value <= field.mask for field, value in finding.fix.items())
    assert all(value != entry.values[field] for field, value in finding.fix.items())
    assert rule.check(entry.with_values(finding.fix)) is None


@pytest.mark.parametrize("row", every(ROWS))
def test_what_is_found_and_required_is_said(row: Row):
    finding = broken(row.entry(RAM))[row.id]
    assert finding.found
    assert finding.required
    assert "\n" not in finding.found + finding.required


def test_every_rule_has_a_row():
    assert {row.id for row in ROWS} == {rule.id for rule in RULES}


def test_the_rules_are_in_the_manuals_order():
    """SDM "VM Entries": each heading once, its rules together."""
    assert [heading for heading, _ in groupby(RULES, lambda rule: (rule.group, rule.heading))] == MANUAL


def test_every_rule_says_what_it_wants():
    for rule in RULES:
        assert rule.text.endswith("."), rule.id
        assert rule.fields, rule.id


def test_a_second_rule_of_the_same_name_is_an_error():
    with pytest.raises(TypeError, match="two rules called pin-based-controls"):
        rules_of(Group.HOST_STATE, "nowhere")("pin-based-controls", F.HOST_CR0)(lambda entry: None)


@pytest.mark.parametrize("processor", [PROCESSOR, COMPLETE], ids=["modelled", "complete"])
def test_the_small_valid_guest_is_entered(processor):
    result = entry_result(Entry(valid_guest(processor), processor))
    assert result.entered
    assert (result.error, result.exit_reason) == (None, None)


@pytest.mark.parametrize(("group", "error"), [
    (Group.EXECUTION_CONTROLS, 7), (Group.EXIT_CONTROLS, 7), (Group.ENTRY_CONTROLS, 7), (Group.HOST_STATE, 8)])
def test_a_wrong_control_is_vmfail_7_and_a_wrong_host_vmfail_8(group, error):
    """SDM "VM-Instruction Error Numbers"."""
    for row in ROWS:
        rule = next(rule for rule in RULES if rule.id == row.id)
        if rule.group is group:
            result = entry_result(row.entry(RAM))
            assert result.error == VmInstructionError(error), row.id
            assert result.exit_reason is None
            assert result.failure is not None
            assert result.failure.words == f"VMfail {error}"


@proves("event/GUEST_STATE", "event/PDPTE", "event/VMCS_LINK_POINTER", "exit/ENTRY_FAILURE_GUEST_STATE")
def test_a_wrong_guest_state_is_exit_33_with_bit_31_and_its_qualification():
    """SDM "VM-Entry Failures During or After Loading Guest State": 2 for PDPTEs, 4 for the link pointer, else 0."""
    for row in ROWS:
        rule = next(rule for rule in RULES if rule.id == row.id)
        if rule.group is Group.GUEST_STATE and "no-entry-to-smm-outside-smm" not in row.also:
            result = entry_result(row.entry(RAM))
            assert result.exit_reason is not None
            assert result.exit_reason.raw == 0x80000021, row.id
            assert result.error is None
            wanted = EntryFailure.PDPTE if "pdpte" in row.id else \
                EntryFailure.VMCS_LINK_POINTER if "link-pointer" in row.id else EntryFailure.GUEST_STATE
            assert result.qualification is wanted, row.id


def test_controls_come_before_the_host_and_both_before_the_guest():
    everything = {F.PIN_BASED_CONTROLS: 0, F.HOST_CR0: 0, F.GUEST_CR0: 0}
    values = valid_guest() | everything
    first = entry_result(Entry(values))
    assert first.error is VmInstructionError.ENTRY_INVALID_CONTROLS
    values[F.PIN_BASED_CONTROLS] = valid_guest()[F.PIN_BASED_CONTROLS]
    assert entry_result(Entry(values)).error is VmInstructionError.ENTRY_INVALID_HOST_STATE
    values[F.HOST_CR0] = valid_guest()[F.HOST_CR0]
    assert entry_result(Entry(values)).exit_reason is not None


MEMORY_ROWS = {
    "tpr-threshold-not-above-vtpr": APIC, "vmcs-link-pointer-revision": {F.VMCS_LINK_POINTER: LINKED},
    "vmcs-link-pointer-shadow-indicator": {F.VMCS_LINK_POINTER: LINKED},
    **{f"guest-pdpte{n}-reserved-bits": PROTECTED | {F.GUEST_CR4: 0x2020, F.SECONDARY_PROC_CONTROLS: 0,
                                                     F.GUEST_CR3: 0x2000} for n in range(4)},
}


def test_the_rules_that_read_memory_are_these():
    assert {rule.id for rule in RULES if rule.reads_memory} == set(MEMORY_ROWS)


@pytest.mark.parametrize("id", MEMORY_ROWS)
def test_a_rule_that_reads_memory_says_when_there_is_none(id):
    """It never passes silently."""
    entry = Entry(valid_guest() | MEMORY_ROWS[id])
    rule = next(rule for rule in RULES if rule.id == id)
    assert isinstance(rule.check(entry), Unchecked)
    assert rule in entry_result(entry).unchecked
    assert rule.check(Entry(entry.values, memory=RAM)) is None


@proves(*(f"rule/guest-pdpte{n}-reserved-bits" for n in range(4)))
@pytest.mark.parametrize("number", range(4))
def test_without_ept_the_pdptes_are_those_in_memory(number):
    """SDM "Checks on Guest Page-Directory-Pointer-Table Entries": at CR3 bits 31:5."""
    ram = memory()
    ram.write_u64(0x2020 + 8 * number, 0x1003)
    values = valid_guest() | MEMORY_ROWS["guest-pdpte0-reserved-bits"] | {F.GUEST_CR3: 0x2038}
    assert broken(Entry(values, memory=ram)).keys() == {f"guest-pdpte{number}-reserved-bits"}
    ram.write_u64(0x2020 + 8 * number, 0x1002)      # not present: nothing of it is reserved
    assert broken(Entry(values, memory=ram)) == {}


def test_an_address_without_ram_reads_as_ones():
    values = valid_guest() | {F.VMCS_LINK_POINTER: 1 << 40}
    assert broken(Entry(values, memory=RAM)).keys() == {"vmcs-link-pointer-revision",
                                                        "vmcs-link-pointer-shadow-indicator"}


def test_linear_addresses_have_57_bits_where_the_processor_has_them():
    wide = {F.HOST_GS_BASE: 1 << 55, F.GUEST_GS_BASE: 1 << 55}
    assert broken(Entry(valid_guest(COMPLETE) | wide, COMPLETE)) == {}
    assert broken(Entry(valid_guest() | wide)).keys() == {"host-gs-base-canonical", "guest-gs-base-canonical"}


def test_an_error_code_is_optional_where_vmx_basic_says_so():
    """IA32_VMX_BASIC bit 56."""
    processor = replace(PROCESSOR, basic=type(PROCESSOR.basic)(PROCESSOR.basic.raw, any_error_code=1))
    for info in (3 << 8 | 14, 1 << 11 | 3 << 8 | 6):
        values = valid_guest(processor) | {F.VM_ENTRY_INTERRUPTION_INFO: 1 << 31 | info}
        assert broken(Entry(values, processor)) == {}
    values[F.VM_ENTRY_INTERRUPTION_INFO] = 1 << 31 | 1 << 11 | 4 << 8 | 6
    assert broken(Entry(values, processor)).keys() == {"injected-error-code-not-allowed"}


INTERESTING = st.one_of(
    st.sampled_from((0, 1, 2, 3, 4, 8, 0x10, 0x93, 0x9B, 0xF3, 0xFFF, 0xFFFF, 0x10000, 0x80000B0E, 0x80000202, 1 << 31,
                     1 << 32, 1 << 46, 1 << 47, 1 << 48, 1 << 63, (1 << 32) - 1, (1 << 64) - 1)),
    st.integers(0, (1 << 64) - 1), st.integers(0, 63).map(lambda n: 1 << n))
FIELDS = st.sampled_from(list(VmcsField))
CHANGES = st.dictionaries(FIELDS, INTERESTING, max_size=8)


def changed(processor, changes) -> dict[VmcsField, int]:
    return valid_guest(processor) | {field: value & field.mask for field, value in changes.items()}


@settings(max_examples=400)
@given(changes=CHANGES, complete=st.booleans(), ram=st.booleans(), now=st.booleans())
def test_no_vmcs_raises_an_error_and_every_fix_repairs(changes, complete, ram, now):
    """Whatever the fields hold."""
    processor = COMPLETE if complete else PROCESSOR
    entry = Entry(changed(processor, changes), processor, RAM if ram else None, now, CURRENT)
    for rule in RULES:
        finding = rule.check(entry)
        if isinstance(finding, Broken):
            assert finding.fix, rule.id
            assert all(0 <= value <= field.mask for field, value in finding.fix.items()), rule.id
            assert not isinstance(rule.check(entry.with_values(finding.fix)), Broken), rule.id


@settings(max_examples=400)
@given(row=st.sampled_from(ROWS), field=FIELDS, value=INTERESTING)
def test_a_rule_reads_no_field_that_it_does_not_name(row, field, value):
    """So it need not run again while none of those was written."""
    entry = row.entry(RAM)
    other = entry.with_values({field: value & field.mask})
    for rule in RULES:
        if field not in rule.reads:
            assert rule.check(entry) == rule.check(other), rule.id

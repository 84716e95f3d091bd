"""What is checked again: the rules about what was written, and nothing when nothing they read was."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hv.spec.vmcs import FieldKind, VmcsField
from hv.vmx.checks import RULES, Entry, entry_result
from hv.vmx.checks.example import valid_guest
from hv.vmx.checks.incremental import EntryChecks
from tests.vmx.checks.rows import APIC, F, memory

RAM = memory()
GUEST_FIELDS = [field for field in VmcsField if field.kind is FieldKind.GUEST_STATE]


def attempt(checks: EntryChecks, changes: dict[VmcsField, int], written=(), guest_state=False):
    """(rules run, result) of an entry of the valid guest with *changes*."""
    before = checks.count
    result = checks.check(Entry(valid_guest() | changes, memory=RAM), checks.due(written, guest_state))
    return checks.count - before, result


def test_the_first_entry_is_checked_by_every_rule():
    count, result = attempt(EntryChecks(), {})
    assert (count, result.entered) == (len(RULES), True)


def test_nothing_is_checked_when_nothing_was_written():
    checks = EntryChecks()
    attempt(checks, {})
    assert attempt(checks, {})[0] == 0


def test_nothing_is_checked_for_a_field_that_no_rule_reads():
    checks = EntryChecks()
    attempt(checks, {})
    assert attempt(checks, {F.TSC_OFFSET: 5, F.EXCEPTION_BITMAP: 7}, (F.TSC_OFFSET, F.EXCEPTION_BITMAP))[0] == 0


def test_the_rules_of_the_field_that_was_written_are_run():
    checks = EntryChecks()
    attempt(checks, {})
    count, result = attempt(checks, {F.HOST_CR3: 1 << 60}, (F.HOST_CR3,))
    assert count == 1
    assert result.failure is not None
    assert result.failure.rule.id == "host-cr3-width"


def test_after_a_failure_everything_is_checked():
    """The first failure ended the last attempt, so nobody knows of the rules behind it."""
    checks = EntryChecks()
    attempt(checks, {})
    attempt(checks, {F.HOST_CR3: 1 << 60}, (F.HOST_CR3,))
    assert attempt(checks, {})[0] == len(RULES)
    assert attempt(checks, {})[0] == 0


def test_registers_that_software_wrote_are_all_guest_state():
    checks = EntryChecks()
    attempt(checks, {})
    expected = sum(any(field.kind is FieldKind.GUEST_STATE for field in rule.reads) for rule in RULES)
    assert attempt(checks, {}, (), True)[0] == expected < len(RULES)
    assert attempt(checks, {}, (F.HOST_CR3,), True)[0] == expected + 1


def test_what_a_rule_found_in_memory_is_looked_at_again():
    """VTPR changes without a write to the VMCS."""
    checks = EntryChecks()
    attempt(checks, APIC | {F.TPR_THRESHOLD: 2})
    RAM.write(0x7080, b"\x10")
    count, result = attempt(checks, APIC | {F.TPR_THRESHOLD: 2})
    RAM.write(0x7080, b"\x30")
    assert count > 0
    assert result.failure is not None
    assert result.failure.rule.id == "tpr-threshold-not-above-vtpr"


VALUES = st.one_of(st.sampled_from((0, 1, 3, 8, 0x93, 0xF3, 0xFFFF, 1 << 31, 1 << 47, (1 << 64) - 1)),
                   st.integers(0, (1 << 64) - 1))


@settings(max_examples=200)
@given(steps=st.lists(st.dictionaries(st.sampled_from(list(VmcsField)), VALUES, max_size=3), max_size=5))
def test_the_result_is_that_of_all_rules(steps):
    """Whatever was written between the attempts."""
    checks, values = EntryChecks(), valid_guest()
    for changes in steps:
        masked = {field: value & field.mask for field, value in changes.items()}
        values = values | masked
        entry = Entry(values, memory=RAM)
        written = [field for field in masked if field.kind is not FieldKind.GUEST_STATE]
        result = checks.check(entry, checks.due(written, len(written) < len(masked)))
        assert result == entry_result(Entry(values, memory=RAM))

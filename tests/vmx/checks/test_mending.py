"""What a person is told to change: the oversight itself, not what follows from it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.vmx.capabilities import COMPLETE
from hv.vmx.checks import Entry, entry_result
from hv.vmx.checks.example import valid_guest
from hv.vmx.checks.explain import explain
from tests.vmx.checks.rows import CS, GUEST_64, HOST_32, LDTR, PROTECTED, TR, URG, VALID, E, F, X, on_entry, secondary

KERNEL = {F.GUEST_RIP: 0xFFFF_FFFF_8100_0000, F.GUEST_CR4: VALID[F.GUEST_CR4] | 1 << 17}
REAL = PROTECTED | {F.GUEST_CR0: 0x30, F.GUEST_CR4: 0x2000}
OVERSIGHTS = {
    "IA-32e mode guest": (KERNEL | on_entry(without=E.IA32E_MODE_GUEST), on_entry()),
    "the control of a 32-bit guest": (PROTECTED | on_entry(), on_entry(without=E.IA32E_MODE_GUEST)),
    "host address-space size": ({F.VM_EXIT_CONTROLS: VALID[F.VM_EXIT_CONTROLS] & ~int(X.HOST_ADDRESS_SPACE_SIZE)},
                                {F.VM_EXIT_CONTROLS: VALID[F.VM_EXIT_CONTROLS]}),
    "unrestricted guest": (REAL | secondary(), URG),
    "rights as LAR gives them": ({CS: 0xAF9B00}, {CS: 0xA09B}),
    "rights of LAR in two registers": ({CS: 0xAF9B00, TR: 0x008B00}, {CS: 0xA09B, TR: 0x8B}),
    "null selectors that are not unusable": (
        {F.GUEST_DS_ACCESS_RIGHTS: 0, F.GUEST_FS_ACCESS_RIGHTS: 0, F.GUEST_FS_LIMIT: 0, LDTR: 0},
        {F.GUEST_DS_ACCESS_RIGHTS: 1 << 16, F.GUEST_FS_ACCESS_RIGHTS: 1 << 16, LDTR: 1 << 16}),
}


@pytest.mark.parametrize(("wrong", "right"), OVERSIGHTS.values(), ids=OVERSIGHTS)
def test_an_oversight_is_named_instead_of_what_follows_from_it(wrong, right):
    made = explain(Entry(valid_guest(COMPLETE) | wrong, COMPLETE))
    assert made.failures
    assert made.mended == right


def test_what_comes_back_to_its_old_value_is_no_change():
    """The rule about IA32_EFER is mended first, and again when the host is one of 64 bits after all."""
    mended = explain(Entry(valid_guest() | HOST_32 | GUEST_64 | {F.HOST_IA32_EFER: VALID[F.HOST_IA32_EFER]})).mended
    assert mended == {F.VM_EXIT_CONTROLS: VALID[F.VM_EXIT_CONTROLS]}


def test_code_and_task_registers_are_never_mended_to_be_unusable():
    """They have no null selector; SDM "Checks on Guest Segment Registers"."""
    mended = explain(Entry(valid_guest() | {CS: 0, TR: 0})).mended
    assert mended is not None
    assert not (mended[CS] | mended[TR]) >> 16


@settings(max_examples=60)
@given(changes=st.dictionaries(st.sampled_from([*KERNEL, *REAL, CS, LDTR, TR, F.GUEST_SS_ACCESS_RIGHTS]),
                               st.integers(0, (1 << 32) - 1), min_size=1, max_size=4))
def test_the_changes_let_the_guest_enter_and_nothing_else_is_changed(changes):
    entry = Entry(valid_guest() | changes)
    mended = explain(entry).mended
    if mended:
        assert entry_result(entry.with_values(mended)).entered
        assert all(value != entry.values[field] for field, value in mended.items())

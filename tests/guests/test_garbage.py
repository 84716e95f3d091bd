"""Guests that nobody wrote end in bounded time, by one of five ways, and harm nobody.

A larger campaign: `python -m tests.guests.garbage --first 0 --count 20000`.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.guest_runner import image_of
from tests.guests import garbage
from tests.guests.garbage import FIRST_OF_VMX, GarbageGuest, campaign, make, run_garbage


@settings(max_examples=40)
@given(code=st.binary(min_size=1, max_size=64), bits=st.sampled_from((16, 32, 64)),
       rax=st.integers(0, (1 << 64) - 1), rbx=st.sampled_from((0, 0x500, 0x10000, 0x71000, 0xFEE00300)))
def test_random_bytes_end_the_same_way_twice(code, bits, rax, rbx):
    """The victim's memory is compared inside `run_garbage`."""
    guest = GarbageGuest(0, image_of(code, bits), {"rax": rax, "rbx": rbx})
    assert run_garbage(guest, 50_000).fingerprint() == run_garbage(guest, 50_000).fingerprint()


@pytest.mark.parametrize("seed", range(60))
def test_a_random_guest_ends_the_same_way_twice(seed):
    """Random instructions, privileges, descriptors and control registers, and damaged copies of our own guests."""
    guest = make(seed)
    assert run_garbage(guest, 50_000).fingerprint() == run_garbage(guest, 50_000).fingerprint()


@pytest.mark.parametrize("seed", range(FIRST_OF_VMX, FIRST_OF_VMX + 40))
def test_a_guest_that_knows_of_vmx_ends_the_same_way_twice(seed):
    """Its APIC's page, its other processor, and the instructions that exit."""
    guest = make(seed)
    assert run_garbage(guest, 50_000).fingerprint() == run_garbage(guest, 50_000).fingerprint()


def test_most_random_guests_are_entered():
    """What VM entry refuses runs no instruction, and shows nothing."""
    refused = [seed for seed in range(5000, 5040) if "VM entry failed" in run_garbage(make(seed), 5_000).why]
    assert len(refused) <= 2


# What campaigns found, by what it did.
FOUND = {
    400781: "interrupt gates to 64-bit code with a base",
    130: "its #UD handler is undefined itself: no time passed",
    112: "interrupt gates that lead to faults, for ever",
    201897: "it rewrites the code at address 0 while it runs through it",
    201320: "it rewrites the instruction it is about to execute",
}


@pytest.mark.parametrize("seed", FOUND)
def test_a_guest_that_once_misbehaved_ends(seed):
    run_garbage(make(seed))


def test_a_campaign_reports_a_guest_that_misbehaves(monkeypatch, capsys):
    def harmful(seed):
        raise AssertionError("harmed")

    monkeypatch.setattr(garbage, "make", harmful)
    assert campaign(0, 2, batch=2, twice=False) == 2
    assert "seed 1: exception" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{"twice": False}, {"hooks": True}], ids=["once", "python-hooks"])
def test_a_campaign_of_good_guests_counts_nothing(options, capsys):
    """The guests run in processes of their own."""
    assert campaign(5000, 6, batch=3, **options) == 0
    assert "6 guests from seed 5000: 0 misbehaved" in capsys.readouterr().out

"""The timer of the time that a VP executes, from inside, where VPs take turns."""

from itertools import pairwise

import pytest

from hv.hypervisor.hypervisor import Hypervisor
from hv.trace import events
from tests.guest_runner import assemble, run_guest
from tests.guests.test_interrupts import EOI, XAPIC_ON, guest

RUNTIME = "mov ecx, 0x40000010; rdmsr"
ON = ("mov ecx, 0x40000114; mov eax, 0x161; xor edx, edx; wrmsr; "
      "mov ecx, 0x40000115; mov eax, 1000; xor edx, edx; wrmsr")
WORK = f"{RUNTIME}; lea r8d, [eax+5500]; work:; {RUNTIME}; cmp eax, r8d; jb work"


@pytest.fixture(autouse=True, params=[pytest.param(True, id="virtualized"), pytest.param(False, id="by-exits")])
def virtualized(request, monkeypatch):
    monkeypatch.setattr(Hypervisor, "apic_virtualization", request.param)


def expiries(result):
    return [event.runtime for event in result.of(events.UnhaltedTimerExpired)]


@pytest.mark.parametrize("vps", [1, 2], ids=["alone", "with-another-that-never-sleeps"])
def test_the_turns_of_another_vp_do_not_count(vps):
    """Five periods of work are five interrupts, however long that takes; each is at most one exit late."""
    start = f"{XAPIC_ON}; mov dword ptr [rbx+0x310], 0x1000000; mov dword ptr [rbx+0x300], 0x4500; " \
            "mov dword ptr [rbx+0x300], 0x4608"
    code = assemble("again:; inc eax; jmp again", 16, 0x8000)[0][1]
    result = run_guest(guest(f"{start if vps == 2 else 'nop'}; {ON}; sti; {WORK}; cli; mov dx, 0x604; "
                             "mov ax, 0x2000; out dx, ax", {0x61: f"inc r15; {EOI}"}),
                       vps=vps, data={0x8000: code}, budget=40_000_000)
    assert (result.ended, result.r15) == ("shutdown", 5)
    times = expiries(result)
    assert len(times) == 5
    for earlier, later in pairwise(times):
        assert 990 <= later - earlier <= 1010


def test_a_guest_that_only_sleeps_is_as_idle_with_it_as_without():
    """It leaves no moment behind at which time would stop."""
    result = run_guest(guest(f"{ON}; sti; hlt", {0x61: EOI}))
    without = run_guest(guest("sti; hlt", {0x61: EOI}))
    assert (result.ended, without.ended, expiries(result)) == ("halt", "halt", [])
    assert result.tsc - without.tsc < 10_000

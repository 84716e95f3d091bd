"""EOI assist from inside: who follows the protocol gets the interrupts with and without APIC virtualization."""

import pytest

from hv.trace import events
from tests.guest_runner import run_guest
from tests.guests.test_interrupts import EOI, guest, log_of, mark, xapic_ipi

ASSIST = 0x180000
APIC = f"mov ebx, 0xFEE00000; mov dword ptr [rbx+0xF0], 0x1FF; mov ecx, 0x40000073; mov eax, {ASSIST | 1}; " \
       "xor edx, edx; wrmsr"
TICKS = 10


def end(n):
    """What an operating system does at the end of a handler: test and clear, then EOI only if the bit was clear."""
    return f"lock btr dword ptr [{ASSIST}], 0; jc done_{n}; {EOI}; {mark('E')}; done_{n}:"


def eoi_writes(result):
    return [access for access in result.of(events.MmioAccess) if access.write and access.gpa == 0xFEE000B0]


@pytest.mark.parametrize(("virtualized", "ends"), [(True, "tE"), (False, "t")])
def test_a_guest_ends_its_ticks_without_an_exit_either_way(virtualized, ends):
    """With APIC virtualization by a write that is no exit; without by the bit in the assist page."""
    code = guest("mov dword ptr [rbx+0x3E0], 0xB; mov dword ptr [rbx+0x320], 0x20061; mov dword ptr [rbx+0x380], 2000; "
                 f"xor r12d, r12d; again:; sti; hlt; cli; cmp r12d, {TICKS}; jb again; mov dword ptr [rbx+0x380], 0",
                 {0x61: f"{mark('t')}; inc r12d; {end(1)}"}, apic=APIC)
    result = run_guest(code, apic_virtualization=virtualized)
    assert log_of(result) == ends * TICKS
    assert eoi_writes(result) == []


@pytest.mark.parametrize("virtualized", [True, False])
def test_an_interrupt_that_waits_behind_another_is_not_lost(virtualized):
    """A lower one comes while the first is handled: the bit is taken back, and the EOI lets it through."""
    code = guest(f"sti; {xapic_ipi(0x61)}; nop; nop; {mark('m')}",
                 {0x61: f"{mark('a')}; {xapic_ipi(0x41)}; {end(1)}", 0x41: f"{mark('b')}; {end(2)}"}, apic=APIC)
    result = run_guest(code, apic_virtualization=virtualized)
    assert log_of(result) == ("aEbEm" if virtualized else "aEbm")


@pytest.mark.parametrize("virtualized", [True, False])
def test_a_higher_interrupt_nests(virtualized):
    code = guest(f"sti; {xapic_ipi(0x41)}; nop; nop; {mark('m')}",
                 {0x41: f"{mark('a')}; sti; {xapic_ipi(0x61)}; nop; cli; {mark('c')}; {end(1)}",
                  0x61: f"{mark('b')}; {end(2)}"}, apic=APIC)
    result = run_guest(code, apic_virtualization=virtualized)
    assert log_of(result) == ("abEcEm" if virtualized else "abcEm")

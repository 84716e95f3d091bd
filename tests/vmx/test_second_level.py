"""Guest-physical memory: the same stale translation for software and for the engine until INVEPT."""

from __future__ import annotations

import pytest

from hv.machine.faults import Access, NestedFault
from hv.vmx.translation.second_level import SecondLevel
from tests.vmx.vcpu_box import ALL

DATA, OTHER = 0x20000, 0x21000


def software(box) -> SecondLevel:
    """The processor's own accesses."""
    return SecondLevel(box.cached, box.ept.eptp.raw)


def both(box, gpa: int = DATA) -> tuple[int, int]:
    """What software and a guest read at *gpa*."""
    vcpu, _ = box.exit_of("mov rax, [rbx]; cpuid", rbx=gpa)
    return software(box).load(gpa, 8), vcpu.state.rax


def test_a_change_is_seen_by_neither_until_invept(box):
    box.memory.write_u64(DATA, 1), box.memory.write_u64(OTHER, 2)
    assert both(box) == (1, 1)
    box.ept.map(DATA, OTHER, ALL)
    assert both(box) == (1, 1)
    box.ept.invept()
    assert both(box) == (2, 2)


def test_a_page_that_was_taken_away_is_there_until_invept(box):
    box.memory.write_u64(DATA, 1)
    assert both(box) == (1, 1)
    box.ept.unmap(DATA)
    assert both(box) == (1, 1)
    box.ept.invept()
    with pytest.raises(NestedFault):
        software(box).load(DATA, 8)
    _, exit = box.exit_of("mov rax, [rbx]; cpuid", rbx=DATA)
    assert exit.guest_physical_address == DATA


def test_a_page_that_was_never_used_is_seen_at_once(box):
    box.ept.map(0x3000000, OTHER, ALL)
    box.memory.write_u64(OTHER, 2)
    assert software(box).load(0x3000000, 8) == 2


@pytest.mark.parametrize(("rights", "access", "refused"), [
    (Access.READ, 1, False), (Access.READ, 2, True), (Access.READ, 4, True), (Access.READ | Access.WRITE, 2, False),
    (Access.READ | Access.WRITE, 4, True), (Access.READ | Access.EXECUTE, 4, False), (Access.READ | Access.EXECUTE, 2,
                                                                                      True)])
def test_rights_are_those_of_the_tables(box, rights, access, refused):
    box.ept.map(DATA, DATA, rights)
    box.ept.invept()
    answer = software(box).answer(DATA + 5, access)
    if refused:
        assert answer is None
        with pytest.raises(NestedFault) as fault:
            software(box).translate(DATA + 5, access)
        assert (fault.value.gpa, int(fault.value.access)) == (DATA + 5, access)
    else:
        assert answer == (DATA, True, bool(rights & 2), bool(rights & 4), False)


def test_a_large_page_is_answered_as_one(box):
    box.ept.map(0x4000000, 0x200000, ALL, 2 << 20)
    box.ept.invept()
    assert software(box).answer(0x4003123, 1) == (0x203000, True, True, True, True)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_software_stores_what_the_guest_reads(box, size):
    software(box).store(DATA + 3, 0x1122334455667788 & (1 << 8 * size) - 1, size)
    vcpu, _ = box.exit_of("mov rax, [rbx]; cpuid", rbx=DATA + 3)
    assert software(box).load(DATA + 3, size) == vcpu.state.rax == 0x1122334455667788 & (1 << 8 * size) - 1


def test_an_address_behind_ram_goes_to_the_bus(box):
    box.ept.map(0x5000000, 0xF0000000, ALL)
    box.ept.invept()
    assert software(box).load(0x5000000, 4) == 0xFFFFFFFF
    software(box).store(0x5000000, 1, 4)


def test_code_written_by_software_is_executed_new(box):
    vcpu, _ = box.exit_of("mov eax, 1; cpuid")
    assert vcpu.state.rax == 1
    software(box).store(0x10001, 9, 1)
    vcpu.state.rip = 0x10000
    box.go(vcpu)
    assert vcpu.state.rax == 9

"""PAE paging under EPT: when the four entries are loaded, and what is refused then."""

from __future__ import annotations

import pytest

from hv.machine.faults import Access
from hv.spec.ept import EptViolationQualification
from hv.spec.exits import ExitReason
from hv.spec.vmcs import VmcsField
from hv.vmx.vcpu import Vcpu
from tests.proves import proves
from tests.vmx.vcpu_box import CODE, VcpuBox, vector_at

POINTERS, DIRECTORY, OTHERS = 0x9000, 0xA000, 0xB020
ON = "mov eax, 0x9000; mov cr3, eax; mov eax, 0x2020; mov cr4, eax; mov eax, 0x80000031; mov cr0, eax; "


def pae(box: VcpuBox, source: str) -> Vcpu:
    """A 32-bit guest that switches PAE paging on, identity by pages of 2 MiB, and goes on with *source*."""
    for n in range(4):
        box.memory.write_u64(POINTERS + 8 * n, DIRECTORY + 1 if n == 0 else n << 9)     # the others are not present
        box.memory.write_u64(OTHERS + 8 * n, DIRECTORY + 1)
    for n in range(8):
        box.memory.write_u64(DIRECTORY + 8 * n, n << 21 | 0xE7)
    vcpu = box.vcpu(32)
    box.put(ON + source, 32)
    vcpu.state.rbx = OTHERS
    return vcpu


def loaded(vcpu: Vcpu) -> list[int]:
    return [vcpu.vmcs.read(VmcsField[f"GUEST_PDPTE{n}"]) for n in range(4)]


@proves("control/SecondaryControls.ENABLE_EPT")
def test_the_entries_are_loaded_by_cr0_and_by_cr3(box):
    """SDM "PDPTE Registers"."""
    vcpu = pae(box, "cpuid; mov cr3, ebx; hlt")
    seen = []

    def handle(exit) -> bool:
        seen.append(loaded(vcpu))
        vcpu.state.complete_instruction(exit.instruction_length)
        return exit.reason is ExitReason.CPUID

    box.handle = handle
    box.go(vcpu)
    assert seen == [[DIRECTORY + 1, 1 << 9, 2 << 9, 3 << 9], [DIRECTORY + 1] * 4]
    assert vcpu.state.cr3 == OTHERS


@pytest.mark.parametrize("wrong", [2, 4, 1 << 5, 1 << 8, 1 << 40, 1 << 63])
def test_a_reserved_bit_is_a_general_protection_fault(box, wrong):
    """SDM: of a present entry; CR3 is as it was."""
    vcpu = pae(box, "mov cr3, ebx; hlt")
    box.memory.write_u64(OTHERS + 16, DIRECTORY + 1 | wrong)
    box.go(vcpu)
    assert (vector_at(vcpu), vcpu.state.cr3) == (13, POINTERS)


def test_a_reserved_bit_of_an_entry_that_is_not_present_is_none(box):
    vcpu = pae(box, "mov cr3, ebx; hlt")
    box.memory.write_u64(OTHERS + 16, 1 << 63 | 6)
    box.go(vcpu)
    assert (vector_at(vcpu), vcpu.state.cr3) == (None, OTHERS)


@proves("exit/EPT_VIOLATION")
@pytest.mark.parametrize("by", ["cr0", "cr3"])
def test_entries_that_ept_refuses_have_no_linear_address(box, by):
    """SDM "Exit Qualification for EPT Violations": bit 7 is 0 for a load of PDPTEs."""
    page = POINTERS if by == "cr0" else OTHERS & ~0xFFF
    vcpu = pae(box, "mov cr3, ebx; hlt")
    box.ept.map(page, page, Access.EXECUTE)
    box.ept.invept()
    box.go(vcpu)
    exit = box.exits[0]
    expected = EptViolationQualification(1, executable=1)
    assert (exit.reason, EptViolationQualification(exit.qualification)) == (ExitReason.EPT_VIOLATION, expected)
    assert (exit.guest_linear_address, exit.guest_physical_address) == (None, POINTERS if by == "cr0" else OTHERS)
    assert vcpu.state.rip == CODE + (21 if by == "cr0" else 24)


def test_outside_pae_paging_a_load_of_cr3_stays_in_the_guest(box):
    vcpu, _ = box.exit_of("mov rax, cr3; mov cr3, rax; hlt")
    assert loaded(vcpu) == [0] * 4

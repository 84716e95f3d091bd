"""Accessed and dirty flags of the EPT, and the log of what became dirty, by guests that read and write."""

from __future__ import annotations

import pytest

from hv.machine.faults import Access
from hv.spec.ept import EptEntry, EptViolationQualification
from hv.spec.exits import ExitReason, InterruptionInfo
from hv.spec.vmcs import SecondaryControls, VmcsField
from hv.vmx.vcpu import Vcpu
from tests.machine.engine_box import DATA, DIRECTORY, PDPT, PML4, STACK, TABLE
from tests.proves import proves
from tests.vmx.vcpu_box import ALL, CODE, IDT, VcpuBox

LOG = 0x70000
FLAGS = VmcsField.EPT_POINTER
READ_AND_WRITE = "mov rax, [rbx]; cpuid; mov [rbx], rax; hlt"


def flags(box: VcpuBox, gpa: int) -> tuple[list[int], int]:
    """Accessed of each entry that leads to *gpa*, and dirty of the last."""
    steps = box.ept.walk(gpa).entries
    return [step.entry.accessed for step in steps], steps[-1].entry.dirty


def dirty_pages(box: VcpuBox) -> set[int]:
    return {gpa for gpa, _, _, _ in box.ept.mappings() if flags(box, gpa)[1]}


def keeping(box: VcpuBox, source: str, log_index: int | None = None, **registers: int) -> Vcpu:
    """A vcpu whose EPT pointer asks for the flags, and that logs when *log_index* is given."""
    vcpu = box.vcpu()
    vcpu.vmcs.write(VmcsField.EPT_POINTER, box.ept.eptp.raw | 0x40)
    if log_index is not None:
        vcpu.vmcs.write(VmcsField.PML_ADDRESS, LOG)
        vcpu.vmcs.write(VmcsField.PML_INDEX, log_index)
        vcpu.vmcs.write(VmcsField.SECONDARY_PROC_CONTROLS,
                        vcpu.vmcs.read(VmcsField.SECONDARY_PROC_CONTROLS) | SecondaryControls.ENABLE_PML)
    box.put(source)
    for name, value in registers.items():
        setattr(vcpu.state, name, value)
    return vcpu


def go_on(box: VcpuBox, vcpu: Vcpu, what=lambda: None):
    """Step over CPUID, having done *what*."""
    def handle(exit) -> bool:
        if exit.reason is not ExitReason.CPUID:
            return False
        what()
        vcpu.state.complete_instruction(exit.instruction_length)
        return True
    box.handle = handle
    box.go(vcpu)
    return box.exits[-1]


@proves("capability/EptVpidCap.accessed_dirty")
def test_reading_sets_accessed_and_writing_sets_dirty_too(box):
    """SDM "Accessed and Dirty Flags for EPT". The engine had cached the translation when the write came."""
    vcpu = keeping(box, READ_AND_WRITE, rbx=DATA)
    seen = []
    go_on(box, vcpu, lambda: seen.append(flags(box, DATA)))
    assert seen == [([1, 1, 1, 1], 0)]
    assert flags(box, DATA) == ([1, 1, 1, 1], 1)
    assert flags(box, DATA + 0x1000) == ([1, 1, 1, 0], 0)


@proves("capability/EptVpidCap.accessed_dirty")
def test_walking_a_guests_tables_makes_them_dirty(box):
    """SDM: accesses to guest paging structures are treated as writes. Code is read, and only that."""
    go_on(box, keeping(box, "hlt"))
    assert dirty_pages(box) == {PML4, PDPT, DIRECTORY, TABLE}
    assert flags(box, CODE) == ([1, 1, 1, 1], 0)


def test_without_the_bit_in_the_pointer_nothing_is_marked(box):
    before = [step.entry.raw for step in box.ept.walk(DATA).entries]
    box.exit_of("mov [rbx], rax; hlt", rbx=DATA)
    assert [step.entry.raw for step in box.ept.walk(DATA).entries] == before


@proves("capability/EptVpidCap.accessed_dirty")
def test_what_the_processor_writes_by_itself_becomes_dirty(box):
    """The frame of an exception; the IDT is read."""
    go_on(box, keeping(box, "ud2"))
    assert flags(box, STACK - 8)[1] == 1
    assert flags(box, IDT) == ([1, 1, 1, 1], 0)


@pytest.mark.parametrize("size", [1 << 21, 1 << 30], ids=["2m", "1g"])
def test_a_large_page_is_dirty_as_a_whole(box, size):
    for gpa, _, _, _ in list(box.ept.mappings()):
        box.ept.unmap(gpa)
    box.ept.map(0, 0, ALL, size)
    box.ept.invept()
    go_on(box, keeping(box, READ_AND_WRITE, rbx=DATA))
    assert flags(box, 0) == ([1] * (3 if size == 1 << 21 else 2), 1)


@pytest.mark.parametrize("invept", [True, False])
def test_a_flag_that_was_cleared_is_set_again_after_invept(box, invept):
    """SDM: as long as the translation is cached, the flag may stay as software left it; here it does."""
    vcpu = keeping(box, "mov [rbx], rax; cpuid; mov [rbx], rax; hlt", rbx=DATA)
    vcpu.vmcs.write(VmcsField.VPID, 1)
    vcpu.vmcs.write(VmcsField.SECONDARY_PROC_CONTROLS,
                    vcpu.vmcs.read(VmcsField.SECONDARY_PROC_CONTROLS) | SecondaryControls.ENABLE_VPID)

    def clean() -> None:
        step = box.ept.walk(DATA).entries[-1]
        box.memory.write_u64(step.spa, EptEntry(step.entry.raw, dirty=0).raw)
        if invept:
            box.cached.invept(2)

    go_on(box, vcpu, clean)
    assert flags(box, DATA)[1] == int(invept)


@proves("exit/EPT_VIOLATION")
def test_a_read_only_paging_structure_is_refused_as_read_and_written(box):
    box.ept.map(TABLE, TABLE, Access.READ)
    box.ept.invept()
    exit = go_on(box, keeping(box, "hlt"))
    expected = EptViolationQualification(3, linear_valid=1, readable=1)
    assert EptViolationQualification(exit.qualification) == expected


# --- the log --------------------------------------------------------------------------------------------------------

def logged(box: VcpuBox, first: int, last: int) -> list[int]:
    return [box.memory.read_u64(LOG + 8 * index) for index in range(first, last, -1)]


@proves("control/SecondaryControls.ENABLE_PML")
def test_each_page_that_becomes_dirty_is_logged_once(box):
    """SDM "Page-Modification Logging": 4 KiB addresses, from the index down; the guest's page tables come first."""
    vcpu = keeping(box, "mov [rbx], rax; mov [rbx + 8], rax; mov [rbx + 0x1000], rax; hlt", 511, rbx=DATA + 0x10)
    go_on(box, vcpu)
    assert vcpu.vmcs.read(VmcsField.PML_INDEX) == 511 - 6
    assert logged(box, 511, 505) == [PML4, PDPT, DIRECTORY, TABLE, DATA, DATA + 0x1000]


@proves("exit/PAGE_MODIFICATION_LOG_FULL", "control/SecondaryControls.ENABLE_PML")
@pytest.mark.parametrize("source", ["mov [rbx], rax; hlt", "add [rbx], rax; hlt", "push rax; hlt"])
def test_a_full_log_exits_before_the_page_is_dirty(box, source):
    """The write is done when there is room again: the fifth page is one too many for four entries."""
    vcpu = keeping(box, source, 3, rbx=DATA + 0x10, rsp=DATA + 0x18, rax=5)
    exit = go_on(box, vcpu)
    assert (exit.reason, exit.qualification) == (ExitReason.PAGE_MODIFICATION_LOG_FULL, 0)
    assert (vcpu.state.rip, vcpu.vmcs.read(VmcsField.PML_INDEX)) == (CODE, 0xFFFF)
    assert flags(box, DATA)[1] == 0
    assert box.memory.read_u64(DATA + 0x10) == 0
    vcpu.vmcs.write(VmcsField.PML_INDEX, 511)
    assert go_on(box, vcpu).reason is ExitReason.HLT
    assert (box.memory.read_u64(DATA + 0x10), logged(box, 511, 510)) == (5, [DATA])


@proves("exit/PAGE_MODIFICATION_LOG_FULL")
def test_a_full_log_during_delivery_names_the_event(box):
    exit = go_on(box, keeping(box, "ud2", 3))
    assert exit.reason is ExitReason.PAGE_MODIFICATION_LOG_FULL
    assert InterruptionInfo(exit.idt_vectoring_info).vector == 6


def test_a_log_outside_memory_is_lost_without_harm(box):
    vcpu = keeping(box, "mov [rbx], rax; hlt", 511, rbx=DATA)
    vcpu.vmcs.write(VmcsField.PML_ADDRESS, 1 << 40)
    assert go_on(box, vcpu).reason is ExitReason.HLT
    assert vcpu.vmcs.read(VmcsField.PML_INDEX) == 511 - 5

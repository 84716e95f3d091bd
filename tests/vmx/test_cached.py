"""A stale translation is visible until INVEPT or INVVPID: seen by a guest, which reads before and after."""

from __future__ import annotations

import pytest

from hv.machine.faults import Access
from hv.machine.ram import PhysicalMemory
from hv.spec.ept import EptVpidCap, InveptType, InvvpidType
from hv.spec.exits import ExitReason
from hv.spec.vmcs import SecondaryControls, VmcsField
from hv.vmx.capabilities import PROCESSOR
from hv.vmx.translation.cached import CachedMappings
from hv.vmx.translation.ept import EptTables
from hv.vmx.vcpu import Vcpu
from tests.machine.engine_box import DATA, TABLE
from tests.proves import proves
from tests.vmx.vcpu_box import ALL, CODE, NoDevices, VcpuBox

OLD, NEW = 0x1111, 0x2222
OTHER = DATA + 0x1000
VPID = 7
SINGLE, EVERY = InveptType.SINGLE_CONTEXT, InveptType.ALL_CONTEXT


def tagged(box: VcpuBox, vpid: int = VPID, source: str = "mov rax, [rbx]; cpuid; mov rcx, [rbx]; hlt") -> Vcpu:
    """A vcpu with a VPID that reads DATA, exits, and reads it again."""
    box.memory.write_u64(DATA, OLD), box.memory.write_u64(OTHER, NEW)
    vcpu = box.vcpu()
    vcpu.vmcs.write(VmcsField.VPID, vpid)
    vcpu.vmcs.write(VmcsField.SECONDARY_PROC_CONTROLS,
                    vcpu.vmcs.read(VmcsField.SECONDARY_PROC_CONTROLS) | SecondaryControls.ENABLE_VPID)
    box.put(source)
    vcpu.state.rbx = DATA
    return vcpu


def second_read(box: VcpuBox, vcpu: Vcpu, at_exit) -> int:
    """What the guest reads behind the exit at which *at_exit* was done."""
    def handle(exit) -> bool:
        if exit.reason is ExitReason.CPUID:
            at_exit()
            vcpu.state.complete_instruction(exit.instruction_length)
            return True
        return False

    box.handle = handle
    box.go(vcpu)
    assert vcpu.state.rax == OLD
    return vcpu.state.rcx


def remap(box: VcpuBox) -> None:
    """Another page stands at DATA, and nobody says so."""
    box.ept.map(DATA, OTHER, ALL)


@proves("instruction/INVEPT", "capability/EptVpidCap.invept", "capability/EptVpidCap.invept_single_context",
        "capability/EptVpidCap.invept_all_context")
@pytest.mark.parametrize(("kind", "operand"), [(None, 0), (SINGLE, 0), (SINGLE, 0x40), (EVERY, 0)],
                         ids=["no-invept", "single", "single-with-other-flags", "all"])
def test_a_stale_page_is_read_until_invept(box, kind, operand):
    """SDM "Operations that Invalidate Cached Mappings". The tag is the address of the top table alone."""
    vcpu = tagged(box)

    def change() -> None:
        remap(box)
        if kind is not None:
            assert box.cached.invept(kind, box.ept.eptp.raw | operand)

    assert second_read(box, vcpu, change) == (OLD if kind is None else NEW)


@proves("instruction/INVEPT")
def test_invept_of_another_pointer_leaves_it_stale(box):
    vcpu = tagged(box)

    def change() -> None:
        remap(box)
        assert box.cached.invept(SINGLE, 0x3FF01E)

    assert second_read(box, vcpu, change) == OLD


@proves("instruction/INVEPT")
def test_what_one_pointer_cached_is_stale_when_it_is_used_again(box):
    """Going to another pointer and back invalidates nothing; SDM "EPTP Switching"."""
    free = iter(range(0x3A0000, 0x400000, 4096))
    other = EptTables(box.memory, lambda: next(free), lambda spa: None)
    for page in range(0x300):
        other.map(page << 12, page << 12, ALL)
    vcpu = tagged(box, source="mov rax, [rbx]; cpuid; mov rdx, [rbx]; cpuid; mov rcx, [rbx]; hlt")
    pointers = [other.eptp.raw, box.ept.eptp.raw]

    def change() -> None:
        remap(box)
        vcpu.vmcs.write(VmcsField.EPT_POINTER, pointers.pop(0))

    assert second_read(box, vcpu, change) == OLD


@proves("instruction/INVEPT")
@pytest.mark.parametrize(("kind", "eptp"), [(0, 0x1E), (3, 0x1E), (SINGLE, 0), (SINGLE, 0x26), (SINGLE, 0x9E),
                                            (SINGLE, 0x11E), (SINGLE, 1 << 46 | 0x1E), (SINGLE, 0x19),
                                            (SINGLE, 1 << 63 | 0x1E)])
def test_invept_refuses_what_vm_entry_would_refuse(box, kind, eptp):
    """SDM "INVEPT": VMfail(invalid operand)."""
    assert not box.cached.invept(kind, eptp)


def test_types_that_the_processor_lacks_are_refused():
    class Poor:
        ept_vpid = EptVpidCap(walk_length_4=1, memory_type_wb=1)
        physical_bits = PROCESSOR.physical_bits

    cached = CachedMappings(PhysicalMemory(4096), NoDevices(), None, Poor())
    assert not cached.invept(SINGLE, 0x1E)
    assert not cached.invept(EVERY)
    assert not any(cached.invvpid(kind, 1) for kind in InvvpidType)


@pytest.mark.parametrize("first", [None, Access.READ])
@proves("exit/EPT_VIOLATION")
def test_what_becomes_more_permissive_needs_no_invept(box, first):
    """SDM "Guidelines for Use of the INVEPT Instruction": nothing, then a page; a page to read, then one to write."""
    if first:
        box.ept.map(DATA, DATA, first)
    else:
        box.ept.unmap(DATA)
    box.ept.invept()
    vcpu = box.vcpu()
    box.put("mov [rbx], rax; hlt" if first is None else "mov rcx, [rbx]; mov [rbx], rax; hlt")
    vcpu.state.rbx, vcpu.state.rax = DATA, 5

    def handle(exit) -> bool:
        if exit.reason is ExitReason.EPT_VIOLATION:
            box.ept.map(DATA, DATA, ALL)
            return True
        return False

    box.handle = handle
    box.go(vcpu)
    assert [exit.reason for exit in box.exits] == [ExitReason.EPT_VIOLATION, ExitReason.HLT]
    assert box.memory.read_u64(DATA) == 5


@proves("exit/EPT_VIOLATION")
def test_a_violation_ends_the_translation_it_met(box):
    """SDM "Operations that Invalidate Cached Mappings": the page was read; a write of it is refused; then it is new."""
    box.ept.map(DATA, DATA, Access.READ)
    box.ept.invept()
    vcpu = tagged(box, source="mov rax, [rbx]; mov [rbx], rax; hlt; mov rcx, [rbx]; hlt")
    box.go(vcpu)
    assert box.exits[-1].reason is ExitReason.EPT_VIOLATION
    box.ept.map(DATA, OTHER, Access.READ)
    vcpu.state.rip += 4
    box.go(vcpu)
    assert vcpu.state.rcx == NEW


# --- linear and combined mappings ------------------------------------------------------------------------------------

def change_page_table(box: VcpuBox) -> None:
    """What a guest does by a store to its own page table; here it is enough that it does not say INVLPG."""
    box.memory.write_u64(TABLE + 8 * (DATA >> 12), OTHER | 0x67)


STORE = "mov rax, [rbx]; mov qword ptr [rdx], 0x21067; cpuid; mov rcx, [rbx]; hlt"


def invvpid_result(box: VcpuBox, *invvpid: int, vpid: int = VPID) -> int:
    vcpu = tagged(box, vpid, STORE)
    vcpu.state.rdx = TABLE + 8 * (DATA >> 12)
    return second_read(box, vcpu, lambda: invvpid and box.cached.invvpid(*invvpid))


@proves("instruction/INVVPID", "control/SecondaryControls.ENABLE_VPID", "capability/EptVpidCap.invvpid",
        "capability/EptVpidCap.invvpid_individual_address", "capability/EptVpidCap.invvpid_single_context",
        "capability/EptVpidCap.invvpid_all_context", "capability/EptVpidCap.invvpid_single_context_retaining_globals")
@pytest.mark.parametrize(("operands", "read"), [
    ((), OLD), ((InvvpidType.INDIVIDUAL_ADDRESS, VPID, DATA), NEW), ((InvvpidType.SINGLE_CONTEXT, VPID), NEW),
    ((InvvpidType.ALL_CONTEXT, 0), NEW), ((InvvpidType.SINGLE_CONTEXT_RETAINING_GLOBALS, VPID), NEW),
    ((InvvpidType.SINGLE_CONTEXT, VPID + 1), OLD), ((InvvpidType.SINGLE_CONTEXT, 1 << 16 | VPID), OLD)],
    ids=["none", "address", "single", "all", "retaining-globals", "another-vpid", "reserved-bit"])
def test_a_changed_page_table_is_stale_until_invvpid(box, operands, read):
    """SDM "INVVPID": the guest stores to its page table, does not say INVLPG, and exits."""
    assert invvpid_result(box, *operands) == read


@proves("control/SecondaryControls.ENABLE_VPID")
def test_without_vpid_an_exit_is_enough(box):
    """SDM "VM Entries and VM Exits": they invalidate what is cached for VPID 0000H."""
    box.memory.write_u64(DATA, OLD), box.memory.write_u64(OTHER, NEW)
    vcpu = box.vcpu()
    box.put(STORE)
    vcpu.state.rbx, vcpu.state.rdx = DATA, TABLE + 8 * (DATA >> 12)
    assert second_read(box, vcpu, lambda: None) == NEW


@proves("control/SecondaryControls.ENABLE_VPID")
def test_with_another_vpid_nothing_is_stale(box):
    vcpu = tagged(box)

    def change() -> None:
        change_page_table(box)
        vcpu.vmcs.write(VmcsField.VPID, VPID + 1)

    assert second_read(box, vcpu, change) == NEW


def test_a_pages_ept_violation_ends_linear_mappings_to_it(box):
    """Two linear addresses of one page: the violation by the second is seen by the first."""
    box.memory.write_u64(TABLE + 8 * 0x50, DATA | 0x67)
    box.ept.map(DATA, DATA, Access.READ)
    box.ept.invept()
    vcpu = tagged(box, source="mov rax, [rbx]; mov [rdx], rax; hlt; mov rcx, [rbx]; hlt")
    vcpu.state.rdx = 0x50000
    box.go(vcpu)
    assert box.exits[-1].guest_linear_address == 0x50000
    box.ept.map(DATA, OTHER, Access.READ)
    vcpu.state.rip += 4
    box.go(vcpu)
    assert vcpu.state.rcx == NEW


@proves("instruction/INVVPID")
@pytest.mark.parametrize(("kind", "vpid", "linear"), [
    (4, 1, 0), (InvvpidType.INDIVIDUAL_ADDRESS, 0, 0), (InvvpidType.INDIVIDUAL_ADDRESS, 1, 1 << 47),
    (InvvpidType.SINGLE_CONTEXT, 0, 0), (InvvpidType.SINGLE_CONTEXT_RETAINING_GLOBALS, 0, 0),
    (InvvpidType.ALL_CONTEXT, 1 << 16, 0), (1 << 64, 1, 0)])
def test_invvpid_refuses_a_bad_operand(box, kind, vpid, linear):
    """SDM "INVVPID": VMfail(invalid operand)."""
    assert not box.cached.invvpid(kind, vpid, linear)


@proves("instruction/INVVPID")
def test_only_an_individual_address_must_be_canonical(box):
    assert box.cached.invvpid(InvvpidType.SINGLE_CONTEXT, 1, 1 << 47)
    assert box.cached.invvpid(InvvpidType.ALL_CONTEXT, 0, 1 << 47)


def test_two_vcpus_with_two_pointers_take_turns(box):
    """One engine, two VMCSs: each sees its own memory, and its own stale page."""
    free = iter(range(0x3A0000, 0x400000, 4096))
    other = EptTables(box.memory, lambda: next(free), lambda spa: None)
    for page in range(0x300):
        other.map(page << 12, page << 12, ALL)
    other.map(DATA, OTHER, ALL)
    first = tagged(box, source="again: mov rax, [rbx]; hlt; jmp again")
    second = tagged(box, VPID + 1, source="again: mov rax, [rbx]; hlt; jmp again")
    second.vmcs.write(VmcsField.EPT_POINTER, other.eptp.raw)
    for vcpu, value in ((first, OLD), (second, NEW), (first, OLD), (second, NEW)):
        vcpu.state.rip = CODE
        box.go(vcpu)
        assert vcpu.state.rax == value

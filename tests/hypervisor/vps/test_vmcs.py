"""The hypervisor's use of VMCSs: one page for each VP, current when it runs, launched once, cleared before it goes."""

from __future__ import annotations

import pytest

from hv.hypervisor.vps.vmcs import VpVmcs
from hv.machine.ram import PhysicalMemory
from hv.platform import Machine
from hv.spec.vmcs import NO_VMCS, VmcsField
from hv.vmx.capabilities import REVISION_ID
from hv.vmx.root_operation.operation import VmFail, VmxMode, VmxOperation
from hv.vmx.root_operation.region import load_region
from hv.vmx.vmcs import DEFAULT_CONTROLS, LaunchState
from tests.guest_runner import image_of

F = VmcsField
VMXON, A, B = 0x1000, 0x2000, 0x3000


@pytest.fixture
def operation():
    memory = PhysicalMemory(0x10000)
    memory.write_u32(VMXON, REVISION_ID)
    operation = VmxOperation(memory)
    operation.vmxon(VMXON)
    yield operation
    memory.close()


def test_a_new_vmcs_has_the_hypervisors_controls_and_is_not_current(operation):
    vmcs = VpVmcs(operation, A)
    assert operation.memory.read_u32(A) == REVISION_ID
    assert all(vmcs.fields.read(field) == value for field, value in DEFAULT_CONTROLS.items())


def test_writing_another_ones_field_leaves_the_current_one_current(operation):
    """VMWRITE concerns the current VMCS only."""
    first, second = VpVmcs(operation, A), VpVmcs(operation, B)
    first.enter()
    second.write(F.EXCEPTION_BITMAP, 0x4000)
    assert operation.vmptrst() == A
    assert (first.read(F.EXCEPTION_BITMAP), second.read(F.EXCEPTION_BITMAP)) == (0, 0x4000)
    assert operation.vmptrst() == A


def test_a_write_that_fails_leaves_the_current_one_current(operation):
    first, second = VpVmcs(operation, A), VpVmcs(operation, B)
    first.enter()
    with pytest.raises(VmFail):
        second.write(F.GUEST_S_CET, 0)          # which this processor does not have
    assert operation.vmptrst() == A


def test_a_vmcs_is_launched_by_the_entry_that_succeeds_and_resumed_after(operation):
    vmcs = VpVmcs(operation, A)
    vmcs.enter()
    assert vmcs.fields.launch_state is LaunchState.CLEAR
    vmcs.fields.entered()
    vmcs.enter()
    assert vmcs.fields.launch_state is LaunchState.LAUNCHED


def test_a_cleared_vmcs_is_in_its_page(operation):
    vmcs = VpVmcs(operation, A)
    vmcs.enter()
    vmcs.write(F.EXCEPTION_BITMAP, 0x123)
    vmcs.clear()
    assert (operation.vmptrst(), operation.active(A)) == (NO_VMCS, None)
    assert load_region(operation.memory, A).read(F.EXCEPTION_BITMAP) == 0x123


# --- in the machine -----------------------------------------------------------------------------------------------

def test_the_hypervisor_is_in_root_operation_with_a_region_of_its_own():
    machine = Machine(8)
    operation = machine.hypervisor.operation
    low, high = machine.hypervisor.region
    assert operation.mode is VmxMode.ROOT
    assert low <= operation.vmxon_pointer < high
    assert machine.memory.read_u32(operation.vmxon_pointer) == REVISION_ID
    machine.close()


def test_each_vp_that_ran_has_a_launched_vmcs_in_its_own_page():
    machine = Machine(64)
    vm = machine.create_vm("a", image_of("mov eax, 0x40000000; cpuid; hlt"))
    pages = vm.partition.vp_pages[0]
    operation, vmcs = machine.hypervisor.operation, vm.partition.vps[0].vmcs.fields
    assert vmcs.launch_state is LaunchState.CLEAR
    machine.run()
    assert vmcs.launch_state is LaunchState.LAUNCHED
    assert operation.active(pages.vmcs) is vmcs is operation.current
    machine.close()


def test_turns_of_two_vms_switch_the_current_vmcs():
    machine = Machine(64, slice_ticks=20_000)
    vms = [machine.create_vm(name, image_of("again: cpuid; jmp again")) for name in "ab"]
    operation, seen = machine.hypervisor.operation, set()
    for vm in vms:
        vp = vm.partition.vps[0]
        before = vp.vcpu.on_exit

        def on_exit(exit, vp=vp, before=before):
            assert operation.current is vp.vmcs.fields
            seen.add(operation.vmptrst())
            return before(exit)

        vp.vcpu.on_exit = on_exit
    machine.run(machine.clock.tsc + 200_000)
    assert seen == {vm.partition.vp_pages[0].vmcs for vm in vms}
    machine.close()


def test_a_deleted_vp_leaves_no_active_vmcs():
    machine = Machine(64)
    vm = machine.create_vm("a", image_of("mov rax, 0x1234; hlt"))
    page = vm.partition.vp_pages[0].vmcs
    machine.run()
    machine.destroy_vm(vm)
    assert machine.hypervisor.operation.active(page) is None
    assert machine.hypervisor.operation.vmptrst() == NO_VMCS
    machine.close()

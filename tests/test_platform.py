"""The machine as its user has it: VMs come and go, and nothing is lost or left behind."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.image.errors import ImageError
from hv.image.model import Image, Segment
from hv.platform import DEVICE_COUNT, LARGEST_MIB, Machine, MachineError
from hv.spec.x86 import PAGE_SIZE
from hv.trace import events
from hv.trace.bus import Recent

# mov dx, 3F8h; mov al, 'x'; out dx, al; mov dx, 604h; mov ax, 2000h; out dx, ax
SHORT = bytes.fromhex("ba f8 03 b0 78 ee ba 04 06 b8 00 20 ef")
SLEEP = bytes.fromhex("fb f4 eb fc")                # sti; hlt; again
FOR_EVER = bytes.fromhex("eb fe")


def program(code=SHORT, gpa=0x7C00):
    return Image("test", [Segment(gpa, code, True, True)], gpa, 16)


def a_machine(memory_mib):
    """A machine whose IOMMU has made its context table for the devices' bus, which it keeps."""
    machine = Machine(memory_mib)
    machine.destroy_vm(machine.create_vm("first", program(), memory_mib=1, dma_device=True))
    return machine


@pytest.fixture
def machine():
    machine = a_machine(16)
    yield machine
    machine.close()


def books(machine):
    """Everything that must be as before once a VM is gone."""
    hypervisor = machine.hypervisor
    return (machine.root.memory.free_count, hypervisor.owners.inspect(), hypervisor.root.pool.inspect(),
            sorted(hypervisor.partitions), machine.root.winhv.children(), len(machine.factory._engines),
            hypervisor.interrupts.inspect(), len(machine.root.workers), len(machine.vms), machine.root.vid._handlers)


def test_a_vm_runs_to_its_end(machine):
    vm = machine.create_vm("a", program(), memory_mib=2)
    assert (vm.ended, vm.serial, vm.name, vm.partition_id) == (None, "", "a", 3)
    machine.run()
    assert (vm.ended, vm.why, vm.serial) == ("shutdown", "", "x")


@pytest.mark.parametrize("code", [SLEEP, FOR_EVER])
def test_a_vm_whose_partition_root_deletes_by_itself_has_ended_and_the_others_go_on(machine, code):
    """TLFS "HvCallDeletePartition" is root's, whether a worker still looks after the partition or not."""
    vm, other = machine.create_vm("a", program(code), 2), machine.create_vm("b", program(), 2)
    winhv = machine.root.winhv
    machine.run(machine.clock.tsc + 1000)
    winhv.finalize_partition(vm.partition_id)
    winhv.delete_vp(vm.partition_id, 0)
    winhv.withdraw_memory(vm.partition_id)
    winhv.delete_partition(vm.partition_id)
    machine.run()
    assert (vm.ended, vm.why) == ("destroyed", "its partition was deleted")
    assert other.ended == "shutdown"


def test_a_vm_that_sleeps_has_ended_by_halt(machine):
    vm = machine.create_vm("a", program(SLEEP), memory_mib=2)
    machine.run()
    assert vm.ended == "halt"


def test_a_vm_that_runs_for_ever_ends_with_its_budget(machine):
    vm = machine.create_vm("a", program(FOR_EVER), memory_mib=2)
    machine.run(until_tsc=3_000_000)
    assert vm.ended is None
    machine.end_budget()
    assert (vm.ended, vm.why) == ("budget", "the budget of virtual time is used up")
    assert machine.clock.tsc >= 3_000_000
    assert not vm.partition.vps[0].runnable


def test_a_run_of_nothing_ends(machine):
    before = machine.clock.tsc
    machine.run()
    assert machine.clock.tsc == before


def test_the_books_are_balanced_when_a_vm_is_gone(machine):
    before = books(machine)
    vm = machine.create_vm("a", program(), memory_mib=4, vps=2, dma_device=True)
    machine.run()
    machine.destroy_vm(vm)
    assert books(machine) == before


def test_vms_may_go_in_any_state(machine):
    before = books(machine)
    made = [machine.create_vm(f"vm{n}", program(code), memory_mib=2) for n, code in enumerate((SHORT, SLEEP, FOR_EVER))]
    machine.connect(made[0], 1, made[1])
    machine.run(until_tsc=machine.clock.tsc + 1_000_000)
    for vm in (made[1], made[0], made[2]):
        machine.destroy_vm(vm)
    assert books(machine) == before


def test_sixty_four_vms_one_after_the_other_leave_nothing_behind():
    machine = Machine(memory_mib=8)
    before = books(machine)
    for n in range(64):
        vm = machine.create_vm(f"vm{n}", program(), memory_mib=2)
        if n % 16 == 0:
            machine.run()
            assert vm.serial == "x"
        machine.destroy_vm(vm)
    assert books(machine) == before
    machine.close()


def test_the_next_vm_finds_nothing_of_the_last_one(machine):
    first = machine.create_vm("a", program(b"secret" * 1000, 0x10000), memory_mib=12)
    pages = first.worker.pages
    machine.destroy_vm(first)
    assert not any(machine.memory.read(page * PAGE_SIZE, PAGE_SIZE).strip(b"\0") for page in pages)
    second = machine.create_vm("b", program(), memory_mib=12)
    assert second.worker.pages == pages


@pytest.mark.parametrize("memory_mib", [14, 16, 1000])
def test_out_of_memory_is_one_clear_error(machine, memory_mib):
    before = books(machine)
    with pytest.raises(MachineError, match=rf"^no memory for VM a: {memory_mib * 256} consecutive pages are wanted, "
                                           r"\d+ are free; give the machine more, or the VM less$"):
        machine.create_vm("a", program(), memory_mib=memory_mib)
    assert books(machine) == before
    assert machine.create_vm("b", program(), memory_mib=2).ended is None


def test_memory_that_runs_out_in_the_middle_is_given_back():
    """The VPs take pages of root's too, batch by batch."""
    machine = Machine(memory_mib=4)
    before = books(machine)
    with pytest.raises(MachineError, match="no memory for VM a: 16 pages are wanted"):
        machine.create_vm("a", program(), memory_mib=1, vps=60)
    assert books(machine) == before
    machine.close()


def test_devices_run_out(machine):
    for n in range(DEVICE_COUNT):
        machine.create_vm(f"vm{n}", program(), memory_mib=1, dma_device=True)
    before = books(machine)
    with pytest.raises(MachineError, match=rf"^all {DEVICE_COUNT} dma devices are in use; run fewer VMs"):
        machine.create_vm("one more", program(), memory_mib=1, dma_device=True)
    assert books(machine) == before
    machine.destroy_vm(machine.vms[1])
    again = machine.create_vm("one more", program(), memory_mib=1, dma_device=True)
    assert again.worker.device.source_id == machine.devices[1].rid


def test_a_program_that_does_not_fit_is_refused_and_leaves_nothing(machine):
    before = books(machine)
    with pytest.raises(ImageError, match="the program reaches up to 0x200001, the VM has 0x200000 bytes"):
        machine.create_vm("a", program(b"xx", 0x1F_FFFF), memory_mib=2, dma_device=True)
    assert books(machine) == before


@pytest.mark.parametrize(("memory_mib", "vps", "text"), [
    pytest.param(0, 1, "^VM a has 0 MiB and 1 VPs; give it one of each at least$", id="no-memory"),
    pytest.param(-1, 1, "^VM a has -1 MiB", id="negative-memory"),
    pytest.param(2, 0, "^VM a has 2 MiB and 0 VPs", id="no-vp"),
    pytest.param(2, 65, "^VM a cannot be made: CREATE_VP: INVALID_VP_INDEX; a VM has at most 64", id="too-many-vps"),
])
def test_a_vm_of_an_impossible_shape_is_one_clear_error(machine, memory_mib, vps, text):
    before = books(machine)
    with pytest.raises(MachineError, match=text):
        machine.create_vm("a", program(), memory_mib=memory_mib, vps=vps)
    assert books(machine) == before


@pytest.mark.parametrize("memory_mib", [-1, 0, 3, LARGEST_MIB + 1, 1 << 20])
def test_a_machine_of_an_impossible_size_is_one_clear_error(memory_mib):
    with pytest.raises(MachineError, match=rf"^a machine with {memory_mib} MiB of RAM; it has 4 to {LARGEST_MIB}$"):
        Machine(memory_mib)


def test_two_machines_in_one_process_know_nothing_of_each_other():
    first, second = Machine(8), Machine(8)
    one, other = first.create_vm("a", program(), memory_mib=2), second.create_vm("b", program(SLEEP), memory_mib=2)
    before = second.clock.tsc
    first.run()
    assert (one.ended, other.ended) == ("shutdown", None)
    assert second.clock.tsc == before
    assert one.partition_id == other.partition_id == 2
    first.close()
    second.run()
    assert other.ended == "halt"
    second.close()


def test_what_root_does_is_seen_as_roots(machine):
    recent = Recent()
    machine.trace.listen(recent)
    machine.create_vm("a", program(FOR_EVER), memory_mib=1)
    machine.run(until_tsc=500_000)
    recent.records.clear()
    machine.create_vm("b", program(), memory_mib=1)
    assert {record.partition for record in recent.records} == {1}
    assert recent.last(99, events.PartitionNamed)[0].event == events.PartitionNamed(4, "b")
    recent.records.clear()
    machine.run(until_tsc=machine.clock.tsc + 100_000)
    assert 3 in {record.partition for record in recent.records}


def test_a_vm_is_stepped_one_instruction_at_a_time(machine):
    vm = machine.create_vm("a", program(), memory_mib=1)
    rips = []
    while machine.step(vm):
        rips.append(vm.partition.vps[0].regs.rip)
    assert rips == [0x7C03, 0x7C05, 0x7C06, 0x7C09, 0x7C0C, 0x7C0D]
    assert (vm.serial, vm.ended) == ("x", "shutdown")
    assert not machine.step(vm)


def test_stepping_a_sleeper_says_that_it_cannot_run(machine):
    vm = machine.create_vm("a", program(SLEEP), memory_mib=1)
    assert machine.step(vm)
    assert machine.step(vm)
    assert not machine.step(vm)


def test_connections_never_share_a_port(machine):
    first, second = (machine.create_vm(name, program(SLEEP), memory_mib=1) for name in ("first", "second"))
    for connection in (1, 257):
        machine.connect(first, connection, second)
    assert list(first.partition.connections) == [1, 257]
    assert len(second.partition.ports) == 2


def test_a_machine_closed_twice_is_closed_once():
    machine = Machine(16)
    machine.close()
    machine.close()
    assert machine.closed


def test_a_message_port_connects_two_vms(machine):
    first, second = (machine.create_vm(name, program(), memory_mib=1) for name in "ab")
    machine.connect(first, 1, second)
    assert list(first.partition.connections) == [1]
    assert len(second.partition.ports) == 1


ACT = st.tuples(st.sampled_from(["make", "run", "destroy"]), st.integers(1, 3), st.integers(1, 3), st.booleans())


@settings(max_examples=15)
@given(st.lists(ACT, max_size=12))
def test_the_books_balance_whatever_comes_and_goes(acts):
    machine = a_machine(10)
    before = books(machine)
    for act, memory_mib, vps, device in acts:
        if act == "make":
            with contextlib.suppress(MachineError):         # no memory, or no device
                machine.create_vm("vm", program(), memory_mib=memory_mib, vps=vps, dma_device=device)
        elif act == "run":
            machine.run()
        elif machine.vms:
            machine.destroy_vm(machine.vms[memory_mib % len(machine.vms)])
    for vm in list(machine.vms):
        machine.destroy_vm(vm)
    assert books(machine) == before
    machine.close()

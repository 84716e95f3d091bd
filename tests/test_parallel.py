"""`Machine(parallel=True)`: the same results, time within a quantum, and an end without a thread left behind.

Nothing here depends on how fast the host is: what is compared are results, and times of the virtual clocks.
"""

from __future__ import annotations

import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hv.hypervisor.scheduling.parallel import QUANTUM_TICKS, ParallelScheduler
from hv.image.library import guests_folder
from hv.image.load import load
from hv.platform import Machine, VirtualMachine
from hv.spec.exits import ExitReason
from hv.spec.hv_registers import HvRegisterName as N
from tests.guest_runner import image_of

MS = 2_000_000
COMPUTE = "mov ecx, {count}; again: lea rax, [rax + rcx*4 + 17]; imul rax, rcx; dec rcx; jnz again; hlt"
SPIN = "spin: inc rax; jmp spin"
BLOCK = 4096                    # bytes: by so much a block of code may pass a limit, with what an exit costs

Make = Callable[..., Machine]


@pytest.fixture
def make() -> Iterator[Make]:
    """Machines with a VM for each source; afterwards no thread is left."""
    machines: list[Machine] = []

    def machine_with(*sources: str, parallel: bool = True, **more: Any) -> Machine:
        machine = Machine(memory_mib=12 + 4 * len(sources), parallel=parallel)
        machines.append(machine)
        for number, source in enumerate(sources):
            machine.create_vm(f"vm{number}", image_of(source), memory_mib=2, **more)
        return machine

    yield machine_with
    for machine in machines:
        machine.close()
    assert not _ours()


def _ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("partition ")]


def scheduler(machine: Machine) -> ParallelScheduler:
    assert isinstance(machine.scheduler, ParallelScheduler)
    return machine.scheduler


def results(machine: Machine) -> list[Any]:
    """But times: where a slice ends, the block that would pass its end waits."""
    return [(vm.ended, vm.why, vm.serial, vm.partition.vps[0].regs.rax, list(vm.partition.vps[0].vcpu.exits))
            for vm in machine.vms]


def once(action: Callable[[], None]) -> Callable[[], bool]:
    """For `paused`: root's management does *action* at the first turn that ends, and pauses nothing."""
    left = [action]

    def paused() -> bool:
        if left:
            left.pop()()
        return False
    return paused


# --- results ---------------------------------------------------------------------------------------------


def test_partitions_that_compute_end_as_they_do_one_after_the_other(make):
    sources = [COMPUTE.format(count=count) for count in (400_000, 300_000, 200_000)]
    machines = [make(*sources, parallel=parallel) for parallel in (True, False)]
    for machine in machines:
        machine.run()
    assert results(machines[0]) == results(machines[1])
    assert [vm.ended for vm in machines[0].vms] == ["halt"] * 3


def test_exits_of_one_partition_are_not_seen_by_another(make):
    """CPUID answers for who asks; counts of exits are each VP's own."""
    source = "mov ecx, 3000; again: push rcx; mov eax, {leaf}; cpuid; pop rcx; dec ecx; jnz again; mov rax, rbx; hlt"
    sources = [source.format(leaf=leaf) for leaf in ("0x40000000", "0x40000001", "0", "1")]
    machine, alone = make(*sources), make(*sources, parallel=False)
    machine.run(), alone.run()
    assert results(machine) == results(alone)
    assert all(vm.partition.vps[0].vcpu.exits[ExitReason.CPUID] == 3000 for vm in machine.vms)


def test_what_a_partition_prints_and_how_it_ends_is_its_own(make):
    say = "mov dx, 0x3F8; mov ecx, 300; again: mov al, {letter}; out dx, al; loop again; {end}"
    machine = make(say.format(letter=65, end="hlt"), say.format(letter=66, end="mov rsp, 1; lidt [rsp]; ud2"),
                   say.format(letter=67, end=SPIN))
    machine.run(4 * MS)
    machine.end_budget()
    assert [(vm.ended, vm.serial) for vm in machine.vms] == [
        ("halt", "A" * 300), ("triple-fault", "B" * 300), ("budget", "C" * 300)]


# --- time ------------------------------------------------------------------------------------------------


def test_no_processor_gets_further_ahead_than_a_quantum(make):
    """Whenever a turn ends, those that run are no more than a quantum apart, and a block."""
    machine = make(SPIN, "again: cpuid; jmp again", SPIN)
    apart: list[int] = []

    def look() -> bool:
        times = [vm.partition.clock.tsc for vm in machine.vms]
        apart.append(max(times) - min(times))
        return False

    machine.run(10 * MS, paused=look)
    assert 0 < max(apart) <= QUANTUM_TICKS + BLOCK
    assert all(10 * MS <= vm.partition.clock.tsc <= 10 * MS + BLOCK for vm in machine.vms)
    assert machine.clock.tsc >= 10 * MS


def test_time_goes_forward_for_each_vp_and_for_root(make):
    """Root's program runs in all threads, by whichever clock; TLFS "Partition Reference Counter" never goes back."""
    machine = make(*["mov dx, 0x3F8; mov ecx, 200; again: out dx, al; loop again; hlt"] * 3, SPIN)
    seen: dict[tuple[int, int], list[int]] = defaultdict(list)
    root: list[int] = []

    def note(record: Any) -> None:
        seen[record.partition, record.vp].append(record.tsc)
        root.append(machine.hypervisor.root.reference_time)

    machine.trace.listen(note)
    machine.run(3 * MS)
    children = [times for (partition, _), times in seen.items() if partition != machine.hypervisor.root.id]
    assert len(children) == 4
    assert all(times == sorted(times) for times in children)
    assert root == sorted(root)


def test_a_partition_that_sleeps_does_not_hold_the_others_back_and_wakes_in_time(make):
    """Its timer is due at 5 ms of its own time; the other one meanwhile computes."""
    timer = load(str(guests_folder() / "timer.asm"))
    machine, alone = make(COMPUTE.format(count=300_000)), make(parallel=False)
    took = []
    for each in (machine, alone):
        vm = each.create_vm("timer", timer, memory_mib=4)
        began = each.clock.tsc
        each.run()
        took.append((vm.serial, vm.partition.clock.tsc - began))
    assert took[0] == took[1]


def test_machines_whose_guests_all_sleep_for_good_are_at_their_end(make):
    machine = make("hlt", "cli; hlt", "mov eax, 1; hlt")
    machine.run()
    assert [vm.ended for vm in machine.vms] == ["halt"] * 3


def test_a_run_may_be_cut_into_pieces(make):
    machine, whole = make(*[COMPUTE.format(count=200_000)] * 2), make(*[COMPUTE.format(count=200_000)] * 2)
    whole.run()
    for piece in range(1, 40):
        machine.run(piece * MS // 4)
        assert machine.clock.tsc >= piece * MS // 4 or all(vm.ended for vm in machine.vms)
    machine.run()
    assert [vm.partition.vps[0].regs.rax for vm in machine.vms] == [
        vm.partition.vps[0].regs.rax for vm in whole.vms]


# --- a parent acts on children that run ------------------------------------------------------------------


def test_registers_of_a_vp_that_runs_are_those_between_two_instructions(make):
    """RAX counts and RBX follows it; both are read while the loop runs in another thread."""
    machine = make("again: inc rax; mov rbx, rax; jmp again", SPIN)
    found: list[tuple[int, int, int]] = []

    def look() -> bool:
        winhv, id = machine.root.winhv, machine.vms[0].partition_id
        found.append(tuple(winhv.get_vp_register(id, 0, name) for name in (N.RAX, N.RBX, N.RIP)))
        return False

    machine.run(20 * MS, paused=look)
    start = 0x10000
    assert len(found) > 10
    assert {rip for _, _, rip in found} <= {start, start + 3, start + 6}
    assert all(rax - rbx == (1 if rip == start + 3 else 0) for rax, rbx, rip in found)


def test_registers_that_a_parent_sets_are_what_the_vp_goes_on_with(make):
    """The loop ends when somebody else sets RBX; also in the middle of its exits."""
    machine = make("again: mov eax, 1; push rbx; cpuid; pop rbx; test rbx, rbx; jz again; mov rax, rbx; hlt", SPIN)
    act = once(lambda: machine.root.winhv.set_vp_registers(machine.vms[0].partition_id, 0, {
        N.RBX: 0x1234, N.RIP: 0x1000A}))
    machine.run(20 * MS, paused=act)
    assert (machine.vms[0].ended, machine.vms[0].partition.vps[0].regs.rax) == ("halt", 0x1234)


def test_a_vp_that_is_suspended_stands_still_and_goes_on_later(make):
    machine = make(SPIN, SPIN)
    id, winhv = machine.vms[0].partition_id, machine.root.winhv
    machine.run(5 * MS, paused=once(lambda: winhv.set_vp_registers(id, 0, {N.EXPLICIT_SUSPEND: 1})))
    stood, other = (vm.partition.vps[0].runtime for vm in machine.vms)
    assert stood <= 2 * QUANTUM_TICKS + BLOCK < other
    winhv.set_vp_registers(id, 0, {N.EXPLICIT_SUSPEND: 0})
    machine.run(10 * MS)
    assert machine.vms[0].partition.vps[0].runtime > stood


def test_memory_that_is_unmapped_is_gone_for_code_that_runs(make):
    """TLFS "HvCallUnmapGpaPages": when the call returns, the page is not there."""
    machine = make("again: mov rax, [0x100000]; inc rbx; jmp again", SPIN)
    vm = machine.vms[0]

    def unmap() -> None:
        machine.root.winhv.unmap_gpa_pages(vm.partition_id, 0x100, 1)

    machine.run(20 * MS, paused=once(unmap))
    assert vm.ended == "triple-fault"           # its worker answers with #GP, and it has no IDT


def test_a_vm_is_destroyed_and_another_made_while_others_run(make):
    machine = make(SPIN, SPIN, COMPUTE.format(count=300_000))

    def change() -> None:
        machine.destroy_vm(machine.vms[0])
        machine.create_vm("new", image_of("mov rax, 77; hlt"), memory_mib=2)

    before = machine.hypervisor.root.pool.available
    machine.run(10 * MS, paused=once(change))
    assert [(vm.name, vm.ended) for vm in machine.vms] == [("vm1", None), ("vm2", "halt"), ("new", "halt")]
    assert machine.vms[2].partition.vps[0].regs.rax == 77
    assert machine.hypervisor.root.pool.available == before     # the new one has the processor of the old one
    assert len(scheduler(machine).lanes) == 4


# --- every end -------------------------------------------------------------------------------------------


def test_the_first_error_ends_the_run_and_is_the_one_that_is_raised(make, monkeypatch):
    machine = make(SPIN, "mov ecx, 1000; again: push rcx; cpuid; pop rcx; loop again; rdtscp; hlt", SPIN)

    def fail(text: str) -> None:
        raise RuntimeError("a bug of ours")

    machine.vms[1].worker.on_serial = fail
    machine.vms[1].worker.write(0x10000, bytes.fromhex("66baf803eeebfd"))       # mov dx, 0x3F8; out dx, al
    with pytest.raises(RuntimeError, match="a bug of ours"):
        machine.run()
    assert not _ours()


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread")
def test_ctrl_c_ends_the_run_and_all_its_threads(make):
    machine = make(SPIN, "again: cpuid; jmp again", "hlt")
    main = threading.main_thread().ident
    assert main is not None
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            machine.run(paused=once(lambda: signal.pthread_kill(main, signal.SIGINT)))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not _ours()
    machine.run(machine.clock.tsc + MS)         # and it may go on
    assert machine.vms[0].ended is None


def test_pausing_stops_everybody(make):
    machine = make(SPIN, SPIN)
    turns = iter(range(6))
    machine.run(paused=lambda: next(turns, None) is None)
    assert [vm.ended for vm in machine.vms] == [None, None]
    assert not _ours()


def test_memory_accounts_are_exact_when_all_vms_are_gone(make):
    machine = make()
    pool = machine.hypervisor.root.pool
    before = pool.available, pool.in_use
    for number in range(3):
        for name in "ab":
            machine.create_vm(f"{name}{number}", image_of(COMPUTE.format(count=1000)), memory_mib=2, vps=2)
        machine.run(machine.clock.tsc + MS)
        for vm in list(machine.vms):
            machine.destroy_vm(vm)
    assert (pool.available, pool.in_use) == before
    assert list(scheduler(machine).lanes) == [machine.hypervisor.root.id]
    assert len(machine.hypervisor.partitions) == 1


def test_several_vps_of_a_partition_share_its_processor(make):
    """LOCK is atomic among them: both add to one word."""
    two = load(str(guests_folder() / "two_vps.asm"))
    machine, alone = make(COMPUTE.format(count=200_000)), make(parallel=False)
    for each in (machine, alone):
        each.create_vm("two", two, memory_mib=4, vps=2)
        each.run()
    assert machine.vms[1].serial == alone.vms[0].serial
    vps: list[VirtualMachine] = machine.vms
    assert sum(vp.runtime for vp in vps[1].partition.vps.values()) <= vps[1].partition.clock.tsc

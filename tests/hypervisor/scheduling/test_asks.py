"""A VP that waits for root: root has its turn inside the exit, and the VP goes on if it comes next."""

from __future__ import annotations

from contextlib import closing

import pytest

from hv.platform import Machine
from hv.trace.events import VpSwitch
from tests.guest_runner import image_of

OUTS = "mov edx, 0x3f8; mov al, 65; mov ecx, {count}; again: out dx, al; dec ecx; jnz again; hlt"


def entries(machine, vm):
    """How often the engine is entered for VP 0 of *vm* from now on, as a list that grows."""
    seen, vp = [], vm.partition.vps[0]
    run = vp.run
    vp.run = lambda until: (seen.append(until), run(until))[1]
    return seen


def test_the_engine_is_not_left_for_an_answer():
    with closing(Machine(memory_mib=24)) as machine:
        vm = machine.create_vm("a", image_of(OUTS.format(count=50)), memory_mib=2)
        seen = entries(machine, vm)
        machine.run()
        assert (vm.serial, vm.ended) == ("A" * 50, "halt")
        assert len(seen) == 1


def test_the_turns_are_told_as_they_would_be_outside():
    """Root's VP and the guest's take turns, one for each access."""
    with closing(Machine(memory_mib=24)) as machine:
        vm = machine.create_vm("a", image_of(OUTS.format(count=3)), memory_mib=2)
        places = []
        machine.trace.listen(lambda record: places.append(record.event.partition)
                             if isinstance(record.event, VpSwitch) else None)
        machine.run()
        assert places == [vm.partition_id, 1] * 3 + [vm.partition_id]


def test_a_run_that_is_to_pause_is_left():
    with closing(Machine(memory_mib=24)) as machine:
        vm = machine.create_vm("a", image_of(OUTS.format(count=50)), memory_mib=2)
        machine.run(paused=lambda: len(vm.serial) >= 7)
        assert vm.serial == "A" * 7
        machine.run()
        assert vm.serial == "A" * 50


def test_nobody_else_waits_longer_for_it():
    """Two guests that do nothing but ask have the processor by turns."""
    with closing(Machine(memory_mib=32)) as machine:
        vms = [machine.create_vm(name, image_of(OUTS.format(count=400)), memory_mib=2) for name in "ab"]
        machine.run(paused=lambda: any(len(vm.serial) >= 300 for vm in vms))
        assert all(len(vm.serial) > 150 for vm in vms)


@pytest.mark.parametrize("budget", [20_000, 60_000, 61_234])
def test_time_that_is_over_ends_the_run(budget):
    with closing(Machine(memory_mib=24)) as machine:
        machine.create_vm("a", image_of(OUTS.format(count=400)), memory_mib=2)
        end = machine.clock.tsc + budget
        machine.run(until_tsc=end)
        assert end <= machine.clock.tsc < end + 10_000

"""Stopping a machine at an event, before any guest's next instruction."""

import pytest

from hv.commands.building import build
from hv.commands.description import ConnectionDescription, MachineDescription, VmDescription
from hv.commands.files import find_guest
from hv.replay.watching import Watch, run_until
from hv.spec.exits import ExitReason
from hv.trace import events
from hv.vmx.exit import VmExit


@pytest.fixture
def machine_of():
    made = []

    def make(*guests, connections=(), vps=1):
        description = MachineDescription([VmDescription(guest, find_guest(guest), vps=vps) for guest in guests],
                                         list(connections), 64)
        machine, _ = build(description)
        made.append(machine)
        return machine
    yield make
    for machine in made:
        machine.close()


def exit_of(reason):
    return lambda record: isinstance(record.event, VmExit) and record.event.reason is reason


@pytest.mark.parametrize("reason", [ExitReason.HLT, ExitReason.IO_INSTRUCTION, ExitReason.VMCALL, ExitReason.WRMSR])
def test_nobody_executes_an_instruction_behind_the_event(machine_of, reason):
    machine, seen = machine_of("hypercaller" if reason is ExitReason.VMCALL else "stimer"), []
    machine.trace.listen(seen.append)
    met = run_until(machine, exit_of(reason))
    assert met in seen
    assert [record.event.reason for record in seen if isinstance(record.event, VmExit)][-1] is reason
    assert seen[-1].tsc == met.tsc or reason is ExitReason.VMCALL       # a hypercall takes time
    assert machine.vms[0].ended is None


@pytest.mark.parametrize("kind", [events.Injected, events.VpHalted, events.VpSwitch, events.SerialOutput,
                                  events.InterceptSent, events.InterceptCompleted, events.MsrWrite])
def test_the_machine_stands_at_events_of_any_kind(machine_of, kind):
    machine = machine_of("stimer")
    met = run_until(machine, lambda record: isinstance(record.event, kind))
    assert isinstance(met.event, kind)
    assert machine.vms[0].ended is None
    machine.run()
    assert machine.vms[0].ended == "shutdown"


def test_an_interrupt_stops_before_the_first_instruction_of_its_handler(machine_of):
    machine = machine_of("timer")
    met = run_until(machine, lambda record: isinstance(record.event, events.Injected))
    assert met.event.vector == 0x30
    assert machine.vms[0].partition.vps[0].regs.rip == 0x10072        # on_timer


def test_stopping_at_every_event_changes_nothing_that_a_guest_prints(machine_of):
    plain, stopped = machine_of("timer"), machine_of("timer")
    plain.run()
    stops = 0
    while run_until(stopped, lambda record: True) is not None:
        stops += 1
    assert stops > 100
    assert stopped.vms[0].serial == plain.vms[0].serial == "timer interrupts: 10\n"
    assert stopped.vms[0].ended == plain.vms[0].ended == "shutdown"


def test_a_message_stops_its_sender_before_its_next_instruction(machine_of):
    machine = machine_of("receiver", "hypercaller", connections=[ConnectionDescription("hypercaller", "receiver")])
    met = run_until(machine, lambda record: isinstance(record.event, events.MessagePosted))
    receiver, sender = machine.vms
    assert met.partition == sender.partition_id
    assert "got message" not in receiver.serial
    assert sender.partition.vps[0].exit_counts[ExitReason.VMCALL]
    machine.run()
    assert "got message 5" in receiver.serial


def test_two_vps_that_hand_over_are_stopped_at_each_switch(machine_of):
    plain, stopped = machine_of("smp", vps=4), machine_of("smp", vps=4)
    plain.run()
    switches = 0
    while (met := run_until(stopped, lambda record: isinstance(record.event, events.VpSwitch))) is not None:
        switches += 1
        assert stopped.scheduler.current.index == met.event.vp
    assert switches > 4
    assert stopped.vms[0].ended == plain.vms[0].ended
    assert stopped.vms[0].serial == plain.vms[0].serial


def test_something_else_may_end_the_run(machine_of):
    machine = machine_of("timer")
    assert run_until(machine, lambda record: False, until_tsc=1000) is None
    assert run_until(machine, lambda record: False, interrupted=lambda: True) is None
    assert run_until(machine, lambda record: False) is None
    assert machine.vms[0].ended == "shutdown"


def test_nothing_of_a_watch_is_left_behind(machine_of):
    machine = machine_of("timer")
    hypervisor, words = machine.hypervisor, ("on_halt", "on_sent", "on_yield", "on_ask")
    before = [getattr(hypervisor, word) for word in words]
    listeners = len(machine.trace._listeners)
    run_until(machine, exit_of(ExitReason.WRMSR))
    vp = machine.vms[0].partition.vps[0]
    assert [getattr(hypervisor, word) for word in words] == before
    assert (len(machine.trace._listeners), vp.vcpu.engine.breakpoints.held, vp.leaving) == (listeners, False, None)


def test_an_error_of_the_predicate_stops_the_machine_and_is_raised_behind_the_run(machine_of):
    machine = machine_of("timer")

    def broken(record):
        raise ZeroDivisionError("a mistake")

    with pytest.raises(ZeroDivisionError, match="a mistake"):
        run_until(machine, broken)
    machine.run()
    assert machine.vms[0].ended == "shutdown"


def test_only_the_first_event_is_met(machine_of):
    machine, asked = machine_of("timer"), []
    with Watch(machine, lambda record: asked.append(record) is None) as watch:
        machine.run(paused=lambda: watch.met is not None)
    assert asked == [watch.met]

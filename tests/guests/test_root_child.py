"""guests/root_child.asm: a root partition in machine code makes a child by hypercalls alone, and takes it apart."""

from itertools import pairwise

import pytest

from hv.image.library import guests_folder
from hv.image.load import load
from hv.root_machine import RootMachine
from hv.spec.exits import ExitReason
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode as Code
from hv.spec.synic import HvMessageType
from hv.trace import events
from hv.vmx.exit import VmExit

CHILD = 2
SAYS = """\
child: hello from a partition made by hypercalls
child: my processor was made by RootMadeThis
child: an MSR that does not exist reads 7
child: somebody typed k
child: memory that was not there keeps !
"""
T = HvMessageType


class Run:
    """The guest, run to its end."""

    def __init__(self, **options):
        self.machine = RootMachine(load(str(guests_folder() / "root_child.asm")), memory_mib=16, **options)
        self.hypervisor = self.machine.hypervisor
        self.balance = self.hypervisor.root.pool.inspect()
        self.records = []
        self.machine.trace.listen(self.records.append)
        self.machine.run(400_000_000)
        self.guest = self.machine.guest

    def of(self, kind, partition=None):
        return [record.event for record in self.records
                if isinstance(record.event, kind) and partition in (None, record.partition)]


@pytest.fixture
def run():
    runs = []

    def start(**options):
        runs.append(Run(**options))
        return runs[-1]
    yield start
    for each in runs:
        each.machine.close()


@pytest.fixture
def result(run):
    return run()


def test_it_says_what_it_does_and_the_child_is_heard(result):
    lines = result.guest.serial.splitlines(keepends=True)
    assert result.guest.ended == "shutdown"
    assert "".join(line for line in lines if line.startswith("child:")) == SAYS
    assert [line for line in lines if not line.startswith("child:")] == [
        "we are partition 1\n", "made partition 2\n", "pages deposited for it: 16\n",
        "the child touches its page 184\n", "the child is off; messages answered: 207\n",
        "taken apart; pages that came back: 16\n", "the memory balance is what it was\n"]


def test_all_it_does_are_hypercalls_in_this_order(result):
    """One after the other, the deposits aside: each call of the same kind stands for all that follow it."""
    calls = [call.code for call in result.of(events.Hypercall, 1) if call.code != Code.DEPOSIT_MEMORY]
    kinds = [calls[0], *(after for before, after in pairwise(calls) if after != before)]
    assert [Code(kind) for kind in kinds] == [
        Code.GET_PARTITION_ID, Code.GET_MEMORY_BALANCE, Code.CREATE_PARTITION, Code.INITIALIZE_PARTITION,
        Code.MAP_GPA_PAGES, Code.CREATE_VP, Code.SET_VP_REGISTERS, Code.INSTALL_INTERCEPT, Code.SET_VP_REGISTERS,
        Code.MAP_GPA_PAGES, Code.SET_VP_REGISTERS, Code.FINALIZE_PARTITION, Code.DELETE_VP, Code.WITHDRAW_MEMORY,
        Code.DELETE_PARTITION, Code.GET_MEMORY_BALANCE]


def test_a_call_that_lacks_memory_is_made_again_after_a_deposit(result):
    """TLFS "Memory Management": no other status than INSUFFICIENT_MEMORY is seen, but for the last withdrawal."""
    statuses = [(call.code, call.status) for call in result.of(events.Hypercall, 1) if call.status]
    assert (Code.INITIALIZE_PARTITION, HvStatus.INSUFFICIENT_MEMORY) in statuses
    assert {status for _, status in statuses} == {HvStatus.INSUFFICIENT_MEMORY, HvStatus.NO_RESOURCES}
    assert [code for code, status in statuses if status == HvStatus.NO_RESOURCES] == [Code.WITHDRAW_MEMORY]


def test_the_child_lives_between_its_making_and_its_end(result):
    kinds = (events.PartitionCreated, events.PartitionInitialized, events.VpCreated, events.PartitionFinalized,
             events.VpDeleted, events.PartitionDeleted)
    assert [type(event) for event in result.of(kinds)] == list(kinds)
    assert sorted(result.hypervisor.partitions) == [1]


def test_each_thing_the_child_cannot_do_is_one_message_and_is_completed(result):
    sent = [event.message_type for event in result.of(events.InterceptSent, CHILD)]
    letters = len(SAYS)
    assert {kind: sent.count(kind) for kind in set(sent)} == {
        T.X64_IO_PORT_INTERCEPT: letters + 2, T.X64_CPUID_INTERCEPT: 1, T.X64_MSR_INTERCEPT: 2, T.UNMAPPED_GPA: 1}
    completed = [event.message_type for event in result.of(events.InterceptCompleted, 1) if event.message_type]
    assert completed == sent[:-1]           # not the last, the power switch


def test_the_message_comes_as_an_interrupt_between_suspension_and_completion(result):
    """The child waits from the first to the last; the slot may still hold the message before."""
    kinds = (events.InterceptSent, events.MessageDelivered, events.InterceptCompleted)
    order = [event for event in result.of(kinds) if event.message_type]
    sent, delivered, completed = ([n for n, event in enumerate(order) if isinstance(event, kind)] for kind in kinds)
    assert len(sent) == len(delivered) == len(completed) + 1        # the power switch is not answered
    assert all(max(places[:2]) < places[2] for places in zip(sent, delivered, completed, strict=False))
    assert all(done < after for done, after in zip(completed, sent[1:], strict=True))
    assert len(result.of(events.Injected, 1)) == len(result.of(events.InterceptSent))


def test_the_memory_that_the_child_touched_is_there_when_it_tries_again(result):
    """The EPT violation happens once; nothing else of the child's exits for memory."""
    exits = [exit.reason for exit in result.of(VmExit, CHILD)]
    assert exits.count(ExitReason.EPT_VIOLATION) == 1


def test_nothing_is_left_in_the_hypervisor(result):
    """Each page is root's again. Of its pool root uses two pages more: its hypercall page and its message page lie in
    2 MiB each that are not whole any more."""
    first, end = result.hypervisor.region
    assert result.hypervisor.owners.taken() == list(range(first >> 12, end >> 12))
    assert result.hypervisor.owners.inspect()["lent"] == 0
    assert result.hypervisor.root.pool.in_use == result.balance["in_use"] + 2


def test_it_is_the_same_run_every_time(run):
    told = [[(each.tsc, each.partition, each.vp, repr(each.event)) for each in run().records] for _ in range(2)]
    assert told[0] == told[1]


@pytest.mark.parametrize("slice_ticks", [2_000, 1_000_000])
def test_it_prints_the_same_however_the_processor_is_shared(run, result, slice_ticks):
    assert run(slice_ticks=slice_ticks).guest.serial == result.guest.serial


@pytest.mark.timeout(60)
def test_a_root_of_machine_code_and_its_child_may_run_at_the_same_time(run):
    """The end of the child's turn frees none whom root still acts on: root waited for it for ever."""
    result = run(parallel=True)
    assert result.guest.ended == "shutdown", result.guest.why
    assert "the memory balance is what it was" in result.guest.serial
    assert [line for line in SAYS.splitlines() if line not in result.guest.serial.splitlines()] == []

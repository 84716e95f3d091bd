"""The fuzz of the whole interface, for a short while; `make fuzz` does more of it."""

from itertools import product

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.messages import PostMessageInput
from hv.spec.hypercalls.statistics import HvStatsObjectType
from hv.spec.layout import Layout
from tests.hypervisor import fuzz_root
from tests.hypervisor.answers import Answers
from tests.hypervisor.fuzz import BATCHES_OF_A_MACHINE, Batch, Fuzzed, play
from tests.hypervisor.lives import wind_up
from tests.hypervisor.near import CALLER, PEER
from tests.hypervisor.script_guest import BLOCKS, FAULTED, VPS, Command, Do, packed


@seed(2026)
@settings(max_examples=5, database=None, deadline=None, suppress_health_check=list(HealthCheck),
          phases=(Phase.generate,))
@given(BATCHES_OF_A_MACHINE)
def test_nothing_a_child_or_root_says_breaks_the_hypervisor_or_touches_a_victim(batches):
    play(batches)


def test_partitions_in_threads_of_their_own_break_nothing_either():
    """No two runs are the same here, so a failure may need several."""
    play([Batch([*range(40, 90)], [5, 6], [1, 2], [*range(40)]), Batch([*range(100, 150)], [7], [3])], parallel=True)


def test_whatever_a_root_of_machine_code_says_the_books_are_exact():
    """Some of what it says switches the machine off; with this seed nothing does for long."""
    assert fuzz_root.play(1) > 200


def test_the_same_seeds_are_the_same_run():
    batches = [Batch([*range(1, 20)], [5, 6], [1, 2], [*range(40, 60)]),
               Batch([*range(100, 120)], [7], [3], [*range(200, 230)], ends=True)]
    assert play(batches) == play(batches)


def test_the_child_really_does_what_its_script_says():
    """A hypercall is answered, a bad MSR faults, VMCALL outside the page is #UD: else the fuzz would prove nothing."""
    script = [Command(Do.HYPERCALL, rcx=0x10008), Command(Do.HYPERCALL, rcx=0x7FFF),
              Command(Do.WRMSR, rcx=0x4000_0002), Command(Do.RDMSR, rcx=0x4000_0002), Command(Do.VMCALL)]
    with Fuzzed() as world:
        world.begin()
        world.obey(dict.fromkeys(world.attackers, [script] * VPS))
        assert world.done["commands of children"] == len(script) * VPS * 2
        for attacker, vp in product(world.living, range(VPS)):
            assert attacker.notes(vp, len(script)) == [
                HvStatus.SUCCESS, HvStatus.INVALID_HYPERCALL_CODE, FAULTED | 13, vp, FAULTED | 6]


def test_a_packed_script_lets_the_guest_go_last():
    assert list(packed([Command(Do.CPUID)]).values())[-1] == (1).to_bytes(8, "little")


def test_the_table_of_answers_shows_first_what_is_never_accepted():
    """A campaign ends with it, so a reader sees what the fuzz does not reach."""
    answers = Answers()
    for status in (HvStatus.SUCCESS, HvStatus.SUCCESS, HvStatus.INVALID_PORT_ID):
        answers.add(HypercallCode.POST_MESSAGE, status)
    answers.add(HypercallCode.SIGNAL_EVENT, HvStatus.ACCESS_DENIED)
    answers.add(0x7FFF, HvStatus.INVALID_HYPERCALL_CODE)
    rows = {row.name: row for row in answers.rows()}
    assert len(rows) == len(HYPERCALLS)
    assert rows["POST_MESSAGE"][1:] == (3, 2, [("INVALID_PORT_ID", 1)])
    assert str(rows["SIGNAL_EVENT"]).startswith("! SIGNAL_EVENT")
    assert answers.rows()[-1].name == "POST_MESSAGE"
    assert [line.split() for line in answers.lines()][-2:] == [["1", "ACCESS_DENIED"], ["1", "INVALID_HYPERCALL_CODE"]]


def test_a_status_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="9999"):
        Answers().add(HypercallCode.POST_MESSAGE, 9999)


def said(code: HypercallCode, input: Layout) -> Command:
    """One call of a script, with its parameters in memory."""
    return Command(Do.HYPERCALL, rcx=code, rdx=BLOCKS, block=input.pack())


def test_the_two_attackers_reach_each_other_and_one_may_go_while_messages_wait():
    """One message stands in its slot, 16 in the port's buffers, the rest is refused; then the receiver is no more."""
    post = PostMessageInput(connection_id=3, message_type=5, payload_size=8)
    with Fuzzed() as world:
        world.begin()
        world.obey({CALLER: [[said(HypercallCode.POST_MESSAGE, post)] * 22, [], []]})
        notes = world.attackers[CALLER].notes(0, 22)
        assert notes.count(HvStatus.SUCCESS) == 17
        assert set(notes[17:]) == {HvStatus.INSUFFICIENT_BUFFERS}
        world.obey({PEER: [[Command(Do.CPUID)], [], []]}, ends=True)
        assert world.done["peers taken down at work"] == 1
        world.obey({CALLER: [[said(HypercallCode.POST_MESSAGE, post)], [], []]})
        assert world.attackers[CALLER].notes(0, 1) == [HvStatus.INVALID_PORT_ID]
        wind_up(world)


def test_root_gives_up_the_statistics_that_it_shows_itself_by_a_register():
    with Fuzzed() as world:
        world.begin()
        world.machine.root.winhv.set_vp_registers(1, 0, {HvRegisterName.STATS_VP_RETAIL: 0x150001})
        world.machine.root.winhv.map_stats_page(HvStatsObjectType.VP, CALLER, 0)
        wind_up(world)
        assert not world.hypervisor.statistics._shown

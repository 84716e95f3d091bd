"""stop, next, finish: where a session's machine stands still."""

import pytest

from hv.commands.description import ConnectionDescription
from hv.debug.commands.stopping import KINDS
from tests.debug.sessions import refused, session_over


@pytest.fixture
def stimer():
    session = session_over(("stimer", "stimer", 1))
    yield session
    session.machine.close()


@pytest.mark.parametrize(("line", "said"), [
    ("stop exit WRMSR", "exit WRMSR"), ("stop exit msr_write", "exit WRMSR"), ("stop exit 32", "exit WRMSR"),
    ("stop msr 0x40000083", "exit WRMSR"), ("stop msr SIMP", "exit WRMSR"), ("stop msr HV_SIMP", "exit WRMSR"),
    ("stop port 0x3f8", "exit IO_INSTRUCTION"), ("stop event VpHalted", "VpHalted"),
    ("stop event vphalted", "VpHalted"), ("stop exit", "  exit "), ("stop port", "exit IO_INSTRUCTION"),
    ("stop vector 0x40", "Injected vector=0x40"), ("stop event MsrWrite if msr == SIMP", "MsrWrite msr=0x40000083"),
])
def test_the_machine_stops_at_what_was_named(stimer, line, said):
    assert stimer.do(line) == f"stop 1 at {line.removeprefix('stop ')}"
    answer = stimer.do("continue").split("\n")
    assert answer[0].startswith(f"stop 1, {line.removeprefix('stop ')}: #")
    assert said in answer[0]
    assert answer[1].startswith("=> ")


def test_a_stop_at_an_msr_shows_the_instruction_behind_it_next(stimer):
    stimer.do("stop msr SIMP if reason == MSR_WRITE")
    stimer.do("continue")
    assert stimer.recent.facts
    exit = [fact for fact in stimer.recent.facts() if fact.field("event") == "VmExit"][-1]
    assert stimer.linear_rip == exit.field("rip") + 2


@pytest.mark.parametrize(("condition", "stops"), [
    ("write", True), ("not write", False), ("vm == 'stimer'", True), ("vm == 'other'", False), ("rax >= 0", True),
    ("rsp == 0xffffffffffffffff", False), ("rip >= start", True), ("value == 0x7fff", False), ("vp == 0", True),
    ("msr == 1", False),
])
def test_a_stop_may_have_a_condition_over_event_and_registers(stimer, condition, stops):
    stimer.do(f"stop port 0x3f8 if {condition}")
    assert stimer.do("continue").startswith("stop 1" if stops else "every VM has ended")


def test_stops_are_listed_and_deleted(stimer):
    assert stimer.do("stop") == "no stops"
    stimer.do("stop exit CPUID")
    stimer.do("stop  port   0x3f8")
    assert stimer.do("stop exit CPUID") == "stop 1 at exit CPUID"
    assert stimer.do("stop").split("\n") == ["1  exit CPUID", "2  port 0x3f8"]
    assert stimer.do("delete stop 1") == "1 removed"
    assert stimer.do("stop") == "1  port 0x3f8"
    assert "there is no stop 4; `stop` lists them" in refused(stimer, "delete stop 4")
    stimer.do("break start")
    assert stimer.do("delete stops") == "1 removed"
    assert "start" in stimer.do("break")
    assert stimer.do("continue").startswith("breakpoint")


@pytest.mark.parametrize(("line", "said"), [
    ("stop exit CPIUD", "`CPIUD` is no reason"), ("stop exit CPIUD", "near: CPUID"),
    ("stop msr NOTHING_LIKE_IT_AT_ALL", "is no msr"), ("stop event MesagePosted", "near: MessagePosted"),
    ("stop event", "which kind is missing"), ("stop exti CPUID", "did you mean `exit`?"),
    ("stop exit CPUID if", "there is no condition"), ("stop exit CPUID if leef == 1", "column 1, `leef == 1`"),
    ("stop exit CPUID if leef == 1", "near: leaf"), ("stop port -1", "is no port"), ("stop if 1", "nothing to stop at"),
    ("stop event VmExit) or (1", "is no kind of event"), ("stop port 1) or (1", "is no port"),
])
def test_a_stop_that_is_none_says_what_is_near(stimer, line, said):
    assert said in refused(stimer, line)
    assert stimer.stops == []


def test_a_stop_at_a_message_looks_at_its_sender():
    session = session_over(("receiver", "receiver", 1), ("sender", "hypercaller", 1),
                           connections=[ConnectionDescription("sender", "receiver")])
    session.do("stop event MessagePosted")
    assert "MessagePosted" in session.do("continue")
    assert session.vm.name == "sender"
    session.do("delete stops")
    session.do("stop hypercall POST_MESSAGE if status == SUCCESS")
    assert session.do("continue").startswith("stop 1, hypercall POST_MESSAGE if status == SUCCESS: #")
    session.do("delete stops")
    session.do("continue")
    assert "got message 5" in session.vms[0].serial
    session.machine.close()


def test_each_kind_of_stop_may_be_left_open_but_that_of_events(stimer):
    for kind in KINDS:
        if kind != "event":
            stimer.do(f"stop {kind}")
    while "every VM has ended" not in stimer.do("continue"):
        pass
    assert stimer.vm.ended == "shutdown"


def test_next_runs_a_call_as_one_instruction(timer):
    timer.do("step 2")
    assert "call 0x101a0" in timer.do("disasm rip 1")
    timer.do("next")
    assert timer.linear_rip == 0x1000F
    timer.do("next")
    assert timer.linear_rip > 0x1000F


def test_a_breakpoint_in_what_is_called_stops_next(timer):
    timer.do("step 2")
    timer.do("break 0x101a0")
    assert timer.do("next").startswith("breakpoint at 0x101a0")


def test_finish_comes_back_to_the_caller(timer):
    timer.do("step 3")
    assert timer.linear_rip == 0x101A0
    assert timer.do("finish").startswith("reached 0x1000f")


def test_finish_without_a_caller_is_refused(timer):
    assert "there is no return address on the stack" in refused(timer, "finish")


def test_finish_leaves_the_innermost_call_of_a_routine_that_calls_itself(tmp_path):
    """The return address is the same for each depth; the stack tells them apart."""
    from hv.commands.building import build, load_image
    from hv.commands.description import MachineDescription, VmDescription
    from hv.debug.session import Session

    place = tmp_path / "deep.asm"
    place.write_text(".bits 64\nstart:\n mov ecx, 3\n call down\n cli\n hlt\ndown:\n dec ecx\n jz done\n call down\n"
                     "back:\n nop\ndone:\n ret\n")
    machine, vms = build(MachineDescription([VmDescription("deep", place)], [], 64))
    session = Session(machine, vms, {"deep": load_image(place)})
    session.do("until done")
    depth = session.vp.regs.rsp
    for level in (1, 2):
        assert "reached" in session.do("finish")
        assert session.prompt == "deep.0 back> "
        assert session.vp.regs.rsp == depth + 8 * level
    assert "reached" in session.do("finish")
    assert session.vp.regs.rsp == depth + 24
    machine.close()

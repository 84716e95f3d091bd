"""record, goto, back, forth, forget: the past, as the REPL shows it."""

import re

import pytest

from hv.commands.building import build_any, load_image
from hv.commands.description import root
from hv.commands.files import find_guest
from hv.debug.session import Session
from tests.debug.sessions import refused, session_over


@pytest.fixture
def session():
    session = session_over(("hello", "hello", 1))
    yield session
    session.machine.close()


def position(said):
    return re.match(r"E\d+([:+]\d+)?", said)[0]


def test_a_recorded_run_comes_to_its_end(session):
    assert re.match(r"recorded up to E47: \d+ checkpoints, \d+ KiB of pages\nhello shutdown", session.do("record"))


def test_a_place_shows_the_same_each_time(session):
    session.do("record")
    first = [session.do(f"goto {place}") + session.do("regs") for place in ("E5", "E20", "E5:2")]
    again = [session.do(f"goto {place}") + session.do("regs") for place in ("E5", "E20", "E5:2")]
    assert first == again
    assert len(set(first)) == 3


def test_back_and_forth_go_from_exit_to_exit(session):
    session.do("record")
    session.do("goto E10")
    assert position(session.do("forth")) == "E11"
    assert position(session.do("back")) == "E10"
    assert position(session.do("back")) == "E9"


def test_a_condition_says_where_to(session):
    session.do("record")
    session.do("goto begin")
    letters = []
    for _ in range(5):
        letters.append(chr(int(re.search(r"PortIo port=0x3f8 .*value=(\w+)",
                                         session.do("forth event == PortIo and write"))[1], 0)))
    assert "".join(letters) == "hello"
    back = session.do("back event == PortIo and write")
    assert chr(int(re.search(r"value=(\w+)", back)[1], 0)) == "l"


def test_what_was_told_is_that_of_the_place(session):
    session.do("record")
    session.do("goto E5")
    assert len(session.do("exits 100").splitlines()) == 5
    session.do("goto E9")
    assert len(session.do("exits 100").splitlines()) == 9


def test_where_nothing_comes_one_is_at_the_end(session):
    session.do("record")
    session.do("goto E5")
    assert "nothing of that comes: this is the end, E47" in session.do("forth reason == CPUID")
    assert "this is the beginning, E0" in session.do("back reason == CPUID")


def test_a_run_is_recorded_piece_by_piece(session):
    first = re.match(r"recorded up to (E\d+)", session.do("record 20us"))[1]
    session.do("goto E2")
    last = re.match(r"recorded up to (E\d+)", session.do("record"))[1]
    assert int(first[1:]) < int(last[1:]) == 47
    assert "hello shutdown" in session.do("record")


@pytest.fixture
def timer():
    session = session_over(("timer", "timer", 1))
    yield session
    session.machine.close()


def test_breakpoints_are_met_forwards_and_backwards(timer):
    """In what is recorded first, and then on behind its end; no meeting is lost or new on the way back."""
    timer.do("record 10us")
    timer.do("goto begin")
    timer.do("break on_timer")
    there = []
    while "breakpoint at" in (said := timer.do("continue")):
        there.append((position(said), timer.do("regs"), timer.prompt))
    assert "every VM has ended: timer shutdown" in said
    assert len(there) >= 3
    back = []
    while "breakpoint at" in (said := timer.do("rcontinue")):
        back.append((position(said), timer.do("regs"), timer.prompt))
    assert back[::-1] == there
    assert "this is the beginning" in said


def test_stops_are_met_in_the_past_too(timer):
    timer.do("stop exit HLT if rip > 0")
    timer.do("record")
    timer.do("goto begin")
    first = timer.do("continue")
    assert re.match(r"E\d+  stop 1, exit HLT if rip > 0: #", first)
    second = timer.do("continue")
    assert position(second) > position(first)
    assert timer.do("rcontinue") == first


def test_steps_go_both_ways(timer):
    timer.do("record")
    timer.do("goto begin")
    there = [timer.do("step") for _ in range(4)]
    assert timer.do("rstep").split("\n")[1:] == there[2].split("\n")
    assert timer.do("rstep 2").split("\n")[1:] == there[0].split("\n")
    assert timer.do("step 3") == there[3]
    timer.do("goto end")
    assert "every VM has ended" in refused(timer, "step")
    assert "this is the beginning" in refused(timer, "rstep 100000")


def test_a_call_is_one_instruction_on_the_way_back_too(timer):
    timer.do("record")
    timer.do("goto begin")
    there = [timer.do("next").split("\n")[-1] for _ in range(5)]
    assert any("call" in line for line in there)
    back = [timer.do("rnext").split("\n")[-1] for _ in range(4)]
    assert back == there[-2::-1]
    timer.do("goto E5:1")
    assert timer.do("rnext").startswith("E5\n")


def test_on_the_way_back_a_breakpoint_in_what_was_called_stops(timer):
    timer.do("record")
    timer.do("goto begin")
    timer.do("next 4")
    timer.do("break idt_set")
    assert "breakpoint at" in timer.do("rnext 3")
    assert timer.do("rnext").startswith("E0:3\n")


@pytest.mark.parametrize("line", ["next", "finish", "until on_timer", "until 30us"])
def test_recorded_or_not_one_comes_to_the_same_place(line):
    """Each way to run comes to the same instruction in a recorded machine as in another."""
    found = []
    for recorded in (False, True):
        session = session_over(("timer", "timer", 1))
        try:
            if recorded:
                session.do("record")
                session.do("goto begin")
            session.do("step 3")
            said = session.do(line)
            found.append((session.vp.regs.rip, said.split("\n")[-1] if "30us" not in line else ""))
        finally:
            session.machine.close()
    assert found[0][1] == found[1][1]
    assert "30us" in line or found[0] == found[1]


def test_a_recording_that_was_forgotten_leaves_a_machine_like_others(session):
    session.do("record 20us")
    session.do("forget")
    assert "hello shutdown" in session.do("continue")


@pytest.mark.parametrize(("line", "why"), [
    ("goto E5", "`record` runs on"), ("back", "`record` runs on"), ("forth", "`record` runs on"),
    ("forget", "`record` runs on"), ("rstep", "`record` runs on"), ("rcontinue", "`record` runs on"),
    ("record 5", "write 10ms")])
def test_without_a_recording_there_is_no_past(session, line, why):
    assert why in refused(session, line)


@pytest.mark.parametrize(("line", "why"), [
    ("goto 5", "write E120"), ("goto E999", "known up to E47"), ("goto E5:999", "comes after"),
    ("goto E5+999", "fewer events"), ("back reson == CPUID", "reson")])
def test_a_place_that_is_not_there_is_told(session, line, why):
    session.do("record")
    assert why in refused(session, line)


def test_who_changes_something_in_the_past_says_so_first(session):
    session.do("record")
    session.do("goto E5:2")
    assert "`branch` lets the run go on from here" in refused(session, "set rbx 5")
    assert re.match(r"E5:2  the run goes on from here; exits forgotten: 42\n", session.do("branch"))
    session.do("set rbx 5")
    assert session.vp.regs.rbx == 5
    session.do("goto E5:1")
    assert session.vp.regs.rbx != 5
    session.do("goto E5:2")
    assert session.vp.regs.rbx == 5
    session.do("record 20us")
    session.do("goto E5:2")
    assert session.vp.regs.rbx == 5
    assert "is in the past" in refused(session, "set rbx 6")
    session.do("goto end")
    session.do("set rbx 6")
    session.do("goto E5:1")
    session.do("goto end")
    assert session.vp.regs.rbx == 6


def test_a_breakpoint_in_a_child_that_comes_and_goes_is_no_error():
    """Root is machine code; its child is there for a while. Where it is not, nothing is met in it."""
    place = find_guest("root_child")
    machine, vms = build_any(root(place, "root_child", 64, 1))
    session = Session(machine, vms, {"root_child": load_image(place)})
    try:
        session.do("record")
        session.do("goto E1200")
        session.do("vp child2.0")
        session.do("break rip")
        session.do("goto begin")
        assert "every VM has ended" in session.do("continue")
        assert "this is the beginning" in session.do("rcontinue")
    finally:
        machine.close()

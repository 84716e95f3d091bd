"""record, goto, back, forth, forget: the past, as the REPL shows it."""

import re

import pytest

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


def test_a_recorded_machine_does_not_run_by_itself(session):
    session.do("record 20us")
    for line in ("continue", "step", "next", "until 1ms"):
        assert "`forget` ends the recording" in refused(session, line)
    session.do("forget")
    assert "hello shutdown" in session.do("continue")


@pytest.mark.parametrize(("line", "why"), [
    ("goto E5", "`record` runs on"), ("back", "`record` runs on"), ("forth", "`record` runs on"),
    ("forget", "`record` runs on"), ("record 5", "write 10ms")])
def test_without_a_recording_there_is_no_past(session, line, why):
    assert why in refused(session, line)


@pytest.mark.parametrize(("line", "why"), [
    ("goto 5", "write E120"), ("goto E999", "known up to E47"), ("goto E5:999", "comes after"),
    ("goto E5+999", "fewer events"), ("back reson == CPUID", "reson")])
def test_a_place_that_is_not_there_is_told(session, line, why):
    session.do("record")
    assert why in refused(session, line)

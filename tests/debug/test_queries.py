"""exits, events, last, count, fields: questions about what was recorded."""

import json

import pytest

from hv import cli
from hv.debug.data import plain_data
from hv.debug.facts import EVENT_CLASSES, field_names
from tests.debug.sessions import refused, session_over


@pytest.fixture(scope="module")
def ended():
    session = session_over(("synic", "synic", 1))
    session.do("continue")
    yield session
    session.machine.close()


def lines(session, line):
    return session.do(line).split("\n")


def test_exits_are_found_by_reason_and_by_what_their_instruction_is_about(ended):
    found = lines(ended, "exits where reason == MSR_WRITE and msr == 0x40000083")
    assert len(found) == 1
    assert "exit WRMSR" in found[0]
    assert "msr=0x40000083 value=0x" in found[0]
    assert found == lines(ended, "exits where msr == SIMP and reason == WRMSR")


@pytest.mark.parametrize(("line", "all_say"), [
    ("exits 3 where port == 0x3f8 and write", "port=0x3f8 size=1 write=True value="),
    ("exits where reason == VMCALL", "exit VMCALL"), ("events where event == SerialOutput", "SerialOutput"),
    ("events 2 where vector == 0x30", "vector=0x30"), ("exits where vm == 'synic' and vp == 0", "exit"),
    ("events where event in (MsrWrite, MsrRead) and msr == SCONTROL", "msr=0x40000080"),
    ("exits where reason == CPUID", "leaf="),
])
def test_every_line_of_an_answer_matches(ended, line, all_say):
    found = lines(ended, line)
    assert found
    assert all(all_say in each for each in found)
    if line.split()[1].isdigit():
        assert len(found) == int(line.split()[1])


def test_an_answer_is_the_newest_matches_oldest_first(ended):
    many, few = lines(ended, "exits 50 where reason == IO"), lines(ended, "exits 4 where reason == IO")
    assert few == many[-4:]
    numbers = [int(line[1:].split()[0]) for line in many]
    assert numbers == sorted(numbers)


def test_operands_are_those_at_the_exit(ended):
    """What the handler of CPUID puts into the registers is the answer, not the question."""
    for fact in ended.value("exits where reason == CPUID").items:
        answered = next(record for record in ended.recent.records
                        if record.sequence > fact.record.sequence and type(record.event).__name__ == "Cpuid")
        assert (fact.field("leaf"), fact.field("subleaf")) == (answered.event.leaf, answered.event.subleaf)


def test_the_value_of_wrmsr_is_what_is_stored(ended):
    stored = {record.event.msr: record.event.value for record in ended.recent.records
              if type(record.event).__name__ == "MsrWrite"}
    written = {fact.field("msr"): fact.field("value") for fact in ended.value("exits 200 where reason == WRMSR").items}
    assert stored
    assert {msr: written.get(msr) for msr in stored} == stored


def test_counts_are_by_kind_or_by_any_field(ended):
    by_reason = dict(ended.value("count exits"))
    counts = ended.vm.partition.vps[0].exit_counts
    assert by_reason["WRMSR"] == counts[32]
    assert sum(by_reason.values()) == sum(counts)
    assert "HV_SIMP (0x40000083)" in ended.do("count exits by msr where reason == WRMSR")
    assert ended.value("count events by vm")["synic"] > 100
    assert ended.do("count events where event == PortIo").split() == ["PortIo", str(by_reason["IO_INSTRUCTION"])]


def test_the_last_one_is_shown_whole(ended):
    shown = ended.value("last reason == WRMSR and msr == SIMP")
    assert (shown["msr"], shown["vm"], shown["event"]) == (0x40000083, "synic", "VmExit")
    assert ended.value("last where reason == WRMSR and msr == SIMP") == shown
    assert ended.do("last msr == 0x12345") == "no event matches"


def test_nothing_found_is_said(ended, timer):
    assert ended.do("exits where leaf == 0x7777") == "no exit matches"
    assert ended.do("events where vector == 255") == "no event matches"
    assert timer.do("exits") == "no exit yet"
    assert timer.do("last") == "no event yet"


@pytest.mark.parametrize(("line", "said"), [
    ("exits where", "there is no condition"), ("exits where raeson == 1", "near: reason"), ("exits 0", "out of range"),
    ("exits 5 where reason == WRMRS", "column 11, `WRMRS`"), ("count exits by raeson", "near: reason"),
    ("count things", "`things` cannot be counted"), ("fields MesagePosted", "near: MessagePosted"),
    ("exits nothing where reason == 1", "is no register"), ("last )", "column 1"),
])
def test_a_question_that_is_none_says_why(ended, line, said):
    assert said in refused(ended, line)


@pytest.mark.parametrize("kind", list(EVENT_CLASSES))
def test_the_fields_of_each_kind_of_event_may_be_asked_for(ended, kind):
    for name in ended.value(f"fields {kind}"):
        assert name in field_names()
        ended.do(f"events where event == {kind} and {name} == 1")


def test_answers_are_plain_data_for_programs(ended):
    (exit,) = plain_data(ended.value("exits where msr == SIMP"))
    assert (exit["reason"], exit["msr"], exit["vm"]) == ("WRMSR", 0x40000083, "synic")
    for line in ("exits", "events 200", "count exits", "inspect vm/1", "regs", "vp", "inspect", "fields", "last"):
        json.dumps(plain_data(ended.value(line)))


def test_a_session_answers_in_json(capsys):
    assert cli.main(["repl", "timer", "--json", "-c", "step", "-c", "break start+5", "-c", "nonsense", "-c", "stop",
                     "-c", "exits where reason == HLT", "-c", "!machine"]) == 1
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["line"] for each in said][:3] == ["step", "break start+5", "nonsense"]
    assert said[2] == {"line": "nonsense", "error": "`nonsense` is no command", "hint": "`help` lists them"}
    assert said[3]["answer"] == ["no stops"]
    assert said[4]["answer"] == []


def test_a_root_of_machine_code_is_debugged_too(capsys):
    assert cli.main(["repl", "root_child", "--root", "-c", "step 2", "-c", "stop hypercall CREATE_PARTITION",
                     "-c", "continue", "-c", "count exits by code where reason == VMCALL"]) == 0
    out = capsys.readouterr().out
    assert "stop 1, hypercall CREATE_PARTITION: #" in out
    assert "CREATE_PARTITION (0x40)" in out

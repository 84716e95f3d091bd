"""Each kind of check compares with what happened, and marks where the two part."""

import msgspec
import pytest

from hv.lab.checks import Happening, Mark, judge_all
from hv.lab.words import event_words
from hv.spec.exits import ExitReason
from hv.trace.events import Cpuid, DmaFault, GuestEnded, MessagePending, MsrWrite
from hv.vmx.exit import VmExit
from tests.lab.exercises import FakeRun, a_check

CPUID = [Happening("a.asm:3", VmExit(ExitReason.CPUID, 0, 2)), Happening("", Cpuid(0x40000000, 0, (1, 2, 3, 4)))]
HLT = [Happening("a.asm:9", VmExit(ExitReason.HLT, 0, 1))]


def marks(finding):
    return [str(mark) for mark, _ in finding.lines]


def test_memory_that_holds_the_text_passes():
    run = FakeRun(symbols={"here": 4}, memory=b"....Hv#1")
    assert a_check(kind="memory", symbol="here", text="Hv#1").judge(run).passed


def test_memory_is_compared_in_groups_of_four_bytes():
    run = FakeRun(symbols={"here": 0}, memory=b"abcdEFgh")
    finding = a_check(kind="memory", symbol="here", text="abcdefgh").judge(run)
    assert marks(finding) == ["GOOD", "BAD", "MISSING"]
    assert finding.message == 'expected "abcdefgh" at `here`, found "abcdEFgh"'


def test_each_line_of_memory_has_its_address():
    run = FakeRun(symbols={"here": 0x10}, memory=bytes(16) + b"abcdEFghIJ")
    assert a_check(kind="memory", symbol="here", text="abcdefghij").judge(run).lines == [
        (Mark.GOOD, '0x10  61 62 63 64  "abcd"'), (Mark.BAD, '0x14  45 46 67 68  "EFgh"'),
        (Mark.MISSING, '0x14  65 66 67 68  "efgh"'), (Mark.BAD, '0x18  49 4a        "IJ"'),
        (Mark.MISSING, '0x18  69 6a        "ij"')]


def test_what_passed_needs_no_words():
    run = FakeRun(symbols={"here": 0}, memory=b"a")
    mistakes = [{"found": "", "says": "wrong"}]
    assert a_check(kind="memory", symbol="here", text="a", mistakes=mistakes).judge(run).message == ""
    assert a_check(kind="memory", symbol="here", text="b", mistakes=mistakes).judge(run).message == "wrong"


def test_memory_that_was_never_written_is_told_so():
    found = a_check(kind="memory", symbol="here", text="a").judge(FakeRun(symbols={"here": 0})).found
    assert found == "nothing but zeros"


def test_memory_may_be_given_in_hexadecimal():
    run = FakeRun(symbols={"here": 0}, memory=b"\x00\x01\xff")
    assert a_check(kind="memory", symbol="here", bytes="00 01 ff").judge(run).passed


def test_memory_behind_the_end_is_no_match():
    assert not a_check(kind="memory", symbol="here", text="abcd").judge(FakeRun(symbols={"here": 62})).passed


def test_a_missing_label_is_named():
    finding = a_check(kind="memory", symbol="here", text="a").judge(FakeRun())
    assert "no label `here`" in finding.message
    assert marks(finding) == ["MISSING"]


@pytest.mark.parametrize("fields", [{}, {"leaf": 0x40000000}, {"instruction_length": 2}], ids=["no", "answer", "exit"])
def test_an_exit_matches_by_its_own_fields_or_those_of_its_answer(fields):
    assert a_check(kind="exit", reason="CPUID", fields=fields).judge(FakeRun(happened=CPUID + HLT)).passed


def test_an_exit_with_another_field_is_bad_and_the_right_one_missing():
    finding = a_check(kind="exit", reason="CPUID", fields={"leaf": 1}).judge(FakeRun(happened=CPUID + HLT))
    assert marks(finding) == ["", "BAD", "MISSING", ""]
    assert finding.lines[2] == (Mark.MISSING, "CPUID leaf=1")


@pytest.mark.parametrize("check", [{"kind": "event", "event": "MsrWrite"}, {"kind": "exit", "reason": "WRMSR"}])
def test_what_is_not_found_among_the_kept_events_may_be_among_those_left_out(check):
    """The words for "never happened" would be a lie."""
    never = [{"found": "none", "says": "it never happened"}]
    finding = a_check(**check, mistakes=never).judge(FakeRun(happened=CPUID + HLT, more=7))
    assert not finding.passed
    assert finding.message.endswith("found none among the first 3 events; 7 more were not looked at: is there a loop "
                                    "that exits again and again?")
    assert finding.lines[-1] == (Mark.NEAR, "and 7 events more, not looked at")
    assert a_check(kind="exit", reason="CPUID").judge(FakeRun(happened=CPUID, more=7)).passed


@pytest.mark.parametrize(("place", "found"), [
    ("a.asm:3", "triple-fault (rip 0x10, a.asm:3)"), ("", "triple-fault (rip 0x10, outside of the program)"),
])
def test_a_crash_says_whether_it_was_in_the_program(place, found):
    run = FakeRun(end="triple-fault", why="rip 0x10", ended_at=place)
    assert a_check(kind="ended", how="halt").judge(run).found == found


def test_the_end_does_not_stand_behind_events_far_from_it():
    run = FakeRun(end="budget", happened=CPUID + HLT, more=7)
    texts = [text for _, text in a_check(kind="ended", how="halt").judge(run).lines]
    assert texts[1:3] == ["a.asm:9  exit HLT instruction_length=1", "and 7 events more, not looked at"]


def test_an_event_matches_by_its_fields():
    run = FakeRun(happened=CPUID)
    assert a_check(kind="event", event="Cpuid", fields={"leaf": 0x40000000, "subleaf": 0}).judge(run).passed
    assert not a_check(kind="event", event="MsrWrite").judge(run).passed


def test_of_two_exits_in_a_row_neither_answers_the_other():
    """What answers an exit is the event behind it; marked is the answer, or the exit when there is none."""
    happened = [*HLT, *CPUID, Happening("a.asm:3", VmExit(ExitReason.CPUID, 0, 2))]
    finding = a_check(kind="exit", reason="CPUID", fields={"leaf": 7}).judge(FakeRun(happened=happened))
    assert marks(finding) == ["", "", "BAD", "MISSING", "BAD"]
    assert finding.found == "Cpuid leaf=0x40000000 subleaf=0 answer=1,2,3,4; exit CPUID instruction_length=2"
    finding = a_check(kind="exit", reason="HLT", fields={"qualification": 7}).judge(FakeRun(happened=happened))
    assert marks(finding) == ["BAD", "MISSING", "", "", ""]
    finding = a_check(kind="exit", reason="CPUID").judge(FakeRun(happened=happened))
    assert marks(finding) == ["", "", "GOOD", "GOOD"]


def test_at_most_three_of_what_was_found_are_told():
    happened = [Happening("", MsrWrite(n, 5)) for n in (1, 2, 2, 3, 4)]
    check = a_check(kind="event", event="MsrWrite", fields={"msr": 9})
    found = check.judge(FakeRun(happened=happened, more=1)).found
    assert found == "MsrWrite msr=1 value=5; MsrWrite msr=2 value=5 among the first 5 events; 1 more were not looked at"


def test_an_event_that_has_a_reason_is_no_exit():
    run = FakeRun(happened=[Happening("", DmaFault(1, 2, True, 3, "no")), *CPUID])
    assert a_check(kind="exit", reason="CPUID", fields={"leaf": 0x40000000}).judge(run).passed


def test_lines_name_the_source_line_and_hide_what_is_not_the_learners():
    run = FakeRun(happened=[*CPUID, Happening("", MsrWrite(0x10, 5)), Happening("", GuestEnded("halt"))])
    lines = a_check(kind="event", event="Cpuid", fields={"leaf": 7}).judge(run).lines
    assert [text for _, text in lines] == [
        "a.asm:3  exit CPUID instruction_length=2",
        "         Cpuid leaf=0x40000000 subleaf=0 answer=1,2,3,4",
        "Cpuid leaf=7",
        "         MsrWrite msr=0x10 value=5",
    ]


def test_serial_output_is_compared_line_by_line():
    finding = a_check(kind="serial", text="one\ntwo\nthree\n").judge(FakeRun(printed="one\n2\nthree\n"))
    assert marks(finding) == ["GOOD", "BAD", "MISSING", "GOOD", "GOOD"]
    assert (finding.expected, finding.found) == ('serial output "one\\ntwo\\nthree\\n"', '"one\\n2\\nthree\\n"')
    assert [text for _, text in finding.lines[1:3]] == ['"2"', '"two"']
    assert a_check(kind="serial", text="one").judge(FakeRun(printed="one")).passed
    assert a_check(kind="serial", text="one").judge(FakeRun()).found == "no output"


def test_registers_are_compared_one_by_one():
    finding = a_check(kind="register", values={"rax": 1, "rbx": 0x20}).judge(FakeRun(registers={"rax": 1, "rbx": 0x21}))
    assert marks(finding) == ["GOOD", "BAD", "MISSING"]
    assert (finding.passed, finding.expected, finding.found) == (False, "rax=1 rbx=0x20", "rax=1 rbx=0x21")
    assert finding.lines[1:] == [(Mark.BAD, "rbx=0x21"), (Mark.MISSING, "rbx=0x20")]
    assert a_check(kind="register", values={"rax": 1}).judge(FakeRun(registers={"rax": 1})).passed


def test_the_end_is_compared_with_its_reason_in_view():
    finding = a_check(kind="ended", how="halt").judge(FakeRun(end="error", why="at rip 0x10", happened=HLT))
    assert finding.found == "error (at rip 0x10)"
    assert marks(finding) == ["", "BAD", "MISSING"]


def test_a_known_mistake_is_told_in_its_own_words():
    check = a_check(kind="ended", how="halt", mistakes=[{"found": "budget", "says": "there is a loop"}])
    assert check.judge(FakeRun(end="budget")).message == "there is a loop"
    assert check.judge(FakeRun(end="shutdown")).message == "expected the guest to end by halt, found shutdown"


def test_a_check_waits_for_the_one_it_needs():
    first, then = a_check(kind="ended", how="halt"), a_check(kind="serial", text="", needs="it")
    then = type(then)(name="then", needs="it", text="")
    assert [f.waiting for f in judge_all([first, then], FakeRun(end="budget"))] == [False, True]
    assert [f.passed for f in judge_all([first, then], FakeRun())] == [True, True]


TWICE = [Happening("a.asm:3", MsrWrite(5, 1)), Happening("a.asm:4", MsrWrite(5, 2)),
         Happening("a.asm:5", Cpuid(1, 0, (0,)))]


@pytest.mark.parametrize(("how", "passes"), [
    ({"count": 2}, True), ({"count": 1}, False), ({"count": 3}, False), ({"never": True}, False),
    ({"at_least": 2}, True), ({"at_least": 3}, False), ({"at_most": 2}, True), ({"at_most": 1}, False),
    ({"at_least": 1, "at_most": 2}, True),
    ({"count": 0, "fields": {"msr": 6}}, True), ({"never": True, "fields": {"value": 3}}, True),
    ({"count": 1, "fields": {"value": 2}}, True),
], ids=str)
def test_how_often_something_happens_can_be_asked(how, passes):
    assert a_check(kind="event", event="MsrWrite", **how).judge(FakeRun(happened=TWICE)).passed is passes


def test_what_must_never_happen_is_bad_where_it_does():
    finding = a_check(kind="event", event="MsrWrite", fields={"value": 2}, never=True).judge(FakeRun(happened=TWICE))
    assert marks(finding) == ["", "BAD", ""]
    assert finding.message == "expected no event MsrWrite value=2, found 1 of them; MsrWrite msr=5 value=2"


@pytest.mark.parametrize(("how", "passes", "unsure"), [
    ({"never": True}, False, False), ({"never": True, "fields": {"msr": 6}}, False, True),
    ({"at_most": 9}, False, True),
    ({"at_least": 2}, True, False), ({"count": 2}, False, True), ({"count": 1}, False, False),
], ids=str)
def test_what_may_have_happened_unseen_is_not_taken_for_absent(how, passes, unsure):
    finding = a_check(kind="event", event="MsrWrite", **how).judge(FakeRun(happened=TWICE, more=1))
    assert (finding.passed, finding.unsure) == (passes, unsure)


@pytest.mark.parametrize("how", [{"count": 1, "never": True}, {"count": 1, "at_most": 1},
                                 {"at_least": 3, "at_most": 2}], ids=str)
def test_how_often_cannot_be_said_twice(how):
    with pytest.raises(msgspec.ValidationError):
        a_check(kind="event", event="MsrWrite", **how)


def ordered(*steps):
    return a_check(kind="order", steps=[{"event": "MsrWrite", "fields": {"value": value}} for value in steps])


def test_what_happens_one_after_the_other_passes():
    assert ordered(1, 2).judge(FakeRun(happened=TWICE)).passed


def test_the_wrong_order_marks_what_came_too_early():
    finding = ordered(2, 1).judge(FakeRun(happened=TWICE))
    assert finding.found == "MsrWrite value=1 only before MsrWrite value=2"
    assert marks(finding) == ["BAD", "GOOD", "MISSING", ""]


def test_a_step_that_never_comes_is_missing_behind_the_one_before():
    finding = ordered(1, 3).judge(FakeRun(happened=TWICE))
    assert finding.found == "no MsrWrite value=3 after MsrWrite value=1"
    assert marks(finding) == ["GOOD", "MISSING", "", ""]
    assert ordered(3, 1).judge(FakeRun(happened=TWICE)).found == "no MsrWrite value=3"
    assert ordered(1, 3).judge(FakeRun(happened=TWICE, more=4)).unsure


def test_the_same_event_does_not_count_for_two_steps():
    assert not ordered(1, 1).judge(FakeRun(happened=TWICE)).passed


@pytest.mark.parametrize(("fields", "passes"), [
    ({"msr": "HV_EOI"}, True), ({"msr": "HV_ICR"}, False), ({"value": {"mask": 0xFF, "value": 0x34}}, True),
    ({"value": {"mask": 0xFF, "value": 0x12}}, False), ({"value": "@here"}, True), ({"value": "@there"}, False),
], ids=str)
def test_a_field_may_be_named_be_some_bits_or_a_label(fields, passes):
    run = FakeRun(happened=[Happening("", MsrWrite(0x40000070, 0x1234))], symbols={"here": 0x1234, "there": 5})
    assert a_check(kind="event", event="MsrWrite", fields=fields).judge(run).passed is passes


def test_a_field_of_several_values_is_a_list():
    check = a_check(kind="event", event="Cpuid", fields={"answer": [1, 2, 3, 4]})
    assert check.judge(FakeRun(happened=CPUID)).passed


def test_who_did_it_matters():
    run = FakeRun(happened=[Happening("", MsrWrite(5, 1), "other", 1)])
    for where in ({"vm": "other"}, {"vm": "any"}, {"vm": "any", "vp": 1}):
        assert a_check(kind="event", event="MsrWrite", **where).judge(run).passed
    for where in ({}, {"vm": "other", "vp": 0}):
        assert not a_check(kind="event", event="MsrWrite", **where).judge(run).passed


def test_lines_of_several_vms_say_whose_they_are():
    run = FakeRun(happened=[Happening("a.asm:1", MsrWrite(5, 1)), Happening("", MsrWrite(5, 2), "other", 1)])
    lines = a_check(kind="event", event="MsrWrite", fields={"value": 2}, vm="any").judge(run).lines
    assert [text for _, text in lines] == ["lab VP 0    a.asm:1  MsrWrite msr=5 value=1",
                                           "other VP 1           MsrWrite msr=5 value=2"]


def test_an_exit_is_answered_by_the_next_event_of_its_own_processor():
    happened = [CPUID[0], Happening("", VmExit(ExitReason.HLT, 0, 1), "lab", 1), CPUID[1]]
    assert a_check(kind="exit", reason="CPUID", fields={"leaf": 0x40000000}).judge(FakeRun(happened=happened)).passed


def test_an_exit_for_any_reason_can_be_counted():
    assert a_check(kind="exit", reason="any", count=2).judge(FakeRun(happened=CPUID + HLT)).passed


@pytest.mark.parametrize(("fields", "passes"), [({"value": 0x6463}, True), ({"value": 0x6463, "size": 4}, False)],
                         ids=str)
def test_memory_may_be_a_number_at_an_address(fields, passes):
    run = FakeRun(memory=b"abcdef")
    assert a_check(kind="memory", gpa=1, offset=1, **{"size": 2, **fields}).judge(run).passed is passes


def test_a_number_in_memory_is_told_as_a_number():
    run = FakeRun(symbols={"n": 0}, memory=b"\7" * 8)
    finding = a_check(kind="memory", symbol="n", value=5, size=4, offset=4).judge(run)
    assert finding.message == "expected 5 at `n` + 4, found 0x7070707"


@pytest.mark.parametrize("fields", [{"value": 256, "size": 1, "gpa": 0}, {"text": "a"},
                                    {"text": "a", "gpa": 0, "symbol": "s"}, {"value": 1, "gpa": 0, "size": 3}], ids=str)
def test_memory_that_cannot_be_is_refused(fields):
    with pytest.raises(msgspec.ValidationError):
        a_check(kind="memory", **fields)


def test_an_unknown_register_is_refused():
    with pytest.raises(msgspec.ValidationError, match="`rxx`"):
        a_check(kind="register", values={"rxx": 1})


@pytest.mark.parametrize(("limits", "passes"), [({"exits": 5}, True), ({"exits": 4}, False), ({"ticks": 99}, False),
                                                ({"exits": 5, "ticks": 100}, True)], ids=str)
def test_work_has_limits(limits, passes):
    assert a_check(kind="work", **limits).judge(FakeRun(worked=(5, 100))).passed is passes


def test_too_much_work_is_told_in_numbers():
    finding = a_check(kind="work", exits=4, ticks=100).judge(FakeRun(worked=(5, 100)))
    assert finding.message == "expected at most 4 exits and at most 100 ticks, found 5 exits and 100 ticks"
    assert marks(finding) == ["BAD", "MISSING", "GOOD"]
    with pytest.raises(msgspec.ValidationError, match="needs exits or ticks"):
        a_check(kind="work")


def test_the_nearest_of_what_was_found_comes_first():
    """Of many writes of MSRs the one of the wanted MSR is the wrong answer to talk about."""
    happened = [Happening("", MsrWrite(n, 5)) for n in (1, 2, 3, 0x40000070, 4)]
    check = a_check(kind="event", event="MsrWrite", fields={"msr": "HV_EOI", "value": 0})
    assert check.judge(FakeRun(happened=happened)).found.startswith("MsrWrite msr=0x40000070 value=5; MsrWrite msr=1 ")


def test_a_message_that_waits_is_shown():
    """TLFS "Message Delivery": a full slot and no EOM is what a learner forgets."""
    assert event_words(MessagePending(2, 1)) == "MessagePending sint=2 message_type=1"

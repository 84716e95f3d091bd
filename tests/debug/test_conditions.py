"""The small language of conditions over events."""

import pytest

from hv.debug.conditions import LONGEST, Condition, closest, members, split
from hv.debug.errors import DebugError
from hv.debug.facts import Fact
from hv.spec.exits import ExitReason
from hv.trace import events
from hv.trace.bus import Record
from hv.vmx.exit import VmExit


def fact(event, partition=2, vp=0, **operands):
    return Fact(Record(7, 1000, partition, vp, event), operands, "timer")


WRMSR = fact(VmExit(ExitReason.WRMSR, 0, 2), msr=0x40000083, value=0xF00000001, rip=0x10010)
CPUID = fact(VmExit(ExitReason.CPUID, 0, 2), leaf=0x40000000, subleaf=0, rip=0x10000)
VIOLATION = fact(VmExit(ExitReason.EPT_VIOLATION, 0x182), rip=0x10000, gpa=0xFEE00000)
CALL = fact(events.Hypercall(0x5C, 0x1005C, 0, 0, 5, 0, "no"))
SWITCH = fact(events.VpSwitch(3, 1, events.SwitchReason.WOKEN))
ANSWER = fact(events.Cpuid(1, 0, (1, 2, 3, 4)))


@pytest.mark.parametrize(("source", "about", "answer"), [
    ("reason == MSR_WRITE and msr == 0x40000083", WRMSR, True),
    ("reason == WRMSR and msr == SCONTROL", WRMSR, False),
    ("reason == MSR_WRITE and msr == SIMP", WRMSR, True),
    ("reason in (RDMSR, WRMSR)", WRMSR, True), ("reason not in [RDMSR, WRMSR]", WRMSR, False),
    ("reason == 32", WRMSR, True), ("CPUID == reason", CPUID, True), ("event == VmExit", CPUID, True),
    ("0x40000000 <= leaf < 0x40000010", CPUID, True), ("0x40000000 <= leaf < 0x40000000", CPUID, False),
    ("value >> 32 == 0xF and value & 1", WRMSR, True), ("value", WRMSR, True), ("not value & 2", WRMSR, True),
    ("gpa // 4096 == 0xFEE00", VIOLATION, True), ("qualification & 2", VIOLATION, True),
    ("event == Hypercall and code == POST_MESSAGE and status != SUCCESS", CALL, True),
    ("status == INVALID_PARAMETER", CALL, True), ("code == 0x5c", CALL, True), ("why == 'no'", CALL, True),
    ("why == WOKEN", SWITCH, True), ("why == HALTED", SWITCH, False),
    ("vm == 'timer'", WRMSR, True), ("vm == 'other'", WRMSR, False), ("tsc >= 1000 and sequence == 7", WRMSR, True),
    ("vp == 1 and partition == 3", SWITCH, True), ("in_vp == 0 and in_partition == 2", SWITCH, True),
    ("vp == 0 and partition == 2", WRMSR, True), ("answer[1] == 2", ANSWER, True), ("4 in answer", ANSWER, True),
    ("rip == start", CPUID, True), ("rip == start.wait", WRMSR, True), ("rip > start + 1 if msr else 0", WRMSR, True),
    ("True", CPUID, True), ("-1 < 0 and ~0 == -1 and +1 == 1", CPUID, True), ("7 % 4 ^ 1 | 8 == 10", CPUID, True),
])
def test_a_condition_is_true_of_an_event_or_not(source, about, answer):
    assert Condition(source, {"start": 0x10000, "start.wait": 0x10010})(about) is answer


@pytest.mark.parametrize(("source", "about"), [
    ("msr == 1", CPUID), ("msr != 1", CPUID), ("not msr == 1", CPUID), ("msr in (1, 2)", CPUID), ("reason", CALL),
    ("answer[9] == 1", ANSWER), ("guest_physical_address != 0", CPUID), ("vm + 1", CPUID), ("leaf / 1 == 1" [:4], CALL),
    ("leaf // 0", CPUID), ("leaf << leaf", CPUID), ("value * value * value * value > 0", WRMSR), ("1 << -1", CPUID),
    ("vm < 3", CPUID), ("vm * 1000", CPUID), ("vm[999]", CPUID), ("1 in 5", CPUID),
])
def test_what_cannot_be_asked_of_an_event_does_not_match(source, about):
    assert Condition(source)(about) is False


@pytest.mark.parametrize("source", ["msr == 1 or leaf >= 0", "leaf >= 0 or msr == 1", "leaf // 0 or leaf"])
def test_an_alternative_that_cannot_be_asked_leaves_the_others(source):
    assert Condition(source)(CPUID) is True


@pytest.mark.parametrize(("source", "said"), [
    ("", "there is no condition"),
    ("reason = CPUID", "column 8, `= CPUID`: invalid syntax; write ==, not ="),
    ("reason == CPUD", "column 11, `CPUD`: `CPUD` is no ExitReason and no FaultReason; near: CPUID"),
    ("msr == 1 and raeson == 3",
     "column 14, `raeson == 3`: `raeson` is no field of an event and no symbol; near: reason"),
    ("status == INVALID_PARAMTER", "`INVALID_PARAMTER` is no HvStatus; near: INVALID_PARAMETER"),
    ("event == MesagePosted", "`MesagePosted` is no kind of event; near: MessagePosted"),
    ("msr == 1 &&", "write and, not &&"), ("msr ==", "column 7, the end: invalid syntax"),
    ("open('x')", "column 1, `open('x')`: a call is not allowed here"),
    ("vm.upper", "column 1, `vm.upper`: a part of something is not allowed here"),
    ("().__class__", "a part of something is not allowed here"), ("lambda: 1", "a function is not allowed here"),
    ("[x for x in answer]", "a listcomp is not allowed here"), ("(x := 1)", "an assignment is not allowed here"),
    ("f'{vm}'", "a formatted text is not allowed here"), ("2 ** 9999999", "a binop is not allowed here"),
    ("msr is None", "`is` is not allowed here; write =="), ("1.5 < 2", "such a constant is not allowed here"),
    ("vm[:1]", "a subscript is not allowed here"), ("{1: 2}", "a dict is not allowed here"), ("\0", "null bytes"),
    ("(" * 500, "column"), ("-" * 1900 + "1", "column 1"), ("1" * (LONGEST + 1), "expected at most 2000"),
    ("9" * 1999 + "9 == msr", "expected at most"), ("import os", "column 1"), ("é", "`é` is no field"),
])
def test_a_condition_that_is_none_says_where_and_what_is_near(source, said):
    with pytest.raises(DebugError) as caught:
        Condition(source)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_asked_now_comes_before_a_field():
    values = iter((1, 2))
    condition = Condition("rip == 2", live={"rip": lambda: next(values)})
    assert [condition(CPUID), condition(CPUID)] == [False, True]


def test_names_of_the_manual_belong_to_their_field():
    assert members("reason")["MSR_WRITE"] == members("reason")["WRMSR"] == 32
    assert "SUCCESS" not in members("reason")
    assert members("")["POST_MESSAGE"] == 0x5C
    assert members("rip") == {}


def test_near_names_are_found_whatever_their_case():
    assert closest("cpiud", ["CPUID", "HLT"]) == ["CPUID"]


@pytest.mark.parametrize(("text", "parts"), [
    ("exit CPUID if leaf == 1", ("exit CPUID", "leaf == 1")), ("exit CPUID", ("exit CPUID", None)),
    ("where a", ("where a", None)), ("if", ("", "")), ("x\tif  y", ("x", "y")),
    ("iffy if 'a if b'", ("iffy", "'a if b'")),
])
def test_a_word_that_stands_alone_splits_a_line(text, parts):
    assert split(text, "if") == parts

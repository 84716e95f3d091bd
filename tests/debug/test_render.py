"""Answers as text: the same text for the same answer, without addresses of objects."""

from dataclasses import dataclass

import pytest

from hv.debug.render import MOST_LINES, outline, render
from hv.spec.exits import ExitReason
from hv.trace.bus import Record
from hv.trace.events import MsrRead
from hv.vmx.exit import VmExit


@dataclass
class Pair:
    left: int
    right: str


class Inspectable:
    def inspect(self):
        return {"one": 1, "deep": {"two": 0x20}, "reserved_3": 5}


@pytest.mark.parametrize(("value", "text"), [
    ("\x1b[2J\nb", "\\x1b[2J\nb"), ([b"\x1b", "\x07"], "1b\n\\x07"),
    (None, ""), (True, "True"), (9, "9"), (16, "0x10"), (-1, "-1"), ("a\nb", "a\nb"), (b"\x01\xff", "01 ff"),
    ([1, 32], "1\n0x20"), (Pair(1, "x"), "left=1 right=x"), (Pair(1, ""), "left=1"),
    ({"a": 1, "bcd": {"e": 16}}, "a      1\nbcd/e  0x10"),
    (Inspectable(), "one       1\ndeep/two  0x20"), (ExitReason.CPUID, "CPUID"), (object(), "<object>"), ([], ""),
    ({"empty": []}, "empty  none"),
])
def test_answers_of_every_kind(value, text):
    assert render(value) == text


@pytest.mark.parametrize(("value", "text"), [(9, "9"), (10, "0xa"), (-9, "-9"), (-10, "-0xa"), (0, "0")])
def test_a_number_is_decimal_where_that_reads_the_same(value, text):
    assert render(value) == text


def test_a_class_is_not_inspected_and_its_name_is_told():
    assert render([Pair, Inspectable]) == "<class 'tests.debug.test_render.Pair'>\n" \
        "<class 'tests.debug.test_render.Inspectable'>"
    assert outline(Inspectable) is Inspectable


def test_an_event_is_one_line_with_number_time_and_place():
    assert render(Record(3, 1000, 2, 1, MsrRead(0x10, 5))) == "#3              1000  2.1  MsrRead msr=0x10 value=5"
    shown = render([Record(4, 1000, 2, 0, VmExit(ExitReason.HLT, 0, 1))])
    assert shown == "#4              1000  2.0  exit HLT qualification=0 instruction_length=1"


def test_a_long_answer_is_cut():
    lines = render([str(n) for n in range(MOST_LINES + 5)]).split("\n")
    assert len(lines) == MOST_LINES + 1
    assert lines[-1] == "... and 5 lines more"


def test_an_answer_of_as_many_lines_as_fit_is_whole():
    assert len(render([str(n) for n in range(MOST_LINES)]).split("\n")) == MOST_LINES
    assert "more" not in render([str(n) for n in range(MOST_LINES)])


@pytest.mark.parametrize(("value", "shown"), [
    (list(range(8)), list(range(8))), ("x" * 9, "x" * 9), ({n: n for n in range(8)}, {n: n for n in range(8)}),
    ({n: n for n in range(9)}, "/ 0 1 2 3 4 5 6 7 8"), ({}, {}), (Inspectable(), "/ one deep reserved_3"),
])
def test_what_is_small_is_shown_whole_in_an_outline(value, shown):
    assert outline({"it": value}) == {"it": shown}
    assert render({"it": {}}) == "it"


def test_an_outline_names_what_lies_deeper():
    assert outline({"x": {"y": {"z": 1}}, "list": list(range(9)), "small": {"a": 1}}) == {
        "x": "/ y", "list": "(9 entries)", "small": {"a": 1}}

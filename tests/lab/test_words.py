"""How numbers, bytes and events are written for a learner."""

import pytest

from hv.lab.words import event_words, field_words, number, quoted
from hv.spec.exits import ExitReason
from hv.trace.events import Cpuid, GuestEnded, MmioAccess
from hv.vmx.exit import VmExit


@pytest.mark.parametrize(("value", "text"), [(9, "9"), (10, "0xa"), (-9, "-9"), (-10, "-0xa"), (0, "0")])
def test_a_number_is_decimal_where_that_reads_the_same(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("data", "text"), [
    (b"Hv ~", '"Hv ~"'), (b"a\r\n", '"a\\r\\n"'), (b"\x7f", "7f"), (b"\x1f", "1f"), (b"a\x0b", "61 0b"),
    (b"a\x0e", "61 0e"), (b"a\xff", "61 ff"), (b"", "nothing"), (b"\0", "00"),
])
def test_bytes_are_text_in_quotes_or_hexadecimal(data, text):
    assert quoted(data) == text


def test_bytes_without_end_are_cut():
    assert len(quoted(bytes(100_000))) < 2000
    assert quoted(bytes(100)) == bytes(100).hex(" ")


@pytest.mark.parametrize(("values", "text"), [
    ({}, "it"), ({"leaf": 0x10, "n": 3}, "it leaf=0x10 n=3"), ({"write": True}, "it write=True"),
    ({"answer": (1, 32)}, "it answer=1,0x20"), ({"why": "a\x1b"}, "it why=a\\x1b"),
])
def test_fields_are_a_name_and_values(values, text):
    assert field_words("it", values) == text


@pytest.mark.parametrize(("event", "text"), [
    (VmExit(ExitReason.HLT, 0, 1), "exit HLT instruction_length=1"),
    (Cpuid(1, 0, (1, 2, 3, 4)), "Cpuid leaf=1 subleaf=0 answer=1,2,3,4"),
    (MmioAccess(0xFEE00000, 4, True, 5), "MmioAccess gpa=0xfee00000 size=4 write=True value=5"),
    (GuestEnded("halt"), ""),
])
def test_an_event_is_one_line_or_not_for_a_learner(event, text):
    assert event_words(event) == text

"""Text from outside cannot command a terminal, and is never longer than a screen."""

import pytest

from hv.printable import LONGEST_LINE, LONGEST_WORD, one_line, printable


@pytest.mark.parametrize(("text", "shown"), [
    ("plain", "plain"), ("Grüße, 日本", "Grüße, 日本"), ("\x1b[2J", "\\x1b[2J"), ("a\nb\r\t", "a\\nb\\r\\t"),
    ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"), ("\u202e\u2028", "\\u202e\\u2028"), ("\udc80", "\\udc80"),
])
def test_what_a_terminal_would_obey_is_shown_escaped(text, shown):
    assert printable(text) == shown


def test_a_long_text_is_cut():
    assert printable("x" * 1000, 20) == "x" * 17 + "..."


def test_a_message_of_several_lines_becomes_one_line():
    assert one_line("first\n  second\t\x1b[31m") == "first second \\x1b[31m"


def test_a_long_word_and_a_long_message_are_cut_in_the_middle():
    assert one_line(f"a {'b' * 1000} c") == f"a {'b' * 60}...{'b' * 60} c"
    assert len(one_line("word " * 10_000)) <= LONGEST_LINE + 5


@pytest.mark.parametrize(("length", "shown"), [(20, "x" * 20), (21, "x" * 17 + "...")])
def test_a_text_of_just_the_length_is_whole(length, shown):
    assert printable("x" * length, 20) == shown


@pytest.mark.parametrize(("text", "whole"), [
    ("w" * LONGEST_WORD, True), ("w" * (LONGEST_WORD + 1), False), ("abc " * 249 + "abcd", True),
    ("abc " * 249 + "abcde", False), ("a", True),
])
def test_a_message_of_just_the_length_is_whole(text, whole):
    assert (one_line(text) == text) is whole
    assert one_line(text)[:60] == text[:60]
    assert one_line(text)[-60:] == text[-60:]

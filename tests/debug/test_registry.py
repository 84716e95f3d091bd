"""Commands: usage and help come from the function, arguments from the line."""

import pytest

from hv.debug import registry
from hv.debug.errors import DebugError
from hv.debug.registry import Command, find, without_comment


def sample(session: object, space: str, n: int = 3) -> None:
    """Do something.

    At length.
    """


def say(session: object, text: str) -> None:
    """Take the whole line."""


class FakeSession:
    def number(self, text):
        if not text.isdigit():
            raise DebugError(f"`{text}` is no number")
        return int(text)


ENTRY = Command("sample", ("sa",), sample)
# As in modules with postponed annotations, which every file of hv/ has.
sample.__annotations__ = {"session": "object", "space": "str", "n": "int"}
say.__annotations__ = {"session": "object", "text": "str"}


def test_usage_and_help_come_from_the_function():
    assert (ENTRY.usage, ENTRY.summary) == ("sample SPACE [N]", "Do something.")
    assert ENTRY.help.endswith("At length.")


@pytest.mark.parametrize(("text", "values"), [("gva 5", ["gva", 5]), ("gva", ["gva"]), ("  gva   7 ", ["gva", 7])])
def test_arguments_are_read_by_their_type(text, values):
    assert ENTRY.arguments(FakeSession(), text) == values


def test_an_argument_called_text_is_the_rest_of_the_line():
    assert Command("say", (), say).arguments(FakeSession(), " a b  c ") == ["a b  c"]


@pytest.mark.parametrize(("text", "part"), [("", "space is missing; usage: sample SPACE [N]"),
                                            ("a x", "`x` is no number"), ("a 1 2", "`2` is too much; usage")])
def test_wrong_arguments_say_how_it_is_used(text, part):
    with pytest.raises(DebugError) as caught:
        ENTRY.arguments(FakeSession(), text)
    assert part in str(caught.value)


@pytest.mark.parametrize(("text", "kept"), [
    ("5 # five", "5 "), ("# all", ""), ('text "a#b" # c', 'text "a#b" '), ("vm == '#' and x#y", "vm == '#' and x"),
    ('"open # comment', '"open '), ("", ""), ("no comment", "no comment"),
])
def test_a_comment_begins_outside_of_quotes(text, kept):
    assert without_comment(text) == kept


def test_a_name_that_is_taken_is_an_error_at_import(monkeypatch):
    monkeypatch.setattr(registry, "NAMES", {"sample": ENTRY})
    monkeypatch.setattr(registry, "COMMANDS", {})
    with pytest.raises(TypeError, match="`sample` is sample and say"):
        registry.command("sample")(say)


def test_a_command_is_found_by_name_alias_and_beginning(monkeypatch):
    other = Command("serve", (), say)
    monkeypatch.setattr(registry, "NAMES", {"sample": ENTRY, "sa": ENTRY, "serve": other})
    monkeypatch.setattr(registry, "COMMANDS", {"sample": ENTRY, "serve": other})
    assert (find("sample"), find("sa"), find("ser")) == (ENTRY, ENTRY, other)
    for word, part in (("s", "`s` may be sample, serve"), ("simple", "did you mean `sample`?"),
                       ("zzz", "`help` lists them")):
        with pytest.raises(DebugError) as caught:
            find(word)
        assert part in str(caught.value)

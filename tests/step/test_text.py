"""Lines of styled text: as wide as they shall be, and nothing in them commands the terminal."""

import pytest

from hv.image.model import Image
from hv.step.board import Look, board
from hv.step.model import Model
from hv.step.sources import Sources
from hv.step.text import cut, filled, padded, plain, width_of
from tests.step.stories import source_model, text


@pytest.mark.parametrize(("words", "width", "shown"), [
    ("abcdef", 6, "abcdef"), ("abcdef", 5, "abcd…"), ("abcdef", 1, "…"), ("", 3, ""), ("日本語", 6, "日本語"),
    ("日本語", 5, "日本…"), ("日本語", 4, "日 …"), ("a\x1b[2Jb", 20, "a\\x1b[2Jb")])
def test_a_line_is_cut_to_columns(words, width, shown):
    line = cut([("", words[:2]), ("new", words[2:])], width)
    assert "".join(piece for _, piece in line) == shown
    assert width_of(line) <= width
    assert width_of(padded([("", words)], width)) == width


def test_a_text_is_filled_into_lines():
    assert "\n".join(map(plain, filled("one two three four", 9, "  "))) == "  one two\n  three\n  four"
    assert plain([("", "a"), ("dim", "b   ")]) == "ab"


def test_a_program_cannot_command_the_terminal_by_its_names(tmp_path):
    """A symbol of an ELF may be called anything, and a source may say anything."""
    hostile = "\x1b]0;owned\x07\x1b[2J"
    model = source_model(".bits 64\n.org 0x10000\nstart:\n nop\n hlt\n")
    (tmp_path / "test.asm").write_text(f"x\nx\nx\n nop ; {hostile} 日本語\n hlt\n", encoding="utf-8")
    image = model.story.images["test"]
    other = Image(image.kind, image.segments, image.entry, image.bits, {hostile: 0x10000}, image.lines, image.places)
    before = dict(model.story.images)
    model.story.images["test"] = other
    try:
        fresh = Model(model.story, Sources([tmp_path]))
        lines = board(fresh, Look("code"), 100, 30).lines
    finally:
        model.story.images.update(before)
    assert "owned" in text(lines)
    assert "日本語" in text(lines)
    assert all(piece.isprintable() for line in lines for _, piece in line)
    assert {width_of(line) for line in lines} == {100}

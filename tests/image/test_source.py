"""Includes stay inside their folders, comments and quotes are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from hv.image.errors import ImageError
from hv.image.load import load
from hv.image.source import read_statements, read_text, strip_comment


@pytest.mark.parametrize(("line", "kept"), [
    ("mov eax, 1 ; x", "mov eax, 1 "), ("a # b", "a "), ("a // b", "a "), ("mov al, ';'", "mov al, ';'"),
    ('.ascii "a;b#c//d"', '.ascii "a;b#c//d"'), ('.ascii "\\";" ; x', '.ascii "\\";" '),
    ("mov al, '\\'' ; x", "mov al, '\\'' "),
    ("mov eax, 8 / 2", "mov eax, 8 / 2"),
])
def test_a_comment_ends_a_statement_but_not_inside_quotes(line: str, kept: str) -> None:
    assert strip_comment(line) == kept


def test_an_include_is_read_in_place_and_keeps_its_own_lines(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "two.inc").write_text("\nnop\n")
    (tmp_path / "one.asm").write_text('start: hlt\n.include "lib/two.inc"\nhlt\n')
    image = load(tmp_path / "one.asm")
    assert image.segments[0].data == b"\xf4\x90\xf4"
    assert image.lines == {0x10000: 1, 0x10002: 3}
    assert image.places[0x10001] == "lib/two.inc:2"


def test_the_guests_folder_is_searched_after_the_sources_own(tmp_path: Path) -> None:
    (tmp_path / "one.asm").write_text('.include "lib/machine.inc"\nmov dx, COM1\n')
    assert load(tmp_path / "one.asm").segments[0].data.hex() == "66baf803"


def test_a_label_before_an_include_is_the_address_of_what_is_included(tmp_path: Path) -> None:
    (tmp_path / "two.inc").write_text("hlt\n")
    (tmp_path / "one.asm").write_text('nop\nthere: again: .include "two.inc"\njmp there\n')
    image = load(tmp_path / "one.asm")
    assert image.symbols == {"there": 0x10001, "again": 0x10001}
    assert image.segments[0].data.hex() == "90f4ebfd"


def test_an_absolute_path_is_refused_even_into_the_folder(tmp_path: Path) -> None:
    (tmp_path / "two.inc").write_text("hlt\n")
    with pytest.raises(ImageError, match="leaves the folder"):
        read_statements(f'.include "{tmp_path / "two.inc"}"', "text", (tmp_path,))


def test_includes_nest_eight_deep(tmp_path: Path) -> None:
    (tmp_path / "0.inc").write_text("hlt")
    for n in range(1, 9):
        (tmp_path / f"{n}.inc").write_text(f'.include "{n - 1}.inc"')
    assert len(read_statements('.include "7.inc"', "text", (tmp_path,))) == 1
    with pytest.raises(ImageError, match="nested deeper than 8"):
        read_statements('.include "8.inc"', "text", (tmp_path,))


@pytest.mark.parametrize("wanted", ["../secret", "/etc/passwd", "lib/../../secret", "..\\secret", "link"])
def test_an_include_cannot_leave_its_folders(tmp_path: Path, wanted: str) -> None:
    inside = tmp_path / "inside"
    (inside / "lib").mkdir(parents=True)
    (tmp_path / "secret").write_text("nop\n")
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "one.asm").write_text(f'.include "{wanted}"\n')
    with pytest.raises(ImageError, match="leaves the folder") as caught:
        load(inside / "one.asm")
    assert caught.value.line == 1


@pytest.mark.parametrize(("text", "message"), [
    ('.include "nosuch.inc"', "is not in /.* or /.*guests"), (".include nosuch.inc", "in quotes"),
    ('.include "nosuch.inc', "in quotes"), ('.include nosuch.inc"', "in quotes"),
    ('.include "one.asm"', "nested deeper"),
    ('.include "folder"', "is a directory"), ('.include "binary.inc"', "is not UTF-8"), ('.include ""', "in quotes"),
    ('.include "' + "a" * 4000 + '"', "is not in"),
])
def test_an_include_that_cannot_be_read_says_why(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary.inc").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "one.asm").write_text(text + "\n")
    with pytest.raises(ImageError, match=message):
        load(tmp_path / "one.asm")


def test_a_source_without_a_file_has_no_folder() -> None:
    with pytest.raises(ImageError, match="any folder"):
        read_statements('.include "x"', "text", ())


def test_a_text_that_is_missing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        read_text(tmp_path / "nosuch.inc")


def test_a_program_has_as_many_statements_and_a_statement_as_many_characters_as_the_limits(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hv.image.source.MAX_STATEMENTS", 3)
    monkeypatch.setattr("hv.image.source.MAX_STATEMENT_LENGTH", 10)
    assert len(read_statements("nop\nnop\n\nmov al, 12 ; and a comment", "text", ())) == 3
    with pytest.raises(ImageError, match="text:4: `nop`: the program has more than 3 statements"):
        read_statements("nop\nnop\nnop\nnop", "text", ())
    with pytest.raises(ImageError, match="text:2: `mov al, 123`: the statement has 11 characters; expected at most 10"):
        read_statements("nop\nmov al, 123", "text", ())


@pytest.mark.parametrize(("text", "statement", "labels"), [
    ("a: .b: c: hlt", "hlt", ("a", ".b", "c")), ("a:", "", ("a",)), ("a : hlt", "hlt", ("a",)),
    ("es: lodsb", "es: lodsb", ()), ("a: es: lodsb", "es: lodsb", ("a",)),
    ("SIZE = 4 + 4", ".equ SIZE, 4 + 4", ()), ("a: SIZE=4", ".equ SIZE, 4", ("a",)), ("a == 4", "a == 4", ()),
    ("a::", "a::", ()),
])
def test_labels_are_taken_off_and_equals_is_equ(text: str, statement: str, labels: tuple[str, ...]) -> None:
    (found,) = read_statements(text, "text", ())
    assert (found.text, found.labels) == (statement, labels)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "marked.asm").write_bytes(b"\xef\xbb\xbf.bits 64\nhlt\n")
    assert read_text(tmp_path / "marked.asm") == ".bits 64\nhlt\n"


def test_lines_end_as_in_any_editor() -> None:
    statements = read_statements("nop\r\nnop\rnop\n\x0bnop", "text", ())
    assert [statement.line for statement in statements] == [1, 2, 3, 4]

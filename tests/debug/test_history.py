"""What was typed in earlier sessions, in a file that anybody may have broken."""

import json

import pytest

from hv.debug.history import KEPT_LINES, LONGEST_ENTRY, HistoryFile


@pytest.fixture
def place(tmp_path):
    return tmp_path / "deep" / "history.jsonl"


def test_what_one_session_adds_the_next_one_finds(place):
    first = HistoryFile(place)
    for entry in ("step 5", "for n in range(2):\n    print(n)\n", "é"):
        first.add(entry)
    assert HistoryFile(place).entries == ["step 5", "for n in range(2):\n    print(n)\n", "é"]
    assert HistoryFile(place).trouble == ""


@pytest.mark.parametrize("entry", ["", "   \n", "x" * (LONGEST_ENTRY + 1)])
def test_what_is_empty_or_endless_is_not_remembered(place, entry):
    history = HistoryFile(place)
    history.add(entry)
    assert history.entries == []
    assert not place.exists()


def test_the_same_line_again_is_remembered_once(place):
    history = HistoryFile(place)
    for entry in ("step", "step", "regs", "step"):
        history.add(entry)
    assert HistoryFile(place).entries == ["step", "regs", "step"]


@pytest.mark.parametrize("broken", [b"\xff\xfe\x00", b'"half', b"{}", b"17", b"[" * 100_000, b"null"])
def test_a_broken_file_is_kept_aside_and_its_good_lines_go_on(place, broken):
    """A corrupt state file: kept aside, said so, nothing lost."""
    place.parent.mkdir()
    data = b'"regs"\n' + broken + b'\n"exits"\n'
    place.write_bytes(data)
    history = HistoryFile(place)
    assert history.entries == ["regs", "exits"]
    assert history.trouble == "the history had 1 broken lines; as it was, it is kept as history.jsonl.broken-1"
    assert place.with_name("history.jsonl.broken-1").read_bytes() == data
    again = HistoryFile(place)
    assert (again.entries, again.trouble) == (["regs", "exits"], "")


def test_what_was_kept_aside_before_stays(place):
    place.parent.mkdir()
    for _ in range(2):
        place.write_bytes(b"\0\n")
        HistoryFile(place)
    assert sorted(path.name for path in place.parent.iterdir()) == [
        "history.jsonl", "history.jsonl.broken-1", "history.jsonl.broken-2"]


def test_a_file_that_grew_long_keeps_its_newest_lines(place):
    place.parent.mkdir()
    place.write_text("".join(json.dumps(str(n)) + "\n" for n in range(2 * KEPT_LINES + 1)))
    assert HistoryFile(place).entries == [str(n) for n in range(KEPT_LINES + 1, 2 * KEPT_LINES + 1)]
    assert len(place.read_text().splitlines()) == KEPT_LINES


def test_a_place_that_is_no_file_is_told_and_stops_nobody(tmp_path):
    history = HistoryFile(tmp_path)
    assert history.trouble.startswith("the history cannot be read: ")
    history.add("step")
    assert history.entries == ["step"]
    assert history.trouble.startswith("the history is not kept: ")

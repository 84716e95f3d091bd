"""Progress survives crashes, damage and folders that cannot be written."""

import os

import pytest

from hv.lab.progress import FILE, Progress, state_folder


def test_what_is_done_is_remembered(tmp_path):
    Progress(tmp_path).mark_done("01_first_exit")
    assert Progress(tmp_path).of("01_first_exit").done
    assert not Progress(tmp_path).of("02_other").done


def test_hints_come_one_after_the_other_and_the_last_one_stays(tmp_path):
    assert [Progress(tmp_path).next_hint("a", 3) for _ in range(5)] == [0, 1, 2, 2, 2]


DAMAGED = {
    "garbage": b"\xff\x00garbage", "truncated": b'{"version": 1, "labs"', "empty": b"", "a-list": b"[]",
    "wrong-type": b'{"version": 1, "labs": {"a": 5}}', "another-version": b'{"version": 9}', "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_set_aside_and_said_so(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    progress = Progress(tmp_path)
    assert not progress.of("a").done
    assert "damaged-1" in progress.notes[0]
    assert (tmp_path / f"{FILE}.damaged-1").read_bytes() == content
    progress.mark_done("a")
    assert Progress(tmp_path).of("a").done


def test_a_second_damaged_file_does_not_replace_the_first(tmp_path):
    for content in (b"one", b"two"):
        (tmp_path / FILE).write_bytes(content)
        Progress(tmp_path)
    assert (tmp_path / f"{FILE}.damaged-1").read_bytes() == b"one"
    assert (tmp_path / f"{FILE}.damaged-2").read_bytes() == b"two"


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    Progress(tmp_path).mark_done("a")
    before = (tmp_path / FILE).read_bytes()

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fdopen", crash)
    with pytest.raises(KeyboardInterrupt):
        Progress(tmp_path).mark_done("b")
    assert (tmp_path / FILE).read_bytes() == before
    assert [place.name for place in tmp_path.iterdir()] == [FILE]


def test_a_folder_that_cannot_be_made_is_a_note_and_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    progress = Progress(tmp_path / "file" / "state")
    progress.mark_done("a")
    assert any("HVLAB_STATE" in note for note in progress.notes)
    assert progress.of("a").done


def test_a_file_that_cannot_be_read_is_a_note_and_stays(tmp_path):
    (tmp_path / FILE).mkdir()
    progress = Progress(tmp_path)
    assert progress.notes == [f"your progress cannot be read (Is a directory: {tmp_path / FILE}); going on without it"]
    assert (tmp_path / FILE).is_dir()


def test_without_a_folder_of_its_own_progress_is_in_the_users_data(tmp_path, monkeypatch):
    monkeypatch.delenv("HVLAB_STATE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert state_folder().name == "hvlab"
    monkeypatch.setenv("HVLAB_STATE", "")
    assert state_folder().name == "hvlab"


def test_a_lab_without_hints_has_hint_0(tmp_path):
    assert Progress(tmp_path).next_hint("a", 0) == 0


def test_hvlab_state_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HVLAB_STATE", str(tmp_path / "mine"))
    Progress().mark_done("a")
    assert (tmp_path / "mine" / FILE).exists()

"""What a killed process leaves in the temporary directory is cleared by the next one, and nothing else is."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import hv
from hv.lab import scratch

MAKES = f"""
import sys
sys.path.insert(0, {str(Path(hv.__file__).parents[1])!r})
from hv.lab import scratch
print(scratch.make("variant"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def age(place):
    os.utime(place, (0, 0))


@pytest.fixture
def others(folder):
    """Another process with a folder of its own."""
    process = subprocess.Popen([sys.executable, "-c", MAKES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    place = Path(process.stdout.readline().strip())
    (place / "a").write_text("b")
    age(place)
    yield process, place
    process.kill()
    process.communicate()


def test_what_a_killed_process_left_is_cleared(folder, others):
    process, place = others
    assert scratch.sweep(str(folder)) == []
    assert (place / "a").exists()
    process.kill()
    process.wait()
    assert scratch.sweep(str(folder)) == [place.name]
    assert not place.exists()


def test_a_process_clears_before_it_makes_its_first(folder, others, monkeypatch):
    process, _ = others
    process.kill()
    process.wait()
    monkeypatch.setattr(scratch, "_swept", False)
    made = scratch.make("piece")
    assert [path.name for path in folder.iterdir()] == [Path(made).name]
    scratch.remove(made)
    assert not list(folder.iterdir())


def test_young_folders_links_and_files_are_left_alone(folder):
    (folder / "hvlab.young").mkdir()
    (folder / "mine").mkdir()
    (folder / "mine/work").write_text("x")
    (folder / "hvlab.link").symlink_to(folder / "mine")
    (folder / "hvlab.file").write_text("x")
    os.utime(folder / "hvlab.link", (0, 0), follow_symlinks=False)
    age(folder / "hvlab.file")
    age(folder / "mine")
    assert scratch.sweep(str(folder)) == []
    assert len(list(folder.iterdir())) == 4
    assert scratch.sweep(str(folder / "nosuch")) == []


def test_a_link_in_an_old_folder_is_removed_and_not_followed(folder):
    (folder / "mine").mkdir()
    (folder / "mine/work").write_text("x")
    (folder / "hvlab.old").mkdir()
    (folder / "hvlab.old/link").symlink_to(folder / "mine")
    age(folder / "hvlab.old")
    assert scratch.sweep(str(folder)) == ["hvlab.old"]
    assert (folder / "mine/work").read_text() == "x"

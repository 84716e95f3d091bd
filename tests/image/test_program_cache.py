"""The cache saves time and can do no harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from hv.image import cache
from hv.image.assembler import assemble


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HVLAB_CACHE", str(tmp_path / "programs"))
    return tmp_path / "programs"


def no_worker(self: object) -> None:
    raise AssertionError("the assembler was started")


SOURCE = "start: mov eax, COUNT\n.next: hlt\n"


def test_a_known_program_needs_no_assembler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = assemble(SOURCE, "a.asm", {"COUNT": 3})
    monkeypatch.setattr("hv.image.worker.Worker.__enter__", no_worker)
    assert assemble(SOURCE, "a.asm", {"COUNT": 3}) == program
    with pytest.raises(AssertionError):
        assemble(SOURCE, "a.asm", {"COUNT": 4})


@pytest.mark.parametrize("damage", [
    b"", b"garbage", b'{"segments": []}', lambda data: data[:-1], lambda data: data.replace(b"a.asm:1", b"a.asm:9"),
], ids=["empty", "garbage", "no digest", "truncated", "changed"])
def test_a_damaged_file_is_assembled_again(folder: Path, damage: object) -> None:
    program = assemble(SOURCE, "a.asm", {"COUNT": 3})
    (kept,) = folder.iterdir()
    kept.write_bytes(damage(kept.read_bytes()) if callable(damage) else damage)
    assert assemble(SOURCE, "a.asm", {"COUNT": 3}) == program


def test_a_folder_that_cannot_be_written_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HVLAB_CACHE", str(tmp_path / "file" / "below"))
    assert assemble("hlt").segments == [(0x10000, b"\xf4")]


def test_the_cache_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HVLAB_CACHE", "")
    assert cache.folder() is None

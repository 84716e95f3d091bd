"""Whatever stands in the place of a lab, an answer or the progress file: one line, nothing lost, nothing stuck."""

import errno
import os
import shutil
import sys

import pytest

from hv.cli import main
from hv.commands.lab_work import bar
from tests.lab.exercises import LABS, SOLUTION

ONLY_POSIX = pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices are files on POSIX hosts")


@pytest.fixture(autouse=True)
def _at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HVLAB_STATE", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def labs(tmp_path):
    for name in ("01_first_exit", "05_hypercall_errors", "17_ept_walk"):
        shutil.copytree(LABS / name, tmp_path / "labs" / name)
    return tmp_path / "labs"


def said(capsys, *arguments):
    code = main(["lab", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def nothing(place):
    place.unlink(missing_ok=True)


def holding(data):
    return lambda place: (nothing(place), place.write_bytes(data))


def a_pipe(place):
    nothing(place)
    os.mkfifo(place)


def a_link(target):
    def put(place):
        nothing(place)
        place.symlink_to(target)
    return put


BROKEN = {
    "missing": (nothing, "cannot be read: No such file"), "no-toml": (holding(b"title = "), "is no TOML"),
    "cut": (holding(b'title = "x"\n'), "missing required field"),
    "deep": (holding(b"a=" + b"[" * 9999), "is no TOML"),
    "not-utf-8": (holding(b'title = "\xff"'), "not UTF-8 (byte 9)"),
    "huge": (holding(bytes(2 << 20)), "larger than 1 MiB"),
    "pipe": (a_pipe, "no ordinary file"), "device": (a_link("/dev/zero"), "no ordinary file"),
    "link-to-itself": (a_link("lab.toml"), "cannot be read"),
    "folder": (lambda p: (nothing(p), p.mkdir()), "cannot be read"),
}


@ONLY_POSIX
@pytest.mark.parametrize(("breaks", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_lab_stops_itself_alone(capsys, labs, breaks, says):
    breaks(labs / "05_hypercall_errors/lab.toml")
    code, out, err = said(capsys, "list", "--labs", str(labs))
    assert (code, "0 of 2 done" in out, err.count("\n")) == (0, True, 1)
    assert "05_hypercall_errors/lab.toml" in err
    assert says in err
    assert said(capsys, "start", "1", "--labs", str(labs))[0] == 0
    for action in ("start", "check", "hint"):
        code, _, err = said(capsys, action, "5", "--labs", str(labs))
        assert (code, says in err, "Traceback" in err) == (2, True, False)
    assert said(capsys, "export", "new", "--labs", str(labs))[0] == 2
    assert said(capsys, "verify", "--labs", str(labs))[0] == 2


def test_when_all_are_broken_the_first_is_told(capsys, labs):
    for lab in labs.iterdir():
        (lab / "lab.toml").write_text("=")
    code, _, err = said(capsys, "list", "--labs", str(labs))
    assert (code, "01_first_exit/lab.toml is no TOML" in err) == (2, True)


@pytest.mark.parametrize("page", ["README.md", "starter.asm"])
def test_a_page_that_somebody_removed_is_one_line(capsys, labs, page):
    (labs / "01_first_exit" / page).unlink()
    code, _, err = said(capsys, "start", "1", "--labs", str(labs))
    assert (code, f"01_first_exit/{page} cannot be read" in err) == (2, True)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "\udcff", "x" * 5000, ""], ids=ascii)
def test_a_lab_of_a_strange_name_is_not_there(capsys, name):
    code, _, err = said(capsys, "check", name)
    assert (code, err.count("\n"), "\x1b" in err) == (2, 1, False)


@ONLY_POSIX
@pytest.mark.parametrize("breaks", [a_pipe, a_link("/dev/zero"), a_link("first_exit.asm"), a_link("/nowhere"),
                                    holding(bytes(2 << 20)), holding(b"\xff")],
                         ids=["pipe", "device", "itself", "nowhere", "huge", "not-utf-8"])
def test_whatever_stands_in_the_place_of_an_answer_is_kept_and_nobody_waits(capsys, tmp_path, breaks):
    place = tmp_path / "work/first_exit.asm"
    breaks(place)
    code, _, err = said(capsys, "start", "1")
    assert (code, "left as it is" in err) == (2, True)
    assert said(capsys, "check", "1")[0] in (1, 2)
    assert said(capsys, "reset", "1")[0] == 0
    assert os.path.lexists(f"{place}.kept-1")
    assert place.read_text().startswith(";")
    assert said(capsys, "start", "1")[0] == 0


SYNTAX = {
    "asm-word": ("1", "first_exit.asm", "start:\n    mvo eax, 1\n", "first_exit.asm:2:5: `mvo eax, 1`"),
    "asm-operand": ("1", "first_exit.asm", "a: mov eax, [\n", "first_exit.asm:1:13: `mov eax, [`"),
    "py": ("17", "ept_walk.py", "def walk(a):\n    return (1\n", "ept_walk.py:2:12: '(' was never closed"),
    "toml": ("2", "reading_a_vmcs.toml", 'first = CPUID\n', "reading_a_vmcs.toml:1:9: this is no value"),
    "toml-name": ("2", "reading_a_vmcs.toml", 'frist = "CPUID"\n', "did you mean `first`?"),
}


@pytest.mark.parametrize(("lab", "file", "text", "says"), SYNTAX.values(), ids=SYNTAX)
def test_a_mistake_of_syntax_is_told_with_line_and_column(capsys, tmp_path, lab, file, text, says):
    (tmp_path / "work" / file).write_text(text)
    code, out, _ = said(capsys, "check", lab)
    assert code == 1
    assert says in " ".join(out.split())


def test_a_disk_that_is_full_leaves_no_half_of_a_starter(capsys, tmp_path, monkeypatch):
    """Half of one would look like the learner's own work the next time."""
    import io

    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Full(io.StringIO):
        write = full

    from pathlib import Path
    real = Path.open

    def opened(self, mode="r", *arguments, **more):
        if mode != "x":
            return real(self, mode, *arguments, **more)
        real(self, "x").close()
        return Full()

    monkeypatch.setattr(Path, "open", opened)
    code, _, err = said(capsys, "start", "1")
    assert (code, "No space left on device" in err) == (2, True)
    monkeypatch.setattr(Path, "open", real)
    assert not (tmp_path / "work/first_exit.asm").exists()
    assert said(capsys, "start", "1")[0] == 0


@pytest.mark.parametrize("data", [b"{", b"\xff", b'{"version": 9, "labs": {}}', b"[" * 9999, b"null"], ids=repr)
def test_a_progress_file_that_makes_no_sense_is_kept_aside(capsys, tmp_path, data):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/progress.json").write_bytes(data)
    code, out, err = said(capsys, "list")
    assert (code, "it is kept as" in err, "0 of " in out) == (0, True, True)
    assert (tmp_path / "state/progress.json.damaged-1").read_bytes() == data


def test_progress_that_cannot_be_kept_does_not_take_the_verdict(capsys, tmp_path):
    (tmp_path / "state").write_text("a file where a folder should be")
    (tmp_path / "work/first_exit.asm").write_text(SOLUTION)
    code, out, err = said(capsys, "check", "1")
    assert (code, "10 of 10 points" in out) == (0, True)
    assert "HVLAB_STATE names another folder" in err


@pytest.mark.parametrize("action", [["lab", "check", "1"], ["grade", "first_exit.asm"]], ids=lambda words: words[0])
def test_ctrl_c_ends_a_check_and_a_grading_without_a_traceback(capsys, tmp_path, monkeypatch, action):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    (tmp_path / "work/first_exit.asm").write_text(SOLUTION)
    monkeypatch.setattr("hv.lab.runner.FinishedRun.go", interrupted)
    assert main(action) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("part", "whole", "shown"), [(0, 21, 0), (1, 21, 1), (20, 21, 19), (21, 21, 20), (0, 0, 0)])
def test_a_bar_shows_a_beginning_and_what_is_left(part, whole, shown):
    assert bar(part, whole) == f"[{'#' * shown}{'-' * (20 - shown)}]"

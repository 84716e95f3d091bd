"""`hv lab` leads a newcomer from the starter to the first green check, and keeps what they wrote."""

import sys

import pytest

from hv.cli import main
from tests.lab.exercises import LABS, SOLUTION, first_exit


@pytest.fixture(autouse=True)
def _at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HVLAB_STATE", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def said(capsys, *arguments):
    code = main(["lab", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_whole_way_of_the_first_lab(capsys, tmp_path, monkeypatch):
    (tmp_path / "labs").mkdir()
    (tmp_path / "labs/01_first_exit").symlink_to(LABS / "01_first_exit")        # a course of this lab alone
    monkeypatch.setattr("hv.commands.lab_choice.labs_folder", lambda: tmp_path / "labs")
    assert "Next: hv lab start 01_first_exit" in said(capsys)[1]
    code, out, _ = said(capsys, "start")
    assert code == 0
    assert "first_exit.asm" in out
    code, out, _ = said(capsys, "check")
    assert code == 1
    assert "the guest never executed CPUID" in out
    assert "Hint 1 of 3" in said(capsys, "hint")[1]
    (tmp_path / "work/first_exit.asm").write_text(SOLUTION)
    code, out, _ = said(capsys, "check")
    assert code == 0
    assert "10 of 10 points" in out
    assert "Why it works" in out
    assert "1 of 1 done" in said(capsys, "list")[1]
    assert "All labs are done" in said(capsys, "next")[1]


@pytest.mark.parametrize("action", ["start", "check"])
def test_a_folder_whose_name_is_too_long_is_said_in_a_line(capsys, action):
    code, _, err = said(capsys, action, "--dir", "a" * 5000)
    assert code == 2
    assert "does not exist" in err or "File name too long" in err


def test_a_changed_file_is_never_overwritten(capsys, tmp_path):
    place = tmp_path / "work/first_exit.asm"
    place.write_text("; my work\n")
    code, _, err = said(capsys, "start")
    assert code == 2
    assert "left as it is" in err
    assert place.read_text() == "; my work\n"


def test_starting_twice_without_changes_is_no_mistake(capsys):
    assert said(capsys, "start")[0] == 0
    assert said(capsys, "start")[0] == 0


def test_another_folder_is_made_and_remembered_in_what_is_said(capsys, tmp_path):
    code, out, _ = said(capsys, "start", "1", "--dir", "mine/labs")
    assert code == 0
    assert (tmp_path / "work/mine/labs/first_exit.asm").exists()
    assert "hv lab check --dir mine/labs" in out
    assert said(capsys, "check", "--dir", "mine/labs")[0] == 1


def test_a_lab_may_be_named_by_the_file(capsys, tmp_path):
    (tmp_path / "work/sub").mkdir()
    (tmp_path / "work/sub/first_exit.asm").write_text(SOLUTION)
    assert said(capsys, "check", "sub/first_exit.asm")[0] == 0


MISTAKES = {
    "unknown-lab": (["start", "02_firts"], "there is no lab `02_firts`"),
    "unknown-action": (["chek"], "did you mean `hv lab check`?"),
    "nothing-started": (["check"], "first_exit.asm does not exist"),
    "folder-is-a-file": (["start", "--dir", "/dev/null/x"], "cannot be written"),
}


@pytest.mark.parametrize(("arguments", "says"), MISTAKES.values(), ids=MISTAKES)
def test_wrong_use_gets_one_line(capsys, arguments, says):
    code, _, err = said(capsys, *arguments)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1


def test_a_typing_error_names_its_line(capsys, tmp_path):
    (tmp_path / "work/first_exit.asm").write_text(SOLUTION.replace("cpuid", "cpudi"))
    code, out, _ = said(capsys, "check")
    assert code == 1
    assert "first_exit.asm:9" in out


def test_a_folder_in_the_files_place_is_a_failed_check(capsys, tmp_path):
    (tmp_path / "work/first_exit.asm").mkdir()
    code, out, _ = said(capsys, "check")
    assert code == 1
    assert "is a directory" in out


def test_damaged_progress_is_a_note(capsys, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/progress.json").write_text("garbage")
    code, _, err = said(capsys, "list")
    assert code == 0
    assert err.startswith("note: your progress file made no sense")


def test_verify_proves_every_claim(capsys):
    code, out, _ = said(capsys, "verify", "1")
    assert code == 0
    assert out.count("  ok  ") == 4 + len(first_exit().data.wrong)


def test_verify_says_what_speaks_against_a_lab(capsys, tmp_path, monkeypatch):
    import shutil

    for lab in ("01_first_exit", "02_reading_a_vmcs"):
        shutil.copytree(LABS / lab, tmp_path / "labs" / lab)
    (tmp_path / "labs/01_first_exit/starter.asm").write_text(SOLUTION)
    monkeypatch.setattr("hv.commands.lab_choice.labs_folder", lambda: tmp_path / "labs")
    code, out, _ = said(capsys, "verify")
    assert code == 1
    assert "but: it passes" in out


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_colours_and_no_color_takes_them_away(tmp_path):
    import pexpect

    (tmp_path / "work/first_exit.asm").write_text(SOLUTION)

    def screen(**environment):
        import os

        child = pexpect.spawn(sys.executable, ["-m", "hv", "lab", "check"], timeout=30, encoding="utf-8",
                              cwd=tmp_path / "work", dimensions=(24, 80),
                              env={**os.environ, "PYTHONPATH": str(LABS.parent), "TERM": "xterm", **environment})
        return child.read()

    assert "\x1b[32mPASS" in screen()
    assert "\x1b" not in screen(NO_COLOR="1")

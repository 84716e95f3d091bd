"""`hv step`: what it steps through, and the frames of --plain."""

import subprocess
import sys

import pytest

from hv import cli


def said(capsys, *arguments):
    code = cli.main(["step", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_frame_has_every_pane(capsys):
    code, out, _ = said(capsys, "timer", "--plain", "--at", "E5")
    assert code == 0
    assert out.startswith("== E5  timer.0  2.6 us  of E0 to E44: timer shutdown\n")
    assert [line.split()[1] for line in out.splitlines() if line.startswith("-- ")] == [
        "Code", "Registers", "The", "Memory", "Machine", "Timeline"]


def test_steps_are_frames_one_after_the_other(capsys):
    _, out, _ = said(capsys, "timer", "--plain", "--at", "E5", "--by", "exit", "--steps", "2", "--pane", "timeline")
    assert [line.split()[1] for line in out.splitlines() if line.startswith("== ")] == ["E5", "E6", "E7"]


def test_behind_the_end_there_are_no_frames(capsys):
    _, out, _ = said(capsys, "timer", "--plain", "--at", "E44", "--by", "exit", "--steps", "9", "--pane", "code")
    assert out.count("== ") == 2
    assert out.endswith("this is the end: timer shutdown\n")


def test_the_same_frames_come_from_two_processes():
    command = [sys.executable, "-m", "hv", "step", "guests/synic.toml", "--plain", "--at", "E60+4", "--by", "stage",
               "--steps", "6"]
    one, two = (subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2))
    assert one == two
    assert len(one) > 10_000


def test_a_lab_runs_on_its_machine_with_the_learners_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["lab", "start", "1"]) == 0
    assert "look   hv step 01_first_exit\n" in capsys.readouterr().out
    (tmp_path / "first_exit.asm").write_text("start:\n    mov eax, 7\n    hlt    ; mine\n")
    for name in ("1", "01_first_exit", "first_exit", "first_exit.asm"):
        code, out, _ = said(capsys, name, "--plain", "--pane", "code")
        assert code == 0
        assert "mine" in out
        assert "lab.0" in out


def test_a_lab_that_was_not_begun_says_how(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = said(capsys, "1", "--plain")
    assert code == 2
    assert "hv lab start 01_first_exit" in err


def test_a_lab_that_asks_what_will_happen_does_not_tell(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    code, _, err = said(capsys, "2", "--plain")
    assert code == 2
    assert "the trace would tell" in err


def test_a_lab_whose_machine_the_learner_answers_is_not_stepped_through(capsys):
    code, _, err = said(capsys, "19", "--plain")
    assert code == 2
    assert "`hv lab trace 19_exit_handler` tells what happened" in err


def test_a_lab_whose_program_has_the_machine_is_not_stepped_through(capsys, tmp_path):
    (tmp_path / "vm_entry.asm").write_text("hlt\n")
    code, _, err = said(capsys, "16", "--plain", "--dir", str(tmp_path))
    assert code == 2
    assert "`hv lab trace 16_vm_entry` tells what happened" in err


@pytest.mark.parametrize(("arguments", "words"), [
    (["nobody"], "nobody does not exist"), (["timer", "--at", "E999"], "the recording has E0 to E44"),
    (["timer", "--at", "reason =="], "column"), (["timer", "--vp", "3"], "there is no VP `3`"),
    (["timer", "--memory", "nobody"], "`nobody` is no register"), (["timer", "--steps", "-1"], "--steps is -1"),
    (["timer", "--by", "line"], "--by is `line`"), (["timer", "--budget", "soon"], "`soon` is no time"),
    (["timer", "--pane", "door"], "--pane is `door`")])
def test_what_cannot_be_done_is_one_line(capsys, arguments, words):
    code, _, err = said(capsys, *arguments, "--plain")
    assert code == 2
    assert words in err
    assert err.count("\n") == 1


def test_a_guest_that_never_ends_is_shown_as_far_as_it_was_recorded(tmp_path, capsys):
    place = tmp_path / "endless.asm"
    place.write_text(".bits 64\nstart:\n xor eax, eax\n cpuid\n jmp start\n")
    code, out, err = said(capsys, str(place), "--plain", "--budget", "1ms", "--at", "end")
    assert code == 0
    assert "endless still ran after 1.0" in err
    assert "where the recording ends" in out


def test_nothing_of_the_screen_is_loaded_for_help_or_for_text():
    code = "import sys; from hv import cli; cli.main(sys.argv[1:]); print('textual' in sys.modules, file=sys.stderr)"
    for arguments in (["--help"], ["step", "timer", "--plain", "--pane", "code"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stderr.endswith("False\n")

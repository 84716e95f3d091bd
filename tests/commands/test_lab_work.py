"""`hv lab` between start and success: the trace, the watch, the way back, and nothing of the learner's is ever lost."""

import os
import sys
import threading
import time

import pytest

from hv.cli import main
from hv.commands.lab_work import bar, reset, watch
from hv.lab.progress import Progress
from tests.lab.exercises import LABS, SOLUTION, first_exit
from tests.lab.folders import HALTS, a_lab


@pytest.fixture(autouse=True)
def _at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HVLAB_STATE", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def said(capsys, *arguments):
    code = main(["lab", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_trace_tells_what_the_learners_program_did(capsys, tmp_path):
    (tmp_path / "work/first_exit.asm").write_text(SOLUTION)
    code, out, _ = said(capsys, "trace", "1")
    assert code == 0
    assert out.splitlines()[0] == "E1  first_exit.asm:9   exit CPUID instruction_length=2"
    assert out.splitlines()[-1].startswith("ended: halt")


def test_the_trace_of_a_program_that_is_none_is_one_line(capsys, tmp_path):
    (tmp_path / "work/first_exit.asm").write_text("start: mvo eax\n")
    code, _, err = said(capsys, "trace", "1")
    assert code == 2
    assert "first_exit.asm:1" in err


def test_the_trace_of_a_lab_with_its_own_program_needs_no_file(capsys):
    code, out, _ = said(capsys, "trace", "18")
    assert code == 0
    assert "E7  five_ticks.asm:43" in out


def test_the_trace_does_not_answer_a_prediction_before_it_is_made(capsys, tmp_path, monkeypatch):
    from tests.lab.folders import lab_folder
    from tests.lab.test_predict import PROGRAM, question

    truth = '{ of = "count", exit = "any" }'
    lab_folder(tmp_path / "labs", question(truth), kind="predict", file="a.toml", p__asm=PROGRAM)
    monkeypatch.setattr("hv.commands.lab_choice.labs_folder", lambda: tmp_path / "labs")
    code, out, err = said(capsys, "trace")
    assert (code, out) == (2, "")
    assert "the trace would tell" in err
    Progress().mark_done("01_it")
    assert said(capsys, "trace", "1")[0] == 0


def test_start_puts_the_program_that_a_lab_gives_beside_the_starter(capsys, tmp_path):
    code, out, _ = said(capsys, "start", "18")
    assert code == 0
    assert "read   five_ticks.asm" in out
    given = tmp_path / "work/five_ticks.asm"
    assert given.read_text() == (LABS / "18_lost_interrupts/five_ticks.asm").read_text()
    given.write_text("; my notes\n")
    assert said(capsys, "start", "18")[0] == 0
    assert given.read_text() == "; my notes\n"


def test_reset_puts_the_starter_back_and_keeps_what_was_written(capsys, tmp_path):
    place = tmp_path / "work/first_exit.asm"
    for text in ("; one\n", "; two\n"):
        place.write_text(text)
        code, out, _ = said(capsys, "reset", "1")
        assert code == 0
        assert place.read_text() == first_exit().text("starter.asm")
    assert "What you wrote is in first_exit.asm.kept-2." in out
    assert [(tmp_path / f"work/first_exit.asm.kept-{n}").read_text() for n in (1, 2)] == ["; one\n", "; two\n"]


def test_reset_of_an_untouched_starter_keeps_nothing(tmp_path):
    place = tmp_path / "work/first_exit.asm"
    assert reset(first_exit(), place) is None
    assert reset(first_exit(), place) is None
    assert [one.name for one in place.parent.iterdir()] == ["first_exit.asm"]


def test_reset_where_nothing_can_be_written_is_one_line(capsys):
    code, _, err = said(capsys, "reset", "1", "--dir", "/dev/null/x")
    assert code == 2
    assert "cannot be replaced" in err


def test_watch_checks_once_for_each_save_and_ends_with_success(capsys, tmp_path, monkeypatch):
    """The file is as it was, then saved with a mistake, then right: three verdicts."""
    place = tmp_path / "work/first_exit.asm"
    place.write_text(first_exit().text("starter.asm"))
    saves = [SOLUTION.replace("hlt", "jmp $"), SOLUTION]

    def wait(seconds):
        place.write_text(saves.pop(0))

    monkeypatch.setattr(time, "sleep", wait)
    progress = Progress()
    assert watch(first_exit(), place, progress, plain=True) == 0
    out = capsys.readouterr().out
    assert out.count("points") == 3
    assert "[################----]" in out
    assert "10 of 10 points" in out
    assert progress.of("01_first_exit").done


def test_watch_waits_while_an_editor_replaces_the_file(tmp_path, monkeypatch, capsys):
    place = tmp_path / "work/first_exit.asm"
    monkeypatch.setattr(time, "sleep", lambda seconds: place.write_text(SOLUTION))
    assert watch(first_exit(), place, Progress(), plain=True) == 0
    assert capsys.readouterr().out.count("points") == 1


def test_watch_shows_a_mistake_of_writing_and_goes_on(tmp_path, capsys):
    place = tmp_path / "work/first_exit.asm"
    place.write_text("start: mvo eax\n")
    assert watch(first_exit(), place, Progress(), plain=True, checks=1) == 1
    assert "first_exit.asm:1" in capsys.readouterr().out


def test_ctrl_c_ends_a_watch_without_a_traceback(tmp_path, monkeypatch):
    place = tmp_path / "work/first_exit.asm"
    place.write_text("start: hlt\n")

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    assert watch(first_exit(), place, Progress(), plain=True) == 1


def test_a_watch_in_a_thread_of_its_own_sees_a_real_save(tmp_path, capsys):
    place = tmp_path / "work/first_exit.asm"
    place.write_text("start: hlt\n")
    codes = []
    watcher = threading.Thread(target=lambda: codes.append(watch(first_exit(), place, Progress(), plain=True)))
    watcher.start()
    new = place.with_suffix(".new")
    new.write_text(SOLUTION)
    os.replace(new, place)                  # as editors save
    watcher.join(30)
    assert codes == [0]


@pytest.mark.parametrize(("part", "whole", "shown"), [
    (0, 3, "-" * 20), (3, 3, "#" * 20), (1, 2, "#" * 10 + "-" * 10), (0, 0, "-" * 20),
])
def test_a_bar_is_as_full_as_its_part(part, whole, shown):
    assert bar(part, whole) == f"[{shown}]"


def test_the_list_has_a_bar_and_counts(capsys):
    Progress().mark_done("01_first_exit")
    out = said(capsys, "list")[1]
    assert "1 of " in out.splitlines()[-1]
    assert out.splitlines()[-1].startswith("[#")


def test_watch_shows_no_hidden_check(capsys, tmp_path):
    """What `hv lab check` leaves out is left out here too."""
    hidden = '[[checks]]\nname = "a secret"\nkind = "serial"\ntext = "x"\nhidden = true\n'
    exercise = a_lab(tmp_path, HALTS + hidden)
    (tmp_path / "a.asm").write_text("start: hlt\n")
    assert watch(exercise, tmp_path / "a.asm", Progress(), plain=True, checks=1) == 0
    assert "secret" not in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_watch_in_a_terminal_answers_each_save_and_ctrl_c(tmp_path):
    """Ten columns by five lines are enough of a terminal; the save, not the clock, brings the verdict."""
    import pexpect

    place = tmp_path / "work/first_exit.asm"
    place.write_text("start: hlt\n")
    child = pexpect.spawn(sys.executable, ["-m", "hv", "lab", "watch"], timeout=30, encoding="utf-8",
                          cwd=tmp_path / "work", dimensions=(5, 10),
                          env={**os.environ, "PYTHONPATH": str(LABS.parent), "TERM": "xterm"})
    child.expect("0 of 10 points")
    place.write_text("start: mvo eax, 1\n")
    child.expect("is no instruction")
    child.expect("0 of 10 points")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130

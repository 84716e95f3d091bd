"""hv repl without a terminal: a session that is written down."""

import io

import pytest

from hv import cli


@pytest.fixture
def typed(monkeypatch):
    def type_lines(text):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return type_lines


def test_commands_come_from_standard_input_and_are_shown_with_their_answers(typed, capsys):
    typed("step 2\n\nvmcs guest_rip\nquit\nnever\n")
    assert cli.main(["repl", "timer"]) == 0
    out = capsys.readouterr().out.split("\n")
    assert out[0] == "timer.0 start> step 2"
    assert out[1].startswith("=> 0001000a")
    assert out[2:5] == ["timer.0 start+0xa> vmcs guest_rip", "GUEST_RIP (0x681e)  0x1000a", "timer.0 start+0xa> quit"]


def test_a_line_that_cannot_be_done_is_one_line_and_exit_code_1(typed, capsys):
    typed("frobnicate\nstep\n")
    assert cli.main(["repl", "timer"]) == 1
    out = capsys.readouterr().out
    assert "error: `frobnicate` is no command; `help` lists them\n" in out
    assert "=> 00010005" in out


def test_what_a_guest_and_its_file_are_called_cannot_command_the_terminal(capsys, tmp_path, typed):
    place = tmp_path / "\x1b[2J.asm"
    place.write_text(".bits 16\nstart:\n mov dx, 0x3F8\n mov al, 27\n out dx, al\n cli\n hlt\n")
    typed("continue\nserial\npartitions\n!chr(27)\nvp \x1b[2J\n\x1b[2J\n")
    assert cli.main(["repl", str(place)]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "serial\n\\x1b\n" in out


def test_commands_may_stand_on_the_command_line(capsys):
    assert cli.main(["repl", "timer", "-c", "step", "-c", "!regs.rdi"]) == 0
    assert capsys.readouterr().out.endswith("\n0x30\n")


def test_a_lab_is_opened_on_its_own_machine(capsys):
    """With its bug, and no longer than the lab lets it run."""
    assert cli.main(["repl", "18", "-c", "record", "-c", "why no interrupt 0x30"]) == 0
    out = capsys.readouterr().out
    assert "recorded up to E8" in out
    assert "(missing EOI)" in out


def test_a_learners_file_is_opened_on_the_machine_of_its_lab(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first_exit.asm").write_text(".bits 64\n.org 0x10000\n.entry start\nstart:\n    hlt\n")
    assert cli.main(["repl", "first_exit.asm", "-c", "continue"]) == 0
    assert "lab halt" in capsys.readouterr().out

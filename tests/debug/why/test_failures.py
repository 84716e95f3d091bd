"""A run that breaks: the machine stands at the failing exit, one line says so, and `why` explains."""

import json
import re

import pytest

from hv import cli
from hv.commands.repl import as_json, carefully, scripted
from hv.debug.why.failures import crash
from hv.hypervisor import run as loop
from hv.spec.exits import ExitReason
from tests.debug.why.guests import HEAD, refused, session_over_code

CRASHES = "xor eax, eax; cpuid; the_bug: ud2"


@pytest.fixture
def broken_cpuid():
    """A hypervisor whose handler of CPUID has a mistake, until it is called to mend it."""
    def handle_cpuid(vp, exit):
        return 1 // (exit.qualification * 0)

    sound, loop._BY_REASON[ExitReason.CPUID] = loop._BY_REASON[ExitReason.CPUID], handle_cpuid

    def mend():
        loop._BY_REASON[ExitReason.CPUID] = sound

    yield mend
    mend()


def test_a_guest_that_crashed_stands_at_the_exit_of_a_recording():
    session = session_over_code(CRASHES)
    line = crash(session)
    assert re.match(r"a triple-fault \(.*\): it stands at E2, exit TRIPLE_FAULT of a.0 \(the_bug\)", line)
    assert str(session.timeline.position) == "E2"
    assert "ud2" in session.do("disasm rip 1")
    assert "while #DF was being delivered" in session.do("why")
    assert crash(session) == ""             # it is told once
    session.machine.close()


def test_a_guest_that_crashed_without_a_recording_stands_at_its_instruction(capsys):
    session = session_over_code(CRASHES, recorded=False)
    assert scripted(session, ["regs", "why fault"], False) == 0
    said = capsys.readouterr().out
    assert "it stands at #" in said
    assert "raised at CPL 0 by `ud2`" in said
    session.machine.close()


def test_a_crash_is_told_in_json_too(capsys):
    session = session_over_code(CRASHES)
    assert as_json(session, ["vp", "vp"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert "it stands at E2" in first["crash"]
    assert "crash" not in second
    session.machine.close()


@pytest.mark.parametrize("recorded", [True, False])
def test_an_error_of_ours_leaves_the_machine_at_the_exit(broken_cpuid, recorded, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = new_session("nop; mov ecx, 5; cpuid; cli; hlt")
    carefully(session, "record" if recorded else "continue")
    said = capsys.readouterr().out
    place = "E1" if recorded else "#"
    assert f"internal error: ZeroDivisionError: integer division or modulo by zero at {place}" in said
    assert "exit CPUID of a.0 (start+0x6); everything is as it was then, and `why` explains" in said
    assert "please send hv-report-1.json" in said
    assert json.loads((tmp_path / "hv-report-1.json").read_text())["error"].startswith("ZeroDivisionError")
    assert "cpuid" in session.do("disasm rip 1")
    assert session.number("rcx") == 5
    answer = session.do("why")
    assert "✗ raised in handle_cpuid (" in answer
    assert "called from obey (hypervisor/run.py:" in answer
    assert "CPUID exits unconditionally" in answer
    session.machine.close()


def new_session(source):
    """One over a machine that has not run."""
    return session_over_code(source, recorded=False, budget=None)


def test_without_a_terminal_an_error_of_ours_is_exit_code_4_and_a_report(broken_cpuid, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "asks.asm"
    place.write_text(HEAD + "cpuid\ncli\nhlt\n")
    assert cli.main(["repl", str(place), "-c", "continue"]) == 4
    assert "internal error: ZeroDivisionError" in capsys.readouterr().err
    assert (tmp_path / "hv-report-1.json").is_file()


def test_an_error_in_the_users_own_python_is_an_answer():
    session = new_session("cpuid; cli; hlt")
    session.do("trace.listen(lambda record: 1 // 0)")
    said = refused(session, "continue")
    assert "your Python raised ZeroDivisionError" in said
    assert "✗ raised in <lambda> (<repl>:1)" in session.do("why")
    session.machine.close()


def test_why_is_about_the_error_only_while_nothing_more_happened(broken_cpuid):
    session = new_session("cpuid; cli; hlt")
    with pytest.raises(ZeroDivisionError):
        session.do("continue")
    broken_cpuid()
    session.do("continue")
    assert "exit HLT" in session.do("why")
    session.machine.close()


# --- hv run --debug -----------------------------------------------------------------------------------------

@pytest.fixture
def program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(source):
        place = tmp_path / "program.asm"
        place.write_text(HEAD + source.replace(";", "\n") + "\n")
        return str(place)
    return write


def test_run_debug_says_where_a_guest_crashed_and_why(program, capsys):
    assert cli.main(["run", program(CRASHES), "--debug"]) == 3
    out, err = capsys.readouterr()
    assert "it stands at E2, exit TRIPLE_FAULT of program.0 (the_bug)" in out
    assert "raised at CPL 0 by `ud2`" in out
    assert "program: triple-fault" in err


def test_run_debug_of_a_sound_guest_is_as_any_run(capsys):
    assert cli.main(["run", "hello", "--debug"]) == 0
    assert capsys.readouterr().out == "hello from a partition\n"


def test_run_debug_of_an_error_of_ours_keeps_exit_code_and_report(broken_cpuid, program, tmp_path, capsys):
    assert cli.main(["run", program("cpuid"), "--debug"]) == 4
    assert "internal error: ZeroDivisionError" in capsys.readouterr().out
    assert (tmp_path / "hv-report-1.json").is_file()


def test_run_debug_of_a_guest_that_runs_on_says_so(program, capsys):
    assert cli.main(["run", program("again: pause; jmp again"), "--debug", "--budget", "100us"]) == 3
    assert "still ran when its budget" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--json"], ["--parallel"], ["--until", "1ms"], ["--trace", "out.json"]])
def test_run_debug_refuses_what_it_cannot_be_together_with(option, capsys):
    assert cli.main(["run", "hello", "--debug", *option]) == 2
    assert f"--debug with {option[0]}; leave one of them out" in capsys.readouterr().err

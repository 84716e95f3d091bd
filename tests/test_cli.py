"""The door of the program: help, errors in one line, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hv import __version__, cli
from hv.commands import report
from hv.commands.errors import CommandError
from hv.printable import LONGEST_LINE

HV = [sys.executable, "-m", "hv"]


def run_main(capsys, *arguments):
    code = cli.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_every_command_with_an_example(capsys):
    code, out, err = run_main(capsys, "--help")
    assert (code, err) == (0, "")
    for command in cli.COMMANDS:
        assert (f"  {command.name}" in out) == cli.available(command)
        assert (command.example in out) == cli.available(command)


def test_without_a_command_the_help_is_shown_and_the_code_is_2(capsys):
    code, out, _ = run_main(capsys)
    assert code == 2
    assert "usage: hv COMMAND" in out


def test_help_loads_neither_engine_nor_rich():
    program = ("import sys, hv.cli; hv.cli.main(['--help']); heavy = ('unicorn', 'rich', 'capstone', 'hv.platform');"
               "sys.exit(any(name in sys.modules for name in heavy))")
    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("name", [command.name for command in cli.COMMANDS if cli.available(command)])
def test_every_command_explains_itself_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert f"example:\n  hv {name}" in out


def test_the_version_is_told(capsys):
    assert run_main(capsys, "--version") == (0, f"hvlab {__version__}\n", "")


@pytest.mark.parametrize(("arguments", "part"), [
    (["rnu"], "`rnu` is no command; expected demo, run"),
    (["rnu"], "did you mean `hv run`?"),
    (["run"], "FILE is missing; see `hv run --help`"),
    (["run", "hello", "--smp", "many"], "--smp is `many`; expected a whole number; see `hv run --help`"),
    (["run", "hello", "--mem", "1e3"], "--mem is `1e3`; expected a whole number"),
    (["run", "hello", "--wrong"], "`--wrong` was not expected; see `hv run --help`"),
    (["run", "hello", "--tarce", "x"], "`--tarce x` was not expected; did you mean --trace?"),
    (["run", "hello", "two_vps"], "`two_vps` was not expected; see"),
    (["explain", "foo"], "SUBJECT is `foo`; expected one of "),
    (["run", "hello", "--trace"], "--trace needs a value behind it; see"),
    (["run", "hello", "--json=1"], "--json takes no value; found `1`"),
    (["repl", "-c"], "-c/--command needs a value behind it"),
    (["grade"], "PATH is missing"),
    (["run", "nofile.asm"], "nofile.asm does not exist; expected a file or one of our guests; guests: attacker,"),
    (["run", "hello", "--until", "soon"], "`soon` is no time"),
    (["run", "hello", "--until", "0"], "`0` is out of range"),
    (["run", "hello", "--smp", "0"], "--smp is 0; expected 1..64"),
    (["run", "hello", "--mem", "-1"], "--mem is -1; expected 1..2048"),
    (["run", "hello", "--trace", "/nowhere/out.json"], "/nowhere/out.json cannot be written"),
    (["bench", "--rounds", "0"], "--rounds is 0; expected 1..1000"),
    (["bench", "--only", "speed"], "`speed` is no metric; expected one of guest_integer_ratio"),
])
def test_a_mistake_of_the_user_is_one_line_and_exit_code_2(arguments, part, capsys):
    code, out, err = run_main(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("hv: ")
    assert part in err
    assert err.count("\n") == 1


def break_run(monkeypatch, error):
    def main(args):
        raise error
    monkeypatch.setattr(cli, "parser_of", lambda command, module: SimpleNamespace(parse_args=lambda arguments: None))
    monkeypatch.setattr("hv.commands.run.main", main)


def test_a_mistake_of_ours_writes_a_report_and_shows_no_traceback(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    break_run(monkeypatch, ZeroDivisionError("oh"))
    for number in (1, 2):
        code, _, err = run_main(capsys, "run", "hello")
        assert code == 4
        assert err == (f"hv: internal error: ZeroDivisionError: oh; this is a mistake of hvlab, not yours; please send "
                       f"hv-report-{number}.json to its authors\n")
    content = json.loads((tmp_path / "hv-report-2.json").read_text())
    assert content["command"] == ["hv", "run", "hello"]
    assert any("ZeroDivisionError" in line for line in content["traceback"])
    assert content["versions"]["hvlab"] == __version__
    assert {"unicorn", "python", "capstone"} <= set(content["versions"])


def test_a_report_holds_the_last_events_of_the_machine(monkeypatch):
    from hv.trace.bus import Trace
    from hv.trace.events import VmEntry

    monkeypatch.setattr(report, "_watched", [])
    trace = Trace()
    report.watch(trace)
    for n in range(report.LAST_EVENTS + 5):
        trace.emit(VmEntry(rip=n))
    found = report.content(ValueError("x"), [])["events"]
    assert len(found) == report.LAST_EVENTS
    assert found[-1]["kind"] == "VmEntry"
    assert found[-1]["event"] == {"rip": report.LAST_EVENTS + 4}


def test_a_report_that_cannot_be_written_is_said_so(capsys, monkeypatch):
    def refuse(error, arguments):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(report, "write", refuse)
    break_run(monkeypatch, ValueError("oh"))
    code, _, err = run_main(capsys, "run", "hello")
    assert code == 4
    assert "a report could not be written (Permission denied)" in err


def test_ctrl_c_is_one_line_and_exit_code_130(capsys, monkeypatch):
    break_run(monkeypatch, KeyboardInterrupt())
    assert run_main(capsys, "run", "hello") == (130, "", "hv: interrupted\n")


INTERRUPTED_AT = """
import os, signal, sys

module = sys.argv[1]
sys.argv[1:] = ["run", "hello"]

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from hv.__main__ import main
sys.exit(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself Ctrl-C there")
@pytest.mark.parametrize("module", ["hv.cli", "argparse", "hv.commands", "hv.commands.run", "unicorn", "hv.platform"])
def test_ctrl_c_while_modules_are_loaded_is_one_line(module):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_AT, module], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "hv: interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself Ctrl-C there")
@pytest.mark.parametrize("what", ["__set_name__", "a lock of the importer"])
def test_ctrl_c_cannot_be_lost_while_modules_are_loaded(what):
    """Python prints what is raised in a callback and goes on, and 3.11 wraps what comes out of `__set_name__`."""
    program = f"""
import os, signal, sys, weakref
from hv.__main__ import main

class Callback:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), signal.SIGINT)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "hv.platform" and {what!r} == "__set_name__":
            type("Owner", (), {{"field": Callback()}})
        elif name == "hv.platform":
            reference = weakref.ref(it := set(), lambda gone: os.kill(os.getpid(), signal.SIGINT))
            del it

sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["run", "hello"]
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "hv: interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself Ctrl-C there")
def test_ctrl_c_stays_ignored_where_it_was_ignored():
    ignoring = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{INTERRUPTED_AT}"
    done = subprocess.run([sys.executable, "-c", ignoring, "argparse"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "hello from a partition\n")


def test_a_message_of_several_lines_becomes_one(capsys, monkeypatch):
    break_run(monkeypatch, CommandError("first\nsecond", "third"))
    assert run_main(capsys, "run", "hello") == (2, "", "hv: first second; third\n")


def test_a_message_of_a_million_letters_is_cut(capsys):
    code, _, err = run_main(capsys, "run", "hello", "--mem", "9" * 1_000_000)
    assert code == 2
    assert len(err) < LONGEST_LINE
    assert err.startswith("hv: --mem is `999")
    assert err.endswith("see `hv run --help`\n")


def test_a_message_cannot_command_the_terminal(capsys):
    assert "\x1b" not in run_main(capsys, "run", "\x1b[2J.asm")[2]


def test_a_reader_that_goes_away_is_no_error():
    shell = f"{sys.executable} -m hv run attacker | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode == 0
    assert len(done.stdout) == 10


@pytest.mark.parametrize("command", [["demo"], ["demo", "--json"], ["run", "--help"], ["run", "hello"]])
def test_a_reader_that_was_never_there_is_no_failure(command):
    end, pipe = os.pipe()
    os.close(end)
    done = subprocess.run([*HV, *command], stdout=pipe, stderr=subprocess.PIPE, text=True)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_no_error(closed):
    shell = f"{sys.executable} -m hv repl hello -c regs {closed}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full, of Linux")
def test_a_full_disk_is_one_line_and_no_mistake_of_ours():
    shell = f"{sys.executable} -m hv run hello > /dev/full"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("hv: the output cannot be written: no space is left")
    assert done.stderr.count("\n") == 1


def test_output_survives_a_terminal_that_knows_only_ascii(tmp_path):
    source = tmp_path / "latin.asm"
    source.write_text(".bits 16\nstart:\n mov dx, 0x3F8\n mov al, 0xE9\n out dx, al\n cli\n hlt\n")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([*HV, "run", str(source)], capture_output=True, env=environment)
    assert done.returncode == 0
    assert done.stdout == b"?\n"

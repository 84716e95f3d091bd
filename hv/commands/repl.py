"""Debug a guest: step it, look at registers, memory, both page walks, the VMCS, the interrupt controllers, the events.

FILE is what `hv run` takes, or a lab: then it is the lab's own machine, with its bug if it has one, for as long as the
lab lets it run. The machine stands still before the guest's first instruction. `help` lists the commands; a line that
is none is Python over the live objects. Without a terminal, commands are read from standard input, one a line, so that
a session can be written down: `echo "step 5" | hv repl guests/timer.asm`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hv.commands import boot_options
from hv.commands.board import add_board_arguments
from hv.commands.errors import CHECKS_FAILED, TRUE
from hv.commands.screen import is_plain
from hv.printable import LONGEST_LINE, one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from hv.commands.building import Interrupted
    from hv.debug.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv repl`."""
    parser.add_argument("file", metavar="FILE", nargs="?", default="hello",
                        help="what `hv run` takes, or a lab: its number or the file you work on (default: hello)")
    parser.add_argument("--smp", metavar="N", type=int, help="virtual processors (default 1)")
    parser.add_argument("--mem", metavar="MIB", type=int, help="memory in MiB")
    add_board_arguments(parser)
    boot_options.add_arguments(parser)
    parser.add_argument("-c", "--command", metavar="LINE", action="append", help="do this line and leave; repeatable")
    parser.add_argument("--json", action="store_true", help="answer each line with one line of JSON")
    parser.add_argument("--replay", metavar="FILE", type=Path, help="go on behind a recorded run, which is kept")
    parser.add_argument("--dir", metavar="DIR", type=Path, default=Path(), help="of a lab: the folder you work in")
    parser.add_argument("--labs", metavar="DIR", type=Path, help="another folder of labs, such as an exported one")
    parser.set_defaults(budget=None)
    parser.add_argument("--root", action="store_true", help="FILE runs in the root partition itself")
    parser.add_argument("--plain", action="store_true", help="no colours, no completion")


def main(args: argparse.Namespace) -> int:
    """Read, do, print. Without a terminal, 1 when a line could not be carried out."""
    from hv.commands import building, chosen, replay, report
    from hv.debug.session import PYTHON, Session

    with chosen.subject(args) as subject, building.ctrl_c(PYTHON) as interrupted:
        session = Session(subject.machine, subject.vms, subject.images, report.heard())
        session.made_from = subject.made_from
        if subject.made_from is None:           # a lab's: its guests may be made to run for ever
            session.limit_tsc = session.machine.clock.tsc + subject.ticks
        if subject.replay is not None:
            session.keeps(replay.played(session.machine, subject.replay, args.replay, interrupted))
        session.interrupted = interrupted.take
        if args.command is not None or args.json or not sys.stdin.isatty():
            lines = args.command if args.command is not None else sys.stdin
            return as_json(session, lines) if args.json else scripted(session, lines, args.command is None)
        where = "at the end of its recording" if subject.replay is not None else "before its first instruction"
        print(f"{printable(args.file)} stands {where}. `help` lists the commands.")
        answer(session, "disasm rip 3")
        return interactive(session, plain_reader(session) if is_plain(args.plain) else reader(session), interrupted)


def scripted(session: Session, lines: Any, echo: bool) -> int:
    """Carry out *lines*, each shown before its answer; 1 when one of them could not be."""
    code = TRUE
    for line in lines:
        if echo and line.strip():
            print(f"{session.prompt}{printable(line.strip())}")
        if not answer(session, line):
            code = CHECKS_FAILED
        if session.finished:
            break
    return code


def as_json(session: Session, lines: Any) -> int:
    """Carry out *lines*, and answer each with an object in one line; 1 when one of them could not be carried out.

    `{"line": ..., "answer": ...}`, or instead of the answer "error" and "hint".
    """
    from hv.debug.data import plain_data
    from hv.debug.errors import DebugError
    from hv.debug.render import render
    from hv.debug.why.failures import crash

    code = TRUE
    for line in lines:
        said: dict[str, Any] = {"line": line.strip()}
        if not said["line"]:
            continue
        prompt = session.prompt
        try:
            value = session.value(line)
            said["answer"] = plain_data(value)
            session.transcript.note(prompt, line, render(value))
            crashed = crash(session)
            if crashed:
                said["crash"] = crashed
        except DebugError as error:
            said |= {"error": error.message, "hint": error.hint}
            session.transcript.note(prompt, line, f"error: {one_line(str(error))}", refused=True)
            code = CHECKS_FAILED
        print(json.dumps(said), flush=True)
        if session.finished:
            break
    return code


def answer(session: Session, line: str) -> bool:
    """Carry out one line and print what comes of it; False when it could not be carried out."""
    from hv.debug.errors import DebugError
    from hv.debug.why.failures import crash

    try:
        text = session.do(line)
    except DebugError as error:
        print(f"error: {one_line(str(error))}")
        return False
    if text:
        print(text)
    crashed = crash(session)
    if crashed:
        print(printable(crashed, LONGEST_LINE))
    sys.stdout.flush()
    return True


def carefully(session: Session, line: str) -> None:
    """`answer` for who sits at the prompt: a mistake of ours leaves the machine where it broke, and a report."""
    try:
        answer(session, line)
    except Exception as error:
        if session.failure is None or session.failure.error is not error:
            raise
        print(printable(session.failure.line, LONGEST_LINE))
        print(reported(error))


def reported(error: Exception) -> str:
    """Write the report of a mistake of ours; where it is, in words."""
    from hv.commands import report

    try:
        place = report.write(error, sys.argv[1:])
    except OSError as problem:
        return f"note: a report could not be written: {problem.strerror}"
    return f"note: this is a mistake of hvlab, not yours; please send {place} to its authors"


def interactive(session: Session, read: Callable[[], str], interrupted: Interrupted) -> int:
    """Until `quit` or the end of input. Ctrl-C abandons the line, or stops what runs."""
    while not session.finished:
        try:
            line = read()
        except KeyboardInterrupt:
            continue
        except EOFError:
            print()
            break
        interrupted.take()
        carefully(session, line)
    return TRUE


def plain_reader(session: Session) -> Callable[[], str]:
    """Lines by `input`; Python that is not complete goes on in the next one."""
    def read() -> str:
        text = input(session.prompt)
        while session.is_incomplete(text):
            text += "\n" + input("... ")
        return text

    return read


def reader(session: Session) -> Callable[[], str]:
    """Lines by prompt_toolkit: history, completion, Python over several lines; Enter repeats a step."""
    from hv.debug.history import HistoryFile, default_place
    from hv.debug.prompt import Prompt

    history = HistoryFile(default_place())
    if history.trouble:
        print(f"note: {one_line(history.trouble)}")
    return Prompt(session, history).read

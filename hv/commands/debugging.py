"""`hv run --debug`: a run that is recorded, and that opens the REPL where it breaks, with everything as it was then.

When the guest crashes, or something of ours raises in the middle of an exit, one line says where. At a terminal the
REPL stands there; else `why` is printed. The exit code is that of `hv run`, and a mistake of ours still leaves its
report.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hv.commands.description import MachineDescription
from hv.commands.errors import INTERNAL_ERROR, CommandError
from hv.commands.screen import is_plain, shown_time
from hv.printable import LONGEST_LINE, printable

if TYPE_CHECKING:
    from hv.commands.building import Interrupted
    from hv.debug.session import Session


def run(args: argparse.Namespace, description: MachineDescription, budget: int) -> int:
    """Run what *args* describe for *budget* ticks, and debug it if it breaks; the exit code."""
    from hv.commands import building, chosen, outcome, report
    from hv.commands.run import print_summary
    from hv.debug.session import PYTHON, Session
    from hv.debug.why.failures import crash

    subject = chosen.made(description, building.images_of(description), budget)
    machine, vms = subject.machine, subject.vms
    session = Session(machine, vms, subject.images, report.heard())
    session.made_from = subject.made_from
    try:
        with building.ctrl_c(PYTHON) as interrupted:
            session.interrupted = interrupted.take
            error = _record(session, machine.clock.tsc + budget)
            code = INTERNAL_ERROR
            if error is None:
                print_summary(outcome.summary(machine, vms), vms, args.plain)
                code = outcome.exit_code(vms)
            line = session.failure.line if session.failure is not None else crash(session)
            if line:
                _open(session, line, error, args.plain, interrupted)
            elif any(vm.ended is None for vm in vms):
                raise CommandError(f"it still ran when its budget, {shown_time(budget)} of virtual time, ended",
                                   "raise it with --budget 10s", code)
            return code
    finally:
        machine.close()


def _record(session: Session, end_tsc: int) -> Exception | None:
    """Record the run to *end_tsc*, printing what the guests print; the error of ours that ended it."""
    from hv.debug.errors import DebugError

    live = [True]           # the past prints nothing again
    for vm in session.vms:
        vm.on_serial(_printer(live))
    session.limit_tsc = end_tsc
    try:
        session.value("record")
    except DebugError as problem:
        raise CommandError(problem.message, problem.hint) from None
    except Exception as error:
        if session.failure is None or session.failure.error is not error:
            raise
        return error
    finally:
        live[0], session.limit_tsc = False, None
    return None


def _printer(live: list[bool]) -> Callable[[str], Any]:
    return lambda text: print(text, end="", flush=True) if live[0] else None


def _open(session: Session, line: str, error: Exception | None, plain: bool, interrupted: Interrupted) -> None:
    """Say what broke; at a terminal the REPL stands there."""
    from hv.commands import repl

    print(printable(line, LONGEST_LINE))
    if error is not None:
        print(repl.reported(error))
    if sys.stdin.isatty():
        repl.interactive(session, repl.plain_reader(session) if is_plain(plain) else repl.reader(session), interrupted)
        return
    for question in ("why", "why fault") if error is None and session.vp.vcpu.raised else ("why",):
        repl.answer(session, question)

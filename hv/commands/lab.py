"""Step-through labs: write a small program, run it on the machine, see what happened.

actions:
  list    all labs, and which are done; this is the default
  next    what the next lab is about: the idea, what to read, the task
  start   put the starter into this folder, and show the task
  check   run your program, and say how far it is
  watch   check it each time you save it, until all checks pass
  trace   what the machine records when your program runs, or the lab's
  hint    the next hint
  reset   put the starter back; what you wrote is kept under another name
  export  write the labs for students into a new folder: without solutions,
          wrong answers and hidden checks
  verify  prove that solutions pass, and that starters and known wrong
          answers fail as the labs say

LAB is a lab's name, its number, or the file you work on. Without it: the
lab whose file is in the folder, else the first that is not done.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from hv.commands import lab_choice, lab_work
from hv.commands.errors import CHECKS_FAILED, TRUE, CommandError
from hv.commands.lab_work import bar
from hv.commands.screen import console, is_plain
from hv.printable import printable

if TYPE_CHECKING:
    from hv.lab.exercise import Exercise
    from hv.lab.progress import Progress

ACTIONS = ("list", "next", "start", "check", "watch", "trace", "hint", "reset", "export", "verify")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv lab`."""
    parser.add_argument("action", metavar="ACTION", nargs="?", default="list", help="one of the above")
    parser.add_argument("lab", metavar="LAB", nargs="?",
                        help="01_first_exit, or 1, or first_exit.asm; of `export` a folder")
    parser.add_argument("--dir", metavar="DIR", type=Path, default=Path(),
                        help="the folder you work in (default: this one)")
    lab_choice.add_arguments(parser)
    parser.add_argument("--plain", action="store_true", help="no colours")


def main(args: argparse.Namespace) -> int:
    """Do one of the actions; 1 when the check, or a proof, failed."""
    _check_action(args.action)
    from hv.lab.errors import LabError
    from hv.lab.progress import Progress

    try:
        exercises, progress = lab_choice.labs_of(args), Progress()
        if args.action == "verify":
            return verify(_asked(exercises, args.lab))
        if args.action == "export":
            return export(exercises, args)
        if args.action == "list":
            code = show_list(exercises, progress)
        else:
            code = _WITH_ONE_LAB[args.action](choose(exercises, progress, args), args, progress)
    except LabError as error:
        raise CommandError(error.message, error.hint) from None
    for note in progress.notes:
        print(f"note: {note}", file=sys.stderr)
    return code


def _check_action(name: str) -> None:
    if name not in ACTIONS:
        near = difflib.get_close_matches(name, ACTIONS, 1)
        raise CommandError(f"`{printable(name)}` is no action; expected {', '.join(ACTIONS)}",
                           f"did you mean `hv lab {near[0]}`?" if near else "see `hv lab --help`")


def _asked(exercises: list[Exercise], name: str | None) -> list[Exercise]:
    from hv.lab.exercise import find

    return exercises if name is None else [find(exercises, name)]


def choose(exercises: list[Exercise], progress: Progress, args: argparse.Namespace) -> Exercise:
    """The lab that is meant: by name, by the file in the folder, or the first that is not done."""
    from hv.lab.exercise import find

    if args.lab is not None:
        name = Path(args.lab).name
        by_file = [one for one in exercises if name and name in (one.data.file, in_c(one))]
        return by_file[0] if by_file else find(exercises, args.lab)
    here = [exercise for exercise in exercises if any(
        os.path.exists(args.dir / name) for name in (exercise.data.file, in_c(exercise)) if name)]
    if args.action in ("check", "watch", "trace", "hint", "reset") and len(here) == 1:
        return here[0]
    return next((exercise for exercise in here or exercises if not progress.of(exercise.name).done), exercises[-1])


def working_file(exercise: Exercise, args: argparse.Namespace) -> Path:
    """The learner's file. A guest in C is meant when it is named, or when there is no other."""
    if args.lab is not None and Path(args.lab).name in (exercise.data.file, in_c(exercise)):
        return Path(args.dir / args.lab)
    place = Path(args.dir / exercise.data.file)
    in_the_other = args.dir / in_c(exercise)
    return in_the_other if in_c(exercise) and not os.path.exists(place) and os.path.exists(in_the_other) else place


def starter_file(exercise: Exercise, args: argparse.Namespace) -> Path:
    """Where the starter goes: never over a guest in C, for starters are assembly."""
    return working_file(exercise, args).with_name(exercise.data.file)


def in_c(exercise: Exercise) -> str:
    """The name of the learner's file when it is a guest in C; empty where none is asked for."""
    return str(Path(exercise.data.file).with_suffix(".c")) if exercise.data.kind == "guest" else ""


# --- actions ---------------------------------------------------------------------------------------


def show_list(exercises: list[Exercise], progress: Progress) -> int:
    """All labs, one a line."""
    for exercise in exercises:
        mark = "done" if progress.of(exercise.name).done else "    "
        print(f"  {mark}  {exercise.name:<20}  {exercise.data.title}")
    done = sum(progress.of(exercise.name).done for exercise in exercises)
    print(f"{bar(done, len(exercises))} {done} of {len(exercises)} done. {_what_next(exercises, progress)}")
    return TRUE


def _what_next(exercises: list[Exercise], progress: Progress) -> str:
    left = next((exercise for exercise in exercises if not progress.of(exercise.name).done), None)
    return f"Next: hv lab start {left.name}" if left is not None else "There are no more labs yet."


def show_next(exercise: Exercise, args: argparse.Namespace, progress: Progress) -> int:
    """The page of the next lab."""
    if args.lab is None and progress.of(exercise.name).done:
        print("All labs are done. `hv lab list` shows them.")
        return TRUE
    _page(exercise.text("README.md"), args.plain)
    print(f"To begin: hv lab start {exercise.name}")
    return TRUE


def start(exercise: Exercise, args: argparse.Namespace, progress: Progress) -> int:
    """Copy the starter, never over something that was changed; show the task."""
    place = starter_file(exercise, args)
    starter = exercise.text(exercise.starter.name)
    try:
        before = lab_work.content(place)
        if before is None:
            lab_work.put(place, starter)
    except OSError as error:
        raise CommandError(f"{place} cannot be written: {error.strerror}", "name another folder with --dir") from None
    if before is not None and before != starter.encode():
        raise CommandError(f"{place} is already there, with your changes; it is left as it is",
                           f"go on with `hv lab check {exercise.name}`, or move the file away to begin anew")
    given = lab_work.put_program(exercise, place)
    print(f"{exercise.name}: {exercise.data.title}\n")
    _page(exercise.section("The task"), args.plain)
    print(f"\n  edit   {printable(str(place))}{given}\n  check  hv lab check{_where(args)}\n"
          f"{_look(exercise, args)}  stuck  hv lab hint{_where(args)}\n"
          f"  more   hv lab next {exercise.name}   (the idea, and what to read)")
    return TRUE


def check(exercise: Exercise, args: argparse.Namespace, progress: Progress) -> int:
    """Run the learner's program and show the findings."""
    place = _existing(exercise, args)
    from hv.lab import report, runner

    seen = exercise.for_student()
    verdict = runner.check(seen, place)
    print(f"{exercise.name}{lab_choice.whose_labs(args)}: {exercise.data.title}  ({printable(str(place))})\n")
    print(report.report(verdict, not is_plain(args.plain)))
    print(f"\n{report.summary(verdict)}.{_more_checks(len(exercise.data.checks) - len(seen.data.checks))}")
    if not verdict.passed:
        print(f"Change {printable(str(place))} and check again. Stuck? hv lab hint{_where(args)}")
        return CHECKS_FAILED
    progress.mark_done(exercise.name)
    _why(exercise, args)
    return TRUE


def watch(exercise: Exercise, args: argparse.Namespace, progress: Progress) -> int:
    """Check the learner's file whenever it is saved."""
    place = _existing(exercise, args)
    code = lab_work.watch(exercise, place, progress, args.plain)
    if code == TRUE:
        _why(exercise, args)
    return code


def trace(exercise: Exercise, args: argparse.Namespace, progress: Progress) -> int:
    """What the machine records."""
    own = exercise.data.kind == "guest" or exercise.data.piece.answers
    place = _existing(exercise, args) if own else working_file(exercise, args)
    return lab_work.trace(exercise, place, progress)


def reset(exercise: Exercise, args: argparse.Namespace, progress: Progress) -> int:
    """The starter again, and the learner's file under another name."""
    place = starter_file(exercise, args)
    kept = lab_work.reset(exercise, place)
    print(f"{printable(str(place))} is the starter again." +
          (f" What you wrote is in {printable(str(kept))}." if kept else ""))
    return TRUE


def _existing(exercise: Exercise, args: argparse.Namespace) -> Path:
    """The learner's file, which is there; CommandError."""
    place = working_file(exercise, args)
    if not os.path.exists(place):       # which, unlike Path.exists, takes a name that no file can have
        begin = f"`hv lab start {exercise.name}{_where(args)}` puts a starter there"
        raise CommandError(f"{place} does not exist", begin)
    return place


def _why(exercise: Exercise, args: argparse.Namespace) -> None:
    print("\nWhy it works\n")
    _page(exercise.text("why.md").strip(), args.plain)


def _more_checks(count: int) -> str:
    return f" {count} more {'are' if count > 1 else 'is'} judged when it is handed in." if count else ""


def hint(exercise: Exercise, args: argparse.Namespace, progress: Progress) -> int:
    """The next hint; the last one again when there are no more."""
    hints = exercise.data.hints
    number = progress.next_hint(exercise.name, len(hints))
    text = f"Hint {number + 1} of {len(hints)} for {exercise.name}: {hints[number]}"
    _page(textwrap.fill(text, 100), args.plain)
    if number + 1 == len(hints):
        print("That was the last hint.")
    return TRUE


def export(exercises: list[Exercise], args: argparse.Namespace) -> int:
    """Write the students' tree."""
    from hv.lab.export import export as write

    if args.lab is None:
        raise CommandError("export needs a folder to write into", "hv lab export student-labs")
    files = write(exercises, Path(args.lab), args.student)
    folder = printable(args.lab)
    print(f"{len(exercises)} labs{lab_choice.whose_labs(args)}, {len(files)} files are in {folder}: no solutions, "
          f"no wrong answers, no hidden checks.\nStudents use them in that folder, or with: hv lab --labs {folder}")
    return TRUE


def verify(exercises: list[Exercise]) -> int:
    """Prove every claim about the labs."""
    from hv.lab.verify import verify as proofs

    code = TRUE
    for exercise in exercises:
        print(exercise.name)
        for proof in proofs(exercise):
            print(f"  {'FAIL' if proof.against else 'ok  '}  {proof.claim}")
            if proof.against:
                print(f"        but: {proof.against}")
                code = CHECKS_FAILED
    return code


_WITH_ONE_LAB = {"next": show_next, "start": start, "check": check, "watch": watch, "trace": trace,
                  "hint": hint, "reset": reset}


def _look(exercise: Exercise, args: argparse.Namespace) -> str:
    """How to see the learner's own program at work; what others ask about is not to be seen before it was answered."""
    return f"  look   hv step {exercise.name}{_where(args)}\n" if exercise.data.kind == "guest" else ""


def _where(args: argparse.Namespace) -> str:
    return f" --dir {printable(str(args.dir))}" if args.dir != Path() else ""


def _page(text: str, plain: bool) -> None:
    """A page of Markdown: as it is for pipes, set for a terminal."""
    if is_plain(plain):
        print(text)
        return
    from rich.markdown import Markdown

    console(plain=False).print(Markdown(text))

"""What a learner does between `start` and the first green check: look at the trace, watch the file, begin anew."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hv.commands.errors import CHECKS_FAILED, TRUE, CommandError
from hv.commands.screen import is_plain
from hv.printable import printable

if TYPE_CHECKING:
    from hv.lab.exercise import Exercise
    from hv.lab.progress import Progress
    from hv.lab.runner import FinishedRun, Verdict

LOOK_SECONDS = 0.1              # between two looks at the file


def trace(exercise: Exercise, place: Path, progress: Progress) -> int:
    """Run the program of the lab, or the learner's own, and tell what was recorded."""
    from hv.lab.telling import told

    run = rehearsed(exercise, place, progress)
    try:
        run.go()
        print("\n".join(told(run)))
    finally:
        run.close()
    return TRUE


def rehearsed(exercise: Exercise, place: Path, progress: Progress) -> FinishedRun:
    """The run of the program of the lab, or of the learner's own, before it begins; CommandError. To be closed."""
    from hv.image.errors import ImageError
    from hv.lab.runner import rehearse

    if exercise.data.kind == "predict" and not progress.of(exercise.name).done:
        raise CommandError(f"{exercise.name} asks what will happen: the trace would tell",
                           f"answer in {exercise.data.file}, then `hv lab check`; afterwards the trace is open")
    try:
        return rehearse(exercise, place)
    except ImageError as error:
        raise CommandError(error.message, error.hint) from None


def put_program(exercise: Exercise, place: Path) -> str:
    """Put a copy of the program that the lab gives beside the learner's file, to be read. Answers a line about it.

    Nobody writes it: `hv lab check` runs the lab's own.
    """
    from hv.image.library import guests_folder

    name, ours = exercise.data.program, guests_folder()
    places = [exercise.folder / name] + ([ours / name] if ours is not None else [])
    source = next((one for one in places if name and one.is_file()), None)
    if source is None:
        return ""
    copy = place.with_name(name)
    try:
        if not os.path.lexists(copy):
            copy.write_bytes(source.read_bytes())
            copy.chmod(0o444)
    except OSError as error:
        raise CommandError(f"{copy} cannot be written: {error.strerror}", "name another folder with --dir") from None
    return f"\n  read   {printable(str(copy))}   (the check runs the lab's own: changes here change nothing)"


def watch(exercise: Exercise, place: Path, progress: Progress, plain: bool, checks: int | None = None) -> int:
    """Check whenever the file was saved, until all checks pass; 1 after *checks* of them, or when Ctrl-C ended it."""
    print(f"Watching {printable(str(place))}: save it, and see. Ctrl-C ends.", flush=True)
    from hv.image.worker import kept_warm

    try:
        with kept_warm():               # the assembler, so that a save is answered at once
            return _watch(exercise, place, progress, plain, checks)
    except KeyboardInterrupt:
        print()
    return CHECKS_FAILED


def _watch(exercise: Exercise, place: Path, progress: Progress, plain: bool, checks: int | None) -> int:
    seen: object = None
    done = 0
    while checks is None or done < checks:
        now = _state(place)
        if now in (seen, None):
            time.sleep(LOOK_SECONDS)
            continue
        seen, done = now, done + 1
        if _show(exercise, place, plain):
            progress.mark_done(exercise.name)
            return TRUE
    return CHECKS_FAILED


def _show(exercise: Exercise, place: Path, plain: bool) -> bool:
    """One verdict, with only the first problem in full."""
    from hv.lab import report, runner

    verdict: Verdict = runner.check(exercise.for_student(), place)
    colour = not is_plain(plain)
    if colour:
        print("\x1b[2J\x1b[H", end="")
    print(f"\n{exercise.name}: {exercise.data.title}  {bar(int(verdict.score), int(exercise.max_score))}\n")
    print(report.report(verdict, colour))
    print(f"\n{report.summary(verdict)}.", flush=True)
    return verdict.passed


def _state(place: Path) -> object:
    """What changes when the file is saved; None while it is not there."""
    try:
        found = place.stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def content(place: Path) -> bytes | None:
    """What the learner's file holds, nothing of what is no text; None when nothing is there."""
    from hv.lab import reading

    if not os.path.lexists(place):
        return None
    try:
        return reading.read_bytes(place)
    except reading.Unreadable:
        return b""


def put(place: Path, text: str) -> None:
    """Write *text* to *place*, where nothing is: all of it, or nothing is there again; OSError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("x", encoding="utf-8", newline="\n") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:
            place.unlink(missing_ok=True)
            raise


def reset(exercise: Exercise, place: Path) -> Path | None:
    """Put the starter back; the name under which the learner's file was kept, None when there was nothing to keep."""
    starter = exercise.text(exercise.starter.name)
    try:
        before = content(place)
        if before is None or before == starter.encode():
            kept = None
        else:
            kept = next(name for name in (place.with_name(f"{place.name}.kept-{n}") for n in itertools.count(1))
                        if not os.path.lexists(name))
            place.rename(kept)
        if before is None or kept is not None:
            put(place, starter)
    except OSError as error:
        raise CommandError(f"{place} cannot be replaced: {error.strerror}", "check the folder's permissions") from None
    return kept


def bar(part: int, whole: int, width: int = 20) -> str:
    """`[########------------]`."""
    filled = width * part // whole if whole else 0
    if 0 < part < whole:                # a beginning is seen, and so is what is left
        filled = min(max(filled, 1), width - 1)
    return f"[{'#' * filled}{'-' * (width - filled)}]"

"""Scores for submissions: the same findings as `hv lab check`, as numbers and plain data.

Three outcomes are kept apart: *graded*; *not_gradable*, when the submission is no program (the score is 0, and the
message says why); *grader_error*, when the mistake is ours (no verdict; the others are graded all the same).
A result holds no time, no path of this machine and nothing random, so the same submission gives the same bytes.

Submissions are hostile until proven otherwise: only regular files of at most 1 MiB are read, links are not followed,
and a program may include what is in our `guests/` only, not its neighbours.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hv.image.source import MAX_SOURCE_BYTES
from hv.lab import runner
from hv.lab.errors import LabError
from hv.lab.exercise import SUFFIXES, Exercise
from hv.lab.formats import native
from hv.lab.report import first_problem
from hv.lab.result import LONGEST_MESSAGE, Result, Status, one_check
from hv.lab.runner import Verdict
from hv.lab.sandbox.archive import is_archive, without_suffix
from hv.lab.variants import words
from hv.printable import printable

Judge = Callable[[Exercise, Path, bool], Verdict]


@dataclass(frozen=True, slots=True)
class Submission:
    """What one learner handed in: the *name* to show, and the file."""

    name: str
    path: Path
    student: str = ""                   # for whom the exercise's values were drawn, if they were
    problem: str = ""                   # why it cannot be graded


@dataclass(frozen=True, slots=True)
class Grade:
    """The outcome for one submission. *status* is graded, not_gradable or grader_error."""

    submission: Submission
    status: str
    sha256: str
    message: str
    verdict: Verdict

    @property
    def passed(self) -> bool:
        """It was graded and earned every point."""
        return self.status == "graded" and self.verdict.passed

    @property
    def result(self) -> Result:
        """What is told about it."""
        verdict, exercise = self.verdict, self.verdict.exercise
        judged = not verdict.refused and self.status == Status.GRADED
        return Result(
            exercise=printable(exercise.name), title=printable(exercise.data.title), lab_sha256=exercise.sha256(),
            submission=printable(self.submission.name), file=printable(self.submission.path.name), sha256=self.sha256,
            status=Status(self.status), message=printable(self.message, LONGEST_MESSAGE),
            checks=tuple(one_check(check, finding, judged) for check, finding in verdict.judged),
            student=printable(self.submission.student), variant=printable(words(exercise.values)),
            trace_sha256=verdict.trace_sha256)

    def as_data(self) -> dict[str, Any]:
        """The result as plain data."""
        return native.as_data(self.result)


def submissions(paths: list[Path], exercise: Exercise) -> list[Submission]:
    """What *paths* hold, in a fixed order; LabError when a path is not there or holds nothing.

    A folder that holds the exercise's file is one submission; any other folder holds one in each entry. Names do not
    say where a single path is, so that a class graded elsewhere gives the same result.
    """
    if len(paths) == 1:
        return [Submission(name, path) for name, path in _below(paths[0], exercise)]
    return [Submission(f"{above.as_posix()}: {name}", path)
            for above in paths for name, path in _below(above, exercise)]


def with_student(submission: Submission, exercise: Exercise, student: str, alone: bool) -> Submission:
    """*submission* as *student*'s; when that is empty, as that of whom its folder or its file is named for."""
    if student or not exercise.parameters:
        return replace(submission, student=student if exercise.parameters else "")
    if alone:
        raise LabError(f"whose is {submission.path}? {exercise.name} has a variant for each student",
                       "say --student ID")
    in_folder = submission.path.name == exercise.data.file
    alone_in_it = without_suffix(submission.path) if is_archive(submission.path) else submission.path.stem
    return replace(submission, student=submission.path.parent.name if in_folder else alone_in_it)


def is_alone(path: Path, found: list[Submission], exercise: Exercise) -> bool:
    """*path* is itself the one submission that was *found*, not a folder of them."""
    return len(found) == 1 and found[0].path in (path, path / exercise.data.file)


def _below(path: Path, exercise: Exercise) -> list[tuple[str, Path]]:
    """(name, file) of each submission at *path*."""
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
        inside = sorted(path.iterdir()) if is_folder else []
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LabError(f"{path} cannot be read: {reason}", "name a submission, or a folder of them") from None
    if not is_folder:
        return [(path.name, path)]
    if path / exercise.data.file in inside:
        return [(exercise.data.file, path / exercise.data.file)]
    entries = [entry for entry in inside if not entry.name.startswith((".", "__"))]
    if not entries:
        raise LabError(f"{path} is empty", f"put submissions in it: files, or folders with {exercise.data.file}")
    return [(entry.name, entry / exercise.data.file if entry.is_dir() and not entry.is_symlink() else entry)
            for entry in entries]


def grade(exercise: Exercise, submission: Submission, judge: Judge = runner.check) -> Grade:
    """Grade one submission. It never raises for what the submission holds."""
    digest, problem = "", submission.problem
    if not problem:
        digest, problem = _examine(submission.path, SUFFIXES[exercise.data.kind])
    if problem:
        return _ungraded(exercise, submission, "not_gradable", digest, problem)
    try:
        verdict = judge(exercise, submission.path, False)
    except Exception as error:      # a mistake of ours must not take the rest of the class with it
        return _ungraded(exercise, submission, "grader_error", digest,
                         printable(f"the grader failed, not you: {type(error).__name__}: {error}"))
    if verdict.refused:
        return Grade(submission, "not_gradable", digest, verdict.refused, verdict)
    return Grade(submission, "graded", digest, first_problem(verdict), verdict)


def grade_for(exercise: Exercise, seed: bytes | None, submission: Submission) -> Grade:
    """Grade one submission; with a *seed* by the variant of its student."""
    return grade(exercise if seed is None else exercise.variant(seed, submission.student), submission)


def unfinished(exercise: Exercise, submission: Submission) -> Grade:
    """What stands in a result's place until there is one, and for ever when the grader is killed."""
    message = "grading did not come to its end; the mistake is not yours"
    return _ungraded(exercise, submission, "grader_error", "", message)


def broken(exercise: Exercise, submission: Submission, words: str) -> Grade:
    """The grade when whoever graded did not survive it; *words* say how it ended."""
    return _ungraded(exercise, submission, "grader_error", content_hash(exercise, submission.path),
                     printable(f"the grader failed, not you: {words}"))


def content_hash(exercise: Exercise, path: Path) -> str:
    """SHA-256 of a submission; empty when it cannot be read as one."""
    return _examine(path, SUFFIXES[exercise.data.kind])[0]


def _ungraded(exercise: Exercise, submission: Submission, status: str, digest: str, message: str) -> Grade:
    return Grade(submission, status, digest, message, Verdict(exercise, submission.path.name, message))


def _examine(path: Path, suffixes: tuple[str, ...]) -> tuple[str, str]:
    """SHA-256 of the file (empty when it was not read), and why it cannot be graded (empty when it can)."""
    name = printable(path.name)
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return "", f"{name} is a symbolic link; hand in the file itself"
        if not stat.S_ISREG(status.st_mode):
            return "", f"{name} is no ordinary file; hand in assembly source"
        if path.suffix.lower() not in suffixes:
            return "", f"{name} is no assembly source; expected a file that ends in .asm"
        if status.st_size > MAX_SOURCE_BYTES:
            return "", f"{name} is larger than {MAX_SOURCE_BYTES >> 20} MiB; assembly source is text"
        data = path.read_bytes()
    except FileNotFoundError:
        return "", f"{name} is missing"
    except (OSError, ValueError) as error:
        return "", f"{name} cannot be read: {getattr(error, 'strerror', None) or error}"
    digest = hashlib.sha256(data).hexdigest()
    return digest, "" if data.strip() else f"{name} is empty; a program has at least one instruction"

"""A whole class: each different submission is graded once, by warm workers, into a report that can be taken up again.

A result depends on the content of a submission, the exercise and the version of hvlab, so equal submissions share one
(under their own names), and a report that was interrupted goes on where it stopped. Results come in the order in which
they were handed in, whatever the number of workers.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from hv.image.worker import kept_warm
from hv.lab.exercise import Exercise
from hv.lab.grading import Submission, broken, content_hash, grade_for
from hv.lab.journal import Journal, key_of
from hv.lab.result import Result, Status
from hv.lab.sandbox import archive
from hv.printable import printable

Told = Callable[[int, Result], None]        # the number of a submission, and its result


class Graders(Protocol):
    """Whoever grades many: local workers, or a cluster. With a *seed*, each by the variant of its student."""

    seed: bytes | None

    def grade(self, submissions: list[Submission]) -> Iterator[tuple[int, Result | str]]: ...


class Here:
    """The graders of `--jobs 1`: this process."""

    def __init__(self, exercise: Exercise, seed: bytes | None = None) -> None:
        self.exercise, self.seed = exercise, seed

    def grade(self, submissions: list[Submission]) -> Iterator[tuple[int, Result | str]]:
        """One after the other."""
        with kept_warm():
            for number, submission in enumerate(submissions):
                yield number, grade_for(self.exercise, self.seed, submission).result


def unpacked(submissions: list[Submission], exercise: Exercise, folder: Path) -> list[Submission]:
    """The same, with each archive unpacked below the empty *folder*; what is wrong with one is its problem."""
    return [_unpacked(one, exercise, folder / str(number)) if archive.is_archive(one.path) else one
            for number, one in enumerate(submissions)]


def _unpacked(submission: Submission, exercise: Exercise, folder: Path) -> Submission:
    try:
        return replace(submission, path=archive.find(archive.unpack(submission.path, folder), exercise.data.file))
    except archive.ArchiveError as error:
        return replace(submission, problem=f"{printable(submission.path.name)} cannot be unpacked: {error}")


def grade_all(exercise: Exercise, submissions: list[Submission], graders: Graders, journal: Journal | None = None,
              told: Told = lambda number, result: None) -> list[Result]:
    """The result of each submission, in their order; *told* hears of each as soon as it is known."""
    sames = _sames(exercise, submissions, graders.seed)
    results: dict[int, Result] = {}

    def tell(numbers: Iterable[int], result: Result) -> None:
        for number in numbers:
            results[number] = replace(result, submission=printable(submissions[number].name))
            told(number, results[number])

    for number, submission in enumerate(submissions):
        if submission.problem:
            tell([number], grade_for(exercise, graders.seed, submission).result)
    known = journal.results if journal is not None else {}
    for key in [key for key in sames if key in known]:
        tell(sames.pop(key), known[key])
    todo = list(sames.items())
    for at, answer in graders.grade([submissions[numbers[0]] for _, numbers in todo]):
        key, numbers = todo[at]
        result = answer if isinstance(answer, Result) else broken(exercise, submissions[numbers[0]], answer).result
        if journal is not None and result.sha256 and result.status is not Status.GRADER_ERROR:
            journal.add(key, result)    # not what could not be read, nor a mistake of ours: both may be mended
        tell(numbers, result)
    return [results[number] for number in range(len(submissions))]


def _sames(exercise: Exercise, submissions: list[Submission], seed: bytes | None) -> dict[str, list[int]]:
    """Numbers of submissions by the key of their content. What cannot be read has a key of its own, a problem none."""
    lab, found = exercise.sha256(), dict[str, list[int]]()
    for number, submission in enumerate(submissions):
        if submission.problem:
            continue
        content = content_hash(exercise, submission.path) or f"unread: {submission.name}"
        found.setdefault(key_for(lab, seed, submission, content), []).append(number)
    return found


def key_for(lab: str, seed: bytes | None, submission: Submission, content: str) -> str:
    """The key of a grading; *lab* and *content* are the hashes of the exercise and of the submission."""
    tool = str(Result.__dataclass_fields__["tool"].default)
    return key_of(tool, lab, submission.path.name, content, _variant(seed, submission.student))


def _variant(seed: bytes | None, student: str) -> str:
    """A word for the student's own values; it tells nothing about the seed."""
    return "" if seed is None else f"{student}:{hmac.digest(seed, os.fsencode(student), 'sha256').hex()}"

"""Proof that an exercise keeps what it promises: for its authors, and for every test run.

The solution earns all points; the untouched starter fails for the stated reason; each known wrong answer fails with
its own message; the pages are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hv.lab.errors import LabError
from hv.lab.exercise import Exercise
from hv.lab.report import first_problem, report
from hv.lab.runner import check
from hv.lab.variants import words

VARIANTS = 3                    # students for whom a lab with parameters is proved


@dataclass(frozen=True, slots=True)
class Proof:
    """One claim about an exercise, and what speaks against it (empty: nothing)."""

    claim: str
    against: str = ""


def verify(exercise: Exercise, students: int = VARIANTS) -> Iterator[Proof]:
    """Every claim about *exercise*, in order; of one with parameters for so many *students* too."""
    yield from _claims(exercise)
    if not exercise.parameters:
        return
    variants = [exercise.variant(b"hv lab verify", f"student {number}") for number in range(1, students + 1)]
    same = all(one.values == exercise.values for one in variants)
    yield Proof("students get variants of their own", "they all get the same values" if same else "")
    for one in variants:
        yield from (replace(proof, claim=f"{words(one.values)}: {proof.claim}") for proof in _claims(one))


def _claims(exercise: Exercise) -> Iterator[Proof]:
    yield _pages(exercise)
    solved = check(exercise, exercise.solution)
    yield Proof(f"solution/{exercise.data.file} earns all {exercise.max_score} points", first_problem(solved))
    yield _fails(exercise, exercise.starter.name, exercise.data.starter_says)
    for wrong in exercise.data.wrong:
        yield _fails(exercise, f"wrong/{wrong.file}", wrong.says)
    yield _own_messages(exercise)


def _pages(exercise: Exercise) -> Proof:
    try:
        missing = [name for name in ("README.md", "why.md") if not exercise.text(name).strip()]
    except LabError as error:
        return Proof("its pages are there", str(error))
    if not exercise.section("The task"):
        missing.append("the section `## The task` of README.md")
    return Proof("its pages are there", f"empty: {', '.join(missing)}" if missing else "")


def _fails(exercise: Exercise, file: str, says: str) -> Proof:
    claim = f"{file} fails, and is told: {says}"
    if not says:
        return Proof(claim, "lab.toml does not say what it is told")
    verdict = check(exercise, exercise.folder / file)
    if verdict.passed:
        return Proof(claim, "it passes")
    if says not in " ".join(report(verdict).split()):
        return Proof(claim, f"it is told: {first_problem(verdict)}")
    return Proof(claim)


def _own_messages(exercise: Exercise) -> Proof:
    said = [exercise.data.starter_says, *(wrong.says for wrong in exercise.data.wrong)]
    twice = sorted({words for words in said if said.count(words) > 1})
    return Proof("each wrong answer has a message of its own", f"told twice: {twice[0]}" if twice else "")

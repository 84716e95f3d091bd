"""What a check is and what it finds, whatever its kind.

A `Finding` says what was expected, what was found, and the lines where they part, each marked GOOD (as expected), BAD
(found and wrong), MISSING (expected and not found) or nothing (it merely stands near).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Protocol

import msgspec

LEARNER, ANY = "lab", "any"     # the learner's own VM, as checks call it; and whichever


class Mark(StrEnum):
    """What a line is to the comparison."""

    GOOD = "GOOD"
    BAD = "BAD"
    MISSING = "MISSING"
    NEAR = ""


Line = tuple[Mark, str]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. *message* is one line for the learner; empty when it passed."""

    passed: bool
    expected: str
    found: str
    lines: list[Line] = field(default_factory=list)
    message: str = ""
    waiting: bool = False               # not judged: what it needs did not pass
    unsure: bool = False                # not found, but not all that happened was looked at


@dataclass(frozen=True, slots=True)
class Happening:
    """One event: the source line that ran (`first_exit.asm:12`, or empty), what happened, and which VP of which VM.

    *number* is how many VM exits there were until then, of all VMs.
    """

    place: str
    event: Any
    vm: str = LEARNER
    vp: int = 0
    number: int = 0


class Run(Protocol):
    """What is left of a run, as far as checks look at it. A *vm* goes by its name; `ANY` means all of them."""

    happened: list[Happening]
    answers: Mapping[str, Any]          # the learner's, where the exercise asks questions
    fault: tuple[str, int, str]         # the injected bug, the number of the exit where it first acted, and the line
    piece: Any                          # the learner's Python, where the exercise asks for it

    @property
    def failure(self) -> Any: ...                               # the `Failure` of a handler that did not answer

    def left_out(self, vm: str) -> int: ...                     # events that happened after that, and were not kept
    def ended(self, vm: str) -> tuple[str, str, str]: ...       # how, why, and the source line where
    def serial(self, vm: str) -> str: ...
    def symbol(self, vm: str, name: str) -> int | None: ...
    def read(self, vm: str, gpa: int, size: int) -> bytes: ...  # as its guest would; fewer where memory ends
    def register(self, vm: str, vp: int, name: str) -> int: ...
    def vp(self, vm: str, index: int) -> Any: ...               # the virtual processor itself; None when it is gone
    def ept(self, vm: str) -> tuple[Any, int]: ...              # physical memory, and the EPT pointer
    def work(self, vm: str) -> tuple[int, int]: ...             # its VM exits, and the ticks that the run took


class Mistake(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A wrong answer that is known: when the words *found* occur in what was found, the learner is told *says*."""

    found: str
    says: str


class Check(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, tag_field="kind"):
    """What all kinds have. *needs* names an earlier check: until it passes this one is not judged.

    A *hidden* check is judged when work is graded, and left out of what students get. A *partial* one gives points for
    each part that is right: of memory four bytes, of registers one, of serial output a line. Of a *secret* one nobody
    is told what was expected: only where, and what was found.
    """

    name: str
    points: Annotated[int, msgspec.Meta(ge=0)] = 1
    needs: str = ""
    hidden: bool = False
    partial: bool = False
    secret: bool = False
    mistakes: list[Mistake] = []

    def look(self, run: Run) -> Finding:
        """Compare, without a word for the learner yet."""
        raise NotImplementedError

    @property
    def about(self) -> str:
        """What it looks at, in words that tell nothing of what it expects; empty where a check cannot be secret."""
        return ""

    def _untold(self, seen: Finding) -> Finding:
        lines = [(mark, "(not told)" if mark is Mark.MISSING else text) for mark, text in seen.lines]
        return replace(seen, expected=f"what the task asks for {self.about}", lines=lines)

    def vms(self) -> set[str]:
        """The VMs it looks at, by name."""
        return {getattr(self, "vm", LEARNER)}

    def events(self) -> set[str]:
        """The events it looks at, by class."""
        return set()

    def judge(self, run: Run) -> Finding:
        """Compare, and say in one line what is wrong."""
        seen = self._untold(self.look(run)) if self.secret else self.look(run)
        if seen.passed:
            return seen
        message = f"expected {seen.expected}, found {seen.found}"
        if seen.unsure:
            message += ": is there a loop that exits again and again?"
        else:
            message = next((mistake.says for mistake in self.mistakes if self.is_mistake(mistake, seen)), message)
        return replace(seen, message=message)

    def earned(self, finding: Finding) -> Decimal:
        """Points for what was found; of a partial check rounded down to hundredths, so that sums are exact."""
        if finding.passed or not self.partial:
            return Decimal(self.points if finding.passed else 0)
        marks = [mark for mark, _ in finding.lines]
        right, wrong = marks.count(Mark.GOOD), max(marks.count(Mark.BAD), marks.count(Mark.MISSING))
        return Decimal(100 * self.points * right // max(right + wrong, 1)) / 100

    def is_mistake(self, mistake: Mistake, seen: Finding) -> bool:
        """What was found is that wrong answer."""
        return mistake.found in seen.found

"""The check of a learner's EPT walk: it must say what the processor says, of every address."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from hv.lab.finding import LEARNER, Check, Finding, Line, Mark, Run
from hv.lab.pieces import mistake, random_tables, truth, walked
from hv.lab.words import number
from hv.vmx.translation.ept_walk import EptWalk

Gpa = Annotated[int, msgspec.Meta(ge=0)] | str


class WalkCheck(Check, frozen=True, tag="walk"):
    """The piece walks as the processor does: the tables of *vm* at *gpas* (numbers, or `@label`), or *random* ones.

    *random* is how many addresses, of tables made from *seed*. *reads* is the most entries that a walk may read.
    """

    gpas: list[Gpa] = []
    random: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    seed: int = 1
    reads: int | None = None
    vm: str = LEARNER

    def __post_init__(self) -> None:
        if bool(self.gpas) == bool(self.random):
            raise ValueError(f"check `{self.name}` needs gpas, or a number of random ones")

    def look(self, run: Run) -> Finding:
        memory, eptp = run.ept(self.vm)
        gpas = [self._gpa(run, gpa) for gpa in self.gpas]
        if self.random:
            memory, eptp, gpas = random_tables(self.seed, self.random)
        for right, gpa in enumerate(gpas):
            found = self._one(run, memory, eptp, gpa, f"{right} of {len(gpas)} addresses were right")
            if not found.passed:
                return found
        every = f"every one of {len(gpas)} walks to end where the processor's does"
        return Finding(True, every, every)

    def _gpa(self, run: Run, gpa: Gpa) -> int:
        address = run.symbol(self.vm, gpa[1:]) if isinstance(gpa, str) else gpa
        if address is None:
            raise ValueError(f"check `{self.name}`: there is no label {gpa}")
        return address

    def _one(self, run: Run, memory: Any, eptp: int, gpa: int, progress: str) -> Finding:
        walk, wanted = truth(memory, eptp, gpa)
        outcome, reads = walked(run.piece, memory, eptp, gpa)
        call = f"walk(eptp={eptp:#x}, gpa={gpa:#x})"
        expected = f"{call} = {_words(wanted)}"
        if not outcome.returned:
            return Finding(False, expected, outcome.message, _lines(walk, reads))
        said = list(outcome.value) if isinstance(outcome.value, list | tuple) else outcome.value
        if said != wanted:
            why = mistake(walk, said) or "something else"
            return Finding(False, expected, f"{_words(said)}: {why}; {progress}",
                           [*_lines(walk, reads), (Mark.BAD, _words(said)), (Mark.MISSING, _words(wanted))])
        if self.reads is not None and len(reads) > self.reads:
            return Finding(False, f"at most {self.reads} entries to be read", f"{len(reads)} reads for {gpa:#x}",
                           _lines(walk, reads))
        return Finding(True, expected, expected)


def _words(said: Any) -> str:
    """What a walk says: `(0x5123, 7)`, or None."""
    if isinstance(said, list) and len(said) == 2 and all(type(one) is int for one in said):
        return f"({said[0]:#x}, {number(said[1])})"
    return f"{said!r:.60}"


def _lines(walk: EptWalk, reads: list[int]) -> list[Line]:
    """The entries that the processor uses, each GOOD if the piece read it; what it read besides is BAD."""
    lines: list[Line] = []
    for step in walk.entries:
        raw = step.entry.raw
        mark = Mark.GOOD if step.spa in reads else Mark.MISSING
        lines.append((mark, f"level {step.level}  entry at {step.spa:#x}  {raw:#018x}  rights {raw & 7}"
                            + ("  large page" if raw & 7 and step.entry.large and step.level > 1 else "")))
    used = {step.spa for step in walk.entries}
    others = [spa for spa in dict.fromkeys(reads) if spa not in used]
    lines += [(Mark.BAD, f"read      entry at {spa:#x}") for spa in others[:4]]
    if walk.misconfigured:
        lines.append((Mark.NEAR, f"misconfigured: {walk.misconfigured}"))
    return lines

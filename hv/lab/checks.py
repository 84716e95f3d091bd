"""The kinds of check a lab.toml may hold, and what each finds in a run.

A check is data: its kind chooses one of the classes below, its fields are theirs. `judge` compares with what really
happened and answers a `Finding`: what was expected, what was found, and the lines where they part, each marked GOOD
(as expected), BAD (found and wrong), MISSING (expected and not found) or nothing (it merely stands near).

`mistakes` are wrong answers that are known: when the words *found* occur in what was found, the learner is told *says*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Annotated, Any, Protocol

import msgspec

from hv.lab.words import event_name, event_words, field_words, is_exit, number, quoted

GROUP = 4                       # bytes of memory on a line


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
    """One event of the learner's VM, and the source line that ran (`first_exit.asm:12`, or empty)."""

    place: str
    event: Any


class Run(Protocol):
    """What is left of a run, as far as checks look at it."""

    ended: str
    ended_at: str                       # the source line (`first_exit.asm:12`); empty outside of the program
    why: str
    happened: list[Happening]
    left_out: int                       # what happened after that, and was not kept

    @property
    def serial(self) -> str: ...

    def symbol(self, name: str) -> int | None: ...
    def read(self, gpa: int, size: int) -> bytes: ...
    def register(self, name: str) -> int: ...


class Mistake(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A wrong answer that is known."""

    found: str
    says: str


class Check(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, tag_field="kind"):
    """What all kinds have. *needs* names an earlier check: until it passes this one is not judged."""

    name: str
    points: Annotated[int, msgspec.Meta(ge=0)] = 1
    needs: str = ""
    mistakes: list[Mistake] = []

    def look(self, run: Run) -> Finding:
        """Compare, without a word for the learner yet."""
        raise NotImplementedError

    def judge(self, run: Run) -> Finding:
        """Compare, and say in one line what is wrong."""
        seen = self.look(run)
        if seen.passed:
            return seen
        message = f"expected {seen.expected}, found {seen.found}"
        if seen.unsure:
            message += ": is there a loop that exits again and again?"
        else:
            message = next((mistake.says for mistake in self.mistakes if mistake.found in seen.found), message)
        return replace(seen, message=message)


class MemoryCheck(Check, frozen=True, tag="memory"):
    """After the run, memory holds *text* (or *bytes*, in hexadecimal) at the label *symbol*."""

    symbol: str
    text: str = ""
    bytes: str = ""

    def __post_init__(self) -> None:
        try:
            empty = not self.wanted
        except ValueError:
            raise ValueError(f"bytes of check `{self.name}` are no hexadecimal digits") from None
        if empty:
            raise ValueError(f"check `{self.name}` needs text or bytes")

    @property
    def wanted(self) -> Any:
        """The bytes that must be there."""
        return self.text.encode() if self.text else bytearray.fromhex(self.bytes)

    def look(self, run: Run) -> Finding:
        wanted, gpa = self.wanted, run.symbol(self.symbol)
        expected = f"{quoted(wanted)} at `{self.symbol}`"
        if gpa is None:
            absent = f"no label `{self.symbol}` in the program"
            return Finding(False, expected, absent, [(Mark.MISSING, f"{self.symbol}:")])
        found = run.read(gpa, len(wanted))
        return Finding(found == wanted, expected, quoted(found) if any(found) else "nothing but zeros",
                       list(_byte_lines(gpa, wanted, found)))


def _fits(event: Any, fields: Mapping[str, int | str | bool]) -> bool:
    return all(getattr(event, name, None) == value for name, value in fields.items())


class ExitCheck(Check, frozen=True, tag="exit"):
    """A VM exit for *reason* happened, with these *fields*: of the exit, or of the event that answers it."""

    reason: str
    fields: dict[str, int] = {}

    def look(self, run: Run) -> Finding:
        candidates = [(exit, answer) for exit, answer in _exits(run.happened) if event_name(exit.event) == self.reason]
        wanted = field_words(self.reason, self.fields)
        fitting = [(exit, any(_fits(one.event, self.fields) for one in (exit, answer) if one is not None), answer)
                   for exit, answer in candidates]
        return _among(run, f"an exit {wanted}", fitting, wanted)


class EventCheck(Check, frozen=True, tag="event"):
    """An event of the class *event* (`hv/trace/events.py`) happened, with these *fields*."""

    event: str
    fields: dict[str, int | str | bool] = {}

    def look(self, run: Run) -> Finding:
        candidates = [happening for happening in run.happened if event_name(happening.event) == self.event]
        wanted = field_words(self.event, self.fields)
        fitting = [(one, _fits(one.event, self.fields), None) for one in candidates]
        return _among(run, f"an event {wanted}", fitting, wanted)


class RegisterCheck(Check, frozen=True, tag="register"):
    """When the run ended, the registers of VP 0 had these *values*."""

    values: dict[str, int]

    def look(self, run: Run) -> Finding:
        found = {name: run.register(name) for name in self.values}
        return Finding(found == self.values, _assignments(self.values), _assignments(found),
                       list(_compared([_assignments({n: v}) for n, v in self.values.items()],
                                      [_assignments({n: v}) for n, v in found.items()])))


class SerialCheck(Check, frozen=True, tag="serial"):
    """The serial port printed exactly *text*."""

    text: str

    def look(self, run: Run) -> Finding:
        wanted, found = ([quoted(line.encode()) for line in text.split("\n")] for text in (self.text, run.serial))
        return Finding(run.serial == self.text, f"serial output {quoted(self.text.encode())}",
                       quoted(run.serial.encode()) if run.serial else "no output", list(_compared(wanted, found)))


class EndedCheck(Check, frozen=True, tag="ended"):
    """The VM ended by *how*: halt, shutdown, triple-fault, budget or error."""

    how: str

    def look(self, run: Run) -> Finding:
        details = [run.why] if run.why else []
        if run.ended == "triple-fault":
            details.append(run.ended_at or "outside of the program")
        found = f"{run.ended} ({', '.join(details)})" if details else run.ended
        near = [(Mark.NEAR, line) for line in _trail(run.happened)[-2:] + _left_out(run)]
        end = [(Mark.GOOD, f"ended: {found}")] if run.ended == self.how else \
            [(Mark.BAD, f"ended: {found}"), (Mark.MISSING, f"ended: {self.how}")]
        return Finding(run.ended == self.how, f"the guest to end by {self.how}", found, near + end)


AnyCheck = MemoryCheck | ExitCheck | EventCheck | RegisterCheck | SerialCheck | EndedCheck


def judge_all(checks: Iterable[Check], run: Run) -> list[Finding]:
    """A finding for each check, in order; what needs a check that did not pass waits."""
    findings: dict[str, Finding] = {}
    for check in checks:
        if check.needs and not findings[check.needs].passed:
            findings[check.name] = Finding(False, "", "", [], f"judged when `{check.needs}` passes", True)
        else:
            findings[check.name] = check.judge(run)
    return list(findings.values())


# --- comparing -------------------------------------------------------------------------------------


def _exits(happened: list[Happening]) -> list[tuple[Happening, Happening | None]]:
    """Each VM exit with the event that answers it, which follows it."""
    after = [*happened[1:], None]
    return [(one, None if other is None or is_exit(other.event) else other)
            for one, other in zip(happened, after, strict=True) if is_exit(one.event)]


Candidate = tuple[Happening, bool, Happening | None]      # the event, whether it fits, and what answers it


def _among(run: Run, expected: str, candidates: Sequence[Candidate], wanted: str) -> Finding:
    """One of the candidates must fit. The others of the same kind are BAD, the one that is not there is MISSING."""
    right = [(one, answer) for one, fits, answer in candidates if fits]
    wrong = {id(answer or one) for one, fits, answer in candidates if not fits} if not right else set()
    good = {id(answer or one) for one, answer in right}
    lines: list[Line] = []
    for happening, text in zip(_shown(run.happened), _trail(run.happened), strict=True):
        mark = Mark.GOOD if id(happening) in good else Mark.BAD if id(happening) in wrong else Mark.NEAR
        lines.append((mark, text))
    if not right:
        at = next((n + 1 for n, (mark, _) in enumerate(lines) if mark is Mark.BAD), 0)
        lines.insert(at, (Mark.MISSING, wanted))
    found = "; ".join(dict.fromkeys(event_words((answer or one).event) for one, _, answer in candidates[:3])) or "none"
    unsure = not right and run.left_out > 0
    if unsure:
        found += f" among the first {len(run.happened)} events; {run.left_out} more were not looked at"
    return Finding(bool(right), expected, found, lines + [(Mark.NEAR, line) for line in _left_out(run)], unsure=unsure)


def _left_out(run: Run) -> list[str]:
    return [f"and {run.left_out} events more, not looked at"] if run.left_out else []


def _shown(happened: list[Happening]) -> list[Happening]:
    return [happening for happening in happened if event_words(happening.event)]


def _trail(happened: list[Happening]) -> list[str]:
    """What happened, one line each, with the source line in front."""
    shown = _shown(happened)
    width = max((len(happening.place) for happening in shown), default=0)
    return [f"{happening.place:<{width}}  {event_words(happening.event)}".rstrip() for happening in shown]


def _byte_lines(gpa: int, wanted: Any, found: bytes) -> Iterable[Line]:
    """Memory in groups of four bytes."""
    for at in range(0, len(wanted), GROUP):
        want, have = bytes(wanted[at : at + GROUP]), found[at : at + GROUP]
        if want == have:
            yield Mark.GOOD, _byte_line(gpa + at, have)
        else:
            yield Mark.BAD, _byte_line(gpa + at, have)
            yield Mark.MISSING, _byte_line(gpa + at, want)


def _byte_line(gpa: int, data: bytes) -> str:
    return f"{gpa:#x}  {data.hex(' '):<11}  {quoted(data)}"


def _compared(wanted: list[str], found: list[str]) -> Iterable[Line]:
    """Two texts, line by line."""
    for kind, i, j, k, n in SequenceMatcher(None, wanted, found, autojunk=False).get_opcodes():
        if kind == "equal":
            yield from ((Mark.GOOD, line) for line in wanted[i:j])
        else:
            yield from ((Mark.BAD, line) for line in found[k:n])
            yield from ((Mark.MISSING, line) for line in wanted[i:j])


def _assignments(values: dict[str, int]) -> str:
    return " ".join(f"{name}={number(value)}" for name, value in values.items())

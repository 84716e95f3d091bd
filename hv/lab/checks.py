"""The kinds of check a lab.toml may hold, and what each finds in a run.

A check is data: its kind chooses one of the classes below, its fields are theirs. `judge` compares with what really
happened and answers a `Finding`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from hv.lab.answering import PieceCheck
from hv.lab.comparing import Times, among, compared, event_lines, last_events, whose
from hv.lab.contents import MemoryCheck, RegisterCheck
from hv.lab.finding import ANY, LEARNER, Check, Finding, Happening, Line, Mark, Mistake, Run
from hv.lab.mappings import MapsCheck
from hv.lab.pattern import Fields, Pattern
from hv.lab.questions import AnswerCheck
from hv.lab.recorded import RecordedCheck
from hv.lab.walks import WalkCheck
from hv.lab.words import quoted

__all__ = ["ANY", "LEARNER", "AnyCheck", "Check", "Finding", "Happening", "Line", "Mark", "Mistake", "Run", "judge_all"]

Number = Annotated[int, msgspec.Meta(ge=0)]


class HappenedCheck(Check, frozen=True):
    """What checks about an exit or an event have in common: which, of whom, and how often.

    Without *count*, *at_least*, *at_most* or *never* it must happen once at least.
    """

    fields: Fields = {}
    vm: str = LEARNER
    vp: int | None = None
    count: Number | None = None
    at_least: Number | None = None
    at_most: Number | None = None
    never: bool = False

    def __post_init__(self) -> None:
        if (self.count is not None) + (self.at_least is not None or self.at_most is not None) + self.never > 1:
            raise ValueError(f"check `{self.name}` says twice how often; count, never, or at_least and at_most")
        if self.times.most is not None and self.times.least > self.times.most:
            raise ValueError(f"check `{self.name}`: at_least is more than at_most")
        self.pattern                # noqa: B018  what is wrong with it is said when it is made

    @property
    def pattern(self) -> Pattern:
        """What must happen."""
        raise NotImplementedError

    @property
    def times(self) -> Times:
        """How often."""
        if self.never:
            return Times(0, 0)
        if self.count is not None:
            return Times(self.count, self.count)
        if self.at_least is None and self.at_most is not None:
            return Times(0, self.at_most)
        return Times(1 if self.at_least is None else self.at_least, self.at_most)

    def events(self) -> set[str]:
        return {self.pattern.event} - {""}

    def look(self, run: Run) -> Finding:
        what = "exit" if self.pattern.exit else "event"
        nearest_first = sorted(self.pattern.found(run), key=self.pattern.nearness, reverse=True)
        return among(run, self.vm, self.pattern.words, nearest_first, what, self.times)


class ExitCheck(HappenedCheck, frozen=True, kw_only=True, tag="exit"):
    """A VM exit for *reason* (`any`: whichever) happened, with these *fields*: of the exit, or of what answers it."""

    reason: str

    @property
    def pattern(self) -> Pattern:
        return Pattern(exit=self.reason, fields=self.fields, vm=self.vm, vp=self.vp)


class EventCheck(HappenedCheck, frozen=True, kw_only=True, tag="event"):
    """An event of the class *event* (`hv/trace/events.py`) happened, with these *fields*."""

    event: str

    @property
    def pattern(self) -> Pattern:
        return Pattern(event=self.event, fields=self.fields, vm=self.vm, vp=self.vp)


class OrderCheck(Check, frozen=True, tag="order"):
    """These *steps* happened one after the other, whatever else happened in between."""

    steps: Annotated[list[Pattern], msgspec.Meta(min_length=2)]

    def vms(self) -> set[str]:
        return {step.vm for step in self.steps}

    def events(self) -> set[str]:
        return {step.event for step in self.steps} - {""}

    def look(self, run: Run) -> Finding:
        vm = self.steps[0].vm if len(self.vms()) == 1 else ANY
        expected = ", then ".join(step.words for step in self.steps)
        after = -1
        last: int | None = None
        marks: dict[int, Mark] = {}
        places = {id(one): at for at, one in enumerate(run.happened)}
        for n, step in enumerate(self.steps):
            fitting = [(one, answer) for one, fits, answer in step.found(run) if fits]
            later = next(((one, answer) for one, answer in fitting if places[id(one)] > after), None)
            if later is None:
                return self._lacks(run, vm, expected, n, [answer or one for one, answer in fitting], marks, last)
            after, last = places[id(later[0])], id(later[1] or later[0])
            marks[last] = Mark.GOOD
        return Finding(True, expected, expected, event_lines(run, vm, marks))

    def _lacks(self, run: Run, vm: str, expected: str, n: int, early: list[Happening], marks: dict[int, Mark],
               last: int | None) -> Finding:
        """Step *n* did not follow; *early* is where it happened too early."""
        step, before = self.steps[n], self.steps[n - 1]
        found = f"no {step.words}" + (f" after {before.words}" if n else "")
        if early and n:
            found = f"{step.words} only before {before.words}"
        marks = {**{id(one): Mark.BAD for one in early}, **marks}
        left_out = run.left_out(vm)
        if left_out:
            found += f"; {left_out} events more were not looked at"
        return Finding(False, expected, found, event_lines(run, vm, marks, step.words, last), unsure=bool(left_out))


class SerialCheck(Check, frozen=True, tag="serial"):
    """The serial port printed exactly *text*."""

    text: str
    vm: str = LEARNER

    @property
    def about(self) -> str:
        return f"on the serial port{whose(self.vm)}"

    def look(self, run: Run) -> Finding:
        serial = run.serial(self.vm)
        wanted, found = ([quoted(line.encode()) for line in text.split("\n")] for text in (self.text, serial))
        return Finding(serial == self.text, f"serial output {quoted(self.text.encode())}{whose(self.vm)}",
                       quoted(serial.encode()) if serial else "no output", list(compared(wanted, found)))


class EndedCheck(Check, frozen=True, tag="ended"):
    """The VM ended by *how*: halt, shutdown, triple-fault, budget, error or destroyed."""

    how: Literal["halt", "shutdown", "triple-fault", "budget", "error", "destroyed"]
    vm: str = LEARNER

    def look(self, run: Run) -> Finding:
        how, why, place = run.ended(self.vm)
        details = [why] if why else []
        if how == "triple-fault":
            details.append(place or "outside of the program")
        found = f"{how} ({', '.join(details)})" if details else how
        near = [(Mark.NEAR, line) for line in last_events(run, self.vm, 2)]
        end = [(Mark.GOOD, f"ended: {found}")] if how == self.how else \
            [(Mark.BAD, f"ended: {found}"), (Mark.MISSING, f"ended: {self.how}")]
        guest = "the guest" if self.vm == LEARNER else self.vm
        return Finding(how == self.how, f"{guest} to end by {self.how}", found, near + end)


class WorkCheck(Check, frozen=True, tag="work"):
    """The VM left its guest at most *exits* times; the run took at most *ticks* of the 2 GHz counter."""

    exits: Number | None = None
    ticks: Number | None = None
    vm: str = LEARNER

    def __post_init__(self) -> None:
        if self.exits is None and self.ticks is None:
            raise ValueError(f"check `{self.name}` needs exits or ticks")

    def look(self, run: Run) -> Finding:
        used = dict(zip(("exits", "ticks"), run.work(self.vm), strict=True))
        limits = {name: limit for name in used if (limit := getattr(self, name)) is not None}
        wanted = [f"at most {limit} {name}{whose(self.vm)}" for name, limit in limits.items()]
        found = [f"{used[name]} {name}" for name in limits]
        passed = all(used[name] <= limit for name, limit in limits.items())
        lines = [line for name, want, have in zip(limits, wanted, found, strict=True) for line in
                 ([(Mark.GOOD, have)] if used[name] <= limits[name] else [(Mark.BAD, have), (Mark.MISSING, want)])]
        return Finding(passed, " and ".join(wanted), " and ".join(found), lines)


AnyCheck = (MemoryCheck | ExitCheck | EventCheck | OrderCheck | RegisterCheck | MapsCheck | SerialCheck | EndedCheck
            | RecordedCheck | WorkCheck | AnswerCheck | WalkCheck | PieceCheck)


def judge_all(checks: Iterable[Check], run: Run) -> list[Finding]:
    """A finding for each check, in order; what needs a check that did not pass waits."""
    findings: dict[str, Finding] = {}
    for check in checks:
        if check.needs and not findings[check.needs].passed:
            findings[check.name] = Finding(False, "", "", [], f"judged when `{check.needs}` passes", True)
        else:
            findings[check.name] = check.judge(run)
    return list(findings.values())

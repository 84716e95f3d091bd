"""The kinds of check a lab.toml may hold, and what each finds in a run.

A check is data: its kind chooses one of the classes below, its fields are theirs. `judge` compares with what really
happened and answers a `Finding`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec

from hv.debug.numbers import REGISTERS
from hv.lab.answering import PieceCheck
from hv.lab.comparing import (
    Times,
    among,
    assignments,
    byte_lines,
    compared,
    event_lines,
    last_events,
    whose,
)
from hv.lab.finding import ANY, LEARNER, Check, Finding, Happening, Line, Mark, Mistake, Run
from hv.lab.pattern import Fields, Pattern
from hv.lab.questions import AnswerCheck
from hv.lab.walks import WalkCheck
from hv.lab.words import number, quoted

__all__ = ["ANY", "LEARNER", "AnyCheck", "Check", "Finding", "Happening", "Line", "Mark", "Mistake", "Run", "judge_all"]

Size = Literal[1, 2, 4, 8]
Number = Annotated[int, msgspec.Meta(ge=0)]


_from_hex = bytes.fromhex       # the check below has a field of that name


class MemoryCheck(Check, frozen=True, tag="memory"):
    """After the run, memory holds *text*, *bytes* (hexadecimal) or *value* (of *size* bytes) at *symbol*, or at *gpa*.

    *offset* bytes behind it, if given. *vm* is whose memory and whose label.
    """

    symbol: str = ""
    gpa: Number | None = None
    offset: int = 0
    text: str = ""
    bytes: str = ""
    value: Number | None = None
    size: Size = 8
    vm: str = LEARNER

    def __post_init__(self) -> None:
        try:
            empty = not self.wanted
        except ValueError:
            raise ValueError(f"bytes of check `{self.name}` are no hexadecimal digits") from None
        except OverflowError:
            raise ValueError(f"value of check `{self.name}` is larger than {self.size} bytes") from None
        if empty:
            raise ValueError(f"check `{self.name}` needs text or bytes, or a value")
        if bool(self.symbol) == (self.gpa is not None):
            raise ValueError(f"check `{self.name}` needs a symbol, or a gpa")

    @property
    def wanted(self) -> Any:
        """The bytes that must be there."""
        if self.value is not None:
            return self.value.to_bytes(self.size, "little")
        return self.text.encode() if self.text else _from_hex(self.bytes)

    @property
    def where(self) -> str:
        """`signature` + 8."""
        place = f"`{self.symbol}`" if self.gpa is None else f"{self.gpa:#x}"
        return (f"{place} + {number(self.offset)}" if self.offset else place) + whose(self.vm)

    def look(self, run: Run) -> Finding:
        wanted, gpa = self.wanted, run.symbol(self.vm, self.symbol) if self.gpa is None else self.gpa
        expected = f"{self._words(wanted)} at {self.where}"
        if gpa is None:
            absent = f"no label `{self.symbol}` in the program"
            return Finding(False, expected, absent, [(Mark.MISSING, f"{self.symbol}:")])
        found = run.read(self.vm, gpa + self.offset, len(wanted))
        return Finding(found == wanted, expected, self._words(found) if any(found) else "nothing but zeros",
                       list(byte_lines(gpa + self.offset, wanted, found)))

    def _words(self, data: Any) -> str:
        return quoted(data) if self.value is None else number(int.from_bytes(data, "little"))


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
        return among(run, self.vm, self.pattern.words, self.pattern.found(run), what, self.times)


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


class RegisterCheck(Check, frozen=True, tag="register"):
    """When the run ended, the registers of VP *vp* had these *values*."""

    values: dict[str, int]
    vm: str = LEARNER
    vp: Number = 0

    def __post_init__(self) -> None:
        for name in self.values:
            if name not in REGISTERS:
                raise ValueError(f"`{name}` of check `{self.name}` is no register; expected {', '.join(REGISTERS)}")

    def look(self, run: Run) -> Finding:
        found = {name: run.register(self.vm, self.vp, name) for name in self.values}
        return Finding(found == self.values, assignments(self.values) + whose(self.vm, self.vp), assignments(found),
                       list(compared([assignments({n: v}) for n, v in self.values.items()],
                                     [assignments({n: v}) for n, v in found.items()])))


class SerialCheck(Check, frozen=True, tag="serial"):
    """The serial port printed exactly *text*."""

    text: str
    vm: str = LEARNER

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


AnyCheck = (MemoryCheck | ExitCheck | EventCheck | OrderCheck | RegisterCheck | SerialCheck | EndedCheck | WorkCheck
            | AnswerCheck | WalkCheck | PieceCheck)


def judge_all(checks: Iterable[Check], run: Run) -> list[Finding]:
    """A finding for each check, in order; what needs a check that did not pass waits."""
    findings: dict[str, Finding] = {}
    for check in checks:
        if check.needs and not findings[check.needs].passed:
            findings[check.name] = Finding(False, "", "", [], f"judged when `{check.needs}` passes", True)
        else:
            findings[check.name] = check.judge(run)
    return list(findings.values())

"""Questions about a run, and where their answers come from: what the machine really did, never a second copy of it.

    [[checks]]
    kind = "answer"
    name = "how many exits"
    question = "exits"                  # the learner's file says `exits = 3`
    truth = { of = "count", exit = "any" }

A wrong answer is not told the right one: only that the machine does something else, or the author's words about it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec

from hv.debug.numbers import REGISTERS
from hv.lab.faults import FAULTS
from hv.lab.finding import LEARNER, Check, Finding, Happening, Line, Mark, Mistake, Run
from hv.lab.pattern import Pattern
from hv.lab.words import NAMED_FIELDS, event_name, number

Nth = Annotated[int, msgspec.Meta(ge=1)]
UNANSWERED = ("", "?")
_POSITION = re.compile(r"[Ee](\d{1,15})(?:[:+]\d+)?$")
_MACHINE = "what the machine does"


class Truth(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, tag_field="of"):
    """Where an answer comes from. *vm* is whose."""

    vm: str = LEARNER

    def of(self, run: Run) -> Any:
        """The answer; None when the run has none, which is a mistake of the exercise."""
        raise NotImplementedError

    def is_same(self, answer: Any, truth: Any) -> bool:
        """*answer* says *truth*."""
        return bool(plain(answer) == plain(truth))

    def names(self) -> list[str]:
        """The answers there are to choose from; empty when any may be given."""
        return []


class _Selects(Truth, frozen=True):
    """Some events or exits, as in a `Pattern`."""

    event: str = ""
    exit: str = ""
    fields: dict[str, int | str | bool] = {}
    vp: int | None = None

    def __post_init__(self) -> None:
        self.pattern                # noqa: B018  what is wrong with it is said when it is made

    @property
    def pattern(self) -> Pattern:
        """Which are meant."""
        return Pattern(event=self.event, exit=self.exit, fields={**self.fields}, vm=self.vm, vp=self.vp)

    def found(self, run: Run) -> list[tuple[Happening, Happening | None]]:
        """Those that happened, each with what answers it."""
        return [(one, answer) for one, fits, answer in self.pattern.found(run) if fits]


class Count(_Selects, frozen=True, tag="count"):
    """How many happened."""

    def of(self, run: Run) -> Any:
        return None if run.left_out(self.vm) else len(self.found(run))


class Field(_Selects, frozen=True, kw_only=True, tag="field"):
    """What *field* of the *nth* one is; of an exit also `reason`, its name. A name of the number is right too."""

    field: str
    nth: Nth = 1

    def of(self, run: Run) -> Any:
        found = self.found(run)
        if self.nth > len(found):
            return None
        event, answer = found[self.nth - 1]
        if self.field == "reason" and self.exit:
            return event_name(event.event)
        value = getattr(event.event, self.field, None)
        return getattr(answer.event, self.field, None) if value is None and answer is not None else value

    def is_same(self, answer: Any, truth: Any) -> bool:
        names = NAMED_FIELDS.get(self.field)
        if names is not None and isinstance(answer, str) and answer.upper() in names.__members__:
            answer = int(names[answer.upper()])
        return bool(plain(answer) == plain(truth))


class Place(_Selects, frozen=True, tag="place"):
    """The source line of the *nth* one: `27`."""

    nth: Nth = 1

    def of(self, run: Run) -> Any:
        found = self.found(run)
        place = found[self.nth - 1][0].place if self.nth <= len(found) else ""
        return int(place.rpartition(":")[2]) if place else None


class Memory(Truth, frozen=True, tag="memory"):
    """The number of *size* bytes at the label *symbol*, *offset* bytes behind it."""

    symbol: str
    offset: int = 0
    size: Literal[1, 2, 4, 8] = 8

    def of(self, run: Run) -> Any:
        gpa = run.symbol(self.vm, self.symbol)
        return None if gpa is None else int.from_bytes(run.read(self.vm, gpa + self.offset, self.size), "little")


class Register(Truth, frozen=True, tag="register"):
    """What a register of VP *vp* was when the run ended."""

    register: str
    vp: Annotated[int, msgspec.Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.register not in REGISTERS:
            raise ValueError(f"`{self.register}` is no register; expected {', '.join(REGISTERS)}")

    def of(self, run: Run) -> Any:
        return run.register(self.vm, self.vp, self.register)


class Ended(Truth, frozen=True, tag="ended"):
    """How the VM ended."""

    def of(self, run: Run) -> Any:
        return run.ended(self.vm)[0]


class Serial(Truth, frozen=True, tag="serial"):
    """What the VM printed."""

    def of(self, run: Run) -> Any:
        return run.serial(self.vm)


class Option(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One of several answers. It is right when *when* happened, and no option before it is."""

    name: str
    says: str
    when: Pattern | None = None


class Choice(Truth, frozen=True, tag="choice"):
    """One of the *options*; the last may be without `when`: right if no other is."""

    options: Annotated[list[Option], msgspec.Meta(min_length=2)]

    def __post_init__(self) -> None:
        names = [plain(option.name) for option in self.options]
        if len(set(names)) < len(names):
            raise ValueError("two options have the same name")
        if any(option.when is None for option in self.options[:-1]):
            raise ValueError("only the last option may be without `when`")

    def names(self) -> list[str]:
        return [option.name for option in self.options]

    def of(self, run: Run) -> Any:
        return next((option.name for option in self.options if option.when is None
                     or any(fits for _, fits, _ in option.when.found(run))), None)


class InjectedFault(Truth, frozen=True, tag="fault"):
    """The bug of this machine (`faults.py`): its *name*, the *position* of the exit where it first acts, or the *line*.

    A position is the number of a VM exit, counted over all VMs from 1: `E7`, or 7.
    """

    asks: Literal["name", "position", "line"] = "name"

    def names(self) -> list[str]:
        return sorted(FAULTS) if self.asks == "name" else []

    def of(self, run: Run) -> Any:
        name, position, place = run.fault
        if self.asks == "name" or not position:
            return name if position else None
        return position if self.asks == "position" else int(place.rpartition(":")[2] or 0)

    def is_same(self, answer: Any, truth: Any) -> bool:
        if self.asks == "position" and isinstance(answer, str):
            exit = _POSITION.match(answer.strip())
            answer = int(exit[1]) if exit is not None else answer
        return bool(plain(answer) == plain(truth))


AnyTruth = Count | Field | Place | Memory | Register | Ended | Serial | Choice | InjectedFault


class AnswerCheck(Check, frozen=True, tag="answer"):
    """The learner's answer to *question* is what the machine does."""

    question: str
    truth: AnyTruth

    def vms(self) -> set[str]:
        return {self.truth.vm}

    def events(self) -> set[str]:
        named = {getattr(self.truth, "event", "")}
        if isinstance(self.truth, Choice):
            named |= {option.when.event for option in self.truth.options if option.when is not None}
        return named - {""}

    def look(self, run: Run) -> Finding:
        truth, answer = self.truth.of(run), run.answers.get(self.question)
        if truth is None:
            raise ValueError(f"the run has no answer to `{self.question}`: that is a mistake of the exercise")
        expected = f"{_MACHINE}, as `{self.question}`"
        if answer is None or (isinstance(answer, str) and answer.strip() in UNANSWERED):
            return Finding(False, f"an answer to `{self.question}`", "no answer yet", self._lines("?"))
        if not isinstance(answer, int | str) or isinstance(answer, bool):
            return Finding(False, f"a number or a word as `{self.question}`", "something else", self._lines("..."))
        passed = self.truth.is_same(answer, truth)
        names = self.truth.names()
        if names and plain(answer) not in map(plain, names):
            return Finding(False, f"{' or '.join(names)} as `{self.question}`", shown(answer), self._lines(answer))
        return Finding(passed, expected, shown(answer), self._lines(answer))

    def judge(self, run: Run) -> Finding:
        seen = super().judge(run)
        if seen.message.startswith(f"expected {_MACHINE}"):
            return replace(seen, message=f"`{self.question} = {seen.found}` is not what the machine does")
        return seen

    def is_mistake(self, mistake: Mistake, seen: Finding) -> bool:
        return bool(plain(mistake.found) == plain(seen.found))

    def _lines(self, answer: Any) -> list[Line]:
        return [(Mark.BAD, f"{self.question} = {shown(answer)}")]


def plain(value: Any) -> Any:
    """An answer without what does not matter: numbers as numbers, words without case, `-` for `_` and spaces."""
    if isinstance(value, int):
        return int(value)
    text = str(value).strip()
    try:
        return int(text, 0)
    except ValueError:
        return text.casefold().replace("_", "-").replace(" ", "-")


def shown(answer: Any) -> str:
    """An answer as it is told."""
    return number(answer) if isinstance(answer, int) else str(answer)

"""Questions about a run, and where their answers come from: what the machine really did, never a second copy of it.

    [[checks]]
    kind = "answer"
    name = "how many exits"
    question = "exits"                  # the learner's file says `exits = 3`
    truth = { of = "count", exit = "any" }

A wrong answer is not told the right one: only that the machine does something else, or the author's words about it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hv.lab.finding import Check, Finding, Line, Mark, Mistake, Run
from hv.lab.truths import AnyTruth, Choice, plain
from hv.lab.words import number

UNANSWERED = ("", "?")
_MACHINE = "what the machine does"


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


def shown(answer: Any) -> str:
    """An answer as it is told."""
    return number(answer) if isinstance(answer, int) else str(answer)

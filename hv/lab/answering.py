"""The check of a learner's handlers: whenever the machine asked one, it got an answer that can be carried out."""

from __future__ import annotations

from hv.lab.comparing import last_events
from hv.lab.finding import LEARNER, Check, Finding, Line, Mark, Run


class PieceCheck(Check, frozen=True, tag="piece"):
    """No call of the learner's functions raised, ran on for ever, or answered what is no answer."""

    def look(self, run: Run) -> Finding:
        expected = "an answer to everything that was asked"
        failure = run.failure
        if failure is None:
            return Finding(True, expected, expected)
        lines: list[Line] = [(Mark.NEAR, line) for line in last_events(run, LEARNER, 3)]
        lines.append((Mark.BAD, f"E{failure.position}  {failure.asked}: {failure.words}"))
        return Finding(False, expected, f"{failure.words} (at E{failure.position}, {failure.asked})", lines)

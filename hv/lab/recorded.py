"""A check that a program wrote down what really happened: its memory against the machine's own record.

    [[checks]]
    kind = "recorded"
    name = "the time of the first message"
    symbol = "time"
    truth = { of = "field", event = "SyntheticTimerExpired", field = "expiration" }

A program that only fills its memory has to know this number too, and it is another one in a run that goes another way.
"""

from __future__ import annotations

from typing import Literal

from hv.lab.comparing import whose
from hv.lab.finding import LEARNER, Check, Finding, Mark, Run
from hv.lab.truths import Count, Field, Register
from hv.lab.words import number

Recorded = Count | Field | Register


class RecordedCheck(Check, frozen=True, kw_only=True, tag="recorded"):
    """After the run the number of *size* bytes at *symbol*, *offset* bytes behind it, is what *truth* finds."""

    symbol: str
    truth: Recorded
    offset: int = 0
    size: Literal[1, 2, 4, 8] = 8
    vm: str = LEARNER

    def vms(self) -> set[str]:
        return {self.vm, self.truth.vm}

    def events(self) -> set[str]:
        return {getattr(self.truth, "event", "")} - {""}

    def look(self, run: Run) -> Finding:
        truth, gpa = self.truth.of(run), run.symbol(self.vm, self.symbol)
        where = f"`{self.symbol}`" + (f" + {number(self.offset)}" if self.offset else "") + whose(self.vm)
        if gpa is None:
            return Finding(False, f"a number at {where}", f"no label `{self.symbol}` in the program")
        found = int.from_bytes(run.read(self.vm, gpa + self.offset, self.size), "little")
        if not isinstance(truth, int):
            return Finding(False, f"what the machine recorded at {where}", "nothing of the kind recorded")
        lines = [(Mark.GOOD if found == truth else Mark.BAD, f"{where}: {number(found)}")]
        if found != truth:
            lines.append((Mark.MISSING, f"{where}: {number(int(truth))}"))
        return Finding(found == truth, f"{number(int(truth))} at {where}, which is what happened",
                       number(found) if found else "nothing but zeros", lines)

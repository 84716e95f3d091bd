"""What the calls of a campaign were answered: the table that says how deep a fuzz goes.

A call that is always refused proves little of what is behind its first checks. So there is a row for each call that is
built, the seldom accepted first; its refusals come in order of number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.spec.hv_status import HvStatus

SELDOM_PERCENT = 1.0                    # a row below this is marked
_SUCCESS = HvStatus.SUCCESS.name
NOT_THERE = "a call that is not there"


class Row(NamedTuple):
    """One call: how often it was made and accepted, and what else it was answered."""

    name: str
    made: int
    accepted: int
    refused: list[tuple[str, int]]

    @property
    def percent(self) -> float:
        """Accepted of those made; 0 of none."""
        return 100 * self.accepted / self.made if self.made else 0.0

    def __str__(self) -> str:
        mark = "!" if self.percent < SELDOM_PERCENT else " "
        refused = ", ".join(f"{status} {number}" for status, number in self.refused)
        return f"{mark} {self.name:34}{self.made:9}{self.accepted:9}{self.percent:7.1f} %  {refused}"


class Answers:
    """Counts (name of a call, status)."""

    def __init__(self) -> None:
        self._counted: Counter[tuple[str, str]] = Counter()

    def add(self, code: int, status: int) -> None:
        """One call of *code* had its answer; ValueError for a status that does not exist."""
        name = HYPERCALLS[code].code.name if code in HYPERCALLS else NOT_THERE
        self._counted[name, HvStatus(status).name] += 1

    def update(self, other: Answers) -> None:
        """Count what *other* has counted, too."""
        self._counted.update(other._counted)

    def rows(self) -> list[Row]:
        """A row for each call that is built, the seldom accepted first."""
        rows = [self._row(declaration.code.name) for declaration in HYPERCALLS.values()]
        return sorted(rows, key=lambda row: (row.percent, row.name))

    def _row(self, name: str) -> Row:
        counts = {status: number for (call, status), number in self._counted.items() if call == name}
        accepted = counts.pop(_SUCCESS, 0)
        refused = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return Row(name, accepted + sum(counts.values()), accepted, refused)

    def lines(self) -> Iterable[str]:
        """The table, and the sum of each status."""
        yield f"  {'hypercall':34}{'made':>9}{'accepted':>18}  refused"
        yield from map(str, self.rows())
        yield ""
        sums: Counter[str] = Counter()
        for (_, status), number in self._counted.items():
            sums[status] += number
        yield from (f"{number:11} {status}" for status, number in sorted(sums.items(), key=lambda item: -item[1]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answers) and self._counted == other._counted

    __hash__ = None  # type: ignore[assignment]  it changes

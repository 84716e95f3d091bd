"""Why a VM entry fails: every rule that does not hold, not only the first that the processor would meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hv.spec.vmcs import VmcsField
from hv.vmx.checks.mending import mended
from hv.vmx.checks.outcome import Failure
from hv.vmx.checks.rule import RULES, Broken, Entry, Rule
from hv.vmx.checks.without_rules import controls_without_rules
from hv.vmx.checks.words import decoded


@dataclass(frozen=True, slots=True)
class Explanation:
    """What VM entry makes of *entry*. *failures* are in the manual's order: the processor meets the first.

    *unchecked* are rules that read memory where there is none. *assumed* are the fields whose value is none of the
    user's. *mended* are the changes, as few as were found, after which the guest is entered; None when there are no
    such.
    """

    entry: Entry
    failures: tuple[Failure, ...]
    unchecked: tuple[Rule, ...]
    assumed: tuple[VmcsField, ...] = ()
    mended: Mapping[VmcsField, int] | None = None

    @property
    def entered(self) -> bool:
        """Entry would succeed, as far as it could be checked."""
        return not self.failures

    @property
    def without_rules(self) -> tuple[str, ...]:
        """Controls that are 1, and whose rules of the manual are not among ours."""
        return controls_without_rules(self.entry)

    @property
    def outcome(self) -> str:
        """`entered`, `VMfail 7`, or `VM exit 33, qualification 0`."""
        return self.failures[0].words if self.failures else "entered"

    def as_list(self) -> list[dict[str, Any]]:
        """One object for each failure, plain data for JSON: numbers of fields are hexadecimal strings."""
        return [self._as_object(failure) for failure in self.failures]

    def inspect(self) -> dict[str, Any]:
        """All of it, plain data."""
        values = self.entry.values
        return {
            "outcome": self.outcome, "failures": self.as_list(),
            "unchecked": [rule.id for rule in self.unchecked], "without_rules": list(self.without_rules),
            "mended": None if self.mended is None else _shown(self.mended),
            "assumed": {field.name: hex(values[field]) for field in self.assumed},
        }

    def _as_object(self, failure: Failure) -> dict[str, Any]:
        rule, broken, values = failure.rule, failure.broken, self.entry.values
        return {
            "rule": rule.id, "outcome": failure.words, "group": rule.group.value,
            "fields": [field.name for field in rule.fields],
            "values": {field.name: hex(values[field]) for field in rule.reads},
            "decoded": {field.name: words for field in rule.reads if (words := decoded(field, values[field]))},
            "found": broken.found, "required": broken.required, "text": rule.text, "heading": rule.heading,
            "fix": _shown(broken.fix), "assumed": [field.name for field in rule.reads if field in self.assumed],
        }


def _shown(values: Mapping[VmcsField, int]) -> dict[str, str]:
    return {field.name: hex(value) for field, value in values.items()}


def explain(entry: Entry, assumed: tuple[VmcsField, ...] = ()) -> Explanation:
    """Check *entry* by every rule; *assumed* says which of its fields nobody gave."""
    failures, unchecked = [], []
    for rule in RULES:
        finding = rule.check(entry)
        if isinstance(finding, Broken):
            failures.append(Failure(rule, finding))
        elif finding is not None:
            unchecked.append(rule)
    return Explanation(entry, tuple(failures), tuple(unchecked), assumed, mended(entry) if failures else None)

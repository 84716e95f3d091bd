"""Why a VM entry fails: every rule that does not hold, not only the first that the processor would meet."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from hv.spec.exits import ENTRY_FAILURES, ExitReason, ExitReasonField
from hv.spec.msrs import Msr
from hv.spec.vmcs import VmcsField
from hv.vmx.checks.mending import mended
from hv.vmx.checks.outcome import Failure
from hv.vmx.checks.rule import RULES, Broken, Entry, Rule
from hv.vmx.checks.without_rules import controls_without_rules
from hv.vmx.checks.words import decoded

_REASON, _QUALIFICATION, _ERROR = VmcsField.EXIT_REASON, VmcsField.EXIT_QUALIFICATION, VmcsField.VM_INSTRUCTION_ERROR
_GUEST_STATE = ExitReason.ENTRY_FAILURE_GUEST_STATE
_NOT_BY_RULE = ENTRY_FAILURES - {_GUEST_STATE}
_ENTRY_ERRORS = (7, 8)


class _Watched(UserDict[int, int]):
    """Capability MSRs that know which of them were asked."""

    def __init__(self, msrs: Mapping[int, int]) -> None:
        super().__init__(msrs)
        self.asked: set[int] = set()

    def __getitem__(self, index: int) -> int:
        self.asked.add(index)
        return super().__getitem__(index)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What VM entry makes of *entry*. *failures* are in the manual's order: the processor meets the first.

    *unchecked* are rules that read memory where there is none. *assumed* are the fields whose value is none of the
    user's, and *asked* the capability MSRs of that kind, by the id of the failing rule that asked them. *mended* are
    the changes, as few as were found, after which the guest is entered; None when there are no such.
    """

    entry: Entry
    failures: tuple[Failure, ...]
    unchecked: tuple[Rule, ...]
    assumed: tuple[VmcsField, ...] = ()
    mended: Mapping[VmcsField, int] | None = None
    asked: Mapping[str, tuple[Msr, ...]] = field(default_factory=dict)

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

    @property
    def contradiction(self) -> str:
        """What a VMCS that was written down reports of its last entry, when that is not *outcome*; "" else.

        A qualification of 0 may just not have been written down.
        """
        values = self.entry.values
        reason, qualification = ExitReasonField(values[_REASON]), values[_QUALIFICATION]
        seen = []
        if reason.entry_failure and reason.basic == _GUEST_STATE:
            seen.append(f"VM exit 33, qualification {qualification}" if qualification else "VM exit 33")
        elif reason.entry_failure and reason.basic in _NOT_BY_RULE:
            seen.append(f"VM exit {reason.basic}")
        if values[_ERROR] in _ENTRY_ERRORS:
            seen.append(f"VMfail {values[_ERROR]}")
        if not self.assumed or any(self.outcome.startswith(words) for words in seen):
            return ""
        return " or ".join(seen)

    def as_list(self) -> list[dict[str, Any]]:
        """One object for each failure, plain data for JSON: numbers of fields are hexadecimal strings."""
        return [self._as_object(failure) for failure in self.failures]

    def inspect(self) -> dict[str, Any]:
        """All of it, plain data."""
        values = self.entry.values
        return {
            "outcome": self.outcome, "contradicts": self.contradiction or None, "failures": self.as_list(),
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
            "fix": _shown(broken.fix), "assumed": [field.name for field in rule.reads if field in self.assumed]
            + [f"IA32_{msr.name}" for msr in self.asked.get(rule.id, ())],
        }


def _shown(values: Mapping[VmcsField, int]) -> dict[str, str]:
    return {field.name: hex(value) for field, value in values.items()}


def explain(entry: Entry, assumed: tuple[VmcsField, ...] = (),
            assumed_msrs: Collection[int] = frozenset()) -> Explanation:
    """Check *entry* by every rule; *assumed* says which of its fields nobody gave, and *assumed_msrs* which MSRs."""
    failures, unchecked, asked = [], [], {}
    watched = entry.with_values({})
    watched.msrs = msrs = _Watched(entry.msrs)
    for rule in RULES:
        msrs.asked.clear()
        finding = rule.check(watched)
        if isinstance(finding, Broken):
            failures.append(Failure(rule, finding))
            asked[rule.id] = tuple(Msr(index) for index in sorted(msrs.asked & set(assumed_msrs)))
        elif finding is not None:
            unchecked.append(rule)
    return Explanation(entry, tuple(failures), tuple(unchecked), assumed, mended(entry) if failures else None, asked)

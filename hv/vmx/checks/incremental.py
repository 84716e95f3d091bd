"""The checks of a processor that enters the same VMCS again and again: only what can have changed is checked again.

A rule names every field it reads, so it need not run while none of them was written since it held. Guest state is also
written by a guest, and by software that writes registers; that one says so, and all rules about guest state run. A
guest cannot bring itself into a state that entry refuses, but by what the engine does not check (`docs/guests.md`).
"""

from __future__ import annotations

from collections.abc import Iterable

from hv.spec.vmcs import FieldKind, VmcsField
from hv.vmx.checks.outcome import EntryResult, entry_result
from hv.vmx.checks.rule import RULES, Entry, Rule


def _by_field() -> dict[VmcsField, tuple[int, ...]]:
    found: dict[VmcsField, list[int]] = {}
    for number, rule in enumerate(RULES):
        for field in rule.reads:
            found.setdefault(field, []).append(number)
    return {field: tuple(numbers) for field, numbers in found.items()}


_BY_FIELD = _by_field()
_OF_GUEST_STATE = tuple(rule for rule in RULES if any(field.kind is FieldKind.GUEST_STATE for field in rule.reads))
_OF_MEMORY = tuple(number for number, rule in enumerate(RULES) if rule.reads_memory)


class EntryChecks:
    """Which rules are due for one VMCS. *count* says how many were run since it was made."""

    def __init__(self) -> None:
        self.count = 0
        self._everything = True                 # nothing was checked yet, or the last attempt failed
        self._memory_matters = False

    def due(self, written: Iterable[VmcsField], guest_state: bool = False) -> tuple[Rule, ...]:
        """The rules to run, in the manual's order, when the fields *written* were, and (by software) guest state.

        What a rule found in memory may be different without any write to the VMCS.
        """
        if self._everything:
            return tuple(RULES)
        numbers = {number for field in written for number in _BY_FIELD.get(field, ())}
        if self._memory_matters:
            numbers.update(_OF_MEMORY)
        if not guest_state:
            return tuple(RULES[number] for number in sorted(numbers))
        if not numbers:
            return _OF_GUEST_STATE
        chosen = {RULES[number].id for number in numbers} | {rule.id for rule in _OF_GUEST_STATE}
        return tuple(rule for rule in RULES if rule.id in chosen)

    def check(self, entry: Entry, rules: tuple[Rule, ...]) -> EntryResult:
        """Run *rules*, which `due` gave; the result is that of all of them."""
        self.count += len(rules)
        result = entry_result(entry, rules)
        self._everything = not result.entered
        self._memory_matters = entry.memory_was_read or (self._memory_matters and not self._everything)
        return result

"""What to change in a VMCS so that the guest is entered: the fewest fields, and of them the fewest bits.

One bit that was forgotten breaks several rules, and each would mend a field of its own: without "IA-32e mode guest",
IA32_EFER and RIP of a 64-bit guest are wrong. So the usual oversights are tried before the rules are mended one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hv.spec.vmcs import EntryControls, SecondaryControls, VmcsField
from hv.spec.x86 import Cr0
from hv.vmx.checks.outcome import entry_result
from hv.vmx.checks.rule import ENTRY, GUEST_CR0, SECONDARY, Entry

Changes = dict[VmcsField, int]
_MOST_STEPS = 200               # each mends a rule, and may break one
_IA32E = EntryControls.IA32E_MODE_GUEST.value
_EPT, _UNRESTRICTED = SecondaryControls.ENABLE_EPT.value, SecondaryControls.UNRESTRICTED_GUEST.value
_PE_PG = int(Cr0.PE | Cr0.PG)
_RIGHTS = tuple(field for field in VmcsField if field.name.endswith("_ACCESS_RIGHTS"))
_LAR, _KEPT = 0x00FF_FF00, 0xF0FF   # LAR gives the rights 8 bits further left, and 4 undefined bits amid them


def mended(entry: Entry) -> Changes | None:
    """The fields to change so that *entry* succeeds; None when no such change is found."""
    chosen: Changes = {}
    best = _rule_by_rule(entry, chosen)
    for oversight in _oversights(entry):
        meant = chosen | oversight
        tried = _rule_by_rule(entry, meant)
        if tried is not None and (best is None or _size(entry, tried, meant) < _size(entry, best, chosen)):
            chosen, best = meant, tried
    return best


def _rule_by_rule(entry: Entry, first: Mapping[VmcsField, int]) -> Changes | None:
    """*first*, and then the smallest change of each rule that does not hold, but what a later one made needless; None
    when that leads nowhere."""
    changes = dict(first)
    for _ in range(_MOST_STEPS):
        failure = entry_result(entry.with_values(changes)).failure
        if failure is None:
            return _needed(entry, changes)
        if not failure.broken.fix:
            return None
        changes |= failure.broken.fix
    return None


def _needed(entry: Entry, changes: Changes) -> Changes:
    """As few of *changes* as still do: the last ones, since a cause may be found late; of these each that must be."""
    fields = tuple(changes)
    for start in reversed(range(len(fields))):
        last = {field: changes[field] for field in fields[start:]}
        if entry_result(entry.with_values(last)).entered:
            changes = last
            break
    for left_out in tuple(changes):
        fewer = {field: value for field, value in changes.items() if field is not left_out}
        if entry_result(entry.with_values(fewer)).entered:
            changes = fewer
    return changes


def _size(entry: Entry, changes: Changes, meant: Changes) -> tuple[int, int]:
    """Fields, and bits; what makes up for an oversight is one thing, however many bits it is."""
    return len(changes), sum(1 if meant.get(field) == value else (value ^ entry.values[field]).bit_count()
                             for field, value in changes.items())


# --- Usual oversights --------------------------------------------------------------------------------------------

def _oversights(entry: Entry) -> Iterator[Changes]:
    yield {ENTRY: entry.entry ^ _IA32E}
    if ~entry.values[GUEST_CR0] & _PE_PG and entry.secondary & _EPT:
        yield {SECONDARY: entry.secondary | _UNRESTRICTED}
    for field in _RIGHTS:
        rights = entry.values[field]
        if rights and not rights & ~_LAR:
            yield {field: rights >> 8 & _KEPT}

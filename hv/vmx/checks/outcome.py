"""What the processor does when a rule does not hold: VMfail 7 or 8, or VM exit 33, as the manual says.

SDM "VM Entries": a control or host-state field that is wrong leaves the processor where it is, with the error number in
the VMCS; a wrong guest state is a VM exit that loads the host state. Neither launches the VMCS.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hv.spec.exits import EntryFailure, ExitReason, ExitReasonField, VmInstructionError
from hv.vmx.checks.rule import RULES, Broken, Entry, Group, Rule

_CONTROLS, _HOST = VmInstructionError.ENTRY_INVALID_CONTROLS, VmInstructionError.ENTRY_INVALID_HOST_STATE
_ERRORS = {Group.EXECUTION_CONTROLS: _CONTROLS, Group.EXIT_CONTROLS: _CONTROLS, Group.ENTRY_CONTROLS: _CONTROLS,
           Group.HOST_STATE: _HOST}
_GUEST_STATE = ExitReasonField(basic=int(ExitReason.ENTRY_FAILURE_GUEST_STATE), entry_failure=1)


class Failure(NamedTuple):
    """A rule that does not hold, and what was found."""

    rule: Rule
    broken: Broken

    @property
    def error(self) -> VmInstructionError | None:
        """The VM-instruction error of this failure; None for guest state."""
        return _ERRORS.get(self.rule.group)

    @property
    def exit_reason(self) -> ExitReasonField | None:
        """The exit-reason field of this failure, with bit 31; None where it is a VMfail."""
        return None if self.error is not None else _GUEST_STATE

    @property
    def words(self) -> str:
        """`VMfail 7`, or `VM exit 33, qualification 2`."""
        if self.error is not None:
            return f"VMfail {int(self.error)}"
        return f"VM exit {_GUEST_STATE.basic}, qualification {int(self.rule.qualification)}"

    def __str__(self) -> str:
        return f"{self.words}: {self.rule.id}: {self.broken.found}; required: {self.broken.required}"


class EntryResult(NamedTuple):
    """How an attempt to enter ends: *failure* is the first rule that did not hold, in the manual's order, or None.

    *unchecked* are rules that read memory where there is none to read: nobody can say whether they hold.
    """

    failure: Failure | None = None
    unchecked: tuple[Rule, ...] = ()

    @property
    def entered(self) -> bool:
        """The guest runs."""
        return self.failure is None

    @property
    def error(self) -> VmInstructionError | None:
        """7 or 8 when VMLAUNCH or VMRESUME ends with VMfail: nothing was loaded."""
        return None if self.failure is None else self.failure.error

    @property
    def exit_reason(self) -> ExitReasonField | None:
        """The exit-reason field (33, with bit 31) when the failure is a VM exit: the host state is loaded."""
        return None if self.failure is None else self.failure.exit_reason

    @property
    def qualification(self) -> EntryFailure:
        """The exit qualification of such an exit."""
        return EntryFailure.GUEST_STATE if self.failure is None else self.failure.rule.qualification


def entry_result(entry: Entry, rules: Iterable[Rule] = RULES) -> EntryResult:
    """What VMLAUNCH or VMRESUME meets, once their own conditions (a current VMCS, its launch state) are fulfilled."""
    unchecked: list[Rule] = []
    for rule in rules:
        finding = rule.check(entry)
        if finding is not None:
            if isinstance(finding, Broken):
                return EntryResult(Failure(rule, finding), tuple(unchecked))
            unchecked.append(rule)
    return EntryResult(None, tuple(unchecked))

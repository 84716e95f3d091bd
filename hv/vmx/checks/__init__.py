"""What VM entry checks, one function for each rule of the manual, in its order.

SDM "VM Entries": "Checks on VMX Controls and Host-State Area" (VMfail 7 and 8) and "Checking and Loading Guest State"
(VM exit 33). `RULES` has them all; `entry_result` is what VMLAUNCH and VMRESUME meet, `explain` what a person wants to
know: every rule that fails, not only the first, with the field, what was found, what is required and the smallest
change. `EntryChecks` is for a processor that enters again and again: it runs what can have changed.

    from hv.vmx.checks.explain import explain
    for failure in explain(vcpu.entry()).failures:
        print(failure.rule.id, failure.broken.found, failure.broken.required, failure.broken.fix)

Read `rule.py` first (a rule, and what it looks at), then any file of rules; `outcome.py` (what the processor does when
one fails), `incremental.py` (what is not run again), `explain.py` and `reading.py` (a VMCS that somebody wrote down).
"""

from importlib import import_module

from hv.vmx.checks.outcome import EntryResult, Failure, entry_result
from hv.vmx.checks.rule import RULES, Broken, Entry, Group, Rule, Unchecked

# In this order they register their rules: it is the manual's.
for _file in ("execution_controls", "translation_controls", "exit_entry_controls", "host_state", "guest_registers",
              "guest_segments", "guest_rights", "guest_rip", "guest_state", "pdptes"):
    import_module(f"hv.vmx.checks.{_file}")

__all__ = ["RULES", "Broken", "Entry", "EntryResult", "Failure", "Group", "Rule", "Unchecked", "entry_result"]

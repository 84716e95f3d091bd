"""`@proves("control/PrimaryControls.HLT_EXITING", "exit/HLT")`: which rows of `docs/fidelity.md` a test stands behind.

A row is one of
    control/KIND.NAME       a control bit: the class and member of `hv/spec/vmcs.py`
    rule/ID                 a VM-entry check, by the id of the rule
    exit/NAME               a basic exit reason, a member of `ExitReason`
    instruction/NAME        an instruction, in capitals: VMX instructions, and those that exit or are virtualized
    event/NAME              what is injected, or blocks, or is pending: the member names of the enumerations of the
                            manual (`InterruptionType`, `Interruptibility`, `ActivityState`, `EntryFailure`, `VmxAbort`)
    cr4/NAME                a bit of CR4, a member of `Cr4`
    capability/MSR.FIELD    a bit of a capability MSR: `VmxMisc`, `EptVpidCap`, `VmxBasic`; of VT-d's `Cap` and `Ecap`
    iommu/KIND.NAME         of VT-d: the class and member of `hv/spec/vtd.py`; for GlobalCommand, the bit's name
    cr4/NAME                a bit of CR4, a member of `Cr4`
"""

from __future__ import annotations

import pytest


def proves(*rows: str) -> pytest.MarkDecorator:
    """The marker; the table is made from it by `make fidelity`."""
    return pytest.mark.proves(*rows)

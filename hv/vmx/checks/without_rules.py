"""Controls of other processors whose rules are not here. An explanation says which of them a VMCS has set.

None of them is offered by the processor modelled here, so its VM entry refuses them before any such rule.
"""

from __future__ import annotations

from enum import IntFlag

from hv.spec.vmcs import EntryControls, SecondaryControls, TertiaryControls
from hv.vmx.checks.rule import Entry

_ENTRY = (EntryControls.LOAD_RTIT_CTL, EntryControls.LOAD_LBR_CTL, EntryControls.LOAD_FRED,
          EntryControls.LOAD_SPEC_CTRL)
_SECONDARY = (SecondaryControls.PT_USES_GUEST_PHYSICAL, SecondaryControls.PASID_TRANSLATION)
_TERTIARY = (TertiaryControls.ENABLE_HLAT, TertiaryControls.EPT_PAGING_WRITE,
             TertiaryControls.GUEST_PAGING_VERIFICATION, TertiaryControls.IPI_VIRTUALIZATION,
             TertiaryControls.VIRTUALIZE_SPEC_CTRL, TertiaryControls.APIC_TIMER_VIRTUALIZATION)


def controls_without_rules(entry: Entry) -> tuple[str, ...]:
    """The names of the controls that are 1 in *entry* and have rules of the manual that nobody checked."""
    pairs: tuple[tuple[int, tuple[IntFlag, ...]], ...] = (
        (entry.secondary, _SECONDARY), (entry.tertiary, _TERTIARY), (entry.entry, _ENTRY))
    return tuple(control.name or "" for value, controls in pairs for control in controls if value & control.value)

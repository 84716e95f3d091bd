"""VM entry's checks of a PAE guest's page-directory-pointer-table entries.

SDM "Checks on Guest Page-Directory-Pointer-Table Entries". With EPT they stand in the VMCS, without in the memory that
CR3 points to.
"""

from __future__ import annotations

from hv.spec.exits import EntryFailure
from hv.spec.vmcs import SecondaryControls, VmcsField
from hv.spec.x86 import PDPTE_RESERVED, Cr0, Cr4
from hv.vmx.checks.findings import are, zero
from hv.vmx.checks.rule import (
    BY_SECONDARY,
    ENTRY,
    GUEST_CR0,
    GUEST_CR4,
    NO_MEMORY,
    Broken,
    Entry,
    Finding,
    Group,
    rules_of,
)
from hv.vmx.checks.words import runs

_CR3 = VmcsField.GUEST_CR3
_PG, _PAE, _EPT = Cr0.PG.value, Cr4.PAE.value, SecondaryControls.ENABLE_EPT.value
_PRESENT, _TABLE = 1, 0xFFFF_FFE0
_U64 = (1 << 64) - 1

rule = rules_of(Group.GUEST_STATE, "Checks on Guest Page-Directory-Pointer-Table Entries", EntryFailure.PDPTE)


def _pdpte(number: int) -> None:
    field = VmcsField[f"GUEST_PDPTE{number}"]

    @rule(f"guest-pdpte{number}-reserved-bits", field, _CR3, when=(*BY_SECONDARY, ENTRY, GUEST_CR0, GUEST_CR4),
          reads_memory=True,
          text=f'If the guest uses PAE paging, PDPTE {number} (in the VMCS if "enable EPT" is 1, else in memory at '
               "CR3) has no reserved bit set if it is present: 2:1, 8:5, and those beyond the physical-address width.")
    def check(entry: Entry) -> Finding:
        values = entry.values
        if entry.ia32e or not values[GUEST_CR0] & _PG or not values[GUEST_CR4] & _PAE:
            return None
        reserved = PDPTE_RESERVED | _U64 & ~((1 << entry.physical_bits) - 1)
        if entry.secondary & _EPT:
            raw = values[field]
            return zero(field, raw, reserved, "every reserved bit of a present PDPTE") if raw & _PRESENT else None
        return _in_memory(entry, number, values[_CR3] & _TABLE, reserved)


def _in_memory(entry: Entry, number: int, table: int, reserved: int) -> Finding:
    raw = entry.load(table + 8 * number, 8)
    if raw is None:
        return NO_MEMORY
    wrong = raw & reserved if raw & _PRESENT else 0
    if not wrong:
        return None
    bits = ", ".join(runs(wrong))
    return Broken(f"PDPTE {number} at {table + 8 * number:#x} is {raw:#x}: bits {bits} {are(wrong)} 1",
                  "0: they are reserved in a present PDPTE", {})


for _number in range(4):
    _pdpte(_number)

"""What VM entry does beyond loading registers: the checks of the guest state, and event injection.

SDM "Checking and Loading Guest State", "Event Injection". The checks run only when software wrote guest state since
the last entry; a guest cannot bring itself into a state that they refuse.

# Simplified: the rules here are those that decide whether the engine can run the state at all; the whole list comes with
# the VT-x work.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.machine.idt import Event, EventKind
from hv.machine.paging import is_canonical
from hv.machine.state import ProcessorState
from hv.spec.exits import InterruptionInfo
from hv.spec.x86 import RFLAGS_DEFINED, Cr0, Cr4, Efer, Rflags

Rule = Callable[[ProcessorState], bool]


def _limit_fits(rights: int, limit: int) -> bool:
    granular = bool(rights & 1 << 15)
    return (limit & 0xFFF == 0xFFF or not granular) and (limit >> 20 == 0 or granular)


def _segments(state: ProcessorState) -> bool:
    return all(_limit_fits(segment.rights, segment.limit)
               for segment in (state.cs, state.ss, state.ds, state.es, state.fs, state.gs) if not segment.rights & 1 << 16)


def _cs_type(state: ProcessorState) -> bool:
    cs = state.cs
    usual = cs.type in (9, 11, 13, 15)
    return bool(cs.rights & 0x90 == 0x90 and (usual or cs.type == 3) and not cs.rights & 0xFFFE_0F00)


def _rip(state: ProcessorState) -> bool:
    if state.efer & Efer.LMA and state.cs.rights & 1 << 13:
        return is_canonical(state.rip)
    return not state.rip >> 32


# Name -> what must be true. The names are those of the manual's checks.
GUEST_STATE_RULES: dict[str, Rule] = {
    "CR0.PG needs CR0.PE": lambda state: not state.cr0 & Cr0.PG or bool(state.cr0 & Cr0.PE),
    "CR0 bits 63:32 are 0": lambda state: not state.cr0 >> 32,
    "CR4 has no reserved bit": lambda state: not state.cr4 & ~CR4_SUPPORTED,
    "IA-32e mode needs CR0.PG": lambda state: not state.efer & Efer.LMA or bool(state.cr0 & Cr0.PG),
    "IA-32e mode needs CR4.PAE": lambda state: not state.efer & Efer.LMA or bool(state.cr4 & Cr4.PAE),
    "EFER.LMA equals EFER.LME while CR0.PG": lambda state: not state.cr0 & Cr0.PG
    or bool(state.efer & Efer.LMA) == bool(state.efer & Efer.LME),
    "EFER has no reserved bit": lambda state: not state.efer & ~EFER_SUPPORTED,
    "CR3 is within the physical address width": lambda state: not state.cr3 >> 40,
    "CS is a present code segment": _cs_type,
    "CS.L and CS.D are not both 1 in IA-32e mode": lambda state: not (state.efer & Efer.LMA
                                                                   and state.cs.rights & 0x6000 == 0x6000),
    "segment limits agree with G": _segments,
    "TR is usable": lambda state: not state.tr.rights & 1 << 16,
    "RFLAGS bit 1 is 1 and reserved bits are 0": lambda state: not state.rflags & ~RFLAGS_DEFINED
    and bool(state.rflags & Rflags.FIXED),
    "RFLAGS.VM is 0 in IA-32e mode or without CR0.PE": lambda state: not state.rflags & Rflags.VM
    or not (state.efer & Efer.LMA or not state.cr0 & Cr0.PE),
    "RIP fits the mode": _rip,
    "GDTR and IDTR bases are canonical": lambda state: is_canonical(state.gdtr.base) and is_canonical(state.idtr.base),
    "GDTR and IDTR limits have 16 bits": lambda state: not (state.gdtr.limit | state.idtr.limit) >> 16,
}

EFER_SUPPORTED = Efer.SCE | Efer.LME | Efer.LMA | Efer.NXE
CR4_SUPPORTED = (Cr4.VME | Cr4.PVI | Cr4.TSD | Cr4.DE | Cr4.PSE | Cr4.PAE | Cr4.MCE | Cr4.PGE | Cr4.PCE | Cr4.OSFXSR
                 | Cr4.OSXMMEXCPT)


def broken_rules(state: ProcessorState) -> list[str]:
    """The names of the guest-state rules that *state* breaks; empty when VM entry would succeed."""
    return [name for name, rule in GUEST_STATE_RULES.items() if not rule(state)]


def event_of(info: int, error_code: int, instruction_length: int) -> Event:
    """The event that the VM-entry interruption-information fields ask for."""
    fields = InterruptionInfo(info)
    return Event(fields.vector, EventKind(fields.type), error_code if fields.error_code_valid else None, instruction_length)


def info_of(event: Event) -> int:
    """*event* as an interruption-information field: what exits during its delivery record."""
    return InterruptionInfo(vector=event.vector, type=int(event.kind), error_code_valid=int(event.error_code is not None),
                            valid=1).raw

"""What VM entry does beyond loading registers: the checks of the guest state, and event injection.

SDM "Checking and Loading Guest State", "Event Injection". The checks run only when software wrote guest state since
the last entry; a guest cannot bring itself into a state that they refuse.

# Simplified: the rules here are those that decide whether the engine can run the state at all.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.machine.control_registers import CR4_SUPPORTED
from hv.machine.idt import BY_INSTRUCTION, Event, EventKind
from hv.machine.paging import PHYSICAL_BITS, is_canonical
from hv.machine.registers import Segment
from hv.machine.state import ProcessorState
from hv.spec.exits import InterruptionInfo
from hv.spec.x86 import ENTRY_DELIVERS_ERROR_CODE, RFLAGS_DEFINED, Cr0, Cr4, Efer, Rflags, Vector

Rule = Callable[[ProcessorState], bool]


# Plain integers: `&` with an IntFlag would build an enum member every time.
_PE, _PG, _PAE = Cr0.PE.value, Cr0.PG.value, Cr4.PAE.value
_LME, _LMA, _VM, _FIXED = Efer.LME.value, Efer.LMA.value, Rflags.VM.value, Rflags.FIXED.value
_EFER_SUPPORTED = int(Efer.SCE | Efer.LME | Efer.LMA | Efer.NXE)
_UNUSABLE, _GRANULAR, _LONG, _BIG = 1 << 16, 1 << 15, 1 << 13, 1 << 14
_PRESENT_CODE_OR_DATA = 0x90
_PRESENT, _BUSY_TSS_16, _BUSY_TSS = 0x80, 3, 11
_RESERVED_RIGHTS = 0xFFFE_0F00
LAST_EXCEPTION = 31
_CODE_TYPES = frozenset({3, 9, 11, 13, 15})         # 3 (data) by "unrestricted guest"


def _limit_fits(segment: Segment) -> bool:
    if segment.rights & _UNUSABLE:
        return True
    granular = segment.rights & _GRANULAR
    return bool((segment.limit & 0xFFF == 0xFFF or not granular) and (segment.limit >> 20 == 0 or granular))


def _segments(state: ProcessorState) -> bool:
    return all(map(_limit_fits, (state.cs, state.ss, state.ds, state.es, state.fs, state.gs)))


def _cs_type(state: ProcessorState) -> bool:
    rights = state.cs.rights
    return rights & _PRESENT_CODE_OR_DATA == _PRESENT_CODE_OR_DATA and rights & 0xF in _CODE_TYPES \
        and not rights & _RESERVED_RIGHTS


def _task_register(state: ProcessorState) -> bool:
    """The engine ends the process when it looks for a stack in anything else."""
    rights = state.tr.rights
    if rights & _UNUSABLE:
        return True             # another rule's
    busy = (_BUSY_TSS,) if state.in_long_mode else (_BUSY_TSS, _BUSY_TSS_16)
    return rights & 0x1F in busy and bool(rights & _PRESENT)


def _cs_mode(state: ProcessorState) -> bool:
    return not (state.in_long_mode and state.cs.rights & _LONG and state.cs.rights & _BIG)


def _rip(state: ProcessorState) -> bool:
    if state.in_long_mode and state.cs.rights & _LONG:
        return is_canonical(state.rip)
    return not state.rip >> 32


def _rflags(state: ProcessorState) -> bool:
    return not state.rflags & ~RFLAGS_DEFINED and bool(state.rflags & _FIXED)


def _virtual_8086(state: ProcessorState) -> bool:
    return not state.rflags & _VM or not (state.in_long_mode or not state.cr0 & _PE)


# Name -> what must be true. The names are those of the manual's checks.
GUEST_STATE_RULES: dict[str, Rule] = {
    "CR0.PG needs CR0.PE": lambda state: not state.cr0 & _PG or bool(state.cr0 & _PE),
    "CR0 bits 63:32 are 0": lambda state: not state.cr0 >> 32,
    "CR4 has no reserved bit": lambda state: not state.cr4 & ~CR4_SUPPORTED,
    "IA-32e mode needs CR0.PG": lambda state: not state.in_long_mode or bool(state.cr0 & _PG),
    "IA-32e mode needs CR4.PAE": lambda state: not state.in_long_mode or bool(state.cr4 & _PAE),
    "EFER.LMA equals EFER.LME while CR0.PG": lambda state: not state.cr0 & _PG
    or bool(state.efer & _LMA) == bool(state.efer & _LME),
    "EFER has no reserved bit": lambda state: not state.efer & ~_EFER_SUPPORTED,
    "CR3 is within the physical address width": lambda state: not state.cr3 >> PHYSICAL_BITS,
    "CS is a present code segment": _cs_type,
    "CS.L and CS.D are not both 1 in IA-32e mode": _cs_mode,
    "segment limits agree with G": _segments,
    "TR is usable": lambda state: not state.tr.rights & _UNUSABLE,
    "TR is a busy TSS": _task_register,
    "RFLAGS bit 1 is 1 and reserved bits are 0": _rflags,
    "RFLAGS.VM is 0 in IA-32e mode or without CR0.PE": _virtual_8086,
    "RIP fits the mode": _rip,
    "GDTR and IDTR bases are canonical": lambda state: is_canonical(state.gdtr.base) and is_canonical(state.idtr.base),
    "GDTR and IDTR limits have 16 bits": lambda state: not (state.gdtr.limit | state.idtr.limit) >> 16,
}


def broken_rules(state: ProcessorState) -> list[str]:
    """The names of the guest-state rules that *state* breaks; empty when VM entry would succeed."""
    return [name for name, rule in GUEST_STATE_RULES.items() if not rule(state)]


def is_injectable(event: Event) -> bool:
    """VM entry takes *event*; SDM "Checks on VM-Entry Control Fields".

    # Simplified: an error code is taken in real mode too, where none is pushed.
    """
    if event.kind is EventKind.NMI and event.vector != Vector.NMI:
        return False
    if event.kind is EventKind.EXCEPTION and event.vector > LAST_EXCEPTION:
        return False
    if event.error_code is None:
        return True
    return (event.kind is EventKind.EXCEPTION and event.vector in ENTRY_DELIVERS_ERROR_CODE
            and not event.error_code >> 16)


def event_of(info: int, error_code: int, instruction_length: int) -> Event:
    """The event that interruption-information fields ask for, of a type that is delivered (not `OTHER_EVENT`)."""
    fields = InterruptionInfo(info)
    wanted = error_code if fields.error_code_valid else None
    kind = EventKind(fields.type)
    return Event(fields.vector, kind, wanted, instruction_length if kind in BY_INSTRUCTION else 0)


def info_of(event: Event) -> int:
    """*event* as an interruption-information field: what exits during its delivery record."""
    return InterruptionInfo(vector=event.vector, type=int(event.kind), valid=1,
                            error_code_valid=int(event.error_code is not None)).raw

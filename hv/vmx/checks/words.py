"""The values of VMCS fields in words: which bits are set, by name. What `hv explain` prints, and what a rule found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum, IntFlag
from functools import cache

from hv.spec.ept import EptMemoryType, Eptp
from hv.spec.exits import ExitReason, ExitReasonField, InterruptionInfo, InterruptionType
from hv.spec.layout import Register
from hv.spec.msrs import Debugctl
from hv.spec.vmcs import (
    ENTRY_DEFAULT1,
    EXIT_DEFAULT1,
    NO_VMCS,
    PIN_DEFAULT1,
    PRIMARY_DEFAULT1,
    ActivityState,
    EntryControls,
    ExitControls,
    GuestInterruptStatus,
    Interruptibility,
    PendingDebugExceptions,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    SecondaryExitControls,
    TertiaryControls,
    VmcsField,
    VmFunctions,
)
from hv.spec.x86 import (
    AccessRights,
    CodeDataBits,
    Cr0,
    Cr3,
    Cr4,
    Dr7,
    Efer,
    MemoryType,
    Rflags,
    Selector,
    SystemType,
    Vector,
)

_F = VmcsField


_FLAGS: dict[VmcsField, type[IntFlag]] = {
    _F.PIN_BASED_CONTROLS: PinControls, _F.PRIMARY_PROC_CONTROLS: PrimaryControls,
    _F.SECONDARY_PROC_CONTROLS: SecondaryControls, _F.TERTIARY_PROC_CONTROLS: TertiaryControls,
    _F.VM_EXIT_CONTROLS: ExitControls, _F.SECONDARY_VM_EXIT_CONTROLS: SecondaryExitControls,
    _F.VM_ENTRY_CONTROLS: EntryControls, _F.VM_FUNCTION_CONTROLS: VmFunctions,
    _F.GUEST_CR0: Cr0, _F.HOST_CR0: Cr0, _F.CR0_READ_SHADOW: Cr0, _F.CR0_GUEST_HOST_MASK: Cr0,
    _F.GUEST_CR4: Cr4, _F.HOST_CR4: Cr4, _F.CR4_READ_SHADOW: Cr4, _F.CR4_GUEST_HOST_MASK: Cr4,
    _F.GUEST_CR3: Cr3, _F.HOST_CR3: Cr3, _F.GUEST_IA32_EFER: Efer, _F.HOST_IA32_EFER: Efer,
    _F.GUEST_RFLAGS: Rflags, _F.GUEST_INTERRUPTIBILITY_STATE: Interruptibility,
}
_DEFAULT1 = {_F.PIN_BASED_CONTROLS: PIN_DEFAULT1, _F.PRIMARY_PROC_CONTROLS: PRIMARY_DEFAULT1,
             _F.VM_EXIT_CONTROLS: EXIT_DEFAULT1, _F.VM_ENTRY_CONTROLS: ENTRY_DEFAULT1, _F.GUEST_RFLAGS: 2}
_REGISTERS: dict[VmcsField, type[Register]] = {
    _F.EPT_POINTER: Eptp, _F.VM_ENTRY_INTERRUPTION_INFO: InterruptionInfo, _F.GUEST_DR7: Dr7,
    _F.GUEST_PENDING_DEBUG_EXCEPTIONS: PendingDebugExceptions, _F.GUEST_IA32_DEBUGCTL: Debugctl,
    _F.GUEST_INTERRUPT_STATUS: GuestInterruptStatus,
    **{field: AccessRights for field in _F if field.name.endswith("_ACCESS_RIGHTS")},
    **{field: Selector for field in _F if field.name.endswith("_SELECTOR")},
}


@cache
def names_of(field: VmcsField) -> Mapping[int, str]:
    """The names of the field's single bits, by bit number; a part of several bits has no name here."""
    if field in _FLAGS:
        named = {flag.value.bit_length() - 1: flag.name or "" for flag in _FLAGS[field] if flag.value.bit_count() == 1}
        named.pop(1, None) if field is _F.GUEST_RFLAGS else None
        return named
    if field.name.endswith("_ACCESS_RIGHTS"):
        return {4: "S", 7: "P", 12: "AVL", 13: "L", 14: "D/B", 15: "G", 16: "unusable"}
    if field in _REGISTERS:
        return {part.low: name.upper() for name, part in _REGISTERS[field].BITS.items() if part.high == part.low}
    return {}


@cache
def parts_of(field: VmcsField) -> Mapping[str, int]:
    """The parts of several bits that the field has, by name: their masks."""
    kind = _REGISTERS.get(field)
    if kind is None:
        return {}
    return {name.upper(): (1 << part.high + 1) - (1 << part.low) for name, part in kind.BITS.items()
            if part.high > part.low}


def in_words(field: VmcsField, mask: int) -> str:
    """The bits of *mask* as the manual writes them: `bit 0 (PE)`, `bits 1:0 (RPL)`, `bits 63:32`, `bits 31:22, 15`."""
    named = names_of(field)
    words = [f"bit {n} ({named[n]})" for n in range(64) if mask >> n & 1 and n in named]
    rest = mask & ~sum(1 << n for n in named)
    for name, part in parts_of(field).items():
        words += [f"{_bits(rest & part)} ({name})"] if rest & part else []
        rest &= ~part
    return " and ".join(words + ([_bits(rest)] if rest else [])) or "no bit"


def _bits(mask: int) -> str:
    return f"{'bit' if mask.bit_count() == 1 else 'bits'} {', '.join(runs(mask))}"


def runs(mask: int) -> list[str]:
    """The runs of ones in *mask*, the highest first: `63:32`, `15`."""
    found, n = [], 63
    while n >= 0:
        if mask >> n & 1:
            low = n
            while low and mask >> low - 1 & 1:
                low -= 1
            found.append(f"{n}:{low}" if n != low else str(n))
            n = low
        n -= 1
    return found


def decoded(field: VmcsField, value: int) -> str:
    """*value* in the words of its field; "" for a field that is just a number."""
    special = _SPECIAL.get(field)
    if special is not None:
        return special(value)
    if field in _FLAGS:
        return _flags(field, value)
    if field.name.endswith("_ACCESS_RIGHTS"):
        return _rights(value)
    if field in _REGISTERS:
        return _parts(_REGISTERS[field], value)
    return ""


def _flags(field: VmcsField, value: int) -> str:
    named = names_of(field)
    words = [name for n, name in sorted(named.items()) if value >> n & 1]
    rest = value & ~sum(1 << n for n in named)
    if field in (_F.GUEST_CR3, _F.HOST_CR3):
        words.insert(0, f"table at {value & 0xF_FFFF_FFFF_F000:#x}")
        rest &= ~0xF_FFFF_FFFF_F000
    if field is _F.GUEST_RFLAGS and value >> 12 & 3:
        words.append(f"IOPL={value >> 12 & 3}")
        rest &= ~0x3000
    default = rest & _DEFAULT1.get(field, 0)
    if default:
        words.append("(and default1 bits)" if field is not _F.GUEST_RFLAGS else "(and bit 1)")
    strange = runs(rest & ~default)
    return " ".join(words + ([f"bits {', '.join(strange)}"] if strange else [])) or "none"


def _parts(kind: type[Register], value: int) -> str:
    register = kind(value)
    words = []
    for name, part in kind.BITS.items():
        found = getattr(register, name)
        if found:
            words.append(name if part.high == part.low else f"{name}={_number(found)}")
    strange = runs(value & kind.RESERVED)
    return " ".join(words + ([f"reserved bits {', '.join(strange)}"] if strange else [])) or "none"


def _number(value: int) -> str:
    return str(value) if value < 10 else hex(value)


_CODE, _WRITABLE, _CONFORMING = CodeDataBits.CODE.value, CodeDataBits.WRITABLE.value, CodeDataBits.CONFORMING.value


def type_in_words(rights: int) -> str:
    """What kind of segment *rights* (VMX format) describe: `type 11 (code, readable, accessed)`."""
    kind = rights & 0xF
    if not rights >> 4 & 1:
        words = SystemType(kind).name if kind in SystemType._value2member_map_ else "reserved"
    elif kind & _CODE:
        words = "code, " + ("readable" if kind & _WRITABLE else "execute-only")
        words += ", conforming" if kind & _CONFORMING else ""
    else:
        words = "data, " + ("read/write" if kind & _WRITABLE else "read-only")
        words += ", expand-down" if kind & _CONFORMING else ""
    accessed = ", accessed" if rights >> 4 & 1 and kind & 1 else ""
    return f"type {kind} ({words}{accessed})"


def _rights(value: int) -> str:
    register = AccessRights(value)
    words = ["unusable"] if register.unusable else []
    words += [type_in_words(value), f"S={register.s}", f"DPL={register.dpl}", f"P={register.present}"]
    words += [name for name, on in (("AVL", register.available), ("L", register.long), ("D/B", register.big),
                                    ("G", register.granularity)) if on]
    strange = runs(value & AccessRights.RESERVED)
    return " ".join(words + ([f"reserved bits {', '.join(strange)}"] if strange else []))


def _member(kind: type[IntEnum], value: int) -> str:
    return kind(value).name if value in kind._value2member_map_ else "undefined"


def event_in_words(info: int) -> str:
    """An interruption-information field: `hardware exception, vector 14 (PF), with error code`."""
    event = InterruptionInfo(info)
    if not event.valid:
        return "not valid: no event is injected"
    kind = _member(InterruptionType, event.type).lower().replace("_", " ")
    vector = f"vector {event.vector}"
    if event.type == InterruptionType.HARDWARE_EXCEPTION and event.vector in Vector._value2member_map_:
        vector += f" (#{Vector(event.vector).name})"
    strange = runs(info & 0x7FFF_F000)
    return f"type {event.type} ({kind}), {vector}" + (", with an error code" if event.error_code_valid else "") \
        + (f", reserved bits {', '.join(strange)}" if strange else "")


def _pat(value: int) -> str:
    entries = [value >> 8 * n & 0xFF for n in range(8)]
    return " ".join(f"PA{n}={_member(MemoryType, entry) if entry in MemoryType._value2member_map_ else entry}"
                    for n, entry in enumerate(entries))


def levels(walk_length: int) -> str:
    """What bits 5:3 of an EPTP mean: `4 levels`."""
    return f"{walk_length + 1} level{'s' if walk_length else ''}"


def _eptp(value: int) -> str:
    eptp = Eptp(value)
    words = [f"memory type {eptp.memory_type} ({_member(EptMemoryType, eptp.memory_type)})",
             levels(eptp.walk_length), f"root {eptp.root << 12:#x}"]
    words += [name for name, on in (("A/D", eptp.accessed_dirty), ("shadow stacks", eptp.shadow_stack)) if on]
    strange = runs(value & Eptp.RESERVED)
    return ", ".join(words + ([f"reserved bits {', '.join(strange)}"] if strange else []))


def _interruption(info: int) -> str:
    """An interruption-information field that an exit filled."""
    return event_in_words(info) if info >> 31 & 1 else "not valid"


def _exit_reason(value: int) -> str:
    reason = ExitReasonField(value)
    words = [_member(ExitReason, reason.basic)]
    words += [name for name, part in ExitReasonField.BITS.items() if part.high == part.low and getattr(reason, name)]
    return " ".join(words)


_SPECIAL: dict[VmcsField, Callable[[int], str]] = {
    _F.VM_ENTRY_INTERRUPTION_INFO: event_in_words,
    _F.EXIT_INTERRUPTION_INFO: _interruption, _F.IDT_VECTORING_INFO: _interruption, _F.EXIT_REASON: _exit_reason,
    _F.GUEST_ACTIVITY_STATE: lambda value: _member(ActivityState, value),
    _F.GUEST_IA32_PAT: _pat, _F.HOST_IA32_PAT: _pat, _F.EPT_POINTER: _eptp,
    _F.VMCS_LINK_POINTER: lambda value: "no VMCS" if value == NO_VMCS else "a VMCS at that address",
}

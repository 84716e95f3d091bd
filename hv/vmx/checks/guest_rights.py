"""VM entry's checks of the access rights of the guest's segment registers; SDM "Checks on Guest Segment Registers".

A segment register that is unusable is not looked at, but for CS and TR, and for DPL of SS, which is the CPL.
"""

from __future__ import annotations

from hv.spec.vmcs import VmcsField
from hv.spec.x86 import AccessRights, Cr0
from hv.vmx.checks.findings import one, zero
from hv.vmx.checks.rule import (
    BY_SECONDARY,
    ENTRY,
    GUEST_CR0,
    GUEST_RFLAGS,
    Broken,
    Entry,
    Finding,
    Group,
    rules_of,
)
from hv.vmx.checks.words import type_in_words

_F = VmcsField
_CS, _SS, _TR = _F.GUEST_CS_ACCESS_RIGHTS, _F.GUEST_SS_ACCESS_RIGHTS, _F.GUEST_TR_ACCESS_RIGHTS
_LDTR, _SS_SELECTOR = _F.GUEST_LDTR_ACCESS_RIGHTS, _F.GUEST_SS_SELECTOR
_PE = Cr0.PE.value
_UNUSABLE, _G, _PRESENT, _S = 1 << 16, 1 << 15, 1 << 7, 1 << 4
_L, _BIG, _DPL = 1 << 13, 1 << 14, 0x60
_RESERVED = AccessRights.RESERVED
_CODE, _READABLE, _ACCESSED = 8, 2, 1
_CODE_TYPES, _CONFORMING, _STACK_TYPES = frozenset({9, 11, 13, 15}), frozenset({13, 15}), frozenset({3, 7})
_LAST_NONCONFORMING, _STACK = 11, 3
_TSS_BUSY, _TSS16_BUSY, _LDT = 11, 3, 2
_BY_MODE = (GUEST_RFLAGS,)                      # virtual-8086 mode or not
_CODE_OR_DATA, _DATA = ("cs", "ss", "ds", "es", "fs", "gs"), ("ds", "es", "fs", "gs")

rule = rules_of(Group.GUEST_STATE, "Checks on Guest Segment Registers")


def _or_unusable(rights: int, fixed: int) -> int:
    """*fixed*; of a register that was left 0, like one that was loaded with a null selector: it is unusable."""
    return fixed if rights & 0xFFFF else rights | _UNUSABLE


def _part(name: str, part: str) -> VmcsField:
    return VmcsField[f"GUEST_{name.upper()}_{part}"]


# --- Access rights: types ----------------------------------------------------------------------------------------

@rule("guest-cs-type", _CS, when=(*_BY_MODE, *BY_SECONDARY))
def cs_type(entry: Entry) -> Finding:
    """CS is accessed code: type 9, 11, 13 or 15; or also 3 (accessed read/write data) if "unrestricted guest" is 1."""
    rights = entry.values[_CS]
    kind = rights & 0xF
    if entry.virtual_8086 or kind in _CODE_TYPES or (kind == _STACK and entry.unrestricted):
        return None
    fixed = kind | _ACCESSED if kind & _CODE else 11
    also = ", or 3 (unrestricted guest)" if entry.unrestricted else \
        '; 3 needs "unrestricted guest"' if kind == _STACK else ""
    return Broken(type_in_words(rights), f"type 9, 11, 13 or 15 (accessed code){also}", {_CS: rights & ~0xF | fixed})


@rule("guest-ss-type", _SS, when=_BY_MODE)
def ss_type(entry: Entry) -> Finding:
    """If SS is usable, it is accessed read/write data: type 3 or 7."""
    rights = entry.values[_SS]
    if entry.virtual_8086 or rights & _UNUSABLE or rights & 0xF in _STACK_TYPES:
        return None
    return Broken(type_in_words(rights), "type 3 or 7 (accessed read/write data)",
                  {_SS: _or_unusable(rights, rights & ~0xF | (3 if rights & _CODE else rights & 0xF | 3))})


def _data_type(name: str) -> None:
    field = _part(name, "ACCESS_RIGHTS")

    @rule(f"guest-{name}-type", field, when=_BY_MODE,
          text=f"If {name.upper()} is usable, it is accessed (bit 0 is 1), and readable (bit 1) if it is code (bit 3).")
    def check(entry: Entry) -> Finding:
        rights = entry.values[field]
        wanted = _ACCESSED | _READABLE if rights & _CODE else _ACCESSED
        if rights & wanted == wanted or rights & _UNUSABLE or entry.virtual_8086:
            return None
        return Broken(type_in_words(rights), "accessed" + (" and readable" if rights & _CODE else ""),
                      {field: _or_unusable(rights, rights | wanted)})


for _name in _DATA:
    _data_type(_name)


# --- Access rights: S, DPL, P, reserved bits, D/B, G -------------------------------------------------------------

def _code_or_data(name: str) -> None:
    field, always = _part(name, "ACCESS_RIGHTS"), name == "cs"

    @rule(f"guest-{name}-s", field, when=_BY_MODE,
          text=f"{'' if always else f'If {name.upper()} is usable, '}S (bit 4) of {name.upper()} is 1: code or data.")
    def check(entry: Entry) -> Finding:
        rights = entry.values[field]
        if rights & _S or entry.virtual_8086 or (rights & _UNUSABLE and not always):
            return None
        return one(field, rights, _S, "it is a segment of code or data")


for _name in _CODE_OR_DATA:
    _code_or_data(_name)


@rule("guest-cs-dpl", _CS, _SS, when=_BY_MODE)
def cs_dpl(entry: Entry) -> Finding:
    """DPL of CS is 0 if its type is 3, equal to DPL of SS for non-conforming code (9, 11), and not greater for
    conforming code (13, 15)."""
    if entry.virtual_8086:
        return None
    rights = entry.values[_CS]
    kind, dpl, stack = rights & 0xF, rights >> 5 & 3, entry.values[_SS] >> 5 & 3
    if kind == 3:
        right, words = 0, "0, as CS is of type 3"
    elif kind in _CONFORMING:
        right, words = min(dpl, stack), f"at most SS.DPL, {stack}, as CS is conforming"
    elif kind in _CODE_TYPES:
        right, words = stack, f"equal to SS.DPL, {stack}, as CS is not conforming"
    else:
        return None
    return None if dpl == right else Broken(f"CS.DPL is {dpl}", words, {_CS: rights & ~_DPL | right << 5})


@rule("guest-ss-dpl-equals-rpl", _SS, _SS_SELECTOR, when=(*_BY_MODE, *BY_SECONDARY))
def ss_dpl(entry: Entry) -> Finding:
    """If "unrestricted guest" is 0, DPL of SS equals RPL of its selector, whether SS is usable or not."""
    if entry.unrestricted or entry.virtual_8086:
        return None
    rights, rpl = entry.values[_SS], entry.values[_SS_SELECTOR] & 3
    if rights >> 5 & 3 == rpl:
        return None
    return Broken(f"SS.DPL is {rights >> 5 & 3}, SS.RPL is {rpl}", "they are equal", {_SS: rights & ~_DPL | rpl << 5})


@rule("guest-ss-dpl-zero", _SS, _CS, GUEST_CR0, when=_BY_MODE)
def ss_dpl_zero(entry: Entry) -> Finding:
    """DPL of SS is 0 if the type of CS is 3 or CR0.PE is 0."""
    rights = entry.values[_SS]
    if not rights & _DPL or entry.virtual_8086:
        return None
    real = not entry.values[GUEST_CR0] & _PE
    if not real and entry.values[_CS] & 0xF != 3:
        return None
    return Broken(f"SS.DPL is {rights >> 5 & 3}", f"0, as {'CR0.PE is 0' if real else 'CS is of type 3'}",
                  {_SS: rights & ~_DPL})


def _data_dpl(name: str) -> None:
    field, selector = _part(name, "ACCESS_RIGHTS"), _part(name, "SELECTOR")

    @rule(f"guest-{name}-dpl", field, selector, when=(*_BY_MODE, *BY_SECONDARY),
          text=f'If "unrestricted guest" is 0 and {name.upper()} is usable data or non-conforming code (type 0..11), '
               "its DPL is not less than its RPL.")
    def check(entry: Entry) -> Finding:
        if entry.unrestricted or entry.virtual_8086:
            return None
        rights, rpl = entry.values[field], entry.values[selector] & 3
        if rights & _UNUSABLE or rights & 0xF > _LAST_NONCONFORMING or rights >> 5 & 3 >= rpl:
            return None
        return Broken(f"DPL is {rights >> 5 & 3}, RPL is {rpl}", f"DPL is at least {rpl}",
                      {field: rights & ~_DPL | rpl << 5})


for _name in _DATA:
    _data_dpl(_name)


def _present(name: str) -> None:
    field, always, system = _part(name, "ACCESS_RIGHTS"), name in ("cs", "tr"), name in ("tr", "ldtr")

    @rule(f"guest-{name}-present", field, when=() if system else _BY_MODE,
          text=f"{'' if always else f'If {name.upper()} is usable, '}P (bit 7) of {name.upper()} is 1.")
    def check(entry: Entry) -> Finding:
        rights = entry.values[field]
        if rights & _PRESENT or (rights & _UNUSABLE and not always) or (entry.virtual_8086 and not system):
            return None
        return one(field, rights, _PRESENT)


def _reserved(name: str) -> None:
    field, always, system = _part(name, "ACCESS_RIGHTS"), name in ("cs", "tr"), name in ("tr", "ldtr")

    @rule(f"guest-{name}-access-rights-reserved-bits", field, when=() if system else _BY_MODE,
          text=f"{'' if always else f'If {name.upper()} is usable, '}bits 31:17 and 11:8 of the access rights of "
               f"{name.upper()} are 0.")
    def check(entry: Entry) -> Finding:
        rights = entry.values[field]
        if not rights & _RESERVED or (rights & _UNUSABLE and not always) or (entry.virtual_8086 and not system):
            return None
        return zero(field, rights, _RESERVED, "every reserved bit")


def _granularity(name: str) -> None:
    field, limit = _part(name, "ACCESS_RIGHTS"), _part(name, "LIMIT")
    always, system = name in ("cs", "tr"), name in ("tr", "ldtr")

    @rule(f"guest-{name}-granularity", field, limit, when=() if system else _BY_MODE,
          text=f"{'' if always else f'If {name.upper()} is usable, '}G (bit 15) of {name.upper()} is 0 if bits 11:0 of "
               "its limit are not all 1, and 1 if bits 31:20 are not all 0.")
    def check(entry: Entry) -> Finding:
        rights, last = entry.values[field], entry.values[limit]
        if rights & _G:
            if last & 0xFFF == 0xFFF:
                return None
        elif not last >> 20:
            return None
        if (rights & _UNUSABLE and not always) or (entry.virtual_8086 and not system):
            return None
        return _wrong_granularity(field, limit, rights, last)


def _wrong_granularity(field: VmcsField, limit: VmcsField, rights: int, last: int) -> Broken:
    found = f"limit {last:#x} with G = {int(bool(rights & _G))}"
    if last & 0xFFF != 0xFFF and last >> 20:
        fix = {limit: last | 0xFFF} if rights & _G else {limit: last | 0xFFF, field: rights | _G}
        return Broken(found, f"no segment has this limit: {last | 0xFFF:#x} with G = 1", fix)
    why = "bits 31:20 of the limit are not all 0" if last >> 20 else "bits 11:0 of the limit are not all 1"
    return Broken(found, f"G = {int(bool(last >> 20))}, as {why}", {field: rights ^ _G})


for _name in _CODE_OR_DATA:
    _present(_name)
for _name in _CODE_OR_DATA:
    _reserved(_name)


@rule("guest-cs-l-excludes-d", _CS, when=(*_BY_MODE, ENTRY))
def cs_long(entry: Entry) -> Finding:
    """If "IA-32e mode guest" is 1 and L (bit 13) of CS is 1, D/B (bit 14) of CS is 0."""
    rights = entry.values[_CS]
    if not entry.ia32e or not rights & _L or not rights & _BIG or entry.virtual_8086:
        return None
    return Broken("L and D/B of CS are both 1", "D/B is 0 in a 64-bit code segment", {_CS: rights & ~_BIG})


for _name in _CODE_OR_DATA:
    _granularity(_name)


# --- TR and LDTR -------------------------------------------------------------------------------------------------

@rule("guest-tr-type", _TR, when=(ENTRY,))
def tr_type(entry: Entry) -> Finding:
    """TR is a busy TSS: type 11, or also 3 (16-bit) if "IA-32e mode guest" is 0."""
    rights = entry.values[_TR]
    kind = rights & 0xF
    if kind == _TSS_BUSY or (kind == _TSS16_BUSY and not entry.ia32e):
        return None
    fixed = _TSS16_BUSY if kind == 1 and not entry.ia32e else _TSS_BUSY
    return Broken(type_in_words(rights), "type 11 (busy TSS)" + ("" if entry.ia32e else ", or 3 (busy 16-bit TSS)"),
                  {_TR: rights & ~0xF | fixed})


def _system(name: str) -> None:
    field, always = _part(name, "ACCESS_RIGHTS"), name == "tr"

    @rule(f"guest-{name}-s", field,
          text=f"{'' if always else 'If LDTR is usable, '}S (bit 4) of {name.upper()} is 0: a system segment.")
    def check(entry: Entry) -> Finding:
        rights = entry.values[field]
        return zero(field, rights, _S, "it is a system segment") if always or not rights & _UNUSABLE else None


_system("tr")
_present("tr")
_reserved("tr")
_granularity("tr")


@rule("guest-tr-usable", _TR)
def tr_usable(entry: Entry) -> Finding:
    """TR is usable: bit 16 is 0."""
    return zero(_TR, entry.values[_TR], _UNUSABLE, "TR is always usable") if entry.values[_TR] & _UNUSABLE else None


@rule("guest-ldtr-type", _LDTR)
def ldtr_type(entry: Entry) -> Finding:
    """If LDTR is usable, its type is 2 (LDT)."""
    rights = entry.values[_LDTR]
    if rights & _UNUSABLE or rights & 0xF == _LDT:
        return None
    return Broken(type_in_words(rights), "type 2 (LDT), or unusable (bit 16)",
                  {_LDTR: _or_unusable(rights, rights & ~0xF | _LDT)})


_system("ldtr")
_present("ldtr")
_reserved("ldtr")
_granularity("ldtr")

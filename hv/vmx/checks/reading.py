"""A VMCS that somebody wrote down: JSON, an object of field names and values. What is wrong with it is said, all of it.

    {"GUEST_CR0": "0x80000030", "GUEST_CS_ACCESS_RIGHTS": 147, "IA32_VMX_CR0_FIXED0": "0x80000021", "MAXPHYADDR": 39}

Keys are the names of `VmcsField`, of the capability MSRs, and MAXPHYADDR, the physical-address width in bits. Values
are numbers or hexadecimal strings. Nothing is guessed: a field that is left out has the value of a small valid guest,
and is reported as assumed; a capability that is left out is that of the processor named.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from hv.spec.ept import EptVpidCap
from hv.spec.msrs import Msr
from hv.spec.vmcs import VmcsField, VmxBasic, VmxMisc
from hv.vmx.capabilities import PROCESSOR, Capabilities
from hv.vmx.checks.example import valid_guest
from hv.vmx.checks.explain import Explanation, explain
from hv.vmx.checks.rule import Entry

LARGEST_BYTES = 1 << 20
_MOST_NEAR = 50                         # problems for which a near name is looked for: each takes about a millisecond
_WIDTHS = range(36, 53)                 # what MAXPHYADDR may be
_ALIASES = {"TERTIARY_EXEC_CONTROLS": VmcsField.TERTIARY_PROC_CONTROLS}     # the manual's longer name has both words
_FIELDS: dict[str, VmcsField] = {field.name: field for field in VmcsField} | _ALIASES
_MSRS = {f"IA32_{msr.name}": msr for msr in Msr if Msr.VMX_BASIC <= msr <= Msr.VMX_EXIT_CTLS2}
_WIDTH = "MAXPHYADDR"
_LEGACY = {Msr.VMX_PINBASED_CTLS: Msr.VMX_TRUE_PINBASED_CTLS, Msr.VMX_PROCBASED_CTLS: Msr.VMX_TRUE_PROCBASED_CTLS,
           Msr.VMX_EXIT_CTLS: Msr.VMX_TRUE_EXIT_CTLS, Msr.VMX_ENTRY_CTLS: Msr.VMX_TRUE_ENTRY_CTLS}
_SETTINGS = (*_LEGACY, *_LEGACY.values(), Msr.VMX_PROCBASED_CTLS2)
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,32}\Z")
_HEXADECIMAL_BARE = re.compile(r"0[xX][0-9a-fA-F]")
_DIGITS = re.compile(r"([0-9a-fA-F]{1,32})[hH]?\Z")
# What fields are called elsewhere: in Linux KVM, Xen, and headers made after them.
_ELSEWHERE = {
    "CPU_BASED_VM_EXEC_CONTROL": "PRIMARY_PROC_CONTROLS", "PIN_BASED_VM_EXEC_CONTROL": "PIN_BASED_CONTROLS",
    "SECONDARY_VM_EXEC_CONTROL": "SECONDARY_PROC_CONTROLS", "TERTIARY_VM_EXEC_CONTROL": "TERTIARY_PROC_CONTROLS",
    "PROC_BASED_CONTROLS": "PRIMARY_PROC_CONTROLS", "CPU_BASED_CONTROLS": "PRIMARY_PROC_CONTROLS",
    "VIRTUAL_PROCESSOR_ID": "VPID", "GUEST_INTERRUPTIBILITY_INFO": "GUEST_INTERRUPTIBILITY_STATE",
    "GUEST_PENDING_DBG_EXCEPTIONS": "GUEST_PENDING_DEBUG_EXCEPTIONS", "GUEST_INTR_STATUS": "GUEST_INTERRUPT_STATUS",
    "VM_ENTRY_INTR_INFO_FIELD": "VM_ENTRY_INTERRUPTION_INFO", "VM_ENTRY_INTR_INFO": "VM_ENTRY_INTERRUPTION_INFO",
    "VM_ENTRY_INSTRUCTION_LEN": "VM_ENTRY_INSTRUCTION_LENGTH", "EPTP": "EPT_POINTER",
    "POSTED_INTR_NV": "POSTED_INTR_NOTIFICATION_VECTOR", "VM_EXIT_REASON": "EXIT_REASON",
}
_U64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with what was given; *field* is "" when it is the whole."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class BadVmcs(Exception):
    """What was given is no VMCS; *problems* says everything that is wrong."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, duplicates and all."""


@dataclass(frozen=True, slots=True)
class _Word:
    """A number of JSON that is no whole number, as it stands there."""

    text: str


class Reading(NamedTuple):
    """A VM entry that somebody described, and what they did not say: the fields, and the capability MSRs."""

    entry: Entry
    assumed: tuple[VmcsField, ...] = ()
    assumed_msrs: frozenset[int] = frozenset()


def pairs_of(data: bytes) -> list[tuple[str, Any]]:
    """The keys and values of the JSON object *data*; BadVmcs when it is none."""
    if len(data) > LARGEST_BYTES:
        raise BadVmcs([Problem("", f"it has more than {LARGEST_BYTES} bytes; a VMCS written down never does")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadVmcs([Problem("", f"byte {error.start} is no UTF-8; expected JSON in UTF-8")]) from None
    try:
        made = json.loads(text, object_pairs_hook=_Pairs, parse_int=_whole, parse_float=_Word, parse_constant=_Word)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadVmcs([Problem("", f"{where}: no JSON: {_not_json(error)}")]) from None
    except RecursionError:
        raise BadVmcs([Problem("", "it is nested too deeply; expected an object of field names and values")]) from None
    if not isinstance(made, _Pairs):
        raise BadVmcs([Problem("", f"it is {_kind(made)}; expected an object of field names and values")])
    return made


def _not_json(error: json.JSONDecodeError) -> str:
    if _HEXADECIMAL_BARE.match(error.doc, max(error.pos - 1, 0)):
        return "a hexadecimal number stands in quotes, such as \"0x10\""
    return error.msg


def _whole(text: str) -> int | _Word:
    return int(text) if len(text) <= 40 else _Word(text)


def read(pairs: Iterable[tuple[str, Any]], base: Capabilities = PROCESSOR, ia32e_now: bool = True,
         over: Entry | None = None) -> Reading:
    """The VM entry that *pairs* describe, and what it had to assume; BadVmcs.

    With *over*, the pairs are changes of that entry, and nothing is assumed.
    """
    values: dict[VmcsField, int] = {}
    msrs: dict[int, int] = {}
    problems: list[Problem] = []
    width, seen = None, set()
    for name, given in pairs:
        known = _FIELDS.get(name)
        limit = known.mask if known is not None else _U64
        if known is None and name not in _MSRS and name != _WIDTH:
            problems.append(Problem(_short(name), _unknown(name, len(problems) < _MOST_NEAR)))
        elif (known or name) in seen:
            problems.append(Problem(name, "it is given twice"))
        elif isinstance(value := number(given, limit), str):
            problems.append(Problem(name, value))
        elif known is not None:
            values[known] = value
        elif name == _WIDTH:
            width = value
        else:
            msrs[_MSRS[name]] = value
        seen.add(known or name)
    problems += _wrong_capabilities(base, msrs, width)
    if problems:
        raise BadVmcs(problems)
    processor = processor_of(base, msrs, width) if msrs or width is not None else base
    if over is not None:
        return Reading(Entry({**over.values, **values}, processor if msrs or width else over.processor, over.memory,
                             over.ia32e_now, over.current_vmcs))
    assumed = tuple(field for field in VmcsField if field not in values and not field.read_only)
    return Reading(Entry(valid_guest(processor) | values, processor, None, ia32e_now), assumed,
                   frozenset(processor.msrs) - _given(processor, msrs))


def explain_values(values: Mapping[str, int | str], base: Capabilities = PROCESSOR) -> Explanation:
    """Explain the VMCS with these *values* by field name, on a small valid guest where they say nothing; BadVmcs.

    For a live VP: `explain(vcpu.entry())`.
    """
    return explain(*read(values.items(), base))


def number(given: Any, limit: int) -> int | str:
    """The value that was *given*, or what is wrong with it."""
    if isinstance(given, str):
        if not _HEXADECIMAL.match(given):
            return f"`{_short(given)}` is no hexadecimal number such as \"0x10\"{_meant(given)}"
        given = int(given, 16)
    if isinstance(given, _Word):
        return f"{_short(given.text)} is no whole number of at most {limit.bit_length()} bits"
    if isinstance(given, bool) or not isinstance(given, int):
        return f"it is {_kind(given)}; expected a number, or a string such as \"0x10\""
    if given < 0:
        return f"{given} is negative; expected 0..{limit:#x}"
    if given > limit:
        return f"{given:#x} does not fit its {limit.bit_length()} bits"
    return given


def _meant(text: str) -> str:
    found = _DIGITS.match(text)
    if found is None:
        return ""
    return f"; write \"0x{found[1]}\"" + (f", or {text} without quotes" if text.isdecimal() and text[0] != "0" else "")


def _unknown(name: str, look_for_near: bool) -> str:
    if _HEXADECIMAL.match(name) and int(name, 16) in VmcsField._value2member_map_:
        return f"it is an encoding; the field is called {VmcsField(int(name, 16)).name}"
    upper = name.upper()
    for ending in ("_AR_BYTES", "_AR"):
        upper = upper.removesuffix(ending) + "_ACCESS_RIGHTS" if upper.endswith(ending) else upper
    upper = _ELSEWHERE.get(upper, upper)
    near = [upper] if upper in _FIELDS else []
    if not near and look_for_near:
        near = difflib.get_close_matches(upper, [*_FIELDS, *_MSRS, _WIDTH], 1, 0.6)
    return "it is no VMCS field" + (f"; did you mean {near[0]}?" if near else "")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}"


def _kind(value: Any) -> str:
    kinds = {_Pairs: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


# --- The processor -----------------------------------------------------------------------------------------------

def _wrong_capabilities(base: Capabilities, msrs: Mapping[int, int], width: int | None) -> list[Problem]:
    problems = []
    if width is not None and width not in _WIDTHS:
        problems.append(Problem(_WIDTH, f"{width} bits; expected {_WIDTHS[0]}..{_WIDTHS[-1]}"))
    basic = VmxBasic(msrs.get(Msr.VMX_BASIC, base.basic.raw))
    for legacy, true in _LEGACY.items():
        if legacy in msrs and basic.true_controls and true not in msrs:
            problems.append(Problem(f"IA32_{legacy.name}", "VM entry does not read it while bit 55 of IA32_VMX_BASIC "
                                    f"is 1; give IA32_{true.name}"))
    for index in _SETTINGS:
        must = msrs.get(index, 0) & ~(msrs.get(index, 0) >> 32) & 0xFFFF_FFFF
        if must:
            problems.append(Problem(f"IA32_{index.name}", f"bits {must:#x} must be 1 (bits 31:0) and may not (63:32)"))
    return problems


def _given(processor: Capabilities, msrs: Mapping[int, int]) -> set[int]:
    """The capability MSRs that *msrs* settle; where there are no TRUE MSRs, the others settle those too."""
    return {*msrs, *(true for legacy, true in _LEGACY.items() if legacy in msrs and not processor.basic.true_controls)}


def processor_of(base: Capabilities, msrs: Mapping[int, int], physical_bits: int | None = None) -> Capabilities:
    """*base* with other capability MSRs. Where IA32_VMX_BASIC has no TRUE MSRs, the others take their place."""
    merged = {**base.msrs, **msrs}
    basic = VmxBasic(merged[Msr.VMX_BASIC])
    if not basic.true_controls:
        merged |= {true: merged[legacy] for legacy, true in _LEGACY.items()}
    made = replace(base, basic=basic, misc=VmxMisc(merged[Msr.VMX_MISC]),
                   ept_vpid=EptVpidCap(merged.get(Msr.VMX_EPT_VPID_CAP, 0)),
                   physical_bits=base.physical_bits if physical_bits is None else physical_bits)
    vars(made)["msrs"] = merged         # where the cached property keeps what it computed
    return made

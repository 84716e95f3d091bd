"""A hypercall or a status as lines for people: what `hv explain` says of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import hv.hypervisor.hypercalls  # noqa: F401  registers the calls
from hv.debug.declared import Field, bits_of, fields_of, summary
from hv.debug.entry_text import Line
from hv.hypervisor.hypercalls.left_out import reason
from hv.hypervisor.hypercalls.parameters import REGISTER_BLOCK_SIZE
from hv.hypervisor.hypercalls.registry import FAST_INPUT_SIZE, HYPERCALLS, Declaration
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus, meaning
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.layout import Layout

_FIRST_EXTENDED = 0x8000
_WORD = 32                              # bits of EAX; the privileges above are EBX's


def call_name(code: HypercallCode) -> str:
    """The name in the manual: HvCallPostMessage."""
    prefix, words = ("HvExtCall", code.name.removeprefix("EXT_CALL_")) if code >= _FIRST_EXTENDED \
        else ("HvCall", code.name)
    return prefix + "".join(word.capitalize() for word in words.split("_"))


def kind_of(call: Declaration) -> str:
    """Simple or rep, and whether it has a variable header."""
    return ("rep" if call.rep else "simple") + (" with a variable header" if call.variable else "")


def privileges(mask: int) -> list[str]:
    """Each privilege of *mask* in the manual's casing, and where CPUID shows it."""
    return [_privilege(flag) for flag in HvPrivilege if mask & flag]


def _privilege(flag: HvPrivilege) -> str:
    name, bit = "".join(word.capitalize() for word in str(flag.name).split("_")), int(flag).bit_length() - 1
    return f"{name} (CPUID 0x40000003 {'EAX' if bit < _WORD else 'EBX'} bit {bit % _WORD})"


def call_told(code: HypercallCode, control: int | None = None) -> Iterator[Line]:
    """What the call *code* does and takes; *control* is an input value that is decoded for it."""
    call = HYPERCALLS.get(int(code))
    yield [("bold", call_name(code)), ("", f"   {int(code):#06x}   "), ("", kind_of(call) if call else "not built")]
    yield []
    if call is None:
        yield [("", f"{reason(code)}; the answer is {HvStatus.INVALID_HYPERCALL_CODE.name}.")]
    else:
        yield from _built(call)
    if control is not None:
        yield from _control_told(control, call)


def _built(call: Declaration) -> Iterator[Line]:
    yield from ([("", line)] for line in (inspect.getdoc(call.handler) or "").splitlines())
    yield []
    yield labelled("needs", "; ".join(privileges(call.privilege)) or "no privilege")
    yield labelled("forms", _forms(call))
    yield from _block("input", call.input)
    yield from _block("each rep in", call.rep_input)
    yield from _block("output", call.output)
    yield from _block("each rep out", call.rep_output)
    module = call.handler.__module__.replace(".", "/")
    yield labelled("done in", f"{module}.py, {call.handler.__name__}")
    yield labelled("manual", f'TLFS "{call_name(call.code)}"')


def _forms(call: Declaration) -> str:
    if not (call.input or call.output):
        return "no parameters"
    size = _register_bytes(call)
    if size > REGISTER_BLOCK_SIZE:
        return "memory"
    where = "registers" if size <= FAST_INPUT_SIZE else "XMM registers"
    return f"memory, or {where} (fast){' while the list fits' if call.rep_input or call.rep_output else ''}"


def _register_bytes(call: Declaration) -> int:
    """What the fast form needs at least: output begins at a multiple of 16. TLFS "XMM Fast Hypercall Output"."""
    size = call.input_size + (call.rep_input.SIZE if call.rep_input else 0)
    output_size = call.output_size + (call.rep_output.SIZE if call.rep_output else 0)
    return -(-size // FAST_INPUT_SIZE) * FAST_INPUT_SIZE + output_size if output_size else size


def labelled(label: str, text: str) -> Line:
    """A line with its label."""
    return [("dim", f"{label:<13}"), ("", text)]


def _block(label: str, layout: type[Layout] | None) -> Iterator[Line]:
    if layout is None:
        return
    yield labelled(label, f"{layout.__name__}, {layout.SIZE} bytes")
    yield from fields_told(fields_of(layout))


def fields_told(fields: Iterable[Field]) -> Iterator[Line]:
    """A line for each field, in columns."""
    fields = list(fields)
    place, name, kind = (max((len(getattr(field, part)) for field in fields), default=0)
                         for part in ("place", "name", "kind"))
    for field in fields:
        yield [("dim", f"   {field.place:>{place}}  "), ("", f"{field.name:<{name}}  "),
               ("bold", f"{field.kind:<{kind}}  "), ("dim", field.words)]


def _control_told(control: int, call: Declaration | None) -> Iterator[Line]:
    yield []
    yield labelled("input value", f"{control:#018x}")
    yield from fields_told(bits_of(HypercallControl, control))
    for wrong in _wrong_shape(HypercallControl(control), call):
        yield [("bad", f"   {HvStatus.INVALID_HYPERCALL_INPUT.name}: {wrong}")]


def _wrong_shape(control: HypercallControl, call: Declaration | None) -> Iterator[str]:
    """What the door refuses in *control*, whatever the parameters are."""
    if control.raw & HypercallControl.RESERVED:
        yield f"reserved bits {control.raw & HypercallControl.RESERVED:#x} are set"
    if control.is_nested:
        yield "the hypervisor is not nested"
    if call is None:
        return
    if not call.variable and control.variable_header_size:
        yield "the call has no variable header"
    if not call.rep and (control.rep_count or control.rep_start):
        yield "a simple call has neither rep count nor rep start"
    if call.rep and not control.rep_count:
        yield "a rep call needs a rep count"
    elif call.rep and control.rep_start >= control.rep_count:
        yield f"rep start {control.rep_start} is not below rep count {control.rep_count}"


def calls_told() -> Iterator[Line]:
    """Every call in a line."""
    width = max(len(call_name(code)) for code in HypercallCode)
    for code in HypercallCode:
        call = HYPERCALLS.get(int(code))
        text = summary(call.handler) if call else f"not built: {reason(code)}"
        yield [("", f"{int(code):#06x}  "), ("bold" if call else "dim", f"{call_name(code):<{width}}  "), ("dim", text)]


def call_as_data(code: HypercallCode) -> dict[str, Any]:
    """The same as plain data."""
    call = HYPERCALLS.get(int(code))
    told: dict[str, Any] = {"code": int(code), "name": call_name(code), "built": call is not None}
    if call is None:
        return told | {"reason": reason(code)}
    blocks = {"input": call.input, "rep_input": call.rep_input, "output": call.output, "rep_output": call.rep_output}
    return told | {
        "kind": kind_of(call), "does": summary(call.handler), "privileges": privileges(call.privilege),
        "fast": _register_bytes(call) <= REGISTER_BLOCK_SIZE,
        **{name: [field._asdict() for field in fields_of(layout)] if layout else None
           for name, layout in blocks.items()}}


def status_told(status: HvStatus, result: int | None = None) -> Iterator[Line]:
    """What a status means, what to do, and which built calls name it; *result* is a result value to decode."""
    means, remedy = meaning(status)
    yield [("bold", f"HV_STATUS_{status.name}"), ("", f"   {int(status):#06x}")]
    yield []
    yield labelled("means", f"{means}.")
    if remedy:
        yield labelled("then", f"{remedy}.")
    named = calls_that_name(status)
    if named:
        yield labelled("said of", ", ".join(named))
    yield labelled("manual", 'TLFS "Hypercall Status Codes"')
    if result is not None:
        yield []
        yield labelled("result", f"{result:#018x}")
        yield from fields_told(bits_of(HypercallResult, result))


def status_as_data(status: HvStatus, result: int | None = None) -> dict[str, Any]:
    """The same as plain data."""
    means, remedy = meaning(status)
    told = {"code": int(status), "name": status.name, "means": means, "then": remedy or None,
            "calls": calls_that_name(status)}
    return told if result is None else told | {"reps_complete": HypercallResult(result).reps_complete}


def calls_that_name(status: HvStatus) -> list[str]:
    """The calls in whose description the status stands."""
    return [call_name(call.code) for _, call in sorted(HYPERCALLS.items())
            if status.name in (call.handler.__doc__ or "")]


def statuses_told() -> Iterator[Line]:
    """Every status in a line."""
    width = max(len(status.name) for status in HvStatus)
    for status in HvStatus:
        yield [("", f"{int(status):#06x}  "), ("bold", f"{status.name:<{width}}  "), ("dim", meaning(status)[0])]

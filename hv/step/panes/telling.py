"""An event in a few words: its name, and what it is about."""

from __future__ import annotations

from enum import Enum
from typing import Any

from hv.debug.commands.story import named
from hv.debug.facts import ENUMERATIONS, Fact
from hv.debug.render import number
from hv.spec.exits import ExitReason, InterruptionType
from hv.spec.hypercalls.codes import HypercallCode
from hv.step.text import Line
from hv.step.world import device_name
from hv.vmx.exit import VmExit

_BESIDE = frozenset({"why"})            # fields that are told without their names
_QUIET = frozenset({"control", "input_gpa", "output_gpa"})


def told(fact: Fact) -> Line:
    """`WRMSR  HV_X64_MSR_SIMP (0x40000083) = 0x101`."""
    event = fact.record.event
    if isinstance(event, VmExit):
        return [("name", event.reason.name), ("", _about_exit(event, fact))]
    values = event.inspect() if hasattr(event, "inspect") else {}
    return [("", type(event).__name__), ("dim", _about(values))]


def _about(values: dict[str, Any]) -> str:
    return "".join(f"  {_part(name, value)}" for name, value in values.items()
                   if value not in ("", None) and name not in _QUIET)


def _part(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value or name != "write" else "read"
    return str(value) if name in _BESIDE else f"{name} {_value(name, value)}"


def _value(name: str, value: Any) -> str:
    if isinstance(value, str) and not isinstance(value, Enum):
        return repr(value)
    if name == "source_id":
        return device_name(value)
    if name == "kind":
        return InterruptionType(value).name
    if isinstance(value, tuple | list):
        return ", ".join(_value("", part) for part in value)
    if isinstance(value, int) and not isinstance(value, Enum) and name not in ENUMERATIONS:
        return number(value)
    return named(name, value)


def _about_exit(exit: VmExit, fact: Fact) -> str:
    of = fact.operands
    match exit.reason:
        case ExitReason.RDMSR if "msr" in of:
            return f"  {named('msr', of['msr'])}"
        case ExitReason.WRMSR if "msr" in of:
            return f"  {named('msr', of['msr'])} = {of['value']:#x}"
        case ExitReason.CPUID if "leaf" in of:
            return f"  leaf {of['leaf']:#x}" + (f", subleaf {of['subleaf']:#x}" if of["subleaf"] else "")
        case ExitReason.VMCALL if "code" in of:
            return f"  {_call(of['code'])}"
        case ExitReason.IO_INSTRUCTION if "port" in of:
            value = f" = {of['value']:#x}{_letter(of['value'])}" if "value" in of else ""
            return f"  {'out' if of['write'] else 'in'} {of['port']:#x}{value}"
        case ExitReason.CR_ACCESS if "number" in of:
            return f"  cr{of['number']}"
    if "vector" in of:
        return f"  vector {of['vector']:#x}"
    if "gpa" in of:
        return f"  gpa {of['gpa']:#x}"
    return ""


def _call(code: int) -> str:
    known = HypercallCode._value2member_map_.get(code)
    return f"{known.name} ({code:#x})" if known is not None else f"code {code:#x}"


def _letter(value: int) -> str:
    return f" {chr(value)!r}" if 0x20 <= value < 0x7F else ""

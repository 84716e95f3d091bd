"""The exit under the microscope: its stages, with the fields of the VMCS that each one changed."""

from __future__ import annotations

import re
from typing import Any

from hv.hypervisor.verdicts import Halt, Inject, Verdict
from hv.spec.vmcs import VmcsField
from hv.spec.x86 import Vector
from hv.step.model import Model
from hv.step.panes.telling import told
from hv.step.stages import Change, Microscope, Stage
from hv.step.text import Line, filled
from hv.vmx.checks.words import decoded

_HANG = 14                      # columns in front of what belongs to a stage
_MOST = 7                       # changes or events of a stage, where the screen is small
_TITLES = {
    "exit": "the processor stops the guest", "saved": "it saves what it was doing into the VMCS",
    "handler": "the hypervisor's function for this reason", "verdict": "what it decided",
    "others": "what others do meanwhile", "injected": "the event that the guest gets",
    "entry": "the processor runs on",
}


def lines(model: Model, width: int, height: int) -> list[Line]:
    """In *width* columns and *height* lines; the stage where one is, is in sight."""
    microscope = model.microscope
    if microscope is None:
        return [[("dim", "no VM exit yet: `e` goes to the first one")]]
    current = model.stage
    shown: list[Line] = [_heading(model, microscope)]
    begins = [0] * (len(microscope.stages) + 1)
    for number, stage in enumerate(microscope.stages):
        begins[number] = len(shown)
        shown += _stage(model, microscope, stage, number, number == current, width)
    begins[-1] = len(shown)
    last = max(height, begins[current + 1])
    first = min(max(0, last - height), begins[current]) if len(shown) > height else 0
    visible = shown if not first else [shown[0], *shown[first + 1 :]]
    return visible[:height]


def _heading(model: Model, microscope: Microscope) -> Line:
    fact = microscope.happening.fact
    rip = fact.operands.get("rip")
    place = "" if rip is None else f"  at {model.places.name(microscope.who.vm, rip)}"
    return [("head", f"E{microscope.number}  "), *told(fact), ("dim", f"  {microscope.who}{place}")]


def _stage(model: Model, microscope: Microscope, stage: Stage, number: int, here: bool, width: int) -> list[Line]:
    title = _TITLES[stage.name]
    if stage.name == "entry" and microscope.entry is not None:
        runs = microscope.entry.runs
        at = model.places.name(microscope.entry.who.vm, microscope.entry.rip)
        title = f"{runs} runs on at {at}" if runs == microscope.who else f"{runs} runs now, at {at}"
    mark, style = ("=>", "here") if here else ("  ", "head")
    return [[(style, f"{mark}{number + 1} {stage.name:<9}"), ("", " "), ("" if here else "dim", title)],
            *_body(microscope, stage, width)]


def _body(microscope: Microscope, stage: Stage, width: int) -> list[Line]:
    lines: list[Line] = []
    room = width - _HANG
    if stage.name == "exit":
        lines += [*_reason(microscope), *_because(microscope, room)]
    elif stage.name == "handler":
        lines += [[("name", microscope.handler.name), ("dim", f"  hv/{microscope.handler.place}")],
                  *filled(microscope.handler.says, room, style="dim")]
    elif stage.name == "verdict":
        lines += _verdict(microscope.verdict, room)
    lines += [[("dim", f"+{one.position.events} "), *told(one.fact)] for one in stage.events[:_MOST]]
    lines += _more(len(stage.events))
    width_of_name = max((len(_name(change)) for change in stage.changes[:_MOST]), default=0)
    lines += [_change(change, width_of_name) for change in stage.changes[:_MOST]]
    lines += _more(len(stage.changes))
    return [[("", " " * _HANG), *line] for line in lines]


def _more(count: int) -> list[Line]:
    return [[("dim", f"and {count - _MOST} more")]] if count > _MOST else []


def _reason(microscope: Microscope) -> list[Line]:
    exit = microscope.exit
    line: Line = [("dim", "reason "), ("name", exit.reason.name), ("dim", f" ({int(exit.reason)})  qualification "),
                  ("", f"{exit.qualification:#x}")]
    if exit.instruction_length:
        line += [("dim", "  length "), ("", str(exit.instruction_length))]
    for name, value in (("gpa", exit.guest_physical_address), ("gva", exit.guest_linear_address)):
        if value is not None:
            line += [("dim", f"  {name} "), ("at", f"{value:x}")]
    return [line]


def _because(microscope: Microscope, width: int) -> list[Line]:
    """Why it is an exit."""
    lines: list[Line] = []
    for depth, text in microscope.causes[:_MOST]:
        lines += filled(text, width, "  " * depth, "name" if depth else "dim")
    return lines


def _name(change: Change) -> str:
    return change.what if isinstance(change.what, str) else change.what.name


def _change(change: Change, width: int) -> Line:
    line: Line = [("new", f"*{_name(change):<{width}}  "), ("old", f"{change.old:#x}"), ("dim", " -> "),
                  ("new", f"{change.new:#x}")]
    if isinstance(change.what, VmcsField) and change.new and change.what in _WORTH_WORDS:
        line.append(("dim", f"  {decoded(change.what, change.new)}"))
    return line


_WORTH_WORDS = {VmcsField.EXIT_REASON, VmcsField.GUEST_INTERRUPTIBILITY_STATE, VmcsField.GUEST_RFLAGS,
                VmcsField.VM_ENTRY_INTERRUPTION_INFO, VmcsField.GUEST_ACTIVITY_STATE,
                VmcsField.GUEST_INTERRUPT_STATUS}


def _verdict(verdict: Verdict | None, width: int) -> list[Line]:
    if verdict is None:
        return [[("dim", "the recording ends before")]]
    return [[("good", _word(verdict))], *filled(_meaning(verdict), width, style="dim")]


def _word(verdict: Any) -> str:
    if isinstance(verdict, Inject):
        vector = Vector._value2member_map_.get(verdict.vector)
        code = "" if verdict.error_code is None else f", error code {verdict.error_code:#x}"
        return f"Inject #{vector.name if vector is not None else verdict.vector}{code}"
    return f"{type(verdict).__name__}{f': {verdict.why}' if isinstance(verdict, Halt) else ''}"


def _meaning(verdict: Any) -> str:
    """The first sentences of the verdict's own docstring."""
    return re.sub(r"\*(\w+)\*", r"\1", " ".join((type(verdict).__doc__ or "").split()))

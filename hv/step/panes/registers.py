"""Registers: what has changed since the place shown before, then all of them."""

from __future__ import annotations

from hv.debug.commands.registers import flags
from hv.step.model import Model
from hv.step.moment import SEGMENTS, Moment
from hv.step.text import Line

_GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
            "r15")
_CONTROL = ("cr0", "cr2", "cr3", "cr4", "efer")
_CELL = 23                      # columns: a mark, a name, sixteen digits, a gap
_TABLES = ("gdtr", "idtr")


def lines(model: Model, width: int, height: int) -> list[Line]:
    """In *width* columns and *height* lines."""
    moment, before = model.moment, model.earlier
    if not moment.there:
        return [[("dim", f"{moment.who} is not there any more")]]
    if before is not None and (before.who != moment.who or not before.there):
        before = None
    shown = [*_changed(model, moment, before, height), *_general(moment, before, width), *_others(moment, before),
             *_segments(moment, before)]
    return shown[:height]


def _changed(model: Model, moment: Moment, before: Moment | None, height: int) -> list[Line]:
    """Old -> new of each register that differs, rip by its name."""
    if before is None:
        return []
    found = [name for name, value in moment.registers.items() if before.registers[name] != value]
    since = "the beginning" if model.before is None else model.name_of(before.position)
    lines: list[Line] = [[("dim", f"since {since}: " + ("nothing changed here" if not found else ""))]]
    most = max(3, height - 16)
    for name in found[:most]:
        old, new = (_shown(model, one, name) for one in (before, moment))
        lines.append([("new", f" *{name:<7}"), ("old", old), ("dim", " -> "), ("new", new)])
    if len(found) > most:
        lines.append([("dim", f"  and {len(found) - most} more")])
    return [*lines, []]


def _shown(model: Model, moment: Moment, name: str) -> str:
    value = moment.registers[name]
    if name == "rip":
        return model.places.name(moment.who.vm, moment.rip)
    return f"{value:#x} {flags(value)}" if name == "rflags" else f"{value:#x}"


def _general(moment: Moment, before: Moment | None, width: int) -> list[Line]:
    columns = max(1, min(4, (width + 2) // _CELL))
    rows = -(-len(_GENERAL) // columns)
    return [[piece for name in _GENERAL[row::rows] for piece in _cell(moment, before, name)] for row in range(rows)]


def _cell(moment: Moment, before: Moment | None, name: str) -> Line:
    value = moment.registers[name]
    new = before is not None and before.registers[name] != value
    style = "new" if new else "dim" if not value else ""
    return [("new" if new else "dim", f"{'*' if new else ' '}{name:<4}"), (f"{style} at".strip(), f"{value:016x}"),
            ("", "  ")]


def _others(moment: Moment, before: Moment | None) -> list[Line]:
    """rip and rflags, then the control registers."""
    value = moment.registers["rflags"]
    new = before is not None and before.registers["rflags"] != value
    return [[*_cell(moment, before, "rip"), ("name", f" {moment.bits} bit, cpl {moment.registers['cpl']}")],
            [("new" if new else "dim", f"{'*' if new else ' '}rflags "), ("new" if new else "", f"{value:x}  "),
             ("new" if new else "name", flags(value))],
            _row(moment, before, _CONTROL[:3]), _row(moment, before, _CONTROL[3:])]


def _row(moment: Moment, before: Moment | None, names: tuple[str, ...]) -> Line:
    line: Line = []
    for name in names:
        value = moment.registers[name]
        new = before is not None and before.registers[name] != value
        line += [("new" if new else "dim", f"{'*' if new else ' '}{name:<5}"),
                 ("new" if new else "dim" if not value else "", f"{value:x}  ")]
    return line


def _segments(moment: Moment, before: Moment | None) -> list[Line]:
    lines: list[Line] = []
    for name in (*SEGMENTS, *_TABLES):
        selector, base, limit, rights = moment.segments[name]
        new = before is not None and before.segments[name] != moment.segments[name]
        first = "    " if name in _TABLES else f"{selector:04x}"
        last = "" if name in _TABLES else f"  rights {rights:05x}"
        lines.append([("new" if new else "dim", f"{'*' if new else ' '}{name:<4} "),
                      ("new" if new else "", f"{first}  base {base:x}  limit {limit:x}{last}")])
    return lines

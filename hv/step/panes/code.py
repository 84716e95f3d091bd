"""Code: the instructions around the next one, beside the lines of the source."""

from __future__ import annotations

from hv.step.model import Model
from hv.step.moment import Instruction, Moment
from hv.step.text import Line

_BEFORE = 13                            # columns of the mark and the address
_SHORTEST, _LONGEST = 16, 36            # of an instruction
_SOURCE = 22                            # which are enough for the text of a line of the source
_BYTES, _WIDE = 25, 118                 # of the bytes, and from which width on they are shown


def lines(model: Model, width: int, height: int) -> list[Line]:
    """In *width* columns and *height* lines."""
    moment = model.moment
    if not moment.there:
        return [[("dim", f"{moment.who} is not there any more")]]
    if not moment.code:
        return [[("bad", f"no code can be read at {moment.rip:#x}: {moment.no_code}")]]
    shown, here = list[Line](), 0
    share = (width - _BEFORE) * 9 // 20
    room = min(_LONGEST, share, max(_SHORTEST, *(len(one.text) for one in moment.code)) + 1)
    for one in moment.code:
        shown += _label(model, moment, one, width)
        if one.gva == moment.rip:
            here = len(shown)
        shown.append(_line(model, moment, one, width, room))
    first = max(0, min(here - height // 3, len(shown) - height))
    return shown[first : first + height]


def _label(model: Model, moment: Moment, one: Instruction, width: int) -> list[Line]:
    name = model.places.name(moment.who.vm, one.gva)
    if "+" in name or name.startswith("0x"):
        return []
    place = model.places.source(moment.who.vm, one.gva).rpartition(":")[0]
    return [[("name", f"{name}:"), ("dim", f"  {place}" if place else "")]]


def _line(model: Model, moment: Moment, one: Instruction, width: int, room: int) -> Line:
    here = one.gva == moment.rip
    style = "here" if here else ""
    line: Line = [(style, "=> " if here else "   "), (style if here else "at", f"{one.gva:08x}"), (style, "  ")]
    if width >= _WIDE:
        line.append((style if here else "dim", f"{one.code.hex(' '):<{_BYTES}}"))
    place = model.places.source(moment.who.vm, one.gva)
    source = model.sources.line(place).strip()
    text = one.text if len(one.text) < room else one.text[: room - 2] + "…"
    line.append((style, f"{text:<{room}}"))
    if width - _BEFORE - room < _SOURCE or not source:
        return [*line, ("dim", place)]
    return [*line, ("dim", f"{place.rpartition(':')[2]:>4} "), *_source(source)]


def _source(text: str) -> Line:
    """A line of assembly: what it says, and its comment."""
    code, mark, comment = text.partition(";")
    return [("", code.rstrip()), ("dim", f"  {mark}{comment}" if mark else "")]

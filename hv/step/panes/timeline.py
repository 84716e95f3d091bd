"""The timeline: what happened, in order, and where in it one is."""

from __future__ import annotations

from typing import NamedTuple

from hv.replay.position import Position
from hv.step.model import Model
from hv.step.panes.telling import told
from hv.step.reel import END
from hv.step.story import Happening
from hv.step.text import Line, cut

_PLACE, _TIME, _WHO = 8, 11, 10     # columns
_WIDE = 66                          # from here on there is room for the time


class Row(NamedTuple):
    """A line, and the place it is about."""

    position: Position
    line: Line


def lines(model: Model, width: int, height: int) -> list[Line]:
    """In *width* columns and *height* lines."""
    return [row.line for row in rows(model, width, height)]


def rows(model: Model, width: int, height: int, scrolled: int = 0) -> list[Row]:
    """The events around the place where one is, which stands in the middle; or *scrolled* lines further on."""
    happenings, here = model.story.happenings, model.here
    index = len(happenings) if here == END else model.story.index(here)
    own = model.story.at(here) is None
    first = max(-1, min(index - height // 2 + scrolled, len(happenings) + 1 - height))
    found: list[Row] = []
    for number in range(first, min(len(happenings), first + height)):
        if number < 0:
            found.append(_own(model, Position(), "the recording begins", here == Position()))
        else:
            found.append(_row(model, happenings[number], happenings[number].position == here, width))
        if own and number == index and here not in (Position(), END):
            count = model.reel.stretch(here.exits).instructions
            found.append(_own(model, here, f"instruction {here.instructions} of {count}", True))
    if first + height > len(happenings):
        found.append(_own(model, END, f"the end: {model.story.ending}", here == END))
    return [Row(row.position, cut(row.line, width)) for row in found[:height]]


def _own(model: Model, position: Position, text: str, here: bool) -> Row:
    """A place that is no event."""
    style = "here" if here else "dim"
    return Row(position, [(style, f"{'=>' if here else '  '} {_name(position, model):<{_PLACE}}"), (style, text)])


def _row(model: Model, one: Happening, here: bool, width: int) -> Row:
    record = one.fact.record
    name = f"{model.story.names.get(record.partition, record.partition)}.{record.vp}"
    time = f"{(record.tsc - model.story.began) / 2000:.1f}"
    style = "here" if here else "head" if one.is_exit else "dim"
    place = str(one.position) if one.is_exit else f"  +{one.position.events}"
    when = f"{time:>{_TIME - 3}} us " if width >= _WIDE else ""
    return Row(one.position, [(style, f"{'=>' if here else '  '} {place:<{_PLACE}}"),
                              ("dim", f"{when}{name:<{_WHO}} "), *told(one.fact)])


def _name(position: Position, model: Model) -> str:
    return "end" if position == END else str(position)

"""The whole screen as lines: which panes there is room for, where each stands, and what is under the mouse.

    80 x 24     a row of tabs; the code above, the chosen pane below
    120 x 40    two columns: code and the exit, registers and one of the others
    170 x 45    three columns: everything
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from hv.replay.position import Position
from hv.step.model import Model
from hv.step.panes import BY_NAME, PANES
from hv.step.panes.timeline import rows
from hv.step.reel import END
from hv.step.text import Line, columns, padded, width_of

LEAST_WIDTH, LEAST_HEIGHT = 60, 16
_TWO, _THREE = (110, 30), (168, 42)         # columns and lines from which there are so many columns of panes
_ALL = tuple(pane.name for pane in PANES)
_SMALL_CODE = 8                             # lines of code above the chosen pane, on a small screen
_RULE, _GAP = "─", 2

# What the last line offers: keys, what they do, and the action behind them.
KEYS = (
    ("s S", "instruction", "move('instruction')"), ("e E", "exit", "move('exit')"), ("v V", "event", "move('event')"),
    ("m M", "stage", "move('stage')"), ("g", "go to", "ask_place"), ("?", "help", "help"), ("q", "quit", "quit"),
    ("tab", "pane", "next_pane(1)"), ("a", "memory", "ask_address"), ("w", "who", "next_vp"),
    ("t", "light/dark", "change_look"),
)
_SHORT = {"instruction": "instr", "light/dark": "light"}
_NEEDED = ("s S", "e E", "v V", "?", "q")   # where there is no room for all, these come first


class Region(NamedTuple):
    """Where something stands: a pane by its name, a tab, a key or the bar; *what* says which."""

    kind: str
    what: str
    x: int
    y: int
    width: int
    height: int

    def holds(self, x: int, y: int) -> bool:
        """The point is in it."""
        return self.x <= x < self.x + self.width and self.y <= y < self.y + self.height


class Board(NamedTuple):
    """A screen: as many lines as it is high, each as wide as it is."""

    lines: list[Line]
    regions: tuple[Region, ...]


@dataclass
class Look:
    """What the user has chosen to see: the pane that is *active*, and how far each is scrolled."""

    active: str = "exit"
    scrolled: dict[str, int] = field(default_factory=dict)

    def choose(self, name: str) -> None:
        """Make a pane the active one."""
        self.active = name

    def next_pane(self, way: int) -> None:
        """The one behind, or before."""
        self.active = _ALL[(_ALL.index(self.active) + way) % len(_ALL)]

    def scroll(self, name: str, lines: int) -> None:
        """Up or down."""
        self.scrolled[name] = max(-500, min(self.scrolled.get(name, 0) + lines, 500))
        if name != "timeline":
            self.scrolled[name] = max(0, self.scrolled[name])

    def moved(self) -> None:
        """One is somewhere else: panes show what matters there."""
        self.scrolled.clear()


class _Slot(NamedTuple):
    """A place for a pane."""

    name: str
    x: int
    y: int
    width: int
    height: int


def board(model: Model, look: Look, width: int, height: int) -> Board:
    """The screen of *width* columns and *height* lines."""
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        return _too_small(width, height)
    regions: list[Region] = []
    top = [_headline(model, width, regions)]
    if (width, height) < _TWO or height < _TWO[1]:
        top.append(_tabs(look, width, regions))
    slots = _slots(look, width, height, len(top))
    drawn = [(slot, _drawn(model, look, slot)) for slot in slots]
    regions += [Region("pane", slot.name, slot.x, slot.y, slot.width, slot.height) for slot in slots]
    body = [_row(drawn, y, width) for y in range(len(top), height - 1)]
    return Board([*top, *body, _last(model, width, height, regions)], tuple(regions))


def _too_small(width: int, height: int) -> Board:
    words = [f"This terminal is {width} x {height};", f"hv step needs {LEAST_WIDTH} x {LEAST_HEIGHT}.",
             "Make it larger,", "or use hv step --plain.", "q quits."]
    lines: list[Line] = [padded([("", text)], width) for text in words[:height]]
    return Board([*lines, *([("", " " * width)] for _ in range(height - len(lines)))], ())


# --- where panes stand -------------------------------------------------------------------------------------


def _slots(look: Look, width: int, height: int, top: int) -> list[_Slot]:
    room = height - top - 1
    if width >= _THREE[0] and height >= _THREE[1]:
        return _three(width, top, room)
    if width >= _TWO[0] and height >= _TWO[1]:
        return _two(look, width, top, room)
    if look.active == "code":
        return [_Slot("code", 0, top, width, room)]
    code = min(_SMALL_CODE, room // 2)
    return [_Slot("code", 0, top, width, code), _Slot(look.active, 0, top + code, width, room - code)]


def _two(look: Look, width: int, top: int, room: int) -> list[_Slot]:
    """Code and the exit beside registers and another one."""
    right = max(48, width * 2 // 5)
    left, x = width - right - _GAP, width - right
    code, registers = room * 2 // 5, min(18, room // 2)
    other = look.active if look.active in ("memory", "machine", "timeline") else "timeline"
    return [_Slot("code", 0, top, left, code), _Slot("exit", 0, top + code, left, room - code),
            _Slot("registers", x, top, right, registers), _Slot(other, x, top + registers, right, room - registers)]


def _three(width: int, top: int, room: int) -> list[_Slot]:
    middle = max(48, width // 4)
    right = max(50, width * 3 // 10)
    left = width - middle - right - 2 * _GAP
    x, far = left + _GAP, left + middle + 2 * _GAP
    code, registers, machine = room * 2 // 5, min(30, room * 3 // 5), room * 2 // 5
    return [_Slot("code", 0, top, left, code), _Slot("exit", 0, top + code, left, room - code),
            _Slot("registers", x, top, middle, registers),
            _Slot("memory", x, top + registers, middle, room - registers),
            _Slot("machine", far, top, right, machine), _Slot("timeline", far, top + machine, right, room - machine)]


def _drawn(model: Model, look: Look, slot: _Slot) -> list[Line]:
    """A pane with its title, in exactly its place."""
    pane = BY_NAME[slot.name]
    style = "name" if look.active == slot.name else "dim"
    mark = "▸ " if look.active == slot.name else _RULE + " "
    title: Line = [(style, mark), ("head" if look.active == slot.name else "dim", pane.title), ("dim", " ")]
    title.append((style, _RULE * max(0, slot.width - width_of(title))))
    lines = _scrolled(model, slot, look.scrolled.get(slot.name, 0))
    return [title, *lines][: slot.height]


def _scrolled(model: Model, slot: _Slot, by: int) -> list[Line]:
    height = slot.height - 1
    if slot.name == "timeline":
        return [row.line for row in rows(model, slot.width, height, by)]
    pane = BY_NAME[slot.name]
    if not by:
        return pane.lines(model, slot.width, height)
    return pane.lines(model, slot.width, 500)[by : by + height]


def _row(drawn: Sequence[tuple[_Slot, list[Line]]], y: int, width: int) -> Line:
    """Line *y* of the screen."""
    line: Line = []
    for slot, lines in sorted(drawn, key=lambda one: one[0].x):
        if slot.y <= y < slot.y + slot.height:
            line.append(("", " " * (slot.x - width_of(line))))
            number = y - slot.y
            line += padded(lines[number] if number < len(lines) else [], slot.width)
    return padded(line, width)


# --- the first lines and the last one ----------------------------------------------------------------------


def _headline(model: Model, width: int, regions: list[Region]) -> Line:
    """Place, whose registers these are, time, and a bar with a mark where one is."""
    moment = model.moment
    time = (moment.tsc - model.story.began) / 2000
    line: Line = [("here", f" {model.name} "), ("", " "), ("name", str(moment.who)),
                  ("dim", " chosen" if model.chosen else ""), ("dim", f"  {time:.1f} us  ")]
    end = f" E{model.moves.last_exit}"
    start = max(width_of(line), 38 if width < _TWO[0] else 44)
    line.append(("", " " * (start - width_of(line))))
    room = width - start - len(end) - 4
    if room < 10:
        return padded(line, width)
    place = _share(model, room)
    regions.append(Region("bar", "", start + 3, 0, room, 1))
    line += [("dim", "E0 " + _RULE * place), ("new", "●"), ("dim", _RULE * (room - place - 1) + end)]
    return padded(line, width)


def _share(model: Model, room: int) -> int:
    count = len(model.story.happenings)
    index = count if model.here == END else model.story.index(model.here) + 1
    return index * (room - 1) // max(count, 1)


def place_on_bar(model: Model, x: int, room: int) -> Position:
    """The place that column *x* of the bar stands for."""
    count = len(model.story.happenings)
    index = x * count // max(room - 1, 1) - 1
    return Position() if index < 0 or not count else model.story.happenings[min(index, count - 1)].position


def _tabs(look: Look, width: int, regions: list[Region]) -> Line:
    line: Line = []
    for number, pane in enumerate(PANES, 1):
        chosen = pane.name == look.active
        text = f" {number} {pane.title} "
        regions.append(Region("tab", pane.name, width_of(line), 1, len(text), 1))
        line.append(("here" if chosen else "dim", text))
        line.append(("", " "))
    return padded(line, width)


def _last(model: Model, width: int, height: int, regions: list[Region]) -> Line:
    """What there is to say about the last move; else the keys, as many as there is room for."""
    if model.said:
        return padded([("new", f" {model.said}")], width)
    line: Line = []
    for keys, word, action in _keys_for(width):
        regions.append(Region("key", action, width_of(line), height - 1, len(keys) + len(word) + 2, 1))
        line += [("name", f" {keys} "), ("dim", word), ("", " ")]
    return padded(line, width)


def _keys_for(width: int) -> list[tuple[str, str, str]]:
    """As many of KEYS as there is room for, in their order."""
    if sum(len(keys) + len(does) + 3 for keys, does, _ in KEYS) <= width:
        return list(KEYS)
    room, kept = width, set[str]()
    for keys, does, _ in sorted(KEYS, key=lambda key: key[0] not in _NEEDED):
        if len(keys) + len(_SHORT.get(does, does)) + 3 <= room:
            room -= len(keys) + len(_SHORT.get(does, does)) + 3
            kept.add(keys)
    return [(keys, _SHORT.get(does, does), action) for keys, does, action in KEYS if keys in kept]


# --- what is where -----------------------------------------------------------------------------------------


def region_at(shown: Board, x: int, y: int) -> Region | None:
    """What stands there."""
    return next((region for region in shown.regions if region.holds(x, y)), None)


def word_at(shown: Board, x: int, y: int) -> tuple[str, str]:
    """The style and the text of the piece that stands there."""
    column = 0
    for style, text in shown.lines[y] if y < len(shown.lines) else ():
        column += columns(text)
        if x < column:
            return style, text
    return "", ""


def place_in_timeline(model: Model, look: Look, region: Region, y: int) -> Position | None:
    """The place that line *y* of the timeline in *region* is about."""
    found = rows(model, region.width, region.height - 1, look.scrolled.get("timeline", 0))
    number = y - region.y - 1
    return found[number].position if 0 <= number < len(found) else None


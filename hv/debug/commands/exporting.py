"""export: what was seen is taken along, in files that other programs open."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import PurePath
from typing import TYPE_CHECKING

from hv.debug.completion import Word
from hv.debug.conditions import closest
from hv.debug.errors import DebugError
from hv.debug.exports.files import write_file
from hv.debug.registry import command, first_word
from hv.debug.session import Session
from hv.printable import printable
from hv.replay.position import Position

if TYPE_CHECKING:
    from hv.debug.transcript import Spoken
    from hv.replay.timeline import Timeline
    from hv.trace.bus import Record

FORCE = "--force"
MOST_EVENTS = 500_000           # of a timeline: some 80 MB
_SCREEN = 5                     # answers, if nobody says how many
_KINDS = {"timeline": "the events that are kept, for Perfetto: FILE.json",
          "session": "the lines and answers, for asciinema: FILE.cast",
          "screen": "the last answers, as a picture: FILE.svg or FILE.html",
          "map": "the machine, as a Mermaid chart: FILE.mmd or FILE.md"}


def _words(session: Session, typed: str) -> list[Word]:
    return [Word(kind, meaning) for kind, meaning in _KINDS.items()]


@command("export", what=_words)
def export(session: Session, what: str, text: str) -> str:
    """Write a file that another program opens: `timeline`, `session`, `screen` or `map`.

    `timeline FILE.json`: the events that are kept, of a recorded run all of them, for https://ui.perfetto.dev.
    `session FILE.cast`: all lines and answers, for asciinema. `screen FILE.svg` or `FILE.html`: the last 5 answers, or
    as many as you say behind the name. `map FILE.mmd` or `FILE.md`: partitions, memory, connections, devices and
    routes, as Mermaid. What is there already is replaced with --force only.

    Example: `continue`, `export timeline run.json`, `export screen last.svg 3`, `export map machine.md --force`
    """
    if what not in _MAKERS:
        near = closest(what, _MAKERS)
        raise DebugError(f"`{what}` is nothing to export", f"did you mean `{near[0]}`?" if near else
                         f"there are {', '.join(_MAKERS)}")
    name, words, force = _file(text)
    suffixes, make = _MAKERS[what]
    if PurePath(name).suffix.lower() not in suffixes:
        raise DebugError(f"`{printable(name)}` is no name for a {what}", f"it ends with {' or '.join(suffixes)}")
    content, told = make(session, PurePath(name).suffix.lower(), words)
    return f"{told} in {write_file(name, content, force)}"


def _file(text: str) -> tuple[str, list[str], bool]:
    """The name of the file, what else was said, and whether it may replace another."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise DebugError(f"`{text}` is no name of a file: {error}", "close the quotes") from None
    force, words = FORCE in words, [word for word in words if word != FORCE]
    if not words or not words[0]:
        raise DebugError("the name of the file is missing", "usage: export WHAT FILE")
    return words[0], words[1:], force


def _nothing_more(words: list[str]) -> None:
    if words:
        raise DebugError(f"`{' '.join(words)}` is too much", "usage: export WHAT FILE [--force]")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _timeline(session: Session, suffix: str, words: list[str]) -> tuple[str, str]:
    from hv.trace.chrome import ChromeTrace

    _nothing_more(words)
    records = list(session.recent.records) if session.timeline is None else whole_run(session, session.timeline)
    if not records:
        raise DebugError("no event yet", "`continue` or `step` first")
    chrome = ChromeTrace(names=_names(session))
    for record in records:
        chrome(record)
    return chrome.dumps(), f"{_count(len(records), 'event')} of {_time(records[0].tsc)} to {_time(records[-1].tsc)}"


def whole_run(session: Session, timeline: Timeline) -> list[Record]:
    """All events of a recorded run, as it is run again; MOST_EVENTS at most. The machine stands where it stood."""
    from hv.replay.timeline import Interrupted

    position, live, recent = timeline.position, timeline.live, session.recent
    records: list[Record] = []
    kept = list(recent.records), list(recent.operands)

    def enough(record: Record) -> bool:
        records.append(record)
        return len(records) >= MOST_EVENTS

    try:
        timeline.go(Position())
        timeline.forward(enough)
    except Interrupted:
        raise DebugError("interrupted", "nothing was written") from None
    finally:
        timeline.go_to_end() if live else timeline.go(position)
        recent.clear()
        recent.records.extend(kept[0])
        recent.operands.extend(kept[1])
    return records


def _time(tsc: int) -> str:
    return f"{tsc / 2000:.3f} us"


def _names(session: Session) -> dict[int, str]:
    root = session.machine.hypervisor.root
    return {root.id: "root", **{vm.partition_id: printable(vm.name) for vm in session.guests}}


def _spoken(session: Session, n: int) -> list[Spoken]:
    """The last *n* lines and answers, other exports aside."""
    spoken = [one for one in session.transcript.spoken if first_word(one.line)[0] != "export"][-n:]
    if not spoken:
        raise DebugError("nothing was said yet", "`regs` first, for example")
    return spoken


def _cast(session: Session, suffix: str, words: list[str]) -> tuple[str, str]:
    from hv.debug.exports.cast import cast
    from hv.debug.transcript import MOST_KEPT

    _nothing_more(words)
    spoken = _spoken(session, MOST_KEPT)
    return cast(spoken, _title(session)), _count(len(spoken), "line")


def _screen(session: Session, suffix: str, words: list[str]) -> tuple[str, str]:
    from hv.debug.exports import picture

    _nothing_more(words[1:])
    n = session.number(words[0]) if words else _SCREEN
    if not 1 <= n <= 100:
        raise DebugError(f"{n} answers are out of range 1..100")
    spoken = _spoken(session, n)
    draw = picture.svg if suffix == ".svg" else picture.html
    return draw(spoken, _title(session)), _count(len(spoken), "answer")


def _map(session: Session, suffix: str, words: list[str]) -> tuple[str, str]:
    from hv.debug.exports.machine_map import markdown, mermaid

    _nothing_more(words)
    machine, names = session.machine, _names(session)
    chart = mermaid(machine, names) if suffix == ".mmd" else markdown(machine, names, _title(session))
    return chart, f"the map of {_count(len(machine.hypervisor.partitions), 'partition')}"


def _title(session: Session) -> str:
    return f"hv repl {printable(session.vms[0].name)}"


_MAKERS: dict[str, tuple[tuple[str, ...], Callable[[Session, str, list[str]], tuple[str, str]]]] = {
    "timeline": ((".json",), _timeline), "session": ((".cast",), _cast), "screen": ((".svg", ".html"), _screen),
    "map": ((".mmd", ".md"), _map),
}

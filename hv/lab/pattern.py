"""Which events are meant: a class or an exit reason, and what their fields hold.

A field is given as it is, by the manual's name where numbers have names (`msr`, `status`, `code`, `message_type`), as
`@label`, the address of a label of that VM's program, or as one of several numbers (`wanted.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from hv.lab.finding import ANY, LEARNER, Happening, Run
from hv.lab.wanted import Some
from hv.lab.words import NAMED_FIELDS, event_name, field_words, is_exit
from hv.spec.exits import ExitReason
from hv.trace import events
from hv.trace.event import Event
from hv.vmx.exit import VmExit

# What tells one event of a class from another, before anything else does.
_TELLING = frozenset({"msr", "port", "gpa", "leaf", "code", "connection", "sint", "vector", "timer"})
_EXIT_FIELDS = frozenset({"qualification", "instruction_length", "guest_physical_address", "guest_linear_address",
                          "interruption_info", "interruption_error_code", "idt_vectoring_info"})


Value = int | str | bool | list[int] | Some
Fields = dict[str, Value]


class Pattern(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """An *event* of a class, or a VM *exit* for a reason (`any`: whichever), with *fields*, of a VP of a VM.

    The fields of an exit are its own, or those of the event which answers it.
    """

    event: str = ""
    exit: str = ""
    fields: Fields = {}
    vm: str = LEARNER
    vp: int | None = None

    def __post_init__(self) -> None:
        if bool(self.event) == bool(self.exit):
            raise ValueError("name an event or an exit")
        _check_kind(self.event, self.exit)
        for name, value in self.fields.items():
            _check_field(self.event, name)
            if isinstance(value, str) and not value.startswith("@"):
                _check_name(self.event, name, value)

    @property
    def words(self) -> str:
        """The pattern as an event is written."""
        shown = {name: _shown(value) for name, value in self.fields.items()}
        where = "" if self.vm in (LEARNER, ANY) else f"{self.vm}: "
        where += "" if self.vp is None else f"VP {self.vp}: "
        return where + field_words(self.event or self.exit, shown)

    def is_kind(self, happening: Happening) -> bool:
        """An event of that class or for that reason, on that VP."""
        if self.vm not in (ANY, happening.vm) or self.vp not in (None, happening.vp):
            return False
        if self.exit:
            return is_exit(happening.event) and self.exit in ("any", event_name(happening.event))
        return type(happening.event).__name__ == self.event

    def fits(self, run: Run, happening: Happening, answer: Happening | None = None) -> bool:
        """Its fields, or those of its *answer*, are as wanted."""
        return any(all(_is(run, one, name, value) for name, value in self.fields.items())
                   for one in (happening, answer) if one is not None)

    def nearness(self, candidate: tuple[Happening, bool, Happening | None]) -> int:
        """How much of what tells one from another (its MSR, its port, ...) is as wanted."""
        happening, _, answer = candidate
        wanted = {name: value for name, value in self.fields.items() if name in _TELLING}
        return max(sum(_is_known(one.event, name, value) for name, value in wanted.items())
                   for one in (happening, answer) if one is not None)

    def found(self, run: Run) -> list[tuple[Happening, bool, Happening | None]]:
        """Each event of the kind, whether it fits, and what answers it."""
        answers = answered(run.happened) if self.exit else {}
        return [(one, self.fits(run, one, answers.get(n)), answers.get(n))
                for n, one in enumerate(run.happened) if self.is_kind(one)]


def answered(happened: list[Happening]) -> dict[int, Happening]:
    """What answers each VM exit, by its place: the next event of the same VP, unless that is an exit too."""
    found: dict[int, Happening] = {}
    waiting: dict[tuple[str, int], int] = {}
    for n, one in enumerate(happened):
        place = waiting.pop((one.vm, one.vp), None)
        if is_exit(one.event):
            waiting[one.vm, one.vp] = n
        elif place is not None:
            found[place] = one
    return found


def _is(run: Run, happening: Happening, name: str, wanted: Value) -> bool:
    if isinstance(wanted, str) and wanted.startswith("@"):
        found: Any = getattr(happening.event, name, None)
        return isinstance(found, int) and found == run.symbol(happening.vm, wanted[1:])
    return _is_known(happening.event, name, wanted)


def _is_known(event: Any, name: str, wanted: Value) -> bool:
    """As `_is`, of what is no label."""
    found: Any = getattr(event, name, None)
    if isinstance(wanted, Some):
        return isinstance(found, int) and wanted.holds(found)
    if isinstance(wanted, list):
        return bool(found == tuple(wanted))
    if isinstance(wanted, str) and isinstance(found, int):
        return bool(found == NAMED_FIELDS[name][wanted])
    return bool(found == wanted)


def _shown(value: Value) -> Any:
    if isinstance(value, Some):
        return value.words
    return tuple(value) if isinstance(value, list) else value


def event_classes() -> Mapping[str, type[Event]]:
    """The classes of events, by name."""
    return {name: one for name, one in vars(events).items() if isinstance(one, type) and issubclass(one, Event)}


def _check_kind(event: str, reason: str) -> None:
    if event and event not in event_classes():
        raise ValueError(f"`{event}` is no event; hv/trace/events.py lists them")
    if reason and reason != "any" and reason not in ExitReason.__members__:
        raise ValueError(f"`{reason}` is no exit reason; hv/spec/exits.py lists them")


def _check_field(event: str, name: str) -> None:
    known: Iterable[str] = event_classes()[event].FIELDS if event else _EXIT_FIELDS.union(
        *(one.FIELDS for one in event_classes().values()))
    if name not in known:
        raise ValueError(f"`{event or VmExit.__name__}` has no field `{name}`")


def _check_name(event: str, field: str, name: str) -> None:
    if field in NAMED_FIELDS and name not in NAMED_FIELDS[field].__members__:
        raise ValueError(f"`{name}` is no name of a {field}")

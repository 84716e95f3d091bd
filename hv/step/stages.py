"""One VM exit under the microscope: exit, fields saved, handler, verdict, what is injected, entry.

    1 exit      the guest stops: reason and qualification
    2 saved     what the processor wrote into the VMCS
    3 handler   the hypervisor's function for that reason, and what it told and changed
    4 verdict   what it decided; the loop that obeys is `hypervisor/run.py`
    5 others    what somebody else does meanwhile: the parent that was asked, a VP that was woken
    6 injected  the event that the guest gets
    7 entry     where somebody runs on
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import hv
from hv.debug.why.chain import Link
from hv.debug.why.exits import causes
from hv.debug.why.visit import Scene
from hv.hypervisor.run import EXIT_HANDLERS, overheard, unexpected
from hv.hypervisor.verdicts import Verdict
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.replay.position import Position, PositionError
from hv.replay.walk import Moment as Heard
from hv.spec.exits import ExitReason
from hv.spec.vmcs import FieldEncoding, FieldKind, VmcsField
from hv.step.moment import UNREADABLE, Moment, Who
from hv.step.reel import Reel
from hv.step.story import Happening, Story
from hv.trace.events import Fault, Injected
from hv.vmx.exit import VmExit

NAMES = ("exit", "saved", "handler", "verdict", "others", "injected", "entry")
MOST_KEPT = 200
_GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
            "r15", "rip", "rflags", "cr0", "cr2", "cr3", "cr4", "efer")
_FIELDS = tuple(VmcsField)
_KINDS = (FieldKind.READ_ONLY_DATA, FieldKind.GUEST_STATE, FieldKind.CONTROL, FieldKind.HOST_STATE)
# Exit information first, then guest state, then what the hypervisor has set; each in the order of the manual.
_RANKS: dict[VmcsField | str, tuple[int, int]] = {
    field: (_KINDS.index(FieldKind(FieldEncoding(field).kind)), number) for number, field in enumerate(VmcsField)}
SAVED = 1                           # the highest rank of what the processor saves


class Change(NamedTuple):
    """A field of the VMCS, or a register by name: what it was, and what it is."""

    what: VmcsField | str
    old: int
    new: int


class Handler(NamedTuple):
    """The function that answers an exit: its file below `hv/`, its name, and what its docstring says."""

    place: str
    name: str
    says: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of an exit. *position* is where the machine stands in it; *events* are those that belong to it."""

    name: str
    position: Position
    changes: tuple[Change, ...] = ()
    events: tuple[Happening, ...] = ()


@dataclass(frozen=True, slots=True)
class Microscope:
    """VM exit number *number*, of *who*, in its stages. *verdict* is None when the recording ends before."""

    number: int
    who: Who
    happening: Happening
    handler: Handler
    verdict: Verdict | None
    causes: tuple[tuple[int, str], ...]     # why it is an exit: each cause with its depth below the first
    stages: tuple[Stage, ...]
    entry: Moment | None                # before the first instruction that runs then, by whomever

    @property
    def exit(self) -> VmExit:
        """The exit itself."""
        found: VmExit = self.happening.fact.record.event
        return found


class _State(NamedTuple):
    vmcs: dict[VmcsField, int]
    registers: dict[str, int]


def _state(vp: VirtualProcessor) -> _State:
    read, regs = vp.vcpu.vmcs.read, vp.guest_regs
    return _State({field: read(field) for field in _FIELDS}, {name: int(getattr(regs, name)) for name in _GENERAL})


def _of_moment(moment: Moment) -> _State | None:
    return _State(dict(moment.vmcs), {name: moment.registers[name] for name in _GENERAL}) if moment.there else None


def changes(old: _State | None, new: _State | None, registers: bool) -> tuple[Change, ...]:
    """The fields that differ, in the order of the manual; with *registers*, those that no field is."""
    if old is None or new is None:
        return ()
    fields = [Change(field, was, new.vmcs[field]) for field, was in old.vmcs.items() if new.vmcs[field] != was]
    others = [Change(name, was, new.registers[name]) for name, was in old.registers.items()
              if new.registers[name] != was and f"GUEST_{name.upper()}" not in VmcsField.__members__
              and name != "efer"] if registers else []
    return (*others, *sorted(fields, key=lambda change: _RANKS[change.what]))


def handler_of(reason: ExitReason) -> Handler:
    """Who answers an exit for *reason*, as the source says it."""
    function = EXIT_HANDLERS.get(reason, unexpected)
    code = function.__code__
    place = Path(code.co_filename).relative_to(Path(hv.__file__).parent).as_posix()
    says = " ".join((inspect.getdoc(function) or "").split())
    return Handler(place, function.__name__, says)


class Exits:
    """The exits of a recorded run, one at a time under the microscope; those looked at are kept."""

    def __init__(self, reel: Reel) -> None:
        self._reel = reel
        self._kept: OrderedDict[int, Microscope] = OrderedDict()

    def knows(self, number: int) -> bool:
        """It is at hand."""
        return number in self._kept

    def at(self, number: int, chosen: Who | None = None, look: str = "rsp") -> Microscope | None:
        """VM exit *number*; None when there is no such exit, or its VP is gone.

        On the way there the moment of the exit is taken down too, for *chosen* and *look* as in `Reel.moment`.
        """
        if number not in self._kept:
            found = self._looked_at(number, chosen, look)
            if found is None:
                return None
            self._kept[number] = found
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return self._kept[number]

    def _looked_at(self, number: int, chosen: Who | None, at: str) -> Microscope | None:
        happening = self._reel.story.exit(number)
        if happening is None:
            return None
        record = happening.fact.record
        who = Who(self._reel.story.names.get(record.partition, ""), record.vp)
        before = self._state(self._behind(number - 1, chosen, at), who)
        look = _Look(self._reel, happening, who, lambda: self._reel.passes(Position(number), chosen, at))
        entry = self._reel.moment(Position(number, 1), chosen, at) if look.stretch.instructions else None
        return Microscope(number, who, happening, handler_of(record.event.reason), look.verdict,
                          look.causes, tuple(self._stages(look, happening, before, entry)), entry)

    def _behind(self, number: int, chosen: Who | None, at: str) -> Moment:
        """The moment when somebody ran on behind exit *number*, or if nobody did, the last event before the next."""
        try:
            return self._reel.moment(Position(number, 1), chosen, at)
        except PositionError:
            events = self._reel.story.after(number)
            return self._reel.moment(events[-1].position if events else Position(number), chosen, at)

    def _state(self, moment: Moment, who: Who) -> _State | None:
        """What *who* has at *moment*, which may be another one's."""
        seen = moment if moment.who == who else self._reel.moment(moment.position, who)
        return _of_moment(seen)

    def _stages(self, look: _Look, happening: Happening, before: _State | None, entry: Moment | None) -> list[Stage]:
        at, number = happening.position, look.number
        after = self._reel.story.after(number)
        early = [one for one, done in zip(after, look.stretch.before, strict=False) if not done]
        own, later = early[: look.told], early[look.told :]
        injected = [one for one in later if isinstance(one.fact.record.event, Injected | Fault)
                    and one.fact.record.partition == happening.fact.record.partition]
        others = [one for one in later if one not in injected]
        decided = own[-1].position if own else at
        stages = [Stage("exit", at),
                  Stage("saved", at, tuple(change for change in changes(before, look.before, False)
                                           if _RANKS[change.what][0] <= SAVED)),
                  Stage("handler", decided, changes(look.before, look.after, True), tuple(own)),
                  Stage("verdict", decided)]
        if others:
            stages.append(Stage("others", others[-1].position, (), tuple(others)))
        if injected:
            stages.append(Stage("injected", injected[-1].position, (), tuple(injected)))
        if entry is not None:
            changed = changes(look.after, self._state(entry, look.who), True)
            stages.append(Stage("entry", entry.position, changed))
        return stages


def _causes(story: Story, happening: Happening) -> tuple[tuple[int, str], ...]:
    """Why this is an exit, while the machine stands at it: control bits, bitmaps, tables, as the REPL's `why` says."""
    after = [one.fact for one in story.after(happening.position.exits)]
    scene = Scene(story.session, happening.fact, after, True, str(happening.position))
    try:
        links = causes(scene)
    except UNREADABLE:
        return ()
    return tuple(line for link in links for line in _lines(link, 0))


def _lines(link: Link, depth: int) -> Iterator[tuple[int, str]]:
    yield depth, link.text
    for cause in link.causes:
        yield from _lines(cause, depth + 1)


class _Look:
    """One way over exit *number*: what *who* had before its handler and behind it, and what the handler decided."""

    def __init__(self, reel: Reel, happening: Happening, who: Who, passes: Callable[[], None]) -> None:
        self._reel, self._happening, self.who, self._passes = reel, happening, who, passes
        self.number = happening.position.exits
        self.causes: tuple[tuple[int, str], ...] = ()
        self.before: _State | None = None
        self.after: _State | None = None
        self.verdict: Verdict | None = None
        self.told = 0                   # events that its handler told
        self._events, self._here = 0, False
        with overheard(self._decided):
            self.stretch = reel.measure(self.number, self._hear)

    def _hear(self, heard: Heard) -> None:
        if not heard.events:
            vp = self._reel.vp(self.who)
            self.before = None if vp is None else _state(vp)
            self._here = True
            self.causes = () if vp is None else _causes(self._reel.story, self._happening)
            self._passes()
        self._events = heard.events

    def _decided(self, vp: VirtualProcessor, exit: VmExit, verdict: Verdict) -> None:
        if self._here and self.verdict is None:
            self.verdict, self.told, self.after = verdict, self._events, _state(vp)

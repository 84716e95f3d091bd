"""Where one is in a recorded run, what was shown before, and how one moves: all that a screen has to know."""

from __future__ import annotations

from collections.abc import Callable

from hv.debug.conditions import Condition
from hv.debug.errors import DebugError
from hv.debug.numbers import REGISTERS, address
from hv.debug.places import Places
from hv.replay.position import Position, PositionError
from hv.replay.walk import Point
from hv.step.moment import Moment, Who
from hv.step.moves import Moves
from hv.step.reel import END, Reel
from hv.step.sources import Sources
from hv.step.stages import Exits, Microscope
from hv.step.story import Story
from hv.trace.bus import Record

FORWARD, BACK = 1, -1
STEPS = ("instruction", "exit", "event", "stage")


class Model:
    """A look at *story*, which begins at its beginning. *sources* are the lines of the programs."""

    def __init__(self, story: Story, sources: Sources | None = None) -> None:
        self.story, self.reel = story, Reel(story)
        self.moves, self.exits = Moves(self.reel), Exits(self.reel)
        self.places, self.sources = Places(story.images), sources or Sources([])
        self.here = Position()
        self.before: Position | None = None             # the place that was shown before
        self.chosen: Who | None = None                  # the VP that the user looks at; else who runs
        self.look = "rsp"                               # the address in memory, as an expression
        self.said = ""                                  # what there is to say about the last move
        self._stage: int | None = None                  # within the exit, when one moved by stages

    # --- what is shown -------------------------------------------------------------------------------

    @property
    def moment(self) -> Moment:
        """What there is here."""
        return self.reel.moment(self.here, self.chosen, self.look)

    @property
    def earlier(self) -> Moment | None:
        """What there was at the place shown before, for the same VP and with the same memory; None at first."""
        if self.before is None:
            return None
        moment, now = self.reel.moment(self.before, self.chosen, self.look), self.moment
        if moment.who == now.who and (moment.looked_at == now.looked_at or now.looked_at is None):
            return moment
        return self.reel.moment(self.before, now.who, self.look if now.looked_at is None else f"{now.looked_at:#x}")

    @property
    def microscope(self) -> Microscope | None:
        """The exit that one is at, or that was last; None before the first."""
        number = self.story.last.exits if self.here == END else self.here.exits
        return self.exits.at(number, self.chosen, self.look) if number else None

    @property
    def stage(self) -> int:
        """Which stage of the exit one is in."""
        microscope = self.microscope
        if microscope is None:
            return 0
        if self._stage is not None:
            return self._stage
        return _stage_at(microscope, self.here)

    @property
    def name(self) -> str:
        """The place, as it is written."""
        return self.name_of(self.here)

    def name_of(self, position: Position) -> str:
        """A place as it is written: `E120:7`, or `end`."""
        return "end" if position == END else str(position)

    # --- moving ---------------------------------------------------------------------------------------

    def move(self, way: int, by: str) -> bool:
        """One step FORWARD or BACK by one of STEPS; False, and `said` is why, where there is nothing further on."""
        if by == "stage":
            return self._move_by_stage(way)
        ways: dict[str, Callable[[Position, int], Position | None]] = {
            "instruction": self.moves.instruction, "exit": self.moves.exit, "event": self.moves.event}
        target = ways[by](self.here, way)
        if target is None:
            self.said = f"this is the end: {self.story.ending}" if way > 0 else "this is the beginning"
            return False
        self.go(target)
        return True

    def _move_by_stage(self, way: int) -> bool:
        microscope = self.microscope
        if microscope is not None and self.here != END:
            behind = self.here.instructions > 1
            stage = self.stage + (0 if behind and way < 0 else way)
            if 0 <= stage < len(microscope.stages) and not (behind and way > 0):
                self.go(microscope.stages[stage].position, stage)
                return True
        number = self.here.exits + way if self.here != END else self.moves.last_exit + (1 if way > 0 else 0)
        found = self.exits.at(number, self.chosen, self.look) if 0 < number <= self.moves.last_exit else None
        if found is None:
            return self.move(way, "exit")
        stage = 0 if way > 0 else len(found.stages) - 1
        self.go(found.stages[stage].position, stage)
        return True

    def go(self, position: Position, stage: int | None = None) -> None:
        """Be at *position*; PositionError when there is no such place, and one stays."""
        if position != END:
            self.reel.check(position)
        if position != self.here or stage is None or self.before is None:
            self.before = self.here
        self.here, self._stage, self.said = position, stage, ""
        if position != END and position == Position(position.exits) != Position():
            self.exits.at(position.exits, self.chosen, self.look)   # whose way passes here: the moment comes with it

    def go_to(self, text: str) -> None:
        """Go to a place (`E120:7`, `begin`, `end`), on to where a symbol or an address is about to be executed, or to
        the next event for which *text* as a condition is true.

        `back` before one of the two looks for the last time. DebugError when there is none.
        """
        words = text.strip()
        if words in ("begin", "end"):
            self.go(Position() if words == "begin" else END)
            return
        try:
            position = Position.parse(words)
        except PositionError:
            self._find(words)
            return
        try:
            self.go(position)
        except PositionError as error:
            raise DebugError(str(error), "`begin` and `end` are its two ends") from None

    def _find(self, words: str) -> None:
        """Go to the next event, or with `back` the last one, for which the condition *words* is true."""
        way, source = (BACK, words[5:]) if words.startswith("back ") else (FORWARD, words)
        gva = self._address(source)
        if gva is not None:
            self.go(self._passed(gva, source.strip(), way))
            return
        test = Condition(source, self.places.symbols(self.moment.who.vm))
        index = len(self.story.happenings) if self.here == END else self.story.index(self.here)
        events = self.story.following(index) if way > 0 else self.story.preceding(index)
        found = next((one for one in events if test(one.fact)), None)
        if found is None:
            raise DebugError(f"no event {'behind' if way > 0 else 'before'} {self.name} matches",
                             "`back CONDITION` looks the other way" if way > 0 else "")
        self.go(found.position)

    def _address(self, text: str) -> int | None:
        """The address that *text* means, if it is none but symbols, numbers and sums."""
        try:
            return address(text, self.places.symbols(self.moment.who.vm))
        except DebugError:
            return None

    def _passed(self, gva: int, words: str, way: int) -> Position:
        """Where the instruction at *gva* is about to be executed next, or was last."""
        who, timeline = self.moment.who, self.story.timeline
        vp = self.reel.vp(who)
        if vp is not None:
            if self.here == END:
                timeline.go_to_end()
            else:
                timeline.go(self.here)
            points = [Point(vp.vcpu.engine, gva)]
            met = timeline.forward(_never, points) if way > 0 else timeline.backward(_never, points)
            if met is not None:
                return met.position
        raise DebugError(f"{who.vm} does not come to {words} {'behind' if way > 0 else 'before'} {self.name}",
                         "`back SYMBOL` looks the other way" if way > 0 else "")

    # --- choosing ------------------------------------------------------------------------------------

    @property
    def everybody(self) -> list[Who]:
        """The VPs that there are here."""
        names = {vm.name for vm in self.story.vms}
        return [Who(partition.name, vp.number) for partition in self.moment.world.partitions
                if partition.name in names for vp in partition.vps]

    def vp_called(self, name: str) -> Who:
        """The VP `timer.0`, or of the only VM `0`; DebugError."""
        everybody = {str(who): who for who in self.everybody}
        if len({who.vm for who in everybody.values()}) == 1:
            everybody |= {str(who.vp): who for who in everybody.values()}
        if name not in everybody:
            raise DebugError(f"there is no VP `{name}` here", f"there are {', '.join(everybody)}")
        return everybody[name]

    def choose(self, who: Who | None) -> None:
        """Look at the VP *who* from now on; None: at whoever runs."""
        self.chosen = who

    def choose_next(self) -> None:
        """Look at the next VP, and behind the last one at whoever runs."""
        everybody = self.everybody
        place = everybody.index(self.chosen) + 1 if self.chosen in everybody else 0
        self.chosen = everybody[place] if place < len(everybody) else None

    def look_at(self, text: str) -> None:
        """Show memory at *text* from now on: a number, a register, a symbol, a sum of these. DebugError."""
        moment = self.moment
        names = {name: moment.registers.get(name, 0) for name in REGISTERS}
        address(text, names | self.places.symbols(moment.who.vm))
        self.look = text.strip()

    @property
    def looks_at(self) -> str:
        """Who is looked at, in words."""
        return f"{self.moment.who}" if self.chosen is None else f"{self.chosen} (chosen)"


def _never(record: Record) -> bool:
    return False


def _stage_at(microscope: Microscope, here: Position) -> int:
    """The stage that *here* belongs to."""
    stages = microscope.stages
    for number, stage in enumerate(stages):
        if here in (event.position for event in stage.events):
            return number
    return len(stages) - 1 if here.instructions or here.events or here == END else 0

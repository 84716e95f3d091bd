"""`hv run --interactive`: a terminal is the serial port of a PC; while the guest is idle, its time is the host's.

This is the only place of a run that looks at the host's clock. What follows from it goes into the machine as changes
from outside, each at its virtual time: what was typed (`TypeText`), and how long nobody ran (`LetTimePass`). A
recording has them, and so comes to the same run again without a clock.

Time: a guest that computes runs as fast as it can, as it always does. Before time would jump to the next timer, the
host sleeps as long, or until a key is struck. Short waits jump at once and are owed (`Pace`), since a host sleeps no
shorter than a guest's serial port needs for a character.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hv.commands import raw_terminal
from hv.commands.errors import CommandError
from hv.commands.raw_terminal import RawTerminal
from hv.machine.clock import TSC_HZ

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from hv.commands.description import MachineDescription
    from hv.replay.changes import AnyChange
    from hv.replay.file import KeptMachine

LEAVE = 0x1D                            # Ctrl-], as of telnet and virsh
HINT = "the keyboard is the guest's serial port; Ctrl-] leaves it"
COLUMNS, ROWS = 80, 24                  # what a guest takes for granted of a terminal at its serial port
LOOK_SECONDS = 0.001                    # of a guest that computes: between two looks for a key
SHORT_TICKS = TSC_HZ // 500             # 2 ms: waits up to this are not slept, but owed
MOST_OWED_TICKS = TSC_HZ // 50          # 20 ms: when so much is owed, it is slept, whoever could run
LATE_SECONDS = 0.1                      # a sleep longer than it was meant to be by more: the host itself was asleep


def check(args: argparse.Namespace, description: MachineDescription) -> None:
    """CommandError when the arguments or the machine leave nobody to sit before, or nothing to sit at."""
    for option, value in (("--json", args.json), ("--parallel", args.parallel), ("--root", args.root),
                          ("--debug", args.debug), ("--input", args.input), ("--after", args.after)):
        if value:
            raise CommandError(f"--interactive with {option}", "leave one of them out")
    if len(description.vms) != 1:
        raise CommandError(f"--interactive is one VM's; {len(description.vms)} are described", "describe only one")
    if not description.vms[0].pc:
        raise CommandError(f"--interactive is for a PC, and {description.vms[0].name} has no such board",
                           "give it one: --pc, or `pc = true`")
    raw_terminal.check()


def say_how() -> None:
    """The line before it begins; and one more where the window is too small for what guests take for granted."""
    print(f"hv: {HINT}", file=sys.stderr)
    columns, rows = os.get_terminal_size(sys.stdout.fileno())
    if columns < COLUMNS or rows < ROWS:
        print(f"hv: this window is {columns} x {rows}, and guests expect {COLUMNS} x {ROWS}: make it larger, or tell "
              f"the guest: stty cols {columns} rows {rows}", file=sys.stderr, flush=True)


def sit(machine: Any, vm: Any, until_tsc: int | None, record: Path | None, made_from: KeptMachine) -> bool:
    """Run *machine*, whose one VM is *vm*, with this terminal at its serial port, and write the replay file *record*.

    True when it was left, and still runs. KeyboardInterrupt, and CommandError when a signal or a lost terminal ended
    it, behind that.
    """
    from hv.commands import replay

    terminal = RawTerminal()
    vm.on_serial(terminal.print)
    timeline = None if record is None else replay.begun(machine)
    run, change = (machine.run, lambda each: each.apply(machine)) if timeline is None \
        else (timeline.attend, timeline.intervene)
    say_how()
    with terminal:
        console = Console(machine, vm, terminal, run, change)
        console.run(until_tsc)
    if timeline is not None and record is not None:
        timeline.settle()
        replay.write(timeline, made_from, record)
        timeline.close()
    if terminal.ended_by == signal.SIGINT:
        raise KeyboardInterrupt
    if terminal.ended_by or terminal.gone:
        number = terminal.ended_by or signal.SIGHUP
        raise CommandError(f"ended by {signal.Signals(number).name}", code=128 + number)
    return console.left


class Pace:
    """How far the virtual time in which nobody ran is ahead of the host's in which nobody ran: `owed`, in ticks."""

    def __init__(self, machine: Any, vm: Any) -> None:
        self._machine, self._vm = machine, vm
        self.owed = 0
        self._tsc, self._ran = machine.clock.tsc, self._runtime()

    def _runtime(self) -> int:
        return sum(vp.runtime for vp in self._vm.partition.vps.values())

    def look(self) -> int:
        """Count what has passed since the last look; a reset of the VPs begins anew. What is owed now."""
        tsc, ran = self._machine.clock.tsc, self._runtime()
        if ran >= self._ran:
            self.owed += max(0, tsc - self._tsc - (ran - self._ran))
        self._tsc, self._ran = tsc, ran
        return self.owed

    def slept(self, ticks: int) -> None:
        """The host has waited: for what is owed, and beyond that for what may pass now."""
        self.owed = max(self.owed, -SHORT_TICKS) - ticks


class Console:
    """*terminal* at the serial port of *vm*. *run* and *change* are the machine's, or those of its recording:
    `run(until_tsc, paused)`, `change(change)`."""

    def __init__(self, machine: Any, vm: Any, terminal: RawTerminal, run: Callable[..., object],
                 change: Callable[[AnyChange], object]) -> None:
        self._machine, self._vm, self._terminal, self._run, self._change = machine, vm, terminal, run, change
        self._pace = Pace(machine, vm)
        self._next_look = 0.0
        self._pauses = False
        self.left = False

    def _over(self) -> bool:
        return self.left or self._terminal.gone or bool(self._terminal.ended_by)

    def run(self, until_tsc: int | None) -> None:
        """Until the VM has ended, somebody left, went away or was told to end, or the clock reaches *until_tsc*."""
        clock = self._machine.clock
        while not self._over() and self._vm.ended is None and (until_tsc is None or clock.tsc < until_tsc):
            self._pauses = False
            self._run(until_tsc, self._paused)
            self._terminal.flush()
            if self._vm.ended is None and not self._over():
                self._wait(until_tsc)
                self._type()

    def _paused(self) -> bool:
        """Asked between two turns, and behind each exit that root answers: is there a reason to come out? Once there
        is, it stays."""
        if self._pauses:
            return True
        scheduler = self._machine.scheduler
        if not scheduler.queue.active and self._sleeps():
            self._pauses = True
        elif (now := time.monotonic()) >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            terminal = self._terminal
            terminal.flush()
            self._pauses = (self._over() or terminal.key_waits()
                            or self._pace.look() > MOST_OWED_TICKS)
        return self._pauses

    def _sleeps(self) -> bool:
        """Nobody can run for longer than a short wait, but somebody may run yet."""
        clock = self._machine.clock
        deadline = clock.next_deadline()
        return ((deadline is None or deadline - clock.tsc > SHORT_TICKS) and self._machine.scheduler.idle
                and any(not vp.asleep_for_good for vp in self._vm.partition.vps.values()))

    def _wait(self, until_tsc: int | None) -> None:
        """Let the host's time pass: what is owed, and while nobody can run, until the next timer; a key ends it."""
        pace = self._pace
        owed, ahead = pace.look(), self._ahead(until_tsc)
        seconds = None if ahead is None else max(0, owed + ahead) / TSC_HZ
        slept = self._terminal.wait(seconds)
        pace.slept(int((slept if seconds is None else min(slept, seconds + LATE_SECONDS)) * TSC_HZ))
        passed = max(0, -pace.owed) if ahead is None else min(max(0, -pace.owed), ahead)
        if passed:
            from hv.replay.changes import LetTimePass

            self._change(LetTimePass(passed))
            pace.look()

    def _ahead(self, until_tsc: int | None) -> int | None:
        """Ticks that may pass before anything happens: none while somebody can run; None for as many as you like."""
        clock, scheduler = self._machine.clock, self._machine.scheduler
        if not scheduler.idle:
            return 0
        ends = [tsc for tsc in (clock.next_deadline(), until_tsc) if tsc is not None]
        return max(0, min(ends) - clock.tsc) if ends else None

    def _type(self) -> None:
        """What was typed goes to the receiver, up to the key that leaves."""
        typed = self._terminal.keys()
        data, leave, _ = typed.partition(bytes([LEAVE]))
        self.left = bool(leave)
        if data:
            from hv.replay.changes import TypeText

            self._change(TypeText(self._vm.partition_id, data))

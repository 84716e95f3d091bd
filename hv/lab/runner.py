"""A learner's program on a machine of its own, within limits, and what the checks find.

Whatever the program is or does ends in a `Verdict`: no mistake of the learner raises. Limits are in virtual time, so a
verdict is the same everywhere; the assembler, which is a child process, has a limit of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from hv.bare_machine import BareProgram
from hv.hypervisor.partitions.partition import PartitionState
from hv.image.errors import ImageError
from hv.image.library import guests_folder
from hv.image.model import Image
from hv.lab import reading
from hv.lab.answers import read_answers
from hv.lab.checks import ANY, LEARNER, Check, Finding, Happening, judge_all
from hv.lab.columns import with_column
from hv.lab.evidence import trace_hash
from hv.lab.exercise import Exercise, Limits
from hv.lab.faults import FAULTS
from hv.lab.handlers import Failure, Handlers
from hv.lab.pieces import open_piece
from hv.lab.setting import Setting, build, given, program
from hv.lab.words import SHOWN, is_exit, is_roots
from hv.machine.engine import EngineError
from hv.machine.ram import pages_of
from hv.platform import MachineError, VirtualMachine
from hv.printable import printable
from hv.replay.watching import Watch
from hv.spec.x86 import PAGE_SIZE
from hv.trace.bus import Record


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one program. *refused* is one line about why it could not be run at all; then nothing was judged."""

    exercise: Exercise
    name: str
    refused: str = ""
    findings: list[Finding] = field(default_factory=list)
    trace_sha256: str = ""              # of what happened; empty when nothing was run

    @property
    def judged(self) -> list[tuple[Check, Finding]]:
        """Each check with its finding; a program that could not be run failed them all."""
        refused = Finding(False, "", "", [], self.refused)
        findings = self.findings or [refused] * len(self.exercise.data.checks)
        return list(zip(self.exercise.data.checks, findings, strict=True))

    @property
    def score(self) -> Decimal:
        """Points earned."""
        return sum((check.earned(finding) for check, finding in self.judged), Decimal())

    @property
    def passed(self) -> bool:
        """Every check passed."""
        return all(finding.passed for _, finding in self.judged)


class FinishedRun:
    """What is left of a run; the `Run` of `checks.py`. The machine is still there, until `close`."""

    def __init__(self, image: Image, limits: Limits, setting: Setting | None = None, folder: Path | None = None,
                 wanted: Collection[str] = (), answers: Mapping[str, Any] | None = None) -> None:
        self.limits = limits
        self.answers = answers or {}
        self.piece: Any = None
        self.handlers: Handlers | None = None
        self.fault = setting.fault if setting else "", 0, ""
        self.wanted = SHOWN.union(wanted)
        self.happened: list[Happening] = []
        self._kept: Counter[str] = Counter()            # events by VM: those within the limit, and those beyond
        self._left_out: Counter[str] = Counter()
        self._exits: Counter[str] = Counter()
        self._gave_up = ""
        self._cut = ExitStack()         # what stands in the way of the machine, once it has used up its exits
        self.machine, self.vms, self.images = build(setting or Setting(), image, limits.memory_mib, folder)
        self._names = {vm.partition_id: name for name, vm in self.vms.items()}
        self._states = {name: {index: vp.guest_regs for index, vp in vm.partition.vps.items()}
                        for name, vm in self.vms.items()}
        self._began = self._over = self.machine.clock.tsc
        if self.fault[0]:
            FAULTS[self.fault[0]](self.virtual(LEARNER), self._fault_acts)

    def go(self) -> None:
        """Run the programs to their end, or to the end of their budget."""
        self.machine.trace.listen(self._on_record)
        self._began = self.machine.clock.tsc
        try:
            self.machine.run(self._began + self.limits.ticks, self._too_many_exits)
            for vm in self.vms.values():
                if vm.ended is None and self._too_many_exits():
                    vm.worker.end("budget", f"more than {self.limits.exits} VM exits")
            self.machine.end_budget()
        except EngineError as error:
            self._gave_up = f"the CPU engine gave up: {error}"
        finally:
            self._over = self.machine.clock.tsc
            self._cut.close()
            self.machine.trace.unlisten(self._on_record)

    def exit_count(self) -> int:
        """How many VM exits there were, of all VMs."""
        return self._exits.total()

    def _too_many_exits(self) -> bool:
        return self.exit_count() > self.limits.exits

    def _stop_here(self) -> None:
        """No guest executes another instruction. This is only done when it is wanted, so runs do not pay for it."""
        watch = self._cut.enter_context(Watch(self.machine, lambda _: False))
        watch.stop()

    def _on_record(self, record: Record) -> None:
        name = self._names.get(record.partition)
        if name is None or self.vms[name].ended is not None:
            return
        exit = is_exit(record.event)
        if exit:
            self._exits[name] += 1
            if self.exit_count() == self.limits.exits + 1:
                self._stop_here()
        elif type(record.event).__name__ not in self.wanted or is_roots(record.event):
            return
        if self._kept[name] >= self.limits.events:
            self._left_out[name] += 1
            return
        self._kept[name] += 1
        place = self._place(name, record.vp) if exit else ""
        self.happened.append(Happening(place, record.event, name, record.vp, self._exits.total()))

    def _place(self, vm: str, vp: int) -> str:
        state = self._states[vm].get(vp)
        return "" if state is None else self.images[vm].places.get(state.rip, "")

    def _fault_acts(self) -> None:
        """The bug shows; the first time is what is asked for."""
        name, position, _ = self.fault
        if not position:
            place = next((one.place for one in reversed(self.happened) if one.place), "")
            self.fault = name, self._exits.total(), place

    @property
    def failure(self) -> Failure | None:
        """Where the learner's handlers did not answer."""
        return self.handlers.failure if self.handlers is not None else None

    def left_out(self, vm: str) -> int:
        """Events of *vm* beyond the limit."""
        return self._left_out.total() if vm == ANY else self._left_out[vm]

    def ended(self, vm: str) -> tuple[str, str, str]:
        """How, why, and on which line VP 0 was."""
        if self._gave_up:
            return "error", self._gave_up, ""
        one = self.vms[vm]
        return one.ended or "budget", one.why, self._place(vm, 0)

    def serial(self, vm: str) -> str:
        """What its program printed."""
        return self.vms[vm].serial

    def symbol(self, vm: str, name: str) -> int | None:
        """Address of a label of its program."""
        return self.images[vm].symbols.get(name)

    def read(self, vm: str, gpa: int, size: int) -> bytes:
        """Bytes as its guest sees them, pages of the hypervisor over its own included; fewer where memory ends."""
        found = b""
        for at, length in pages_of(gpa, size) if gpa >= 0 else ():
            part = self._read_page(self.vms[vm], at, length)
            found += part
            if len(part) < length:
                break
        return found

    def _read_page(self, vm: VirtualMachine | BareProgram, gpa: int, size: int) -> bytes:
        """Some bytes of one page; fewer where memory ends."""
        if isinstance(vm, BareProgram):
            return vm.read(gpa, size)
        partition, worker = vm.partition, vm.worker
        over = partition.space.overlay_at(gpa >> 12) if partition.state is PartitionState.ACTIVE else None
        if over is not None:
            return partition.memory.read(over.spa | gpa & PAGE_SIZE - 1, size)
        return worker.read(gpa, max(0, min(size, worker.memory_bytes - gpa)))

    def vp(self, vm: str, index: int) -> Any:
        """One of its VPs; None when it is gone."""
        one = self.vms[vm]
        gone = isinstance(one, VirtualMachine) and one.partition.state is not PartitionState.ACTIVE
        return None if gone else one.partition.vps.get(index)

    def register(self, vm: str, vp: int, name: str) -> int:
        """A register of one of its VPs."""
        value: Any = getattr(self._states[vm][vp], name)
        return int(value)

    def virtual(self, vm: str) -> VirtualMachine:
        """A VM under our hypervisor; only a lab on a bare machine has none."""
        one = self.vms[vm]
        assert isinstance(one, VirtualMachine), "on a bare machine there is no hypervisor of ours"
        return one

    def ept(self, vm: str) -> tuple[Any, int]:
        """The machine's memory, and the EPT pointer of *vm*."""
        tables = self.virtual(vm).partition.space.tables
        assert tables is not None, "a child has tables of its own"
        return self.machine.memory, tables.eptp.raw

    def work(self, vm: str) -> tuple[int, int]:
        """How often it was left, and how long the run took, in ticks."""
        return self._exits.total() if vm == ANY else self._exits[vm], self._over - self._began

    def close(self) -> None:
        """Give the machine back to the host."""
        self.machine.close()
        if self.piece is not None:
            self.piece.close()


def check(exercise: Exercise, path: Path, own_includes: bool = True) -> Verdict:
    """Run what the learner wrote in *path*, or answered there, and judge it.

    *own_includes*: a program may include files of its own folder.
    """
    try:
        run = prepare(exercise, path, own_includes)
    except (ImageError, MachineError) as error:
        return Verdict(exercise, path.name, refused(error, path))
    try:
        run.go()
        return Verdict(exercise, path.name, "", judge_all(exercise.data.checks, run), trace_hash(run, run.vms))
    finally:
        run.close()


def prepare(exercise: Exercise, path: Path, own_includes: bool = True) -> FinishedRun:
    """The run of what is in *path*, before it begins; ImageError, MachineError. Whoever asks for it closes it."""
    return _RUNS[exercise.data.kind](exercise, path, own_includes)


def rehearse(exercise: Exercise, path: Path) -> FinishedRun:
    """The run of the exercise's program, or of the learner's own, without anything that is judged; as `prepare`."""
    if exercise.data.kind == "guest":
        return _guest(exercise, path, True)
    if exercise.data.piece.answers:
        return _python(exercise, path, True)
    return _run(exercise, given(exercise.folder, exercise.data.program), {})


def _guest(exercise: Exercise, path: Path, own_includes: bool) -> FinishedRun:
    """The learner's own program."""
    return _run(exercise, program(path, own_includes), {})


def _prediction(exercise: Exercise, path: Path, own_includes: bool) -> FinishedRun:
    """The exercise's program, and what the learner said about it."""
    answers = read_answers(path, exercise.questions)
    return _run(exercise, given(exercise.folder, exercise.data.program), answers)


def _python(exercise: Exercise, path: Path, own_includes: bool) -> FinishedRun:
    """The exercise's program, and the learner's piece of the hypervisor beside it."""
    piece = open_piece(path, exercise.data.piece.steps, exercise.data.piece.asks)
    try:
        run = _run(exercise, given(exercise.folder, exercise.data.program), {})
    except BaseException:
        piece.close()
        raise
    run.piece = piece
    setting = exercise.data.piece
    if setting.answers:
        run.handlers = Handlers(piece, setting, run.exit_count)
        run.handlers.install(run.virtual(LEARNER))
    return run


def _run(exercise: Exercise, image: Image, answers: Mapping[str, Any]) -> FinishedRun:
    wanted = {name for check in exercise.data.checks for name in check.events()}
    return FinishedRun(image, exercise.data.limits, exercise.data.machine, exercise.folder, wanted, answers)


_RUNS: dict[str, Callable[[Exercise, Path, bool], FinishedRun]] = {
    "guest": _guest, "predict": _prediction, "diagnose": _prediction, "python": _python}


def refused(error: ImageError | MachineError, path: Path) -> str:
    """One line that is the same wherever the file and hvlab are."""
    text = str(error).replace(str(path), path.name)
    for folder, name in ((guests_folder(), "guests"), (path.parent, "its folder")):
        if folder is not None and folder.is_absolute():
            text = text.replace(str(folder), name)
    with suppress(reading.Unreadable):  # then that is what the error is about
        text = with_column(text, path.name, reading.read(path))
    return printable(" ".join(text.split()))

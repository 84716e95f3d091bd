"""A learner's program on a machine of its own, within limits, and what the checks find.

Whatever the program is or does ends in a `Verdict`: no mistake of the learner raises. Limits are in virtual time, so a
verdict is the same everywhere; the assembler, which is a child process, has a limit of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hv.image.assembler import assemble
from hv.image.errors import ImageError
from hv.image.library import guests_folder
from hv.image.load import image_of
from hv.image.model import Image
from hv.image.source import read_text
from hv.lab.checks import Check, Finding, Happening, judge_all
from hv.lab.exercise import Exercise, Limits
from hv.lab.words import is_exit
from hv.machine.engine import EngineError
from hv.platform import Machine, MachineError
from hv.printable import printable
from hv.trace.bus import Record

MACHINE_MIB = 16                # what root keeps, beside the memory of the learner's VM


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one program. *refused* is one line about why it could not be run at all; then nothing was judged."""

    exercise: Exercise
    name: str
    refused: str = ""
    findings: list[Finding] = field(default_factory=list)

    @property
    def judged(self) -> list[tuple[Check, Finding]]:
        """Each check with its finding; a program that could not be run failed them all."""
        refused = Finding(False, "", "", [], self.refused)
        findings = self.findings or [refused] * len(self.exercise.data.checks)
        return list(zip(self.exercise.data.checks, findings, strict=True))

    @property
    def score(self) -> int:
        """Points earned."""
        return sum(check.points for check, finding in self.judged if finding.passed)

    @property
    def passed(self) -> bool:
        """Every check passed."""
        return all(finding.passed for _, finding in self.judged)


class FinishedRun:
    """What is left of a run; the `Run` of `checks.py`. The machine is still there, until `close`."""

    def __init__(self, image: Image, limits: Limits) -> None:
        self.image, self.limits = image, limits
        self.happened: list[Happening] = []
        self.left_out = 0                       # events beyond the limit
        self.ended, self.ended_at, self.why = "error", "", ""
        self.machine = Machine(memory_mib=limits.memory_mib + MACHINE_MIB)
        try:
            self.vm = self.machine.create_vm("lab", image, limits.memory_mib)
        except BaseException:
            self.machine.close()
            raise
        self.state = self.vm.partition.vps[0].guest_regs

    def go(self) -> None:
        """Run the program to its end, or to the end of its budget."""
        self.machine.trace.listen(self._on_record)
        try:
            self.machine.run(until_tsc=self.machine.clock.tsc + self.limits.ticks)
            self.machine.end_budget()
            self.ended, self.why = self.vm.ended or "budget", self.vm.why
            self.ended_at = self.image.places.get(self.state.rip, "")
        except EngineError as error:
            self.why = f"the CPU engine gave up: {error}"
        finally:
            self.machine.trace.unlisten(self._on_record)

    def _on_record(self, record: Record) -> None:
        if record.partition != self.vm.partition_id or self.vm.ended is not None:
            return
        if len(self.happened) >= self.limits.events:
            self.left_out += 1
            return
        place = self.image.places.get(self.state.rip, "") if is_exit(record.event) else ""
        self.happened.append(Happening(place, record.event))

    @property
    def serial(self) -> str:
        """What the program printed."""
        return self.vm.serial

    def symbol(self, name: str) -> int | None:
        """Address of a label of the program."""
        return self.image.symbols.get(name)

    def read(self, gpa: int, size: int) -> bytes:
        """Bytes of the VM's memory; fewer where it ends."""
        return self.vm.worker.read(gpa, max(0, min(size, (self.limits.memory_mib << 20) - gpa)))

    def register(self, name: str) -> int:
        """A register of VP 0."""
        value: Any = getattr(self.state, name)
        return int(value)

    def close(self) -> None:
        """Give the machine back to the host."""
        self.machine.close()


def check(exercise: Exercise, path: Path, own_includes: bool = True) -> Verdict:
    """Assemble the program in *path*, run it, judge it. *own_includes*: it may include files of its own folder."""
    try:
        image = program(path, own_includes)
        _check_size(image, exercise.data.limits.memory_mib)
        run = FinishedRun(image, exercise.data.limits)
    except (ImageError, MachineError) as error:
        return Verdict(exercise, path.name, refused(error, path))
    try:
        run.go()
        return Verdict(exercise, path.name, "", judge_all(exercise.data.checks, run))
    finally:
        run.close()


def _check_size(image: Image, memory_mib: int) -> None:
    if image.end > memory_mib << 20:
        raise ImageError(f"the program reaches up to {image.end:#x}; the machine of this lab has {memory_mib} MiB",
                         "place it lower, with .org")


def program(path: Path, own_includes: bool) -> Image:
    """The assembly program in *path*; ImageError."""
    shared = guests_folder()
    folders = ((path.parent,) if own_includes else ()) + ((shared,) if shared is not None else ())
    return image_of(assemble(read_text(path), path.name, folders=folders))


def refused(error: ImageError | MachineError, path: Path) -> str:
    """One line that is the same wherever the file and hvlab are."""
    text = str(error).replace(str(path), path.name)
    for folder, name in ((guests_folder(), "guests"), (path.parent, "its folder")):
        if folder is not None and folder.is_absolute():
            text = text.replace(str(folder), name)
    return printable(" ".join(text.split()))

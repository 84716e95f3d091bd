"""What the tests of this room share: the real exercise, other ones made of data, and fake runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

import hv
from hv.lab import runner
from hv.lab.checks import AnyCheck, Happening
from hv.lab.exercise import Exercise, read

LABS = Path(hv.__file__).parent.parent / "labs"
SOLUTION = (LABS / "01_first_exit/solution/first_exit.asm").read_text()


def first_exit() -> Exercise:
    return read(LABS / "01_first_exit")


def a_check(**fields: Any) -> Any:
    """A check as lab.toml would hold it."""
    return msgspec.convert({"name": "it", **fields}, AnyCheck)


def judged(folder: Path, source: str | bytes, exercise: Exercise | None = None) -> runner.Verdict:
    """The verdict on a program, `first_exit.asm` in *folder*."""
    place = folder / "first_exit.asm"
    place.write_bytes(source if isinstance(source, bytes) else source.encode())
    return runner.check(exercise or first_exit(), place)


@dataclass
class FakeRun:
    """What is left of a run that never was."""

    end: str = "halt"
    why: str = ""
    printed: str = ""
    happened: list[Happening] = field(default_factory=list)
    more: int = 0
    ended_at: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    worked: tuple[int, int] = (0, 0)
    symbols: dict[str, int] = field(default_factory=dict)
    memory: bytes = bytes(64)
    registers: dict[str, int] = field(default_factory=dict)
    vps: dict[int, Any] = field(default_factory=dict)

    def left_out(self, vm: str) -> int:
        return self.more

    def ended(self, vm: str) -> tuple[str, str, str]:
        return self.end, self.why, self.ended_at

    def serial(self, vm: str) -> str:
        return self.printed

    def symbol(self, vm: str, name: str) -> int | None:
        return self.symbols.get(name)

    def read(self, vm: str, gpa: int, size: int) -> bytes:
        return self.memory[gpa : gpa + size]

    def register(self, vm: str, vp: int, name: str) -> int:
        return self.registers[name]

    def vp(self, vm: str, index: int) -> Any:
        return self.vps.get(index)

    def work(self, vm: str) -> tuple[int, int]:
        return self.worked

"""An exercise: a folder that says, as data, what to write and how it is judged.

    labs/01_first_exit/
      lab.toml               title, kind, file, limits, machine, checks, hints, known wrong answers
      README.md              the idea, what to read, the task
      why.md                 why it works, shown after success
      starter.asm            what the learner begins with; it fails for the stated reason
      solution/FILE          passes
      wrong/*.asm            each fails with a message of its own

`starter`, the solution and wrong answers end as *file* does: `.asm` for a guest, `.toml` for answers. `hv lab verify`
checks them; of README.md only that it is there and has a section "The task". docs/labs.md is for authors.
"""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from hv.lab import reading
from hv.lab.answering import PieceCheck
from hv.lab.checks import ANY, AnyCheck, Check, SerialCheck
from hv.lab.contents import MemoryCheck, RegisterCheck
from hv.lab.errors import LabError
from hv.lab.mappings import MapsCheck
from hv.lab.questions import AnswerCheck
from hv.lab.setting import Setting
from hv.lab.variants import Keep, Parameter, Value, drawn, filled, first, parameters
from hv.lab.walks import WalkCheck
from hv.spec.exits import ExitReason
from hv.spec.hypercalls.codes import HypercallCode

HINTS = 3                       # of growing help
SUFFIXES = {"guest": (".asm", ".s"), "predict": (".toml",), "diagnose": (".toml",),
            "python": (".py",)}
Kinds = tuple[type[Check], ...]
# The checks that look at what the learner handed in, by kind of lab. A guest is what happened, so all others do.
ONLY_CHECKS: dict[str, Kinds] = {"predict": (AnswerCheck,), "diagnose": (AnswerCheck,), "python": (WalkCheck,)}
Positive = Annotated[int, msgspec.Meta(gt=0)]


class Limits(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a run may use. An exit costs 1000 ticks, so *ticks* bounds the exits too."""

    ticks: Positive = 20_000_000        # of the 2 GHz counter, from when it begins to run: 10 ms of virtual time
    exits: Positive = 1_000_000         # of all VMs together; the one after that is the last
    memory_mib: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16     # of the learner's VM
    events: Positive = 1000             # how many are kept of each VM; the rest is counted


class PieceSetting(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a learner's Python answers, and what it may do.

    *exits* and *hypercalls* name the functions that answer in the machine (`handlers.py`); without them it is a `walk`.
    """

    steps: Positive = 20_000            # lines that one call runs
    asks: Positive = 1000               # uses of a door in one call, such as read_u64
    calls: Positive = 1000              # calls in a run of the machine
    exits: dict[str, str] = {}          # functions by exit reason
    hypercalls: dict[str, str] = {}     # functions by hypercall
    apic_ids: list[int] = []            # what a hypercall is told that its VPs have; without it, what they have

    def __post_init__(self) -> None:
        wrong = [f"`{name}` is no exit reason" for name in self.exits if name not in ExitReason.__members__]
        wrong += [f"`{name}` is no hypercall" for name in self.hypercalls if name not in HypercallCode.__members__]
        functions = [*self.exits.values(), *self.hypercalls.values()]
        wrong += [f"`{name}` is no name of a function" for name in functions if not name.isidentifier()]
        if wrong:
            raise ValueError(wrong[0])

    @property
    def answers(self) -> bool:
        """It answers in the machine, while that runs."""
        return bool(self.exits or self.hypercalls)


class WrongAnswer(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A program that must fail, and words that its report must contain."""

    file: str
    says: str


class Description(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What lab.toml says."""

    title: str
    # Write a guest; say what *program* does; find the bug of the machine that runs it; write a piece in Python.
    kind: Literal["guest", "predict", "diagnose", "python"]
    file: str                           # the name under which the learner works on the starter
    program: str = ""                   # the guest that runs, where the learner does not write it
    checks: Annotated[list[AnyCheck], msgspec.Meta(min_length=1)]
    hints: Annotated[list[str], msgspec.Meta(min_length=HINTS, max_length=HINTS)]
    starter_says: str = ""              # words of the report that the untouched starter gets; students have none
    wrong: list[WrongAnswer] = []
    limits: Limits = Limits()
    piece: PieceSetting = PieceSetting()
    machine: Setting = Setting()

    def __post_init__(self) -> None:
        suffixes = SUFFIXES[self.kind]
        if not self.file.endswith(suffixes):
            raise ValueError(f"`file` is {self.file}; of kind {self.kind} it ends in {' or '.join(suffixes)}")
        if (self.kind == "guest") == bool(self.program):
            raise ValueError("a guest is the learner's own program" if self.program else "`program` is missing")
        if (self.kind == "diagnose") != bool(self.machine.fault):
            raise ValueError("a lab of kind diagnose has a fault in [machine], and no other kind has one")
        if self.machine.bare and self.kind != "guest":
            raise ValueError("on a bare machine the program is the learner's: a lab of kind guest")
        for check in self.checks:
            _check_target(self, check)


def _check_target(lab: Description, check: Check) -> None:
    """The VMs that *check* looks at are there, and it asks only where answers are given."""
    for vm in check.vms() - {ANY}:
        if vm not in lab.machine.names:
            names = ", ".join(sorted(lab.machine.names))
            raise ValueError(f"check `{check.name}` looks at VM `{vm}`; expected {names}")
    only, never = _kinds_of_check(lab)
    if isinstance(check, only) and not isinstance(check, never):
        return
    words = " or ".join(str(kind.__struct_config__.tag) for kind in only) if only != (Check,) else \
        "neither " + " nor ".join(str(kind.__struct_config__.tag) for kind in never)
    raise ValueError(f"check `{check.name}`: the checks of a lab of kind {lab.kind} are of kind {words}")


def _kinds_of_check(lab: Description) -> tuple[Kinds, Kinds]:
    """The checks that *lab* may have: some kinds only, and others not."""
    if lab.kind == "python" and lab.piece.answers:      # what its guest met is what counts
        return (Check,), (AnswerCheck, WalkCheck)
    if lab.machine.bare:                                # there is no partition whose tables could be walked
        return (Check,), (AnswerCheck, WalkCheck, PieceCheck, MapsCheck)
    return ONLY_CHECKS.get(lab.kind, (Check,)), () if lab.kind in ONLY_CHECKS else (AnswerCheck, WalkCheck, PieceCheck)


@dataclass(frozen=True, slots=True)
class Exercise:
    """One exercise; *name* is the name of its folder."""

    name: str
    folder: Path
    data: Description
    origin: Path | None = None          # the folder with the parameters, when *folder* has their values filled in
    parameters: dict[str, Parameter] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    keep: Keep | None = None            # what holds *folder*
    hashes: dict[str, str] = field(default_factory=dict, compare=False, repr=False)     # shared by all variants

    @property
    def starter(self) -> Path:
        """What the learner begins with."""
        return self.folder / f"starter{Path(self.data.file).suffix}"

    @property
    def solution(self) -> Path:
        """The reference solution."""
        return self.folder / "solution" / self.data.file

    @property
    def questions(self) -> list[str]:
        """What the learner is asked, by name."""
        return [check.question for check in self.data.checks if isinstance(check, AnswerCheck)]

    @property
    def max_score(self) -> int:
        """The sum of all points."""
        return sum(check.points for check in self.data.checks)

    def variant(self, seed: bytes, student: str) -> Exercise:
        """The exercise with the values of *student*; itself when it has no parameters."""
        if not self.parameters or self.origin is None:
            return self
        values = drawn(self.parameters, seed, student, self.name)
        return replace(_with_values(self.origin, self.parameters, values), hashes=self.hashes)

    def for_student(self) -> Exercise:
        """The same without what is hidden."""
        shown = [check for check in self.data.checks if not check.hidden]
        return replace(self, data=msgspec.structs.replace(self.data, checks=shown))

    def sha256(self) -> str:
        """A hash of every file of the folder, with its name: two folders with the same one grade the same.

        Of a lab with parameters, whatever their values. It is worked out once.
        """
        if "sha256" not in self.hashes:
            self.hashes["sha256"] = self._sha256()
        return self.hashes["sha256"]

    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for name, place in _files(self.origin or self.folder):
            data = place.read_bytes()
            digest.update(f"{name}\0{len(data)}\0".encode(errors="surrogateescape") + data)
        return digest.hexdigest()

    def text(self, name: str) -> str:
        """A page of the folder, such as README.md; LabError when it is missing."""
        try:
            return reading.read(self.folder / name)
        except reading.Unreadable as error:
            raise LabError(f"{self.name}/{name} cannot be read: {error}", "put it back, or reinstall hvlab") from None

    def section(self, heading: str) -> str:
        """The part of README.md under `## heading`, without it; empty when there is none."""
        _, _, rest = self.text("README.md").partition(f"\n## {heading}\n")
        return rest.partition("\n## ")[0].strip()


def read(folder: Path) -> Exercise:
    """The exercise in *folder*; LabError says what is wrong with its lab.toml."""
    data = _toml(folder)
    if "variants" in data:
        known = parameters(data["variants"], f"{folder.name}/lab.toml")
        return _with_values(folder, known, first(known))
    return _described(folder, data)


def _toml(folder: Path) -> dict[str, Any]:
    place = f"{folder.name}/lab.toml"
    try:
        return tomllib.loads(reading.read(folder / "lab.toml"))
    except reading.Unreadable as error:
        raise LabError(f"{place} cannot be read: {error}", "is this an exercise?") from None
    except (ValueError, RecursionError) as error:       # of the parser: 5000 digits, 5000 brackets
        raise LabError(f"{place} is no TOML: {error}", "mend that line") from None


def _described(folder: Path, data: dict[str, Any]) -> Exercise:
    place = f"{folder.name}/lab.toml"
    try:
        exercise = Exercise(folder.name, folder, msgspec.convert(data, Description))
    except msgspec.ValidationError as error:
        raise LabError(f"{place}: {error}", "hv/lab/exercise.py lists the fields") from None
    _check_needs(exercise, place)
    _check_files(exercise, place)
    return exercise


def _with_values(folder: Path, known: dict[str, Parameter], values: dict[str, Value]) -> Exercise:
    """The exercise in *folder*, whose parameters have these values."""
    try:
        target, keep = filled(folder, values)
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{folder.name} cannot be filled in: {_reason(error)}", "its files are text") from None
    data = _toml(target)
    if "variants" in data:
        raise LabError(f"{folder.name}/lab.toml: [variants] is not found as a table of its own",
                       "write `[variants]` on a line, and its parameters below")
    return replace(_described(target, data), origin=folder, parameters=known, values=values, keep=keep)


def _check_needs(exercise: Exercise, place: str) -> None:
    """A check may wait for an earlier one only, and a visible one for a visible one; not all are hidden."""
    before: dict[str, Check] = {}
    for check in exercise.data.checks:
        if check.needs and check.needs not in before:
            raise LabError(f"{place}: check `{check.name}` needs `{check.needs}`, which is no check before it",
                           "name an earlier check")
        if check.needs and before[check.needs].hidden and not check.hidden:
            raise LabError(f"{place}: check `{check.name}` needs `{check.needs}`, which is hidden",
                           "hide both, or neither")
        if check.name in before:
            raise LabError(f"{place}: two checks are called `{check.name}`", "give each a name of its own")
        if check.partial and not isinstance(check, MemoryCheck | RegisterCheck | SerialCheck):
            raise LabError(f"{place}: check `{check.name}` cannot be partial",
                           "checks of memory, registers and serial output have parts")
        if check.secret and not check.about:
            raise LabError(f"{place}: check `{check.name}` cannot be secret",
                           "checks of memory, registers, page tables and serial output can")
        before[check.name] = check
    if all(check.hidden for check in before.values()):
        raise LabError(f"{place}: every check is hidden", "leave one for the student to see")


def _check_files(exercise: Exercise, place: str) -> None:
    """File names stay inside their folder."""
    names = [exercise.data.program] if exercise.data.program else []
    for name in (exercise.data.file, *names, *(wrong.file for wrong in exercise.data.wrong)):
        if Path(name).name != name:
            raise LabError(f"{place}: `{name}` is no plain file name", "leave the folder out")


def read_all(folder: Path | None) -> list[Exercise]:
    """Every exercise below *folder*, in order of their names; LabError when there is none."""
    places = sorted(place.parent for place in folder.glob("*/lab.toml")) if folder is not None else []
    if not places:
        raise no_labs(folder)
    return [read(place) for place in places]


def no_labs(folder: Path | None) -> LabError:
    """What is said where nothing is."""
    return LabError(f"there are no labs here{'' if folder is None else f', in {folder}'}",
                    "reinstall hvlab, or clone its repository")


def is_called(name: str, wanted: str) -> bool:
    """*wanted* is the lab's *name*, its number (`1`, `01`), or its name without the number."""
    number, _, title = name.partition("_")
    by_number = wanted.isdecimal() and number.isdecimal() and int(wanted) == int(number)
    return wanted in (name, title or name) or by_number


def find(exercises: list[Exercise], wanted: str) -> Exercise:
    """The exercise called *wanted*: its name, its number (`1`, `01`), or its name without the number."""
    for exercise in exercises:
        if is_called(exercise.name, wanted):
            return exercise
    names = [exercise.name for exercise in exercises]
    near = difflib.get_close_matches(wanted, names, 3) or names[:3]
    raise LabError(f"there is no lab `{wanted}`", f"did you mean {' or '.join(near)}? `hv lab list` lists all")


def _files(folder: Path) -> list[tuple[str, Path]]:
    """What belongs to an exercise, by name: not what editors, systems and Python leave behind."""
    found = ((place.relative_to(folder), place) for place in folder.rglob("*") if place.is_file())
    return sorted((name.as_posix(), place) for name, place in found
                  if not any(part.startswith((".", "__pycache__")) for part in name.parts))


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or str(error)

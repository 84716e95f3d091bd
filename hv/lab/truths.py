"""Where the answers to questions come from: what the machine really did, never a second copy of it."""

from __future__ import annotations

import re
from enum import IntFlag
from typing import Annotated, Any, Literal

import msgspec

from hv.debug.numbers import REGISTERS
from hv.debug.why.names import FIELDS
from hv.lab.faults import FAULTS
from hv.lab.finding import LEARNER, Happening, Run
from hv.lab.pattern import Fields, Pattern
from hv.lab.words import NAMED_FIELDS, event_name
from hv.spec.vmcs import VmcsField

Nth = Annotated[int, msgspec.Meta(ge=1)]
_POSITION = re.compile(r"[Ee](\d{1,15})(?:[:+]\d+)?$")
_BITS: dict[VmcsField, type[IntFlag]] = {field: bits for bits, field in FIELDS.items()}


class Truth(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, tag_field="of"):
    """Where an answer comes from. *vm* is whose."""

    vm: str = LEARNER

    def of(self, run: Run) -> Any:
        """The answer; None when the run has none, which is a mistake of the exercise."""
        raise NotImplementedError

    def is_same(self, answer: Any, truth: Any) -> bool:
        """*answer* says *truth*."""
        return bool(plain(answer) == plain(truth))

    def names(self) -> list[str]:
        """The answers there are to choose from; empty when any may be given."""
        return []


class _Selects(Truth, frozen=True):
    """Some events or exits, as in a `Pattern`."""

    event: str = ""
    exit: str = ""
    fields: Fields = {}
    vp: int | None = None

    def __post_init__(self) -> None:
        self.pattern                # noqa: B018  what is wrong with it is said when it is made

    @property
    def pattern(self) -> Pattern:
        """Which are meant."""
        return Pattern(event=self.event, exit=self.exit, fields={**self.fields}, vm=self.vm, vp=self.vp)

    def found(self, run: Run) -> list[tuple[Happening, Happening | None]]:
        """Those that happened, each with what answers it."""
        return [(one, answer) for one, fits, answer in self.pattern.found(run) if fits]


class Count(_Selects, frozen=True, tag="count"):
    """How many happened."""

    def of(self, run: Run) -> Any:
        return None if run.left_out(self.vm) else len(self.found(run))


class Field(_Selects, frozen=True, kw_only=True, tag="field"):
    """What *field* of the *nth* one is; of an exit also `reason`, its name. A name of the number is right too."""

    field: str
    nth: Nth = 1

    def of(self, run: Run) -> Any:
        found = self.found(run)
        if self.nth > len(found):
            return None
        event, answer = found[self.nth - 1]
        if self.field == "reason" and self.exit:
            return event_name(event.event)
        value = getattr(event.event, self.field, None)
        return getattr(answer.event, self.field, None) if value is None and answer is not None else value

    def is_same(self, answer: Any, truth: Any) -> bool:
        names = NAMED_FIELDS.get(self.field)
        if names is not None and isinstance(answer, str) and answer.upper() in names.__members__:
            answer = int(names[answer.upper()])
        return bool(plain(answer) == plain(truth))


class Place(_Selects, frozen=True, tag="place"):
    """The source line of the *nth* one: `27`."""

    nth: Nth = 1

    def of(self, run: Run) -> Any:
        found = self.found(run)
        place = found[self.nth - 1][0].place if self.nth <= len(found) else ""
        return int(place.rpartition(":")[2]) if place else None


class Memory(Truth, frozen=True, tag="memory"):
    """The number of *size* bytes at the label *symbol*, *offset* bytes behind it."""

    symbol: str
    offset: int = 0
    size: Literal[1, 2, 4, 8] = 8

    def of(self, run: Run) -> Any:
        gpa = run.symbol(self.vm, self.symbol)
        return None if gpa is None else int.from_bytes(run.read(self.vm, gpa + self.offset, self.size), "little")


class Register(Truth, frozen=True, tag="register"):
    """What a register of VP *vp* was when the run ended."""

    register: str
    vp: Annotated[int, msgspec.Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.register not in REGISTERS:
            raise ValueError(f"`{self.register}` is no register; expected {', '.join(REGISTERS)}")

    def of(self, run: Run) -> Any:
        return run.register(self.vm, self.vp, self.register)


class Vmcs(Truth, frozen=True, kw_only=True, tag="vmcs"):
    """What *field* of VP *vp*'s VMCS holds when the run ended; with *bit*, a name in that field: `yes` or `no`."""

    field: str
    bit: str = ""
    vp: Annotated[int, msgspec.Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.field not in VmcsField.__members__:
            raise ValueError(f"`{self.field}` is no VMCS field; hv/spec/vmcs.py lists them")
        bits = _BITS.get(VmcsField[self.field])
        if self.bit and (bits is None or self.bit not in bits.__members__):
            raise ValueError(f"`{self.bit}` is no bit of {self.field}" if bits is not None else
                             f"the bits of {self.field} have no names")

    def names(self) -> list[str]:
        return ["yes", "no"] if self.bit else []

    def of(self, run: Run) -> Any:
        vp = run.vp(self.vm, self.vp)
        if vp is None:
            return None
        field = VmcsField[self.field]
        value = int(vp.vcpu.vmcs.read(field))
        return ("yes" if value & int(_BITS[field][self.bit]) else "no") if self.bit else value


class Ended(Truth, frozen=True, tag="ended"):
    """How the VM ended."""

    def of(self, run: Run) -> Any:
        return run.ended(self.vm)[0]


class Serial(Truth, frozen=True, tag="serial"):
    """What the VM printed."""

    def of(self, run: Run) -> Any:
        return run.serial(self.vm)


class Option(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One of several answers. It is right when *when* happened, and no option before it is."""

    name: str
    says: str
    when: Pattern | None = None


class Choice(Truth, frozen=True, tag="choice"):
    """One of the *options*; the last may be without `when`: right if no other is."""

    options: Annotated[list[Option], msgspec.Meta(min_length=2)]

    def __post_init__(self) -> None:
        names = [plain(option.name) for option in self.options]
        if len(set(names)) < len(names):
            raise ValueError("two options have the same name")
        if any(option.when is None for option in self.options[:-1]):
            raise ValueError("only the last option may be without `when`")

    def names(self) -> list[str]:
        return [option.name for option in self.options]

    def of(self, run: Run) -> Any:
        return next((option.name for option in self.options if option.when is None
                     or any(fits for _, fits, _ in option.when.found(run))), None)


class InjectedFault(Truth, frozen=True, tag="fault"):
    """The bug of this machine (`faults.py`): its *name*, the *position* of the exit where it first acts, or the *line*.

    A position is the number of a VM exit, counted over all VMs from 1: `E7`, or 7.
    """

    asks: Literal["name", "position", "line"] = "name"

    def names(self) -> list[str]:
        return sorted(FAULTS) if self.asks == "name" else []

    def of(self, run: Run) -> Any:
        name, position, place = run.fault
        if self.asks == "name" or not position:
            return name if position else None
        return position if self.asks == "position" else int(place.rpartition(":")[2] or 0)

    def is_same(self, answer: Any, truth: Any) -> bool:
        if self.asks == "position" and isinstance(answer, str):
            exit = _POSITION.match(answer.strip())
            answer = int(exit[1]) if exit is not None else answer
        return bool(plain(answer) == plain(truth))


AnyTruth = Count | Field | Place | Memory | Register | Vmcs | Ended | Serial | Choice | InjectedFault


def plain(value: Any) -> Any:
    """An answer without what does not matter: numbers as numbers, words without case, `-` for `_` and spaces."""
    if isinstance(value, int):
        return int(value)
    text = str(value).strip()
    try:
        return int(text, 0)
    except ValueError:
        return text.casefold().replace("_", "-").replace(" ", "-")

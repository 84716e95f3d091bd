"""`Numbering` makes what `IntEnum` makes, and `Flags` what `IntFlag` makes, sooner."""

from __future__ import annotations

import copy
import pickle
from enum import Enum, IntEnum, IntFlag, unique
from types import new_class

import pytest

from hv.spec import cpuid, exits, hv_registers, hv_status, msrs, partition, processor_features, vmcs, vtd, x86
from hv.spec.hypercalls import codes
from hv.spec.numbering import Flags, Numbering, NumberingType


class Quick(Numbering):
    """Five numbers, one with two names, out of order."""

    LAST = 0x8000_0010
    ZERO = 0
    ONE = 1
    AGAIN = 1
    NEXT = ONE + 1

    @property
    def doubled(self) -> int:
        """Twice the number."""
        return 2 * self

    @classmethod
    def smallest(cls) -> Quick:
        """The member of the smallest number."""
        return min(cls)


class Usual(IntEnum):
    """Five numbers, one with two names, out of order."""

    LAST = 0x8000_0010
    ZERO = 0
    ONE = 1
    AGAIN = 1
    NEXT = ONE + 1

    @property
    def doubled(self) -> int:
        """Twice the number."""
        return 2 * self

    @classmethod
    def smallest(cls) -> Usual:
        """The member of the smallest number."""
        return min(cls)


class QuickFlags(Flags):
    """Four bits, out of order, one of them twice; a field of two bits, of which one has no name; and none at all."""

    HIGH = 1 << 40
    NONE = 0
    LOW = 1
    SECOND = 2
    TWICE = 2
    FIELD = 3 << 4
    PART = 1 << 4


class UsualFlags(IntFlag):
    """Four bits, out of order, one of them twice; a field of two bits, of which one has no name; and none at all."""

    HIGH = 1 << 40
    NONE = 0
    LOW = 1
    SECOND = 2
    TWICE = 2
    FIELD = 3 << 4
    PART = 1 << 4


QUESTIONS = {
    "the members in order": lambda kind: [member.name for member in kind],
    "backwards": lambda kind: [member.name for member in reversed(kind)],
    "all names": lambda kind: [(name, member.name) for name, member in kind.__members__.items()],
    "how many": len,
    "the numbers": lambda kind: [(int(member), member.value, type(member.value)) for member in kind],
    "its document": lambda kind: kind.__doc__,
    "its directory": dir,
}
NUMBER_QUESTIONS = QUESTIONS | {
    "by number": lambda kind: kind(0x8000_0010).name,
    "by name": lambda kind: kind["AGAIN"].name,
    "an alias is the same": lambda kind: kind.AGAIN is kind.ONE,
    "what is in it": lambda kind: [kind.ONE in kind, kind.NEXT in list(kind)],
    "words": lambda kind: [f"{kind.ONE}", str(kind.LAST), f"{kind.LAST:#x}", format(kind.NEXT, "04d")],
    "its picture": lambda kind: repr(kind.LAST).replace(kind.__name__, ""),
    "a property": lambda kind: kind.NEXT.doubled,
    "a class method": lambda kind: kind.smallest().name,
    "it is a number": lambda kind: [kind.ONE == 1, kind.ONE + kind.NEXT, {1: "x"}[kind.ONE]],
    "a copy": lambda kind: [copy.copy(kind.ONE) is kind.ONE, copy.deepcopy(kind.LAST) is kind.LAST],
    "pickled": lambda kind: pickle.loads(pickle.dumps(kind.LAST)) is kind.LAST,
    "what a member keeps": lambda kind: sorted(vars(kind.NEXT)),
}
FLAG_QUESTIONS = QUESTIONS | {
    "any number": lambda kind: [kind(value).name for value in (0, 3, 0x10, 0x20, 0x30, 0x31, 8, 1 << 40 | 3)],
    "their pictures": lambda kind: [repr(kind(value)).replace(kind.__name__, "") for value in (0, 3, 0x30, 0x39, 8)],
    "words": lambda kind: [str(kind.LOW | kind.HIGH), f"{kind.FIELD:#x}"],
    "the bits of one": lambda kind: [list(map(str, kind(value))) for value in (0, 3, 0x10, 1 << 40 | 0x19)],
    "together": lambda kind: [(kind.LOW | kind.HIGH).value, type(kind.LOW | 8) is kind, (4 | kind.LOW).value],
    "in common": lambda kind: [(kind.FIELD & kind.PART).name, (kind.LOW & 2).value, (0x20 & kind.FIELD).value],
    "either": lambda kind: [(kind.LOW ^ kind.TWICE).value, (kind.FIELD ^ 0x10).value],
    "the others": lambda kind: [(~kind.LOW).value, (~kind(0)).value, (~~kind.FIELD).value, (~kind(8)).value],
    "what is in one": lambda kind: [kind.PART in kind.FIELD, kind.FIELD in kind.PART, kind.LOW in kind.HIGH],
    "truth": lambda kind: [bool(kind.NONE), bool(kind.LOW)],
    "made once": lambda kind: (kind.LOW | kind.SECOND) is kind(3),
    "pickled": lambda kind: pickle.loads(pickle.dumps(kind.LOW | kind.HIGH)) == kind.LOW | kind.HIGH,
    "what a member keeps": lambda kind: sorted(vars(kind.FIELD)),
}


@pytest.mark.parametrize("question", NUMBER_QUESTIONS.values(), ids=NUMBER_QUESTIONS)
def test_a_numbering_answers_what_an_intenum_answers(question):
    """The reference is `enum.IntEnum` itself."""
    assert question(Quick) == question(Usual)


@pytest.mark.parametrize("question", FLAG_QUESTIONS.values(), ids=FLAG_QUESTIONS)
def test_flags_answer_what_an_intflag_answers(question):
    """The reference is `enum.IntFlag` itself."""
    assert question(QuickFlags) == question(UsualFlags)


WRONG = {
    "a number it has not": lambda kind: kind(5),
    "a name it has not": lambda kind: kind["FIVE"],
    "an attribute it has not": lambda kind: kind.FIVE,
    "a new value for a member": lambda kind: setattr(kind, "ONE", 7),
    "a member taken away": lambda kind: delattr(kind, "ONE"),
    "a subclass": lambda kind: new_class("More", (kind,), exec_body=lambda body: body.update(SIX=6)),
    "two names for a number, where that is asked for": unique,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_numbering_refuses_what_an_intenum_refuses(wrong):
    """With the same error, in the same words."""
    said = []
    for kind in (Quick, Usual):
        with pytest.raises((ValueError, KeyError, AttributeError, TypeError)) as refusal:
            wrong(kind)
        said.append((refusal.type, str(refusal.value).replace(kind.__name__, "")))
    assert said[0] == said[1]


ROOMS = (codes, cpuid, exits, hv_registers, hv_status, msrs, partition, processor_features, vmcs, vtd, x86)
LISTS = [kind for room in ROOMS for kind in vars(room).values()
         if isinstance(kind, NumberingType) and kind.__module__ == room.__name__]


@pytest.mark.parametrize("kind", LISTS, ids=lambda kind: kind.__name__)
def test_a_list_of_the_manual_equals_the_enum_of_its_members(kind):
    """Names, numbers, their order, and what a Flags knows of its bits."""
    usual: type[Enum] = IntFlag if issubclass(kind, Flags) else IntEnum
    same = usual(kind.__name__, {name: member.value for name, member in kind.__members__.items()})
    assert [(name, member.name, int(member)) for name, member in kind.__members__.items()] == \
        [(name, member.name, int(member)) for name, member in same.__members__.items()]
    assert [member.name for member in kind] == [member.name for member in same]
    if issubclass(kind, Flags):
        everything = kind(0xFFFF_FFFF)
        assert int(~everything) == int(~same(0xFFFF_FFFF))
        for bit in range(32):               # a bit of a field has a name for who has met it alone
            assert str(kind(1 << bit)) == str(same(1 << bit))
        assert list(map(str, everything)) == list(map(str, same(0xFFFF_FFFF)))

"""`Numbering` makes what `IntEnum` makes, sooner."""

from __future__ import annotations

import copy
import pickle
from enum import IntEnum, unique
from types import new_class

import pytest

from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.msrs import Msr
from hv.spec.numbering import Numbering


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


QUESTIONS = {
    "the members in order": lambda kind: [member.name for member in kind],
    "backwards": lambda kind: [member.name for member in reversed(kind)],
    "all names": lambda kind: [(name, member.name) for name, member in kind.__members__.items()],
    "how many": len,
    "the numbers": lambda kind: [(int(member), member.value, type(member.value)) for member in kind],
    "by number": lambda kind: kind(0x8000_0010).name,
    "by name": lambda kind: kind["AGAIN"].name,
    "an alias is the same": lambda kind: kind.AGAIN is kind.ONE,
    "what is in it": lambda kind: [kind.ONE in kind, kind.NEXT in list(kind)],
    "words": lambda kind: [f"{kind.ONE}", str(kind.LAST), f"{kind.LAST:#x}", format(kind.NEXT, "04d")],
    "its picture": lambda kind: repr(kind.LAST).replace(kind.__name__, ""),
    "a property": lambda kind: kind.NEXT.doubled,
    "a class method": lambda kind: kind.smallest().name,
    "it is a number": lambda kind: [kind.ONE == 1, kind.ONE + kind.NEXT, {1: "x"}[kind.ONE]],
    "its document": lambda kind: kind.__doc__,
    "a copy": lambda kind: [copy.copy(kind.ONE) is kind.ONE, copy.deepcopy(kind.LAST) is kind.LAST],
    "pickled": lambda kind: pickle.loads(pickle.dumps(kind.LAST)) is kind.LAST,
    "what a member keeps": lambda kind: sorted(vars(kind.NEXT)),
    "its directory": lambda kind: dir(kind),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_a_numbering_answers_what_an_intenum_answers(question):
    """The reference is `enum.IntEnum` itself."""
    assert question(Quick) == question(Usual)


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
        said.append((refusal.type, str(refusal.value).replace(kind.__name__, "").replace(kind.__qualname__, "")))
    assert said[0] == said[1]


@pytest.mark.parametrize("kind", [Msr, HypercallCode])
def test_a_long_list_equals_the_intenum_of_its_members(kind):
    """Names, numbers and their order."""
    same = IntEnum(kind.__name__, {name: member.value for name, member in kind.__members__.items()})
    assert [(member.name, int(member)) for member in kind] == [(member.name, int(member)) for member in same]
    assert all(kind(member.value) is kind[member.name] for member in same)

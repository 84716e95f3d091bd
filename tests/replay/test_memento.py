"""What objects hold is taken down and put back in place; what is not understood is refused."""

import itertools
from collections import OrderedDict, deque
from functools import partial

import pytest

from hv.replay import memento
from hv.replay.memento import Memento, NotSaved


@pytest.fixture(autouse=True)
def of_the_machine(monkeypatch):
    """The classes and functions of this file count as the machine's own."""
    monkeypatch.setattr(memento, "_ROOMS", (__name__,))
    monkeypatch.setattr(memento, "_TAKERS", dict(memento._TAKERS))
    monkeypatch.setattr(memento, "_SKIPPED", set(memento._SKIPPED))


class Part:
    def __init__(self, **names):
        for name, value in names.items():
            setattr(self, name, value)


class Slotted:
    __slots__ = ("__private", "left", "right")

    def __init__(self, left):
        self.left, self.__private = left, left

    def private(self):
        return self.__private

    def change(self):
        self.left = self.right = self.__private = "changed"


class Queue(list):
    note = ""


@pytest.mark.parametrize(("made", "change"), [
    (lambda: [1, [2]], lambda thing: thing[1].append(3)),
    (lambda: {"a": [1]}, lambda thing: thing.update(a=0, b=1)),
    (lambda: {1, 2}, lambda thing: thing.clear()),
    (lambda: deque([1, 2], maxlen=2), lambda thing: thing.append(3)),
    (lambda: bytearray(b"abc"), lambda thing: thing.extend(b"def")),
    (lambda: OrderedDict(a=1, b=2), lambda thing: thing.move_to_end("a")),
    (lambda: Part(value=1), lambda thing: setattr(thing, "value", 2)),
    (lambda: (1, [2]), lambda thing: thing[1].clear()),
    (lambda: frozenset({1}) and [memoryview(bytearray(b"xy"))], lambda thing: thing[0].__setitem__(0, 0)),
], ids=["list", "dict", "set", "deque", "bytearray", "OrderedDict", "instance", "tuple", "memoryview"])
def test_what_was_changed_is_as_before(made, change):
    def shown(thing):
        return repr(vars(thing)) if isinstance(thing, Part) else repr([bytes(x) if isinstance(x, memoryview) else x
                                                                       for x in thing]) + repr(thing)[:4]
    thing = made()
    before = shown(thing)
    taken = Memento([thing])
    change(thing)
    assert shown(thing) != before
    taken.restore()
    assert shown(thing) == before


def test_the_objects_stay_the_same_ones():
    inner = [1]
    root = Part(inner=inner)
    taken = Memento([root])
    root.inner = []
    taken.restore()
    assert root.inner is inner


def test_an_attribute_that_came_later_is_gone():
    root = Part(first=1)
    taken = Memento([root])
    root.second = 2
    taken.restore()
    assert vars(root) == {"first": 1}


def test_an_attribute_that_went_is_back():
    root = Part(first=1, second=2)
    taken = Memento([root])
    del root.second
    taken.restore()
    assert root.second == 2


def test_a_default_of_the_class_stays_one():
    queue = Queue([1])
    taken = Memento([queue])
    queue.note = "changed"
    queue.append(2)
    taken.restore()
    assert (queue.note, list(queue)) == ("", [1])


def test_slots_are_taken_down_the_private_ones_too():
    thing = Slotted(1)
    taken = Memento([thing])
    thing.change()
    taken.restore()
    assert (thing.left, thing.private()) == (1, 1)


def test_what_a_function_holds_is_reached():
    count = 0

    def counts():
        nonlocal count
        count += 1
        return count

    root = [counts, partial(lambda kept, extra: None, [1], extra={"a": 1})]
    taken = Memento([root])
    counts()
    root[1].args[0].append(2)
    root[1].keywords["extra"].clear()
    taken.restore()
    assert (counts(), root[1].args[0], root[1].keywords["extra"]) == (1, [1], {"a": 1})


def test_a_method_leads_to_its_object():
    part = Part(value=1)
    part.look = part.__init__
    taken = Memento([part.look, [].append])
    part.value = 2
    taken.restore()
    assert part.value == 1


def test_rings_of_objects_end():
    root = Part()
    root.me = root
    taken = Memento([root])
    root.me = None
    taken.restore()
    assert root.me is root


def test_strangers_and_what_is_outside_are_left_alone():
    class Stranger:
        __module__ = "somebody.else"

    stranger, outside = Stranger(), [1]
    stranger.value = 1
    taken = Memento([[stranger, outside]], outside=[outside])
    stranger.value = 2
    outside.append(2)
    taken.restore()
    assert (stranger.value, outside) == (2, [1, 2])


@pytest.mark.parametrize("thing", [itertools.count(1), iter([1, 2]), (number for number in (1, 2))],
                         ids=["count", "iterator", "generator"])
def test_what_cannot_be_taken_down_is_refused(thing):
    with pytest.raises(NotSaved, match="cannot be taken down"):
        Memento([[thing]])

"""The state of a graph of Python objects, taken down and put back in place.

A machine is a few thousand objects that refer to one another. All of them that can change are written down, each with
a copy of what it holds, and are given that again later: the same objects, so whoever holds one (a listener, the REPL, a
test) still does. Nothing has to be known about a class, and a new one is saved like all others; what is not understood
is refused when it is met, and never left out in silence.

What does not belong to the machine is not entered: instances of classes, and functions, that were not made in its rooms
(who listens to the trace, who looks on), and what the host lends, which `checkpoint.py` looks after.
"""

from __future__ import annotations

import ctypes
import enum
import mmap
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from hv.replay.attributes import assign, attributes
from hv.trace.bus import Trace

_ROOMS = ("hv.machine", "hv.vmx", "hv.iommu", "hv.hypervisor", "hv.root", "hv.vmbus", "hv.child", "hv.spec", "hv.image",
          "hv.pci", "hv.platform", "hv.root_machine")
_PLAIN = (int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice, type, types.ModuleType,
          types.BuiltinFunctionType, types.CodeType, types.MethodWrapperType, types.WrapperDescriptorType,
          types.MemberDescriptorType, types.GetSetDescriptorType, property, enum.Enum, weakref.ref)
_POINTER = type(ctypes.byref(ctypes.c_int()))
_FUNCTION = ctypes.CFUNCTYPE(None).__bases__[0]
_LENT = (mmap.mmap, ctypes.c_void_p, _FUNCTION, _POINTER)      # the host's, or a number that never changes
_NUMBERS = (ctypes.Structure, ctypes.Array, ctypes._SimpleCData)
_ALL: slice = slice(None)

Restore = Callable[[], object]


class NotSaved(Exception):
    """An object whose state cannot be taken down was met."""


class Memento:
    """What all that can be reached from *roots* holds now; *outside* is not entered."""

    def __init__(self, roots: Iterable[object], outside: Iterable[object] = ()) -> None:
        self._kept: list[Restore] = []
        self._seen: dict[int, object] = {id(thing): thing for thing in outside}
        self._todo: list[object] = list(roots)
        todo, seen, takers = self._todo, self._seen, _TAKERS
        while todo:
            thing = todo.pop()
            place = id(thing)
            if place not in seen:
                seen[place] = thing                     # and so its id stays its own
                kind = type(thing)
                (takers.get(kind) or takers.setdefault(kind, _taker_of(kind)))(self, thing)
        self.size = len(self._kept)
        del self._seen, self._todo

    def restore(self) -> None:
        """Give every object what it held then."""
        for give_back in self._kept:
            give_back()

    # --- one object --------------------------------------------------------------------------------------

    def _skip(self, thing: object) -> None:
        _SKIPPED.add(type(thing))

    def _enter(self, things: Collection[object]) -> None:
        if not _SKIPPED.issuperset(map(type, things)):      # thousands of page numbers, in one step
            self._todo += [thing for thing in things if type(thing) not in _SKIPPED]

    def _take_instance(self, thing: Any) -> None:
        """An instance of the machine's own classes: its attributes, and what it holds if it is a container too."""
        if isinstance(thing, tuple):
            self._enter(thing)
            return
        base = next((base for base in (dict, list, set, deque, bytearray) if isinstance(thing, base)), None)
        slots = _slots(type(thing))
        plain = None if base is not None or slots else attributes(thing, _ROOMS)
        if plain is not None:
            self._kept.append(partial(assign, thing, plain))
            self._enter(plain.values())
            return
        if base is not None:
            _TAKERS[base](self, thing)
        others = getattr(thing, "__dict__", None)
        if others is not None:
            self._take_dict(others)
        for slot in slots:
            self._take_slot(thing, slot)

    def _take_slot(self, thing: Any, slot: Any) -> None:
        try:
            value = slot.__get__(thing)
        except AttributeError:
            return
        self._kept.append(partial(slot.__set__, thing, value))
        self._enter((value,))

    def _take_dict(self, thing: dict[Any, Any]) -> None:
        self._kept.append(partial(_refill, thing, dict(thing)))
        self._enter(thing.keys())
        self._enter(thing.values())

    def _take_list(self, thing: list[Any]) -> None:
        self._kept.append(partial(thing.__setitem__, _ALL, thing[:]))
        self._enter(thing)

    def _take_set(self, thing: set[Any]) -> None:
        self._kept.append(partial(_refill, thing, thing.copy()))
        self._enter(thing)

    def _take_deque(self, thing: deque[Any]) -> None:
        self._kept.append(partial(_refill_deque, thing, tuple(thing)))
        self._enter(thing)

    def _take_bytes(self, thing: bytearray) -> None:
        self._kept.append(partial(thing.__setitem__, _ALL, bytes(thing)))

    def _take_numbers(self, thing: Any) -> None:
        self._kept.append(partial(_copy_in, memoryview(thing).cast("B"), bytes(thing)))

    def _take_view(self, thing: memoryview) -> None:
        if isinstance(thing.obj, bytearray):            # others are of RAM or of a processor's context
            self._enter((thing.obj,))

    def _take_function(self, thing: types.FunctionType) -> None:
        if not (thing.__module__ or "").startswith(_ROOMS):
            return
        self._enter(thing.__closure__ or ())
        self._enter(thing.__defaults__ or ())
        self._enter((thing.__kwdefaults__ or {}).values())

    def _take_cell(self, thing: types.CellType) -> None:
        try:
            value = thing.cell_contents
        except ValueError:
            return                                      # not filled yet
        self._kept.append(partial(setattr, thing, "cell_contents", value))
        self._enter((value,))

    def _take_method(self, thing: types.MethodType) -> None:
        self._enter((thing.__self__, thing.__func__))

    def _take_builtin_method(self, thing: Any) -> None:
        self._enter((thing.__self__,))

    def _take_partial(self, thing: Any) -> None:
        self._enter((thing.func, *thing.args, *thing.keywords.values()))


_TAKERS: dict[type, Callable[[Memento, Any], None]] = {
    dict: Memento._take_dict, OrderedDict: Memento._take_dict, defaultdict: Memento._take_dict,
    list: Memento._take_list, set: Memento._take_set, deque: Memento._take_deque, bytearray: Memento._take_bytes,
    tuple: Memento._enter, frozenset: Memento._enter, memoryview: Memento._take_view,
    types.FunctionType: Memento._take_function, types.CellType: Memento._take_cell,
    types.MethodType: Memento._take_method, types.BuiltinMethodType: Memento._take_builtin_method,
    partial: Memento._take_partial, weakref.WeakKeyDictionary: Memento._take_instance,
    types.MappingProxyType: lambda memento, thing: memento._enter(thing.values()),
}
_SKIPPED: set[type] = {int, str, bytes, bool, float, type(None)}       # kinds that nothing is taken of
_UNKNOWN = frozenset({"builtins", "itertools", "collections", "functools", "random", "array", "heapq", "io", "types"})


def _taker_of(kind: type) -> Callable[[Memento, Any], None]:
    """What takes down an object of *kind*, which is none of the table; NotSaved."""
    if issubclass(kind, (*_PLAIN, *_LENT, Trace)):
        return Memento._skip
    if issubclass(kind, _NUMBERS):
        return Memento._take_numbers
    if kind.__module__.startswith(_ROOMS):
        return Memento._take_instance
    if kind.__module__ in _UNKNOWN:
        raise NotSaved(f"the state of a {kind.__module__}.{kind.__qualname__} cannot be taken down")
    return Memento._skip


def _slots(kind: type) -> list[Any]:
    """The descriptors of what instances of *kind* hold beside their `__dict__`."""
    found = _SLOTS.get(kind)
    if found is None:
        names = [(base, name) for base in kind.__mro__ for name in _names(base.__dict__.get("__slots__", ()))]
        places = [base.__dict__.get(_mangled(base, name)) for base, name in names]
        found = _SLOTS[kind] = [place for place in places if isinstance(place, types.MemberDescriptorType)]
    return found


_SLOTS: dict[type, list[Any]] = {}


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _mangled(base: type, name: str) -> str:
    private = name.startswith("__") and not name.endswith("__")
    return f"_{base.__name__.lstrip('_')}{name}" if private else name


def _refill(thing: Any, content: Any) -> None:
    thing.clear()
    thing.update(content)


def _refill_deque(thing: deque[Any], content: tuple[Any, ...]) -> None:
    thing.clear()
    thing.extend(content)


def _copy_in(view: memoryview, content: bytes) -> None:
    view[:] = content

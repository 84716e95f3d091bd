"""The attributes of an instance, without a look into its `__dict__`.

Up to Python 3.12 an instance whose `__dict__` was asked for once has its attributes there from then on, and each access
to one is slower: a quarter of a run that exits often. So their names are found out another way: from what the machine's
own code assigns to. Whether that is all of them, the collector knows, which counts what an instance refers to.
"""

from __future__ import annotations

import dis
import gc
import sys
import types
from collections.abc import Iterator
from typing import Any

_STORE, _EXTENDED = dis.opmap["STORE_ATTR"], dis.opmap["EXTENDED_ARG"]
_MISSING = object()
# As found with the last instance of the class: names that the class itself does not have, and those that it has too.
_names: dict[type, tuple[tuple[str, ...], tuple[str, ...]]] = {}
_others: set[type] = set()                      # classes of which an instance has a `__dict__` anyway, or odd names
_stored: dict[str, None] = {}                   # every name that is assigned to, in the modules looked at so far
_modules: set[str] = set()


def attributes(thing: Any, rooms: tuple[str, ...]) -> dict[str, Any] | None:
    """What is assigned to *thing*, by name; None where only its `__dict__` can tell. *rooms* are the modules, by the
    beginnings of their names, that assign to it."""
    kind = type(thing)
    if kind in _others:
        return None
    count = _count(thing)
    alone, shared = _names.get(kind, ((), ()))
    found = {name: value for name in alone if (value := getattr(thing, name, _MISSING)) is not _MISSING}
    for name in shared:
        if (value := _own(thing, kind, name)) is not _MISSING:
            found[name] = value
    if len(found) == count:
        return found
    _look_at_modules(rooms)
    found = {name: value for name in _stored if (value := _own(thing, kind, name)) is not _MISSING}
    if len(found) != count:
        _others.add(kind)
        return None
    _names[kind] = (tuple(name for name in found if not hasattr(kind, name)),
                    tuple(name for name in found if hasattr(kind, name)))
    return found


def assign(thing: Any, then: dict[str, Any]) -> None:
    """Let *thing* have the attributes that it had *then*, and no others."""
    for name, value in then.items():
        object.__setattr__(thing, name, value)
    if _count(thing) != len(then):
        for name in [name for name in thing.__dict__ if name not in then]:
            object.__delattr__(thing, name)


def _count(thing: Any) -> int:
    """How many attributes it has: an instance refers to those and to its class."""
    return len(gc.get_referents(thing)) - 1


def _own(thing: Any, kind: type, name: str) -> Any:
    """Its attribute *name*, unless it has none, or the one that is seen is its class's."""
    of_class = getattr(kind, name, _MISSING)
    if hasattr(type(of_class), "__get__"):
        return _MISSING                         # a property, a slot, or a method
    value = getattr(thing, name, _MISSING)
    return _MISSING if value is of_class else value


def _look_at_modules(rooms: tuple[str, ...]) -> None:
    for name in sorted(sys.modules):
        if name.startswith(rooms) and name not in _modules:
            _modules.add(name)
            for function in _functions(vars(sys.modules[name]), name):
                _stored.update(dict.fromkeys(_assigned(function.__code__)))


def _functions(names: dict[str, Any] | types.MappingProxyType[str, Any], module: str) -> Iterator[types.FunctionType]:
    for thing in names.values():
        inner = getattr(thing, "__func__", thing)
        if isinstance(inner, types.FunctionType):
            yield inner
        elif isinstance(inner, property):
            yield from (method for method in (inner.fget, inner.fset) if isinstance(method, types.FunctionType))
        elif isinstance(inner, type) and inner.__module__ == module:
            yield from _functions(vars(inner), module)


def _assigned(code: types.CodeType) -> Iterator[str]:
    """The names of attributes that *code*, or a function made in it, assigns to."""
    argument, operations = 0, code.co_code
    for place in range(0, len(operations), 2):
        argument |= operations[place + 1]
        if operations[place] == _STORE:
            yield code.co_names[argument]
        argument = argument << 8 if operations[place] == _EXTENDED else 0
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _assigned(constant)

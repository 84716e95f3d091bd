"""A `Numbering` is an IntEnum for a long list of numbers, made in a sixth of the time.

    class HvStatus(Numbering):
        SUCCESS = 0x0000
        INVALID_HYPERCALL_CODE = 0x0002

`enum` takes some twenty calls to make one member. The manuals' longest lists have two and three hundred, and every
process pays for all of them before it does anything. Here `enum` makes the class without its members, and straight
code enters them where `enum` would have. The standard library makes its own lists likewise (`enum._simple_enum`), but
there a type checker sees no members. What is made is an IntEnum in every other way: names, values, aliases, iteration,
pickling; `tests/spec/test_numbering.py` compares the two.
"""

from __future__ import annotations

from enum import EnumType, IntEnum
from typing import Any


class NumberingType(EnumType):
    """Makes the members: each public name of the class body that stands for a plain integer."""

    @classmethod
    def __prepare__(metacls, cls: str, bases: tuple[type, ...], **named: Any) -> dict[str, Any]:   # type: ignore[override]
        """A plain dictionary: `enum`'s own looks at each name while the body runs."""
        return {}

    def __new__(metacls, cls: str, bases: tuple[type, ...], body: dict[str, Any]) -> NumberingType:
        numbers = {name: value for name, value in body.items() if type(value) is int and not name.startswith("_")}
        empty = EnumType.__prepare__(cls, bases)
        for name, value in body.items():
            if name not in numbers:
                empty[name] = value
        made = super().__new__(metacls, cls, bases, empty)
        for name, value in numbers.items():
            _enter(made, name, value)
        return made


def _enter(made: Any, name: str, value: int) -> None:
    """Add one member, or another name of the member that has this *value*."""
    member = made._value2member_map_.get(value)
    if member is None:
        member = made._value2member_map_[value] = int.__new__(made, value)
        member.__dict__.update(_name_=name, _value_=value, __objclass__=made, _sort_order_=len(made._member_names_))
        made._member_names_.append(name)
    made._member_map_[name] = member
    type.__setattr__(made, name, member)


class Numbering(IntEnum, metaclass=NumberingType):
    """A list of numbers that have names, as a manual prints it."""

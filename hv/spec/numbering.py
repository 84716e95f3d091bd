"""`Numbering` is an IntEnum and `Flags` an IntFlag, made in a sixth of the time.

    class HvStatus(Numbering):
        SUCCESS = 0x0000
        INVALID_HYPERCALL_CODE = 0x0002

`enum` takes some twenty calls to make one member. The manuals' lists have more than two thousand, and every process
pays for all of them before it does anything. Here `enum` makes the class without its members, and straight code enters
them where `enum` would have. The standard library makes its own lists likewise (`enum._simple_enum`), but there a type
checker sees no members. What is made is an IntEnum or IntFlag in every other way: names, values, aliases, iteration,
operators, pickling; `tests/spec/test_numbering.py` asks both the same questions.
"""

from __future__ import annotations

from enum import EnumType, IntEnum, IntFlag
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
        if issubclass(made, IntFlag):
            _enter_flags(made, numbers)
        else:
            for name, value in numbers.items():
                _enter(made, name, value, is_listed=True)
        return made


def _enter(made: Any, name: str, value: int, is_listed: bool) -> None:
    """Add one member, or another name of the member that has this *value*; iteration gives those that are listed."""
    member = made._value2member_map_.get(value)
    if member is None:
        member = made._value2member_map_[value] = int.__new__(made, value)
        member.__dict__.update(_name_=name, _value_=value, __objclass__=made, _sort_order_=len(made._member_names_))
        if is_listed:
            made._member_names_.append(name)
    made._member_map_[name] = member
    type.__setattr__(made, name, member)


def _enter_flags(made: Any, numbers: dict[str, int]) -> None:
    """Only single bits are listed. The class knows which bits have a name, alone or together with others."""
    singles = every = 0
    for name, value in numbers.items():
        is_single = value > 0 and not value & value - 1
        _enter(made, name, value, is_listed=is_single)
        every |= value
        singles |= value if is_single else 0
    made._flag_mask_, made._singles_mask_ = every, singles
    made._all_bits_ = (1 << every.bit_length()) - 1
    listed = [made._member_map_[name].value for name in made._member_names_]
    if listed != sorted(listed):
        made._iter_member_ = made._iter_member_by_def_


class Numbering(IntEnum, metaclass=NumberingType):
    """A list of numbers that have names, as a manual prints it."""


class Flags(IntFlag, metaclass=NumberingType):
    """A list of bits that have names, alone or several together."""

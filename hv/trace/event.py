"""What one event is: a fact with named fields, which do not change.

The classes of `events.py` look like dataclasses and are used like them, but share the code below: to make one dataclass
takes more than half a millisecond, and a machine imports some forty events before it can do anything.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, dataclass_transform


@dataclass_transform(frozen_default=True)
class Event:
    """A fact. A subclass annotates its fields; they are given by place or by name, all that have no default."""

    FIELDS: ClassVar[tuple[str, ...]] = ()
    DEFAULTS: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        cls.FIELDS = tuple(cls.__dict__.get("__annotations__", ()))
        cls.DEFAULTS = {name: cls.__dict__[name] for name in cls.FIELDS if name in cls.__dict__}
        setattr(cls, "__match_args__", cls.FIELDS)      # noqa: B010  a type checker has its own idea of it

    def __init__(self, *values: Any, **named: Any) -> None:
        own, fields = self.__dict__, self.FIELDS
        own.update(self.DEFAULTS)
        own.update(zip(fields, values, strict=False))
        own.update(named)
        if len(own) != len(fields) or len(values) > len(fields) or (named and self._misnames(named, len(values))):
            raise TypeError(f"{type(self).__name__} is made of {', '.join(fields) or 'nothing'}; "
                            f"given {len(values)} values{''.join(f', {name}' for name in named)}")

    def _misnames(self, named: dict[str, Any], placed: int) -> bool:
        """A name is no field, or one that was given by place already."""
        return not named.keys() <= set(self.FIELDS[placed:])

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is a fact: {name} cannot be changed")

    def inspect(self) -> dict[str, Any]:
        """The fields by name, in order."""
        return {name: self.__dict__[name] for name in self.FIELDS}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.inspect().values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.inspect().items())})"

"""Checks of what the machine held when the run ended: memory and registers.

Memory is what the guest itself would read there, so a page of the hypervisor that lies over the VM's own (hypercall
page, message page) is what counts.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from hv.debug.numbers import REGISTERS
from hv.lab.comparing import assignments, byte_lines, number_lines, whose
from hv.lab.finding import LEARNER, Check, Finding, Line, Mark, Run
from hv.lab.wanted import Some, Wanted, check_wanted, is_wanted, wanted_words
from hv.lab.words import number, quoted

Size = Literal[1, 2, 4, 8]
Number = Annotated[int, msgspec.Meta(ge=0)]

_from_hex = bytes.fromhex       # the check below has a field of that name


class MemoryCheck(Check, frozen=True, tag="memory"):
    """After the run, memory holds *text*, *bytes* (hexadecimal) or *value* (of *size* bytes) at *symbol*, or at *gpa*.

    *offset* bytes behind it, if given. *vm* is whose memory and whose label. A *value* may be one of several.
    """

    symbol: str = ""
    gpa: Number | None = None
    offset: int = 0
    text: str = ""
    bytes: str = ""
    value: Wanted | None = None
    size: Size = 8
    vm: str = LEARNER

    def __post_init__(self) -> None:
        try:
            data = self._data
        except ValueError:
            raise ValueError(f"bytes of check `{self.name}` are no hexadecimal digits") from None
        if not data and self.value is None:
            raise ValueError(f"check `{self.name}` needs text or bytes, or a value")
        if bool(self.symbol) == (self.gpa is not None):
            raise ValueError(f"check `{self.name}` needs a symbol, or a gpa")
        _check_value(self.name, self.value, self.size)

    @property
    def _data(self) -> Any:
        """The bytes that must be there, when it is no value."""
        return self.text.encode() if self.text else _from_hex(self.bytes)

    @property
    def about(self) -> str:
        return f"at {self.where}"

    @property
    def where(self) -> str:
        """`signature` + 8."""
        place = f"`{self.symbol}`" if self.gpa is None else f"{self.gpa:#x}"
        return (f"{place} + {number(self.offset)}" if self.offset else place) + whose(self.vm)

    def look(self, run: Run) -> Finding:
        start = run.symbol(self.vm, self.symbol) if self.gpa is None else self.gpa
        words = quoted(self._data) if self.value is None else wanted_words(run, self.vm, self.value)
        expected = f"{words} at {self.where}"
        if start is None:
            absent = f"no label `{self.symbol}` in the program"
            return Finding(False, expected, absent, [(Mark.MISSING, f"{self.symbol}:")])
        gpa = start + self.offset
        if self.value is None:
            return self._bytes(expected, gpa, run.read(self.vm, gpa, len(self._data)))
        return self._number(run, expected, words, gpa, run.read(self.vm, gpa, self.size))

    def _bytes(self, expected: str, gpa: int, found: Any) -> Finding:
        return Finding(found == self._data, expected, quoted(found) if any(found) else "nothing but zeros",
                       list(byte_lines(gpa, self._data, found)))

    def _number(self, run: Run, expected: str, words: str, gpa: int, data: Any) -> Finding:
        value = int.from_bytes(data, "little")
        assert self.value is not None, "the check has a value"
        right = len(data) == self.size and is_wanted(run, self.vm, value, self.value)
        exact = run.symbol(self.vm, self.value[1:]) if isinstance(self.value, str) else self.value
        lines = list(byte_lines(gpa, exact.to_bytes(self.size, "little"), data)) if isinstance(exact, int) else \
            number_lines(right, f"{gpa:#x}  {number(value)}", f"{gpa:#x}  {words}")
        return Finding(right, expected, number(value) if any(data) else "nothing but zeros", lines)


def _check_value(name: str, value: Wanted | None, size: int) -> None:
    if value is not None:
        check_wanted(value)
    largest = value.largest if isinstance(value, Some) else value if isinstance(value, int) else 0
    if not 0 <= largest < 1 << 8 * size:
        raise ValueError(f"value of check `{name}` is larger than {size} bytes" if largest > 0 else
                         f"value of check `{name}` is negative")


class RegisterCheck(Check, frozen=True, tag="register"):
    """When the run ended, the registers of VP *vp* had these *values*, or one of several."""

    values: dict[str, Wanted]
    vm: str = LEARNER
    vp: Number = 0

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if name not in REGISTERS:
                raise ValueError(f"`{name}` of check `{self.name}` is no register; expected {', '.join(REGISTERS)}")
            check_wanted(value)

    @property
    def about(self) -> str:
        return f"in {', '.join(self.values)}{whose(self.vm, self.vp)}"

    def look(self, run: Run) -> Finding:
        found = {name: run.register(self.vm, self.vp, name) for name in self.values}
        words = {name: f"{name}={wanted_words(run, self.vm, wanted)}" for name, wanted in self.values.items()}
        right = {name: is_wanted(run, self.vm, found[name], wanted) for name, wanted in self.values.items()}
        lines: list[Line] = []
        for name in self.values:
            lines += number_lines(right[name], assignments({name: found[name]}), words[name])
        several = ", " if any(isinstance(wanted, Some) for wanted in self.values.values()) else " "
        return Finding(all(right.values()), several.join(words.values()) + whose(self.vm, self.vp), assignments(found),
                       lines)

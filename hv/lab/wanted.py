"""What a number must be: itself, the address of a label, or one of several, told by bits or by range.

    0x40                                # this number
    "@handler"                          # the address of a label of that VM's program
    { mask = 0xff, value = 0x40 }       # its bits under the mask are those of the value
    { at_least = 5, at_most = 9 }       # either may be left out
    { in = [1, 2, 4] }                  # one of these; with `mask` the bits under it are
"""

from __future__ import annotations

import msgspec

from hv.lab.finding import Run
from hv.lab.words import number


class Some(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename={"among": "in"}):
    """Numbers whose bits under *mask* (all, if not given) are *value*, *at_least* to *at_most*, or one *among* some."""

    mask: int | None = None
    value: int | None = None
    at_least: int | None = None
    at_most: int | None = None
    among: list[int] | None = None

    def __post_init__(self) -> None:
        ranged = self.at_least is not None or self.at_most is not None
        if (self.value is not None) + ranged + (self.among is not None) != 1:
            raise ValueError("say one of value, in, and at_least with at_most")
        if self.among == []:
            raise ValueError("`in` is empty")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("at_least is more than at_most")
        if self.mask is not None and any(one & ~self.mask for one in self._named()):
            raise ValueError(f"no number has bits of that value under the mask {self.mask:#x}")

    def _named(self) -> list[int]:
        """The numbers it names, where each must be possible."""
        return [self.value] if self.value is not None else self.among or []

    def holds(self, found: int) -> bool:
        """*found* is one of them."""
        bits = found if self.mask is None else found & self.mask
        if self.value is not None or self.among is not None:
            return bits in self._named()
        return (self.at_least is None or bits >= self.at_least) and (self.at_most is None or bits <= self.at_most)

    @property
    def largest(self) -> int:
        """The largest number that it names."""
        return max(*self._named(), self.mask or 0, self.at_least or 0, self.at_most or 0)

    @property
    def words(self) -> str:
        """`0x40 in bits 0xff`, `5 to 9`, `1 or 2`."""
        if self.value is not None or self.among is not None:
            text = " or ".join(map(number, self._named()))
        elif self.at_least is None or self.at_most is None:
            least, most = self.at_least, self.at_most
            text = f"at most {number(most)}" if most is not None else f"at least {number(least or 0)}"
        else:
            text = f"{number(self.at_least)} to {number(self.at_most)}"
        return text if self.mask is None else f"{text} in bits {self.mask:#x}"


Wanted = int | str | Some


def check_wanted(wanted: Wanted) -> None:
    """ValueError when a word is no label."""
    if isinstance(wanted, str) and not wanted.startswith("@"):
        raise ValueError(f"`{wanted}` is no number; the address of a label is `@{wanted}`")


def is_wanted(run: Run, vm: str, found: int, wanted: Wanted) -> bool:
    """*found* is what is *wanted*; a label is one of the program of *vm*."""
    if isinstance(wanted, Some):
        return wanted.holds(found)
    return found == (run.symbol(vm, wanted[1:]) if isinstance(wanted, str) else wanted)


def wanted_words(run: Run, vm: str, wanted: Wanted) -> str:
    """How *wanted* is told: a label with its address."""
    if isinstance(wanted, Some):
        return wanted.words
    if isinstance(wanted, int):
        return number(wanted)
    address = run.symbol(vm, wanted[1:])
    return f"`{wanted[1:]}`, which is no label of the program" if address is None else \
        f"{number(address)} (`{wanted[1:]}`)"

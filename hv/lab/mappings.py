"""The check of a guest's own page tables: where a linear address leads when the run ended, and with which rights."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from hv.debug.looking import page_walk
from hv.lab.comparing import whose
from hv.lab.finding import LEARNER, Check, Finding, Line, Mark, Run
from hv.lab.wanted import check_wanted
from hv.lab.words import number
from hv.machine.faults import NestedFault
from hv.machine.paging import NonCanonical, PageFault, Walk, WalkLevel

Address = Annotated[int, msgspec.Meta(ge=0)] | str
_RIGHTS = {"writable": "read-only", "user": "supervisor", "executable": "no-execute"}


class MapsCheck(Check, frozen=True, kw_only=True, tag="maps"):
    """VP *vp* translates *gva* to *gpa* (numbers, or `@label`), with these rights and a page of *page_size*.

    What is not given does not count. Rights are those that all levels together give. With *mapped* false: to nothing.
    """

    gva: Address
    gpa: Address | None = None
    mapped: bool = True
    writable: bool | None = None
    user: bool | None = None
    executable: bool | None = None
    page_size: Literal[0x1000, 0x20_0000, 0x40_0000, 0x4000_0000] | None = None
    vm: str = LEARNER
    vp: Annotated[int, msgspec.Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        check_wanted(self.gva)
        if self.gpa is not None:
            check_wanted(self.gpa)
        about = (self.gpa, self.page_size, *(getattr(self, right) for right in _RIGHTS))
        if not self.mapped and any(one is not None for one in about):
            raise ValueError(f"check `{self.name}`: what is not mapped has no gpa, no rights and no size")

    @property
    def about(self) -> str:
        return f"of gva {_named(self.gva)}{whose(self.vm, self.vp)}"

    def look(self, run: Run) -> Finding:
        gva, gpa = self._address(run, self.gva), None if self.gpa is None else self._address(run, self.gpa)
        expected = f"gva {_named(self.gva)} -> {self._words(gpa)}{whose(self.vm, self.vp)}"
        missing = [one for one, found in ((self.gva, gva), (self.gpa, gpa)) if isinstance(one, str) and found is None]
        if gva is None or missing:
            return Finding(False, expected, f"no label `{missing[0][1:]}` in the program",
                           [(Mark.MISSING, f"{missing[0][1:]}:")])
        found = translated(run.vp(self.vm, self.vp), gva)
        right = self._fits(found.walk, gpa)
        return Finding(right, expected, found.words, self._lines(found, right, expected))

    def _address(self, run: Run, address: Address) -> int | None:
        return run.symbol(self.vm, address[1:]) if isinstance(address, str) else address

    def _fits(self, walk: Walk | None, gpa: int | None) -> bool:
        if walk is None or not self.mapped:
            return (walk is None) is not self.mapped
        rights = ((getattr(self, right), getattr(walk, right)) for right in _RIGHTS)
        return gpa in (None, walk.gpa) and self.page_size in (None, walk.page_size) and all(
            wanted in (None, found) for wanted, found in rights)

    def _words(self, gpa: int | None) -> str:
        if not self.mapped:
            return "nothing"
        rights = [right if getattr(self, right) else other for right, other in _RIGHTS.items()
                  if getattr(self, right) is not None]
        where = "something" if self.gpa is None else f"gpa {_named(self.gpa)}" + (
            f" ({number(gpa)})" if isinstance(self.gpa, str) and gpa is not None else "")
        return ", ".join([where, *rights, *([f"page of {self.page_size:#x}"] if self.page_size else [])])

    @staticmethod
    def _lines(found: Translation, right: bool, expected: str) -> list[Line]:
        """The entries that were used, and what came of them."""
        entries = [(Mark.NEAR, f"{level.name:<6} at gpa {level.gpa:#x}  {level.raw:#018x}") for level in found.levels]
        end = [(Mark.GOOD, found.words)] if right else [(Mark.BAD, found.words), (Mark.MISSING, expected)]
        return entries + end


class Translation(NamedTuple):
    """A walk of the guest's tables: the entries, where it led (None: nowhere), and that in words."""

    levels: list[WalkLevel]
    walk: Walk | None
    words: str


def translated(vp: Any, gva: int) -> Translation:
    """Where *vp* (None when it is gone) finds *gva*, as its kernel would; nothing is marked accessed."""
    if vp is None:
        return Translation([], None, "no processor: it was deleted")
    try:
        walk = page_walk(vp, gva)
    except PageFault as fault:
        return Translation(fault.levels, None, f"gva {gva:#x} -> nothing: {fault.reason}")
    except NonCanonical:
        return Translation([], None, f"gva {gva:#x} -> nothing: it is not canonical")
    except NestedFault as fault:
        return Translation([], None, f"gva {gva:#x} -> nothing: a table would be at gpa {fault.gpa:#x}, "
                                     "where there is no memory")
    rights = [right if getattr(walk, right) else other for right, other in _RIGHTS.items()]
    paging = f"page of {walk.page_size:#x}" if walk.levels else "paging is off"
    return Translation(walk.levels, walk, f"gva {gva:#x} -> {', '.join([f'gpa {walk.gpa:#x}', *rights, paging])}")


def _named(address: Address) -> str:
    return f"`{address[1:]}`" if isinstance(address, str) else f"{address:#x}"

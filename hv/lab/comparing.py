"""The lines of a comparison: events, bytes or texts side by side, each with its mark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from hv.lab.finding import ANY, LEARNER, Finding, Happening, Line, Mark, Run
from hv.lab.words import event_words, number, quoted

GROUP = 4                       # bytes of memory on a line

Candidate = tuple[Happening, bool, Happening | None]      # the event, whether it fits, and what answers it


class Times(NamedTuple):
    """How often something must happen; *most* None: without an upper limit."""

    least: int = 1
    most: int | None = None

    @property
    def words(self) -> str:
        """`exactly 2`, `2 to 4`, `at most 4`; empty for once at least."""
        if self.most is None:
            return "" if self.least == 1 else f"at least {self.least}"
        if self.least == self.most:
            return f"exactly {self.least}" if self.least else "no"
        return f"{self.least} to {self.most}" if self.least else f"at most {self.most}"


def among(run: Run, vm: str, wanted: str, candidates: Sequence[Candidate], what: str, times: Times) -> Finding:
    """As many of the candidates as *times* says must fit.

    The others of the same kind are BAD when there are too few, and the one that is not there is MISSING; when there are
    too many, those that fit are BAD. Unless it is simply wanted, what is found begins with how often it was there.
    """
    right = [answer or one for one, fits, answer in candidates if fits]
    wrong = [answer or one for one, fits, answer in candidates if not fits]
    too_many, few = times.most is not None and len(right) > times.most, len(right) < times.least
    left_out = run.left_out(vm)
    passed = not too_many and not few and (not left_out or times.most is None)
    marks = {id(one): Mark.BAD if too_many else Mark.GOOD for one in right}
    marks |= {id(one): Mark.BAD for one in wrong if few}
    seen = right if too_many else wrong if times.words else [answer or one for one, _, answer in candidates]
    found = "; ".join(dict.fromkeys(event_words(one.event, always=True) for one in seen[:3]))
    if times.words:
        found = f"{len(right)} of them; {found}".removesuffix("; ")
    unsure = bool(left_out) and not too_many and not passed
    found = found or "none"
    if unsure:
        found += f" among the first {len(of_vm(run, vm))} events; {left_out} more were not looked at"
    several = times.words and times not in (Times(0, 0), Times(1, 1))
    expected = f"{times.words or 'an'} {what}{'s' if several else ''} {wanted}"
    return Finding(passed, expected, found, event_lines(run, vm, marks, wanted if few else ""), unsure=unsure)


def of_vm(run: Run, vm: str) -> list[Happening]:
    """What happened to *vm*."""
    return [happening for happening in run.happened if vm in (ANY, happening.vm)]


def event_lines(run: Run, vm: str, marks: dict[int, Mark], missing: str = "", after: int | None = None) -> list[Line]:
    """What happened, marked by the identity of each; *missing* stands behind the first BAD one, or the one *after*."""
    shown = [one for one in of_vm(run, vm) if event_words(one.event) or id(one) in marks]
    lines = [(marks.get(id(one), Mark.NEAR), text) for one, text in zip(shown, _trail(shown, vm), strict=True)]
    if missing:
        bad = (n + 1 for n, (mark, _) in enumerate(lines) if mark is Mark.BAD)
        last = (n + 1 for n, one in enumerate(shown) if id(one) == after)
        lines.insert(next(bad if after is None else last, 0), (Mark.MISSING, missing))
    return lines + [(Mark.NEAR, line) for line in left_out_words(run, vm)]


def last_events(run: Run, vm: str, count: int) -> list[str]:
    """The last *count* lines of what happened."""
    return _trail([one for one in of_vm(run, vm) if event_words(one.event)], vm)[-count:] + left_out_words(run, vm)


def left_out_words(run: Run, vm: str) -> list[str]:
    """That more happened, if it did."""
    return [f"and {run.left_out(vm)} events more, not looked at"] if run.left_out(vm) else []


def _trail(shown: list[Happening], vm: str) -> list[str]:
    """One line each: who, where several are there, the source line, and the event."""
    several = any(one.vp for one in shown)
    whose = [_who(one, vm, several) for one in shown]
    wide, width = max(map(len, whose), default=0), max((len(one.place) for one in shown), default=0)
    front = [f"{who:<{wide}}  " if wide else "" for who in whose]
    return [f"{who}{one.place:<{width}}  {event_words(one.event, always=True)}".rstrip()
            for who, one in zip(front, shown, strict=True)]


def _who(one: Happening, vm: str, several: bool) -> str:
    name = "" if vm != ANY and one.vm == vm else one.vm
    return f"{name} VP {one.vp}".lstrip() if several else name


def byte_lines(gpa: int, wanted: bytes, found: bytes) -> Iterable[Line]:
    """Memory in groups of four bytes."""
    for at in range(0, len(wanted), GROUP):
        want, have = wanted[at : at + GROUP], found[at : at + GROUP]
        if want == have:
            yield Mark.GOOD, _byte_line(gpa + at, have)
        else:
            yield Mark.BAD, _byte_line(gpa + at, have)
            yield Mark.MISSING, _byte_line(gpa + at, want)


def _byte_line(gpa: int, data: bytes) -> str:
    return f"{gpa:#x}  {data.hex(' '):<11}  {quoted(data)}"


def number_lines(right: bool, found: str, wanted: str) -> list[Line]:
    """A number, and where it is wrong what it should be."""
    return [(Mark.GOOD, found)] if right else [(Mark.BAD, found), (Mark.MISSING, wanted)]


def compared(wanted: Sequence[str], found: Sequence[str]) -> Iterable[Line]:
    """Two texts, line by line."""
    for kind, i, j, k, n in SequenceMatcher(None, wanted, found, autojunk=False).get_opcodes():
        if kind == "equal":
            yield from ((Mark.GOOD, line) for line in wanted[i:j])
        else:
            yield from ((Mark.BAD, line) for line in found[k:n])
            yield from ((Mark.MISSING, line) for line in wanted[i:j])


def assignments(values: dict[str, int]) -> str:
    """Names and values: `rax=1 rbx=0x20`."""
    return " ".join(f"{name}={number(value)}" for name, value in values.items())


def whose(vm: str, vp: int = 0) -> str:
    """` of receiver`, ` of VP 1`, or nothing where it is the learner's VP 0."""
    parts = ([f"VP {vp}"] if vp else []) + ([vm] if vm != LEARNER else [])
    return "".join(f" of {part}" for part in parts)

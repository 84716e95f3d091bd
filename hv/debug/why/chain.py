"""A chain of causes as data: links, each with those that it rests on, and who set it when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

_MARKS = {None: "-", True: "✓", False: "✗"}

Look = Callable[[], object]
Tells = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Setting:
    """Who set something, and when: *position* is `E12+3` in a recorded run, `#345` among the events that are kept.

    *who* is a VP (`timer.0`), *by* what it did (a hypercall, an instruction), *event* what was told of it.
    """

    position: str
    who: str = ""
    by: str = ""
    event: str = ""

    def __str__(self) -> str:
        done = f"{self.by} of {self.who}" if self.by and self.who else self.by or self.who
        return " ".join(filter(None, (self.position, f"by {done}" if done else "", f"({self.event})"
                                      if self.event else "")))

    def inspect(self) -> dict[str, Any]:
        """Plain data."""
        return {"position": self.position, "who": self.who, "by": self.by, "event": self.event}


@dataclass(slots=True)
class Link:
    """One cause in words. *ok*: it is as it should be (True), it is what is wrong (False), or neither is the question.

    *look* gives what it rests on, as often as one asks; *tells* knows an event that may have set it. Of these comes
    *set_by*; *never* is said where it always was so.
    """

    text: str
    causes: list[Link] = field(default_factory=list)
    ok: bool | None = None
    look: Look | None = None
    tells: Tells | None = None
    never: str = "before the recording began"
    set_by: Setting | None = None

    def walk(self) -> Iterator[Link]:
        """This link and all below it."""
        yield self
        for cause in self.causes:
            yield from cause.walk()

    def lines(self, depth: int = 0) -> Iterator[str]:
        """As an indented list."""
        indent = "  " * depth
        yield f"{indent}{_MARKS[self.ok]} {self.text}"
        if self.set_by is not None:
            yield f"{indent}    set: {self.set_by}"
        for cause in self.causes:
            yield from cause.lines(depth + 1)

    def inspect(self) -> dict[str, Any]:
        """Plain data; what is not known is left out."""
        shown: dict[str, Any] = {"text": self.text}
        if self.ok is not None:
            shown["ok"] = self.ok
        if self.set_by is not None:
            shown["set_by"] = self.set_by.inspect()
        if self.causes:
            shown["causes"] = [cause.inspect() for cause in self.causes]
        return shown


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said to a question: *subject* is what it is about, *position* where that is, *note* what to know."""

    subject: str
    links: list[Link]
    position: str = ""
    note: str = ""

    def lines(self) -> list[str]:
        """As text."""
        head = f"{self.position}  {self.subject}" if self.position else self.subject
        return [head, *(line for link in self.links for line in link.lines()), *([self.note] if self.note else [])]

    def inspect(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        shown: dict[str, Any] = {"subject": self.subject, "position": self.position,
                                 "chain": [link.inspect() for link in self.links]}
        return shown | ({"note": self.note} if self.note else {})


def first_wrong(links: list[Link]) -> Link | None:
    """The first link of a chain that is not as it should be."""
    return next((link for top in links for link in top.walk() if link.ok is False), None)

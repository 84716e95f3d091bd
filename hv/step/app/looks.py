"""How styles look: on a dark ground, on a light one, and without any colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.theme import Theme

from hv.step.text import Piece

# Style -> ink, ground ("" is that of the screen), bold. Amber is what is new, blue what has a name and where one is.
_DARK = {
    "": ("#d5d9df", "", False), "dim": ("#8b95a3", "", False), "head": ("#f2f4f7", "", True),
    "name": ("#8ebdf0", "", False), "new": ("#f5c76a", "", True), "old": ("#b59a6a", "", False),
    "here": ("#10151c", "#8ebdf0", True), "at": ("#9fd6c6", "", False), "good": ("#93d18f", "", False),
    "bad": ("#f29090", "", True),
}
_LIGHT = {
    "": ("#22272e", "", False), "dim": ("#646d78", "", False), "head": ("#0d1117", "", True),
    "name": ("#1b5fa8", "", False), "new": ("#8a4b00", "", True), "old": ("#7a6238", "", False),
    "here": ("#ffffff", "#1b5fa8", True), "at": ("#0c6653", "", False), "good": ("#256c25", "", False),
    "bad": ("#a82323", "", True),
}
GROUNDS = {"dark": "#12161c", "light": "#fbfaf7", "none": ""}
LOOKS = {"dark": _DARK, "light": _LIGHT}
_WITHOUT = {"new": Style(bold=True), "here": Style(reverse=True), "head": Style(bold=True), "bad": Style(bold=True),
            "good": Style(bold=True)}
_FIRST = ("here", "new", "bad", "good", "old", "name", "dim", "at", "head")     # of several styles, which one shows


@cache
def style_of(words: str, look: str) -> Style:
    """The style that *words* (`new at`) means in *look*: "dark", "light", or "none" without any colour."""
    known = words.split()
    name = next((name for name in _FIRST if name in known), "")
    if look == "none":
        return _WITHOUT.get(name, Style.null())
    ink, ground, bold = LOOKS[look][name]
    return Style(color=Color.parse(ink), bgcolor=Color.parse(ground or GROUNDS[look]), bold=bold)


def strip(line: Sequence[Piece], look: str) -> Strip:
    """*line* as Textual paints it."""
    return Strip([Segment(text, style_of(style, look)) for style, text in line])


def theme(look: str) -> Theme:
    """Ink and ground for what Textual paints itself."""
    inks, ground = LOOKS[look], GROUNDS[look]
    return Theme(f"hv-{look}", primary=inks["name"][0], foreground=inks[""][0], background=ground, surface=ground,
                 panel=ground, error=inks["bad"][0], accent=inks["new"][0], dark=look == "dark")


def inks(look: str) -> Mapping[str, tuple[str, str]]:
    """Ink and ground of each style."""
    return {name: (ink, ground or GROUNDS[look]) for name, (ink, ground, _) in LOOKS[look].items()}

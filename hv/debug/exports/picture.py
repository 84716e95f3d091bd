"""The last answers as a picture: SVG, or a page of HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

from hv.debug.transcript import Spoken

_NARROWEST, _WIDEST = 60, 160
_HERE = "hv"                    # the ids in the picture begin with it, whatever else is on the same page


def svg(spoken: Sequence[Spoken], title: str) -> str:
    """A picture of a terminal that shows them.

    The font is the reader's own: a picture that asks the network for one is not the same everywhere.
    """
    drawn = _drawn(spoken).export_svg(title=title, theme=SVG_EXPORT_THEME, unique_id=_HERE)
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)


def html(spoken: Sequence[Spoken], title: str) -> str:
    """A page with the same, and its colours beside the words."""
    page = _drawn(spoken).export_html(theme=SVG_EXPORT_THEME, inline_styles=True)
    return page.replace("<head>", f"<head>\n<title>{_escaped(title)}</title>", 1)


def _drawn(spoken: Sequence[Spoken]) -> Console:
    """A console on which they were written; what is too wide goes on in the next line."""
    console = Console(record=True, file=StringIO(), width=_width(spoken), force_terminal=True, color_system="truecolor",
                      legacy_windows=False, highlight=False, emoji=False, markup=False, _environ={})
    for one in spoken:
        console.print(Text.assemble((one.prompt, "bold green"), (one.line, "bold")), overflow="fold")
        if one.answer:
            console.print(Text(one.answer, "red" if one.refused else ""), overflow="fold")
    return console


def _width(spoken: Sequence[Spoken]) -> int:
    longest = max(len(line) for one in spoken for line in (one.prompt + one.line, *one.answer.split("\n")))
    return min(max(longest, _NARROWEST), _WIDEST)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

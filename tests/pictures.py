"""Makes the pictures of `docs/step.md`, by the commands that stand on that page.

    python -m tests.pictures
"""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path

from hv import cli

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "step.md"


def commands() -> list[tuple[str, list[str]]]:
    """The name of each picture, below the repository, and the command that makes it."""
    found = (shlex.split(line)[1:] for line in PAGE.read_text(encoding="utf-8").splitlines()
             if line.startswith("    hv step ") and "--picture" in line)
    return [(words[words.index("--picture") + 1], words) for words in found]


def make(words: list[str], name: str, place: Path) -> None:
    """The picture *name* of the command *words*, in *place*."""
    assert cli.main([str(place) if word == name else word for word in words]) == 0


def text_of(place: Path) -> list[str]:
    """What is written in a picture: the same with every version of the library that paints it."""
    parts = re.findall(r"<text[^>]*>(.*?)</text>", place.read_text(encoding="utf-8"), re.DOTALL)
    return [word for part in parts for word in html.unescape(part).replace("\xa0", " ").split()]


if __name__ == "__main__":
    for picture, line in commands():
        make(line, picture, ROOT / picture)
        print(picture)

"""What was said in a session: the lines typed and their answers, which exports show again."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from hv.printable import printable

MOST_KEPT = 2000


class Spoken(NamedTuple):
    """One line at *prompt*, and its answer: text of any number of lines; *refused* when it is an error."""

    prompt: str
    line: str
    answer: str
    refused: bool = False


class Transcript:
    """The last MOST_KEPT of them."""

    def __init__(self) -> None:
        self.spoken: deque[Spoken] = deque(maxlen=MOST_KEPT)

    def note(self, prompt: str, line: str, answer: str, refused: bool = False) -> None:
        """Keep one; nothing in it can command a terminal."""
        shown = "\n".join(printable(part, len(part) + 1) for part in line.strip().split("\n"))
        if shown:
            self.spoken.append(Spoken(prompt, shown, answer, refused))

"""Text from outside, on its way to a terminal: names of files, what a guest prints, what a user typed.

Nothing in it may command the terminal (an escape sequence can clear the screen, retitle the window or type for the
user), and nothing of it may be a million letters long. The serial port of a running guest alone is shown as it is.
"""

from __future__ import annotations

LONGEST = 400                               # characters of anything a program can choose
LONGEST_WORD, LONGEST_LINE = 300, 1000      # of a message


def printable(text: str, longest: int = LONGEST) -> str:
    """*text* with everything a terminal would obey escaped (`\\x1b`), cut to *longest* characters."""
    shown = text if len(text) <= longest else text[: longest - 3] + "..."
    if shown.isprintable():
        return shown
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)


def one_line(text: str) -> str:
    """*text* as a message in one line: white space is single blanks, and what is long is cut in the middle."""
    words = (word if len(word) <= LONGEST_WORD else f"{word[:60]}...{word[-60:]}" for word in text.split())
    line = printable(" ".join(words), len(text) + 1)
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2:]}"

"""The learner's file of answers: `name = value`, one a line; what is wrong with it is said with line and column."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hv.image.errors import ImageError
from hv.image.source import read_text

_AT = re.compile(r"(?P<says>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)
# The parser's words, and ours.
_WORDS = (
    ("Invalid value", "this is no value: write a number, or a word in quotes"),
    ("Expected '=' after", "`=` is missing between the name and the value"),
    ("Expected newline or end", "something stands behind the value: one answer on a line"),
    ("Cannot overwrite", "this question is answered twice"),
    ("Unterminated string", "the quotes are not closed"),
    ("Illegal character '\\n'", "the quotes are not closed"),
    ("Invalid statement", "this is no answer: write `name = value`"),
    ("Invalid initial character for a key", "a name is missing before `=`"),
)


def read_answers(path: Path, questions: Iterable[str]) -> Mapping[str, Any]:
    """The answers in *path*, to some of the *questions*; ImageError says what is wrong, and where."""
    text = read_text(path)
    try:
        answers = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ImageError(_told(path.name, text, str(error)), "a line is `name = value`") from None
    except (ValueError, RecursionError):        # of the parser: 5000 digits, 5000 brackets
        raise ImageError(f"{path.name} has a number too long, or lists too deep, to be read",
                         "a line is `name = value`") from None
    known = list(questions)
    for name in answers:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ImageError(f"{path.name}: there is no question `{name}`",
                             f"did you mean `{near[0]}`?" if near else f"the questions are {', '.join(known)}")
    return answers


def _told(name: str, text: str, error: str) -> str:
    found = _AT.fullmatch(error)
    if found is None:
        return f"{name}: {error}"
    lines = text.split("\n")
    line = int(found["line"] or len(lines))
    column = int(found["column"] or len(lines[-1]) + 1)
    says = next((ours for theirs, ours in _WORDS if found["says"].startswith(theirs)), found["says"])
    return f"{name}:{line}:{column}: {says}"

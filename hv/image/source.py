"""Source text as statements: files read, `.include` followed, comments cut, labels taken off.

`.include "file"` is looked for beside the including file, then in the guests folder. A path that leaves both is
refused, by name and after links are followed, so that a learner's file cannot read the grader's machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hv.image.errors import ImageError

MAX_SOURCE_BYTES = 1 << 20
MAX_STATEMENTS = 50_000
MAX_STATEMENT_LENGTH = 4096
MAX_INCLUDE_DEPTH = 8

_LABEL = re.compile(r"\s*([.A-Za-z_][\w.]*)\s*:(?!:)", re.ASCII)
_INCLUDE = re.compile(r"\s*\.include\b\s*(.*)$", re.IGNORECASE)
_NUMERIC_LABEL = re.compile(r"\s*\d+\s*:(\s|$)")
_EQUALS = re.compile(r"\s*([A-Za-z_][\w.]*)\s*=(?!=)(.*)$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Statement:
    """One label, directive or instruction: *text* without comment, and the place it was read from."""

    file: str    # as messages show it
    line: int    # 1..
    text: str    # "" when only labels stand on the line
    labels: tuple[str, ...]

    def error(self, message: str, hint: str = "") -> ImageError:
        """An error about this statement, place and text in front."""
        return ImageError(message, hint).at(self.file, self.line, self.text or ": ".join(self.labels) + ":")


def strip_comment(line: str) -> str:
    """*line* up to the first `;`, `#` or `//` that stands outside quotes."""
    quote, n = "", 0
    while n < len(line):
        char = line[n]
        if quote:
            if char == "\\":
                n += 1
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char in ";#" or line.startswith("//", n):
            return line[:n]
        n += 1
    return line


def read_text(path: Path) -> str:
    """The file as text; ImageError when it is missing, no file, too large or not UTF-8."""
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a directory", "name a file")
        if not path.is_file():
            raise ImageError(f"{path} does not exist" if not path.exists() else f"{path} is no ordinary file",
                             "name a text file")
        with path.open("rb") as file:
            data = file.read(MAX_SOURCE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read: {error}", "check the path and its permissions") from None
    if len(data) > MAX_SOURCE_BYTES:
        raise ImageError(f"{path} is larger than {MAX_SOURCE_BYTES >> 20} MiB", "assembly source is text; is this it?")
    try:
        return data.decode("utf-8-sig")     # some editors put a byte order mark in front
    except UnicodeDecodeError as error:
        raise ImageError(f"{path} is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}",
                         "save it as UTF-8; a binary goes by the suffix .bin or .elf") from None


def read_statements(text: str, name: str, folders: tuple[Path, ...]) -> list[Statement]:
    """All statements of *text*, includes in place; *folders* are where `.include` may look, the source's own first."""
    statements: list[Statement] = []
    _read(text, name, folders, 0, statements)
    return statements


def _read(text: str, name: str, folders: tuple[Path, ...], depth: int, into: list[Statement]) -> None:
    if "\0" in text:
        raise ImageError(f"{name}: there is a NUL byte in the source", "a binary goes by the suffix .bin or .elf")
    for number, raw in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        statement = _statement(raw, name, number)
        if statement is None:
            continue
        include = _INCLUDE.match(statement.text)
        if include:
            if statement.labels:
                into.append(Statement(name, number, "", statement.labels))
            _include(statement, include[1].strip(), folders, depth, into)
        else:
            into.append(statement)
        if len(into) > MAX_STATEMENTS:
            raise statement.error(f"the program has more than {MAX_STATEMENTS} statements")


def _statement(raw: str, name: str, number: int) -> Statement | None:
    text, labels = strip_comment(raw).strip(), []
    if len(text) > MAX_STATEMENT_LENGTH:
        long = f"the statement has {len(text)} characters; expected at most {MAX_STATEMENT_LENGTH}"
        raise Statement(name, number, text, ()).error(long, "write it on several lines")
    if _NUMERIC_LABEL.match(text):
        raise Statement(name, number, text, ()).error("labels are not numbers here", "write a local label: `.again:`")
    while match := _LABEL.match(text):
        if match[1].lower() in {"cs", "ds", "es", "fs", "gs", "ss"}:
            break
        labels.append(match[1])
        text = text[match.end():].strip()
    equals = _EQUALS.match(text)
    if equals:
        text = f".equ {equals[1]}, {equals[2].strip()}"
    return Statement(name, number, text, tuple(labels)) if text or labels else None


def _include(statement: Statement, operand: str, folders: tuple[Path, ...], depth: int, into: list[Statement]) -> None:
    if len(operand) < 3 or operand[0] != '"' or operand[-1] != '"':
        raise statement.error("the file's name was expected in quotes", 'write .include "lib/serial64.inc"')
    if depth >= MAX_INCLUDE_DEPTH:
        raise statement.error(f"includes are nested deeper than {MAX_INCLUDE_DEPTH}", "does a file include itself?")
    path = _find(statement, operand[1:-1], folders)
    try:
        text = read_text(path)
    except ImageError as error:
        raise statement.error(error.message, error.hint) from None
    _read(text, operand[1:-1], folders, depth + 1, into)


def _find(statement: Statement, wanted: str, folders: tuple[Path, ...]) -> Path:
    escaped = Path(wanted).is_absolute() or ".." in re.split(r"[/\\]", wanted)
    for folder in folders:
        try:
            root = folder.resolve()
            path = (root / wanted).resolve()
            if path.is_file() or path.is_dir():
                if not escaped and path.is_relative_to(root):
                    return path
                escaped = True
        except (OSError, RuntimeError, ValueError):
            continue
    if escaped:
        raise statement.error(f'"{wanted}" leaves the folder of the source and the guests folder',
                              "copy the file beside the source")
    looked = " or ".join(str(folder) for folder in folders) or "any folder (this source is not in a file)"
    raise statement.error(f'"{wanted}" is not in {looked}', "put it into the source, or name a file of guests/")

"""ACPI Machine Language as a tree, for people. What is not known is said, with its size, and never guessed.

Known are the objects of a namespace (scopes, devices, names, methods by their arguments) and data (integers, strings,
packages, buffers, resources). What a method does is not decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hv.debug.aml_resources import resources
from hv.spec.aml import (
    DUAL_NAME,
    EXTENDED,
    MULTI_NAME,
    NULL_NAME,
    PARENT_CHARACTER,
    ROOT_CHARACTER,
    SEGMENT_SIZE,
    Opcode,
)

_DEEPEST = 64                   # scopes and packages inside one another
_SIZES = {Opcode.BYTE: 1, Opcode.WORD: 2, Opcode.DWORD: 4, Opcode.QWORD: 8}
_SCOPES = {                     # a word, and bytes between its name and what is inside
    Opcode.SCOPE: ("Scope", 0), Opcode.DEVICE: ("Device", 0), 0x5B83: ("Processor", 6), 0x5B84: ("PowerResource", 3),
    0x5B85: ("ThermalZone", 0)}
_WITH_LENGTH = {0x5B81: "Field", 0x5B86: "IndexField", 0x5B87: "BankField", 0xA0: "If", 0xA1: "Else", 0xA2: "While"}
_EISA_NAMES = ("_HID", "_CID")
_PINS = "ABCD"


class Term(NamedTuple):
    """One line of the tree, and what is inside it."""

    text: str
    inside: list[Term]

    def inspect(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"term": self.text, "inside": [term.inspect() for term in self.inside]}


class Unknown(Exception):
    """The bytes here are none that this file knows."""


def tree(data: bytes) -> list[Term]:
    """The terms of a table's body. Never an error: what is not known is a term that says so."""
    return _Reader(data).terms(len(data), 0)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def terms(self, end: int, depth: int) -> list[Term]:
        """All terms up to *end*, and nothing behind it."""
        found = []
        while self.at < end:
            start = self.at
            try:
                term = self._term(end, depth)
                if self.at > end:
                    raise Unknown
                found.append(term)
            except Unknown:
                found.append(Term(f"{end - start} bytes from {self.data[start : min(start + 2, end)].hex(' ')} on are "
                                  "not decoded", []))
                self.at = end
        return found

    # --- terms ---------------------------------------------------------------------------------------------

    def _term(self, end: int, depth: int) -> Term:
        if depth > _DEEPEST:
            raise Unknown
        code = self._opcode(end)
        if code in _SCOPES:
            return self._scope(*_SCOPES[code], end, depth)
        if code in _WITH_LENGTH:
            return self._skipped(_WITH_LENGTH[code], end)
        others: dict[int, Callable[[int, int], Term]] = {
            Opcode.NAME: self._name, Opcode.METHOD: self._method, 0x5B01: self._mutex}
        if code not in others:
            raise Unknown
        return others[code](end, depth)

    def _scope(self, word: str, between: int, end: int, depth: int) -> Term:
        stop = self._length(end)
        path = self._path(stop)
        self._bytes(between, stop)
        return Term(f"{word} {path}", self.terms(stop, depth + 1))

    def _skipped(self, word: str, end: int) -> Term:
        stop = self._length(end)
        size, self.at = stop - self.at, stop
        return Term(f"{word}: {size} bytes, not decoded", [])

    def _method(self, end: int, depth: int) -> Term:
        stop = self._length(end)
        path, flags = self._path(stop), self._bytes(1, stop)[0]
        size, self.at = stop - self.at, stop
        return Term(f"Method {path}, {flags & 7} arguments: {size} bytes, not decoded", [])

    def _mutex(self, end: int, depth: int) -> Term:
        path, flags = self._path(end), self._bytes(1, end)[0]
        return Term(f"Mutex {path}, level {flags & 0xF}", [])

    def _name(self, end: int, depth: int) -> Term:
        path = self._path(end)
        value = self._data(end, depth + 1)
        if path.endswith("_PRT") and (routes := _routes(value)):
            return Term(path, routes)
        if isinstance(value, bytes):
            known = resources(value) if path.endswith(("_CRS", "_PRS")) else None
            return Term(path, [Term(line, []) for line in known]) if known else Term(f"{path} = {_text(value)}", [])
        if isinstance(value, int) and path.endswith(_EISA_NAMES):
            return Term(f"{path} = {_eisa_id(value)}", [])
        return Term(f"{path} = {_text(value)}", [])

    # --- data ----------------------------------------------------------------------------------------------

    def _data(self, end: int, depth: int) -> Any:
        """An int, a str, bytes, or a list of such."""
        if depth > _DEEPEST:
            raise Unknown
        start, code = self.at, self._opcode(end)
        if code in (Opcode.ZERO, Opcode.ONE):
            return int(code)
        if code == Opcode.ONES:
            return (1 << 64) - 1
        if code in _SIZES:
            return int.from_bytes(self._bytes(_SIZES[Opcode(code)], end), "little")
        if code == Opcode.STRING:
            return self._string(end)
        if code == Opcode.BUFFER:
            return self._buffer(end, depth)
        if code == Opcode.PACKAGE:
            return self._package(end, depth)
        self.at = start
        return _Path(self._path(end))

    def _string(self, end: int) -> str:
        stop = self.data.find(b"\0", self.at, end)
        if stop < 0:
            raise Unknown
        return self._bytes(stop + 1 - self.at, end)[:-1].decode("latin-1")

    def _buffer(self, end: int, depth: int) -> bytes:
        stop = self._length(end)
        size = self._data(stop, depth + 1)
        content, self.at = self.data[self.at : stop], stop
        if not isinstance(size, int) or size < len(content):
            raise Unknown
        return content

    def _package(self, end: int, depth: int) -> list[Any]:
        stop = self._length(end)
        count = self._bytes(1, stop)[0]
        items: list[Any] = []
        while self.at < stop and len(items) < count:
            items.append(self._data(stop, depth + 1))
        if self.at != stop:
            raise Unknown
        return items

    # --- the pieces of a term ------------------------------------------------------------------------------

    def _bytes(self, count: int, end: int) -> bytes:
        if self.at + count > end:
            raise Unknown
        self.at += count
        return self.data[self.at - count : self.at]

    def _opcode(self, end: int) -> int:
        first = self._bytes(1, end)[0]
        return EXTENDED << 8 | self._bytes(1, end)[0] if first == EXTENDED else first

    def _length(self, end: int) -> int:
        """Where the term ends whose length is here."""
        start = self.at
        lead = self._bytes(1, end)[0]
        more = self._bytes(lead >> 6, end)
        length = int.from_bytes(more, "little") << 4 | lead & 0xF if more else lead & 0x3F
        if not self.at - start <= length <= end - start:
            raise Unknown
        return start + length

    def _path(self, end: int) -> str:
        prefix = ""
        while self.at < end and self.data[self.at] in (ROOT_CHARACTER, PARENT_CHARACTER):
            prefix += chr(self.data[self.at])
            self.at += 1
        lead = self.data[self.at] if self.at < end else NULL_NAME
        count = {NULL_NAME: 0, DUAL_NAME: 2, MULTI_NAME: -1}.get(lead, 1)
        if count != 1:
            self._bytes(1, end)
        if count < 0:
            count = self._bytes(1, end)[0]
        return prefix + ".".join(self._segment(end) for _ in range(count))

    def _segment(self, end: int) -> str:
        name = self._bytes(SEGMENT_SIZE, end)
        if not all(char in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789" for char in name) or name[:1].isdigit():
            raise Unknown
        text = name.decode("ascii")
        return text.rstrip("_") if len(text.rstrip("_")) > 0 else text


class _Path(str):
    """A name inside data, which refers to another object."""


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "{ " + ", ".join(_text(item) for item in value) + " }"
    if isinstance(value, bytes):
        return f"{len(value)} bytes: {value.hex(' ')}"
    if isinstance(value, int):
        return f"{value:#x}"
    return value if isinstance(value, _Path) else f'"{value}"'


def _eisa_id(value: int) -> str:
    if value >> 32:
        return f"{value:#x}"
    raw = int.from_bytes(value.to_bytes(4, "little"), "big")
    letters = [(raw >> shift & 0x1F) + 64 for shift in (26, 21, 16)]
    readable = not raw >> 31 and all(65 <= letter <= 90 for letter in letters)
    return f"{bytes(letters).decode('ascii')}{raw & 0xFFFF:04X}" if readable else f"{value:#x}"


def _routes(value: Any) -> list[Term] | None:
    """A line for each device of a _PRT whose interrupts are lines of an I/O APIC; None when it is another kind."""
    lines: dict[int, list[str]] = {}
    for row in value if isinstance(value, list) else [None]:
        if not isinstance(row, list) or len(row) != 4 or not all(type(item) is int for item in row):
            return None
        address, pin, source, line = row
        if source or pin >= len(_PINS):
            return None
        lines.setdefault(address >> 16, []).append(f"INT{_PINS[pin]} {line}")
    return [Term(f"device {number}: {', '.join(parts)}", []) for number, parts in lines.items()]

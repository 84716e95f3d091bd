"""A lab with parameters: each student gets values of their own, the same ones on every machine.

    [variants]
    rounds = { from = 3, to = 20 }                      # a whole number, both ends included
    name = { choices = ["Ada", "Grace"] }
    leaf = { choices = [{ number = 0, text = "zero" }, { number = 1, text = "one" }] }

`{{rounds}}` in any file of the lab's folder becomes the value, `{{rounds:#x}}` in hexadecimal (`{{rounds:08x}}` with
eight digits), `{{leaf.text}}` one field of a choice, for values that belong together. In lab.toml a number stands in
quotes, for the file must be TOML before: `values = { rax = "{{rounds}}" }`; the quotes go with the braces.

The values follow from a seed (the course key), the student's id and the lab's name by HMAC-SHA256, and from nothing
else. Without a student they are the first of each: `from`, or the first choice. A lab with its values filled in is an
ordinary lab, in a folder that is there as long as somebody holds it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hv.lab import scratch
from hv.lab.errors import LabError

Plain = int | str
Value = Plain | dict[str, Plain]
_HOLE = re.compile(r'(")?\{\{\s*([A-Za-z_][\w.]*)(?::(#?0?[0-9]{0,2}[xXdb]?))?\s*\}\}(")?')
_TABLE = re.compile(r"^\[variants(\.[^\]]*)?\][^\n]*\n(?:(?!\[)[^\n]*(?:\n|$))*", re.M)


class Range(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename={"first": "from", "last": "to"}):
    """A whole number from *first* to *last*."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError(f"from {self.first} to {self.last} holds no number")

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __getitem__(self, index: int) -> Value:
        return self.first + index


class Choices(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One of several values; tables must have the same fields."""

    choices: list[Value]

    def __post_init__(self) -> None:
        kinds = {frozenset(one) if isinstance(one, dict) else type(one) for one in self.choices}
        if len(kinds) != 1:
            raise ValueError("choices are not of one kind" if self.choices else "there are no choices")

    def __len__(self) -> int:
        return len(self.choices)

    def __getitem__(self, index: int) -> Value:
        return self.choices[index]


Parameter = Range | Choices


def parameters(table: Any, place: str) -> dict[str, Parameter]:
    """The parameters that `[variants]` of the lab.toml at *place* describes; LabError."""
    if not isinstance(table, dict) or not table:
        raise LabError(f"{place}: [variants] holds no parameters", "see hv/lab/variants.py")
    return {name: _parameter(name, one, place) for name, one in table.items()}


def _parameter(name: str, one: Any, place: str) -> Parameter:
    try:
        if isinstance(one, dict) and "choices" in one:
            return msgspec.convert(one, Choices)
        return msgspec.convert(one, Range)
    except msgspec.ValidationError as error:
        raise LabError(f"{place}: parameter `{name}`: {error}", "{ from = 1, to = 9 } or { choices = [...] }") from None


def first(known: Mapping[str, Parameter]) -> dict[str, Value]:
    """The values of nobody."""
    return {name: one[0] for name, one in known.items()}


def drawn(known: Mapping[str, Parameter], seed: bytes, student: str, lab: str) -> dict[str, Value]:
    """The values of *student*. Each parameter is drawn by itself, so a new one changes none of the others."""
    return {name: one[_number(seed, student, lab, name) % len(one)] for name, one in known.items()}


def _number(seed: bytes, *words: str) -> int:
    """A number of 256 bits; words are told apart by their lengths."""
    told = [word.encode(errors="surrogateescape") for word in words]
    message = b"".join(b"%d:%b" % (len(word), word) for word in told)
    return int.from_bytes(hmac.digest(seed, message, hashlib.sha256))


def words(values: Mapping[str, Value]) -> str:
    """`rounds=7 leaf.number=1 leaf.text=one`."""
    return " ".join(f"{name}={value}" for name, value in _flat(values).items())


def _flat(values: Mapping[str, Value]) -> dict[str, Plain]:
    flat: dict[str, Plain] = {}
    for name, value in values.items():
        flat |= {f"{name}.{field}": one for field, one in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def fill(text: str, values: Mapping[str, Value], place: str) -> str:
    """*text* with every `{{name}}` replaced; LabError when there is no such parameter."""
    flat = _flat(values)

    def put(hole: re.Match[str]) -> str:
        opens, name, form, closes = hole.groups(default="")
        if name not in flat:
            raise LabError(f"{place}: there is no parameter `{name}`", f"[variants] has {', '.join(flat)}")
        value = flat[name]
        if form and not isinstance(value, int):
            raise LabError(f"{place}: `{name}` is no number, and has no form `{form}`", "leave it out")
        bare = isinstance(value, int) and opens and closes and not form
        written = format(value, form) if form else str(value)
        return written if bare else f"{opens}{written}{closes}"

    return _HOLE.sub(put, text)


class Keep:
    """Holds a folder, which goes when this does."""

    def __init__(self) -> None:
        self.folder = Path(scratch.make("variant"))
        weakref.finalize(self, scratch.remove, str(self.folder))


def filled(folder: Path, values: Mapping[str, Value]) -> tuple[Path, Keep]:
    """A copy of the lab in *folder* with its values filled in, and what holds it. It has no parameters any more."""
    keep = Keep()
    target = keep.folder / folder.name
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    for place in sorted(path for path in target.rglob("*") if path.is_file()):
        name = place.relative_to(keep.folder).as_posix()
        text = place.read_text(encoding="utf-8")
        text = _TABLE.sub("", text) if name == f"{folder.name}/lab.toml" else text
        place.write_text(fill(text, values, name), encoding="utf-8", newline="\n")
    return target, keep

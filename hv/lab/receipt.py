"""A receipt: which submission, graded by which lab and version, took which way and got which result; signed.

The same submission gives the same receipt on every machine, byte for byte: there is no path, time or host in it. Who
has the course key can check that it is genuine, run the submission again, and see what differs.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from hv.lab.errors import LabError
from hv.lab.formats import native
from hv.lab.formats.registry import Format, json_text
from hv.lab.key import key_name
from hv.lab.result import Result
from hv.lab.words import plain

LARGEST = 100_000               # bytes of a receipt's file
_Hash = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")]


class Receipt(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What is signed, and the signature."""

    receipt: Literal[1]
    tool: str
    exercise: str
    lab_sha256: _Hash
    student: str
    file: str                   # the plain name of the file; messages and places have it in them
    submission_sha256: _Hash    # empty when the file was not read
    status: str
    score: int | float
    max_score: int | float
    trace_sha256: _Hash         # empty when nothing was run
    result_sha256: _Hash        # of the result as our own JSON, without the submission's name
    key: str                    # by which key: its name, not itself
    signature: _Hash = ""       # HMAC-SHA256 of all the others

    def signed(self, key: bytes) -> Receipt:
        """The same with its signature."""
        return msgspec.structs.replace(self, signature=hmac.digest(key, self._message(), "sha256").hex())

    def is_genuine(self, key: bytes) -> bool:
        """It was signed with *key*, and not changed since."""
        return hmac.compare_digest(self.signed(key).signature, self.signature)

    def _message(self) -> bytes:
        data = {name: value for name, value in self.as_data().items() if name != "signature"}
        return b"hvlab receipt\0" + json.dumps(data, sort_keys=True, separators=(",", ":")).encode()

    def as_data(self) -> dict[str, Any]:
        """Plain data, in order."""
        return msgspec.structs.asdict(self)


def receipt(one: Result, key: bytes) -> Receipt:
    """The receipt of a result."""
    return Receipt(
        receipt=1, tool=one.tool, exercise=one.exercise, lab_sha256=one.lab_sha256, student=one.student,
        file=one.file, submission_sha256=one.sha256, status=str(one.status), score=plain(one.score),
        max_score=plain(one.max_score), trace_sha256=one.trace_sha256, result_sha256=_result_hash(one),
        key=key_name(key)).signed(key)


def _result_hash(one: Result) -> str:
    data = {name: value for name, value in native.as_data(one).items() if name != "submission"}
    return hashlib.sha256(json_text(data).encode()).hexdigest()


def receipts(key: bytes) -> Format:
    """Receipts signed with *key*, to be written like any format."""
    return Format("receipts", "receipt.json", True, lambda results: json_text(receipt(results[0], key).as_data()))


def read_receipt(place: Path) -> Receipt:
    """The receipt in *place*; LabError when it is none. Nothing in it is true before `is_genuine` says so."""
    try:
        with place.open("rb") as file:
            data = file.read(LARGEST)
        found = msgspec.json.decode(data, type=Receipt)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LabError(f"{place} is no receipt: {reason}", "`hv grade --receipt` writes one") from None
    if not found.file or Path(found.file).name != found.file or "\0" in found.file:
        raise LabError(f"{place} is no receipt: `{found.file}` is no file name", "`hv grade --receipt` writes one")
    return found


def differences(then: Receipt, now: Receipt) -> list[tuple[str, str, str]]:
    """(what, then, now) of each field that two receipts by one key differ in."""
    fields = [name for name in then.__struct_fields__ if name not in ("signature", "receipt")]
    return [(name, str(getattr(then, name)), str(getattr(now, name)))
            for name in fields if getattr(then, name) != getattr(now, name)]

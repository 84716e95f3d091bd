"""Where results go: a file, or a folder of files, whole or not at all.

A provisional result stands there from the beginning, so a grader that is killed leaves a file that says so; the real
one takes its place in one step (a rename), so nobody reads half of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from hv.lab.errors import LabError
from hv.lab.formats.registry import Format
from hv.lab.result import Result
from hv.whole_file import put

_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")
LONGEST_NAME = 80               # characters of a file's name, which is made of a submission's


class Output:
    """Results of one format on their way to *place*: a folder when it is one or ends with `/`, else a file."""

    def __init__(self, format: Format, place: str, alone: bool) -> None:
        self.format, self.alone = format, alone
        self.place = Path(place)
        self.is_folder = place.endswith(("/", os.sep)) or self.place.is_dir()

    def save(self, results: Sequence[Result]) -> None:
        """Write *results*, in place of what was there; LabError when that is not possible."""
        for place, text in self._files(results):
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                replace_file(place, text.encode())
            except OSError as error:
                hint = "name another place with --output"
                raise LabError(f"{place} cannot be written: {error.strerror}", hint) from None

    def refuse(self, count: int) -> None:
        """LabError when *count* results have no room there."""
        if not self.is_folder:
            refuse_several(self.format, count)

    def _files(self, results: Sequence[Result]) -> list[tuple[Path, str]]:
        if not self.is_folder:
            self.refuse(len(results))
            return [(self.place, self.format.text(results, self.alone))]
        if self.alone or not self.format.single:
            return [(self.place / self.format.file, self.format.text(results, self.alone))]
        names = file_names([one.submission for one in results], Path(self.format.file).suffix)
        return [(self.place / name, self.format.write([one])) for name, one in zip(names, results, strict=True)]


def refuse_several(format: Format, count: int) -> None:
    """LabError when *format* cannot hold *count* results in one file."""
    if format.single and count != 1:
        raise LabError(f"a file of {format.name} holds one submission; there are {count}",
                       "name a folder with --output, such as --output results/")


def file_names(submissions: Sequence[str], suffix: str) -> list[str]:
    """A name for each: of letters that every file system takes, and no two the same."""
    names: list[str] = []
    taken: set[str] = set()
    for submission in submissions:
        stem = _UNUSUAL.sub("_", submission).strip(".")[:LONGEST_NAME] or "_"
        name, count = f"{stem}{suffix}", 1
        while name.lower() in taken:
            count += 1
            name = f"{stem}-{count}{suffix}"
        taken.add(name.lower())
        names.append(name)
    return names


def replace_file(place: Path, data: bytes) -> None:
    """*data* in *place*, in one step. A device or a pipe is written to."""
    if place.exists() and not place.is_file():
        place.write_bytes(data)
        return
    put(place, data)

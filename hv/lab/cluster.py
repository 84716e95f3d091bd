"""A class graded by a Dask cluster: the lab and the submissions travel as bytes, results come back as plain data.

A task is known by the hash of what its result depends on, so the scheduler runs it once, and again when its worker
died: a second run has the same result. What kills each worker that takes it is given up by the scheduler, and is a
mistake of ours; the others never notice. The scheduler and its workers are trusted, as Dask trusts its clients.
"""

from __future__ import annotations

import atexit
import hashlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import msgspec

from hv.image.worker import kept_warm
from hv.lab import scratch
from hv.lab.errors import LabError
from hv.lab.exercise import Exercise, read
from hv.lab.grading import Submission, content_hash, grade_for
from hv.lab.result import Result
from hv.lab.whole_class import key_for
from hv.printable import one_line

_CONNECT_SECONDS = 20
_AT_ONCE = 400                          # tasks that are out; the rest waits here

_one_at_a_time = threading.Lock()       # a worker may have threads; a machine and the assembler want one


def grade_there(lab: dict[str, bytes], name: str, file: str, data: bytes, student: str, seed: bytes | None) -> bytes:
    """What a worker of the cluster runs: the result, as JSON."""
    with _one_at_a_time, scratch.folder("handed-in") as folder:
        exercise = _exercise(name, tuple(sorted(lab.items())))
        place = Path(folder) / file
        place.write_bytes(data)
        return msgspec.json.encode(grade_for(exercise, seed, Submission(file, place, student)).result)


@cache
def _exercise(name: str, lab: tuple[tuple[str, bytes], ...]) -> Exercise:
    """The exercise, unpacked once for each worker, with an assembler that stays warm."""
    kept = ExitStack()
    atexit.register(kept.close)
    folder = kept.enter_context(scratch.folder("lab")) / name
    for file, data in lab:
        place = folder / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    kept.enter_context(kept_warm())
    return read(folder)


@dataclass
class Cluster:
    """The graders of `--cluster`: a client of the scheduler at an address."""

    exercise: Exercise
    client: Any
    seed: bytes | None = None

    @classmethod
    def at(cls, address: str, exercise: Exercise, seed: bytes | None = None) -> Self:
        """Connect; LabError when Dask is not installed, or nobody answers."""
        try:
            from distributed import Client
        except ImportError:
            raise LabError("the extra `cluster` is not installed", "pip install 'hvlab[cluster]'") from None
        try:
            return cls(exercise, Client(address, timeout=_CONNECT_SECONDS, set_as_default=False), seed)
        except (OSError, ValueError, TypeError) as error:
            raise LabError(f"no scheduler answers at {one_line(address)}: {one_line(str(error)) or 'no connection'}",
                           "start one with `dask scheduler`") from None

    def close(self) -> None:
        """Leave the cluster; it goes on."""
        self.client.close()

    def grade(self, submissions: list[Submission]) -> Iterator[tuple[int, Result | str]]:
        """(number, result) of each, as they come; words when the cluster gave it up."""
        from distributed import as_completed

        whole = self.exercise.origin or self.exercise.folder        # with the parameters of its variants
        files = {file.relative_to(whole).as_posix(): file.read_bytes()
                 for file in sorted(whole.rglob("*")) if file.is_file()}
        lab_sha256 = self.exercise.sha256()
        lab = self.client.scatter(files, broadcast=True, hash=True)
        waiting, out = iter(enumerate(submissions)), dict[Any, int]()
        coming = as_completed(loop=self.client.loop)
        while True:
            while len(out) < _AT_ONCE and (following := next(waiting, None)) is not None:
                number, submission = following
                if not content_hash(self.exercise, submission.path):    # nothing that could be sent
                    yield number, grade_for(self.exercise, self.seed, submission).result
                    continue
                future = self._send(lab, lab_sha256, submission)
                out[future] = number
                coming.add(future)
            if not out:
                return
            done = next(coming)
            number = out.pop(done)
            yield number, _result(done)
            done.release()

    def _send(self, lab: Any, lab_sha256: str, submission: Submission) -> Any:
        data = submission.path.read_bytes()
        key = key_for(lab_sha256, self.seed, submission, hashlib.sha256(data).hexdigest())
        return self.client.submit(grade_there, lab, self.exercise.name, submission.path.name, data,
                                  submission.student, self.seed, key=f"hvlab-{key}", pure=True)


def _result(done: Any) -> Result | str:
    """Of one whose worker died with the result, it is waited for: the cluster finds it again."""
    try:
        found = done.result()
    except Exception as error:      # whatever ended it there: what it did to its workers, or what the cluster could not
        return one_line(f"the cluster gave it up: {type(error).__name__}: {error}")
    result = msgspec.json.decode(found, type=Result)
    ours = str(Result.__dataclass_fields__["tool"].default)
    return result if result.tool == ours else f"the cluster has {result.tool}, this is {ours}"

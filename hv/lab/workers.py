"""Processes that grade, kept warm: each has read the exercise once, and takes one submission after the other.

A worker that dies costs its submission a second try in a fresh one; when that dies too, or one hangs, this submission
alone is a mistake of ours, and the others never notice. A learner's program is in an emulator inside the worker, a
learner's Python in a sandbox outside of it, so neither decides what a worker answers.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any, cast

import msgspec

import hv
from hv.image.worker import kept_warm
from hv.lab.errors import LabError
from hv.lab.exercise import Exercise, read
from hv.lab.grading import Submission, grade_for
from hv.lab.result import Result
from hv.lab.sandbox.wire import WireError, frame, receive, send
from hv.printable import printable

MOST = 256
LATE_SECONDS = 600                      # the safety net of one submission; its own limits are in instructions
_TRIES = 2
_LATE = "seconds"                       # how words end that need no second try
_LONGEST = 64 << 20


def serve() -> None:
    """The worker: results for submissions, until the pipe ends."""
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)                       # a stray print must not look like an answer
    with contextlib.suppress(EOFError, BrokenPipeError), kept_warm():
        folder, seed = receive(requests)
        exercise = read(Path(os.fsdecode(folder)))
        while True:
            name, path, student = receive(requests)
            submission = Submission(name, Path(os.fsdecode(path)), os.fsdecode(student))
            result = grade_for(exercise, seed, submission).result
            send(answers, frame(msgspec.to_builtins(result), _LONGEST))


@dataclass
class _Worker:
    """One process, and what it is busy with."""

    process: subprocess.Popen[bytes]
    busy: int = -1                      # the number of a submission
    since: float = 0.0

    @property
    def answers(self) -> IO[bytes]:
        return cast(IO[bytes], self.process.stdout)

    def ask(self, message: Any) -> None:
        """Send; a worker that is gone is found when its answer is read."""
        with contextlib.suppress(BrokenPipeError):
            send(cast(IO[bytes], self.process.stdin).fileno(), frame(message, _LONGEST))

    def end(self) -> int:
        """Kill it; how it ended."""
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        return self.process.wait()


@dataclass
class Workers:
    """*count* processes that grade submissions of *exercise*."""

    exercise: Exercise
    count: int
    seed: bytes | None = None
    late_seconds: float = LATE_SECONDS
    _all: list[_Worker] = field(default_factory=list)

    def grade(self, submissions: list[Submission]) -> Iterator[tuple[int, Result | str]]:
        """(number, result) of each submission as soon as it is there; words instead when no worker survives it."""
        waiting, tries = deque(range(len(submissions))), [0] * len(submissions)
        try:
            while waiting or any(worker.busy >= 0 for worker in self._all):
                self._hand_out(waiting, submissions)
                for worker in self._ready():
                    number, answer = worker.busy, self._answer(worker)
                    if isinstance(answer, Result):
                        worker.busy = -1
                        yield number, answer
                        continue
                    tries[number] += 1
                    if tries[number] < _TRIES and not answer.endswith(_LATE):
                        waiting.appendleft(number)
                    else:
                        yield number, answer
        finally:
            while self._all:
                self._all.pop().end()

    @property
    def pids(self) -> list[int]:
        """The processes there are now."""
        return [worker.process.pid for worker in self._all]

    def _hand_out(self, waiting: deque[int], submissions: list[Submission]) -> None:
        while waiting:
            idle = next((worker for worker in self._all if worker.busy < 0), None)
            if idle is None:
                if len(self._all) >= self.count:
                    return
                idle = self._start()
            idle.busy, idle.since = waiting.popleft(), time.monotonic()
            one = submissions[idle.busy]
            idle.ask([printable(one.name), os.fsencode(one.path), os.fsencode(one.student)])

    def _start(self) -> _Worker:
        code = "from hv.lab.workers import serve; serve()"
        root = str(Path(hv.__file__).parents[1])
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, bufsize=0,
                stderr=subprocess.DEVNULL)
        except OSError as error:
            raise LabError(f"no worker can be started: {error.strerror}", "use fewer --jobs") from None
        worker = _Worker(process)
        whole = self.exercise.origin or self.exercise.folder        # with the parameters of its variants
        worker.ask([os.fsencode(whole.resolve()), self.seed])
        self._all.append(worker)
        return worker

    def _ready(self) -> list[_Worker]:
        """Those that answered, ended, or are late."""
        busy = [worker for worker in self._all if worker.busy >= 0]
        limit = min(worker.since for worker in busy) + self.late_seconds
        answered = wait([worker.answers.fileno() for worker in busy], max(0.0, limit - time.monotonic()))
        late = time.monotonic() - self.late_seconds
        return [worker for worker in busy if worker.answers.fileno() in answered or worker.since <= late]

    def _answer(self, worker: _Worker) -> Result | str:
        """Its result; words about its end when there is none, and then it is no longer one of us."""
        late = time.monotonic() - worker.since >= self.late_seconds
        if not late:
            try:
                return msgspec.convert(receive(worker.answers.fileno()), Result)
            except (EOFError, OSError, WireError, msgspec.ValidationError):
                pass
        self._all.remove(worker)
        code = worker.process.poll()
        code = worker.end() if code is None else (worker.end(), code)[1]
        return f"its grader took more than {self.late_seconds:g} {_LATE}" if late else \
            f"its grader ended (exit code {code})"

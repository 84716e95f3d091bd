"""The child process that runs Keystone, and the client that survives it.

Some inputs end the process Keystone runs in, and nothing promises that others will not make it loop. So one child
per `Worker` receives batches of instructions, one JSON line each, and answers every instruction with a line of its
own: the first one unanswered is the one that killed it.

Who assembles many programs keeps the child warm (`kept_warm`): then it forks a fresh one for each `Worker`, which costs
a thousandth of a start, and what a hostile program does to Keystone's memory still ends with that program.

This file is also the child's program. It is run by its path, without the rest of the package, to start quickly.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import IO, cast

GREETING = "ready\n"
TIME_LIMIT = 5.0    # seconds of the host for one batch
_NEXT = 7           # the exit code of a child that served its program


class WorkerDied(Exception):
    """The child ended, or ran out of time (*late*), at instruction *number* of the batch; -1 = it never started."""

    def __init__(self, number: int, late: bool) -> None:
        super().__init__(f"the assembler {'took too long' if late else 'ended'} at instruction {number}")
        self.number, self.late = number, late


_warm: list[subprocess.Popen[str]] | None = None      # children that wait for their next program; None: not kept


@contextlib.contextmanager
def kept_warm() -> Iterator[None]:
    """Inside, a child that served one program is kept for the next one. Linux only; elsewhere nothing changes."""
    global _warm
    if sys.platform != "linux" or _warm is not None:
        yield
        return
    _warm = []
    try:
        yield
    finally:
        kept, _warm = _warm, None
        for process in kept:
            _kill(process)


class Worker:
    """Keystone in a child process, started at the first batch; use it as a context manager."""

    _sound = True                       # nobody waits for an answer, nor does an answer wait

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._time_limit = time_limit
        self._greeted = False

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            if not (self._sound and self._give_back(self._process)):
                _kill(self._process)
            self._process = None

    @staticmethod
    def _give_back(process: subprocess.Popen[str]) -> bool:
        """Keep it for the next program, with an empty line between the two."""
        if _warm is None:
            return False
        try:
            cast(IO[str], process.stdin).write("\n")
            cast(IO[str], process.stdin).flush()
        except OSError:
            return False
        _warm.append(process)
        return True

    def assemble(self, batch: Sequence[tuple[int, str]]) -> list[bytes | str]:
        """Each (bits, instruction) as bytes, or as Keystone's complaint; WorkerDied when the child did not live."""
        process = self._started()
        self._sound = False
        late = threading.Event()
        timer = threading.Timer(self._time_limit, _end, (process, late))
        timer.daemon = True
        timer.start()
        try:
            return self._converse(process, batch, late)
        finally:
            timer.cancel()

    def _converse(self, process: subprocess.Popen[str], batch: Sequence[tuple[int, str]],
                  late: threading.Event) -> list[bytes | str]:
        answers: list[bytes | str] = []
        try:
            stdin, stdout = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
            self._greeted = self._greeted or stdout.readline() == GREETING
            if not self._greeted:
                raise WorkerDied(-1, late.is_set())
            stdin.write(json.dumps(batch) + "\n")
            stdin.flush()
            for _ in batch:
                answer = json.loads(stdout.readline())
                answers.append(bytes.fromhex(answer[0]) if answer[0] else str(answer[1]))
        except (OSError, ValueError):    # a broken pipe, or half a line
            raise WorkerDied(len(answers), late.is_set()) from None
        self._sound = True
        return answers

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._greeted = False
            if _warm:
                self._process = _warm.pop()
                return self._process
            try:
                words = [sys.executable, "-P", __file__, *(["warm"] if _warm is not None else [])]
                self._process = subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL, text=True, encoding="ascii",
                )
            except OSError:
                raise WorkerDied(-1, False) from None
        return self._process


def _end(process: subprocess.Popen[str], late: threading.Event) -> None:
    late.set()
    process.kill()


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


def _serve() -> None:
    import keystone

    modes = {16: keystone.KS_MODE_16, 32: keystone.KS_MODE_32, 64: keystone.KS_MODE_64}
    engines = {bits: keystone.Ks(keystone.KS_ARCH_X86, mode) for bits, mode in modes.items()}
    if "warm" in sys.argv:
        _fork_for_each()
    print(GREETING, end="", flush=True)
    while (line := sys.stdin.readline()) not in ("", "\n"):
        for bits, text in json.loads(line):
            try:
                code, count = engines[bits].asm(text, 0)
                answer = (bytes(code).hex(), "") if code and count == 1 else ("", "nothing was assembled")
            except keystone.KsError as error:
                answer = ("", str(error))
            print(json.dumps(answer), flush=True)
    os._exit(_NEXT if line else 0)


def _fork_for_each() -> None:
    """Return in a fresh child for each program; the parent stays here, and reads nothing."""
    import ctypes

    set_pdeathsig, sigkill = 1, 9
    while True:
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(set_pdeathsig, sigkill, 0, 0, 0)
            return
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:                   # the end of all programs
            os._exit(0)
        if code != _NEXT:               # this program ended Keystone; whoever waits for an answer must hear of it
            print("ended", flush=True)


if __name__ == "__main__":
    _serve()

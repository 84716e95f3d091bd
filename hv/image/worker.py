"""The child process that runs Keystone, and the client that survives it.

Some inputs end the process Keystone runs in, and nothing promises that others will not make it loop. So one child
per `Worker` receives batches of instructions, one JSON line each, and answers every instruction with a line of its
own: the first one unanswered is the one that killed it.

This file is also the child's program. It is run by its path, without the rest of the package, to start quickly.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, cast

GREETING = "ready\n"
TIME_LIMIT = 5.0    # seconds of the host for one batch


class WorkerDied(Exception):
    """The child ended, or ran out of time (*late*), at instruction *number* of the batch; -1 = it never started."""

    def __init__(self, number: int, late: bool) -> None:
        super().__init__(f"the assembler {'took too long' if late else 'ended'} at instruction {number}")
        self.number, self.late = number, late


class Worker:
    """Keystone in a child process, started at the first batch; use it as a context manager."""

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._time_limit = time_limit
        self._greeted = False

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self._process.wait()
            self._process = None

    def assemble(self, batch: Sequence[tuple[int, str]]) -> list[bytes | str]:
        """Each (bits, instruction) as bytes, or as Keystone's complaint; WorkerDied when the child did not live."""
        process = self._started()
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
        return answers

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._greeted = False
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL, text=True, encoding="ascii",
                )
            except OSError:
                raise WorkerDied(-1, False) from None
        return self._process


def _end(process: subprocess.Popen[str], late: threading.Event) -> None:
    late.set()
    process.kill()


def _serve() -> None:
    import keystone

    modes = {16: keystone.KS_MODE_16, 32: keystone.KS_MODE_32, 64: keystone.KS_MODE_64}
    engines = {bits: keystone.Ks(keystone.KS_ARCH_X86, mode) for bits, mode in modes.items()}
    print(GREETING, end="", flush=True)
    for line in sys.stdin:
        for bits, text in json.loads(line):
            try:
                code, count = engines[bits].asm(text, 0)
                answer = (bytes(code).hex(), "") if code and count == 1 else ("", "nothing was assembled")
            except keystone.KsError as error:
                answer = ("", str(error))
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()

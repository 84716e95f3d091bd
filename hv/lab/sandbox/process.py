"""The process a piece runs in, seen from outside: its command, its pipes, its scratch folder, and its end."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

import hv
from hv.lab import scratch
from hv.lab.errors import LabError
from hv.lab.sandbox import bubble
from hv.lab.sandbox.confine import BUBBLEWRAP
from hv.lab.sandbox.limits import Limits
from hv.lab.sandbox.outcome import Ending
from hv.lab.sandbox.wire import LONGEST_REQUEST, WireError, frame, take
from hv.printable import printable

_START_SECONDS = 20
_LAST_WORDS_SECONDS = 5                         # for the keeper to clean up
_TOO_MUCH = 16                                  # times what is kept of the output
_CHUNK = 1 << 16

Doors = Mapping[str, Callable[..., Any]]


class Stopped(Exception):
    """We ended the conversation."""

    def __init__(self, ending: Ending, words: str) -> None:
        super().__init__(words)
        self.ending, self.words = ending, words


class Process:
    """The process a piece runs in, its pipes, and its scratch folder."""

    def __init__(self, limits: Limits, bubblewrap: bool) -> None:
        if os.name != "posix":
            raise LabError("a learner's Python runs on a POSIX host only", "grade it on Linux")
        self.limits = limits
        self.received, self.printed, self.dropped = bytearray(), bytearray(), 0
        self.waited = 0.0               # seconds, for all answers together
        self.scratch = scratch.make("piece")
        leash: int | None = None
        self.leash: int | None = None
        if sys.platform == "linux":
            leash, self.leash = os.pipe()
        try:
            self.process = subprocess.Popen(
                self._command(leash, bubblewrap), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
                stderr=subprocess.PIPE, cwd=self.scratch, env=_environment(self.scratch), start_new_session=True,
                pass_fds=() if leash is None else (leash,))
        except OSError as error:
            self._clear()
            raise LabError(f"no process can be started: {error.strerror}") from None
        finally:
            if leash is not None:
                os.close(leash)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None, "a pipe that was asked for is there"
            os.set_blocking(stream.fileno(), False)
        self.protections = self._ready() + [BUBBLEWRAP] * bubblewrap

    def _command(self, leash: int | None, bubblewrap: bool) -> list[str]:
        package, library = Path(hv.__file__).parent, Path(msgspec.__file__).parent
        paths = list(dict.fromkeys(str(path.parent) for path in (package, library)))
        settings = {"limits": msgspec.to_builtins(self.limits), "scratch": self.scratch, "leash": leash,
                    "forget": paths}
        code = f"import sys; sys.path += {paths!r}; from hv.lab.sandbox.inside import main; main(sys.argv[1])"
        command = [sys.executable, "-I", "-S", "-B", "-u", "-X", "utf8", "-c", code, json.dumps(settings)]
        ours = [package / "__init__.py", package / "lab/__init__.py", package / "lab/sandbox", library]
        return (bubble.command(self.scratch, [str(path) for path in ours]) if bubblewrap else []) + command

    def _ready(self) -> list[str]:
        """What the process says before it reads anything of the piece."""
        try:
            verb, on = self.converse(b"", {}, _START_SECONDS)
            assert verb == "ready", f"the sandbox began with {verb}"
            self.waited = 0.0               # its start was ours to wait for
            return list(on)
        except (EOFError, WireError, Stopped, ValueError):
            shown = self.shown
            self.close()
            raise LabError(f"the sandbox did not start: {printable(shown[-300:]) or 'it said nothing'}") from None

    @property
    def shown(self) -> str:
        """What the piece printed, as text."""
        return self.printed.decode("utf-8", "replace")

    def converse(self, request: bytes, doors: Doors, seconds: float = 0) -> list[Any]:
        """Send *request*, open doors as asked, and answer the last word. EOFError, WireError, Stopped."""
        self.printed, self.dropped = bytearray(), 0
        began = time.monotonic()
        deadline = began + seconds if seconds else began + self.limits.wall_seconds - self.waited
        asks = 0
        while True:
            try:
                message = self._exchange(request, deadline)
            finally:
                self.waited += time.monotonic() - began
                began = time.monotonic()
            match message:
                case ["ask", str(door), list(arguments)]:
                    asks += 1
                    if asks > self.limits.asks:
                        raise Stopped(Ending.STEPS, f"asked more than {self.limits.asks} times")
                    request = _answer(doors, door, arguments)
                case [str(), *_]:
                    self._drain()
                    return list(message)
                case _:
                    raise WireError("a message that is no list")

    def _exchange(self, request: bytes, deadline: float) -> Any:
        """Write *request* and read one message, and what is printed meanwhile."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        left = memoryview(request)
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.process.stdout, selectors.EVENT_READ)
            waiting.register(self.process.stderr, selectors.EVENT_READ)
            if left:
                waiting.register(self.process.stdin, selectors.EVENT_WRITE)
            while True:
                message = take(self.received, self.limits.answer_bytes)
                if message is not None and not left:
                    return message[0]
                ready = waiting.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise Stopped(Ending.TIME, f"no answer after {self.limits.wall_seconds} seconds in all")
                for key, _ in ready:
                    if key.fileobj is self.process.stdin:
                        left = self._write(left)
                        if not left:
                            waiting.unregister(self.process.stdin)
                    elif not self._read(key.fd):
                        if key.fileobj is self.process.stdout:
                            raise EOFError
                        waiting.unregister(key.fileobj)

    def _write(self, left: memoryview) -> memoryview:
        assert self.process.stdin is not None
        try:
            return left[os.write(self.process.stdin.fileno(), left[:_CHUNK]) :]
        except BlockingIOError:
            return left
        except BrokenPipeError:
            raise EOFError from None

    def _read(self, fd: int) -> bool:
        """Take what is there; False at the end."""
        assert self.process.stdout is not None
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return True
        if fd == self.process.stdout.fileno():
            self.received += data
            if len(self.received) > self.limits.answer_bytes + _CHUNK + 4:
                raise WireError("more than one answer")
        else:
            room = self.limits.printed_bytes - len(self.printed)
            self.printed += data[:room]
            self.dropped += len(data[max(0, room) :])
            if self.dropped > _TOO_MUCH * self.limits.printed_bytes:
                raise Stopped(Ending.PRINTED, f"printed more than {_TOO_MUCH * self.limits.printed_bytes} bytes")
        return bool(data)

    def _drain(self) -> None:
        """Read what was printed before the answer; an answer behind the last one is forged."""
        assert self.process.stderr is not None
        while True:
            before = len(self.printed) + self.dropped
            try:
                self._read(self.process.stderr.fileno())
            except OSError:
                break
            if len(self.printed) + self.dropped == before:
                break
        if self.received:
            raise WireError("more than one answer")

    def last_words(self) -> tuple[Ending, str]:
        """Why the process ended by itself."""
        try:
            code = self.process.wait(_LAST_WORDS_SECONDS)
        except subprocess.TimeoutExpired:
            return Ending.FORGED, "closed the pipe of answers"
        number = code - 128 if code > 128 else -code
        if number == signal.SIGXCPU or (number == signal.SIGKILL and code > 128):
            return Ending.TIME, f"needs more than {self.limits.cpu_seconds} seconds of the processor"
        if number > 0:
            with contextlib.suppress(ValueError):
                return Ending.ENDED, f"its process was ended by {signal.Signals(number).name} before it answered"
        return Ending.ENDED, f"ended its process (exit code {code}) before it answered"

    def close(self) -> None:
        """Let go of the leash, which kills everything; then the processes that are ours to kill."""
        if self.leash is not None:
            os.close(self.leash)
            self.leash = None
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        try:
            self.process.wait(_LAST_WORDS_SECONDS if sys.platform == "linux" else 0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._clear()

    def _clear(self) -> None:
        if self.leash is not None:
            os.close(self.leash)
            self.leash = None
        scratch.remove(self.scratch)


def _environment(scratch: str) -> dict[str, str]:
    """Nothing of the caller's: no token, no path, no home."""
    return {"PATH": "/nowhere", "HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8", "TZ": "UTC",
            "PYTHONHASHSEED": "0"}


def _answer(doors: Doors, door: str, arguments: list[Any]) -> bytes:
    """What a door says. ValueError and TypeError of a door are the piece's mistakes, and go back to it."""
    try:
        if door not in doors:
            raise ValueError(f"there is no `{door}`")
        return frame(["answer", doors[door](*arguments)], LONGEST_REQUEST)
    except (ValueError, TypeError) as error:
        return frame(["no", str(error)[:300]], LONGEST_REQUEST)

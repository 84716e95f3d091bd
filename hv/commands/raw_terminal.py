"""The terminal of `hv run --interactive`: each key as it is struck, each byte as it was sent, and back again.

Whatever ends the run, the terminal is afterwards as it was: an exception, a signal that ends the process, a terminal
that went away. A signal that stops the process (SIGTSTP) gives the terminal back for as long; SIGCONT takes it again.
Signals only set flags: they may arrive inside a callback of the engine, where Python may not raise.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from hv.commands.errors import CommandError

LONGEST_LOOK = 0.2              # seconds without a look at what signals have set
_MOST_KEYS, _PIECE = 4096, 256  # bytes at once: a terminal that has room for some takes so many without blocking
_ENDS = ("SIGINT", "SIGTERM", "SIGHUP")      # Ctrl-C is no SIGINT, but a key


def check() -> None:
    """CommandError unless somebody sits before a terminal, and it can be had key by key."""
    for stream, name in ((sys.stdin, "standard input"), (sys.stdout, "standard output")):
        if not stream.isatty():
            raise CommandError(f"--interactive needs a terminal, and {name} is none",
                               "without it, --input FILE types a text, and the output may go anywhere")
    try:
        import termios  # noqa: F401
    except ImportError:
        raise CommandError("--interactive needs a terminal as Unix has it, and this system has none",
                           "on Windows, run hv in WSL") from None


class RawTerminal:
    """Standard input and output, raw while entered. `gone` says that nobody is there any more, `ended_by` is the signal
    that asked the process to end, or 0."""

    def __init__(self) -> None:
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._waiting = bytearray()             # printed, and not written yet
        self._before: dict[int, Any] = {}
        self.gone, self.ended_by = False, 0

    def __enter__(self) -> RawTerminal:
        import termios

        self._modes = termios.tcgetattr(self._in)
        for name in _ENDS:
            self._handle(getattr(signal, name), self._end)
        self._handle(signal.SIGTSTP, self._stop)
        self._handle(signal.SIGCONT, self._go_on)
        try:
            self._make_raw()
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            self.flush(to_end=True)
        finally:
            self._give_back()

    # --- keys and characters -------------------------------------------------------------------------------

    def print(self, text: str) -> None:
        """*text*, a character for each byte, is written soon (`flush`). It never raises."""
        self._waiting += text.encode("latin-1", "replace")

    def flush(self, to_end: bool = False) -> None:
        """Write what was printed: as much as the terminal takes at once, or *to_end*."""
        while self._waiting and not self.gone and (not self.ended_by or not to_end):
            try:
                if not select.select([], [self._out], [], LONGEST_LOOK if to_end else 0)[1]:
                    if to_end:
                        continue
                    return
                del self._waiting[:os.write(self._out, self._waiting[:_PIECE])]
            except OSError:
                self.gone = True

    def key_waits(self) -> bool:
        """There is something to read, which may be that nobody will ever type again."""
        return bool(select.select([self._in], [], [], 0)[0])

    def wait(self, seconds: float | None) -> float:
        """Until a key is struck, a signal has come, or *seconds* are over; how many of them it took."""
        self.flush()
        begin = time.monotonic()
        while not self.gone and not self.ended_by:
            took = time.monotonic() - begin
            left = LONGEST_LOOK if seconds is None else min(LONGEST_LOOK, seconds - took)
            outputs = [self._out] if self._waiting else []
            if left <= 0:
                break
            keys, room, _ = select.select([self._in], outputs, [], left)
            if room:
                self.flush()
            if keys:
                break
        return time.monotonic() - begin

    def keys(self) -> bytes:
        """What was typed; nothing when nothing was."""
        if not self.key_waits():
            return b""
        try:
            typed = os.read(self._in, _MOST_KEYS)
        except OSError:
            typed = b""
        self.gone = self.gone or not typed
        return typed

    # --- modes and signals -----------------------------------------------------------------------------------

    def _make_raw(self) -> None:
        import termios
        import tty

        tty.setraw(self._in, termios.TCSANOW)

    def _restore(self) -> None:
        import termios

        with suppress(termios.error):           # the terminal is gone
            termios.tcsetattr(self._in, termios.TCSANOW, self._modes)

    def _give_back(self) -> None:
        self._restore()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, handler: Any) -> None:
        self._before[number] = signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.ended_by = number

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Stop as anybody else does; whoever was waiting for a key waits on."""
        self._restore()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _go_on(self, number: int, frame: FrameType | None) -> None:
        import termios

        with suppress(termios.error):
            self._make_raw()

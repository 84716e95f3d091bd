"""A learner's piece of Python, called from here and run elsewhere.

    with Piece(source) as piece:
        outcome = piece.call("walk", eptp, gpa, doors={"read_u64": read})

Arguments and results are plain data (None, bool, int of 64 bits, float, str, bytes, list, dict). *doors* are functions
of ours that the piece gets as keyword arguments; each use of one is a message here and an answer back. The piece keeps
its own global names from call to call. Whatever it does ends in an `Outcome`: a call raises for the caller's own
mistakes only, and a call after a bad end starts the process anew.
"""

from __future__ import annotations

from typing import Any

from hv.lab.errors import LabError
from hv.lab.sandbox import bubble
from hv.lab.sandbox.confine import ALL, BUBBLEWRAP, LANDLOCK, RLIMITS, SECCOMP
from hv.lab.sandbox.limits import Limits
from hv.lab.sandbox.outcome import Ending, Outcome, told
from hv.lab.sandbox.process import Doors, Process, Stopped
from hv.lab.sandbox.wire import LONGEST_REQUEST, WireError, frame
from hv.printable import printable

NEEDED = (RLIMITS, LANDLOCK, SECCOMP)           # what `--require-sandbox` asks for; bubblewrap stands for the last two


class Piece:
    """One piece; `name` is what messages call its file. *bubblewrap* None: where it works."""

    def __init__(self, source: str, limits: Limits | None = None, name: str = "piece.py",
                 bubblewrap: bool | None = None) -> None:
        self.source, self.limits, self.name = source, limits or Limits(), name
        self.bubblewrap = bubble.binary() is not None if bubblewrap is None else bubblewrap
        self.protections: list[str] = []
        self._process: Process | None = None

    def __enter__(self) -> Piece:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, function: str, *arguments: Any, doors: Doors | None = None, kit: str = "") -> Outcome:
        """Call the piece's *function*; LabError when *arguments* are no plain data, or no process can be had.

        *kit* says what the function makes of them: `exit`, `hypercall` (see kit.py), or what they are.
        """
        try:
            request = frame(["call", function, list(arguments), list(doors or ()), kit], LONGEST_REQUEST)
        except WireError as error:
            raise LabError(f"the arguments of {function} cannot be sent: {error}") from None
        loaded = self.load()
        return self._ask(request, doors or {}) if loaded.returned else loaded

    def load(self) -> Outcome:
        """Start the process where there is none, and let it read the piece."""
        if self._process is not None:
            return Outcome(Ending.RETURNED)
        self._process = Process(self.limits, self.bubblewrap)
        self.protections = self._process.protections
        try:
            request = frame(["load", self.source, self.name], LONGEST_REQUEST)
        except WireError as error:
            self.close()
            return Outcome(Ending.WRONG, None, f"{self.name}: {error}")
        outcome = self._ask(request, {}, "loaded")
        if not outcome.returned:
            self.close()
        return outcome

    def close(self) -> None:
        """End the process, all that it started, and its scratch folder."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _ask(self, request: bytes, doors: Doors, last_word: str = "returned") -> Outcome:
        process = self._process
        assert process is not None, "a piece is asked before it is loaded"
        try:
            message = process.converse(request, doors)
            if message == ["loaded"] and last_word == "loaded":
                return Outcome(Ending.RETURNED, printed=process.shown)
            outcome = told(message, self.limits, self.name, process.shown)
            if outcome is None or (outcome.returned and last_word == "loaded"):
                raise WireError("a message that answers nothing")
        except (WireError, EOFError, Stopped) as problem:
            outcome = self._broken(process, problem)
        except BaseException:
            self.close()                # a door's own exception is the caller's
            raise
        if outcome.ending not in (Ending.RETURNED, Ending.RAISED, Ending.WRONG):
            self.close()
        return outcome

    def _broken(self, process: Process, problem: Exception) -> Outcome:
        """The conversation ended without an answer."""
        name, shown = printable(self.name), process.shown
        if isinstance(problem, Stopped):
            return Outcome(problem.ending, None, f"{name}: {problem.words}", 0, shown)
        if isinstance(problem, WireError):
            words = printable(f"wrote to the pipe of answers itself ({problem})")
            return Outcome(Ending.FORGED, None, f"{name}: {words}", 0, shown)
        ending, words = process.last_words()
        return Outcome(ending, None, f"{name}: {words}", 0, shown)


def protections() -> list[str]:
    """The protections that are on here: not what the host promises, but what a process reported."""
    with Piece("") as piece:
        piece.load()
        return piece.protections


def missing(on: list[str]) -> list[str]:
    """The protections that this host lacks, of those it could have."""
    return [name for name in ALL if name not in on]


def require(on: list[str]) -> None:
    """LabError unless a piece can neither reach files nor processes nor the network."""
    lacks = [] if BUBBLEWRAP in on else [name for name in NEEDED if name not in on]
    if lacks or RLIMITS not in on:
        raise LabError(f"this host cannot confine a learner's Python: no {' and no '.join(lacks or [RLIMITS])}",
                       "use Linux 5.13 or newer, or install bubblewrap")

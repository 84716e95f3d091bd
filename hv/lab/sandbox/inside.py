"""The process that a piece runs in: confine, load the piece, answer one call after the other.

Started by `piece.py` with an isolated interpreter (`-I -S`), so nothing of the caller's is here but the arguments of
calls. What the piece can reach of this module it may break: it harms its own answer only. Messages are lists:

    in    ["load", source, name], ["call", function, arguments, doors, kit], ["answer", value], ["no", words]
    out   ["ready", protections], ["loaded"], ["returned", value], ["ask", door, arguments],
          ["raised", type, words, line], ["wrong", words, line (, column)], ["steps", line], ["memory", line]
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import Any

from hv.lab.sandbox import kit
from hv.lab.sandbox.confine import confine
from hv.lab.sandbox.limits import Limits
from hv.lab.sandbox.wire import WireError, frame, receive, send

_WORDS = 300                            # letters of what an exception says


def main(settings: str) -> None:
    """Run until the caller closes the pipe. *settings*: JSON with limits, scratch and the leash's number."""
    chosen = json.loads(settings)
    limits = Limits(**chosen["limits"])
    parent = os.getppid()
    if chosen["leash"] is not None:
        from hv.lab.sandbox.keeper import keep
        parent = keep(chosen["leash"])
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)                       # what is printed goes one way, answers go another
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(chosen["scratch"])
    for path in chosen["forget"]:       # the way to msgspec and to us
        sys.path.remove(path)
    _forget_ours()
    on = confine(limits, chosen["scratch"], parent)
    send(answers, frame(["ready", on], limits.answer_bytes))
    _Server(requests, answers, limits).serve()


def _forget_ours() -> None:
    """What is imported here is nothing that a piece finds by its name; `hypervisor` is."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("hv", "msgspec")]:
        del sys.modules[name]
    sys.modules["hypervisor"] = kit.module()


class _Server:
    """Answers calls until the pipe ends."""

    def __init__(self, requests: int, answers: int, limits: Limits) -> None:
        self.requests, self.answers, self.limits = requests, answers, limits
        self.name = ""
        self.names: dict[str, Any] = {}

    def serve(self) -> None:
        """One request, one last word."""
        while True:
            try:
                verb, *rest = receive(self.requests)
            except EOFError:
                os._exit(0)
            self.say(self.load(*rest) if verb == "load" else self.call(*rest))

    def say(self, message: list[Any]) -> None:
        """Answer; what cannot be sent is answered with words."""
        try:
            data = frame(message, self.limits.answer_bytes)
        except WireError as error:
            data = frame(["wrong", f"answered {error}", 0], 1 << 20)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                continue                # the piece closed or replaced it
        send(self.answers, data)

    def load(self, source: str, name: str) -> list[Any]:
        """Compile the piece, and run what stands at its outermost level."""
        self.name, self.names = name, {"__name__": "piece", "__builtins__": __builtins__}
        try:
            code: CodeType = compile(source, name, "exec", dont_inherit=True)
        except SyntaxError as error:
            return ["wrong", error.msg, error.lineno or 0, error.offset or 0]
        except (ValueError, RecursionError, MemoryError, OverflowError) as error:
            return ["wrong", f"it cannot be read: {error}", 0]
        answer = self.guarded(lambda: exec(code, self.names))
        return ["loaded"] if answer[0] == "returned" else answer

    def call(self, function: str, arguments: list[Any], doors: list[str], dress: str) -> list[Any]:
        """Call the piece's *function*, by the kit *dress*."""
        called = self.names.get(function)
        if not callable(called):
            return ["wrong", f"there is no function `{function}`", 0]
        ways = {door: self.door(door) for door in doors}
        return self.guarded(lambda: kit.KITS[dress](called)(*arguments, **ways))

    def guarded(self, work: Callable[[], Any]) -> list[Any]:
        """What came of *work*, whatever it did."""
        try:
            sys.settrace(self.counter())
            try:
                return ["returned", work()]
            finally:
                sys.settrace(None)
        except MemoryError as error:
            line = self.line_of(error.__traceback__)
            error.__traceback__ = None
            gc.collect()
            return ["memory", line]
        except BaseException as error:
            return ["raised", type(error).__name__, _words(error), self.line_of(error.__traceback__)]

    def door(self, name: str) -> Callable[..., Any]:
        """A function that asks the caller."""
        def ask(*arguments: Any) -> Any:
            try:
                data = frame(["ask", name, list(arguments)], self.limits.answer_bytes)
            except WireError as error:
                raise TypeError(f"{name}: {error}") from None
            send(self.answers, data)
            verb, said = receive(self.requests)
            if verb == "no":
                raise ValueError(said)
            return said
        ask.__name__ = name
        return ask

    def counter(self) -> Any:
        """A trace function that counts lines of the piece, and ends the process behind the last one it may run.

        A loop that is one instruction (`while True: pass`) begins no line again, so an instruction that follows itself
        counts as one too.
        """
        left, name, end = self.limits.steps, self.name, self.too_long

        def on_call(where: FrameType, event: str, _: Any) -> Any:
            if where.f_code.co_filename != name:
                return None
            where.f_trace_opcodes = True
            last = -1                   # the instruction before, in this frame

            def on_line(where: FrameType, event: str, _: Any) -> Any:
                nonlocal left, last
                if event == "opcode" and where.f_lasti != last:
                    last = where.f_lasti
                elif event in ("line", "opcode"):
                    last = -1 if event == "line" else last
                    left -= 1
                    if left < 0:
                        end(where.f_lineno)
                return on_line

            return on_line

        return on_call

    def too_long(self, line: int) -> None:
        """The last word of a piece that runs on; no `except` of its own can stop it."""
        self.say(["steps", line])
        os._exit(0)

    def line_of(self, trace: TracebackType | None) -> int:
        """The piece's own innermost line."""
        line = 0
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.name:
                line = trace.tb_lineno
            trace = trace.tb_next
        return line


def _words(error: BaseException) -> str:
    try:
        return str(error)[:_WORDS]
    except BaseException:               # its __str__ is the piece's own
        return ""

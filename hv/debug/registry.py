"""Commands of the REPL: functions whose signature is the usage and whose docstring is the help.

    @command("exits")
    def exits(session: Session, n: int = 10) -> list[Record]:
        '''Show the last *n* VM exits, oldest first.'''

An `int` argument is an expression of numbers, registers and symbols (`rsp+8`, `start`), and within 0..2^64-1 when it is
called *address*; a `str` is a word; a last argument called *text* is the rest of the line. `completes` says for an
argument which words may stand there. A docstring ends with `Example:` and lines to try, which are tests too.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from hv.debug.errors import DebugError

if TYPE_CHECKING:
    from hv.debug.completion import Word
    from hv.debug.session import Session

    Words = Callable[[Session, str], Iterable[Word]]        # what may stand behind the text of the arguments so far

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Command:
    """One command and its other names; *completes* has words for its arguments, by their names."""

    name: str
    aliases: tuple[str, ...]
    function: Callable[..., Any]
    completes: Mapping[str, Words] = field(default_factory=dict)

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """The arguments a user gives."""
        return list(inspect.signature(self.function).parameters.values())[1:]

    @property
    def usage(self) -> str:
        """`mem SPACE ADDRESS [N]`."""
        words = [parameter.name.upper() if parameter.default is parameter.empty else f"[{parameter.name.upper()}]"
                 for parameter in self.parameters]
        return " ".join((self.name, *words))

    @property
    def help(self) -> str:
        """What it does, all of it."""
        return inspect.getdoc(self.function) or ""

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return self.help.partition("\n")[0]

    @property
    def examples(self) -> list[str]:
        """Lines to try: what stands between backquotes in the part of the docstring that begins with "Example"."""
        _, _, examples = self.help.partition("\nExample")
        return [" ".join(line.split()) for line in re.findall(r"`([^`]+)`", examples)]

    @property
    def family(self) -> str:
        """What the commands of its file are for, as the first line of that file says behind their names."""
        first = (inspect.getdoc(inspect.getmodule(self.function)) or "").partition("\n")[0]
        return first.partition(": ")[2].rstrip(".") or first.rstrip(".")

    def arguments(self, session: Session, text: str) -> list[Any]:
        """The arguments that *text* gives; DebugError says how the command is used."""
        values: list[Any] = []
        for parameter in self.parameters:
            text = text.strip()
            if not text:
                if parameter.default is parameter.empty:
                    raise DebugError(f"{parameter.name} is missing", f"usage: {self.usage}")
                break
            if parameter.name == "text":
                values.append(text)
                return values
            word, text = first_word(text)
            values.append(_value(session, parameter, word))
        if text.strip():
            raise DebugError(f"`{text.strip()}` is too much", f"usage: {self.usage}")
        return values


def first_word(text: str) -> tuple[str, str]:
    """The first word of *text*, and the rest."""
    word, *rest = text.split(None, 1) or [""]
    return word, rest[0] if rest else ""


def without_comment(text: str) -> str:
    """*text* up to a `#` that stands outside of quotes."""
    return next(re.finditer(r"""(?:"[^"\n]*"|'[^'\n]*'|[^#])*""", text))[0]


def _value(session: Session, parameter: inspect.Parameter, word: str) -> Any:
    if not parameter.annotation.startswith("int"):
        return word
    return session.address(word) if parameter.name == "address" else session.number(word)


COMMANDS: dict[str, Command] = {}
NAMES: dict[str, Command] = {}          # aliases too


def command(name: str, /, *aliases: str, **completes: Words) -> Callable[[F], F]:
    """Register a command; a name that is taken is an error at import. *completes*: words for arguments, by name."""
    def register(function: F) -> F:
        entry = Command(name, aliases, function, completes)
        for word in (name, *aliases):
            if word in NAMES:
                raise TypeError(f"`{word}` is {NAMES[word].function.__qualname__} and {function.__qualname__}")
            NAMES[word] = entry
        COMMANDS[name] = entry
        return function
    return register


def find(word: str) -> Command:
    """The command called *word*, by name, other name, or a beginning that only one has; DebugError."""
    if word in NAMES:
        return NAMES[word]
    begins = [name for name in COMMANDS if name.startswith(word)]
    if len(begins) == 1:
        return COMMANDS[begins[0]]
    if begins:
        raise DebugError(f"`{word}` may be {', '.join(begins)}", "write more of it")
    near = difflib.get_close_matches(word, NAMES, 1)
    raise DebugError(f"`{word}` is no command", f"did you mean `{near[0]}`?" if near else "`help` lists them")

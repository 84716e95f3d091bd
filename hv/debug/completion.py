"""What may stand where the cursor is: commands, symbols, VMs and VPs, registers, fields, parts of live objects.

Knows nothing of terminals: from the line up to the cursor it gives the words that fit, each with what it is. An
argument of a command completes by what it is (an `int` by registers and symbols), or by the function that the command
registered for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from hv.debug.errors import DebugError
from hv.debug.numbers import REGISTERS
from hv.debug.registry import COMMANDS, Command, find, first_word

if TYPE_CHECKING:
    from hv.debug.session import Session

MOST_WORDS = 400


class Word(NamedTuple):
    """A word that fits, and what it is."""

    text: str
    meaning: str = ""


class Completion(NamedTuple):
    """The *words* that fit in place of the last *typed* characters before the cursor."""

    typed: int
    words: list[Word]


def complete(session: Session, before: str) -> Completion:
    """What may stand at the end of *before*, the text up to the cursor."""
    word, rest = first_word(before)
    entry = _command(session, before.strip())
    words: Iterable[Word]
    if before.lstrip() == word and re.fullmatch(r"\w*", word):
        begun, words = word, [*_commands(), *python_words(session, word)]
    elif entry is not None and before.lstrip() != word:
        begun, words = _argument(session, entry, rest, before)
    else:
        begun, words = _end(r"\w*", before), python_words(session, _end(r"[\w.]*", before))
    return Completion(len(begun), _fitting(begun, words))


def _end(pattern: str, text: str) -> str:
    """The end of *text* that *pattern* matches."""
    return next(re.finditer(f"{pattern}$", text))[0]


def _command(session: Session, line: str) -> Command | None:
    """The command that *line* means; None when it is Python."""
    try:
        return None if session.is_python(line) else find(first_word(line)[0])
    except DebugError:
        return None


def _fitting(begun: str, words: Iterable[Word]) -> list[Word]:
    """Those that go on from *begun*, each once, whatever the case of what was typed."""
    found = {word.text: word for word in words if word.text.lower().startswith(begun.lower())}
    return [found[text] for text in sorted(found)][:MOST_WORDS]


def _commands() -> Iterator[Word]:
    for entry in COMMANDS.values():
        yield Word(entry.name, entry.summary)


def _argument(session: Session, entry: Command, rest: str, before: str) -> tuple[str, Iterable[Word]]:
    """The part of an argument that stands before the cursor, and the words for it."""
    given = rest.split()
    position = len(given) if not given or before[-1:].isspace() else len(given) - 1
    parameters = entry.parameters
    if not parameters:
        return "", ()
    parameter = parameters[min(position, len(parameters) - 1)]
    if position >= len(parameters) and parameter.name != "text":
        return "", ()
    own = entry.completes.get(parameter.name)
    if own is not None:
        return _end(r"[\w./]*" if parameter.name == "text" else r"\S*", before), own(session, rest)
    if parameter.annotation.startswith("int"):
        return _end(r"[\w.]*", before), numbers(session)
    return "", ()


def numbers(session: Session, typed: str = "") -> Iterator[Word]:
    """What an expression of numbers is made of: registers of the VP, and symbols of its program."""
    vp = session.found_vp
    for name in REGISTERS if vp is not None else ():
        yield Word(name, f"{getattr(vp.guest_regs, name):#x}" if vp is not None else "")
    for name, address in session.places.symbols(session.vm.name).items():
        yield Word(name, f"{address:#x}")


def python_words(session: Session, path: str) -> list[Word]:
    """The names that may follow in `vp.apic.ti`: those of the live objects, then the public parts of one of them."""
    *names, _ = path.lstrip("!").split(".")
    namespace = session.namespace()
    if not names:
        return [Word(name, type(value).__name__) for name, value in namespace.items() if not name.startswith("_")]
    found: Any = namespace.get(names[0])
    for name in names[1:]:
        found = _part(found, name)
    return [Word(name) for name in dir(found) if not name.startswith("_")] if found is not None else []


def _part(of: Any, name: str) -> Any:
    """A part of a live object; None when it has none, or will not say."""
    try:
        return getattr(of, name, None)
    except Exception:       # any code of the object's own may run here, and the user only pressed a key
        return None

"""why: why something happened, down to the control bit or table entry, and who set that when."""

from __future__ import annotations

from hv.debug.completion import Word
from hv.debug.errors import DebugError
from hv.debug.facts import field_names
from hv.debug.registry import command, first_word
from hv.debug.session import Session
from hv.debug.why.chain import Answer
from hv.debug.why.questions import why_exit


def _words(session: Session, typed: str) -> list[Word]:
    if typed.split()[:1] == ["last"]:
        return [Word(name, meaning) for name, meaning in field_names().items()]
    return [Word("last", "the last exit for which a condition is true")]


@command("why", text=_words)
def why(session: Session, text: str = "") -> Answer:
    """Say why the last VM exit happened, what was done about it, and who set what decided it.

    `why E120` asks about an exit of a recording, `why last CONDITION` about the last one for which it is true. In a
    recording, who set it is found by going back to that event; the machine stands where it stood afterwards.

    Example: `record`, `why`, `why E5`, `why last reason == IO_INSTRUCTION`
    """
    word, rest = first_word(text)
    if not text:
        return why_exit(session)
    if word == "last":
        condition = session.condition(rest) if rest else None
        return why_exit(session, wanted=condition)
    if word[:1] in "Ee" and word[1:2].isdigit():
        return why_exit(session, text)
    raise DebugError(f"`{word}` is nothing that `why` knows", "write `why`, `why E120`, or `why last reason == CPUID`")

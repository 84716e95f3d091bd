"""why: why something happened, down to the control bit or table entry, and who set that when."""

from __future__ import annotations

from collections.abc import Callable

from hv.debug.completion import Word
from hv.debug.errors import DebugError
from hv.debug.facts import field_names
from hv.debug.registry import command, first_word
from hv.debug.session import Session
from hv.debug.why.chain import Answer
from hv.debug.why.dma import why_dma
from hv.debug.why.faults import why_fault
from hv.debug.why.interrupts import why_no_interrupt
from hv.debug.why.questions import why_exit
from hv.replay.timeline import Interrupted


def _words(session: Session, typed: str) -> list[Word]:
    if typed.split()[:1] == ["last"]:
        return [Word(name, meaning) for name, meaning in field_names().items()]
    return [Word("last", "the last exit for which a condition is true"), Word("fault", "the last exception"),
            Word("no interrupt", "one that is expected and has not come"),
            Word("dma", "the last refusal of the IOMMU")]


@command("why", text=_words)
def why(session: Session, text: str = "") -> Answer:
    """Say why a VM exit or an exception happened, and who set what decided it and when.

    `why E120` asks about an exit of a recording, `why last CONDITION` about the last one for which it is true. `why
    fault [VP]` is about the last exception of a VP, `why no interrupt [VECTOR] [VP]` about an interrupt that has not
    come, `why dma` about the last DMA or interrupt of a device that was refused. In a recording, who set something is
    found by going back to when it was set; the machine stands where it stood afterwards.

    Example: `record`, `why`, `why E5`, `why last reason == IO_INSTRUCTION`
    """
    try:
        return _answer(session, text)
    except Interrupted:
        raise DebugError("interrupted", "the machine stands where it stood") from None


def _answer(session: Session, text: str) -> Answer:
    word, rest = first_word(text)
    if not text:
        broken = session.failure is not None and session.failure.is_fresh(session)
        return session.failure.answer if session.failure is not None and broken else why_exit(session)
    if word == "last":
        condition = session.condition(rest) if rest else None
        return why_exit(session, wanted=condition)
    if word[:1] in "Ee" and word[1:2].isdigit():
        return why_exit(session, text)
    if word == "fault":
        return _of_vp(session, rest, why_fault)
    if text == "dma":
        return why_dma(session)
    if text.split()[:2] == ["no", "interrupt"]:
        return _interrupt(session, text.split()[2:])
    raise DebugError(f"`{word}` is nothing that `why` knows", "write `why`, `why E120`, or `why last reason == CPUID`")


def _interrupt(session: Session, words: list[str]) -> Answer:
    """`why no interrupt [VECTOR] [VP]`; a VP with a dot in its name may stand alone."""
    if len(words) > 2:
        raise DebugError(f"`{words[2]}` is too much", "usage: why no interrupt [VECTOR] [VP]")
    named = words[-1] if len(words) == 2 or (words and "." in words[0]) else ""
    vector = session.number(words[0]) if words and words[0] != named else None
    return _of_vp(session, named, lambda session: why_no_interrupt(session, vector))


def _of_vp(session: Session, vp: str, question: Callable[[Session], Answer]) -> Answer:
    """The answer to *question* about another VP than the one looked at, which is looked at again afterwards."""
    before = session.vm, session.vp_index
    try:
        if vp:
            session.look_at(vp)
        return question(session)
    finally:
        session.vm, session.vp_index = before

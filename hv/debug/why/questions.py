"""The questions that can be asked, each answered as a whole."""

from __future__ import annotations

from hv.debug.session import Session
from hv.debug.why import exit_events, exit_memory  # noqa: F401  register what they know
from hv.debug.why.chain import Answer
from hv.debug.why.exits import causes
from hv.debug.why.handled import handled
from hv.debug.why.mistakes import mistakes
from hv.debug.why.names import who
from hv.debug.why.setting import find_settings
from hv.debug.why.visit import Scene, Test, away, scene
from hv.spec.exits import ExitReason

_AS_NOW = ("the machine has gone on since: what it is made of is looked at as it is now. `record` keeps the past, and "
           "finds who set it")


def why_exit(session: Session, place: str = "", wanted: Test | None = None) -> Answer:
    """Why the exit at *place* happened, or the last one *wanted*, or the last one of the VP looked at. DebugError."""
    with away(session):
        here = scene(session, place, wanted)
        links = [*causes(here), *handled(here), *mistakes(here)]
        find_settings(session, links, here.fact)
    return Answer(_subject(here), links, here.position, "" if here.exact else _AS_NOW)


def _subject(here: Scene) -> str:
    session, record = here.session, here.fact.record
    name = f"exit {ExitReason(here.exit.reason).name} of {who(session, record.partition, record.vp)}"
    rip = here.fact.get("rip")
    if rip is None:
        return name
    place, source = session.places.name(here.fact.vm, rip), session.places.source(here.fact.vm, rip)
    return f"{name} at {place}" + (f" ({source})" if source else "")


"""A run that broke: a guest that crashed, an error of ours in the middle of an exit, or one of the user's own Python.

The machine stands where it broke, with everything as it was then: of an exit the handler has not come to its end. That
is said in one line with the place, and `why` explains it.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from hv.debug.errors import DebugError
from hv.debug.facts import Fact
from hv.debug.session import PYTHON, Session
from hv.debug.targets import ending
from hv.debug.why.chain import Answer, Link
from hv.debug.why.exits import causes
from hv.debug.why.names import who
from hv.debug.why.visit import Scene
from hv.spec.exits import ExitReason
from hv.vmx.exit import VmExit

CRASHED = ("triple-fault", "error")     # how a VM ends that did not want to
_DEEPEST = 6                    # frames of a traceback that are told
_ROOM = "/hv/"


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that ended a run: *line* says it, *answer* is what `why` tells while nothing more has happened."""

    line: str
    answer: Answer
    error: Exception
    heard: int                  # events of the session until then

    def is_fresh(self, session: Session) -> bool:
        """The machine stands where it broke."""
        return session.recent.seen == self.heard


def failed(session: Session, error: Exception) -> None:
    """A command of *session* ended with *error*, which nobody expected: remember where. DebugError when it is the
    user's own Python that raised it."""
    fact = last_exit(session)
    frames = [_frame(each) for each in traceback.extract_tb(error.__traceback__)[-_DEEPEST:]]
    users = any(each.filename == PYTHON for each in traceback.extract_tb(error.__traceback__))
    what = f"{type(error).__name__}: {error}".replace("\n", " ")
    place = f" at {_place(session, fact)}" if fact is not None else ""
    whose = "your Python raised" if users else "internal error:"
    line = f"{whose} {what}{place}; everything is as it was then, and `why` explains"
    links = [Link(f"raised in {frames[-1]}" if frames else "raised", [Link(f"called from {each}")
                                                                      for each in reversed(frames[:-1])], ok=False)]
    if fact is not None:
        links += _of_exit(session, fact)
    subject = f"{whose} {what}{place}"
    session.failure = Failure(line, Answer(subject, links), error, session.recent.seen)
    if users:
        raise DebugError(line) from None


def _frame(frame: traceback.FrameSummary) -> str:
    name = frame.filename.rpartition(_ROOM)[2] if _ROOM in frame.filename else frame.filename
    text = f": `{frame.line}`" if frame.line else ""
    return f"{frame.name} ({name}:{frame.lineno}){text}"


def _of_exit(session: Session, fact: Fact) -> list[Link]:
    """What made the exit that was being handled."""
    try:
        return causes(Scene(session, fact, [], True, ""))
    except DebugError:
        return []


def last_exit(session: Session, partition: int | None = None) -> Fact | None:
    """The last VM exit that was heard of, of a *partition* or of any."""
    return next((fact for fact in reversed(list(session.recent.facts())) if isinstance(fact.record.event, VmExit)
                 and partition in (None, fact.record.partition)), None)


def _place(session: Session, fact: Fact, position: str = "") -> str:
    record, timeline = fact.record, session.timeline
    position = position or (f"E{timeline.exits()}" if timeline is not None else f"#{record.sequence}")
    rip = fact.get("rip")
    where = f" ({session.places.name(fact.vm, rip)})" if rip is not None else ""
    return (f"{position}, exit {ExitReason(record.event.reason).name} of "
            f"{who(session, record.partition, record.vp)}{where}")


# --- a guest that crashed -----------------------------------------------------------------------------------

def crash(session: Session) -> str:
    """What to say of a VM that has crashed since one last asked; nothing if none has.

    In a recording the machine is taken to the exit at which it crashed. Without one it has gone on no further: the VP
    stands at the instruction.
    """
    vm = next((vm for vm in session.vms if vm.ended in CRASHED and vm.name not in session.crashes_told), None)
    if vm is None:
        return ""
    session.crashes_told.add(vm.name)
    said, position = ending(vm), ""
    if session.timeline is not None:
        moment = session.timeline.backward(lambda record: isinstance(record.event, VmExit)
                                           and record.partition == vm.partition_id)
        position = "" if moment is None else str(moment.position)
    fact = last_exit(session, vm.partition_id)
    if fact is None:
        return f"{said}; `why fault` explains"
    session.look_where(fact)
    hint = "`why` and `why fault` explain"
    return f"{said}: it stands at {_place(session, fact, position)}; {hint}"

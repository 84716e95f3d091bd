"""The bus numbers what happens and hands it on."""

import dataclasses

import pytest

from hv.trace import events
from hv.trace.bus import Recent, Record, Trace


def test_nobody_listens_to_a_new_trace():
    trace = Trace()
    assert not trace.listening
    heard = []
    trace.listen(heard.append)
    assert trace.listening
    trace.unlisten(heard.append)
    assert not trace.listening


def test_a_record_says_when_and_where():
    trace, heard = Trace(), []
    trace.clock = lambda: 4000
    trace.listen(heard.append)
    trace.emit(events.PartitionCreated(2, parent=1))
    trace.at(2, 1)
    trace.emit(events.VpHalted())
    assert heard == [Record(0, 4000, 0, 0, events.PartitionCreated(2, 1)), Record(1, 4000, 2, 1, events.VpHalted())]


def test_every_listener_hears_the_same_record():
    trace, first, second = Trace(), [], []
    trace.listen(first.append)
    trace.listen(second.append)
    trace.emit(events.VpHalted())
    trace.unlisten(first.append)
    trace.emit(events.GuestEnded("HLT"))
    assert [record.sequence for record in first] == [0]
    assert [record.sequence for record in second] == [0, 1]


def test_a_stranger_cannot_stop_listening():
    with pytest.raises(ValueError):
        Trace().unlisten(print)


def test_recent_keeps_the_last_records_and_finds_a_kind():
    trace, recent = Trace(), Recent(limit=3)
    trace.listen(recent)
    for vector in range(4):
        trace.emit(events.Injected(vector, 0))
    trace.emit(events.VpHalted())
    assert [record.sequence for record in recent.last(10)] == [2, 3, 4]
    assert [record.event.vector for record in recent.last(1, events.Injected)] == [3]
    assert recent.last(0) == []


@pytest.mark.parametrize("kind", [each for each in vars(events).values() if dataclasses.is_dataclass(each)],
                         ids=lambda kind: kind.__name__)
def test_an_event_is_a_frozen_fact_with_a_docstring(kind):
    assert kind.__dataclass_params__.frozen
    assert hasattr(kind, "__slots__")
    assert not kind.__doc__.startswith(kind.__name__ + "(")     # the generated one

"""The bus numbers what happens and hands it on."""


import pytest

from hv.trace import events
from hv.trace.bus import Recent, Record, Trace
from hv.trace.event import Event


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


KINDS = [kind for kind in vars(events).values()
         if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_event_is_a_frozen_fact_with_a_docstring(kind):
    values = range(len(kind.FIELDS))
    event = kind(*values)
    assert event == kind(**dict(zip(kind.FIELDS, values, strict=True)))
    assert hash(event) == hash(kind(*values))
    assert list(event.inspect().values()) == list(values)
    assert kind.__doc__
    for name in (*kind.FIELDS, "another"):
        with pytest.raises(AttributeError, match=f"{kind.__name__} is a fact: {name}"):
            setattr(event, name, 0)


@pytest.mark.parametrize(("values", "named"), [((), {}), ((1,), {}), ((1, 2, 3), {}), ((1, 2), {"value": 3}),
                                               ((1,), {"msr": 2}), ((1,), {"number": 2})])
def test_an_event_is_made_of_all_its_fields_and_nothing_else(values, named):
    with pytest.raises(TypeError, match=r"MsrRead is made of msr, value; given"):
        events.MsrRead(*values, **named)


def test_a_field_that_has_a_default_need_not_be_given():
    event = events.Hypercall(0x5C, 0x5C, 0, 0, 0, 0)
    assert event.why == ""
    assert events.Hypercall(0x5C, 0x5C, 0, 0, 6, 0, "no").why == "no"
    with pytest.raises(TypeError, match="given 7 values, reps"):
        events.Hypercall(0x5C, 0x5C, 0, 0, 6, 0, "no", reps=1)


def test_an_event_is_read_by_name_by_place_and_by_pattern():
    event = events.MsrRead(0x1B, value=5)
    match event:
        case events.MsrRead(msr, value):
            assert (msr, value) == (event.msr, event.value) == (0x1B, 5)
    assert event != events.MsrWrite(0x1B, 5)
    assert repr(event) == "MsrRead(msr=27, value=5)"

"""Forward and back by instruction, event, exit and stage: every place in one order, and each one again from there."""

import re

import pytest

from hv.debug.errors import DebugError
from hv.image.library import guests_folder
from hv.replay.position import Position
from hv.step.model import BACK, FORWARD
from hv.step.reel import END
from tests.step.stories import model_of, source_model

THREE = """
    .bits 64
    .org 0x10000
    .entry start
start:
    mov ecx, 3
    xor eax, eax
    cpuid
    mov esi, 1
    hlt
"""
# The timer's guest, which waits without HLT: its interrupts come while it runs, and no VM exit comes with them.
SPINNING = re.sub(r"(?m)^\s*hlt\b", "nop", (guests_folder() / "timer.asm").read_text(encoding="utf-8"))


def walked(model, way, by):
    """The names of all places, one after the other."""
    found = [model.name]
    while model.move(way, by):
        found.append(model.name)
    return found


def test_by_instruction_an_exit_is_one_with_all_that_follows():
    model = source_model(THREE)
    assert walked(model, FORWARD, "instruction") == ["E0", "E0:2", "E0:3", "E1:1", "E1:2", "end"]


@pytest.mark.parametrize("by", ["instruction", "exit", "event", "stage"])
@pytest.mark.parametrize("guest", ["timer", "guests/synic.toml"])
def test_the_way_back_has_the_places_of_the_way_there(guest, by):
    model = model_of(guest)
    model.go(Position(model.moves.last_exit - 6))
    model.move(BACK, by)
    there = walked(model, FORWARD, by)
    assert there[-1] == "end"
    assert len(there) > 6
    back = [model.name]
    while len(back) < len(there) and model.move(BACK, by):
        back.append(model.name)
    assert back == there[::-1]


def test_by_exit_one_comes_from_anywhere_to_the_exit_itself():
    model = source_model(THREE)
    model.go(Position(1, 2))
    model.move(BACK, "exit")
    assert model.name == "E1"
    model.move(FORWARD, "exit")
    assert model.name == "E2"
    model.move(FORWARD, "exit")
    assert model.name == "end"
    assert not model.move(FORWARD, "exit")
    assert model.said == "this is the end: test halt"


def test_an_event_between_two_instructions_stands_between_them():
    model = source_model(SPINNING)
    model.go(Position(4, 0, 2))                     # a virtual interrupt is delivered
    begun = model.reel.stretch(4).before[1]
    assert begun > 100_000
    model.move(FORWARD, "instruction")
    assert model.here == (4, begun + 1, 0)
    assert model.places.name("test", model.moment.rip) == "on_timer"
    model.move(BACK, "event")
    assert model.here == (4, 0, 2)
    model.move(BACK, "instruction")
    assert model.here == (4, begun, 0)
    model.move(FORWARD, "event")
    assert model.here == (4, 0, 2)


def test_at_the_end_there_is_the_last_instruction_behind():
    model = source_model(THREE)
    model.go(END)
    model.move(BACK, "instruction")
    assert model.name == "E1:2"


def test_stages_go_through_the_exit_and_on_to_the_next():
    model = model_of("timer")
    model.go(Position(5))
    seen = []
    for _ in range(7):
        seen.append((model.name, model.microscope.stages[model.stage].name))
        model.move(FORWARD, "stage")
    assert seen == [("E5", "exit"), ("E5", "saved"), ("E5+1", "handler"), ("E5+1", "verdict"), ("E5+2", "injected"),
                    ("E5:1", "entry"), ("E6", "exit")]


@pytest.mark.parametrize(("words", "place"), [
    ("E5", "E5"), ("e5:3", "E5:3"), ("E20+4", "E20+4"), ("begin", "E0"), ("end", "end"),
    ("reason == HLT", "E5"), ("event == Injected", "E5+2"), ("event == PortIo and value == 0xa", "E43+1"),
    ("on_timer", "E5:1"), ("start.done+7", "E15:10"), ("0x10072", "E5:1")])
def test_one_goes_to_a_place_or_to_the_next_event_of_a_kind(words, place):
    model = model_of("timer")
    model.go_to(words)
    assert model.name == place


def test_a_symbol_is_looked_for_in_both_directions():
    model = model_of("timer")
    for words, place in (("on_timer", "E5:1"), ("on_timer", "E6:1"), ("end", "end"), ("back on_timer", "E14:1"),
                         ("back on_timer", "E13:1")):
        model.go_to(words)
        assert model.name == place
    with pytest.raises(DebugError, match="timer does not come to start behind E13:1"):
        model.go_to("start")


def test_back_looks_for_the_last_event_of_a_kind():
    model = model_of("timer")
    model.go_to("end")
    model.go_to("back reason == HLT")
    last = model.name
    model.go_to("back reason == HLT")
    assert model.here < Position.parse(last)


@pytest.mark.parametrize(("words", "why"), [
    ("E999", "the recording has E0 to E44"), ("E5:99", "16 instructions and 2 events follow E5"),
    ("E5+9", r"there is no E5\+9"), ("reason ==", "column"), ("nonsense", "nonsense"),
    ("reason == TRIPLE_FAULT", "no event behind E0 matches"), ("", "no condition")])
def test_where_one_cannot_go_one_stays(words, why):
    model = model_of("timer")
    with pytest.raises(DebugError, match=why) as caught:
        model.go_to(words)
    assert "\n" not in str(caught.value)
    assert model.name == "E0"


def test_a_guest_that_never_ends_is_recorded_up_to_the_limit_and_says_so():
    model = source_model(".bits 64\n.org 0x10000\nstart:\n jmp start\n", ticks=2_000_000)
    assert model.story.unfinished
    assert "test still ran after 1.000 ms of virtual time, where the recording ends" in model.story.ending


def test_a_recording_ends_when_there_are_too_many_events():
    source = ".bits 64\n.org 0x10000\nstart:\n xor eax, eax\n cpuid\n jmp start\n"
    model = source_model(source, events=500)
    assert model.story.unfinished
    assert "where the recording ends" in model.story.ending


def test_a_guest_that_ended_says_how():
    model = source_model(".bits 64\n.org 0x10000\nstart:\n sti\n hlt\n jmp start\n")
    assert model.story.ending == "test halt"
    assert not model.story.unfinished


def test_a_vp_is_chosen_and_let_go_again():
    model = model_of("guests/synic.toml")
    assert [str(who) for who in model.everybody] == ["synic.0", "partner.0"]
    model.choose_next()
    model.choose_next()
    assert str(model.moment.who) == "partner.0"
    model.choose_next()
    assert model.chosen is None
    with pytest.raises(DebugError, match=r"there is no VP `third.0` here"):
        model.vp_called("third.0")


def test_memory_is_looked_at_by_an_expression():
    model = model_of("timer")
    model.look_at("on_timer + 1")
    assert model.moment.looked_at == model.story.images["timer"].symbols["on_timer"] + 1
    with pytest.raises(DebugError):
        model.look_at("nobody")
    assert model.look == "on_timer + 1"

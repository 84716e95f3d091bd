"""The layout of the engine's saved context is checked before anything relies on it."""

from __future__ import annotations

import pytest

from hv.machine import context


@pytest.fixture(autouse=True)
def _calibrate_afresh():
    context.calibrate.cache_clear()
    yield
    context.calibrate.cache_clear()


def test_the_engine_found_here_is_the_one_this_was_written_for():
    context.calibrate()


def test_a_context_of_another_size_is_refused_with_both_sizes(monkeypatch):
    monkeypatch.setattr(context, "SIZE", context.SIZE - 8)
    with pytest.raises(context.EngineMismatch, match=r"context has 0x15e8 bytes, not 0x15e0.*pip install"):
        context.calibrate()


@pytest.mark.parametrize(("name", "offset", "what"), [
    ("_REGISTER_MARKS", context.REGS + 8, "register"), ("_MSR_MARKS", context.STAR + 8, "MSR 0xc0000081")])
def test_a_register_at_another_place_is_refused_with_its_place(monkeypatch, name, offset, what):
    number = getattr(context, name)[0][0] if name == "_REGISTER_MARKS" else 0xC0000081
    monkeypatch.setattr(context, name, ((number, offset),))
    with pytest.raises(context.EngineMismatch, match=f"keeps {what}.* at 0x.*, not at {offset:#x} of its context"):
        context.calibrate()


@pytest.mark.parametrize("name", ["EFER", "CR", "EFLAGS", "CC_SRC", "CC_OP"])
def test_every_split_register_is_looked_for(monkeypatch, name):
    monkeypatch.setattr(context, name, context.SIZE - 16)
    with pytest.raises(context.EngineMismatch):
        context.calibrate()


@pytest.mark.parametrize("number", range(len(context._REGISTER_MARKS) + len(context._MSR_MARKS)))
def test_every_mark_is_found_where_it_is_said_to_be(monkeypatch, number):
    """One moved by eight bytes is refused, whichever it is."""
    marks = [*context._REGISTER_MARKS, *context._MSR_MARKS]
    identifier, offset = marks[number]
    name = "_REGISTER_MARKS" if number < len(context._REGISTER_MARKS) else "_MSR_MARKS"
    monkeypatch.setattr(context, name, ((identifier, offset + 8),))
    with pytest.raises(context.EngineMismatch):
        context.calibrate()

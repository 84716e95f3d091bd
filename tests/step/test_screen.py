"""The screen under Textual's Pilot: keys, mouse, sizes, looks."""

import asyncio
import re

import pytest
from textual.widgets import Input, Static

from hv.replay.position import Position
from hv.step.app.dialogs import Ask, Help
from hv.step.app.looks import LOOKS, inks
from hv.step.app.picture import picture
from hv.step.app.screen import StepApp
from hv.step.board import Look
from hv.step.reel import END
from hv.step.text import STYLES
from tests.step.stories import model_of, text


def played(script, guest="timer", size=(120, 40), place=None, **how):
    """Run *script* with the pilot and the app; what it answers."""
    model = model_of(guest)
    if place is not None:
        model.go(place)
    app = StepApp(model, **how)

    async def play():
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            found = await script(pilot, app)
            assert app.failure is None
            return found

    return asyncio.run(play())


def after(*keys, **how):
    """The app when *keys* were pressed."""
    async def script(pilot, app):
        await pilot.press(*keys)
        await pilot.pause()
        app.painted = painted(app)
        return app

    return played(script, **how)


def painted(app):
    """The styles of all that is on the screen."""
    return [segment.style for y in range(app.view.size.height) for segment in app.view.render_line(y) if segment.style]


def seen(app):
    return text(app.view.shown.lines)


@pytest.mark.parametrize(("keys", "place"), [
    ("s", "E0:2"), ("s s", "E0:3"), ("right", "E0:2"), ("s s S", "E0:2"), ("s s left", "E0:2"), ("e", "E1"),
    ("e e e E", "E2"), ("e v", "E1+1"), ("e v V", "E1"), ("end", "end"), ("end E", "E44"), ("end home", "E0"),
    ("e e e e e m m", "E5+1"), ("e e e e e m m M", "E5")])
def test_a_key_is_a_step(keys, place):
    app = after(*keys.split())
    assert app.model.name == place
    assert f" {place} " in seen(app).splitlines()[0]


def test_a_step_beyond_the_end_says_so_instead_of_the_keys():
    app = after("end", "e")
    assert "this is the end: timer shutdown" in seen(app).splitlines()[-1]


def typed(key, words, **how):
    async def script(pilot, app):
        await pilot.press(key)
        await pilot.pause()
        app.screen.query_one(Input).value = words
        await pilot.press("enter")
        await pilot.pause()
        trouble = app.screen.query(Static).last().render() if isinstance(app.screen, Ask) else ""
        return app, str(trouble)

    return played(script, **how)


@pytest.mark.parametrize(("words", "place"), [("E20:3", "E20:3"), ("on_timer", "E5:1"), ("reason == HLT", "E5"),
                                              ("end", "end"), ("", "E0")])
def test_g_goes_where_the_user_says(words, place):
    app, trouble = typed("g", words)
    assert (app.model.name, trouble) == (place, "")


@pytest.mark.parametrize("words", ["E99", "reason == ", "nobody", "E5:77"])
def test_a_place_that_is_not_there_leaves_the_line_with_the_reason(words):
    app, trouble = typed("g", words)
    assert app.model.name == "E0"
    assert trouble
    assert "\n" not in trouble


def test_escape_closes_the_line():
    async def script(pilot, app):
        await pilot.press("g", "x", "escape")
        await pilot.pause()
        return len(app.screen_stack)

    assert played(script) == 1


def test_a_shows_memory_and_makes_it_the_chosen_pane():
    app, _ = typed("a", "on_timer")
    assert app.look.active == "memory"
    assert "▸ Memory" in seen(app)
    assert app.model.moment.looked_at == app.model.story.images["timer"].symbols["on_timer"]


@pytest.mark.parametrize(("keys", "pane"), [
    ("1", "code"), ("6", "timeline"), ("tab", "memory"), ("shift+tab", "registers"), ("6 tab", "code")])
def test_panes_are_chosen_by_number_and_by_tab(keys, pane):
    app = after(*keys.split(), size=(80, 24))
    assert app.look.active == pane
    assert "▸" in seen(app)


def test_w_looks_at_the_next_vp():
    app = after("w", "w", guest="guests/synic.toml", place=Position(5))
    assert "partner.0 chosen" in seen(app).splitlines()[0]
    assert after("w", "w", "w", guest="guests/synic.toml").model.chosen is None


def test_arrows_scroll_the_chosen_pane():
    first, scrolled = after("2", size=(80, 24)), after("2", "down", "down", size=(80, 24))
    lines = seen(first).splitlines()
    assert seen(scrolled).splitlines()[10:] != lines[10:]
    assert after("2", "down", "up", size=(80, 24)).look.scrolled == {"registers": 0}
    assert after("2", "down", "s", size=(80, 24)).look.scrolled == {}


def test_the_help_explains_keys_and_panes_and_any_key_closes_it():
    async def script(pilot, app):
        await pilot.press("question_mark")
        await pilot.pause()
        there = isinstance(app.screen, Help), " ".join(str(each.render()) for each in app.screen.query(Static))
        await pilot.press("s")
        await pilot.pause()
        return there, len(app.screen_stack), app.model.name

    (there, words), screens, place = played(script, size=(80, 24))
    assert there
    assert "the next VM exit" in words
    assert "IRR" in words
    assert (screens, place) == (1, "E0")


def test_q_and_ctrl_c_leave():
    for key in ("q", "ctrl+c"):
        assert not after(key)._running


# --- mouse -------------------------------------------------------------------------------------------------


def where(app, words):
    """Column and line of *words* on the screen."""
    for y, line in enumerate(seen(app).splitlines()):
        if words in line:
            return line.index(words), y
    raise AssertionError(f"{words} is not on the screen:\n{seen(app)}")


def clicked(words, **how):
    async def script(pilot, app):
        await pilot.click(offset=where(app, words))
        await pilot.pause()
        return app

    return played(script, **how)


def test_a_click_on_a_row_of_the_timeline_goes_there():
    app = clicked("E3  ", place=Position(5))
    assert app.model.name == "E3"
    assert app.look.active == "timeline"


def test_a_click_on_an_address_shows_its_memory():
    app = clicked("0001004f", place=Position(5))
    assert app.model.look == "0x0001004f"
    assert app.look.active == "memory"


def test_a_click_on_a_pane_or_a_tab_chooses_it():
    assert clicked("─ Registers").look.active == "registers"
    assert clicked("5 Machine", size=(80, 24)).look.active == "machine"


def test_a_click_on_a_key_is_the_key():
    assert clicked("e E exit").model.name == "E1"


def test_a_click_on_the_bar_goes_to_that_part_of_the_run():
    async def script(pilot, app):
        region = next(region for region in app.view.shown.regions if region.kind == "bar")
        await pilot.click(offset=(region.x + region.width // 2, 0))
        await pilot.pause()
        return app.model

    model = played(script)
    assert abs(model.story.index(model.here) - len(model.story.happenings) // 2) < 8


# --- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "titles"), [
    ((60, 16), {"Code", "The exit"}), ((80, 24), {"Code", "The exit"}),
    ((120, 40), {"Code", "The exit", "Registers", "Timeline"}),
    ((200, 60), {"Code", "The exit", "Registers", "Memory", "Machine", "Timeline"})])
def test_there_are_as_many_panes_as_there_is_room_for(size, titles):
    app = after("e", size=size)
    assert set(re.findall(r"[─▸] (Code|The exit|Registers|Memory|Machine|Timeline) ─", seen(app))) == titles
    assert len(app.view.shown.lines) == size[1]
    assert {len("".join(piece for _, piece in line)) for line in app.view.shown.lines} == {size[0]}
    last = seen(app).splitlines()[-1]
    assert "? help" in last
    assert "q quit" in last


@pytest.mark.parametrize("place", [Position(), Position(5, 1), END])
@pytest.mark.parametrize("size", [(60, 16), (80, 24), (110, 30), (168, 42), (200, 60), (300, 90)])
@pytest.mark.parametrize("pane", ["code", "registers", "exit", "memory", "machine", "timeline"])
def test_every_pane_has_its_place_at_every_size(size, place, pane):
    async def script(pilot, app):
        return app

    app = played(script, size=size, place=place, look=Look(pane))
    assert f"▸ {({'exit': 'The exit'}).get(pane, pane.capitalize())}" in seen(app)
    assert not [line for line in app.view.shown.lines if len("".join(piece for _, piece in line)) != size[0]]


def test_a_terminal_that_is_too_small_says_what_is_needed_and_grows():
    async def script(pilot, app):
        small = seen(app)
        await pilot.resize_terminal(100, 30)
        await pilot.pause()
        return small, seen(app)

    small, grown = played(script, size=(40, 10))
    assert "This terminal is 40 x 10;" in small
    assert "needs 60 x 16" in small
    assert "▸ The exit" in grown


# --- looks -------------------------------------------------------------------------------------------------


def luminance(colour):
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("look", LOOKS)
def test_every_style_can_be_read_on_its_ground(look):
    """WCAG 2 "Contrast (Minimum)": 4.5 to 1."""
    assert set(inks(look)) == set(STYLES)
    for name, (ink, ground) in inks(look).items():
        light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name


def colours(app):
    """All inks and grounds that are painted."""
    return {str(colour.name) for style in app.painted for colour in (style.color, style.bgcolor) if colour}


def test_t_changes_between_dark_and_light():
    dark, light = after("s"), after("t")
    assert "#12161c" in colours(dark)
    assert "#fbfaf7" in colours(light)
    assert not colours(dark) & colours(light)
    assert colours(after("t", "t", "s")) == colours(dark)


def test_no_color_paints_none(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    app = after("s", "t")
    assert colours(app) == set()
    assert any(style.reverse for style in app.painted)


def test_a_picture_has_the_same_bytes_each_time():
    one, two = (picture(model_of("timer"), (120, 40), "dark", Look(), "hv step timer") for _ in range(2))
    assert one == two
    assert "</svg>" in one


# --- mistakes of ours --------------------------------------------------------------------------------------


def test_an_error_of_ours_ends_the_screen_without_a_traceback(monkeypatch):
    model = model_of("timer")
    app = StepApp(model)

    def broken(way, by):
        raise ZeroDivisionError("ours")

    async def play():
        async with app.run_test(size=(80, 24)) as pilot:
            monkeypatch.setattr(model, "move", broken)
            await pilot.press("s")
            await pilot.pause()

    with pytest.raises(ZeroDivisionError):      # the pilot says so; in a terminal nobody does
        asyncio.run(play())
    assert isinstance(app.failure, ZeroDivisionError)


def test_places_near_by_are_at_hand_when_nobody_types():
    async def script(pilot, app):
        for _ in range(100):
            await pilot.pause(0.02)
            if app.model.reel.knows(Position(7), None, "rsp") and app.model.exits.knows(7):
                return True
        return False

    assert played(script, place=Position(6))

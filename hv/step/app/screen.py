"""The program: one widget that paints the board, and the keys."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget

from hv.debug.errors import DebugError
from hv.replay.position import Position, PositionError
from hv.step.app.dialogs import Ask, Help
from hv.step.app.looks import LOOKS, strip, style_of, theme
from hv.step.board import Board, Look, Region, board, place_in_timeline, place_on_bar, region_at, word_at
from hv.step.model import BACK, FORWARD, Model
from hv.step.near import near
from hv.step.panes import PANES
from hv.step.reel import END

_IDLE, _NEXT = 0.08, 0.002      # seconds without a key, until places near by are looked at; and between two of them
_WHEEL = 3                      # lines


class BoardView(Widget, can_focus=True):
    """Paints the board of *model*."""

    def __init__(self, model: Model, look: Look, colours: str) -> None:
        super().__init__()
        self.model, self.look, self.colours = model, look, colours
        self.shown = Board([], ())

    def draw(self) -> None:
        """Make all lines anew, and paint them."""
        self.shown = board(self.model, self.look, self.size.width, self.size.height)
        self.refresh()

    def on_resize(self) -> None:
        """As many panes as there is room for."""
        self.draw()

    def render_line(self, y: int) -> Strip:
        """Textual asks for each line of the screen."""
        width = self.size.width
        if y >= len(self.shown.lines):
            return Strip.blank(width, style_of("", self.colours))
        return strip(self.shown.lines[y], self.colours).adjust_cell_length(width, style_of("", self.colours))


class StepApp(App[None]):
    """Steps through *model*. *colours* is "dark" or "light"; NO_COLOR wins."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(keys, action, show=False) for keys, action in (
            ("s,right", "move('instruction')"), ("S,left", "move_back('instruction')"), ("e", "move('exit')"),
            ("E", "move_back('exit')"), ("v", "move('event')"), ("V", "move_back('event')"), ("m", "move('stage')"),
            ("M", "move_back('stage')"), ("home", "begin"), ("end", "end"), ("g", "ask_place"), ("a", "ask_address"),
            ("w", "next_vp"), ("t", "change_look"), ("question_mark,f1", "help"), ("q,ctrl+c,ctrl+q", "quit"),
            ("up", "scroll(-1)"), ("down", "scroll(1)"), ("pageup", "scroll(-10)"), ("pagedown", "scroll(10)"),
            *((str(number), f"pane('{pane.name}')") for number, pane in enumerate(PANES, 1)))),
        Binding("tab", "next_pane(1)", show=False, priority=True),
        Binding("shift+tab", "next_pane(-1)", show=False, priority=True),
    ]

    def __init__(self, model: Model, colours: str = "dark", look: Look | None = None) -> None:
        without = "NO_COLOR" in os.environ
        super().__init__(ansi_color=without)
        self.model, self.look = model, look or Look()
        self.colours = "none" if without else colours
        for look_name in LOOKS:
            self.register_theme(theme(look_name))
        self.failure: Exception | None = None       # a mistake of ours: whoever runs this says so
        self.looks_ahead = True                     # at places near by, while nobody types
        self._idle: Timer | None = None

    def compose(self) -> ComposeResult:
        """One widget: the board."""
        self.view = BoardView(self.model, self.look, self.colours)
        yield self.view

    def on_mount(self) -> None:
        """Begin."""
        self._dress()
        self.view.focus()

    def _fatal_error(self) -> None:
        """Textual would print a traceback: the command has one line for it, and a report file."""
        self.failure = self._exception
        self._close_messages_no_wait()

    def draw(self) -> None:
        """Show what there is now; then look at what is near, while nobody types."""
        self.view.draw()
        if self._idle is not None:
            self._idle.stop()
        if self.looks_ahead:
            self._idle = self.set_timer(_IDLE, self._look_near)

    def _look_near(self, left: list[Callable[[], object]] | None = None) -> None:
        left = near(self.model) if left is None else left
        if left:
            left.pop(0)()
            self._idle = self.set_timer(_NEXT, lambda: self._look_near(left))

    # --- keys ------------------------------------------------------------------------------------------

    def action_move(self, by: str) -> None:
        """Forward by *by*."""
        self._go(lambda: self.model.move(FORWARD, by))

    def action_move_back(self, by: str) -> None:
        """Back by *by*."""
        self._go(lambda: self.model.move(BACK, by))

    def action_begin(self) -> None:
        """To the beginning."""
        self._go(lambda: self.model.go(Position()))

    def action_end(self) -> None:
        """To the end."""
        self._go(lambda: self.model.go(END))

    def _go(self, way: Callable[[], object]) -> None:
        try:
            way()
        except (DebugError, PositionError) as error:
            self.model.said = str(error)
        self.look.moved()
        self.draw()

    def action_ask_place(self) -> None:
        """Ask where to go."""
        self._ask("Go to E12, E12+3, E12:7, begin, end, a symbol, reason == CPUID", "", self.model.go_to)

    def action_ask_address(self) -> None:
        """Ask which memory to show."""
        self._ask("Memory at rsp, rsp+16, 0x10000, a symbol", self.model.look, self._look_at)

    def _ask(self, title: str, value: str, answer: Callable[[str], object]) -> None:
        def take(text: str) -> None:
            answer(text)
            self.look.moved()
            self.draw()

        self.push_screen(Ask(title, value, take))

    def _look_at(self, text: str) -> None:
        self.model.look_at(text)
        self.look.choose("memory")

    def action_next_vp(self) -> None:
        """Look at the next VP."""
        self.model.choose_next()
        self.draw()

    def action_pane(self, name: str) -> None:
        """Choose a pane."""
        self.look.choose(name)
        self.draw()

    def action_next_pane(self, way: int) -> None:
        """Choose the next one."""
        if len(self.screen_stack) == 1:
            self.look.next_pane(way)
            self.draw()

    def action_scroll(self, lines: int) -> None:
        """Scroll the chosen pane."""
        self.look.scroll(self.look.active, lines)
        self.draw()

    def action_help(self) -> None:
        """Explain the screen."""
        self.push_screen(Help())

    def action_change_look(self) -> None:
        """Dark, light, dark again."""
        if self.colours != "none":
            self.colours = self.view.colours = "light" if self.colours == "dark" else "dark"
            self._dress()

    def _dress(self) -> None:
        """Ground and ink of what Textual paints itself."""
        if self.colours != "none":
            self.theme = f"hv-{self.colours}"
        self.draw()

    # --- mouse -----------------------------------------------------------------------------------------

    def on_click(self, event: events.Click) -> None:
        """What stands there is chosen, or one goes there."""
        region = region_at(self.view.shown, event.x, event.y) if len(self.screen_stack) == 1 else None
        if region is not None:
            self._clicked(region, event.x, event.y)

    def _clicked(self, region: Region, x: int, y: int) -> None:
        match region.kind:
            case "bar":
                self._go(lambda: self.model.go(place_on_bar(self.model, x - region.x, region.width)))
            case "tab":
                self.action_pane(region.what)
            case "key":
                self.call_later(self.run_action, region.what)
            case "pane":
                self._clicked_pane(region, x, y)

    def _clicked_pane(self, region: Region, x: int, y: int) -> None:
        style, text = word_at(self.view.shown, x, y)
        place = place_in_timeline(self.model, self.look, region, y) if region.what == "timeline" else None
        self.look.choose(region.what)
        if place is not None:
            self._go(lambda: self.model.go(place))
        elif "at" in style.split():
            self._go(lambda: self._look_at(f"0x{text.strip()}"))
        else:
            self.draw()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel scrolls the pane below the mouse."""
        self._wheel(event, _WHEEL)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The same, up."""
        self._wheel(event, -_WHEEL)

    def _wheel(self, event: Any, lines: int) -> None:
        region = region_at(self.view.shown, event.x, event.y)
        if region is not None and region.kind == "pane" and len(self.screen_stack) == 1:
            self.look.scroll(region.what, lines)
            self.draw()

    # --- how it looks ----------------------------------------------------------------------------------

    CSS = """
    BoardView { width: 100%; height: 100%; }
    Ask, Help { align: center middle; background: transparent; }
    Ask #box { width: 76; max-width: 96%; height: auto; padding: 0 1; border: round $primary; }
    Ask #title { height: auto; }
    Ask #trouble { height: auto; text-style: bold; color: $error; }
    Ask Input { border: none; height: 1; padding: 0; margin: 1 0; }
    Help #help { width: 76; max-width: 100%; height: auto; max-height: 96%; padding: 0 1; border: round $primary;
                 scrollbar-size-vertical: 1; scrollbar-color: $primary; scrollbar-background: $background; }
    Help .pane { text-style: bold; }
    Help .about { padding: 0 1 0 3; height: auto; }
    """


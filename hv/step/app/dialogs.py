"""What comes up above the screen: a line to type, and the help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from hv.debug.errors import DebugError
from hv.step.panes import PANES

_KEYS = """\
s  right   the next instruction         S  left   the one before
e          the next VM exit             E         the one before
v          the next event               V         the one before
m          the next stage of the exit   M         the one before
home       the beginning                end       the end

g          go to E12, E12+3 or E12:7, to a symbol, to an event:
           reason == CPUID; with `back` before it, the other way
a          memory at an address, a register, a symbol, rsp+16
w          another VP; behind the last one, whoever runs
tab, 1-6   choose a pane                up, down  scroll it
t          light or dark                q         leave
?          this help; any key closes it

"""
_MOUSE = """\
With the mouse: a click on a row of the timeline goes there, on a green address shows its memory, on the bar in the \
first line goes to that part of the run; panes, tabs and keys are chosen by a click, and the wheel scrolls."""


class Ask(ModalScreen[None]):
    """A line to type. *answer* takes it; while it refuses, the reason is shown and the line stays."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "close", show=False)]

    def __init__(self, title: str, value: str, answer: Callable[[str], object]) -> None:
        super().__init__()
        self._title, self._value, self._answer = title, value, answer

    def compose(self) -> ComposeResult:
        """The title, the line, and what is wrong with it."""
        with Vertical(id="box"):
            yield Static(self._title, id="title", markup=False)
            yield Input(self._value, id="line", select_on_focus=True)
            yield Static("", id="trouble", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter: try it."""
        if not event.value.strip():
            self.dismiss()
            return
        try:
            self._answer(event.value)
        except DebugError as error:
            self.query_one("#trouble", Static).update(str(error))
            return
        self.dismiss()


class Help(ModalScreen[None]):
    """The keys, and what each pane shows."""

    def compose(self) -> ComposeResult:
        """One page, which scrolls on a small screen."""
        with VerticalScroll(id="help"):
            yield Static(_KEYS, markup=False)
            yield Static(_MOUSE, markup=False)
            for number, pane in enumerate(PANES, 1):
                yield Static(f"\n{number}  {pane.title}", classes="pane", markup=False)
                yield Static(pane.about, classes="about", markup=False)

    def on_key(self, event: Any) -> None:
        """Any key closes it, but those that scroll."""
        if event.key not in ("up", "down", "pageup", "pagedown"):
            event.stop()
            event.prevent_default()
            self.dismiss()

    def on_click(self) -> None:
        """So does the mouse."""
        self.dismiss()

"""The panes of the screen: each makes lines of a `Model`, for a width and a height, and knows no screen.

To add one: a file with `lines(model, width, height)`, and a row in `PANES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hv.step.model import Model
from hv.step.panes import code, exit, machine, memory, registers, timeline
from hv.step.text import Line, cut


class Pane(NamedTuple):
    """*name* is what the user calls it, *title* stands above it, *about* says in a sentence what it shows."""

    name: str
    title: str
    about: str
    make: Callable[[Model, int, int], list[Line]]

    def lines(self, model: Model, width: int, height: int) -> list[Line]:
        """What it shows, in *width* columns and *height* lines."""
        return [cut(line, width) for line in self.make(model, width, height)[:height]]


PANES = (
    Pane("code", "Code", "The instructions around the next one, which is marked by =>, beside the lines of the source.",
         code.lines),
    Pane("registers", "Registers", "The registers of the VP. What has changed since the place shown before comes "
         "first, and is marked by *.", registers.lines),
    Pane("exit", "The exit", "One VM exit under the microscope: what the processor saved, who handled it, what was "
         "decided, and how somebody runs on. Fields of the VMCS that changed show old -> new.", exit.lines),
    Pane("memory", "Memory", "Memory by its three addresses: gva (linear, what the program uses), gpa (what the guest "
         "takes for physical), spa (where it is in the machine).", memory.lines),
    Pane("machine", "Machine", "Who is there: partitions, their VPs and devices, the interrupts that are requested "
         "(IRR) and in service (ISR), and the way of each device's interrupt.", machine.lines),
    Pane("timeline", "Timeline", "Everything that happened, in order. E12 is VM exit 12, +3 the third event behind it, "
         ":7 the seventh instruction.", timeline.lines),
)
BY_NAME = {pane.name: pane for pane in PANES}

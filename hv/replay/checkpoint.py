"""A moment of a machine, between two turns, to which it can be put back.

At a checkpoint every engine forgets what it has cached, translated code and translations of addresses alike, and starts
afresh, now and whenever the machine is put back: so what follows is the same each time. A processor may forget at any
time, so no guest is wronged; one that relies on a stale translation may see it end there.
"""

from __future__ import annotations

from typing import Any

from hv.machine.engine import Engine
from hv.platform import Box
from hv.replay.memento import Memento
from hv.replay.pages import PageHistory


class Checkpoint:
    """Where *machine* stands now. *tsc* is virtual time, *exits* counts the VM exits of all that has run until then,
    *acts* what was done to it."""

    def __init__(self, machine: Box, pages: PageHistory, exits: int, acts: int) -> None:
        self.tsc, self.exits, self.acts = machine.clock.tsc, exits, acts
        self._engines: list[Engine] = list(machine.memory.engines)
        for engine in self._engines:
            engine.forget()
        self.number = pages.mark()
        self._mark = machine.trace.mark
        self._memento = Memento([machine], outside=[machine.memory.view, machine.memory.words])
        self._images = [(engine, engine.save_images()) for engine in self._engines]

    def restore(self, machine: Box, pages: PageHistory) -> None:
        """Put *machine* back, which is the one that was saved."""
        for engine in [*machine.memory.engines, *self._engines]:
            engine.forget()                 # while it knows what it has cached
        self._memento.restore()
        for engine in self._engines:
            engine.forget()
        for engine, images in self._images:
            for state, image in images:
                engine.load_image(state, image)
        pages.put_back(self.number)
        machine.trace.back_to(self._mark)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"number": self.number, "tsc": self.tsc, "exits": self.exits, "objects": self._memento.size}

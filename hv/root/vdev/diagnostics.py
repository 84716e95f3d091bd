"""Two ports for who tests programs: the POST code display at 0x80, and the exit at 0xF4.

The display of the PC/AT shows the last byte that the power-on self test wrote ("IBM PC/AT Technical Reference",
"POST"); programs use it to be heard before they can print, and as an address where a write takes time.
The exit is QEMU's device `isa-debug-exit`: a write of a value ends the machine, and its status is value * 2 + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.root.vdev.byte_ports import BytePorts
from hv.spec.pc import POST_PORT

HISTORY = 64                            # codes that are remembered


class PostDisplay(BytePorts):
    """Port 0x80. *show* is called with each code that is another one than before."""

    def __init__(self, show: Callable[[int], None]) -> None:
        super().__init__(range(POST_PORT, POST_PORT + 1))
        self._show = show
        self.history: list[int] = []        # a reset does not take it away: who looks for the reason wants it

    def read_byte(self, port: int) -> int:
        """The last code: the port is a register of the DMA controller's pages too."""
        return self.history[-1] if self.history else 0

    def write_byte(self, port: int, value: int) -> None:
        """A code; the same one again is a delay."""
        if self.history[-1:] != [value]:
            self.history.append(value)
            del self.history[:-HISTORY]
            self._show(value)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL: the last codes, the newest last."""
        return {"history": list(self.history)}


class DebugExit:
    """Ports 0xF4..0xF7. *leave* is called with the value written."""

    def __init__(self, leave: Callable[[int], None]) -> None:
        self._leave = leave

    def read_port(self, port: int, size: int) -> int:
        """Nothing is there to be read."""
        return 0

    def write_port(self, port: int, size: int, value: int) -> None:
        """The value, at whichever of the ports."""
        self._leave(value)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {}

"""The machine's PCI bus: functions by requester id, configuration accesses, and the window in which BARs answer.

What a host bridge does: an access to the window goes to the function whose BAR is there; where nobody answers, reads
give all ones and writes are lost. PCI "Configuration Mechanism", "Master Abort on the host's side".
"""

# Simplified: one bus without bridges, and no I/O window: root has no physical ports.

from __future__ import annotations

from typing import Any, NamedTuple

from hv.machine.pci import PciFunction
from hv.pci.config import all_ones
from hv.spec.pci import MULTI_FUNCTION, PciHeader
from hv.spec.x86 import PAGE_SIZE

_HEADER_TYPE = PciHeader.offset_of("header_type")


class _Place(NamedTuple):
    base: int
    size: int
    function: PciFunction
    number: int


class PciBus:
    """The functions, and their BARs as far as they are in *window*, a range of system-physical addresses."""

    def __init__(self, window: range) -> None:
        self.window = window
        self.functions: dict[int, PciFunction] = {}
        self._pages: dict[int, list[_Place]] = {}
        self._is_stale = True

    def plug(self, *functions: PciFunction) -> None:
        """Functions of one device; with several of them each says so. PCI "Multi-function Devices"."""
        for function in functions:
            assert function.rid not in self.functions, f"{function.rid:#x} is taken"
            self.functions[function.rid] = function
            function.on_decode = self._forget
            if len(functions) > 1:
                function.config.declare_byte(_HEADER_TYPE, MULTI_FUNCTION)

    # Configuration space.

    def config_read(self, rid: int, offset: int, size: int) -> int:
        """*size* bytes of a function's configuration space; all ones where none is."""
        function = self.functions.get(rid)
        return all_ones(size) if function is None else function.config_read(offset, size)

    def config_write(self, rid: int, offset: int, size: int, value: int) -> None:
        """Nothing happens where no function is."""
        function = self.functions.get(rid)
        if function is not None:
            function.config_write(offset, size, value)

    # The window.

    def _forget(self) -> None:
        """A BAR may answer elsewhere."""
        self._is_stale = True

    def _decode(self) -> None:
        """Note who is on which page. Of two at the same address the first has it."""
        self._is_stale = False
        self._pages.clear()
        for function in self.functions.values():
            for bar in function.bars:
                base = None if bar.is_io else function.decoded(bar)
                if base is None or base not in self.window:
                    continue
                place = _Place(base, bar.size, function, bar.number)
                for page in range(base // PAGE_SIZE, (min(base + bar.size, self.window.stop) - 1) // PAGE_SIZE + 1):
                    self._pages.setdefault(page, []).append(place)

    def _at(self, address: int, size: int) -> _Place | None:
        if self._is_stale:
            self._decode()
        for place in self._pages.get(address // PAGE_SIZE, ()):
            if place.base <= address and address + size <= place.base + place.size:
                return place
        return None

    def function_at(self, address: int) -> PciFunction | None:
        """Who answers at a system-physical address."""
        place = self._at(address, 1)
        return None if place is None else place.function

    def read(self, offset: int, size: int) -> int:
        """*size* bytes, *offset* behind the start of the window."""
        place = self._at(self.window.start + offset, size)
        if place is None:
            return all_ones(size)
        return place.function.read(self.window.start + offset - place.base, size, place.number)

    def write(self, offset: int, size: int, value: int) -> None:
        """A store, likewise."""
        place = self._at(self.window.start + offset, size)
        if place is not None:
            place.function.write(self.window.start + offset - place.base, size, value, place.number)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {f"{rid:#x}": type(function).__name__ for rid, function in self.functions.items()}

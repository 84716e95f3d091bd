"""The PCI host bridge of a PC: configuration space by ports and by memory, and who answers in the PCI window.

Ports: "Configuration Mechanism" of PCI (a dword at 0xCF8 selects, 0xCFC..0xCFF are the data). Memory: "Enhanced
Configuration Access Mechanism" of PCI Express. One bus, number 0, with the bridge itself at 00:00.0.
"""

# Simplified: no bridges to other buses, and no I/O window.

from __future__ import annotations

from typing import Any, Protocol

from hv.pci.bars import Bar, decoded
from hv.pci.config import ConfigSpace, all_ones
from hv.pci.enumeration import place_bars
from hv.spec.pc import PCI_ADDRESS, PCI_WINDOW
from hv.spec.pci import OUR_VENDOR, ConfigAddress, DeviceId, EcamOffset, PciCommand, PciHeader, Rid

SELECT = range(PCI_ADDRESS.start, PCI_ADDRESS.start + 1)        # a dword there; a byte behind it is RESET_CONTROL's
_BUS_0 = range(256)


class Function(Protocol):
    """A function on the VM's bus."""

    config: ConfigSpace
    bars: tuple[Bar, ...]

    def config_read(self, offset: int, size: int) -> int:
        """Configuration space; all ones for an access that is none."""
        raise NotImplementedError

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Likewise; what is read-only stays."""

    def place(self, bar: Bar, gpas: range | None) -> None:
        """From now on the BAR answers at *gpas*, or nowhere."""

    def reset(self) -> None:
        """As after power on."""

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        raise NotImplementedError


class HostBridge:
    """The bridge as a function of its own bus: it has no registers but those of its header."""

    def __init__(self) -> None:
        self.bars: tuple[Bar, ...] = ()
        self.config = ConfigSpace(
            PciHeader(vendor_id=OUR_VENDOR, device_id=DeviceId.HOST_BRIDGE, base_class=6,
                      command=PciCommand(memory_enabled=1, bus_master=1).raw), PciHeader())

    def config_read(self, offset: int, size: int) -> int:
        """Configuration space."""
        return self.config.read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Likewise."""
        self.config.write(offset, size, value)

    def place(self, bar: Bar, gpas: range | None) -> None:
        """It has no BARs."""

    def reset(self) -> None:
        """It has nothing to forget."""

    def inspect(self) -> dict[str, Any]:
        """Plain data."""
        return {"header": self.config.header.inspect()}


class PciHost:
    """The functions by requester id, and the register that selects one."""

    def __init__(self) -> None:
        self.selected = ConfigAddress()
        self.functions: dict[int, Function] = {0: HostBridge()}
        self._placed: dict[tuple[int, int], range] = {}         # (requester id, BAR) -> where it answers

    def plug(self, rid: int, function: Function) -> None:
        """A function more; firmware gives its BARs addresses."""
        assert rid not in self.functions, f"{Rid(rid)} is taken"
        self.functions[rid] = function
        place_bars(self, PCI_WINDOW)

    def reset(self) -> None:
        """The reset line; then firmware gives addresses again."""
        self.selected = ConfigAddress()
        for function in self.functions.values():
            function.reset()
        self._decode()
        place_bars(self, PCI_WINDOW)

    # --- configuration space ---------------------------------------------------------------------------

    def config_read(self, rid: int, offset: int, size: int) -> int:
        """*size* bytes of a function's configuration space; all ones where none is."""
        function = self.functions.get(rid)
        return all_ones(size) if function is None else function.config_read(offset, size)

    def config_write(self, rid: int, offset: int, size: int, value: int) -> None:
        """Nothing happens where no function is. What answers where may be another thing afterwards."""
        function = self.functions.get(rid)
        if function is not None:
            function.config_write(offset, size, value)
            self._decode()

    def read_port(self, port: int, size: int) -> int:
        """The selecting dword, or the register that it selects."""
        if port in SELECT:
            return self.selected.raw if size == 4 else all_ones(size)
        if not self.selected.enabled:
            return all_ones(size)
        return self.config_read(self.selected.rid, self._register(port), size)

    def write_port(self, port: int, size: int, value: int) -> None:
        """Likewise. What is not a dword at the selecting port is not for the bridge."""
        if port in SELECT:
            if size == 4:
                self.selected = ConfigAddress(value & ~ConfigAddress.RESERVED & ~3)
        elif self.selected.enabled:
            self.config_write(self.selected.rid, self._register(port), size, value)

    def _register(self, port: int) -> int:
        return int(self.selected.register) | port & 3

    def read_memory(self, offset: int, size: int) -> int:
        """ECAM; eight bytes are two accesses."""
        value = 0
        for at in range(0, size, 4):
            place = EcamOffset(offset + at)
            value |= self.config_read(place.rid, place.register, min(size, 4)) << 8 * at
        return value

    def write_memory(self, offset: int, size: int, value: int) -> None:
        """Likewise."""
        for at in range(0, size, 4):
            place = EcamOffset(offset + at)
            self.config_write(place.rid, place.register, min(size, 4), value >> 8 * at & all_ones(min(size, 4)))

    # --- the PCI window --------------------------------------------------------------------------------

    def _decode(self) -> None:
        """Let each BAR answer where it is, as far as that is in the window; of two at one place the first has it."""
        wanted = self._wanted()
        moved = [key for key, gpas in self._placed.items() if wanted.get(key) != gpas]
        for rid, number in moved:
            self.functions[rid].place(self._bar(rid, number), None)
            del self._placed[rid, number]
        for (rid, number), gpas in wanted.items():
            if (rid, number) not in self._placed:
                self._placed[rid, number] = gpas
                self.functions[rid].place(self._bar(rid, number), gpas)

    def _wanted(self) -> dict[tuple[int, int], range]:
        wanted: dict[tuple[int, int], range] = {}
        for rid, function in sorted(self.functions.items()):
            for bar in function.bars:
                base = None if bar.is_io else decoded(function.config, bar)
                if base is None or base < PCI_WINDOW.start or base + bar.size > PCI_WINDOW.stop:
                    continue
                gpas = range(base, base + bar.size)
                if not any(gpas.start < other.stop and other.start < gpas.stop for other in wanted.values()):
                    wanted[rid, bar.number] = gpas
        return wanted

    def _bar(self, rid: int, number: int) -> Bar:
        return next(bar for bar in self.functions[rid].bars if bar.number == number)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"selected": self.selected.inspect(),
                "functions": {str(Rid(rid)): function.inspect() for rid, function in self.functions.items()},
                "bars": {f"{Rid(rid)} bar {number}": f"{gpas.start:#x}" for (rid, number), gpas in
                         sorted(self._placed.items())}}

"""System-physical addresses behind which there is a device instead of RAM."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from hv.machine.engine import Engine


class MmioDevice(Protocol):
    """A device with registers in memory; offsets and sizes in bytes."""

    def read(self, offset: int, size: int) -> int: ...
    def write(self, offset: int, size: int, value: int) -> None: ...


class Window(NamedTuple):
    """*size* bytes at *spa* belong to *device*."""

    spa: int
    size: int
    device: MmioDevice


class MmioBus:
    """The windows of the machine. Every engine gets all of them: which guest may reach one is the EPT's affair."""

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self._engines: list[Engine] = []

    def add(self, spa: int, size: int, device: MmioDevice) -> None:
        """A device's window; *spa* and *size* are multiples of 4096, outside RAM, and overlap no other."""
        window = Window(spa, size, device)
        overlap = any(spa < other.spa + other.size and other.spa < spa + size for other in self.windows)
        assert not overlap, f"the window at {spa:#x} overlaps another"
        self.windows.append(window)
        for engine in self._engines:
            engine.map_mmio(spa, size, device.read, device.write)

    def attach(self, engine: Engine) -> None:
        """Let *engine* reach the windows, now and in future."""
        self._engines.append(engine)
        for window in self.windows:
            engine.map_mmio(window.spa, window.size, window.device.read, window.device.write)

    def detach(self, engine: Engine) -> None:
        """*engine* is going away."""
        self._engines.remove(engine)

    def _at(self, spa: int) -> Window | None:
        return next((window for window in self.windows if window.spa <= spa < window.spa + window.size), None)

    def contains(self, spa: int) -> bool:
        """A device answers at *spa*."""
        return self._at(spa) is not None

    def read(self, spa: int, size: int) -> int:
        """What the bus gives: all ones where nobody answers."""
        window = self._at(spa)
        return (1 << 8 * size) - 1 if window is None else window.device.read(spa - window.spa, size)

    def write(self, spa: int, size: int, value: int) -> None:
        """Hand a write to its device; one to nobody is lost."""
        window = self._at(spa)
        if window is not None:
            window.device.write(spa - window.spa, size, value)

    def inspect(self) -> list[dict[str, Any]]:
        """Plain data."""
        return [{"spa": window.spa, "size": window.size, "device": type(window.device).__name__}
                for window in self.windows]

"""The board of one VM: which device answers at which I/O port, and at which guest-physical address."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from hv.spec.hv_registers import HvRegisterName


class Device(Protocol):
    """Whatever is plugged in."""

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        raise NotImplementedError


@runtime_checkable
class Resettable(Protocol):
    """A device that the reset line of the board reaches."""

    def reset(self) -> None:
        """It is as after power-on."""


class PortDevice(Device, Protocol):
    """A device behind I/O ports."""

    def read_port(self, port: int, size: int) -> int:
        """What IN of *size* bytes gives."""
        raise NotImplementedError

    def write_port(self, port: int, size: int, value: int) -> None:
        """OUT of *size* bytes."""


class MemoryDevice(Device, Protocol):
    """A device behind memory addresses. What it sees is aligned: the board cuts other accesses into such ones."""

    def read_memory(self, offset: int, size: int) -> int:
        """What a load of *size* bytes (1, 2, 4, 8), *offset* bytes behind the device's first address, gives."""
        raise NotImplementedError

    def write_memory(self, offset: int, size: int, value: int) -> None:
        """A store of *size* bytes."""


class _Window(NamedTuple):
    gpas: range
    device: MemoryDevice


class Motherboard:
    """Devices by port and by address. One nobody claimed reads all ones and swallows writes, like an empty bus."""

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self.ranges: list[range] = []
        self._ports: dict[int, PortDevice] = {}
        self._windows: list[_Window] = []       # in order of their addresses
        self._starts: list[int] = []

    def add(self, name: str, ports: range, device: PortDevice) -> None:
        """Give *ports* to *device*; an error when one of them is taken, or the name is another device's."""
        taken = [f"{port:#x}" for port in ports if port in self._ports]
        assert not taken, f"{name}: ports {', '.join(taken)} are taken"
        self._name(name, device)
        self.ranges.append(ports)
        self._ports.update(dict.fromkeys(ports, device))

    def add_memory(self, name: str, gpas: range, device: MemoryDevice) -> None:
        """Give the guest-physical addresses *gpas* to *device*; an error when one is taken, or the name is another's.
        """
        taken = [window for window in self._windows if gpas.start < window.gpas.stop and window.gpas.start < gpas.stop]
        assert not taken, f"{name}: {gpas.start:#x} is taken"
        self._name(name, device)
        at = bisect_right(self._starts, gpas.start)
        self._starts.insert(at, gpas.start)
        self._windows.insert(at, _Window(gpas, device))

    def remove_memory(self, gpas: range) -> None:
        """Nobody answers at *gpas* any more, which were given to a device as they are: its BAR was moved."""
        at = self._starts.index(gpas.start)
        del self._starts[at], self._windows[at]

    def _name(self, name: str, device: Device) -> None:
        assert self.devices.setdefault(name, device) is device, f"there is a device {name} already"

    def read(self, port: int, size: int) -> int:
        """IN of *size* bytes."""
        device = self._ports.get(port)
        return (1 << 8 * size) - 1 if device is None else device.read_port(port, size) & (1 << 8 * size) - 1

    def write(self, port: int, size: int, value: int) -> None:
        """OUT of *size* bytes."""
        device = self._ports.get(port)
        if device is not None:
            device.write_port(port, size, value)

    def answers_at(self, gpa: int) -> bool:
        """A device has that address."""
        return self._window(gpa) is not None

    def read_memory(self, gpa: int, size: int) -> int:
        """A load of *size* bytes, which may begin and end anywhere."""
        value = 0
        for at, count in _aligned(gpa, size):
            window = self._window(at)
            part = -1 if window is None else window.device.read_memory(at - window.gpas.start, count)
            value |= (part & (1 << 8 * count) - 1) << 8 * (at - gpa)
        return value

    def write_memory(self, gpa: int, size: int, value: int) -> None:
        """A store of *size* bytes, which may begin and end anywhere."""
        for at, count in _aligned(gpa, size):
            window = self._window(at)
            if window is not None:
                part = value >> 8 * (at - gpa) & (1 << 8 * count) - 1
                window.device.write_memory(at - window.gpas.start, count, part)

    def _window(self, gpa: int) -> _Window | None:
        at = bisect_right(self._starts, gpa) - 1
        return self._windows[at] if at >= 0 and gpa < self._windows[at].gpas.stop else None

    # --- what the processors tell; a board without interrupt controllers does not ask ---------------------

    def end_of_interrupt(self, vector: int) -> None:
        """A processor has ended the level-triggered interrupt *vector*."""

    def interruptible(self, vp_index: int) -> Mapping[HvRegisterName, int]:
        """VP *vp_index* stands where it would take an interrupt: registers to set before it goes on."""
        return {}

    def reset(self) -> None:
        """The reset line: every device that it reaches is as after power-on."""
        for device in self.devices.values():
            if isinstance(device, Resettable):
                device.reset()

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {name: device.inspect() for name, device in self.devices.items()}


def _aligned(gpa: int, size: int) -> list[tuple[int, int]]:
    """(gpa, bytes) of the naturally aligned accesses of 1, 2, 4 or 8 bytes that a bus makes of one, lowest first."""
    if size <= 8 and not gpa & size - 1 and not size & size - 1:
        return [(gpa, size)]
    parts, end = [], gpa + size
    while gpa < end:
        count = min(gpa & -gpa or 8, 8)
        while gpa + count > end:
            count >>= 1
        parts.append((gpa, count))
        gpa += count
    return parts

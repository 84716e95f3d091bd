"""The board of one VM: which device answers at which I/O port."""

from __future__ import annotations

from typing import Any, Protocol


class PortDevice(Protocol):
    """A device behind I/O ports."""

    def read_port(self, port: int, size: int) -> int:
        """What IN of *size* bytes gives."""
        raise NotImplementedError

    def write_port(self, port: int, size: int, value: int) -> None:
        """OUT of *size* bytes."""

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        raise NotImplementedError


class Motherboard:
    """Devices by port. A port nobody claimed reads all ones and swallows writes, like an empty bus."""

    def __init__(self) -> None:
        self.devices: dict[str, PortDevice] = {}
        self.ranges: list[range] = []
        self._ports: dict[int, PortDevice] = {}

    def add(self, name: str, ports: range, device: PortDevice) -> None:
        """Give *ports* to *device*; an error when one of them is taken, or the name is."""
        taken = [f"{port:#x}" for port in ports if port in self._ports]
        assert name not in self.devices, f"there is a device {name} already"
        assert not taken, f"{name}: ports {', '.join(taken)} are taken"
        self.devices[name] = device
        self.ranges.append(ports)
        self._ports.update(dict.fromkeys(ports, device))

    def read(self, port: int, size: int) -> int:
        """IN of *size* bytes."""
        device = self._ports.get(port)
        return (1 << 8 * size) - 1 if device is None else device.read_port(port, size) & (1 << 8 * size) - 1

    def write(self, port: int, size: int, value: int) -> None:
        """OUT of *size* bytes."""
        device = self._ports.get(port)
        if device is not None:
            device.write_port(port, size, value)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {name: device.inspect() for name, device in self.devices.items()}

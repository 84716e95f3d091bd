"""A device with byte-wide registers on the ISA bus: a wider access is one of each port in turn, the lowest first."""

from __future__ import annotations


class BytePorts:
    """What is behind *ports*. A port of a wide access that is another device's reads ones, and the write is lost."""

    def __init__(self, ports: range) -> None:
        self.ports = ports

    def read_byte(self, port: int) -> int:
        """What IN of one byte gives."""
        raise NotImplementedError

    def write_byte(self, port: int, value: int) -> None:
        """OUT of one byte."""
        raise NotImplementedError

    def read_port(self, port: int, size: int) -> int:
        """IN of *size* bytes."""
        if size == 1:
            return self.read_byte(port)
        answers = [self.read_byte(at) if at in self.ports else 0xFF for at in range(port, port + size)]
        return int.from_bytes(answers, "little")

    def write_port(self, port: int, size: int, value: int) -> None:
        """OUT of *size* bytes."""
        for number in range(size):
            if port + number in self.ports:
                self.write_byte(port + number, value >> 8 * number & 0xFF)

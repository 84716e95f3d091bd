"""The switch inside a network card: it takes frames between the functions of the card, by their Ethernet addresses.

IEEE 802.3 "Frame format": the destination is the first six bytes; with the lowest bit of the first byte set it is a
group, and everybody but the sender gets the frame.
"""

from __future__ import annotations

from typing import Protocol

ADDRESS_SIZE = 6


class Station(Protocol):
    """A function of the card."""

    rid: int
    address: bytes

    def receive(self, frame: bytes) -> bool:
        """Take a frame; False when it was dropped."""
        raise NotImplementedError


class Wire:
    """The stations in the order in which they were plugged in."""

    def __init__(self) -> None:
        self.stations: list[Station] = []

    def send(self, sender: Station, frame: bytes) -> tuple[int, ...]:
        """Deliver *frame*; the requester ids of the stations that took it. One to nobody is lost."""
        target = frame[:ADDRESS_SIZE]
        if target[0] & 1:
            heard = [station for station in self.stations if station is not sender]
        else:
            heard = [station for station in self.stations if station.address == target]
        return tuple(station.rid for station in heard if station.receive(frame))

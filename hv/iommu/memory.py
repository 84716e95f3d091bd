"""The memory that a unit reads its tables in and that its devices reach: RAM, or the memory of a partition."""

from __future__ import annotations

from typing import Protocol


class UnitMemory(Protocol):
    """Addresses from 0 to `size`. Where nothing answers, each method raises BusError and does nothing."""

    size: int

    def read(self, spa: int, size: int) -> bytes:
        """*size* bytes at *spa*."""

    def read_u64(self, spa: int) -> int:
        """The little-endian 64-bit word at *spa*."""

    def write(self, spa: int, data: bytes) -> None:
        """Store *data* at *spa*."""

    def write_u32(self, spa: int, value: int) -> None:
        """Store a 32-bit word at *spa*."""

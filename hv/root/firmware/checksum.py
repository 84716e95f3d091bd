"""The sum that every table of firmware has: its bytes add up to 0."""

from __future__ import annotations


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum 0."""
    return -sum(data) & 0xFF


def with_checksum(data: bytes | bytearray, offset: int) -> bytes:
    """*data* with the byte at *offset* such that all add up to 0."""
    made = bytearray(data)
    made[offset] = 0
    made[offset] = checksum(made)
    return bytes(made)

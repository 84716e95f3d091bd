"""Memory as an instruction's operands see it, which whoever carries the instruction out brings."""

from __future__ import annotations

from typing import Protocol


class OperandMemory(Protocol):
    """By linear address. Each method may raise what the guest gets instead."""

    def read(self, gva: int, size: int) -> int: ...
    def write(self, gva: int, size: int, value: int) -> None: ...
    def check_write(self, gva: int, size: int) -> None: ...     # raise what `write` would, and touch nothing

"""The one exception of this room."""

from __future__ import annotations


class DebugError(Exception):
    """What was asked cannot be done: *message* says what was found, *hint* what to do instead."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

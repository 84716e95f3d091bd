"""The one exception of this room."""

from __future__ import annotations


class LabError(Exception):
    """The learner's or the instructor's own mistake: *message* says what was found, *hint* what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

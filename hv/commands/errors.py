"""The exit codes, and the one exception a command may end with."""

from __future__ import annotations

TRUE, CHECKS_FAILED, USAGE, GUEST_CRASHED, INTERNAL_ERROR, INTERRUPTED = 0, 1, 2, 3, 4, 130


class CommandError(Exception):
    """The user's own mistake: *message* says what was found and what was expected, *hint* what to do."""

    def __init__(self, message: str, hint: str = "", code: int = USAGE) -> None:
        super().__init__(message)
        self.message, self.hint, self.code = message, hint, code

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

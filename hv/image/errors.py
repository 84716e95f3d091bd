"""The one exception of this room."""

from __future__ import annotations


class ImageError(Exception):
    """A program that cannot be loaded: *message* says what was found, *hint* what to do, *line* where (or None)."""

    def __init__(self, message: str, hint: str = "", line: int | None = None) -> None:
        super().__init__(message)
        self.message, self.hint, self.line = message, hint, line

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def at(self, file: str, line: int, statement: str) -> ImageError:
        """The same error with its place in front: `hello.asm:7: ...`."""
        shown = statement if len(statement) <= 80 else statement[:77] + "..."
        return ImageError(f"{file}:{line}: `{shown}`: {self.message}", self.hint, line)

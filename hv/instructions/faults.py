"""What an instruction raises by itself, whatever its memory says."""

from __future__ import annotations


class InstructionFault(Exception):
    """The guest gets exception *vector* at the instruction, which has changed nothing."""

    def __init__(self, vector: int, error_code: int | None = None) -> None:
        super().__init__(f"exception {vector}")
        self.vector, self.error_code = vector, error_code

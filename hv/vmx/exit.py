"""A VM exit: why the guest stopped, and what the processor recorded about it."""

from __future__ import annotations

from typing import Any

from hv.instructions.decode import Decoded
from hv.instructions.moves import Move
from hv.spec.exits import ExitReason
from hv.vmx.instruction_information import displacement, instruction_information


class VmExit:
    """The exit-information fields of one VM exit; SDM "Recording VM-Exit Information".

    *instruction_length* is 0 where the manual leaves it undefined. *interruption_info* is a raw
    `InterruptionInfo`, 0 when it is not valid; so is *idt_vectoring_info*, for an exit during event delivery.
    """

    # What most exits leave as it is stands here, so that making one costs three assignments.
    guest_physical_address: int | None = None
    guest_linear_address: int | None = None
    interruption_info = 0
    interruption_error_code = 0
    idt_vectoring_info = 0
    idt_vectoring_error_code = 0
    move: Move | None = None                # the instruction, where it is known to be one
    instruction: Decoded | None = None      # where the instruction-information field tells of it

    def __init__(self, reason: ExitReason, qualification: int = 0, instruction_length: int = 0) -> None:
        self.reason = reason
        self.qualification = qualification
        self.instruction_length = instruction_length

    @property
    def instruction_info(self) -> int:
        """The VM-exit instruction-information field, a raw `InstructionInfo` or `StringIoInfo`; 0 if undefined.

        It is made when it is read.
        """
        return instruction_information(self.instruction) if self.instruction is not None else 0

    def inspect(self) -> dict[str, Any]:
        """Plain data; what is not valid is left out."""
        shown: dict[str, Any] = {"reason": self.reason.name, "qualification": self.qualification}
        if self.instruction_length:
            shown["instruction_length"] = self.instruction_length
        for name in ("guest_physical_address", "guest_linear_address"):
            if getattr(self, name) is not None:
                shown[name] = getattr(self, name)
        for name in ("interruption_info", "idt_vectoring_info", "instruction_info"):
            if getattr(self, name):
                shown[name] = getattr(self, name)
        return shown

    def __repr__(self) -> str:
        shown = {name: value if isinstance(value, str) else f"{value:#x}" for name, value in self.inspect().items()}
        return f"VmExit({' '.join(f'{name}={value}' for name, value in shown.items())})"


def operand_exit(reason: ExitReason, decoded: Decoded, rip: int) -> VmExit:
    """The exit of the instruction at *rip*, with its displacement and the description of its operands."""
    exit = VmExit(reason, displacement(decoded, rip), decoded.length)
    exit.instruction = decoded
    return exit

"""INS and OUTS whose string is where no RAM is: one element goes between a port and memory that the caller brings.

SDM "INS/INSB/INSW/INSD", "OUTS/OUTSB/OUTSW/OUTSD". Whether the port may be used was asked before.
"""

from __future__ import annotations

from typing import Protocol

from hv.instructions.decode import Decoded, Undecodable, linear_address, read_register
from hv.instructions.memory_operations import elements_left, next_element
from hv.instructions.operand_memory import OperandMemory
from hv.instructions.registers import InstructionRegisters

_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1


class Ports(Protocol):
    """I/O ports, 1, 2 or 4 bytes at a time."""

    def read(self, port: int, size: int) -> int: ...
    def write(self, port: int, size: int, value: int) -> None: ...


def transfer(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory, ports: Ports) -> bool:
    """One element; True when the instruction is complete, and RIP is behind it."""
    operand, access = decoded.memory, decoded.port
    if access is None or operand is None:
        raise Undecodable(f"{decoded.text} moves no string through a port")
    done = bool(decoded.repeat) and not elements_left(state, operand)
    if not done:
        gva, size, port = linear_address(decoded, state, operand), operand.size, read_register(state, "dx")
        if access.input:
            memory.check_write(gva, size)
            memory.write(gva, size, ports.read(port, size) & (1 << 8 * size) - 1)
        else:
            ports.write(port, size, memory.read(gva, size))
        done = next_element(state, operand, bool(decoded.repeat))
    if done:
        state.rip = state.rip + decoded.length & (_U64 if decoded.bits == 64 else _U32)
    return done

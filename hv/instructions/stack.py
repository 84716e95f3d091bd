"""PUSH, POP, CALL, RET, JMP, ENTER and LEAVE where their operand or the stack itself is in memory that is brought.

SDM volume 2. RSP and RIP change when nothing can be refused any more; a jump to an address that is not canonical is
#GP(0) before it is done.
# Simplified: no segment registers, no flags, no far transfers, and ENTER without nesting.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.instructions.decode import (
    Decoded,
    ImmediateOperand,
    MemoryOperand,
    Operand,
    RegisterOperand,
    Undecodable,
    linear_address,
    read_register,
    register_number,
    write_register,
)
from hv.instructions.faults import InstructionFault
from hv.instructions.operand_memory import OperandMemory
from hv.instructions.registers import InstructionRegisters
from hv.spec.x86 import Vector

Handler = Callable[[InstructionRegisters, Decoded, OperandMemory], None]
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1
_BP = {2: "bp", 4: "ebp", 8: "rbp"}


def _push_instruction(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    operand = _only(decoded)
    size = 8 if decoded.bits == 64 and isinstance(operand, ImmediateOperand) and operand.size != 2 else operand.size
    gva, top = _next(state, decoded, size)
    memory.check_write(gva, size)
    memory.write(gva, size, _value(state, decoded, operand, memory) & (1 << 8 * size) - 1)
    write_register(state, _stack_pointer(state, decoded), top)
    state.rip = _behind(state, decoded)


def _pop_instruction(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    """The address of an operand in memory is computed with the new stack pointer; SDM "POP"."""
    operand, register, before = _only(decoded), _stack_pointer(state, decoded), state.rsp
    if isinstance(operand, RegisterOperand):
        register_number(operand.name)       # segment registers are refused here
    top = read_register(state, register)
    value = memory.read(_on_stack(state, decoded, top), operand.size)
    write_register(state, register, top + operand.size)
    if isinstance(operand, RegisterOperand):
        write_register(state, operand.name, value)
    elif isinstance(operand, MemoryOperand):
        gva = linear_address(decoded, state, operand)
        after, state.rsp = state.rsp, before
        memory.write(gva, operand.size, value)
        state.rsp = after
    state.rip = _behind(state, decoded)


def _jump(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    state.rip = _target(state, decoded, _only(decoded), memory)


def _call(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    operand = _only(decoded)
    size = 8 if decoded.bits == 64 else operand.size
    gva, top = _next(state, decoded, size)
    memory.check_write(gva, size)
    target = _target(state, decoded, operand, memory)
    memory.write(gva, size, _behind(state, decoded) & (1 << 8 * size) - 1)
    write_register(state, _stack_pointer(state, decoded), top)
    state.rip = target


def _return(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    size, register = _natural_size(decoded), _stack_pointer(state, decoded)
    top = read_register(state, register)
    target = _checked(decoded, memory.read(_on_stack(state, decoded, top), size))
    released = sum(operand.value for operand in decoded.operands if isinstance(operand, ImmediateOperand)) & 0xFFFF
    write_register(state, register, top + size + released)
    state.rip = target


def _leave(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    size, register = _natural_size(decoded), _stack_pointer(state, decoded)
    top = read_register(state, register.replace("s", "b"))
    frame = memory.read(_on_stack(state, decoded, top), size)
    write_register(state, register, top + size)
    write_register(state, _BP[size], frame)
    state.rip = _behind(state, decoded)


def _enter(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> None:
    room, level = decoded.operands
    assert isinstance(room, ImmediateOperand)
    assert isinstance(level, ImmediateOperand)
    if level.value & 0x1F:
        raise Undecodable(f"{decoded.text} is not one we carry out on memory")
    size = _natural_size(decoded)
    gva, top = _next(state, decoded, size)
    memory.write(gva, size, read_register(state, _BP[size]))
    write_register(state, _BP[size], top)
    write_register(state, _stack_pointer(state, decoded), top - (room.value & 0xFFFF))
    state.rip = _behind(state, decoded)


STACK: dict[str, Handler] = {"push": _push_instruction, "pop": _pop_instruction, "call": _call, "jmp": _jump,
                             "ret": _return, "leave": _leave, "enter": _enter}


# --- What they have in common --------------------------------------------------------------------

def _only(decoded: Decoded) -> Operand:
    (operand,) = decoded.operands
    return operand


def _value(state: InstructionRegisters, decoded: Decoded, operand: Operand, memory: OperandMemory) -> int:
    match operand:
        case MemoryOperand():
            return memory.read(linear_address(decoded, state, operand), operand.size)
        case RegisterOperand(name):
            return read_register(state, name)
        case ImmediateOperand(value):
            return value


def _target(state: InstructionRegisters, decoded: Decoded, operand: Operand, memory: OperandMemory) -> int:
    """Where a near JMP or CALL goes: what the operand holds, or so far from here."""
    if isinstance(operand, ImmediateOperand):
        mask = _U64 if decoded.bits == 64 else (1 << 8 * operand.size) - 1
        return _checked(decoded, state.rip + operand.value & mask)
    return _checked(decoded, _value(state, decoded, operand, memory))


def _checked(decoded: Decoded, target: int) -> int:
    if decoded.bits == 64 and target >> 47 not in (0, 0x1FFFF):
        raise InstructionFault(Vector.GP, 0)
    return target


def _next(state: InstructionRegisters, decoded: Decoded, size: int) -> tuple[int, int]:
    """The linear address of the *size* bytes below the top of the stack, and the stack pointer there."""
    top = read_register(state, _stack_pointer(state, decoded)) - size
    return _on_stack(state, decoded, top), top


def _behind(state: InstructionRegisters, decoded: Decoded) -> int:
    return state.rip + decoded.length & (_U64 if decoded.bits == 64 else _U32)


def _natural_size(decoded: Decoded) -> int:
    """Of what RET, ENTER and LEAVE pop and push."""
    if decoded.bits == 64:
        return 2 if decoded.operand_override and decoded.mnemonic != "ret" else 8
    return 4 if (decoded.bits == 32) is not decoded.operand_override else 2


def _stack_pointer(state: InstructionRegisters, decoded: Decoded) -> str:
    return "rsp" if decoded.bits == 64 else "esp" if state.ss.big else "sp"


def _on_stack(state: InstructionRegisters, decoded: Decoded, top: int) -> int:
    if decoded.bits == 64:
        return top & _U64
    return state.ss.base + (top & (_U32 if state.ss.big else 0xFFFF)) & _U32

"""Any instruction that touches memory, carried out by hand, with memory brought by the caller.

Beside what `memory_operations.py` does: strings with two ends, and those that look at a condition; `stack.py`,
`wide_integers.py` and `vectors.py` have more. An instruction is done whole or not at all: what memory may
refuse is asked before a device is read, and registers change when nothing can be refused any more. A REP does one
element at a time.

# Simplified: x87, SSE and MMX arithmetic and far transfers are not here (Undecodable); no segment limit is checked, and
# neither does the engine.
"""

from __future__ import annotations

from hv.instructions.arithmetic import compute, holds
from hv.instructions.decode import (
    Decoded,
    MemoryOperand,
    RegisterOperand,
    Undecodable,
    linear_address,
    read_register,
    write_register,
)
from hv.instructions.memory_operations import (
    count_down,
    elements_left,
    memory_access,
    next_address,
    operand_address,
    perform,
)
from hv.instructions.operand_memory import OperandMemory
from hv.instructions.registers import InstructionRegisters
from hv.instructions.stack import STACK
from hv.instructions.vectors import VECTORS, VectorRegisters
from hv.instructions.wide_integers import WIDE_INTEGERS
from hv.spec.x86 import Rflags

_ZF = Rflags.ZF.value
_CONDITIONS = {name: number for number, name in enumerate(
    ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"))}
_ACCUMULATORS = {1: "al", 2: "ax", 4: "eax", 8: "rax"}
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1


def execute(state: VectorRegisters, decoded: Decoded, memory: OperandMemory, gva: int | None = None) -> bool:
    """Carry out *decoded*, or one element of a REP; True when it is complete, and RIP is behind it or where it went.
    *gva* is the linear address of its operand, where it is known.

    Undecodable when it is none of ours: nothing has been touched then.
    """
    match decoded.operands:
        case (MemoryOperand(), MemoryOperand()):
            done = _string(state, decoded, memory)
        case (RegisterOperand(), MemoryOperand()) if decoded.mnemonic[:4] == "scas":
            done = _scan(state, decoded, memory)
        case _ if decoded.mnemonic in STACK:
            STACK[decoded.mnemonic](state, decoded, memory)
            return True
        case _ if decoded.mnemonic in VECTORS:
            VECTORS[decoded.mnemonic](state, decoded, memory)
            done = True
        case (RegisterOperand(name), MemoryOperand() as operand) if decoded.mnemonic[:4] == "cmov":
            done = _conditional_move(state, decoded, name, operand, memory)
        case (MemoryOperand() as operand,) if decoded.mnemonic[3:] in _CONDITIONS and decoded.mnemonic[:3] == "set":
            condition = holds(_CONDITIONS[decoded.mnemonic[3:]], state.rflags)
            memory.write(linear_address(decoded, state, operand), 1, int(condition))
            done = True
        case _ if decoded.mnemonic in WIDE_INTEGERS:
            WIDE_INTEGERS[decoded.mnemonic](state, decoded, memory)
            done = True
        case _:
            done = _one_operand(state, decoded, memory, gva)
    if done:
        state.rip = _behind(state, decoded)
    return done


def _behind(state: InstructionRegisters, decoded: Decoded) -> int:
    return state.rip + decoded.length & (_U64 if decoded.bits == 64 else _U32)


def _one_operand(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory, known: int | None) -> bool:
    access = memory_access(decoded)
    gva, size = operand_address(decoded, state, access) if known is None else known, access.size
    if access.read and access.write:
        memory.check_write(gva, size)
    return perform(state, access, lambda: memory.read(gva, size), lambda value: memory.write(gva, size, value))


# --- Strings -------------------------------------------------------------------------------------

def _string(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> bool:
    """MOVS or CMPS: one element."""
    first, second = decoded.operands
    assert isinstance(first, MemoryOperand)
    assert isinstance(second, MemoryOperand)
    if decoded.mnemonic[:4] not in ("movs", "cmps"):
        raise Undecodable(f"{decoded.text} is not one we carry out on memory")
    if decoded.repeat and not elements_left(state, first):
        return True
    size, at = first.size, [linear_address(decoded, state, operand) for operand in (first, second)]
    if decoded.mnemonic[:4] == "movs":
        memory.check_write(at[0], size)
        memory.write(at[0], size, memory.read(at[1], size))
    else:
        left, right = memory.read(at[0], size), memory.read(at[1], size)
        state.rflags = compute("cmp", left, right, size, state.rflags)[1]
    next_address(state, first)
    next_address(state, second)
    return _last(state, decoded, first)


def _scan(state: InstructionRegisters, decoded: Decoded, memory: OperandMemory) -> bool:
    """SCAS: one element."""
    operand = decoded.memory
    assert operand is not None
    if decoded.repeat and not elements_left(state, operand):
        return True
    element = memory.read(linear_address(decoded, state, operand), operand.size)
    accumulator = read_register(state, _ACCUMULATORS[operand.size])
    state.rflags = compute("cmp", accumulator, element, operand.size, state.rflags)[1]
    next_address(state, operand)
    return _last(state, decoded, operand)


def _last(state: InstructionRegisters, decoded: Decoded, operand: MemoryOperand) -> bool:
    """Count down under a prefix; REPE and REPNE of comparisons end by ZF, too."""
    if not decoded.repeat:
        return True
    if count_down(state, operand) == 0:
        return True
    return decoded.mnemonic[:4] != "movs" and bool(state.rflags & _ZF) != (decoded.repeat == "rep")


# --- Conditions ----------------------------------------------------------------------------------

def _conditional_move(state: InstructionRegisters, decoded: Decoded, name: str, operand: MemoryOperand,
                      memory: OperandMemory) -> bool:
    """The memory is read whether or not; 4 bytes clear the upper half whether or not."""
    if decoded.mnemonic[4:] not in _CONDITIONS:
        raise Undecodable(f"{decoded.text} is not one we carry out on memory")
    value = memory.read(linear_address(decoded, state, operand), operand.size)
    if not holds(_CONDITIONS[decoded.mnemonic[4:]], state.rflags):
        value = read_register(state, name)
    write_register(state, name, value)
    return True

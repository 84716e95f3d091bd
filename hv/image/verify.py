"""Keystone's answer against the source: one disassembled instruction must say what the learner wrote.

The bytes must be exactly one instruction, with the mnemonic, registers, numbers and addresses of the source, and
without an operand-size prefix nobody asked for. What cannot be compared is refused, never passed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from hv.image import encode
from hv.image.errors import ImageError
from hv.image.instruction import UNSIZED, Instruction, Recipe
from hv.image.operands import Imm, Mem, Operand, Reg
from hv.image.registers import INSTRUCTION_POINTERS, LOW_NUMBERS, SEGMENTS, VECTORS

_SAME = {"movabs": "mov", "sal": "shl", "xlat": "xlatb", "wait": "fwait", "ud2a": "ud2", "icebp": "int1", "ljmp": "jmp",
         "lcall": "call", "loopz": "loope", "loopnz": "loopne", "retn": "ret", "finit": "fninit", "sysretl": "sysret"}
_SWAPS = frozenset({"xchg", "test"})
_PREFIX_IS_OPCODE = frozenset({"invpcid", "invept", "invvpid", "vmclear", "clflushopt", "clwb", "adcx"})
_ANY_WIDTH = frozenset({"ltr", "lldt", "lmsw", "smsw", "sldt", "str", "verr", "verw", "lar", "lsl"})


@cache
def _disassembler(bits: int) -> Any:
    import capstone

    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
    engine = capstone.Cs(capstone.CS_ARCH_X86, modes[bits])
    engine.detail = True
    return engine


def check(instruction: Instruction, recipe: Recipe, code: bytes, here: int) -> None:
    """ImageError unless *code* at address *here* is *instruction* and nothing else."""
    decoded = list(_disassembler(instruction.bits).disasm(code, here))
    if len(decoded) != 1 or decoded[0].size != len(code):
        raise ImageError(f"it was assembled as {code.hex(' ')}, which is not one instruction",
                         "write it another way, or as .byte")
    found = decoded[0]
    if recipe.code is not None:
        if instruction.mnemonic in encode.BRANCHES and isinstance(recipe.operands[0], Imm):
            _same_number(recipe.operands[0].value, found.operands[0].imm, instruction.bits, found)
        return
    wanted, name = _canonical(instruction.mnemonic), found.mnemonic.split()[-1]
    if wanted != _canonical(name):
        raise _differs(found)
    if recipe.operands:
        _check_operands(instruction, recipe.operands, found)
    if recipe.far is None:
        _check_prefix(instruction, recipe.operands, found)


def _canonical(mnemonic: str) -> str:
    for stem in ("cmov", "set", "j"):
        condition = mnemonic.removeprefix(stem)
        if condition != mnemonic and condition in encode.SYNONYMS:
            return stem + encode.SYNONYMS[condition]
    return _SAME.get(mnemonic, mnemonic)


def _differs(found: Any) -> ImageError:
    return ImageError(f"it was assembled as `{f'{found.mnemonic} {found.op_str}'.strip()}`",
                      "there is no right form for it here: write it another way, or as .byte")


def _check_operands(instruction: Instruction, wanted: Sequence[Operand], found: Any) -> None:
    given = list(found.operands)
    if len(given) != len(wanted):
        raise _differs(found)
    order = [given]
    if instruction.mnemonic in _SWAPS:
        order.append(given[::-1])
    for attempt in order:
        if all(_kind(operand) == item.type for operand, item in zip(wanted, attempt, strict=True)):
            given = attempt
            break
    loose = instruction.mnemonic in _ANY_WIDTH or any(isinstance(o, Reg) and o.name in SEGMENTS for o in wanted)
    registers = [o.name for o in wanted if isinstance(o, Reg)]
    if instruction.mnemonic in _SWAPS and len(registers) == len(wanted):
        if sorted(registers) != sorted(found.reg_name(item.reg) for item in given):
            raise _differs(found)
        return
    for operand, item in zip(wanted, given, strict=True):
        if _kind(operand) != item.type:
            raise _differs(found)
        if isinstance(operand, Reg):
            _same_register(operand.name, found.reg_name(item.reg), loose, found)
        elif isinstance(operand, Imm):
            _same_number(operand.value, item.imm, 8 * (item.size or 1), found)      # 0: the 1 of a shift, not encoded
        elif isinstance(operand, Mem):
            _same_memory(operand, item, instruction, found)


def _kind(operand: Operand) -> int:
    return {Reg: 1, Imm: 2, Mem: 3}.get(type(operand), 0)      # CS_OP_REG, CS_OP_IMM, CS_OP_MEM


def _same_register(wanted: str, name: str, loose: bool, found: Any) -> None:
    if wanted == name or {wanted, name} == {"st", "st(0)"}:
        return
    if not (loose and LOW_NUMBERS.get(wanted, -1) == LOW_NUMBERS.get(name, -2)):
        raise _differs(found)


def _same_number(wanted: int, given: int, bits: int, found: Any) -> None:
    if not -(1 << (bits - 1)) <= wanted < 1 << bits:
        raise ImageError(f"{wanted:#x} does not fit {bits} bits", f"it would be assembled as {found.op_str}")
    if (wanted - given) % (1 << bits):
        raise _differs(found)


def _same_memory(wanted: Mem, item: Any, instruction: Instruction, found: Any) -> None:
    memory = item.mem
    base = found.reg_name(memory.base) or ""
    index = found.reg_name(memory.index) or ""
    pair = [(name, scale) for name, scale in ((base, 1), (index, memory.scale)) if name]
    asked = [(name, scale) for name, scale in ((wanted.base, 1), (wanted.index, wanted.scale)) if name]
    if sorted(pair) != sorted(asked) or (found.reg_name(memory.segment) or "") != wanted.segment:
        raise _differs(found)
    if base in INSTRUCTION_POINTERS:
        if found.address + found.size + memory.disp != wanted.displacement:
            raise _differs(found)
    elif (memory.disp - wanted.displacement) % (1 << (8 * found.addr_size)):
        raise _differs(found)
    if wanted.size not in (0, item.size) and instruction.mnemonic not in UNSIZED:
        raise _differs(found)


def _check_prefix(instruction: Instruction, operands: Sequence[Operand], found: Any) -> None:
    """An operand-size prefix must come from an operand of that size; `66 0F 01 /2` would load half a base."""
    if found.prefix[2] != 0x66 or instruction.mnemonic in _PREFIX_IS_OPCODE:
        return
    names = [operand.name for operand in operands if isinstance(operand, Reg)]
    if any(name in VECTORS for name in names):
        return
    size = 4 if instruction.bits == 16 else 2
    sizes = [o.size for o in operands if (isinstance(o, Reg) and o.name not in SEGMENTS) or isinstance(o, Mem)]
    if size not in sizes:
        raise _differs(found)

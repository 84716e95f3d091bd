"""One instruction on its way to bytes: parsed, given to Keystone in one canonical form, and patched afterwards.

A recipe says either the bytes (`encode.py` made them) or the text Keystone must be asked. The text never depends on
the instruction's own address: RIP-relative and absolute operands carry a placeholder which `finish` replaces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hv.image import encode
from hv.image.complaints import FOREIGN, write_instead
from hv.image.errors import ImageError
from hv.image.expression import Lookup
from hv.image.operands import Far, Imm, Mem, Operand, Reg, parse_operand, split_operands
from hv.image.registers import SEGMENTS, VECTORS

PLACEHOLDER = 0x11223344
_MNEMONIC = re.compile(r"([A-Za-z][A-Za-z0-9]*)\s*", re.ASCII)
_LOCKABLE = frozenset({
    "add", "adc", "and", "btc", "btr", "bts", "cmpxchg", "cmpxchg8b", "cmpxchg16b", "dec", "inc", "neg", "not",
    "or", "sbb", "sub", "xor", "xadd", "xchg",
})
_COUNTED = frozenset({"shl", "sal", "shr", "sar", "rol", "ror", "rcl", "rcr"})
_EXTENDING = frozenset({"movzx", "movsx", "movsxd"})
UNSIZED = frozenset({
    "lgdt", "lidt", "sgdt", "sidt", "invlpg", "lea", "fxsave", "fxrstor", "fxsave64", "fxrstor64", "xsave",
    "xrstor", "xsaveopt", "clflush", "clflushopt", "prefetchnta", "prefetcht0", "prefetcht1", "prefetcht2",
    "prefetchw", "ldmxcsr", "stmxcsr", "cmpxchg8b", "cmpxchg16b", "vmptrld", "vmptrst", "vmclear", "vmxon", "ltr",
    "lldt", "str", "sldt", "verr", "verw", "lmsw", "smsw", "jmp", "call", "fnstcw", "fldcw", "fnstsw", "fstcw",
    "fstsw", "invpcid", "invept", "invvpid",
}) | frozenset(f"set{name}" for name in (*encode.CONDITIONS, *encode.SYNONYMS))


@dataclass(frozen=True, slots=True)
class Instruction:
    """The text of an instruction, cut: prefixes, mnemonic, operands not yet evaluated."""

    prefixes: tuple[str, ...]
    mnemonic: str
    operands: tuple[str, ...]
    bits: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an instruction becomes bytes: *code* when it is ours, else *text* for Keystone and what to patch."""

    operands: tuple[Operand, ...]
    code: bytes | None = None
    text: str = ""
    patch: Mem | None = None    # the operand that carries the placeholder
    far: Mem | None = None      # a far jump through memory, asked as a near one


def cut(text: str, bits: int) -> Instruction:
    """*text* as prefixes, mnemonic and operands; ImageError when it is no instruction at all."""
    prefixes: list[str] = []
    while match := _MNEMONIC.match(text):
        word, text = match[1].lower(), text[match.end():]
        if word in FOREIGN:
            raise ImageError(f"`{word}` is another assembler's word", write_instead(word))
        if word not in encode.PREFIXES:
            return Instruction(tuple(prefixes), word, tuple(split_operands(text)), bits)
        prefixes.append(word)
    if prefixes and not text:
        raise ImageError(f"{prefixes[-1]} stands alone", "write the prefix and its instruction on one line")
    raise ImageError("an instruction, a label or a directive was expected")


def prepare(instruction: Instruction, lookup: Lookup, here: int, wide: bool) -> Recipe:
    """The recipe at address *here*; *wide* asks for the near form of a branch."""
    mnemonic, bits = instruction.mnemonic, instruction.bits
    operands = tuple(parse_operand(text, lookup, bits) for text in instruction.operands)
    _check_prefixes(instruction, operands)
    _check_registers(operands, bits)
    if mnemonic in encode.BRANCHES and len(operands) == 1 and isinstance(operands[0], Imm):
        target = operands[0]
        near = target.distance == "near" or (wide and target.distance != "short")
        near = near and encode.has_near_form(mnemonic)
        return Recipe(operands, encode.branch(mnemonic, target.value, here, bits, near))
    code = encode.own(mnemonic, operands, bits)
    if code is not None:
        return Recipe(operands, code)
    _check_sizes(mnemonic, operands)
    if mnemonic == "imul" and len(operands) == 2 and isinstance(operands[1], Imm):
        operands = (operands[0], operands[0], operands[1])
    return _for_keystone(mnemonic, operands, bits)


def is_branch_to_label(instruction: Instruction, operands: Sequence[Operand]) -> bool:
    """True for a direct JMP or Jcc, whose form may grow from short to near."""
    return (encode.has_near_form(instruction.mnemonic) and instruction.mnemonic != "call" and len(operands) == 1
            and isinstance(operands[0], Imm) and operands[0].distance == "")


def _for_keystone(mnemonic: str, operands: tuple[Operand, ...], bits: int) -> Recipe:
    far = encode.is_far(mnemonic, operands)
    patch, texts = None, []
    for operand in operands:
        if isinstance(operand, Far):
            raise ImageError(f"{mnemonic} takes no selector:offset", "only jmp and call do")
        if isinstance(operand, Mem) and _needs_patch(operand, bits):
            patch = operand
            relative = Mem(operand.size, operand.segment, "rip", "", 1, 0)
            operand_text = (_near(far, bits, relative) if far else relative).text(PLACEHOLDER)
        else:
            operand_text = (_near(far, bits, far) if far else operand).text()
        texts.append(operand_text)
    return Recipe(operands, None, f"{mnemonic} {', '.join(texts)}".strip(), patch, far)


def _near(far: Mem, bits: int, memory: Mem) -> Mem:
    size = 4 if bits == 16 and far.size == 6 else bits // 8
    return Mem(size, memory.segment, memory.base, memory.index, memory.scale, memory.displacement)


def _needs_patch(memory: Mem, bits: int) -> bool:
    return memory.base == "rip" or (bits == 64 and not memory.base and not memory.index)


def finish(instruction: Instruction, recipe: Recipe, raw: bytes, here: int) -> bytes:
    """The bytes at address *here*, *raw* being Keystone's answer (or the recipe's own code)."""
    prefix = bytes(encode.PREFIXES[name] for name in instruction.prefixes)
    if recipe.code is not None:
        return prefix + recipe.code
    if instruction.bits == 32 and instruction.mnemonic in ("lgdt", "lidt", "sgdt", "sidt"):
        raw = raw.removeprefix(b"\x66")     # Keystone's form loads 24 bits of the base only
    to_segment = recipe.operands and isinstance(recipe.operands[0], Reg) and recipe.operands[0].name in SEGMENTS
    if to_segment and instruction.mnemonic == "mov" and instruction.bits != 16:
        raw = raw.removeprefix(b"\x66")     # harmless, and a byte longer than what other assemblers write
    if recipe.far is not None:
        if instruction.bits == 64 and recipe.far.size not in (6, 10):
            raise ImageError("a far jump through memory has a 6- or 10-byte pointer",
                             f"write {instruction.mnemonic} fword ptr [...] (16:32) or tbyte ptr [...] (16:64)")
        raw = encode.far_through_memory(raw, raw.index(0xFF) + 1, recipe.far.size == 10)
    if recipe.patch is not None:
        raw = _patched(raw, recipe.patch, here + len(prefix))
    return prefix + raw


def _patched(raw: bytes, memory: Mem, here: int) -> bytes:
    at = raw.find(PLACEHOLDER.to_bytes(4, "little"))
    if at < 2 or raw[at - 1] & 0xC7 != 0x05:
        raise ImageError("this instruction takes no such address", "load the address in a register first")
    if memory.base != "rip":
        return encode.absolute_from_relative(raw, at - 1, memory.displacement)
    distance = memory.displacement - (here + len(raw))
    if not -(1 << 31) <= distance < 1 << 31:
        raise ImageError(f"the target is {distance:+#x} bytes away, and rip-relative addresses reach 2 GiB",
                         "load the address in a register first")
    return raw[:at] + distance.to_bytes(4, "little", signed=True) + raw[at + 4 :]


def _check_prefixes(instruction: Instruction, operands: Sequence[Operand]) -> None:
    for prefix in instruction.prefixes:
        if prefix == "lock":
            target = [n for n, operand in enumerate(operands) if isinstance(operand, Mem)]
            if instruction.mnemonic not in _LOCKABLE or not target or (target[0] and instruction.mnemonic != "xchg"):
                raise ImageError(f"lock does not go with this {instruction.mnemonic}: the processor raises #UD",
                                 "lock needs add, xadd, cmpxchg, bts ... with memory as the destination")
        elif instruction.mnemonic not in encode.STRINGS or instruction.operands:
            raise ImageError(f"{prefix} goes with string instructions only", "such as rep movsb, rep stosq")
        elif prefix not in ("rep", "repe", "repz") and instruction.mnemonic[:4] not in ("cmps", "scas"):
            raise ImageError(f"{prefix} goes with cmps and scas only", "write rep")
    if len(instruction.prefixes) > 1:
        raise ImageError("there is more than one prefix")


def _check_registers(operands: Sequence[Operand], bits: int) -> None:
    if bits == 64:
        return
    for operand in operands:
        names = [operand.name] if isinstance(operand, Reg) else []
        if isinstance(operand, Mem):
            names = [operand.base, operand.index]
        for name in names:
            if name in ("spl", "bpl", "sil", "dil") or (name.startswith("r") and name not in VECTORS):
                raise ImageError(f"{name} exists in 64-bit code only, and this is {bits}-bit code",
                                 f"write .bits 64 before it, or use {'eax, ecx ...' if name[-1] != 'w' else 'ax'}")


def _check_sizes(mnemonic: str, operands: Sequence[Operand]) -> None:
    memory = [operand for operand in operands if isinstance(operand, Mem)]
    if not memory or memory[0].size or mnemonic in UNSIZED:
        return
    registers = [operand for operand in operands if isinstance(operand, Reg) and operand.name not in SEGMENTS]
    if not registers or mnemonic in _COUNTED or mnemonic in _EXTENDING or mnemonic in ("push", "pop"):
        raise ImageError("the size of the memory operand is not said", "write byte, word, dword or qword ptr before [")

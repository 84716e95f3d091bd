"""One operand of an instruction: a register, a number, a memory reference or a far pointer.

Parsed from the learner's text and written again in the one form Keystone is given, so that Keystone's own parser
of expressions and symbols is never used. The same objects are what `verify.py` compares a disassembly with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hv.image.errors import ImageError
from hv.image.expression import Linear, Lookup, constant, linear
from hv.image.registers import ADDRESS_REGISTERS, INSTRUCTION_POINTERS, SIZES

SIZE_WORDS = {"byte": 1, "word": 2, "dword": 4, "fword": 6, "qword": 8, "tbyte": 10, "xmmword": 16, "oword": 16,
              "ymmword": 32}
_WORD_OF = {1: "byte", 2: "word", 4: "dword", 6: "fword", 8: "qword", 10: "tbyte", 16: "xmmword", 32: "ymmword"}
_SIZED = re.compile(r"(far|byte|word|dword|fword|qword|tbyte|xmmword|oword|ymmword)\b\s*(?:(ptr)\b\s*)?", re.IGNORECASE)
_DISTANCE = re.compile(r"(short|near)\b\s*(?:ptr\b\s*)?", re.IGNORECASE)
_SEGMENT = re.compile(r"(cs|ds|es|fs|gs|ss)\s*:\s*", re.IGNORECASE)
_OFFSET = re.compile(r"offset\b\s*", re.IGNORECASE)
_RELATIVE = re.compile(r"rel\b\s*", re.IGNORECASE)
_X87 = re.compile(r"st\s*\(\s*([0-7])\s*\)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reg:
    """A register, by its lower-case name."""

    name: str

    @property
    def size(self) -> int:
        return SIZES[self.name[:2] if self.name.startswith("st(") else self.name]

    def text(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Imm:
    """A number; *distance* is "short" or "near" when a branch says so."""

    value: int
    distance: str = ""

    def text(self) -> str:
        return _hex(self.value)


@dataclass(frozen=True, slots=True)
class Mem:
    """`size ptr segment:[base + index*scale + displacement]`; size 0 = not said.

    With *base* "rip" the displacement is the absolute target, as it was written.
    """

    size: int
    segment: str
    base: str
    index: str
    scale: int
    displacement: int
    far: bool = False

    def text(self, displacement: int | None = None) -> str:
        """For Keystone; *displacement* replaces ours (a RIP-relative one is patched afterwards)."""
        terms = [self.base] if self.base else []
        if self.index:
            terms.append(f"{self.index}*{self.scale}" if self.scale != 1 else self.index)
        value = self.displacement if displacement is None else displacement
        inside = " + ".join(terms)
        if value or not terms:
            inside += f" {'-' if value < 0 else '+'} {abs(value):#x}" if terms else f"{value:#x}"
        size = f"{_WORD_OF[self.size]} ptr " if self.size else ""
        return f"{size}{self.segment + ':' if self.segment else ''}[{inside}]"


@dataclass(frozen=True, slots=True)
class Far:
    """`selector:offset`, the operand of a direct far jump; *size* 2 or 4 when `word` or `dword` says so, else 0."""

    selector: int
    offset: int
    size: int = 0


Operand = Reg | Imm | Mem | Far


def split_operands(text: str) -> list[str]:
    """*text* at its commas, those in brackets or quotes excepted; [] for ""."""
    parts, depth, quote, start, escaped = [], 0, "", 0, False
    for n, char in enumerate(text):
        if escaped:
            escaped = False
        elif quote:
            escaped = char == "\\"
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[(":
            depth += 1
        elif char in "])":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:n].strip())
            start = n + 1
    if quote:
        raise ImageError(f"a {quote} is not closed")
    parts.append(text[start:].strip())
    return [] if parts == [""] else parts


def parse_operand(text: str, lookup: Lookup, bits: int) -> Operand:
    """The operand *text* of an instruction in *bits*-bit code; ImageError says what was expected."""
    rest, size, far, sized = text.strip(), 0, False, False
    while match := _SIZED.match(rest):
        word, sized = match[1].lower(), True
        size, far = (size, True) if word == "far" else (SIZE_WORDS[word], far)
        rest = rest[match.end():]
    segment = _SEGMENT.match(rest)
    if segment and rest[segment.end():].startswith("["):
        return _memory(rest[segment.end():], size, segment[1].lower(), far, lookup, bits)
    if rest.startswith("["):
        return _memory(rest, size, "", far, lookup, bits)
    if ":" in rest and not rest.startswith("'"):
        return _far(rest, size, lookup)
    if sized:
        raise ImageError(f"`{text}` has a size but no memory reference", f"write {text.split()[0]} ptr [{rest}]")
    return _plain(rest, lookup)


def _plain(text: str, lookup: Lookup) -> Operand:
    if match := _X87.match(text):
        return Reg(f"st({match[1]})")
    distance = _DISTANCE.match(text)
    if distance:
        return Imm(constant(text[distance.end():], lookup), distance[1].lower())
    offset = _OFFSET.match(text)
    value = linear(text[offset.end():] if offset else text, lookup)
    if not value.registers:
        return Imm(value.constant)
    if value.constant or len(value.registers) != 1 or value.registers[0][1] != 1:
        raise ImageError(f"`{text}` adds to a register outside brackets", "write [...] for memory, or use lea")
    name = value.registers[0][0]
    if name in INSTRUCTION_POINTERS:
        raise ImageError(f"{name} cannot be an operand", "write `lea rax, [rip + label]` to learn an address")
    return Reg(name)


def _far(text: str, size: int, lookup: Lookup) -> Far:
    selector, _, offset = text.partition(":")
    value = constant(selector, lookup)
    if not 0 <= value <= 0xFFFF:
        raise ImageError(f"selector {value:#x} is out of range 0..0xffff")
    if size not in (0, 2, 4):
        raise ImageError("a far pointer is a word or a dword offset", "write dword 0x8:label")
    return Far(value, constant(offset, lookup), size)


def _memory(text: str, size: int, segment: str, far: bool, lookup: Lookup, bits: int) -> Mem:
    if not text.endswith("]") or text.count("[") != 1:
        raise ImageError(f"`{text}` is no memory reference", "write [base + index*scale + displacement]")
    inside = text[1:-1].strip()
    override = _SEGMENT.match(inside)
    if override and not segment:
        segment, inside = override[1].lower(), inside[override.end():]
    relative = _RELATIVE.match(inside)
    if relative:
        inside = "rip + " + inside[relative.end():]
    value = linear(inside, lookup)
    base, index, scale = _base_and_index(value, text)
    if base in INSTRUCTION_POINTERS and (base != "rip" or index or bits != 64):
        raise ImageError("an address relative to rip is [rip + label], in 64-bit code only", "write [label]")
    displacement = value.constant if base == "rip" else _displacement(value.constant, base or index, bits)
    return Mem(size, segment, base, index, scale, displacement, far)


def _base_and_index(value: Linear, text: str) -> tuple[str, str, int]:
    registers = [(name, scale) for name, scale in value.registers if scale]
    for name, _ in registers:
        if name not in ADDRESS_REGISTERS or (name[0] in "cd" and name[-1].isdigit()):
            raise ImageError(f"{name} cannot be part of an address in `{text}`", "use 64- or 32-bit general registers")
    if len({SIZES[name] for name, _ in registers}) > 1:
        raise ImageError(f"`{text}` mixes registers of different sizes")
    registers.sort(key=lambda item: item[1] != 1)
    if len(registers) == 1 and registers[0][1] in (3, 5, 9):
        registers = [(registers[0][0], 1), (registers[0][0], registers[0][1] - 1)]
    if len(registers) == 2 and registers[1] in (("rsp", 1), ("esp", 1)):
        registers.reverse()
    bases = [name for name, scale in registers if scale == 1]
    if len(registers) > 2 or (len(registers) == 2 and not bases) or any(s not in (1, 2, 4, 8) for _, s in registers):
        raise ImageError(f"`{text}` is no address of the processor", "write [base + index*1, 2, 4 or 8 + displacement]")
    if len(registers) == 1:
        name, scale = registers[0]
        return (name, "", 1) if scale == 1 else ("", name, scale)
    if not registers:
        return "", "", 1
    return registers[0][0], registers[1][0], registers[1][1]


def _displacement(value: int, register: str, bits: int) -> int:
    """*value* as the signed displacement of the address size; ImageError when no encoding holds it."""
    size = 8 * SIZES[register] if register else bits
    if size == 64:
        signed = value - (1 << 64) if (1 << 63) <= value < (1 << 64) else value
        if not -(1 << 31) <= signed < 1 << 31:
            raise ImageError(f"address {_hex(value)} does not fit a signed 32-bit displacement",
                             f"write mov rbx, {_hex(value)} and then [rbx]")
        return signed
    if not -(1 << (size - 1)) <= value < 1 << size:
        raise ImageError(f"address {_hex(value)} does not fit {size} bits", "use a register that holds it")
    if not register:
        return value % (1 << size)
    return (value + (1 << (size - 1))) % (1 << size) - (1 << (size - 1))


def _hex(value: int) -> str:
    return f"-{-value:#x}" if value < 0 else f"{value:#x}"

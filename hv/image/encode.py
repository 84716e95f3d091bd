"""Encodings that are ours: what Keystone gets wrong or refuses, and every branch with a label.

Fixed opcodes stand in one table by mode; branches and far jumps are formed here because their length depends on
where labels fall. SDM volume 2, "Instruction Set Reference", for each.
"""

from __future__ import annotations

from collections.abc import Sequence

from hv.image.complaints import write_instead
from hv.image.errors import ImageError
from hv.image.operands import Far, Imm, Mem, Operand, Reg
from hv.image.registers import SEGMENTS, SIZES

CONDITIONS = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
SYNONYMS = {"c": "b", "nae": "b", "nb": "ae", "nc": "ae", "z": "e", "nz": "ne", "na": "be", "nbe": "a", "pe": "p",
            "po": "np", "nge": "l", "nl": "ge", "ng": "le", "nle": "g"}
_CODE_OF = {**{name: n for n, name in enumerate(CONDITIONS)},
            **{name: CONDITIONS.index(same) for name, same in SYNONYMS.items()}}
JCC = {f"j{name}": code for name, code in _CODE_OF.items()}
LOOPS = {"loopne": 0xE0, "loopnz": 0xE0, "loope": 0xE1, "loopz": 0xE1, "loop": 0xE2}
COUNTER_JUMPS = {"jcxz": 2, "jecxz": 4, "jrcxz": 8}
BRANCHES = frozenset({"jmp", "call", *JCC, *LOOPS, *COUNTER_JUMPS})
PREFIXES = {"lock": 0xF0, "rep": 0xF3, "repe": 0xF3, "repz": 0xF3, "repne": 0xF2, "repnz": 0xF2}

# Mnemonic -> the bytes in 16-, 32- and 64-bit code; "" = there is no such instruction in that mode.
FIXED: dict[str, tuple[str, str, str]] = {
    "ret": ("c3",) * 3, "retn": ("c3",) * 3, "retf": ("cb",) * 3, "retfq": ("", "", "48cb"),
    "iret": ("cf", "cf", ""), "iretd": ("66cf", "cf", "cf"), "iretq": ("", "", "48cf"),
    "sysret": ("", "0f07", ""), "sysretq": ("", "", "480f07"), "sysretl": ("", "0f07", "0f07"),
    "sysexit": ("0f35",) * 3, "sysexitq": ("", "", "480f35"),
    "endbr32": ("f30f1efb",) * 3, "endbr64": ("f30f1efa",) * 3,
    "vmrun": ("0f01d8",) * 3, "vmmcall": ("0f01d9",) * 3, "vmload": ("0f01da",) * 3, "vmsave": ("0f01db",) * 3,
    "stgi": ("0f01dc",) * 3, "clgi": ("0f01dd",) * 3, "skinit": ("0f01de",) * 3,
    "pushf": ("9c",) * 3, "pushfd": ("669c", "9c", ""), "pushfq": ("", "", "9c"),
    "popf": ("9d",) * 3, "popfd": ("669d", "9d", ""), "popfq": ("", "", "9d"),
    "pusha": ("60", "60", ""), "pushad": ("6660", "60", ""), "popa": ("61", "61", ""), "popad": ("6661", "61", ""),
    "movsb": ("a4",) * 3, "cmpsb": ("a6",) * 3, "stosb": ("aa",) * 3, "lodsb": ("ac",) * 3, "scasb": ("ae",) * 3,
    "movsw": ("a5", "66a5", "66a5"), "cmpsw": ("a7", "66a7", "66a7"), "stosw": ("ab", "66ab", "66ab"),
    "lodsw": ("ad", "66ad", "66ad"), "scasw": ("af", "66af", "66af"),
    "movsd": ("66a5", "a5", "a5"), "cmpsd": ("66a7", "a7", "a7"), "stosd": ("66ab", "ab", "ab"),
    "lodsd": ("66ad", "ad", "ad"), "scasd": ("66af", "af", "af"),
    "movsq": ("", "", "48a5"), "cmpsq": ("", "", "48a7"), "stosq": ("", "", "48ab"), "lodsq": ("", "", "48ad"),
    "scasq": ("", "", "48af"),
    "insb": ("6c",) * 3, "insw": ("6d", "666d", "666d"), "insd": ("666d", "6d", "6d"),
    "outsb": ("6e",) * 3, "outsw": ("6f", "666f", "666f"), "outsd": ("666f", "6f", "6f"),
    "leave": ("c9",) * 3, "cbw": ("98", "6698", "6698"), "cwde": ("6698", "98", "98"), "cdqe": ("", "", "4898"),
    "cwd": ("99", "6699", "6699"), "cdq": ("6699", "99", "99"), "cqo": ("", "", "4899"),
    "nop": ("90",) * 3, "hlt": ("f4",) * 3, "int3": ("cc",) * 3, "ud2": ("0f0b",) * 3, "vmcall": ("0f01c1",) * 3,
}
STRINGS = frozenset(name for name in FIXED if name[:-1] in ("movs", "cmps", "stos", "lods", "scas", "ins", "outs"))


def fixed(mnemonic: str, bits: int) -> bytes | None:
    """The bytes of an instruction without operands, or None when it is not in the table."""
    if mnemonic not in FIXED:
        return None
    code = FIXED[mnemonic][bits.bit_length() - 5]
    if not code:
        raise ImageError(f"{mnemonic} does not exist in {bits}-bit code", write_instead(mnemonic))
    return bytes.fromhex(code)


def own(mnemonic: str, operands: Sequence[Operand], bits: int) -> bytes | None:
    """The bytes of an instruction Keystone gets wrong, or None when Keystone may have it."""
    match mnemonic, *operands:
        case (_,):
            return fixed(mnemonic, bits)
        case "ret" | "retn" | "retf", Imm(value):
            return bytes([0xCA if mnemonic == "retf" else 0xC2]) + _unsigned(value, 2)
        case "int", Imm(value):
            return b"\xcd" + _unsigned(value, 1)
        case "push", Imm(value):
            return _push(value, bits)
        case "push" | "pop", Reg(name) if name in SEGMENTS:
            return _push_segment(mnemonic, name, bits)
        case "jmp" | "call", Far() as pointer:
            return _far(mnemonic, pointer, bits)
        case "rdpid", Reg(name):
            return _rdpid(name, bits)
        case _:
            return None


def branch(mnemonic: str, target: int, here: int, bits: int, wide: bool) -> bytes:
    """A direct branch at address *here* to *target*, near when *wide*, short otherwise.

    ImageError when a branch that has only a short form does not reach.
    """
    width = 2 if bits == 16 else 4
    if mnemonic == "call" or wide:
        opcode = {"call": b"\xe8", "jmp": b"\xe9"}.get(mnemonic) or bytes([0x0F, 0x80 + JCC[mnemonic]])
        return opcode + _relative(target - here - len(opcode) - width, width, bits)
    opcode = _short_opcode(mnemonic, bits)
    return opcode + _relative(target - here - len(opcode) - 1, 1, bits)


def has_near_form(mnemonic: str) -> bool:
    """True for JMP, CALL and Jcc; LOOP and JRCXZ reach 127 bytes only."""
    return mnemonic in JCC or mnemonic in ("jmp", "call")


def reaches_short(mnemonic: str, target: int, here: int, bits: int) -> bool:
    """True when the short form of the branch at *here* reaches *target*."""
    return -128 <= target - here - len(_short_opcode(mnemonic, bits)) - 1 <= 127


def _short_opcode(mnemonic: str, bits: int) -> bytes:
    if mnemonic in LOOPS:
        return bytes([LOOPS[mnemonic]])
    if mnemonic in COUNTER_JUMPS:
        size = COUNTER_JUMPS[mnemonic]
        if (size == 8 and bits != 64) or (size == 2 and bits == 64):
            raise ImageError(f"{mnemonic} does not exist in {bits}-bit code")
        return b"\xe3" if size * 8 == bits else b"\x67\xe3"
    return bytes([0x70 + JCC[mnemonic]]) if mnemonic in JCC else b"\xeb"


def _relative(distance: int, width: int, bits: int) -> bytes:
    if bits == 16 and width == 2:
        return (distance & 0xFFFF).to_bytes(2, "little")     # IP wraps at 64 KiB
    if not -(1 << (8 * width - 1)) <= distance < 1 << (8 * width - 1):
        reach = "-128..127 bytes" if width == 1 else "2 GiB"
        raise ImageError(f"the target is {distance:+#x} bytes away, and this branch reaches {reach}",
                         "jump around with jmp" if width == 1 else "load the address in a register and jump there")
    return distance.to_bytes(width, "little", signed=True)


def _push(value: int, bits: int) -> bytes:
    size = 2 if bits == 16 else 4
    low, high = -(1 << (8 * size - 1)), 1 << (8 * size - (bits == 64))
    if not low <= value < high:
        raise ImageError(f"{value:#x} does not fit the immediate of push in {bits}-bit code, {low:#x}..{high - 1:#x}",
                         "load it in a register and push that")
    signed = value - (1 << (8 * size)) if value >= 1 << (8 * size - 1) else value
    if -128 <= signed <= 127:
        return b"\x6a" + signed.to_bytes(1, "little", signed=True)
    return b"\x68" + signed.to_bytes(size, "little", signed=True)


def _push_segment(mnemonic: str, name: str, bits: int) -> bytes:
    number, pop = SEGMENTS.index(name), mnemonic == "pop"
    if number >= 4:
        return bytes([0x0F, 0x80 + 8 * number + pop])
    if bits == 64 or (pop and name == "cs"):
        raise ImageError(f"{mnemonic} {name} does not exist in {bits}-bit code", f"use mov with {name}, or a far jump")
    return bytes([0x06 + 8 * number + pop])


def _far(mnemonic: str, pointer: Far, bits: int) -> bytes:
    """EA (JMP) or 9A (CALL) with a pointer of 16:16 or 16:32; a 66 prefix when that is not the mode's own size."""
    if bits == 64:
        raise ImageError(f"{mnemonic} selector:offset does not exist in 64-bit code",
                         "push the selector and the offset, then retfq; or jmp tbyte ptr [...]")
    natural = bits // 8
    size = pointer.size or (4 if not 0 <= pointer.offset <= 0xFFFF else natural)
    prefix = b"" if size == natural else b"\x66"
    return prefix + (b"\xea" if mnemonic == "jmp" else b"\x9a") + _unsigned(pointer.offset, size) + _unsigned(
        pointer.selector, 2)


def _rdpid(name: str, bits: int) -> bytes:
    names = [register for register, size in SIZES.items() if size == (8 if bits == 64 else 4)]
    order = [n for n in names if n[0] == ("r" if bits == 64 else "e") and n not in ("rip", "eip")]
    if name not in order:
        raise ImageError(f"rdpid takes a {bits}-bit register, not {name}")
    number = order.index(name)
    return b"\xf3" + (b"\x41" if number >= 8 else b"") + bytes([0x0F, 0xC7, 0xF8 | number & 7])


def _unsigned(value: int, size: int) -> bytes:
    if not 0 <= value < 1 << (8 * size):
        raise ImageError(f"{value:#x} is out of range 0..{(1 << (8 * size)) - 1:#x}")
    return value.to_bytes(size, "little")


def far_through_memory(code: bytes, modrm: int, wide: bool) -> bytes:
    """Near JMP/CALL through memory (FF /4, /2), its ModRM byte at *modrm*, as the far one (FF /5, /3).

    With *wide* a REX.W prefix makes the pointer 16:64, as `tbyte ptr` says.
    """
    patched = bytearray(code)
    patched[modrm] |= 0x08
    if wide:
        opcode = modrm - 1
        if opcode and patched[opcode - 1] & 0xF0 == 0x40:
            patched[opcode - 1] |= 0x08
        else:
            patched.insert(opcode, 0x48)
    return bytes(patched)


def absolute_from_relative(code: bytes, modrm: int, address: int) -> bytes:
    """A RIP-relative instruction (64-bit code) as the one with the same operand at an absolute *address*."""
    changed = code[modrm] & 0xF8 | 0x04     # rm = 100: a SIB byte follows; SIB 25 = no base, no index, disp32
    return code[:modrm] + bytes([changed, 0x25]) + address.to_bytes(4, "little", signed=True) + code[modrm + 5 :]


def is_far(mnemonic: str, operands: Sequence[Operand]) -> Mem | None:
    """The memory operand of a far JMP or CALL through memory, or None."""
    if mnemonic in ("jmp", "call") and len(operands) == 1 and isinstance(operands[0], Mem):
        memory = operands[0]
        return memory if memory.far or memory.size in (6, 10) else None
    return None

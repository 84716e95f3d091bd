"""What an instruction is: its length, and the operands an exit or an emulated device needs to know.

Capstone does the decoding, loaded when the first instruction needs it; results are kept by their bytes. The shape is
ours: registers by name, memory operands as base + index * scale + displacement, and three summaries in the words of the
VM-exit qualifications (control registers, debug registers, ports). `memory_operations.py` carries out what a
`MemoryAccess` describes.

# Simplified: linear_address checks no segment limits, and neither does the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cache, lru_cache
from typing import Any, NamedTuple

from hv.instructions.registers import InstructionRegisters, SegmentPart
from hv.spec.x86 import MAX_INSTRUCTION_LENGTH, Efer, Rflags

_LMA, _VM = Efer.LMA.value, Rflags.VM.value
_LINEAR_32, _LINEAR_64 = (1 << 32) - 1, (1 << 64) - 1


class Undecodable(Exception):
    """No instruction, or none that can be described as asked."""


# --- General registers by name -------------------------------------------------------------------

class _Part(NamedTuple):
    attribute: str      # of the state
    shift: int          # 8 for AH, CH, DH, BH
    size: int           # bytes
    number: int         # in instructions and exit qualifications


def _parts() -> dict[str, _Part]:
    named: dict[str, _Part] = {}
    for number, stem in enumerate(("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")):
        full, low = f"r{stem}", f"{stem[0]}l" if number < 4 else f"{stem}l"
        for name, size in ((full, 8), (f"e{stem}", 4), (stem, 2), (low, 1)):
            named[name] = _Part(full, 0, size, number)
        if number < 4:
            named[f"{stem[0]}h"] = _Part(full, 8, 1, number)
    for number in range(8, 16):
        for suffix, size in (("", 8), ("d", 4), ("w", 2), ("b", 1)):
            named[f"r{number}{suffix}"] = _Part(f"r{number}", 0, size, number)
    return named


_PARTS = _parts()


def register_number(name: str) -> int:
    """The number of the general register that *name* ("rax", "eax", "ah" ...) is part of: RAX 0, RCX 1 ... R15 15."""
    return _part(name).number


def is_high_byte(name: str) -> bool:
    """*name* is AH, CH, DH or BH."""
    return name in _PARTS and _PARTS[name].shift == 8


def containing_register(name: str) -> str:
    """The whole general register that *name* is part of: "rax" of "ah"; *name* itself when it is none."""
    return _PARTS[name].attribute if name in _PARTS else name


def read_register(state: InstructionRegisters, name: str) -> int:
    """The value of a general register or a part of one."""
    part = _part(name)
    return int(getattr(state, part.attribute)) >> part.shift & (1 << 8 * part.size) - 1


def write_register(state: InstructionRegisters, name: str, value: int) -> None:
    """Write a general register: 4 bytes clear the upper half, 1 and 2 leave the rest as it is."""
    part = _part(name)
    mask = (1 << 8 * part.size) - 1
    if part.size < 4:
        old = int(getattr(state, part.attribute))
        value = old & ~(mask << part.shift) | (value & mask) << part.shift
    else:
        value &= mask
    setattr(state, part.attribute, value)


def _part(name: str) -> _Part:
    if name not in _PARTS:
        raise Undecodable(f"{name} is no general register")
    return _PARTS[name]


# --- What decoding gives -------------------------------------------------------------------------

class RegisterOperand(NamedTuple):
    """A register by the assembler's name."""

    name: str
    size: int       # bytes


class ImmediateOperand(NamedTuple):
    """A constant, sign-extended to the operand's size and kept as an unsigned number."""

    value: int
    size: int       # bytes


@dataclass(frozen=True, slots=True)
class MemoryOperand:
    """segment:[base + index * scale + displacement]; base may be "rip"."""

    segment: str            # "ds", "ss" ... : the override, or what holds without one
    base: str | None
    index: str | None
    scale: int
    displacement: int       # signed
    size: int               # bytes of data
    address_bits: int       # 16, 32 or 64
    access: int = field(default=0, compare=False)       # 1 read, 2 write, as far as the disassembler knows

    def displaced(self, displacement: int) -> MemoryOperand:
        """The same with another displacement."""
        return replace(self, displacement=displacement)


Operand = RegisterOperand | ImmediateOperand | MemoryOperand


class ControlAccess(IntEnum):
    """SDM "Exit Qualification for Control-Register Accesses", access type; SMSW is ours, for it never exits."""

    MOV_TO = 0
    MOV_FROM = 1
    CLTS = 2
    LMSW = 3
    SMSW = 4


class ControlRegisterAccess(NamedTuple):
    """MOV to or from CRn, CLTS, LMSW or SMSW."""

    kind: ControlAccess
    register: int                   # 0, 2, 3, 4, 8
    operand: Operand | None         # the other side; None for CLTS

    @property
    def gpr(self) -> int:
        """Number of the general register on the other side; 0 when there is none."""
        return register_number(self.operand.name) if isinstance(self.operand, RegisterOperand) else 0


class DebugRegisterAccess(NamedTuple):
    """MOV to or from DRn."""

    write: bool     # to the debug register
    register: int
    gpr: int


class PortAccess(NamedTuple):
    """IN, OUT, INS or OUTS."""

    input: bool
    size: int               # 1, 2 or 4 bytes
    port: int | None        # None: it is in DX
    string: bool
    repeat: bool


class Decoded(NamedTuple):
    """One instruction."""

    length: int                     # bytes
    mnemonic: str                   # without prefixes: "movsb", not "rep movsb"
    text: str                       # as a disassembler prints it
    bits: int                       # 16, 32 or 64: how it was decoded
    operands: tuple[Operand, ...]
    repeat: str                     # "", "rep" (F3) or "repne" (F2)
    lock: bool
    control_register: ControlRegisterAccess | None
    debug_register: DebugRegisterAccess | None
    port: PortAccess | None
    operand_override: bool = False  # the prefix 66

    @property
    def memory(self) -> MemoryOperand | None:
        """The first memory operand."""
        return next((operand for operand in self.operands if isinstance(operand, MemoryOperand)), None)


# Exits so frequent that nobody shall wait for a disassembler: first two bytes, little-endian -> length.
SHORT_LENGTHS = {0xA20F: 2, 0x320F: 2, 0x300F: 2, 0x310F: 2, 0x90F3: 2}     # CPUID, RDMSR, WRMSR, RDTSC, PAUSE


def instruction_length(code: bytes, bits: int) -> int:
    """Length in bytes of the instruction that *code* begins with; Undecodable when it is none."""
    if code[:1] == b"\xf4":     # HLT
        return 1
    return SHORT_LENGTHS.get(int.from_bytes(code[:2], "little")) or decode(code, bits).length


@lru_cache(maxsize=4096)
def decode(code: bytes, bits: int) -> Decoded:
    """The instruction that *code* (15 bytes are enough) begins with, for *bits* 16, 32 or 64; Undecodable if none."""
    found = next(_disassembler(bits).disasm(code[:MAX_INSTRUCTION_LENGTH], 0, 1), None)
    if bits == 16 and _OPERAND_SIZE in code[:MAX_INSTRUCTION_LENGTH] and _needs_prefix(code):
        return _as_32_bit_code(code)
    if found is None:
        raise Undecodable(f"{code.hex(' ') or 'nothing'} is no instruction of {bits}-bit code")
    mnemonic, prefixes = str(found.insn_name()), bytes(found.prefix)
    if bits == 16 and prefixes[2] == _OPERAND_SIZE:
        mnemonic = _with_mandatory_prefix(mnemonic)
    string = found.opcode[0] in _STRING_OPCODES
    operands = tuple(_operand(found, raw, string) for raw in found.operands)
    repeat = {0xF3: "rep", 0xF2: "repne"}.get(prefixes[0], "") if string else ""
    return Decoded(found.size, mnemonic, f"{found.mnemonic} {found.op_str}".strip(), bits, operands,
                   repeat, lock=prefixes[0] == 0xF0, control_register=_control_register(mnemonic, operands),
                   debug_register=_debug_register(mnemonic, operands), port=_port(mnemonic, operands, repeat),
                   operand_override=prefixes[2] == _OPERAND_SIZE)


def _needs_prefix(code: bytes) -> bool:
    """*code* is an instruction that prefix 66 makes another one, of those that begin 0F 38, 0F 78, 0F 79 and 0F C7."""
    at = _opcode_at(code)
    return code[at : at + 1] == b"\x0f" and code[at + 1 : at + 2] in (b"\x38", b"\x78", b"\x79", b"\xc7")


def _opcode_at(code: bytes) -> int:
    return next((at for at, byte in enumerate(code) if byte not in _PREFIXES), len(code))


def _as_32_bit_code(code: bytes) -> Decoded:
    """*code*, which is 16-bit code: in that, Capstone takes the prefix for an operand size and nothing else."""
    at = _opcode_at(code)
    same = code[:at].replace(b"\x67", b"") if 0x67 in code[:at] else b"\x67" + code[:at]
    decoded = decode(same + code[at:], 32)
    return decoded._replace(length=decoded.length + at - len(same), bits=16)


class Listed(NamedTuple):
    """One instruction of several."""

    mnemonic: str
    text: str
    sets_flags: bool        # arithmetic ones, or leaves them undefined


def _with_mandatory_prefix(mnemonic: str) -> str:
    """In 16-bit code Capstone takes 66 for an operand size also where it is part of the opcode."""
    if mnemonic in ("vmptrst", "vmread", "vmwrite"):
        raise Undecodable(f"66 {mnemonic} is no instruction")
    return "vmclear" if mnemonic == "vmptrld" else mnemonic


def disassemble(code: bytes, bits: int) -> Iterator[Listed]:
    """The instructions of *code*, as far as they can be decoded."""
    for found in _disassembler(bits).disasm(code, 0):
        yield Listed(str(found.insn_name()), f"{found.mnemonic} {found.op_str}", bool(found.eflags & _flag_changes()))


@cache
def _flag_changes() -> int:
    """Capstone's bits for an arithmetic flag that is modified, set, cleared or undefined."""
    from capstone import x86_const

    names = (f"X86_EFLAGS_{change}_{flag}" for change in ("MODIFY", "SET", "RESET", "UNDEFINED")
             for flag in ("CF", "PF", "AF", "ZF", "SF", "OF"))
    return sum(getattr(x86_const, name, 0) for name in names)


def bits_of(state: InstructionRegisters) -> int:
    """How the code at CS:RIP is to be decoded: 16, 32 or 64; SDM "Modes of Operation"."""
    if state.efer & _LMA and state.cs.long:
        return 64
    return 32 if state.cs.big and not state.rflags & _VM else 16


def linear_address(decoded: Decoded, state: InstructionRegisters, operand: MemoryOperand | None = None) -> int:
    """The linear address of *operand* (the first memory operand unless given), *state* being at the instruction."""
    operand = operand or decoded.memory
    if operand is None:
        raise Undecodable(f"{decoded.text} has no memory operand")
    offset = operand.displacement
    if operand.base == "rip" or operand.base == "eip":
        offset += state.rip + decoded.length
    elif operand.base:
        offset += read_register(state, operand.base)
    if operand.index:
        offset += read_register(state, operand.index) * operand.scale
    offset &= (1 << operand.address_bits) - 1
    if decoded.bits == 64 and operand.segment not in ("fs", "gs"):
        return offset
    segment: SegmentPart = getattr(state, operand.segment)
    return segment.base + offset & (_LINEAR_64 if decoded.bits == 64 else _LINEAR_32)


# --- From Capstone's words to ours ---------------------------------------------------------------

_OPERAND_SIZE = 0x66
_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_INS, _OUTS = frozenset({"insb", "insw", "insd"}), frozenset({"outsb", "outsw", "outsd"})
_OPERAND_SIZE = 0x66
_NO_INDEX = frozenset({"riz", "eiz"})       # a SIB byte without one, but with a scale
_DATA_ACCESS = 3                # Capstone's CS_AC_READ and CS_AC_WRITE, with the same meaning
_STRING_OPCODES = frozenset({*range(0x6C, 0x70), *range(0xA4, 0xA8), *range(0xAA, 0xB0)})     # MOVSD is SSE's too


@cache
def _disassembler(bits: int) -> Any:
    import capstone  # slow to load, and not every run decodes

    mode = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[bits]
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, mode)
    disassembler.detail = True
    return disassembler


def _operand(found: Any, raw: Any, string: bool) -> Operand:
    from capstone import x86

    if raw.type == x86.X86_OP_REG:
        return RegisterOperand(found.reg_name(raw.reg), raw.size)
    if raw.type == x86.X86_OP_IMM:
        # Capstone forgets the 1 of RCL and RCR by one, which the opcode implies.
        return ImmediateOperand(raw.imm & (1 << 8 * raw.size) - 1, raw.size) if raw.size else ImmediateOperand(1, 1)
    name = found.reg_name
    base, index, override = name(raw.mem.base), name(raw.mem.index), name(raw.mem.segment)
    if index in _NO_INDEX:
        index = None
    segment = override or ("ss" if base in ("rsp", "esp", "sp", "rbp", "ebp", "bp") else "ds")
    if string and base in ("rdi", "edi", "di"):
        segment = "es"      # no prefix overrides the destination of a string instruction
    return MemoryOperand(segment, base, index, raw.mem.scale, raw.mem.disp, raw.size, found.addr_size * 8,
                         raw.access & _DATA_ACCESS)


def _control_register(mnemonic: str, operands: tuple[Operand, ...]) -> ControlRegisterAccess | None:
    if mnemonic == "clts":
        return ControlRegisterAccess(ControlAccess.CLTS, 0, None)
    if mnemonic in ("lmsw", "smsw"):
        return ControlRegisterAccess(ControlAccess[mnemonic.upper()], 0, operands[0])
    match operands:
        case (RegisterOperand(name), source) if mnemonic == "mov" and name[:2] == "cr":
            return ControlRegisterAccess(ControlAccess.MOV_TO, int(name[2:]), source)
        case (target, RegisterOperand(name)) if mnemonic == "mov" and name[:2] == "cr":
            return ControlRegisterAccess(ControlAccess.MOV_FROM, int(name[2:]), target)
    return None


def _debug_register(mnemonic: str, operands: tuple[Operand, ...]) -> DebugRegisterAccess | None:
    match operands:
        case (RegisterOperand(name), RegisterOperand(source)) if mnemonic == "mov" and name[:2] == "dr":
            return DebugRegisterAccess(True, int(name[2:]), register_number(source))
        case (RegisterOperand(target), RegisterOperand(name)) if mnemonic == "mov" and name[:2] == "dr":
            return DebugRegisterAccess(False, int(name[2:]), register_number(target))
    return None


def _port(mnemonic: str, operands: tuple[Operand, ...], repeat: str) -> PortAccess | None:
    if mnemonic in _INS or mnemonic in _OUTS:
        size = next(operand.size for operand in operands if isinstance(operand, MemoryOperand))
        return PortAccess(mnemonic in _INS, size, None, string=True, repeat=bool(repeat))
    if mnemonic not in ("in", "out"):
        return None
    data, port = operands if mnemonic == "in" else operands[::-1]
    number = port.value if isinstance(port, ImmediateOperand) else None
    return PortAccess(mnemonic == "in", data.size, number, string=False, repeat=False)

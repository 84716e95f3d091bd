"""What a VM exit tells of the operands of its instruction: the displacement, and the VM-exit instruction information.

SDM "Basic VM-Exit Information", "Information for VM Exits Due to Instruction Execution". Both follow from how the
instruction is written; only a displacement from RIP needs to know where it stands. What the manual leaves undefined is
0: scale and index without an index register, everything about memory for a register operand, the operand size of
SGDT and its kin in 64-bit code, and the segment of INS.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.instructions.decode import Decoded, MemoryOperand, RegisterOperand, register_number
from hv.spec.exits import InstructionInfo, StringIoInfo, TableInstruction

_U64 = (1 << 64) - 1
_SEGMENTS = {"es": 0, "cs": 1, "ss": 2, "ds": 3, "fs": 4, "gs": 5}
_ADDRESS_SIZES = {16: 0, 32: 1, 64: 2}
_SCALES = {1: 0, 2: 1, 4: 2, 8: 3}
_ON_STACK = frozenset({"rsp", "rbp", "esp", "ebp", "sp", "bp"})
_RELATIVE = frozenset({"rip", "eip"})


def displacement(decoded: Decoded, rip: int) -> int:
    """The exit qualification of an instruction with a memory operand, itself at *rip*: the displacement, sign-extended
    to 64 bits. One from RIP has that of the next instruction added; without a memory operand it is 0."""
    memory = decoded.memory
    if memory is None:
        return 0
    if memory.base not in _RELATIVE:
        return memory.displacement & _U64
    return memory.displacement + rip + decoded.length & (1 << memory.address_bits) - 1


def instruction_information(decoded: Decoded) -> int:
    """The VM-exit instruction-information field; 0 for an instruction that has none."""
    describe = _BY_MNEMONIC.get(decoded.mnemonic)
    return describe(decoded) if describe is not None else 0


def _segment(decoded: Decoded, memory: MemoryOperand) -> int:
    """In 64-bit code only FS and GS are overrides; the others are what holds without one."""
    name = memory.segment
    if decoded.bits == 64 and name not in ("fs", "gs"):
        name = "ss" if memory.base in _ON_STACK else "ds"
    return _SEGMENTS[name]


def _memory(decoded: Decoded) -> InstructionInfo:
    """The part that all instructions with a memory operand share; that of a register is its number."""
    memory = decoded.memory
    if memory is None:
        return InstructionInfo(is_register=1)
    info = InstructionInfo(address_size=_ADDRESS_SIZES[memory.address_bits], segment=_segment(decoded, memory))
    if memory.index is None:
        info.index_invalid = 1
    else:
        info.scale, info.index = _SCALES[memory.scale], register_number(memory.index)
    if memory.base is None or memory.base in _RELATIVE:
        info.base_invalid = 1
    else:
        info.base = register_number(memory.base)
    return info


def _number(decoded: Decoded, place: int) -> int:
    """The register that is the operand at *place*; 0 when that is none."""
    operand = decoded.operands[place]
    return register_number(operand.name) if isinstance(operand, RegisterOperand) else 0


def _one_operand(decoded: Decoded) -> int:
    return _memory(decoded).raw


def _field(encoding: int) -> Callable[[Decoded], int]:
    """VMREAD and VMWRITE, whose operand at *encoding* names the field."""
    def describe(decoded: Decoded) -> int:
        info = _memory(decoded)
        info.register_1, info.register_2 = _number(decoded, 1 - encoding), _number(decoded, encoding)
        return info.raw
    return describe


def _invalidation(decoded: Decoded) -> int:
    info = _memory(decoded)
    info.register_2 = _number(decoded, 0)
    return info.raw


def _table(identity: TableInstruction) -> Callable[[Decoded], int]:
    """SGDT, SIDT, LGDT, LIDT."""
    def describe(decoded: Decoded) -> int:
        info = _memory(decoded)
        if decoded.bits != 64:
            info.operand_size = int((decoded.bits == 32) is not decoded.operand_override)
        info.register_2 = identity
        return info.raw
    return describe


def _selector(identity: TableInstruction) -> Callable[[Decoded], int]:
    """SLDT, STR, LLDT, LTR."""
    def describe(decoded: Decoded) -> int:
        info = _memory(decoded)
        info.register_1, info.register_2 = _number(decoded, 0), identity
        return info.raw
    return describe


def _ins(decoded: Decoded) -> int:
    assert decoded.memory is not None, "INS stores to a string"
    return StringIoInfo(address_size=_ADDRESS_SIZES[decoded.memory.address_bits]).raw


def _outs(decoded: Decoded) -> int:
    assert decoded.memory is not None, "OUTS reads a string"
    return StringIoInfo(address_size=_ADDRESS_SIZES[decoded.memory.address_bits],
                        segment=_segment(decoded, decoded.memory)).raw


_T = TableInstruction
_BY_MNEMONIC: dict[str, Callable[[Decoded], int]] = {
    **dict.fromkeys(("vmclear", "vmptrld", "vmptrst", "vmxon"), _one_operand),
    "vmread": _field(1), "vmwrite": _field(0),
    **dict.fromkeys(("invept", "invvpid", "invpcid"), _invalidation),
    "sgdt": _table(_T.SGDT_SLDT), "sidt": _table(_T.SIDT_STR), "lgdt": _table(_T.LGDT_LLDT),
    "lidt": _table(_T.LIDT_LTR), "sldt": _selector(_T.SGDT_SLDT), "str": _selector(_T.SIDT_STR),
    "lldt": _selector(_T.LGDT_LLDT), "ltr": _selector(_T.LIDT_LTR),
    **dict.fromkeys(("insb", "insw", "insd"), _ins), **dict.fromkeys(("outsb", "outsw", "outsd"), _outs),
}

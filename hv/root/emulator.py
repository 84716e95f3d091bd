"""An instruction of the guest that touches a device's memory, carried out by the worker; WinHvEmulation's part.

The intercept message has the instruction's bytes and where it wanted to go; registers and the other operand's address
are asked of the hypervisor; what the instruction leaves behind goes back with the answer. A REP does up to
`ELEMENTS_OF_A_TURN` of its elements, then the guest is entered again, so that interrupts come in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from hv.instructions.arithmetic import BIT_TESTS
from hv.instructions.decode import (
    Decoded,
    MemoryOperand,
    RegisterOperand,
    Undecodable,
    bits_of,
    containing_register,
    decode,
)
from hv.instructions.execute import execute
from hv.instructions.faults import InstructionFault
from hv.instructions.memory_operations import LOADS, memory_access
from hv.instructions.port_strings import transfer
from hv.root import answers
from hv.root.motherboard import Motherboard
from hv.root.vp_memory import GuestException, Ram, VpMemory
from hv.root.vp_registers import GENERAL, VpRegisters
from hv.root.winhv import RegisterContent, WinHv
from hv.spec.hv_registers import HvRegisterName
from hv.spec.synic import HvInterceptHeader, InterceptAccess, MemoryIntercept
from hv.spec.x86 import MAX_INSTRUCTION_LENGTH, PAGE_SIZE, Rflags, Vector

N = HvRegisterName
ELEMENTS_OF_A_TURN = 64
_TF, _OFFSET = Rflags.TF.value, PAGE_SIZE - 1
Answer = dict[HvRegisterName, RegisterContent]


class Emulator:
    """For the VPs of one partition, whose RAM is *ram* and whose devices are on *board*."""

    def __init__(self, winhv: WinHv, partition_id: int, ram: Ram, board: Motherboard) -> None:
        self._winhv, self._partition_id, self._ram, self._board = winhv, partition_id, ram, board

    def answer(self, intercept: MemoryIntercept) -> Answer:
        """Carry the instruction out, as far as one turn goes; the registers to set, an exception's among them.

        Undecodable when it is none that this project can carry out: nothing was touched then.
        """
        header = intercept.header
        registers = VpRegisters(self._winhv, self._partition_id, header)
        memory = VpMemory(self._winhv, self._partition_id, self._ram, self._board, intercept)
        try:
            if header.access_type == InterceptAccess.EXECUTE:
                raise GuestException(Vector.UD, None)      # all ones are fetched, which are no instruction
            decoded = _instruction(intercept, registers, memory)
            gva = _told_address(intercept, decoded)
            registers.ask(_named(decoded) if gva is None else _data_registers(decoded))
            event = self._carry_out(registers, decoded, memory, gva)
        except GuestException as fault:
            event = _exception(header, fault)
        except InstructionFault as fault:
            event = _exception(header, GuestException(fault.vector, fault.error_code))
        return registers.changes() | event

    def _carry_out(self, registers: VpRegisters, decoded: Decoded, memory: VpMemory, gva: int | None) -> Answer:
        """One turn. A guest that single-steps has a trap behind each element of a REP; behind a whole instruction the
        hypervisor sees to that."""
        stepped = registers.rflags & _TF
        for _ in range(1 if stepped else ELEMENTS_OF_A_TURN):
            if self._element(registers, decoded, memory, gva):
                return {}
        return registers.single_step() if stepped else {}

    def _element(self, registers: VpRegisters, decoded: Decoded, memory: VpMemory, gva: int | None) -> bool:
        """The instruction, or an element of its REP; True when it is complete."""
        if decoded.port is not None:
            return transfer(registers, decoded, memory, self._board)
        return execute(registers, decoded, memory, gva)


def _told_address(intercept: MemoryIntercept, decoded: Decoded) -> int | None:
    """The linear address of the operand, where the message tells it: that of the access, unless the instruction has
    several of them, or *gva* may be where its second page begins."""
    gva, operand = intercept.gva & _OFFSET, decoded.memory
    if not gva or operand is None or gva + operand.size > PAGE_SIZE or not _has_one_access(decoded):
        return None
    return int(intercept.gva)


@lru_cache(maxsize=1024)
def _has_one_access(decoded: Decoded) -> bool:
    """To the address of its one operand in memory, and to no other."""
    try:
        access = memory_access(decoded)
    except Undecodable:
        return False
    far_bit = access.operation in BIT_TESTS and isinstance(access.other, RegisterOperand)
    return access.operation not in ("stos", "lods") and not far_bit


@lru_cache(maxsize=1024)
def _data_registers(decoded: Decoded) -> tuple[str, ...]:
    """The registers whose value the instruction needs beside its address. A load of 4 bytes or more needs none."""
    found = [containing_register(operand.name) for operand in decoded.operands if isinstance(operand, RegisterOperand)
             and not (operand is decoded.operands[0] and operand.size >= 4 and decoded.mnemonic in LOADS)]
    return tuple(name for name in found if name in GENERAL)


def _instruction(intercept: MemoryIntercept, registers: VpRegisters, memory: VpMemory) -> Decoded:
    """From the message's bytes, which are those that the processor had; the rest is fetched where they end early."""
    code, bits = intercept.instruction_bytes[: intercept.instruction_byte_count], bits_of(registers)
    try:
        return decode(code, bits)
    except Undecodable:
        if len(code) >= MAX_INSTRUCTION_LENGTH:
            raise
    gva = registers.rip if bits == 64 else registers.cs.base + registers.rip
    while len(code) < MAX_INSTRUCTION_LENGTH:
        code += memory.fetch(gva + len(code), 1)
        try:
            return decode(code, bits)
        except Undecodable:
            continue
    raise Undecodable(f"{code.hex(' ')} is no instruction of {bits}-bit code")


@lru_cache(maxsize=1024)
def _named(decoded: Decoded) -> tuple[str, ...]:
    """The registers that *decoded* names, to be asked for at once."""
    return tuple(sorted({name for operand in decoded.operands for name in _names_of(operand, decoded.bits)}))


def _names_of(operand: object, bits: int) -> Iterable[str]:
    if isinstance(operand, RegisterOperand):
        return {containing_register(operand.name)} & GENERAL.keys()
    if not isinstance(operand, MemoryOperand):
        return ()
    found = {containing_register(name) for name in (operand.base, operand.index) if name} & GENERAL.keys()
    has_base = bits != 64 or operand.segment in ("fs", "gs")
    return found | {operand.segment} if has_base and operand.segment != "cs" else found


def _exception(header: HvInterceptHeader, fault: GuestException) -> Answer:
    answer: Answer = dict(answers.exception(header, fault.vector, fault.error_code, waiting=0) or {})
    if fault.address is not None:
        answer[N.CR2] = fault.address
    return answer

"""Registers in a page of the partition that the hypervisor itself answers for: `Partition.mmio_pages`."""

from __future__ import annotations

from hv.hypervisor.partitions.partition import MmioPage
from hv.hypervisor.verdicts import ADVANCE, Halt, Verdict
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.instructions.decode import Undecodable
from hv.instructions.memory_operations import memory_access, perform
from hv.machine.fetch import decode_at
from hv.spec.x86 import PAGE_SIZE, Rflags
from hv.trace.events import MmioAccess
from hv.vmx.exit import VmExit

_RF = Rflags.RF.value
_OFFSET = PAGE_SIZE - 1


def emulate_mmio(vp: VirtualProcessor, exit: VmExit, registers: MmioPage, gpa: int) -> Verdict:
    """Carry the instruction out on *registers*, one element of a string at a time; the part of an access that lies
    beyond the page is all ones, and is not written."""
    try:
        decoded = decode_at(vp.regs, vp.vcpu.memory)
        access = memory_access(decoded)
        size = min(access.size, PAGE_SIZE - (gpa & _OFFSET))
        done = perform(vp.regs, access, lambda: _read(vp, registers, gpa, size, access.size),
                       lambda value: _write(vp, registers, gpa, size, value))
    except Undecodable as error:
        return Halt(f"an instruction that cannot be emulated touches registers at {gpa:#x}: {error}")
    exit.instruction_length = decoded.length if done else 0
    vp.regs.rflags &= ~_RF              # which the exit has set: the instruction was carried out
    return ADVANCE


def _read(vp: VirtualProcessor, registers: MmioPage, gpa: int, size: int, wanted: int) -> int:
    value = registers.read(gpa & _OFFSET, size) | (1 << 8 * wanted) - (1 << 8 * size)
    if vp.trace.listening:
        vp.trace.emit(MmioAccess(gpa, wanted, False, value))
    return value


def _write(vp: VirtualProcessor, registers: MmioPage, gpa: int, size: int, value: int) -> None:
    value &= (1 << 8 * size) - 1
    if vp.trace.listening:
        vp.trace.emit(MmioAccess(gpa, size, True, value))
    registers.write(gpa & _OFFSET, size, value)

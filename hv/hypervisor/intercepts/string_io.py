"""INS and OUTS: one element of the string after the other goes between a port and the guest's memory.

To the parent each element is an IN or OUT of its own; what the instruction does to memory and to the string's registers
is done here, when the parent has answered. RIP stays until the last element, so interrupts come in between.

A string that is not in RAM is the parent's, which is told of an access to memory, and does both sides.

# Simplified: Hyper-V leaves the guest's memory to the worker too, and tells it of the whole string at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hv.instructions.decode import MemoryOperand, linear_address
from hv.instructions.memory_operations import elements_left, next_element
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.fetch import decode_at
from hv.machine.ram import pages_of

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor


class StringElement(NamedTuple):
    """One element on its way."""

    memory: MemoryOperand
    gva: int
    repeat: bool
    last: bool          # behind it the instruction is done
    input: bool         # INS
    value: int          # of OUTS
    rax: int            # the guest's: neither instruction touches it


def element_at(vp: VirtualProcessor, input: bool) -> StringElement:
    """The next element of the INS or OUTS at RIP; GuestFault when memory refuses it, NestedFault where none is."""
    regs, memory = vp.regs, vp.vcpu.memory
    decoded = decode_at(regs, memory)
    operand = decoded.memory
    assert operand is not None, f"{decoded.text} has no string in memory"
    gva, repeat, value = linear_address(decoded, regs, operand), bool(decoded.repeat), 0
    if input:
        _check_store(vp, gva, operand.size)
    else:
        value = memory.read_integer(gva, operand.size)
    return StringElement(operand, gva, repeat, not repeat or elements_left(regs, operand) == 1, input, value, regs.rax)


def _check_store(vp: VirtualProcessor, gva: int, size: int) -> None:
    """Raise what a store would, of the guest's tables and of the second level, before the port is read."""
    memory = vp.vcpu.memory
    memory.check(gva, size, Access.WRITE)
    for at, _ in pages_of(gva, size):
        try:
            vp.vcpu.second_level.translate(memory.walk(at, Access.WRITE).gpa, Access.WRITE.value)
        except NestedFault as fault:
            fault.gva = at
            raise


def finish_element(vp: VirtualProcessor, element: StringElement, value: int) -> bool:
    """Store *value* when it is an INS, and go to the next element; False when memory refuses now what it did not."""
    if element.input:
        try:
            vp.vcpu.memory.write(element.gva, value.to_bytes(element.memory.size, "little"))
        except (GuestFault, NestedFault):
            return False
    next_element(vp.regs, element.memory, element.repeat)
    return True


def complete_element(vp: VirtualProcessor, element: StringElement) -> None:
    """The parent has answered as it does to an IN or OUT, or with an exception."""
    value = vp.regs.rax & (1 << 8 * element.memory.size) - 1
    vp.regs.rax = element.rax
    if vp.pending_event is None and not finish_element(vp, element, value):
        vp.regs.rip = vp.asked_at       # the guest meets the fault when it tries again

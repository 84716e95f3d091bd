"""IN and OUT: no port is the hypervisor's, so the parent is asked, if it wants to be. Root's reach the hardware."""

from __future__ import annotations

from hv.hypervisor.intercepts import intercepts
from hv.hypervisor.intercepts.string_io import element_at, finish_element
from hv.hypervisor.run import on_exit
from hv.hypervisor.verdicts import ADVANCE, ASK_PARENT, YIELD, Verdict
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.spec.exits import ExitReason, IoQualification
from hv.trace.events import PortIo
from hv.vmx.exit import VmExit

_READ, _WRITE = 1, 2
_STRING, _IN = IoQualification(string=1).raw, IoQualification(in_=1).raw
_PORT_SHIFT = IoQualification(port=1).raw.bit_length() - 1


@on_exit(ExitReason.IO_INSTRUCTION)
def handle_io(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """TLFS "Intercepts": without an intercept OUT is dropped and IN gives all ones, but root's pass to the hardware."""
    qualification = exit.qualification
    if qualification & _STRING:
        return _string_io(vp, exit, IoQualification(qualification))
    port, size, is_read = qualification >> _PORT_SHIFT, (qualification & 7) + 1, qualification & _IN
    if vp.trace.listening:
        value = 0 if is_read else vp.regs.rax & (1 << 8 * size) - 1
        vp.trace.emit(PortIo(port, size, not is_read, value))
    if vp.partition.intercepts.wants_port(port, _READ if is_read else _WRITE):
        if vp.dispatched is not None and vp.hypervisor.root_answers_at_once:
            return vp.dispatched.ask_port(port, size, 0 if is_read else 1, exit.instruction_length)
        intercepts.send_io_port(vp, port, size, not is_read, exit.instruction_length)
        return ASK_PARENT
    io = IoQualification(qualification)
    value = _unasked(vp, io, vp.regs.rax)
    if io.in_:
        vp.regs.rax = vp.regs.rax & -(1 << 8 * io.size) | value if io.size < 4 else value
    return _go_on(vp)


def _string_io(vp: VirtualProcessor, exit: VmExit, io: IoQualification) -> Verdict:
    """INS or OUTS: its next element."""
    element = element_at(vp, bool(io.in_))
    if vp.trace.listening:
        vp.trace.emit(PortIo(io.port, io.size, not io.in_, element.value))
    length = exit.instruction_length if element.last else 0
    if _parent_wants(vp, io):
        rax = element.rax if io.in_ else element.value
        intercepts.send_io_port(vp, io.port, io.size, not io.in_, length, rax=rax)
        vp.string_element = element
        return ASK_PARENT
    finish_element(vp, element, _unasked(vp, io, element.value))
    exit.instruction_length = length
    return _go_on(vp)


def _unasked(vp: VirtualProcessor, io: IoQualification, value: int) -> int:
    """Write *value* to the port, or give what is read there: the machine's own when it is root that asks."""
    ports, ones = vp.hypervisor.ports, (1 << 8 * io.size) - 1
    if vp.partition.parent is not None or ports is None:
        return ones
    if io.in_:
        return ports.read(io.port, io.size)
    ports.write(io.port, io.size, value & ones)
    return ones


def _go_on(vp: VirtualProcessor) -> Verdict:
    """The instruction is done; root's may have switched the machine off."""
    return YIELD if vp.explicit_suspend and vp.partition.parent is None else ADVANCE


def _parent_wants(vp: VirtualProcessor, io: IoQualification) -> int:
    return vp.partition.intercepts.wants_port(io.port, _READ if io.in_ else _WRITE)

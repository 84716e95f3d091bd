"""I/O instructions: permission first, then the bitmaps; SDM "Unconditional I/O Exiting", "I/O-Bitmap Addresses".

To the engine the memory side of INS and OUTS comes before the port: it reads or writes the string, and may fault over
it, where the processor exits first. So a fault is looked at for being theirs.
# Simplified: when INS exits, the engine has already stored zeros where its element will go, and an EPT violation on the
way through the guest's page tables to a string comes before the exit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import Decoded, PortAccess, Undecodable, linear_address
from hv.instructions.memory_operations import next_element
from hv.machine.faults import GuestFault, NestedFault
from hv.machine.fetch import decode_at
from hv.machine.io_permission import io_permitted
from hv.machine.ram import read_physical
from hv.spec.exits import ExitReason, IoQualification
from hv.spec.x86 import PAGE_SIZE, Vector
from hv.vmx.events.debug_registers import MET, port_bits
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.operands import advance, decoded_at

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_LARGEST = 4                    # bytes of an element
_PAGE_OFFSET = PAGE_SIZE - 1
_IO_INSTRUCTION, _PORT_SHIFT = ExitReason.IO_INSTRUCTION, IoQualification(port=1).raw.bit_length() - 1


def _plain_instructions() -> dict[tuple[int, int], tuple[int, int]]:
    """IN and OUT without a prefix: (opcode, bytes of data) -> qualification but for the port, length."""
    found = {}
    for opcode, size in ((0xE4, 1), (0xE5, 2), (0xE5, 4), (0xE6, 1), (0xE7, 2), (0xE7, 4)):
        for by_dx in (0, 8):                # the same in DX, eight opcodes on
            qualification = IoQualification(size_minus_1=size - 1, in_=int(opcode < 0xE6), immediate=int(not by_dx))
            found[opcode | by_dx, size] = qualification.raw, 1 if by_dx else 2
    return found


_PLAIN = _plain_instructions()


def port(vcpu: Vcpu, detail: int) -> VmExit | None:
    """IN, OUT, INS, OUTS: #GP without permission, an exit when the bitmaps say so, else an empty bus."""
    port, size, _ = vcpu.engine.port()
    if not io_permitted(vcpu.state, vcpu.memory, port, size):
        raise GuestFault(Vector.GP, 0)
    plain = _PLAIN.get((vcpu.engine.code_head() & 0xFF, size))
    if plain is not None and not vcpu.watchful and _port_exits(vcpu, port, size):   # the usual: no disassembler
        return VmExit(_IO_INSTRUCTION, plain[0] | port << _PORT_SHIFT, plain[1])
    decoded = decoded_at(vcpu)
    access = decoded.port
    if access is None:      # what the engine executed does not stand there any more
        vcpu.engine.distrust_code()
        return None
    if vcpu.watchful and (met := port_bits(vcpu.state, port, access.size)):
        vcpu.non_register.pending_debug |= met | MET        # it comes behind the instruction, whoever does that
    if _port_exits(vcpu, port, size):
        return _exit(vcpu, decoded, access, port)
    if access.string:
        _string_on_empty_bus(vcpu, decoded, access)
        return None
    if access.input:
        rax = vcpu.state.rax | (1 << 8 * size) - 1          # nothing answers: all ones
        vcpu.state.rax = rax if size < 4 else 0xFFFF_FFFF
    advance(vcpu, decoded.length)
    return None


def _exit(vcpu: Vcpu, decoded: Decoded, access: PortAccess, port: int) -> VmExit:
    exit = VmExit(ExitReason.IO_INSTRUCTION, IoQualification(
        size_minus_1=access.size - 1, in_=int(access.input), string=int(access.string), rep=int(access.repeat),
        immediate=int(access.port is not None), port=port).raw, decoded.length)
    if access.string:
        exit.guest_linear_address, exit.instruction = linear_address(decoded, vcpu.state), decoded
    return exit


def _port_exits(vcpu: Vcpu, port: int, size: int) -> bool:
    if vcpu.controls.io_bitmaps is None:
        return vcpu.controls.ports_exit
    if port + size > 0x10000:
        return True
    memory, bitmaps = vcpu.second_level.memory, vcpu.controls.io_bitmaps
    first = bitmaps[port >> 15] + ((port & 0x7FFF) >> 3)
    if (port & 7) + size <= 8 and first < memory.size:
        return bool(memory.view[first] >> (port & 7) & (1 << size) - 1)
    return any(read_physical(memory, bitmaps[each >> 15] + ((each & 0x7FFF) >> 3), 1)[0] >> (each & 7) & 1
               for each in range(port, port + size))


def _string_on_empty_bus(vcpu: Vcpu, decoded: Decoded, access: PortAccess) -> None:
    """One element: INS stores all ones, OUTS is heard by nobody. RIP stays while REP has more to do."""
    operand, state = decoded.memory, vcpu.state
    assert operand is not None, f"{decoded.text} has no string"
    gva = linear_address(decoded, state)
    if access.input:
        vcpu.memory.write(gva, b"\xff" * access.size)
    else:
        vcpu.memory.read(gva, access.size)
    if next_element(state, operand, access.repeat):
        advance(vcpu, decoded.length)
    else:
        advance(vcpu, 0)                        # each repetition is stepped


# --- the memory side, which the engine does first ----------------------------------------------------------

def may_be_string(vcpu: Vcpu, address: int, write: int) -> bool:
    """*address*, linear or guest-physical, is where an INS (*write*) or OUTS would go as far as the offset in its page
    tells, and they can exit: that is cheap, and spares most faults the look at their instruction."""
    state = vcpu.state
    offset: int = address - (state.rdi if write else state.rsi) & _PAGE_OFFSET
    if state.bits == 64:
        if offset < _LARGEST or write:
            return offset < _LARGEST and vcpu.controls.ports_may_exit
        fs, gs = state.override_bases
        return (offset - fs & _PAGE_OFFSET < _LARGEST or offset - gs & _PAGE_OFFSET < _LARGEST) \
            and vcpu.controls.ports_may_exit
    bases = [state.es.base] if write else [
        segment.base for segment in (state.ds, state.es, state.cs, state.ss, state.fs, state.gs)]
    return any(offset - base & _PAGE_OFFSET < _LARGEST for base in bases)


def string_before_fault(vcpu: Vcpu) -> VmExit | None:
    """The engine met a fault: the exit, or the GuestFault, of an INS or OUTS at RIP, which comes before it."""
    if not vcpu.controls.ports_may_exit:
        return None
    try:
        decoded = decode_at(vcpu.state, vcpu.memory)
    except (Undecodable, GuestFault, NestedFault):
        return None
    access = decoded.port
    if access is None or not access.string:
        return None
    port = vcpu.state.rdx & 0xFFFF
    if not io_permitted(vcpu.state, vcpu.memory, port, access.size):
        raise GuestFault(Vector.GP, 0)
    return _exit(vcpu, decoded, access, port) if _port_exits(vcpu, port, access.size) else None

"""Where the parameters of a call are: in memory, or in registers; TLFS "Hypercall Inputs", "Hypercall Outputs".

In memory, input and output are lists at two addresses of the caller's. In the register (fast) forms they are one block
of bytes: the two parameter registers, then XMM0..XMM5. Input stands at its beginning. Output follows at the next
multiple of 16, so that no register that holds input changes; 32-bit callers get none in registers, TLFS "XMM Fast
Hypercall Output".
"""

from __future__ import annotations

import struct

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.registry import FAST_INPUT_SIZE, Call, Declaration
from hv.hypervisor.memory.gpa_space import GpaSpace
from hv.machine.faults import Access, GuestFault
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.x86 import PAGE_SIZE, Cr0, Cr4, Vector

XMM_SIZE, XMM_COUNT = 16, 6
REGISTER_BLOCK_SIZE = FAST_INPUT_SIZE + XMM_COUNT * XMM_SIZE
_PAIR = struct.Struct("<QQ")
_FAST_OUTPUT = int(HvPrivilege.FAST_HYPERCALL_OUTPUT)
_XMM_DISABLED, _XMM_ENABLED = (Cr0.EM | Cr0.TS).value, Cr4.OSFXSR.value


def read_input(call: Call, declaration: Declaration, fast: int, size: int, output_size: int, input_gpa: int,
               output_gpa: int) -> bytes:
    """The *size* bytes of input, or a few more, once it is certain that *output_size* bytes can be given back.

    INVALID_HYPERCALL_INPUT, INVALID_ALIGNMENT, ACCESS_DENIED, INVALID_PARAMETER, in this order; GuestFault 6 where the
    XMM registers are wanted and cannot be used; NestedFault.
    """
    read = read_registers if fast else read_memory
    return read(call, declaration, size, output_size, input_gpa, output_gpa)


def write_output(call: Call, fast: int, size: int, output_gpa: int, at: int, data: bytes) -> None:
    """Store *data* at byte *at* of the output of a call whose input has *size* bytes."""
    if fast:
        _write_registers(call, _output_place(size) + at, data)
    else:
        call.partition.space.write(output_gpa + at, data)


def _without_privilege(call: Call, declaration: Declaration) -> HypercallError:
    missing = declaration.privilege & ~call.partition.privileges
    return HypercallError(HvStatus.ACCESS_DENIED, f"{declaration.code.name} needs privilege {missing:#x}")


# --- memory -------------------------------------------------------------------------------------------------------

def read_memory(call: Call, declaration: Declaration, size: int, output_size: int, input_gpa: int,
                output_gpa: int) -> bytes:
    """`read_input` of the memory form. An address is not looked at when there is nothing in its direction."""
    partition = call.partition
    space = partition.space
    if size and _is_misplaced(space, input_gpa, size):
        raise _misplaced("input", input_gpa, size)
    if output_size and _is_misplaced(space, output_gpa, output_size):
        raise _misplaced("output", output_gpa, output_size)
    if declaration.privilege & ~partition.privileges:
        raise _without_privilege(call, declaration)
    if size and output_size and input_gpa < output_gpa + output_size and output_gpa < input_gpa + size:
        # The TLFS forbids it and names no status.
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"input {input_gpa:#x} and output {output_gpa:#x} overlap")
    data = space.read(input_gpa, size) if size else b""
    if output_size:
        space.translate(output_gpa, Access.WRITE)
    return data


def _is_misplaced(space: GpaSpace, gpa: int, size: int) -> bool:
    """Unless *size* bytes at *gpa* are 8-aligned, in one page, inside the GPA space."""
    return bool(gpa & 7) or (gpa & PAGE_SIZE - 1) + size > PAGE_SIZE or gpa >> 12 >= space.page_limit


def _misplaced(what: str, gpa: int, size: int) -> HypercallError:
    return HypercallError(HvStatus.INVALID_ALIGNMENT, f"{what} of {size} bytes at {gpa:#x}: misaligned or misplaced")


# --- registers ----------------------------------------------------------------------------------------------------

def _output_place(size: int) -> int:
    """Where output begins behind *size* bytes of input."""
    return size + XMM_SIZE - 1 & -XMM_SIZE


def read_registers(call: Call, declaration: Declaration, size: int, output_size: int, first: int,
                   second: int) -> bytes:
    """`read_input` of the register form."""
    used = _output_place(size) + output_size if output_size else size
    _check_registers(call, declaration, used, output_size)
    if declaration.privilege & ~call.partition.privileges:
        raise _without_privilege(call, declaration)
    xmm_count = (size - 1) // XMM_SIZE if size else 0
    return _PAIR.pack(first, second) + b"".join(call.vp.regs.read_xmm(n) for n in range(xmm_count))


def _check_registers(call: Call, declaration: Declaration, used: int, output_size: int) -> None:
    """INVALID_HYPERCALL_INPUT for a caller who has no such form of the call; #UD for one who cannot use XMM now."""
    regs = call.vp.regs
    answers = not output_size or (regs.is_kernel_64 and call.partition.has(_FAST_OUTPUT))
    if used > REGISTER_BLOCK_SIZE or not answers:
        text = f"{declaration.code.name} does not fit the caller's registers"
        raise HypercallError(HvStatus.INVALID_HYPERCALL_INPUT, text)
    if used > FAST_INPUT_SIZE and (regs.cr0 & _XMM_DISABLED or not regs.cr4 & _XMM_ENABLED):
        raise GuestFault(Vector.UD)         # an instruction on XMM would fault too, be it with #NM


def _write_registers(call: Call, start: int, data: bytes) -> None:
    """Store *data* from byte *start* of the block on; what lies around it stays as it is."""
    regs = call.vp.regs
    while data:
        unit, at = divmod(start, XMM_SIZE)
        part, data = data[: XMM_SIZE - at], data[XMM_SIZE - at :]
        block = bytearray(regs.read_xmm(unit - 1) if unit else _PAIR.pack(regs.rdx, regs.r8))
        block[at : at + len(part)] = part
        if unit:
            regs.write_xmm(unit - 1, bytes(block))
        else:
            regs.rdx, regs.r8 = _PAIR.unpack(block)
        start += len(part)

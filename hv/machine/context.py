"""Where the engine keeps the processor's state inside a saved context, found out at start instead of believed.

`uc_context_save` copies the engine's processor structure in half a microsecond; through that copy every register,
hidden field and internal flag is read and written at once, also inside a hook. Its layout is the engine's own
business, so `calibrate` changes one thing at a time through the public interface, sees which bytes of the copy moved,
and compares with the layout below. A Unicorn whose layout differs is refused with a message, since running on would
corrupt guests silently.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from typing import Any

from unicorn import UC_ARCH_X86, UC_MODE_64, Uc
from unicorn import x86_const as reg
from unicorn.unicorn_py3.unicorn import uclib

# Byte offsets in a context of Unicorn 2.1.4. The first 0x28 bytes are the API's own header.
REGS = 0x28                 # RAX RCX RDX RBX RSP RBP RSI RDI R8..R15
RIP = 0xA8
EFLAGS = 0xB0               # without the arithmetic flags and DF
CC_DST, CC_SRC, CC_SRC2 = 0xB8, 0xC0, 0xC8
CC_OP = 0xD0                # u32; 1 = the flags stand in CC_SRC as they are
DF = 0xD4                   # i32; 1 = up, -1 = down
HFLAGS = 0xD8               # u32
HFLAG_LMA = 1 << 14         # IA-32e mode is active
HFLAG_CS64 = 1 << 15        # and the code is 64-bit code
HFLAGS2 = 0xDC              # u32
SEGMENTS = 0xE0             # ES CS SS DS FS GS LDTR TR GDTR IDTR, 24 bytes each:
                            # selector u32, base u64 @8, limit u32, flags u32
CR = 0x1D0                  # CR0..CR8, u64 each
EFER = 0x278
FPU_TOP = 0x284             # u32: the number of ST(0)
FPU_STATUS, FPU_CONTROL = 0x288, 0x28A      # u16; the status without TOP
FPU_TAGS = 0x28C            # 8 bytes, of registers by number: 1 = empty
FPU_REGISTERS = 0x298       # by number, 10 bytes each, 16 apart
FPU_OPCODE = 0x318          # u16
FPU_IP, FPU_DP = 0x320, 0x328
MXCSR = 0x358
XMM = 0x360                 # 64 bytes apart
SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP = 0x12E8, 0x12F0, 0x12F8
STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE = 0x1300, 0x1310, 0x1318, 0x1320, 0x1328
TSC_AUX = 0x1348
PAT = 0x14C8
ERROR_CODE = 0x1530         # i32: of the last exception or intercept
EXCEPTION_IS_INT = 0x1534   # i32
EXCEPTION_NEXT_EIP = 0x1538
DR = 0x1540                 # DR0..DR7, u64 each
IN_FLIGHT = 0x15A0          # i32: exception in flight, -1 = none
VMCB = 0x15A8               # u64: address of the control block
INTERCEPT = 0x15B8          # u64: intercept words 3 and 4
INTERCEPT_CR_READ, INTERCEPT_CR_WRITE = 0x15C0, 0x15C2
INTERCEPT_DR_READ, INTERCEPT_DR_WRITE = 0x15C4, 0x15C6
INTERCEPT_EXCEPTIONS = 0x15C8
NESTED_CR3 = 0x15D0
NESTED_MODE = 0x15D8        # u32: 1 PAE, 2 long mode, 4 NX
SIZE = 0x15E8

CC_OP_EFLAGS = 1
FPU_CONTROL_WORD, MXCSR_WORD = reg.UC_X86_REG_FPCW, reg.UC_X86_REG_MXCSR     # for `write_register`
CPU_MODEL = 33              # Opteron G4: SVM, SSE4.2, AES, and neither RDRAND nor FSGSBASE, which have no intercept

# One register written, and where its bytes must appear.
_REGISTER_MARKS = (
    (reg.UC_X86_REG_RAX, REGS), (reg.UC_X86_REG_R15, REGS + 15 * 8), (reg.UC_X86_REG_RIP, RIP),
    (reg.UC_X86_REG_CR2, CR + 2 * 8), (reg.UC_X86_REG_XMM1, XMM + 64), (reg.UC_X86_REG_DR0, DR),
    (reg.UC_X86_REG_DR7, DR + 7 * 8), (reg.UC_X86_REG_FS_BASE, SEGMENTS + 4 * 24 + 8),
)
_MSR_MARKS = (
    (0x174, SYSENTER_CS), (0x175, SYSENTER_ESP), (0x176, SYSENTER_EIP), (0xC0000081, STAR), (0xC0000082, LSTAR),
    (0xC0000083, CSTAR), (0xC0000084, FMASK), (0xC0000102, KERNEL_GS_BASE), (0xC0000103, TSC_AUX), (0x277, PAT),
)


class EngineMismatch(Exception):
    """The Unicorn found here keeps its state elsewhere than the one this was written for."""


def allocate(uc: Uc) -> ctypes.c_void_p:
    """A new context of *uc*; free it with `release`."""
    context = ctypes.c_void_p()
    status = uclib.uc_context_alloc(uc._uch, ctypes.byref(context))
    if status or not context.value:
        raise MemoryError(f"no memory for a processor context (uc_context_alloc: {status})")
    return context


def release(context: ctypes.c_void_p) -> None:
    """Give a context back."""
    uclib.uc_context_free(context)


def view(context: ctypes.c_void_p) -> memoryview:
    """The context's SIZE bytes, writable, in place."""
    return memoryview((ctypes.c_uint8 * SIZE).from_address(context.value or 0)).cast("B")


def write_register(context: ctypes.c_void_p, register: int, value: bytes) -> None:
    """Let the engine itself write *register* of *context*, with all it keeps beside it."""
    uclib.uc_context_reg_write(context, register, value)


class _Probe:
    """A scratch engine whose saved context is looked at before and after one change."""

    def __init__(self) -> None:
        self.uc = Uc(UC_ARCH_X86, UC_MODE_64)
        self.uc.ctl_set_cpu_model(CPU_MODEL)
        self.uc.ctl_set_tcg_buffer_size(1 << 20)
        self.uc.mem_map(0, 0x1000)
        self.context = allocate(self.uc)

    def image(self) -> bytes:
        uclib.uc_context_save(self.uc._uch, self.context)
        return ctypes.string_at(self.context.value or 0, SIZE)

    def check(self, what: str, offset: int, mark: bytes) -> None:
        found = self.image()
        if found[offset : offset + len(mark)] != mark:
            where = found.find(mark)
            raise EngineMismatch(
                f"this Unicorn keeps {what} at {f'{where:#x}' if where >= 0 else 'an unknown place'}, not at "
                f"{offset:#x} of its context; hvlab works with unicorn 2.1.4: pip install 'unicorn==2.1.4'")


@functools.cache
def calibrate() -> None:
    """Check the layout above against the engine found here; EngineMismatch when it differs. Once per process."""
    probe = _Probe()
    size = uclib.uc_context_size(probe.uc._uch)
    if size != SIZE:
        raise EngineMismatch(f"this Unicorn's context has {size:#x} bytes, not {SIZE:#x}; hvlab works with "
                             "unicorn 2.1.4: pip install 'unicorn==2.1.4'")
    for number, (register, offset) in enumerate(_REGISTER_MARKS):
        value = 0x0000_1234_5600_0000 + number * 0x111 + 1
        probe.uc.reg_write(register, value)
        width = 4 if register == reg.UC_X86_REG_XMM1 else 8
        probe.check(f"register {register}", offset, struct.pack("<Q", value)[:width])
    for number, (index, offset) in enumerate(_MSR_MARKS):
        value = 0x0606 + number * 0x0101
        probe.uc.msr_write(index, value)
        probe.check(f"MSR {index:#x}", offset, struct.pack("<I", value))
    _check_flags(probe)
    _check_floating_point(probe)
    release(probe.context)


def _check_flags(probe: _Probe) -> None:
    """EFER, CR0, CR4 and the split RFLAGS."""
    uc: Any = probe.uc
    uc.msr_write(0xC0000080, 0x1D01)
    probe.check("EFER", EFER, struct.pack("<Q", uc.msr_read(0xC0000080)))
    uc.reg_write(reg.UC_X86_REG_CR4, 0x6A0)
    probe.check("CR4", CR + 4 * 8, struct.pack("<Q", 0x6A0))
    uc.reg_write(reg.UC_X86_REG_EFLAGS, 0x246)
    probe.check("RFLAGS", EFLAGS, struct.pack("<Q", 0x246))
    probe.check("the arithmetic flags", CC_SRC, struct.pack("<Q", 0x44))
    probe.check("the flags' form", CC_OP, struct.pack("<Ii", CC_OP_EFLAGS, 1))


def _check_floating_point(probe: _Probe) -> None:
    """The x87 registers by number and from the top of the stack on, and that a context's FCW and MXCSR are written."""
    uc: Any = probe.uc
    uc.reg_write(reg.UC_X86_REG_FPSW, 0x2941)
    probe.check("the top of the x87 stack", FPU_TOP, struct.pack("<IH", 5, 0x0141))
    uc.reg_write(reg.UC_X86_REG_FPTAG, 0xFFCF)
    probe.check("the x87 tags", FPU_TAGS, bytes((1, 1, 0, 1, 1, 1, 1, 1)))
    uc.reg_write(reg.UC_X86_REG_FP1, (0x1122334455667788, 0x4001))
    probe.check("the x87 registers", FPU_REGISTERS + 16, struct.pack("<QH", 0x1122334455667788, 0x4001))
    uc.reg_write(reg.UC_X86_REG_FOP, 0x123)
    probe.check("the x87 opcode", FPU_OPCODE, struct.pack("<H", 0x123))
    for name, register, offset in (("instruction", reg.UC_X86_REG_FIP, FPU_IP), ("data", reg.UC_X86_REG_FDP, FPU_DP)):
        uc.reg_write(register, 0x1122334455667700 + offset & 0xFF)
        probe.check(f"the x87 {name} pointer", offset, struct.pack("<Q", 0x1122334455667700 + offset & 0xFF))
    for name, register, offset in (("FCW", FPU_CONTROL_WORD, FPU_CONTROL), ("MXCSR", MXCSR_WORD, MXCSR)):
        write_register(probe.context, register, struct.pack("<I", 0x0F7F))
        uclib.uc_context_restore(probe.uc._uch, probe.context)
        probe.check(name, offset, struct.pack("<H", 0x0F7F))

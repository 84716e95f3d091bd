"""Registers and parts of them as people write them: rax, eax, zf, cs.base, cr4.pae, sint2.masked.

Behind each is a register that a parent can set (`hv/hypervisor/registers/`), and which of its bits are meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntFlag
from functools import cache
from typing import NamedTuple

import hv.hypervisor.registers  # noqa: F401  provides them
from hv.debug.conditions import closest
from hv.debug.errors import DebugError
from hv.hypervisor.registers.table import REGISTERS, VALUE_SIZE
from hv.machine.floating_point import X87_SIZE
from hv.spec.hv_registers import (
    FpControlStatusRegister,
    FpRegister,
    InternalActivityRegister,
    InterruptStateRegister,
    PendingExceptionEvent,
    PendingInterruptionRegister,
    XmmControlStatusRegister,
)
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.layout import Layout, Register, bits
from hv.spec.msrs import Msr
from hv.spec.synic import HvSegmentRegister, HvTableRegister
from hv.spec.synthetic_msrs import SYNTHETIC_MSR_TABLE
from hv.spec.x86 import Cr0, Cr4, Dr6, Dr7, Efer, Rflags

_LAYOUTS: dict[N, type[Layout]] = {
    **{N(number): HvSegmentRegister for number in range(N.ES, N.TR + 1)}, N.GDTR: HvTableRegister,
    N.IDTR: HvTableRegister, N.FP_CONTROL_STATUS: FpControlStatusRegister,
    N.XMM_CONTROL_STATUS: XmmControlStatusRegister, **{N(N.FP_MMX0 + number): FpRegister for number in range(8)},
}
_FLAGS: dict[N, type[IntFlag]] = {N.RFLAGS: Rflags, N.CR0: Cr0, N.CR4: Cr4, N.EFER: Efer, N.DR6: Dr6}
_BITS: dict[N, type[Register]] = {
    N.DR7: Dr7, N.INTERRUPT_STATE: InterruptStateRegister, N.INTERNAL_ACTIVITY_STATE: InternalActivityRegister,
    N.PENDING_INTERRUPTION: PendingInterruptionRegister, N.PENDING_EVENT0: PendingExceptionEvent,
}
_LEGACY = {"ax": N.RAX, "cx": N.RCX, "dx": N.RDX, "bx": N.RBX, "sp": N.RSP, "bp": N.RBP, "si": N.RSI, "di": N.RDI}


class Part(NamedTuple):
    """*width* bits from bit *low* on of a register; a write to it clears the bits above, up to *clears*."""

    register: N
    low: int
    width: int
    clears: int = 0

    def of(self, value: int) -> int:
        """What it is in *value*, the whole register."""
        return value >> self.low & (1 << self.width) - 1

    def put(self, value: int, part: int) -> int:
        """The whole register *value* with *part* in it."""
        changed = (1 << max(self.width, self.clears)) - 1 << self.low
        return value & ~changed | part << self.low


def part_called(text: str) -> Part:
    """The register, or part of one, that *text* names; DebugError with the nearest ones."""
    found = parts().get(text.lower())
    if found is None:
        near = [name for name in parts() if name.startswith(f"{text.lower()}.")] or closest(text.lower(), parts())
        raise DebugError(f"`{text}` is no register that can be set",
                         f"near: {', '.join(near)}" if near else "`regs` shows the usual ones")
    return found


@cache
def parts() -> dict[str, Part]:
    """Every name that can be set, the usual ones first."""
    return {name: part for name, part in _named() if REGISTERS[part.register][1] is not None}


def _named() -> Iterator[tuple[str, Part]]:
    for register in N:
        if int(register) in REGISTERS:
            wide = register is N.PENDING_EVENT0 or N.XMM0 <= register <= N.XMM15
            if register not in _LAYOUTS:        # of which a number as a whole means nothing to anybody
                yield register.name.lower(), Part(register, 0, 8 * VALUE_SIZE if wide else 64)
            yield from ((name, part) for name, part in _parts_of(register)
                        if not name.partition(".")[2].startswith(("reserved", "padding")))
    yield from ((name.lower(), _flag(N.RFLAGS, flag)) for name, flag in Rflags.__members__.items())
    yield from _general()
    yield from ((f"st{n}", Part(N(N.FP_MMX0 + n), 0, 8 * X87_SIZE)) for n in range(8))
    for name, register, field in (("fcw", N.FP_CONTROL_STATUS, "fp_control"),
                                  ("fsw", N.FP_CONTROL_STATUS, "fp_status"),
                                  ("mxcsr", N.XMM_CONTROL_STATUS, "xmm_status_control")):
        yield name, _field(register, field)


def _general() -> Iterator[tuple[str, Part]]:
    """The narrow names of the general registers; SDM "General-Purpose Registers": 32 bits clear the upper half."""
    for name, register in _LEGACY.items():
        yield f"e{name}", Part(register, 0, 32, 64)
        yield name, Part(register, 0, 16)
        yield f"{name.removesuffix('x')}l", Part(register, 0, 8)
        if name.endswith("x"):
            yield f"{name[0]}h", Part(register, 8, 8)
    for n in range(8, 16):
        for suffix, width in (("d", 32), ("w", 16), ("b", 8)):
            yield f"r{n}{suffix}", Part(N[f"R{n}"], 0, width, 64 if width == 32 else 0)


def _parts_of(register: N) -> Iterator[tuple[str, Part]]:
    name = register.name.lower()
    for flag in _FLAGS[register].__members__.values() if register in _FLAGS else ():
        yield f"{name}.{(flag.name or '').lower()}", _flag(register, flag)
    for field in _LAYOUTS[register].FIELDS if register in _LAYOUTS else ():
        yield f"{name}.{field}", _field(register, field)
    for field, place in _bits_of(register).items():
        yield f"{name}.{field}", Part(register, place.low, place.high - place.low + 1)


def _bits_of(register: N) -> dict[str, bits]:
    """The fields of a register that is declared as one, its own or that of its MSR."""
    msr = Msr.__members__.get(f"HV_{register.name}")
    row = SYNTHETIC_MSR_TABLE.get(int(msr)) if msr is not None else None
    layout = _BITS.get(register) or (row.layout if row is not None else None)
    return layout.BITS if layout is not None else {}


def _flag(register: N, flag: IntFlag) -> Part:
    low = (flag & -flag).bit_length() - 1
    return Part(register, low, int(flag).bit_length() - low)


def _field(register: N, name: str) -> Part:
    offset, kind = _LAYOUTS[register].FIELDS[name]
    return Part(register, 8 * offset, 8 * kind.size)

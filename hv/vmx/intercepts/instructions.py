"""Instructions that exit always, or by a control of their own; SDM "Instructions That Cause VM Exits"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.machine.clock import EXIT_TICKS
from hv.machine.faults import GuestFault
from hv.spec.exits import ExitReason
from hv.spec.vmcs import PrimaryControls
from hv.spec.x86 import Cr4, Vector
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.operands import advance, decoded_at, length_of

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

# Looked up once: naming a member of an enumeration costs a call.
_CPUID, _RDMSR, _WRMSR = ExitReason.CPUID, ExitReason.RDMSR, ExitReason.WRMSR


def cpuid(vcpu: Vcpu, detail: int) -> VmExit | None:
    return VmExit(_CPUID, 0, length_of(vcpu))


def hlt(vcpu: Vcpu, detail: int) -> VmExit | None:
    return VmExit(ExitReason.HLT, 0, length_of(vcpu))


def rdmsr(vcpu: Vcpu, detail: int) -> VmExit | None:
    return _msr(vcpu, _RDMSR, 0)


def wrmsr(vcpu: Vcpu, detail: int) -> VmExit | None:
    return _msr(vcpu, _WRMSR, 0x800)


def _msr(vcpu: Vcpu, reason: ExitReason, half: int) -> VmExit | None:
    """Exit unless the MSR bitmap lets the processor's own register be used; SDM "MSR-Bitmap Address"."""
    if vcpu.msr_bitmap is not None:
        index = vcpu.state.ecx
        low = index <= 0x1FFF
        if (low or 0xC0000000 <= index <= 0xC0001FFF) and index in vcpu.state.msrs:
            at = vcpu.msr_bitmap + half + (0 if low else 0x400) + ((index & 0x1FFF) >> 3)
            if not vcpu.second_level.memory.read(at, 1)[0] >> (index & 7) & 1:
                _use_msr(vcpu, index, write=bool(half))
                return None
    return VmExit(reason, 0, length_of(vcpu))


def _use_msr(vcpu: Vcpu, index: int, write: bool) -> None:
    state = vcpu.state
    if write:
        state.msrs[index] = state.edx << 32 | state.eax
    else:
        value = state.msrs[index]
        state.rax, state.rdx = value & 0xFFFF_FFFF, value >> 32
    advance(vcpu, length_of(vcpu))


def rdtsc(vcpu: Vcpu, detail: int) -> VmExit | None:
    if vcpu.state.cr4 & Cr4.TSD and vcpu.state.cpl:
        raise GuestFault(Vector.GP, 0)
    if vcpu.primary & PrimaryControls.RDTSC_EXITING:
        return VmExit(ExitReason.RDTSC, 0, length_of(vcpu))
    vcpu.clock.advance(EXIT_TICKS)        # a guest that polls the counter must see it move
    tsc = vcpu.clock.tsc + vcpu.tsc_offset
    vcpu.state.rax, vcpu.state.rdx = tsc & 0xFFFF_FFFF, tsc >> 32 & 0xFFFF_FFFF
    advance(vcpu, length_of(vcpu))
    return None


def undefined(vcpu: Vcpu, detail: int) -> VmExit | None:
    """Not an instruction of this processor: RDTSCP, MONITOR, MWAIT and AMD's virtualization are not offered."""
    raise GuestFault(Vector.UD)


def rdpmc(vcpu: Vcpu, detail: int) -> VmExit | None:
    if vcpu.primary & PrimaryControls.RDPMC_EXITING:
        return VmExit(ExitReason.RDPMC, 0, length_of(vcpu))
    raise GuestFault(Vector.GP, 0)


def pause(vcpu: Vcpu, detail: int) -> VmExit | None:
    if vcpu.primary & PrimaryControls.PAUSE_EXITING:
        return VmExit(ExitReason.PAUSE, 0, length_of(vcpu))
    advance(vcpu, length_of(vcpu))
    return None


def wbinvd(vcpu: Vcpu, detail: int) -> VmExit | None:
    """INVD exits always; WBINVD by a secondary control that is off here, and does nothing: there is no cache."""
    decoded = decoded_at(vcpu)
    if decoded.mnemonic == "invd":
        return VmExit(ExitReason.INVD, 0, decoded.length)
    advance(vcpu, decoded.length)
    return None

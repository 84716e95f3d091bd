"""Instructions that exit always, or by a control of their own; SDM "Instructions That Cause VM Exits"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.machine import msrs
from hv.machine.clock import EXIT_TICKS
from hv.machine.faults import GuestFault
from hv.machine.ram import read_physical
from hv.spec.exits import ExitReason
from hv.spec.msrs import Msr
from hv.spec.vmcs import PrimaryControls, SecondaryControls
from hv.spec.x86 import Cr4, Vector
from hv.vmx.events.non_register import HLT
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.operands import advance, decoded_at, length_of
from hv.vmx.intercepts.task_priority import reads_x2apic, writes_x2apic

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_HLT_EXITING = PrimaryControls.HLT_EXITING.value
# The most frequent exits have always the same fields, unless the instruction has prefixes: made once, never changed.
_CPUID, _RDMSR, _WRMSR = (VmExit(reason, 0, 2) for reason in (ExitReason.CPUID, ExitReason.RDMSR, ExitReason.WRMSR))
_RDTSC_EXITING, _RDTSCP_ENABLED = PrimaryControls.RDTSC_EXITING.value, SecondaryControls.ENABLE_RDTSCP.value
_TSD, _PCE = Cr4.TSD.value, Cr4.PCE.value
_TSC = Msr.TSC.value
# The bytes, little-endian.
_CPUID_CODE, _RDMSR_CODE, _WRMSR_CODE, _RDTSC_CODE = 0xA20F, 0x320F, 0x300F, 0x310F


def cpuid(vcpu: Vcpu, detail: int) -> VmExit | None:
    if vcpu.engine.code_head() & 0xFFFF == _CPUID_CODE:
        return _CPUID
    return VmExit(ExitReason.CPUID, 0, length_of(vcpu))


def hlt(vcpu: Vcpu, detail: int) -> VmExit | None:
    """HLT; without its control the processor halts here, with RIP behind it; SDM "Activity State"."""
    length = length_of(vcpu)
    if vcpu.controls.primary & _HLT_EXITING:
        return VmExit(ExitReason.HLT, 0, length)
    advance(vcpu, length)
    vcpu.non_register.activity = HLT
    vcpu.look()
    return None


def rdmsr(vcpu: Vcpu, detail: int) -> VmExit | None:
    bitmap = vcpu.controls.msr_bitmap
    if bitmap is not None and _passes(vcpu, bitmap):
        if not reads_x2apic(vcpu):
            _read_msr(vcpu)
        return None
    if vcpu.engine.code_head() & 0xFFFF == _RDMSR_CODE:
        return _RDMSR
    return VmExit(ExitReason.RDMSR, 0, length_of(vcpu))


def wrmsr(vcpu: Vcpu, detail: int) -> VmExit | None:
    bitmap = vcpu.controls.msr_bitmap
    if bitmap is not None and _passes(vcpu, bitmap + 0x800) and vcpu.state.ecx != _TSC:
        if not writes_x2apic(vcpu):
            _write_msr(vcpu)
        return None
    if vcpu.engine.code_head() & 0xFFFF == _WRMSR_CODE:
        return _WRMSR
    return VmExit(ExitReason.WRMSR, 0, length_of(vcpu))


def _passes(vcpu: Vcpu, bitmap: int) -> bool:
    """The half of the MSR bitmap at *bitmap* lets the processor's own register be used; SDM "MSR-Bitmap Address"."""
    index = vcpu.state.ecx
    low = index <= 0x1FFF
    if not (low or 0xC0000000 <= index <= 0xC0001FFF):
        return False
    place = bitmap + (0 if low else 0x400) + ((index & 0x1FFF) >> 3)
    return not read_physical(vcpu.second_level.memory, place, 1)[0] >> (index & 7) & 1


def _read_msr(vcpu: Vcpu) -> None:
    """Of the processor's own, #GP for one that it does not have. The TSC is scaled and offset as for RDTSC."""
    state, index = vcpu.state, vcpu.state.ecx
    value = vcpu.tsc if index == _TSC else vcpu.vmx.read_msr(index) if vcpu.vmx is not None else None
    if value is None:
        value = msrs.read_msr(state, index)
    state.rax, state.rdx = value & 0xFFFF_FFFF, value >> 32
    advance(vcpu, length_of(vcpu))


def _write_msr(vcpu: Vcpu) -> None:
    """The same of WRMSR. # Simplified: that of the TSC exits whatever the bitmap says."""
    state = vcpu.state
    index, value = state.ecx, state.edx << 32 | state.eax
    if vcpu.vmx is None or not vcpu.vmx.write_msr(index, value):
        msrs.write_msr(state, index, value)
    advance(vcpu, length_of(vcpu))


def rdtsc(vcpu: Vcpu, detail: int) -> VmExit | None:
    """RDTSC, and RDTSCP, which the engine takes for the same."""
    if vcpu.engine.code_head() & 0xFFFF != _RDTSC_CODE and decoded_at(vcpu).mnemonic == "rdtscp":
        return rdtscp(vcpu, detail)
    _may_read_tsc(vcpu)
    if vcpu.controls.primary & _RDTSC_EXITING:
        return VmExit(ExitReason.RDTSC, 0, length_of(vcpu))
    _read_tsc(vcpu, length_of(vcpu))
    return None


def rdtscp(vcpu: Vcpu, detail: int) -> VmExit | None:
    """Undefined without "enable RDTSCP"."""
    if not vcpu.controls.secondary & _RDTSCP_ENABLED:
        raise GuestFault(Vector.UD)
    _may_read_tsc(vcpu)
    length = length_of(vcpu)
    if vcpu.controls.primary & _RDTSC_EXITING:
        return VmExit(ExitReason.RDTSCP, 0, length)
    vcpu.state.rcx = vcpu.state.msrs[Msr.TSC_AUX] & 0xFFFF_FFFF
    _read_tsc(vcpu, length)
    return None


def _may_read_tsc(vcpu: Vcpu) -> None:
    if vcpu.state.cpl and vcpu.state.cr4 & _TSD:
        raise GuestFault(Vector.GP, 0)


def _read_tsc(vcpu: Vcpu, length: int) -> None:
    vcpu.clock.advance(EXIT_TICKS)        # a guest that polls the counter must see it move
    vcpu.tsc_reads += 1
    tsc = vcpu.tsc
    vcpu.state.rax, vcpu.state.rdx = tsc & 0xFFFF_FFFF, tsc >> 32
    advance(vcpu, length)


def undefined(vcpu: Vcpu, detail: int) -> VmExit | None:
    """Not an instruction of this processor, but one that the engine has: AMD's virtualization."""
    raise GuestFault(Vector.UD)


def rdpmc(vcpu: Vcpu, detail: int) -> VmExit | None:
    """There are no counters, so reading one without an exit is #GP for everybody."""
    if vcpu.controls.primary & PrimaryControls.RDPMC_EXITING and (not vcpu.state.cpl or vcpu.state.cr4 & _PCE):
        return VmExit(ExitReason.RDPMC, 0, length_of(vcpu))
    raise GuestFault(Vector.GP, 0)


def wbinvd(vcpu: Vcpu, detail: int) -> VmExit | None:
    """INVD exits always; WBINVD and WBNOINVD by a control, and else they do nothing: there is no cache."""
    decoded = decoded_at(vcpu)
    if decoded.mnemonic == "invd":
        return VmExit(ExitReason.INVD, 0, decoded.length)
    if vcpu.controls.secondary & SecondaryControls.WBINVD_EXITING:
        return VmExit(ExitReason.WBINVD, 0, decoded.length)
    advance(vcpu, decoded.length)
    return None

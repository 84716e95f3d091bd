"""Get and set a VP's registers by name: what a parent does to start a VP and to complete an intercept.

TLFS "HvCallGetVpRegisters", "HvCallSetVpRegisters". A VP may name itself if it has AccessVpRegisters; a parent may
name any VP of a child. A table gives each name its way in and out. Not built: vector and x87 state, VSM registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hv.hypervisor import intercepts
from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.registry import Call, Reps, hypercall, require, require_vtl0
from hv.hypervisor.msrs import registry as msrs
from hv.hypervisor.partition import PartitionState
from hv.machine.faults import GuestFault
from hv.machine.idt import Event, EventKind
from hv.machine.registers import Table
from hv.spec.cpuid import CpuidLeaf, HvPrivilege
from hv.spec.hv_registers import (
    HvRegisterName,
    InternalActivityRegister,
    InterruptStateRegister,
    PendingInterruptionRegister,
)
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.registers import RegisterAssoc, RegisterName, RegisterValue, VpRegistersInput
from hv.spec.msrs import Msr
from hv.spec.synic import HvSegmentRegister, HvTableRegister
from hv.spec.x86 import Cr4
from hv.vmx.events.injection import is_injectable

if TYPE_CHECKING:
    from hv.hypervisor.vp import VirtualProcessor

VALUE_SIZE = 16
# Registers that no check of VM entry reads (RIP: an address that is not canonical faults at the fetch).
_UNCHECKED = frozenset({HvRegisterName.EXPLICIT_SUSPEND, HvRegisterName.INTERCEPT_SUSPEND,
                        HvRegisterName.PENDING_INTERRUPTION, *range(HvRegisterName.RAX, HvRegisterName.RIP + 1)})
_U64 = (1 << 64) - 1
_VMXE = Cr4.VMXE.value
Get = Callable[["VirtualProcessor"], bytes]
Set = Callable[["VirtualProcessor", bytes], None]
N = HvRegisterName


@hypercall(HypercallCode.GET_VP_REGISTERS, input=VpRegistersInput, rep_input=RegisterName, rep_output=RegisterValue)
def get_vp_registers(call: Call, input: VpRegistersInput, reps: Reps) -> None:
    """The values of the registers named; INVALID_PARAMETER at the first name that is unknown."""
    vp = _target(call, input)
    for element in reps:
        reps.answer(RegisterValue(value=get_register(vp, element.name)))


@hypercall(HypercallCode.SET_VP_REGISTERS, input=VpRegistersInput, rep_input=RegisterAssoc)
def set_vp_registers(call: Call, input: VpRegistersInput, reps: Reps) -> None:
    """Set registers in order; those before a refused one stay set, and reps completed tells which it was."""
    vp = _target(call, input)
    for element in reps:
        require(not any(element.padding), f"register {element.name:#x}: bytes 4..15 must be zero")
        set_register(vp, element.name, element.value)
        if element.name not in _UNCHECKED:
            vp.registers_written()


def get_register(vp: VirtualProcessor, name: int) -> bytes:
    """The 16 bytes of register *name*; INVALID_PARAMETER."""
    get = _REGISTERS.get(name, _UNKNOWN)[0]
    if get is None:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"register {name:#x} is unknown or not built")
    return get(vp).ljust(VALUE_SIZE, b"\0")


def set_register(vp: VirtualProcessor, name: int, value: bytes) -> None:
    """Store 16 bytes into register *name*; INVALID_PARAMETER, INVALID_REGISTER_VALUE."""
    put = _REGISTERS.get(name, _UNKNOWN)[1]
    if put is None:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"register {name:#x} is unknown or cannot be set")
    try:
        put(vp, value)
    except GuestFault as fault:
        raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"register {name:#x}: {fault}") from fault


def _target(call: Call, input: VpRegistersInput) -> VirtualProcessor:
    partition = call.find(input.partition_id)
    if partition is call.partition:
        allowed = partition.has(HvPrivilege.ACCESS_VP_REGISTERS)
        require(allowed, "own registers need AccessVpRegisters", HvStatus.ACCESS_DENIED)
    vp = call.find_vp(partition, input.vp_index)
    require_vtl0(input.input_vtl)
    partition.require_state(PartitionState.ACTIVE)      # the registers go with the engine
    return vp


def _integer(value: bytes) -> int:
    return int.from_bytes(value[:8], "little")


def _bytes(value: int) -> bytes:
    return (value & _U64).to_bytes(8, "little")


def _attribute(name: str) -> tuple[Get, Set]:
    def put(vp: VirtualProcessor, value: bytes) -> None:
        setattr(vp.regs, name, _integer(value))
    return lambda vp: _bytes(getattr(vp.regs, name)), put


def _segment(name: str) -> tuple[Get, Set]:
    def put(vp: VirtualProcessor, value: bytes) -> None:
        setattr(vp.regs, name, intercepts.segment_of(HvSegmentRegister.parse(value)))
    return lambda vp: intercepts.segment_register(getattr(vp.regs, name)).pack(), put


def _table(name: str) -> tuple[Get, Set]:
    def get(vp: VirtualProcessor) -> bytes:
        table = getattr(vp.regs, name)
        return HvTableRegister(limit=table.limit, base=table.base).pack()

    def put(vp: VirtualProcessor, value: bytes) -> None:
        register = HvTableRegister.parse(value)
        setattr(vp.regs, name, Table(register.base, register.limit))
    return get, put


def _kept_msr(msr: Msr) -> tuple[Get, Set]:
    """An MSR the processor itself works with."""
    def put(vp: VirtualProcessor, value: bytes) -> None:
        vp.regs.msrs[msr] = _integer(value)
    return lambda vp: _bytes(vp.regs.msrs[msr]), put


def _dispatched_msr(msr: int) -> tuple[Get, Set]:
    """A synthetic or APIC MSR: same rules as for RDMSR and WRMSR, but the parent needs no privilege of the child's."""
    def get(vp: VirtualProcessor) -> bytes:
        try:
            return _bytes(msrs.read_unchecked(vp, msr))
        except GuestFault as fault:
            raise HypercallError(HvStatus.INVALID_PARAMETER, f"msr {msr:#x} cannot be read now") from fault

    def put(vp: VirtualProcessor, value: bytes) -> None:
        msrs.write_unchecked(vp, msr, _integer(value))
    return get, put


def _cpuid_leaf(leaf: CpuidLeaf) -> tuple[Get, None]:
    def get(vp: VirtualProcessor) -> bytes:
        return b"".join(word.to_bytes(4, "little") for word in vp.partition.cpuid.lookup(leaf, 0))
    return get, None


def _as_the_guest_knows_it(name: str) -> tuple[Get, Set]:
    """CR0 or CR4; VMX is not offered to guests, so no CR4 has VMXE."""
    def put(vp: VirtualProcessor, value: bytes) -> None:
        if name == "cr4" and _integer(value) & _VMXE:
            raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"CR4 {_integer(value):#x} has VMXE")
        setattr(vp.guest_regs, name, _integer(value))
    return lambda vp: _bytes(getattr(vp.guest_regs, name)), put


# Registers that are the VP's, not the processor's.

def _set_explicit_suspend(vp: VirtualProcessor, value: bytes) -> None:
    vp.explicit_suspend = bool(_integer(value) & 1)
    vp.kick()


def _set_intercept_suspend(vp: VirtualProcessor, value: bytes) -> None:
    """Clearing it is how a parent says that an intercept is completed."""
    if not _integer(value) & 1:
        intercepts.complete(vp)
    else:
        vp.intercept_suspend = True
        vp.kick()


def _get_activity(vp: VirtualProcessor) -> bytes:
    activity = InternalActivityRegister(startup_suspend=int(vp.wait_for_sipi), halt_suspend=int(vp.halted))
    return _bytes(activity.raw)


def _set_activity(vp: VirtualProcessor, value: bytes) -> None:
    activity = InternalActivityRegister(_integer(value))
    vp.wait_for_sipi, vp.halted = bool(activity.startup_suspend), bool(activity.halt_suspend)
    vp.kick()


def _get_interrupt_state(vp: VirtualProcessor) -> bytes:
    return _bytes(InterruptStateRegister(interrupt_shadow=int(bool(vp.regs.interrupt_shadow)),
                                         nmi_masked=int(vp.nmi_masked)).raw)


def _set_interrupt_state(vp: VirtualProcessor, value: bytes) -> None:
    regs: Any = vp.regs
    wanted = InterruptStateRegister(_integer(value))
    regs.interrupt_shadow, vp.nmi_masked = bool(wanted.interrupt_shadow), bool(wanted.nmi_masked)


def _get_pending_interruption(vp: VirtualProcessor) -> bytes:
    event = vp.pending_event
    if event is None:
        return _bytes(0)
    return _bytes(PendingInterruptionRegister(
        interruption_pending=1, interruption_type=event.kind, deliver_error_code=int(event.error_code is not None),
        instruction_length=event.instruction_length, interruption_vector=event.vector,
        error_code=event.error_code or 0).raw)


def _set_pending_interruption(vp: VirtualProcessor, value: bytes) -> None:
    """What the VP gets at its next entry: how a parent answers an access with an exception."""
    register, event = PendingInterruptionRegister(_integer(value)), None
    if register.interruption_pending:
        if register.interruption_type not in _INJECTED or register.interruption_vector > 0xFF:
            raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"{register!r}: no such event")
        error_code = register.error_code if register.deliver_error_code else None
        event = Event(register.interruption_vector, EventKind(register.interruption_type), error_code,
                      register.instruction_length)
        if not is_injectable(event, bool(vp.regs.cr0 & 1)):
            raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"{register!r}: VM entry takes no such event")
    vp.pending_event = event
    vp.kick()


def _set_cr8(vp: VirtualProcessor, value: bytes) -> None:
    vp.apic.cr8 = _integer(value)


_GENERAL = [N(number) for number in range(N.RAX, N.RFLAGS + 1)]
_CONTROL = (N.CR2, N.CR3, N.EFER, N.DR0, N.DR1, N.DR2, N.DR3, N.DR6, N.DR7)
_SEGMENTS = [N(number) for number in range(N.ES, N.TR + 1)]
_KEPT = {N.KERNEL_GS_BASE: Msr.KERNEL_GS_BASE, N.PAT: Msr.PAT, N.SYSENTER_CS: Msr.SYSENTER_CS,
         N.SYSENTER_EIP: Msr.SYSENTER_EIP, N.SYSENTER_ESP: Msr.SYSENTER_ESP, N.STAR: Msr.STAR, N.LSTAR: Msr.LSTAR,
         N.CSTAR: Msr.CSTAR, N.SFMASK: Msr.SFMASK, N.TSC_AUX: Msr.TSC_AUX}
_DISPATCHED = {N.APIC_BASE: Msr.APIC_BASE, N.HYPERCALL: Msr.HV_HYPERCALL, N.GUEST_OS_ID: Msr.HV_GUEST_OS_ID,
               N.VP_INDEX: Msr.HV_VP_INDEX, N.VP_RUNTIME: Msr.HV_VP_RUNTIME, N.TIME_REF_COUNT: Msr.HV_TIME_REF_COUNT,
               N.VP_ASSIST_PAGE: Msr.HV_VP_ASSIST_PAGE, N.PROCESSOR_CLOCK_FREQUENCY: Msr.HV_TSC_FREQUENCY,
               N.INTERRUPT_CLOCK_FREQUENCY: Msr.HV_APIC_FREQUENCY, N.EOI: Msr.HV_EOI, N.ICR: Msr.HV_ICR,
               N.TPR: Msr.HV_TPR, N.SCONTROL: Msr.HV_SCONTROL, N.SVERSION: Msr.HV_SVERSION, N.SIEFP: Msr.HV_SIEFP,
               N.SIMP: Msr.HV_SIMP, N.EOM: Msr.HV_EOM, N.GUEST_CRASH_CTL: Msr.HV_CRASH_CTL}
_LEAVES = {N.HYPERVISOR_VERSION: CpuidLeaf.HV_VERSION, N.PRIVILEGES_AND_FEATURES_INFO: CpuidLeaf.HV_FEATURES,
           N.FEATURES_INFO: CpuidLeaf.HV_ENLIGHTENMENTS, N.IMPLEMENTATION_LIMITS_INFO: CpuidLeaf.HV_LIMITS,
           N.HARDWARE_FEATURES_INFO: CpuidLeaf.HV_HARDWARE_FEATURES,
           N.CPU_MANAGEMENT_FEATURES_INFO: CpuidLeaf.HV_CPU_MANAGEMENT, N.SVM_FEATURES_INFO: CpuidLeaf.HV_SVM_FEATURES,
           N.SKIP_LEVEL_FEATURES_INFO: CpuidLeaf.HV_NESTED_PRIVILEGES,
           N.NESTED_VIRT_FEATURES_INFO: CpuidLeaf.HV_NESTED_FEATURES}
_INJECTED = frozenset(int(kind) for kind in EventKind)
_UNKNOWN: tuple[Get | None, Set | None] = (None, None)
_REGISTERS: dict[int, tuple[Get | None, Set | None]] = {
    **{name: _attribute(name.name.lower()) for name in (*_GENERAL, *_CONTROL)},
    **{name: _as_the_guest_knows_it(name.name.lower()) for name in (N.CR0, N.CR4)},
    **{name: _segment(name.name.lower()) for name in _SEGMENTS},
    N.IDTR: _table("idtr"), N.GDTR: _table("gdtr"),
    **{name: _kept_msr(msr) for name, msr in _KEPT.items()},
    **{name: _dispatched_msr(msr) for name, msr in _DISPATCHED.items()},
    **{N(N.SINT0 + n): _dispatched_msr(Msr.HV_SINT0 + n) for n in range(16)},
    **{N(N.GUEST_CRASH_P0 + n): _dispatched_msr(Msr.HV_CRASH_P0 + n) for n in range(5)},
    **{name: _cpuid_leaf(leaf) for name, leaf in _LEAVES.items()},
    N.TSC: (lambda vp: _bytes(vp.partition.clock.tsc), None),
    N.INITIAL_APIC_ID: (lambda vp: _bytes(vp.apic.apic_id), None),
    N.CR8: (lambda vp: _bytes(vp.apic.cr8), _set_cr8),
    N.EXPLICIT_SUSPEND: (lambda vp: _bytes(int(vp.explicit_suspend)), _set_explicit_suspend),
    N.INTERCEPT_SUSPEND: (lambda vp: _bytes(int(vp.intercept_suspend)), _set_intercept_suspend),
    N.INTERNAL_ACTIVITY_STATE: (_get_activity, _set_activity),
    N.PENDING_INTERRUPTION: (_get_pending_interruption, _set_pending_interruption),
    N.INTERRUPT_STATE: (_get_interrupt_state, _set_interrupt_state),
}
_REGISTERS = {int(name): ways for name, ways in _REGISTERS.items()}

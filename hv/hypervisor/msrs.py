"""The MSRs a partition sees beside the processor's own: synthetic ones, and those of its virtual APIC.

TLFS "Synthetic MSRs". `read_msr` and `write_msr` are what an exit calls; #GP(0) (GuestFault 13) for an MSR that is not
there, is not for writing, whose privilege the partition lacks, or whose value breaks a rule. Reserved bits that must be
preserved are. Not built: reset, reference TSC page, synthetic timers, statistics, guest idle; their privileges are not
offered in CPUID either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.machine.clock import APIC_BUS_HZ, TSC_HZ
from hv.machine.faults import GuestFault, NestedFault
from hv.spec.apic import ApicRegister
from hv.spec.cpuid import HvPrivilege
from hv.spec.msrs import SYNTHETIC_MSRS, X2APIC_MSRS, HvCrashCtl, HvGuestOsId, HvHypercallMsr, Msr
from hv.spec.x86 import Vector
from hv.trace.events import GuestCrashed, OverlayMoved

if TYPE_CHECKING:
    from hv.hypervisor.vp import VirtualProcessor

Read = Callable[["VirtualProcessor", int], int]
Write = Callable[["VirtualProcessor", int, int], None]

_CRASH_CAPABILITIES = HvCrashCtl(crash_notify=1, crash_message=1)
_MAX_CRASH_TEXT = 4096
_U32 = 0xFFFF_FFFF


def read_msr(vp: VirtualProcessor, index: int) -> int:
    """The 64-bit value RDMSR gives; GuestFault(13, 0)."""
    privilege, read, _ = _TABLE.get(index, _ABSENT)
    if read is None or vp.partition.privileges & privilege != privilege:
        raise _refuse()
    return read(vp, index)


def write_msr(vp: VirtualProcessor, index: int, value: int) -> None:
    """Do what WRMSR of *value* (64 bits) does; GuestFault(13, 0), and nothing done."""
    privilege, _, write = _TABLE.get(index, _ABSENT)
    if write is None or vp.partition.privileges & privilege != privilege:
        raise _refuse()
    write(vp, index, value)


def read_unchecked(vp: VirtualProcessor, index: int) -> int:
    """Like `read_msr`, whatever privileges the partition has: for its parent."""
    read = _TABLE.get(index, _ABSENT)[1]
    if read is None:
        raise _refuse()
    return read(vp, index)


def write_unchecked(vp: VirtualProcessor, index: int, value: int) -> None:
    """Like `write_msr`, whatever privileges the partition has: for its parent."""
    write = _TABLE.get(index, _ABSENT)[2]
    if write is None:
        raise _refuse()
    write(vp, index, value)


def _refuse() -> GuestFault:
    return GuestFault(Vector.GP, 0)


# Identity and hypercall page.

def _write_guest_os_id(vp: VirtualProcessor, index: int, value: int) -> None:
    """TLFS "Reporting the Guest OS Identity": 0 means unidentified, and takes the hypercall page away."""
    partition = vp.partition
    partition.guest_os_id = HvGuestOsId(value)
    if not value and partition.hypercall_msr.enable:
        page = partition.hypercall_msr
        partition.set_hypercall_page(HvHypercallMsr(gpfn=page.gpfn, locked=page.locked))
        _announce(vp, "hypercall page", None)


def _write_hypercall(vp: VirtualProcessor, index: int, value: int) -> None:
    """TLFS "Establishing the Hypercall Interface": no enabling before the guest has said what it is."""
    partition, new = vp.partition, HvHypercallMsr(value)
    if partition.hypercall_msr.locked or new.reserved or new.gpfn >= partition.space.page_limit:
        raise _refuse()
    if not partition.guest_os_id.raw:
        new.enable = 0
    try:
        partition.set_hypercall_page(new)
    except HypercallError as error:
        raise _refuse() from error      # Simplified: no memory for tables; Hyper-V asks the parent for more.
    _announce(vp, "hypercall page", new.gpfn << 12 if new.enable else None)


def _announce(vp: VirtualProcessor, name: str, gpa: int | None) -> None:
    if vp.partition.trace.listening:
        vp.partition.trace.emit(OverlayMoved(name, gpa))


def _write_assist_page(vp: VirtualProcessor, index: int, value: int) -> None:
    vp.synic.set_assist_page(value)


# The APIC, by MSR.

def _write_eoi(vp: VirtualProcessor, index: int, value: int) -> None:
    if value >> 32:
        raise _refuse()
    _require_apic(vp)
    vp.apic.eoi()


def _read_icr(vp: VirtualProcessor, index: int) -> int:
    _require_apic(vp)
    return vp.apic.icr.raw


def _write_icr(vp: VirtualProcessor, index: int, value: int) -> None:
    _require_apic(vp)
    if vp.apic.is_x2apic:
        vp.apic.write_msr(Msr.X2APIC_ICR, value)
        return
    vp.apic.write(ApicRegister.ICR_HIGH, value >> 32)
    vp.apic.write(ApicRegister.ICR_LOW, value & _U32)


def _read_tpr(vp: VirtualProcessor, index: int) -> int:
    _require_apic(vp)
    return vp.apic.tpr


def _write_tpr(vp: VirtualProcessor, index: int, value: int) -> None:
    if value >> 8:
        raise _refuse()
    _require_apic(vp)
    if vp.apic.is_x2apic:
        vp.apic.write_msr(Msr.X2APIC_TPR, value)
    else:
        vp.apic.write(ApicRegister.TPR, value)


def _require_apic(vp: VirtualProcessor) -> None:
    if not vp.apic.is_present:
        raise _refuse()


# Crash reporting.

def _write_crash_parameter(vp: VirtualProcessor, index: int, value: int) -> None:
    vp.partition.crash_parameters[index - Msr.HV_CRASH_P0] = value


def _write_crash_control(vp: VirtualProcessor, index: int, value: int) -> None:
    """TLFS "Guest Crash Enlightenment Interface": CrashNotify reports, CrashMessage says that P3, P4 hold a text."""
    control = HvCrashCtl(value)
    if control.crash_notify and vp.partition.trace.listening:
        first, second, third, fourth, fifth = vp.partition.crash_parameters
        text = _crash_text(vp, fourth, fifth) if control.crash_message else ""
        vp.partition.trace.emit(GuestCrashed((first, second, third, fourth, fifth), text))


def _crash_text(vp: VirtualProcessor, gpa: int, size: int) -> str:
    try:
        return vp.partition.space.read(gpa, min(size, _MAX_CRASH_TEXT)).decode("utf-8", "replace")
    except NestedFault:
        return ""


def _synic_read(vp: VirtualProcessor, index: int) -> int:
    return vp.synic.read_msr(index)


def _synic_write(vp: VirtualProcessor, index: int, value: int) -> None:
    vp.synic.write_msr(index, value)


P = HvPrivilege
_SYNIC_MSRS = (*range(Msr.HV_SCONTROL, Msr.HV_EOM + 1), *range(Msr.HV_SINT0, Msr.HV_SINT15 + 1))
_ABSENT: tuple[int, Read | None, Write | None] = (0, None, None)
# MSR -> (privilege, how to read, how to write); None where the access is #GP.
_TABLE: dict[int, tuple[int, Read | None, Write | None]] = {
    Msr.HV_GUEST_OS_ID: (P.ACCESS_HYPERCALL_MSRS, lambda vp, _: vp.partition.guest_os_id.raw, _write_guest_os_id),
    Msr.HV_HYPERCALL: (P.ACCESS_HYPERCALL_MSRS, lambda vp, _: vp.partition.hypercall_msr.raw, _write_hypercall),
    Msr.HV_VP_INDEX: (P.ACCESS_VP_INDEX, lambda vp, _: vp.index, None),
    Msr.HV_VP_RUNTIME: (P.ACCESS_VP_RUN_TIME_REG, lambda vp, _: vp.runtime_100ns, None),
    Msr.HV_TIME_REF_COUNT: (P.ACCESS_PARTITION_REFERENCE_COUNTER, lambda vp, _: vp.partition.reference_time, None),
    Msr.HV_TSC_FREQUENCY: (P.ACCESS_FREQUENCY_REGS, lambda vp, _: TSC_HZ, None),
    Msr.HV_APIC_FREQUENCY: (P.ACCESS_FREQUENCY_REGS, lambda vp, _: APIC_BUS_HZ, None),
    Msr.HV_EOI: (P.ACCESS_INTR_CTRL_REGS, None, _write_eoi),
    Msr.HV_ICR: (P.ACCESS_INTR_CTRL_REGS, _read_icr, _write_icr),
    Msr.HV_TPR: (P.ACCESS_INTR_CTRL_REGS, _read_tpr, _write_tpr),
    Msr.HV_VP_ASSIST_PAGE: (P.ACCESS_INTR_CTRL_REGS, lambda vp, _: vp.synic.assist.raw, _write_assist_page),
    Msr.HV_CRASH_CTL: (0, lambda vp, _: _CRASH_CAPABILITIES.raw, _write_crash_control),
    **{index: (0, lambda vp, index: vp.partition.crash_parameters[index - Msr.HV_CRASH_P0], _write_crash_parameter)
       for index in range(Msr.HV_CRASH_P0, Msr.HV_CRASH_P4 + 1)},
    **dict.fromkeys(_SYNIC_MSRS, (P.ACCESS_SYNIC_REGS, _synic_read, _synic_write)),
}
_APIC_MSRS = frozenset({Msr.APIC_BASE, Msr.TSC_DEADLINE, *X2APIC_MSRS})
_TABLE |= dict.fromkeys(_APIC_MSRS, (0, lambda vp, index: vp.apic.read_msr(index),
                                     lambda vp, index, value: vp.apic.write_msr(index, value)))
_TABLE = dict.fromkeys(map(int, SYNTHETIC_MSRS), _ABSENT) | {
    int(index): (int(privilege), read, write) for index, (privilege, read, write) in _TABLE.items()}
OURS = _TABLE.keys()        # the MSRs that this module answers for, be it with #GP

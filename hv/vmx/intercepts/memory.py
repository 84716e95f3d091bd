"""Accesses that the EPT refuses: violations, misconfigurations, a full log; SDM "EPT-Induced VM Exits"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.paging import Walk, walk
from hv.spec.exits import ExitReason
from hv.spec.x86 import Vector
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.accesses import Met, meeting, meetings
from hv.vmx.intercepts.apic_access import access_exit, apic_access
from hv.vmx.translation.ept_walk import violation_qualification
from hv.vmx.translation.second_level import NO_PAGE, PageModificationLogFull
from hv.vmx.translation.virtualization_exception import converts

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_VIOLATION = ExitReason.EPT_VIOLATION
_READ, _WRITE = Access.READ.value, Access.WRITE.value
_BOTH = _READ | _WRITE


def nested(vcpu: Vcpu, detail: int) -> VmExit | None:
    """The engine was refused an address: find out what the guest did, and do what the processor does about it."""
    gpa, access = vcpu.engine.nested_fault()
    if vcpu.apic.access_page != NO_PAGE and _is_apic_access(vcpu, gpa, access):
        vcpu.accesses.learn(vcpu.state.addressing, gpa, access)
        exit = apic_access(vcpu, gpa, Access(access))
        if exit is not None:
            vcpu.state.set_resume_flag()
        return exit
    where, met = vcpu.state.addressing, meeting(vcpu, gpa, access)      # before RFLAGS.RF is set
    if met is not None and met.guest is None and not met.writes and _may_only_be_read(vcpu, gpa):
        met = next((other for other in meetings(vcpu, gpa) if other.writes), met)
    exit = refused_access(vcpu, _fault(vcpu, gpa, access, met))
    if exit is None:
        raise GuestFault(Vector.VE)
    vcpu.accesses.learn(where, gpa, access, exit)
    return exit


def only_walks(vcpu: Vcpu, gpa: int) -> bool | None:
    """For the engine: the instruction at RIP is refused nothing but that it could write to a page table at *gpa*; True
    when it reads the page as data too. None when it is refused what it wants.
    """
    if not _may_only_be_read(vcpu, gpa):
        return None
    met = meeting(vcpu, gpa, _WRITE)
    if met is None or met.guest is not None:
        return None
    everything = meetings(vcpu, gpa)
    return None if any(other.writes for other in everything) else any(other.guest for other in everything)


def _may_only_be_read(vcpu: Vcpu, gpa: int) -> bool:
    """Paging structures may be walked there, as long as no flag is to be set in them."""
    if vcpu.second_level.keeps_flags:
        return False
    return int(vcpu.second_level.walk(gpa).rights) & _BOTH == _READ


def _fault(vcpu: Vcpu, gpa: int, access: int, met: Met | None) -> NestedFault:
    if met is None:
        return NestedFault(gpa, Access(access))
    if not vcpu.second_level.keeps_flags:
        return NestedFault(met.gpa, _tried(vcpu, access, met), met.gva, met.guest is None)
    try:
        vcpu.second_level.translate(met.gpa, access)
    except NestedFault as fault:        # a full log has a kind of its own
        fault.gva, fault.during_walk = met.gva, met.guest is None
        fault.access = _tried(vcpu, access, met)
        return fault
    return NestedFault(met.gpa, _tried(vcpu, access, met), met.gva, met.guest is None)


def _tried(vcpu: Vcpu, access: int, met: Met) -> Access:
    """What the access wanted. The engine walks as if it always wrote, and reads before it writes what it read."""
    if met.guest is not None:
        return Access.READ | Access.WRITE if met.access == _BOTH else Access(access)
    return Access.READ | Access.WRITE if met.marks or vcpu.second_level.keeps_flags else Access.READ


def refused_access(vcpu: Vcpu, fault: NestedFault) -> VmExit | None:
    """What becomes of an access of the guest's own, outside event delivery: an exit, or None for #VE."""
    exit = nested_fault(vcpu, fault)
    if exit.reason is _VIOLATION and vcpu.violations_convert \
            and converts(vcpu, vcpu.second_level.walk(fault.gpa), exit):
        return None
    vcpu.state.set_resume_flag()        # the instruction is run again; SDM "Saving RIP, RSP, RFLAGS, and SSP"
    return exit


def _is_apic_access(vcpu: Vcpu, gpa: int, access: int) -> bool:
    """What was refused at *gpa* leads to the APIC-access page, and is allowed: an EPT violation would come first."""
    rights = vcpu.second_level.access_rights(gpa)
    return rights is not None and not access & ~rights


def nested_fault(vcpu: Vcpu, fault: NestedFault) -> VmExit:
    """EPT violation or misconfiguration, a full log, or an APIC access that is not virtualized.

    SDM "Exit Qualification for EPT Violations".
    """
    if isinstance(fault, PageModificationLogFull):
        return VmExit(ExitReason.PAGE_MODIFICATION_LOG_FULL)
    if _is_apic_access(vcpu, fault.gpa, int(fault.access)):
        return access_exit(fault)
    found = vcpu.second_level.walk(fault.gpa)
    if found.misconfigured:
        exit = VmExit(ExitReason.EPT_MISCONFIGURATION)
    else:
        vcpu.second_level.drop(fault.gpa)
        linear, final = fault.gva is not None, not fault.during_walk
        sets_flag = fault.during_walk and int(fault.access) & _WRITE
        access = Access.READ | Access.WRITE if sets_flag else fault.access
        guest = _guest_walk(vcpu, fault.gva) if fault.gva is not None and final else None
        exit = VmExit(ExitReason.EPT_VIOLATION, violation_qualification(found, access, linear, final, guest).raw)
        exit.guest_linear_address = fault.gva
    exit.guest_physical_address = fault.gpa
    return exit


def _guest_walk(vcpu: Vcpu, gva: int) -> Walk | None:
    """What the guest's tables say of *gva*, without touching them."""
    if not vcpu.second_level.cached.capabilities.ept_vpid.advanced_violation_information:
        return None
    try:
        return walk(vcpu.memory.mode, gva, Access(0), 0, vcpu.memory.load_entry)
    except (GuestFault, NestedFault):
        return None

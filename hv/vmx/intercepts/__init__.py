"""Which act of a guest causes which VM exit; what causes none is done here as the processor would do it.

SDM "Instructions That Cause VM Exits", "Other Causes of VM Exits". `BY_TRAP` has one function per trap of the machine.
It returns the exit, or None when the guest simply goes on; a GuestFault it raises is delivered to the guest. Faults
that come before the exit (CPL, I/O permission) are checked first; SDM "Relative Priority of Faults and VM Exits".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.machine.traps import Trap
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.control_registers import cr_read, cr_write, dr_access
from hv.vmx.intercepts.descriptor_tables import descriptor_table, ltr
from hv.vmx.intercepts.events import exception, software_interrupt
from hv.vmx.intercepts.instructions import cpuid, hlt, rdmsr, rdpmc, rdtsc, rdtscp, undefined, wbinvd, wrmsr
from hv.vmx.intercepts.invalidation import invlpg
from hv.vmx.intercepts.ports import port
from hv.vmx.intercepts.refused import refused_by_second_level
from hv.vmx.intercepts.system_calls import syscall, sysenter
from hv.vmx.intercepts.tasks import iret
from hv.vmx.intercepts.waiting import pause

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

Intercept = Callable[["Vcpu", int], VmExit | None]

_BY_NAME: dict[Trap, Intercept] = {
    Trap.CPUID: cpuid, Trap.HLT: hlt, Trap.RDMSR: rdmsr, Trap.WRMSR: wrmsr, Trap.RDTSC: rdtsc, Trap.RDTSCP: rdtscp,
    Trap.RDPMC: rdpmc, Trap.INVLPG: invlpg, Trap.PAUSE: pause, Trap.WBINVD: wbinvd, Trap.MONITOR: undefined,
    Trap.MWAIT: undefined, Trap.CR_READ: cr_read, Trap.CR_WRITE: cr_write, Trap.DR_READ: dr_access,
    Trap.DR_WRITE: dr_access, Trap.EXCEPTION: exception, Trap.SOFTWARE_INTERRUPT: software_interrupt,
    Trap.NESTED_FAULT: refused_by_second_level, Trap.IN: port, Trap.OUT: port, Trap.SYSCALL: syscall,
    Trap.SYSENTER: sysenter, Trap.UNDEFINED: undefined, Trap.LTR: ltr, Trap.IRET: iret,
    Trap.DESCRIPTOR_TABLE: descriptor_table,
}
BY_TRAP: tuple[Intercept, ...] = tuple(_BY_NAME[trap] for trap in Trap)

"""One file per family of exits. This list is the inventory, in reading order; importing it registers the handlers."""

from hv.hypervisor.exits import (  # noqa: F401
    apic,
    control_registers,
    cpuid,
    descriptor_tables,
    exceptions,
    failures,
    idle,
    interrupts,
    io,
    memory,
    msr,
    vmcall,
)

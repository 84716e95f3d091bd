"""What hypervisor and guest share of one VP in memory; TLFS "Virtual VP Assist Page"."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, raw, u8, u32, u64


class HvVpAssist(Layout):
    """HV_VP_ASSIST_PAGE. What no comment explains belongs to trust levels and to nested hypervisors."""

    apic_assist: u32                                # bit 0: the interrupt in service needs no EOI
    reserved_4: u32
    vtl_control: raw[24]
    nested_enlightenments_control: u64
    enlighten_vm_entry: u8
    reserved_41: raw[7]
    current_nested_vmcs: u64
    synthetic_time_unhalted_timer_expired: u8       # 1: so it has; the guest clears it
    reserved_57: raw[7]
    virtualization_fault_information: raw[40]
    reserved_104: u64
    intercept_message: raw[256]
    vtl_return_actions: raw[256]

"""Inputs of the calls that make, end and hint about virtual processors; TLFS "Virtual Processor Management"."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, Register, bits, raw, u8, u32, u64
from hv.spec.numbering import Numbering
from hv.spec.synic import HvSegmentRegister, HvTableRegister


class CreateVpInput(Layout):
    """HvCallCreateVp."""

    partition_id: u64
    vp_index: u32
    padding: raw[3]
    subnode_type: u8
    subnode_id: u64
    proximity_domain_info: u64
    flags: u64


class DeleteVpInput(Layout):
    """HvCallDeleteVp."""

    partition_id: u64
    vp_index: u32
    padding: u32


class NotifyLongSpinWaitInput(Layout):
    """HvCallNotifyLongSpinWait."""

    spin_count: u32
    unused: u32                         # not checked: the call always succeeds


class DispatchVpFlags(Register):
    """Of HvCallDispatchVp. The others that Hyper-V knows are about speculation, and about the caller's interrupts."""

    WIDTH = 32
    clear_intercept_suspend = bits(0)   # the intercept that came back before is answered


class DispatchVpInput(Layout):
    """HvCallDispatchVp."""

    partition_id: u64
    vp_index: u32
    flags: u32                          # DispatchVpFlags
    time_slice: u64                     # 100 ns; 0: as the hypervisor thinks best
    spec_ctrl: u64


class HvVpDispatchState(Numbering):
    """HV_VP_DISPATCH_STATE: what the caller has to do."""

    INVALID = 0
    BLOCKED = 1                         # wait until the hypervisor says that the VP can run
    READY = 2                           # dispatch it again


class HvVpDispatchEvent(Numbering):
    """HV_VP_DISPATCH_EVENT: why the call came back."""

    INVALID = 0
    SUSPEND = 1
    INTERCEPT = 2                       # its message is in the page of intercept messages


class DispatchVpOutput(Layout):
    """What it answers."""

    dispatch_state: u32                 # HvVpDispatchState
    dispatch_event: u32                 # HvVpDispatchEvent


class HvInitialVpContext(Layout):
    """HV_INITIAL_VP_CONTEXT: the registers a VP begins with, in protected or long mode at once."""

    rip: u64
    rsp: u64
    rflags: u64
    cs: HvSegmentRegister
    ds: HvSegmentRegister
    es: HvSegmentRegister
    fs: HvSegmentRegister
    gs: HvSegmentRegister
    ss: HvSegmentRegister
    tr: HvSegmentRegister
    ldtr: HvSegmentRegister
    idtr: HvTableRegister
    gdtr: HvTableRegister
    efer: u64
    cr0: u64
    cr3: u64
    cr4: u64
    pat: u64


class StartVirtualProcessorInput(Layout):
    """HvCallStartVirtualProcessor."""

    partition_id: u64
    vp_index: u32
    target_vtl: u8
    padding: raw[3]
    context: HvInitialVpContext


class GetVpIndexFromApicIdInput(Layout):
    """The header of HvCallGetVpIndexFromApicId; its elements are `ApicId`, packed."""

    partition_id: u64
    input_vtl: u8                       # HvInputVtl
    padding: raw[7]


class ApicId(Layout):
    """An input element of HvCallGetVpIndexFromApicId."""

    apic_id: u32


class VpIndex(Layout):
    """An output element of HvCallGetVpIndexFromApicId."""

    vp_index: u32

"""VM entries and VM exits of a hypervisor that is machine code: its registers and its guest's take turns in one vcpu.

SDM "VM Entries", "VM Exits". The hypervisor of this machine is no machine code: its VPs stay attached to their VMCSs,
and an exit to it moves no register. Here all of it is moved, in the manual's order.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.spec.exits import ExitReason, InterruptionInfo, InterruptionType
from hv.spec.vmcs import VmcsField, VmxAbort
from hv.spec.x86 import Vector
from hv.vmx.checks import Entry, EntryResult, entry_result
from hv.vmx.exit import VmExit
from hv.vmx.root_operation.loading import (
    LOADED_BY_RULE,
    VmxAborted,
    load_guest_state,
    load_host_state,
    save_pdptes,
    unsaved_fields,
)
from hv.vmx.root_operation.msr_areas import load_msrs, store_msrs
from hv.vmx.root_operation.operation import VmFail, VmxMode, VmxOperation
from hv.vmx.root_operation.processor_msrs import LogicalProcessorMsrs
from hv.vmx.vcpu import Vcpu
from hv.vmx.vmcs import Vmcs

F = VmcsField
_VALID = 1 << 31
_VALID_TYPE_VECTOR = InterruptionInfo(vector=0xFF, type=7, valid=1).raw
_NMI = InterruptionInfo(vector=Vector.NMI, type=InterruptionType.NMI, valid=1).raw


class VmxTransitions:
    """Moves *vcpu* between the two sides of *operation*.

    Between transitions `operation.mode` says whose registers *vcpu*'s state holds. The vcpu's exit handler is
    `leave`, and says stop: who runs it goes on in root operation.
    """

    def __init__(self, operation: VmxOperation, vcpu: Vcpu) -> None:
        self.operation, self.vcpu = operation, vcpu
        self._nothing = Vmcs(fields={})         # what a vcpu obeys in root operation: no control is 1
        vcpu.attach(self._nothing)
        vcpu.on_exit, vcpu.vmx = self.leave, operation
        self.msrs = LogicalProcessorMsrs(vcpu.state, operation, vcpu.clock)
        self.entry_result = EntryResult()       # what the checks of the last VM entry found
        self.on_entry_failure: Callable[[VmExit], None] = lambda exit: None     # before the host state is loaded

    def enter(self, launch: bool, blocked_by_mov_ss: bool) -> None:
        """VMLAUNCH or VMRESUME. VmFail, and nothing has changed; a failed entry is a VM exit."""
        operation, vcpu = self.operation, self.vcpu
        vmcs = (operation.vmlaunch if launch else operation.vmresume)(blocked_by_mov_ss)
        checked = self.entry_result = entry_result(
            Entry(vmcs.snapshot(), operation.processor, operation.memory, vcpu.state.in_long_mode, vmcs.address))
        if checked.error is not None:
            raise VmFail(checked.error)
        if checked.entered:
            refused = self._load_guest(vmcs)
        else:
            refused = VmExit(ExitReason.ENTRY_FAILURE_GUEST_STATE, int(checked.qualification))
        if refused is not None:
            vmcs.record_entry_failure(refused)
            self.on_entry_failure(refused)
            self._load_host(vmcs)
            return
        vmcs.entered()
        vcpu.checked()
        operation.mode = VmxMode.NON_ROOT

    def leave(self, exit: VmExit) -> bool:
        """VM exit: the guest's state is saved, the host's is loaded. False: the vcpu shall stop."""
        vmcs, operation = self.operation.current, self.operation
        assert operation.mode is VmxMode.NON_ROOT, "a VM exit in root operation"
        assert vmcs is not None, "a guest without a VMCS"
        self._save_guest(vmcs)
        self._leave_non_register_state(exit)
        if store_msrs(operation.memory, vmcs.read(F.VM_EXIT_MSR_STORE_ADDR), vmcs.read(F.VM_EXIT_MSR_STORE_COUNT),
                      self.msrs):
            operation.abort(VmxAbort.SAVING_GUEST_MSRS)
        else:
            self._load_host(vmcs)
        return False

    def _load_guest(self, vmcs: Vmcs) -> VmExit | None:
        """SDM "Loading Guest State", "Loading MSRs"; the exit of a list that fails."""
        vcpu = self.vcpu
        load_guest_state(vmcs, vcpu.state)
        vcpu.attach(vmcs)
        vmcs.load_live(but=LOADED_BY_RULE)
        failed = load_msrs(self.operation.memory, vmcs.read(F.VM_ENTRY_MSR_LOAD_ADDR),
                           vmcs.read(F.VM_ENTRY_MSR_LOAD_COUNT), self.msrs)
        if not failed:
            return None
        vmcs.detach(but=vmcs.live | {F.VM_ENTRY_CONTROLS})
        return VmExit(ExitReason.ENTRY_FAILURE_MSR_LOADING, failed)

    def _save_guest(self, vmcs: Vmcs) -> None:
        """SDM "Saving Guest State"."""
        but = unsaved_fields(vmcs)
        if not self.operation.processor.misc.saves_lma:
            but |= {F.VM_ENTRY_CONTROLS}
        save_pdptes(vmcs, self.vcpu.state, self.vcpu.second_level.load)
        vmcs.detach(but)
        vmcs.store(F.VM_ENTRY_INTERRUPTION_INFO, vmcs.read(F.VM_ENTRY_INTERRUPTION_INFO) & ~_VALID)

    def _leave_non_register_state(self, exit: VmExit) -> None:
        """SDM "Updating Non-Register State": an NMI that exits blocks NMIs; virtual blocking ends."""
        vcpu = self.vcpu
        now, nmi = vcpu.non_register, exit.interruption_info & _VALID_TYPE_VECTOR == _NMI
        blocked = nmi or (now.nmi_blocked and not vcpu.controls.virtual_nmis)
        now.reset()
        vcpu.block_nmis(blocked)

    def _load_host(self, vmcs: Vmcs) -> None:
        """SDM "Loading Host State", "Loading MSRs" of VM exits."""
        operation = self.operation
        try:
            load_host_state(vmcs, self.vcpu.state, operation.memory)
        except VmxAborted as abort:
            operation.abort(abort.why)
            return
        self.vcpu.attach(self._nothing)
        operation.mode = VmxMode.ROOT
        if load_msrs(operation.memory, vmcs.read(F.VM_EXIT_MSR_LOAD_ADDR), vmcs.read(F.VM_EXIT_MSR_LOAD_COUNT),
                     self.msrs):
            operation.abort(VmxAbort.LOADING_HOST_MSRS)

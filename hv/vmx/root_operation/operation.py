"""VMX operation of one logical processor: which VMCSs it works with, and what its VMX instructions do to them.

SDM "VMX Instruction Reference". Each instruction is a method: it returns (VMsucceed) or raises `VmFail`. Who executes
it, and whether that code may, is not asked here: machine code comes through `instructions.py`, which also tells the
outcome in RFLAGS; the hypervisor of this machine calls the methods.

Left out: SMM and its dual monitors, so errors 16..20 and 22..25 never occur.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

from hv.machine.faults import GuestFault
from hv.machine.ram import PhysicalMemory
from hv.spec.ept import InveptDescriptor, InvvpidDescriptor
from hv.spec.exits import VmInstructionError
from hv.spec.msrs import FeatureControl, Msr
from hv.spec.vmcs import NO_VMCS, SecondaryControls, VmcsField, VmxAbort, field_of
from hv.spec.x86 import Rflags, Vector
from hv.vmx.capabilities import PROCESSOR, Capabilities
from hv.vmx.fields import existing_fields
from hv.vmx.root_operation.region import clear_region, load_region, revision_of, store_region, write_abort
from hv.vmx.vmcs import LaunchState, Vmcs

MOST_ACTIVE = 64                # VMCSs kept beside those that are in use; older ones go back to their regions
_Error = VmInstructionError
_CF, _ZF = Rflags.CF.value, Rflags.ZF.value
_FEATURE_CONTROL_BITS = FeatureControl(lock=1, vmxon_outside_smx=1).raw      # there is no SMX, SGX or LMCE


class VmFail(Exception):
    """A VMX instruction failed. *error* is what the VM-instruction error field gets; None is VMfailInvalid.

    SDM "Conventions": with an error but without a current VMCS, it is VMfailInvalid too. *vmcs* gets the error when it
    is not the current one.
    """

    def __init__(self, error: VmInstructionError | None = None, vmcs: Vmcs | None = None) -> None:
        super().__init__(error.text if error is not None else "there is no VMCS to tell why")
        self.error, self.vmcs = error, vmcs


class VmxMode(Enum):
    """SDM "Introduction to VMX Operation"; ABORTED is the shutdown after a VMX abort, which only RESET ends."""

    OFF = "off"
    ROOT = "root"
    NON_ROOT = "non-root"
    ABORTED = "aborted"


class Invalidation(Protocol):
    """Cached translations; False when the operands are not what SDM "INVEPT" and "INVVPID" want."""

    def invept(self, kind: int, eptp: int) -> bool: ...
    def invvpid(self, kind: int, vpid: int, linear_address: int) -> bool: ...


class VmxOperation:
    """The VMX side of one logical processor over *memory*. `current` is the current VMCS.

    *cached* is what INVEPT and INVVPID are about. Our hypervisor invalidates at the partition's own translations, since
    each has an engine to itself, and needs none here.
    """

    def __init__(self, memory: PhysicalMemory, processor: Capabilities = PROCESSOR,
                 cached: Invalidation | None = None) -> None:
        self.memory, self.processor, self.cached = memory, processor, cached
        self.mode = VmxMode.OFF
        self.vmxon_pointer = NO_VMCS
        self.current: Vmcs | None = None
        self.feature_control = FeatureControl()
        self._active: dict[int, Vmcs] = {}
        self._fields = existing_fields(processor)
        self._revision = processor.basic.revision_id.to_bytes(4, "little")      # of a region that is no shadow VMCS

    @property
    def current_pointer(self) -> int:
        """The current-VMCS pointer; NO_VMCS when there is no current VMCS."""
        return self.current.address if self.current is not None else NO_VMCS

    def active(self, address: int) -> Vmcs | None:
        """The active VMCS of the region at *address*."""
        return self._active.get(address)

    # --- into and out of VMX operation -------------------------------------------------------------------

    def vmxon(self, address: int) -> None:
        """Enter VMX root operation with the VMXON region at *address*."""
        if self.mode is not VmxMode.OFF:
            raise VmFail(_Error.VMXON_IN_ROOT)
        if not self.processor.is_physical(address) or not self._has_revision(address, shadow=False):
            raise VmFail
        self.mode, self.vmxon_pointer, self.current = VmxMode.ROOT, address, None

    def vmxoff(self) -> None:
        """Leave VMX operation. A VMCS that was launched and not cleared can never be resumed."""
        for vmcs in self._active.values():
            if vmcs.launch_state is LaunchState.LAUNCHED:
                vmcs.launch_state = LaunchState.ORPHANED
            self._flush(vmcs)
        self._active.clear()
        self.mode, self.vmxon_pointer, self.current = VmxMode.OFF, NO_VMCS, None

    def abort(self, why: VmxAbort) -> None:
        """A VM exit cannot be completed: the indicator says why, and the processor stands still; SDM "VMX Aborts"."""
        assert self.current is not None, "a VM exit without a current VMCS"
        write_abort(self.memory, self.current.address, why)
        self.mode = VmxMode.ABORTED

    def vmcall(self) -> None:
        """VMCALL in root operation has nobody to call."""
        raise VmFail(_Error.VMCALL_IN_ROOT)

    # --- VMCSs ------------------------------------------------------------------------------------------

    def vmclear(self, address: int) -> None:
        """Write the VMCS back to its region; it is neither active nor launched any more."""
        if not self.processor.is_physical(address):
            raise VmFail(_Error.VMCLEAR_BAD_ADDRESS)
        if address == self.vmxon_pointer:
            raise VmFail(_Error.VMCLEAR_VMXON_POINTER)
        vmcs = self._active.pop(address, None)
        if vmcs is None:
            clear_region(self.memory, address)
            return
        vmcs.launch_state = LaunchState.CLEAR
        self._flush(vmcs)
        if vmcs is self.current:
            self.current = None

    def vmptrld(self, address: int) -> Vmcs:
        """Make the VMCS of the region at *address* active and current."""
        active = self._active.get(address)
        if active is not None and address != self.vmxon_pointer \
                and self.memory.view[address : address + 4] == self._revision:      # the usual, without the questions
            self.current = active
            return active
        if not self.processor.is_physical(address):
            raise VmFail(_Error.VMPTRLD_BAD_ADDRESS)
        if address == self.vmxon_pointer:
            raise VmFail(_Error.VMPTRLD_VMXON_POINTER)
        if not self._has_revision(address, self._shadowing):
            raise VmFail(_Error.VMPTRLD_WRONG_REVISION)
        self.current = self.activate(address)
        return self.current

    def activate(self, address: int) -> Vmcs:
        """The VMCS of the region at *address*, active from now on."""
        vmcs = self._active.get(address)
        if vmcs is None:
            self._make_room()
            vmcs = self._active[address] = load_region(self.memory, address)
        return vmcs

    def vmptrst(self) -> int:
        """The current-VMCS pointer."""
        return self.current_pointer

    def vmread(self, encoding: int) -> int:
        """The value of a field, or of the upper half of one."""
        return self.read_component(self._need_current(), encoding)

    def vmwrite(self, encoding: int, value: int) -> None:
        """Write a field, or the upper half of one; what does not fit is cut off."""
        self.write_component(self._need_current(), encoding, value)

    def read_component(self, vmcs: Vmcs, encoding: int) -> int:
        """VMREAD of *vmcs*."""
        field, high = self._component(encoding, vmcs)
        value = vmcs.read(field)
        return value >> 32 if high else value

    def write_component(self, vmcs: Vmcs, encoding: int, value: int) -> None:
        """VMWRITE to *vmcs*."""
        field, high = self._component(encoding, vmcs)
        if field.read_only and not self.processor.misc.write_any_field:
            raise VmFail(_Error.READ_ONLY_COMPONENT, vmcs)
        if high:
            value = (value & 0xFFFF_FFFF) << 32 | vmcs.read(field) & 0xFFFF_FFFF
        vmcs.write(field, value)

    def _component(self, encoding: int, vmcs: Vmcs) -> tuple[VmcsField, bool]:
        found = field_of(encoding)
        if found is None or found[0] not in self._fields:
            raise VmFail(_Error.UNSUPPORTED_COMPONENT, vmcs)
        return found

    # --- entry ------------------------------------------------------------------------------------------

    def vmlaunch(self, blocked_by_mov_ss: bool = False) -> Vmcs:
        """The current VMCS, which may be entered for the first time; the checks of its fields come next."""
        vmcs = self._enterable(blocked_by_mov_ss)
        if vmcs.launch_state is not LaunchState.CLEAR:
            raise VmFail(_Error.VMLAUNCH_NOT_CLEAR)
        return vmcs

    def vmresume(self, blocked_by_mov_ss: bool = False) -> Vmcs:
        """The current VMCS, which was launched and may be entered again; the checks of its fields come next."""
        vmcs = self._enterable(blocked_by_mov_ss)
        if vmcs.launch_state is LaunchState.ORPHANED:
            raise VmFail(_Error.VMRESUME_AFTER_VMXOFF)
        if vmcs.launch_state is not LaunchState.LAUNCHED:
            raise VmFail(_Error.VMRESUME_NOT_LAUNCHED)
        return vmcs

    def _enterable(self, blocked_by_mov_ss: bool) -> Vmcs:
        vmcs = self._need_current()
        if vmcs.shadow:
            raise VmFail
        if blocked_by_mov_ss:
            raise VmFail(_Error.ENTRY_BLOCKED_BY_MOV_SS)
        return vmcs

    # --- invalidation -----------------------------------------------------------------------------------

    def invept(self, kind: int, descriptor: bytes) -> None:
        """Drop what is cached of second-level translation; *descriptor* is an `InveptDescriptor`."""
        assert self.cached is not None, "a processor without translations"
        if not self.cached.invept(kind, InveptDescriptor.parse(descriptor).eptp):
            raise VmFail(_Error.INVALID_OPERAND)

    def invvpid(self, kind: int, descriptor: bytes) -> None:
        """Drop what is cached for a VPID; *descriptor* is an `InvvpidDescriptor`."""
        assert self.cached is not None, "a processor without translations"
        tag = int.from_bytes(descriptor[:8], "little")          # reserved bits too
        if not self.cached.invvpid(kind, tag, InvvpidDescriptor.parse(descriptor).linear_address):
            raise VmFail(_Error.INVALID_OPERAND)

    # --- what it is told, and tells -----------------------------------------------------------------------

    def fail(self, failure: VmFail) -> int:
        """The arithmetic flags that tell of *failure*; its number goes into the VMCS. The other flags are 0."""
        vmcs = failure.vmcs or self.current
        if failure.error is None or vmcs is None:
            return _CF
        vmcs.write(VmcsField.VM_INSTRUCTION_ERROR, failure.error)
        return _ZF

    def read_msr(self, index: int) -> int | None:
        """The capability MSRs and IA32_FEATURE_CONTROL; None for any other."""
        if index == Msr.FEATURE_CONTROL:
            return self.feature_control.raw
        return self.processor.msrs.get(index)

    def write_msr(self, index: int, value: int) -> bool:
        """WRMSR of one of those; #GP but for IA32_FEATURE_CONTROL while it is not locked. False for any other MSR."""
        if index == Msr.FEATURE_CONTROL:
            if self.feature_control.lock or value & ~_FEATURE_CONTROL_BITS:
                raise GuestFault(Vector.GP, 0)
            self.feature_control = FeatureControl(value)
            return True
        if index in self.processor.msrs:
            raise GuestFault(Vector.GP, 0)
        return False

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"mode": self.mode.value, "vmxon_pointer": self.vmxon_pointer, "current": self.current_pointer,
                "feature_control": self.feature_control.inspect(),
                "active": {address: vmcs.launch_state.name for address, vmcs in sorted(self._active.items())}}

    # --- inside -----------------------------------------------------------------------------------------

    @property
    def _shadowing(self) -> bool:
        return bool(self.processor.secondary & SecondaryControls.VMCS_SHADOWING)

    def _has_revision(self, address: int, shadow: bool) -> bool:
        revision = revision_of(self.memory, address)
        return revision.revision_id == self.processor.basic.revision_id and (shadow or not revision.shadow)

    def _need_current(self) -> Vmcs:
        if self.current is None:
            raise VmFail
        return self.current

    def _flush(self, vmcs: Vmcs) -> None:
        vmcs.detach()
        store_region(self.memory, vmcs)

    def _make_room(self) -> None:
        """A processor may write an active VMCS to its region whenever it likes."""
        idle = [vmcs for vmcs in self._active.values() if vmcs.state is None and vmcs is not self.current]
        for vmcs in idle[: max(0, len(idle) - MOST_ACTIVE + 1)]:
            self._flush(vmcs)
            del self._active[vmcs.address]

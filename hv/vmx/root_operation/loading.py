"""The registers that VM entry loads from the guest-state area, and VM exit from the host-state area.

SDM "Loading Guest State", "Loading Host State". General registers but RSP, x87 and SSE state, CR2, DR0..DR3, DR6, and
the MSRs of SYSCALL are not switched: that is software's work.

# Simplified: the engine has no PDPTE registers. It reads the PDPTEs from memory at each walk, so those of the
guest-state area are written at exit, but not loaded.
"""

from __future__ import annotations

from contextlib import suppress

from hv.machine.faults import GuestFault, NestedFault
from hv.machine.paging import Load, PagingFormat, PagingMode, load_pdptes
from hv.machine.ram import PhysicalMemory, read_physical
from hv.machine.registers import LONG, UNUSABLE, Segment, Table
from hv.machine.state import ProcessorState
from hv.spec.msrs import Msr
from hv.spec.vmcs import EntryControls, ExitControls, PrimaryControls, SecondaryControls, VmcsField, VmxAbort
from hv.spec.x86 import DR7_RESET, DR7_WRITABLE, Cr0, Cr4, Efer
from hv.vmx.translation.pdptes import FIELDS as PDPTES
from hv.vmx.vmcs import Vmcs

F = VmcsField
CR0_KEPT = 0x7FFA_FFD0          # ET, NW, CD and reserved bits: VMX transitions never change them
_LMA, _LME, _PG, _PAE, _PCIDE = Efer.LMA.value, Efer.LME.value, Cr0.PG.value, Cr4.PAE.value, Cr4.PCIDE.value
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
_HOST_DATA = ("es", "ss", "ds", "fs", "gs")
_CODE_64, _CODE_32, _DATA, _BUSY_TSS = 0xA09B, 0xC09B, 0xC093, 0x8B
_FLAT = 0xFFFF_FFFF
_SECONDARY, _EPT = PrimaryControls.ACTIVATE_SECONDARY_CONTROLS.value, SecondaryControls.ENABLE_EPT.value

# What `load_guest_state` loads by a rule of its own; every other guest-state field is simply loaded.
LOADED_BY_RULE = frozenset({
    F.GUEST_CR0, F.GUEST_CR3, F.GUEST_CR4, F.GUEST_DR7, F.GUEST_IA32_DEBUGCTL, F.GUEST_IA32_PAT, F.GUEST_IA32_EFER,
    *(VmcsField[f"GUEST_{name.upper()}_{part}"] for name in _SEGMENTS
      for part in ("SELECTOR", "BASE", "LIMIT", "ACCESS_RIGHTS"))})
_SAVED_BY_CONTROL = {
    ExitControls.SAVE_DEBUG_CONTROLS: (F.GUEST_DR7, F.GUEST_IA32_DEBUGCTL),
    ExitControls.SAVE_PAT: (F.GUEST_IA32_PAT,), ExitControls.SAVE_EFER: (F.GUEST_IA32_EFER,),
}


class VmxAborted(Exception):
    """A VM exit cannot be completed; SDM "VMX Aborts"."""

    def __init__(self, why: VmxAbort) -> None:
        super().__init__(why.name)
        self.why = why


# --- VM entry ---------------------------------------------------------------------------------------------------

def load_guest_state(vmcs: Vmcs, state: ProcessorState) -> None:
    """The registers of `LOADED_BY_RULE` get what *vmcs*, which no vcpu is attached to, says."""
    controls = vmcs.read(F.VM_ENTRY_CONTROLS)
    _load_efer(vmcs, state, controls)
    state.cr0 = _cr0(state, vmcs.read(F.GUEST_CR0))
    state.cr4, state.cr3 = vmcs.read(F.GUEST_CR4), vmcs.read(F.GUEST_CR3)
    if controls & EntryControls.LOAD_DEBUG_CONTROLS:
        state.dr7 = vmcs.read(F.GUEST_DR7) & DR7_WRITABLE | DR7_RESET
        state.debugctl = vmcs.read(F.GUEST_IA32_DEBUGCTL)
    if controls & EntryControls.LOAD_PAT:
        state.msrs[Msr.PAT] = vmcs.read(F.GUEST_IA32_PAT)
    for name in _SEGMENTS:
        setattr(state, name, _guest_segment(vmcs, name))
    state.refresh_hidden_flags()


def _cr0(state: ProcessorState, value: int) -> int:
    return value & ~CR0_KEPT | int(state.cr0) & CR0_KEPT


def _load_efer(vmcs: Vmcs, state: ProcessorState, controls: int) -> None:
    """Without "load IA32_EFER" only LMA and LME change: the rest leaks from the host."""
    if controls & EntryControls.LOAD_EFER:
        state.efer = vmcs.read(F.GUEST_IA32_EFER)
        return
    ia32e = bool(controls & EntryControls.IA32E_MODE_GUEST)
    changed = _LMA | _LME if vmcs.read(F.GUEST_CR0) & _PG else _LMA
    state.efer = state.efer & ~changed | (changed if ia32e else 0)


def _guest_segment(vmcs: Vmcs, name: str) -> Segment:
    """An unusable register has a selector, the DPL of SS, and the base of FS and GS; CS and TR are usable."""
    selector, base, limit, rights = (vmcs.read(VmcsField[f"GUEST_{name.upper()}_{part}"])
                                     for part in ("SELECTOR", "BASE", "LIMIT", "ACCESS_RIGHTS"))
    if name in ("cs", "tr"):
        rights &= ~UNUSABLE
    elif rights & UNUSABLE:
        return Segment(selector, base if name in ("fs", "gs") else 0, 0, rights)
    return Segment(selector, base, limit, rights)


# --- VM exit ----------------------------------------------------------------------------------------------------

def unsaved_fields(vmcs: Vmcs) -> frozenset[VmcsField]:
    """The guest-state fields that a VM exit leaves as they are, by the VM-exit controls."""
    controls = vmcs.read(F.VM_EXIT_CONTROLS)
    return frozenset(field for control, fields in _SAVED_BY_CONTROL.items() if not controls & control
                     for field in fields)


def save_pdptes(vmcs: Vmcs, state: ProcessorState, load: Load) -> None:
    """With EPT, a guest that uses PAE paging leaves its PDPTEs; *load* reads its physical memory."""
    secondary = vmcs.read(F.PRIMARY_PROC_CONTROLS) & _SECONDARY and vmcs.read(F.SECONDARY_PROC_CONTROLS)
    mode = PagingMode.of(state)
    if not secondary & _EPT or mode.format is not PagingFormat.PAE:
        return
    for number, field in enumerate(PDPTES):
        with suppress(NestedFault):
            vmcs.store(field, load(mode.root + 8 * number, 8))


def load_host_state(vmcs: Vmcs, state: ProcessorState, memory: PhysicalMemory) -> None:
    """The processor is the host's again, at HOST_RIP; VmxAborted."""
    controls = vmcs.read(F.VM_EXIT_CONTROLS)
    host_64 = bool(controls & ExitControls.HOST_ADDRESS_SPACE_SIZE)
    if not host_64 and state.in_long_mode and state.cs.rights & LONG:
        raise VmxAborted(VmxAbort.HOST_NOT_64_BIT)
    _load_host_control_registers(vmcs, state, controls, host_64)
    state.dr7, state.debugctl = DR7_RESET, 0
    state.msrs[Msr.SYSENTER_CS] = vmcs.read(F.HOST_SYSENTER_CS)
    state.msrs[Msr.SYSENTER_ESP], state.msrs[Msr.SYSENTER_EIP] = (vmcs.read(F.HOST_SYSENTER_ESP),
                                                                  vmcs.read(F.HOST_SYSENTER_EIP))
    if controls & ExitControls.LOAD_PAT:
        state.msrs[Msr.PAT] = vmcs.read(F.HOST_IA32_PAT)
    _load_host_segments(vmcs, state, host_64)
    state.rflags, state.rsp, state.rip = 2, vmcs.read(F.HOST_RSP), vmcs.read(F.HOST_RIP)
    state.interrupt_shadow = False
    state.refresh_hidden_flags()
    if not host_64 and state.cr4 & _PAE:
        _check_host_pdptes(state, memory)


def _load_host_control_registers(vmcs: Vmcs, state: ProcessorState, controls: int, host_64: bool) -> None:
    if controls & ExitControls.LOAD_EFER:
        state.efer = vmcs.read(F.HOST_IA32_EFER)
    else:
        state.efer = state.efer & ~(_LMA | _LME) | (_LMA | _LME if host_64 else 0)
    state.cr0 = _cr0(state, vmcs.read(F.HOST_CR0))
    cr4 = vmcs.read(F.HOST_CR4)
    state.cr4, state.cr3 = cr4 | _PAE if host_64 else cr4 & ~_PCIDE, vmcs.read(F.HOST_CR3)


def _load_host_segments(vmcs: Vmcs, state: ProcessorState, host_64: bool) -> None:
    state.cs = Segment(vmcs.read(F.HOST_CS_SELECTOR), 0, _FLAT, _CODE_64 if host_64 else _CODE_32)
    for name in _HOST_DATA:
        selector = vmcs.read(VmcsField[f"HOST_{name.upper()}_SELECTOR"])
        own_base = name in ("fs", "gs") and (selector or host_64)
        base = vmcs.read(VmcsField[f"HOST_{name.upper()}_BASE"]) if own_base else 0
        setattr(state, name, Segment(selector, base, _FLAT, _DATA) if selector else Segment(0, base, 0, UNUSABLE))
    state.tr = Segment(vmcs.read(F.HOST_TR_SELECTOR), vmcs.read(F.HOST_TR_BASE), 0x67, _BUSY_TSS)
    state.ldtr = Segment.null()
    state.gdtr = Table(vmcs.read(F.HOST_GDTR_BASE), 0xFFFF)
    state.idtr = Table(vmcs.read(F.HOST_IDTR_BASE), 0xFFFF)


def _check_host_pdptes(state: ProcessorState, memory: PhysicalMemory) -> None:
    mode = PagingMode.of(state)
    if mode.format is not PagingFormat.PAE:
        return
    try:
        load_pdptes(mode, lambda spa, size: int.from_bytes(read_physical(memory, spa, size), "little"))
    except GuestFault:
        raise VmxAborted(VmxAbort.HOST_PDPTE) from None

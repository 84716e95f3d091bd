"""A VMCS that a processor works with: its fields, and its launch state.

SDM "Virtual Machine Control Structures". While a vcpu is *attached*, guest-state fields are not copied: reading one
reads the register, writing one writes it. Of a VMCS without one all fields are plain data. Control and host fields are
kept here, and each write to one is announced, so that the vcpu can look again; exit-information fields are those of the
last exit. `region.py` is where a VMCS lies when no processor works with it, `operation.py` says who may write what.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from hv.machine.registers import Segment, Table
from hv.machine.state import ProcessorState
from hv.spec.exits import ENTRY_FAILURES, ExitReason, ExitReasonField
from hv.spec.msrs import Msr
from hv.spec.vmcs import (
    ENTRY_DEFAULT1,
    EXIT_DEFAULT1,
    NO_VMCS,
    PIN_DEFAULT1,
    TRUE_PRIMARY_DEFAULT1,
    EntryControls,
    ExitControls,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)
from hv.spec.x86 import Cr0, Cr4, Efer
from hv.vmx.exit import VmExit

Getter = Callable[[ProcessorState], int]
Setter = Callable[[ProcessorState, int], None]


class VmcsError(Exception):
    """A field that does not exist."""


class LaunchState(IntEnum):
    """SDM "Software Use of Virtual-Machine Control Structures". VMCLEAR makes a VMCS clear, VMLAUNCH launched."""

    CLEAR = 0
    LAUNCHED = 1
    ORPHANED = 2        # launched, and not cleared before VMXOFF: VMRESUME fails with error 6


def _register(name: str) -> tuple[Getter, Setter]:
    return (lambda state: int(getattr(state, name)), lambda state, value: setattr(state, name, value))


def _part(register: str, part: str) -> tuple[Getter, Setter]:
    """One field of a segment or table register."""
    def put(state: ProcessorState, value: int) -> None:
        setattr(state, register, getattr(state, register)._replace(**{part: value}))
    return (lambda state: int(getattr(getattr(state, register), part)), put)


def _msr(index: Msr) -> tuple[Getter, Setter]:
    def put(state: ProcessorState, value: int) -> None:
        state.msrs[index] = value
    return (lambda state: state.msrs[index], put)


# Guest-state fields that are a register, and those that are the parts of one, in the order of `Segment` and `Table`.
_WHOLE = [(VmcsField[f"GUEST_{name.upper()}"], name) for name in ("cr0", "cr3", "cr4", "dr7", "rsp", "rip", "rflags")]
_WHOLE += [(VmcsField.GUEST_IA32_EFER, "efer"), (VmcsField.GUEST_IA32_DEBUGCTL, "debugctl")]
_PARTS = [(tuple(VmcsField[f"GUEST_{name.upper()}_{part}"] for part in parts), name)
          for names, parts in ((("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"),
                                ("SELECTOR", "BASE", "LIMIT", "ACCESS_RIGHTS")), (("gdtr", "idtr"), ("BASE", "LIMIT")))
          for name in names]
_MSR_FIELDS = ((VmcsField.GUEST_SYSENTER_CS, Msr.SYSENTER_CS), (VmcsField.GUEST_SYSENTER_ESP, Msr.SYSENTER_ESP),
               (VmcsField.GUEST_SYSENTER_EIP, Msr.SYSENTER_EIP), (VmcsField.GUEST_IA32_PAT, Msr.PAT))


def _set_interruptibility(state: ProcessorState, value: int) -> None:
    state.interrupt_shadow = bool(value & 3)        # blocking by STI, by MOV SS


def _guest_fields() -> dict[VmcsField, tuple[Getter, Setter]]:
    fields = {field: _register(name) for field, name in _WHOLE}
    for parts, name in _PARTS:
        kind = Segment if len(parts) == len(Segment._fields) else Table
        fields |= {field: _part(name, part) for field, part in zip(parts, kind._fields, strict=True)}
    for field, index in _MSR_FIELDS:
        fields[field] = _msr(index)
    fields[VmcsField.GUEST_INTERRUPTIBILITY_STATE] = (lambda state: int(state.interrupt_shadow), _set_interruptibility)
    return fields


_GUEST = _guest_fields()
_REASONS = frozenset(ExitReason)
_ZEROES = dict.fromkeys(VmcsField, 0)
_ENTRY_CONTROLS = VmcsField.VM_ENTRY_CONTROLS


def _exit_reason(exit: VmExit) -> int:
    """The exit-reason field; bit 31 tells a VM-entry failure."""
    return ExitReasonField(basic=exit.reason, entry_failure=int(exit.reason in ENTRY_FAILURES)).raw


_EXIT_INFORMATION: dict[VmcsField, Callable[[VmExit], int]] = {
    VmcsField.EXIT_REASON: _exit_reason,
    VmcsField.EXIT_QUALIFICATION: lambda exit: exit.qualification,
    VmcsField.EXIT_INSTRUCTION_LENGTH: lambda exit: exit.instruction_length,
    VmcsField.EXIT_INSTRUCTION_INFO: lambda exit: exit.instruction_info,
    VmcsField.EXIT_INTERRUPTION_INFO: lambda exit: exit.interruption_info,
    VmcsField.EXIT_INTERRUPTION_ERROR_CODE: lambda exit: exit.interruption_error_code,
    VmcsField.IDT_VECTORING_INFO: lambda exit: exit.idt_vectoring_info,
    VmcsField.IDT_VECTORING_ERROR_CODE: lambda exit: exit.idt_vectoring_error_code,
    VmcsField.GUEST_PHYSICAL_ADDRESS: lambda exit: exit.guest_physical_address or 0,
    VmcsField.GUEST_LINEAR_ADDRESS: lambda exit: exit.guest_linear_address or 0,
}

# What a hypervisor of this kind asks for; the vcpu honours these bits and those of the bitmaps.
DEFAULT_CONTROLS: dict[VmcsField, int] = {
    VmcsField.PIN_BASED_CONTROLS: PIN_DEFAULT1 | PinControls.EXTERNAL_INTERRUPT_EXITING | PinControls.NMI_EXITING
    | PinControls.VIRTUAL_NMIS,
    VmcsField.PRIMARY_PROC_CONTROLS: TRUE_PRIMARY_DEFAULT1 | PrimaryControls.HLT_EXITING
    | PrimaryControls.UNCONDITIONAL_IO_EXITING | PrimaryControls.CR8_LOAD_EXITING | PrimaryControls.CR8_STORE_EXITING
    | PrimaryControls.PAUSE_EXITING | PrimaryControls.MONITOR_EXITING | PrimaryControls.MWAIT_EXITING
    | PrimaryControls.ACTIVATE_SECONDARY_CONTROLS,
    VmcsField.SECONDARY_PROC_CONTROLS: SecondaryControls.ENABLE_EPT | SecondaryControls.UNRESTRICTED_GUEST,
    VmcsField.VM_ENTRY_CONTROLS: ENTRY_DEFAULT1 | EntryControls.LOAD_EFER,
    VmcsField.VM_EXIT_CONTROLS: EXIT_DEFAULT1 | ExitControls.HOST_ADDRESS_SPACE_SIZE
    | ExitControls.ACKNOWLEDGE_INTERRUPT | ExitControls.SAVE_EFER | ExitControls.LOAD_EFER,
    VmcsField.VMCS_LINK_POINTER: NO_VMCS,
    # A 64-bit host, which nobody here is: VM entry checks it, and a VM exit loads none of it.
    VmcsField.HOST_CR0: int(Cr0.PE | Cr0.MP | Cr0.ET | Cr0.NE | Cr0.WP | Cr0.PG), VmcsField.HOST_CR3: 0x1000,
    VmcsField.HOST_CR4: int(Cr4.PAE | Cr4.OSFXSR | Cr4.OSXMMEXCPT | Cr4.VMXE),
    VmcsField.HOST_IA32_EFER: int(Efer.LME | Efer.LMA | Efer.NXE),
    VmcsField.HOST_CS_SELECTOR: 8, VmcsField.HOST_TR_SELECTOR: 0x20,
}


def _defaults() -> dict[VmcsField, int]:
    return {field: int(value) for field, value in DEFAULT_CONTROLS.items()}     # no IntFlag, with which `&` is slow


def _nothing() -> None:
    pass


class Vmcs:
    """The fields of one VMCS, by encoding. *address* is that of its region, NO_VMCS when it has none.

    *controls_changed* and *guest_state_changed* are called after a write of such a field.
    """

    def __init__(self, state: ProcessorState | None = None, controls_changed: Callable[[], None] = _nothing,
                 fields: dict[VmcsField, int] | None = None, address: int = NO_VMCS,
                 launch_state: LaunchState = LaunchState.CLEAR, shadow: bool = False) -> None:
        self.state = state
        self.last_exit: VmExit | None = None
        self.address, self.launch_state, self.shadow = address, launch_state, shadow
        self.controls_changed, self.guest_state_changed = controls_changed, _nothing
        self._kept: dict[VmcsField, int] = _defaults() if fields is None else fields
        self._unheld: dict[VmcsField, tuple[int, int]] = {}     # field -> (what the register holds, what was written)
        self._provided: dict[VmcsField, tuple[Callable[[], int], Callable[[int], None]]] = {}
        self.written: set[VmcsField] = set()        # since VM entry checked them

    def read(self, field: VmcsField) -> int:
        """The field's value; VmcsError when *field* is no encoding of one."""
        field = self._known(field)
        if self.state is not None:
            if field in self._provided:
                return self._provided[field][0]()
            if field in _GUEST:
                return self._read_register(self.state, field)
            if field is VmcsField.VM_ENTRY_CONTROLS:
                ia32e = EntryControls.IA32E_MODE_GUEST if self.state.efer & Efer.LMA else 0
                return self._kept.get(field, 0) & ~int(EntryControls.IA32E_MODE_GUEST) | ia32e
        if self.last_exit is not None and field in _EXIT_INFORMATION:
            return _EXIT_INFORMATION[field](self.last_exit)
        return self._kept.get(field, 0)

    def write(self, field: VmcsField, value: int) -> None:
        """Write a field, cut to its width; VmcsError when it is unknown. Whether software may is not asked here."""
        field = self._known(field)
        value = int(value) & field.mask
        self.written.add(field)
        if self.state is not None and (field in _GUEST or field in self._provided):
            self._write_live(self.state, field, value)
            self.guest_state_changed()
            return
        if field.read_only:
            self._keep_exit_information()
        self._kept[field] = value
        if not field.read_only:
            self.controls_changed()

    def provide(self, field: VmcsField, get: Callable[[], int], put: Callable[[int], None]) -> None:
        """The guest-state *field* is, while the registers are attached, somebody else's to keep."""
        self._provided[field] = get, put

    def store(self, field: VmcsField, value: int) -> None:
        """What the processor itself puts into a control field; nobody is told."""
        self._kept[field] = value & field.mask

    def _read_register(self, state: ProcessorState, field: VmcsField) -> int:
        held = _GUEST[field][0](state)
        if field in self._unheld and self._unheld[field][0] == held:
            return self._unheld[field][1]
        return held

    def _write_live(self, state: ProcessorState, field: VmcsField, value: int) -> None:
        """A value that no register can hold, which VM entry will refuse, is remembered until then."""
        if field in self._provided:
            self._provided[field][1](value)
            return
        get, put = _GUEST[field]
        put(state, value)
        held = get(state)
        if held != value:
            self._unheld[field] = (held, value)
        else:
            self._unheld.pop(field, None)

    # --- who works with it ------------------------------------------------------------------------------

    def attach(self, state: ProcessorState, controls_changed: Callable[[], None] = _nothing,
               guest_state_changed: Callable[[], None] = _nothing) -> None:
        """From now on the registers of *state* are the guest-state fields."""
        self.state = state
        self._unheld.clear()
        self.controls_changed, self.guest_state_changed = controls_changed, guest_state_changed

    @property
    def live(self) -> frozenset[VmcsField]:
        """The guest-state fields that are kept by the vcpu that is attached."""
        return frozenset(_GUEST) | self._provided.keys()

    def detach(self, but: frozenset[VmcsField] = frozenset()) -> None:
        """The guest-state fields become plain data: what the vcpu held, *but* for some that stay as they were."""
        if self.state is not None:
            self._kept.update({field: self.read(field) for field in {*self.live, VmcsField.VM_ENTRY_CONTROLS} - but})
            self.state = None
        self._provided.clear()
        self.controls_changed = self.guest_state_changed = _nothing

    def load_live(self, but: frozenset[VmcsField]) -> None:
        """What the guest-state fields were as plain data goes to the vcpu that is attached, *but* for some."""
        assert self.state is not None, "no vcpu is attached"
        for field in sorted(self.live - but):
            self._write_live(self.state, field, self._kept.get(field, 0))

    def entered(self) -> None:
        """A VM entry succeeded; SDM "VM Entries", the last step of VMLAUNCH."""
        self.launch_state = LaunchState.LAUNCHED
        self._unheld.clear()

    def record_entry_failure(self, exit: VmExit) -> None:
        """A VM entry failed in or after the checks of guest state: only two fields tell; SDM "VM-Entry Failures"."""
        self._keep_exit_information()
        self._kept[VmcsField.EXIT_REASON] = _exit_reason(exit)
        self._kept[VmcsField.EXIT_QUALIFICATION] = exit.qualification

    def _keep_exit_information(self) -> None:
        """What the last exit recorded becomes plain data."""
        if self.last_exit is not None:
            self._kept.update({field: get(self.last_exit) for field, get in _EXIT_INFORMATION.items()})
            self.last_exit = None

    def snapshot(self) -> dict[VmcsField, int]:
        """The value of every field that software writes, each register read once: what VM entry checks."""
        values = _ZEROES | self._kept
        state = self.state
        if state is None:
            return values
        for field, name in _WHOLE:
            values[field] = getattr(state, name)
        for fields, name in _PARTS:
            values.update(zip(fields, getattr(state, name), strict=True))
        for field, index in _MSR_FIELDS:
            values[field] = state.msrs[index]
        for field, (held, written) in self._unheld.items():
            values[field] = written if values[field] == held else values[field]
        for field, (get, _) in self._provided.items():
            values[field] = get()
        values[_ENTRY_CONTROLS] = int(self.read(_ENTRY_CONTROLS))
        return values

    @staticmethod
    def _known(field: int) -> VmcsField:
        try:
            return VmcsField(field)
        except ValueError:
            raise VmcsError(f"{field:#x} is no VMCS field") from None

    def inspect(self) -> dict[str, Any]:
        """Every field that is not zero, by name."""
        basic = self.read(VmcsField.EXIT_REASON) & 0xFFFF
        reason = ExitReason(basic).name if basic in _REASONS else f"{basic:#x}"
        values = {field.name: self.read(field) for field in VmcsField}
        return {name: value for name, value in values.items() if value} | {"EXIT_REASON_NAME": reason}

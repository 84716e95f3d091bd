"""The VMCS of one vcpu. Guest-state fields are not copied: reading one reads the register, writing one writes it.

SDM "Virtual Machine Control Structures". Control and host fields are kept here, and each write to one is announced, so
that the vcpu can look again; exit-information fields are those of the last exit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.machine.state import ProcessorState
from hv.spec.exits import ExitReason
from hv.spec.msrs import Msr
from hv.spec.vmcs import (
    ENTRY_DEFAULT1,
    EXIT_DEFAULT1,
    NO_VMCS,
    PIN_DEFAULT1,
    TRUE_PRIMARY_DEFAULT1,
    EntryControls,
    ExitControls,
    FieldEncoding,
    FieldKind,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)
from hv.spec.x86 import Efer
from hv.vmx.exit import VmExit

Getter = Callable[[ProcessorState], int]
Setter = Callable[[ProcessorState, int], None]


class VmcsError(Exception):
    """A field that does not exist, or that software may not write; VM-instruction errors 12 and 13."""


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


_SEGMENT_PARTS = (("SELECTOR", "selector"), ("BASE", "base"), ("LIMIT", "limit"), ("ACCESS_RIGHTS", "rights"))
_MSR_FIELDS = ((VmcsField.GUEST_SYSENTER_CS, Msr.SYSENTER_CS), (VmcsField.GUEST_SYSENTER_ESP, Msr.SYSENTER_ESP),
               (VmcsField.GUEST_SYSENTER_EIP, Msr.SYSENTER_EIP), (VmcsField.GUEST_IA32_PAT, Msr.PAT))


def _set_interruptibility(state: ProcessorState, value: int) -> None:
    state.interrupt_shadow = bool(value & 3)        # blocking by STI, by MOV SS


def _guest_fields() -> dict[VmcsField, tuple[Getter, Setter]]:
    fields: dict[VmcsField, tuple[Getter, Setter]] = {}
    for name in ("cr0", "cr3", "cr4", "dr7", "rsp", "rip", "rflags"):
        fields[VmcsField[f"GUEST_{name.upper()}"]] = _register(name)
    fields[VmcsField.GUEST_IA32_EFER] = _register("efer")
    for segment in ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"):
        for suffix, part in _SEGMENT_PARTS:
            fields[VmcsField[f"GUEST_{segment.upper()}_{suffix}"]] = _part(segment, part)
    for table in ("gdtr", "idtr"):
        for suffix, part in (("BASE", "base"), ("LIMIT", "limit")):
            fields[VmcsField[f"GUEST_{table.upper()}_{suffix}"]] = _part(table, part)
    for field, index in _MSR_FIELDS:
        fields[field] = _msr(index)
    fields[VmcsField.GUEST_INTERRUPTIBILITY_STATE] = (lambda state: int(state.interrupt_shadow), _set_interruptibility)
    return fields


_GUEST = _guest_fields()
_EXIT_INFORMATION: dict[VmcsField, Callable[[VmExit], int]] = {
    VmcsField.EXIT_REASON: lambda exit: exit.reason,
    VmcsField.EXIT_QUALIFICATION: lambda exit: exit.qualification,
    VmcsField.EXIT_INSTRUCTION_LENGTH: lambda exit: exit.instruction_length,
    VmcsField.EXIT_INTERRUPTION_INFO: lambda exit: exit.interruption_info,
    VmcsField.EXIT_INTERRUPTION_ERROR_CODE: lambda exit: exit.interruption_error_code,
    VmcsField.IDT_VECTORING_INFO: lambda exit: exit.idt_vectoring_info,
    VmcsField.IDT_VECTORING_ERROR_CODE: lambda exit: exit.idt_vectoring_error_code,
    VmcsField.GUEST_PHYSICAL_ADDRESS: lambda exit: exit.guest_physical_address or 0,
    VmcsField.GUEST_LINEAR_ADDRESS: lambda exit: exit.guest_linear_address or 0,
}

# What a hypervisor of this kind asks for; the vcpu honours these bits and those of the bitmaps.
DEFAULT_CONTROLS: dict[VmcsField, int] = {
    VmcsField.PIN_BASED_CONTROLS: PIN_DEFAULT1 | PinControls.EXTERNAL_INTERRUPT_EXITING | PinControls.NMI_EXITING,
    VmcsField.PRIMARY_PROC_CONTROLS: TRUE_PRIMARY_DEFAULT1 | PrimaryControls.HLT_EXITING
    | PrimaryControls.UNCONDITIONAL_IO_EXITING | PrimaryControls.CR8_LOAD_EXITING | PrimaryControls.CR8_STORE_EXITING
    | PrimaryControls.PAUSE_EXITING | PrimaryControls.ACTIVATE_SECONDARY_CONTROLS,
    VmcsField.SECONDARY_PROC_CONTROLS: SecondaryControls.ENABLE_EPT | SecondaryControls.UNRESTRICTED_GUEST,
    VmcsField.VM_ENTRY_CONTROLS: ENTRY_DEFAULT1 | EntryControls.LOAD_EFER,
    VmcsField.VM_EXIT_CONTROLS: EXIT_DEFAULT1 | ExitControls.HOST_ADDRESS_SPACE_SIZE
    | ExitControls.ACKNOWLEDGE_INTERRUPT | ExitControls.SAVE_EFER | ExitControls.LOAD_EFER,
    VmcsField.VMCS_LINK_POINTER: NO_VMCS,
}


class Vmcs:
    """The fields of one VMCS, by encoding."""

    def __init__(self, state: ProcessorState, controls_changed: Callable[[], None]) -> None:
        self.state = state
        self.last_exit: VmExit | None = None
        self._controls_changed = controls_changed
        self._kept: dict[VmcsField, int] = dict(DEFAULT_CONTROLS)
        self._provided: dict[VmcsField, tuple[Callable[[], int], Callable[[int], None]]] = {}

    def provide(self, field: VmcsField, get: Callable[[], int], put: Callable[[int], None]) -> None:
        """*field* is somebody else's to keep."""
        self._provided[field] = get, put

    def store(self, field: VmcsField, value: int) -> None:
        """What the processor itself puts into a control field; nobody is told."""
        self._kept[field] = value & field.mask

    def read(self, field: VmcsField) -> int:
        """The field's value; VmcsError when *field* is no encoding of one."""
        field = self._known(field)
        if field in self._provided:
            return self._provided[field][0]()
        if field in _GUEST:
            return _GUEST[field][0](self.state)
        if field in _EXIT_INFORMATION:
            return _EXIT_INFORMATION[field](self.last_exit) if self.last_exit is not None else 0
        if field is VmcsField.VM_ENTRY_CONTROLS:
            ia32e = EntryControls.IA32E_MODE_GUEST if self.state.efer & Efer.LMA else 0
            return self._kept[field] & ~int(EntryControls.IA32E_MODE_GUEST) | ia32e
        return self._kept.get(field, 0)

    def write(self, field: VmcsField, value: int) -> None:
        """Write a field, cut to its width; VmcsError when it is unknown or read-only."""
        field = self._known(field)
        encoding = FieldEncoding(field)
        if encoding.kind == FieldKind.READ_ONLY_DATA:
            raise VmcsError(f"{field.name} is read-only")
        value &= field.mask
        if field in self._provided:
            self._provided[field][1](value)
            return
        if field in _GUEST:
            _GUEST[field][1](self.state, value)
            return
        self._kept[field] = value
        self._controls_changed()

    @staticmethod
    def _known(field: int) -> VmcsField:
        try:
            return VmcsField(field)
        except ValueError:
            raise VmcsError(f"{field:#x} is no VMCS field") from None

    def inspect(self) -> dict[str, Any]:
        """Every field that is not zero, by name."""
        values = {field.name: self.read(field) for field in VmcsField}
        reason = self.last_exit.reason.name if self.last_exit is not None else ExitReason.EXCEPTION_OR_NMI.name
        return {name: value for name, value in values.items() if value} | {"EXIT_REASON_NAME": reason}

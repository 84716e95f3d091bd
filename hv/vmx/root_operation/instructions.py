"""VMX instructions of machine code in VMX root operation, or outside VMX operation: from the operands to RFLAGS.

SDM "VMX Instruction Reference". The engine does not know these instructions: they arrive as its #UD, decoded. What a
guest in non-root operation does with them is a VM exit, and not here (`intercepts/undefined.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from hv.instructions.decode import (
    Decoded,
    MemoryOperand,
    RegisterOperand,
    linear_address,
    read_register,
    write_register,
)
from hv.machine.faults import Access, GuestFault
from hv.machine.linear import LinearMemory
from hv.machine.paging import NonCanonical
from hv.machine.state import ProcessorState
from hv.spec.ept import InveptDescriptor, InvvpidDescriptor
from hv.spec.x86 import ARITHMETIC_FLAGS, Cr4, Rflags, Vector
from hv.vmx.events.non_register import MOV_SS
from hv.vmx.root_operation.operation import VmFail, VmxMode
from hv.vmx.root_operation.transitions import VmxTransitions

_VM, _VMXE = Rflags.VM.value, Cr4.VMXE.value
_OUTCOME = ARITHMETIC_FLAGS.value
_POINTER = 8                    # bytes of a physical address in memory
_U32 = (1 << 32) - 1


class VmxInstructions:
    """Carries out VMX instructions for the registers of *transitions*' vcpu, whose linear memory is *memory*."""

    def __init__(self, transitions: VmxTransitions, memory: LinearMemory) -> None:
        self._transitions, self._memory, self._operation = transitions, memory, transitions.operation
        self._state: ProcessorState = transitions.vcpu.state
        self._by_name: dict[str, Callable[[Decoded], None]] = {
            "vmxon": self._vmxon, "vmxoff": lambda decoded: self._operation.vmxoff(),
            "vmcall": lambda decoded: self._operation.vmcall(),
            "vmclear": lambda decoded: self._operation.vmclear(self._read_pointer(decoded)),
            "vmptrld": self._vmptrld, "vmptrst": self._vmptrst, "vmread": self._vmread, "vmwrite": self._vmwrite,
            "vmlaunch": lambda decoded: self._enter(launch=True), "vmresume": lambda decoded: self._enter(launch=False),
            "invept": self._invept, "invvpid": self._invvpid,
        }

    def execute(self, decoded: Decoded) -> bool:
        """Carry out *decoded*, at which RIP stands; GuestFault, #UD for what is no VMX instruction.

        Afterwards RIP is behind it, or where a VM entry or a failed one leads. True when it was single-stepped.
        """
        carry_out = self._by_name.get(decoded.mnemonic)
        if carry_out is None:
            raise GuestFault(Vector.UD)
        self._may_execute(decoded)
        entering = decoded.mnemonic in ("vmlaunch", "vmresume")
        flags = 0
        try:
            carry_out(decoded)
            if entering:
                return False
        except VmFail as failure:
            flags = self._operation.fail(failure)
        self._state.rflags = self._state.rflags & ~_OUTCOME | flags
        return bool(self._state.complete_instruction(decoded.length))

    def _may_execute(self, decoded: Decoded) -> None:
        """#UD outside VMX operation (VMXON: without CR4.VMXE) and in modes without VMX; #GP but at CPL 0."""
        state, outside = self._state, self._operation.mode is VmxMode.OFF
        vmxon = decoded.mnemonic == "vmxon"
        compatibility = state.in_long_mode and decoded.bits != 64
        if not state.protected or state.rflags & _VM or compatibility:
            raise GuestFault(Vector.UD)
        if not state.cr4 & _VMXE if vmxon else outside:
            raise GuestFault(Vector.UD)
        if state.cpl or (outside and not self._may_enter_vmx_operation()):
            raise GuestFault(Vector.GP, 0)

    def _may_enter_vmx_operation(self) -> bool:
        """SDM "Restrictions on VMX Operation", "Enabling and Entering VMX Operation"."""
        processor, control = self._operation.processor, self._operation.feature_control
        return bool(control.lock and control.vmxon_outside_smx
                    and processor.fixes(self._state.cr0, self._state.cr4))

    # --- the instructions that are more than their operand -----------------------------------------------

    def _vmxon(self, decoded: Decoded) -> None:
        if self._operation.mode is VmxMode.OFF:
            self._operation.vmxon(self._read_pointer(decoded))
        else:
            self._operation.vmxon(0)            # fails before it looks at its operand

    def _vmptrld(self, decoded: Decoded) -> None:
        self._operation.vmptrld(self._read_pointer(decoded))

    def _vmptrst(self, decoded: Decoded) -> None:
        self._write(decoded, self._operation.vmptrst().to_bytes(_POINTER, "little"))

    def _enter(self, launch: bool) -> None:
        self._transitions.enter(launch, self._transitions.vcpu.non_register.shadow == MOV_SS)

    def _vmread(self, decoded: Decoded) -> None:
        """A field that is narrower than the operand is zero-extended, one that is wider is cut."""
        target, encoding = decoded.operands
        assert isinstance(encoding, RegisterOperand), decoded.text
        value = self._operation.vmread(read_register(self._state, encoding.name))
        if isinstance(target, RegisterOperand):
            write_register(self._state, target.name, value)
        else:
            size = self._operand_size(decoded)
            self._write(decoded, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def _vmwrite(self, decoded: Decoded) -> None:
        """The operand is read before anybody asks whether there is such a field."""
        encoding, source = decoded.operands
        assert isinstance(encoding, RegisterOperand), decoded.text
        if self._operation.current is None:
            raise VmFail
        if isinstance(source, RegisterOperand):
            value = read_register(self._state, source.name)
        else:
            value = int.from_bytes(self._read(decoded, self._operand_size(decoded)), "little")
        self._operation.vmwrite(read_register(self._state, encoding.name), value)

    def _invept(self, decoded: Decoded) -> None:
        self._operation.invept(self._type(decoded), self._read(decoded, InveptDescriptor.SIZE))

    def _invvpid(self, decoded: Decoded) -> None:
        self._operation.invvpid(self._type(decoded), self._read(decoded, InvvpidDescriptor.SIZE))

    def _type(self, decoded: Decoded) -> int:
        kind = decoded.operands[0]
        assert isinstance(kind, RegisterOperand), decoded.text
        return read_register(self._state, kind.name)

    # --- operands in memory -------------------------------------------------------------------------------

    @staticmethod
    def _operand_size(decoded: Decoded) -> int:
        return 8 if decoded.bits == 64 else 4

    def _read_pointer(self, decoded: Decoded) -> int:
        return int.from_bytes(self._read(decoded, _POINTER), "little")

    def _read(self, decoded: Decoded, size: int) -> bytes:
        operand = self._memory_operand(decoded)
        try:
            return self._memory.read(self._linear(decoded, operand, size, Access.READ), size)
        except NonCanonical:
            raise self._segment_fault(operand) from None

    def _write(self, decoded: Decoded, data: bytes) -> None:
        operand = self._memory_operand(decoded)
        try:
            self._memory.write(self._linear(decoded, operand, len(data), Access.WRITE), data)
        except NonCanonical:
            raise self._segment_fault(operand) from None

    @staticmethod
    def _memory_operand(decoded: Decoded) -> MemoryOperand:
        operand = decoded.memory
        if operand is None:
            raise GuestFault(Vector.UD)
        return operand

    @staticmethod
    def _segment_fault(operand: MemoryOperand) -> GuestFault:
        return GuestFault(Vector.SS if operand.segment == "ss" else Vector.GP, 0)

    def _linear(self, decoded: Decoded, operand: MemoryOperand, size: int, access: Access) -> int:
        """The linear address; outside 64-bit mode the segment's rights and limit are checked here."""
        linear = linear_address(decoded, self._state, operand)
        if decoded.bits == 64:
            return linear
        segment = getattr(self._state, operand.segment)
        first = linear - segment.base & _U32
        allowed = segment.writable if access is Access.WRITE else segment.readable
        highest = (_U32 if segment.big else 0xFFFF) if segment.expand_down else segment.limit
        lowest = segment.limit + 1 if segment.expand_down else 0
        if not segment.usable or not allowed or first < lowest or first + size - 1 > highest:
            raise self._segment_fault(operand)
        return linear

"""A machine without a hypervisor: the program has the processor, and may become one by VMXON.

    machine = BareMachine(load("labs/16_vm_entry/solution/vm_entry.asm"))
    machine.run()
    print(machine.vms[0].ended, machine.vms[0].serial)

The program's registers and its guest's take turns in one vcpu (`vmx/root_operation/transitions.py`). Every VM exit, VM
entry, and VMX instruction that fails is an event. The program starts as `docs/guests.md` says; its memory is RAM from 0
on, and behind it nobody answers.

# Simplified: one processor, no local APIC and no device but COM1 and the power switch, so nothing interrupts; a guest
whose I/O instructions do not exit finds an empty bus. HLT ends the machine, for nobody could wake it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hv.hypervisor.partitions.processor_leaves import VENDOR
from hv.image.model import Image
from hv.instructions.decode import Decoded
from hv.machine.clock import EXIT_TICKS
from hv.machine.engine import Engine
from hv.machine.faults import GuestFault
from hv.machine.idt import exception
from hv.machine.lp import LogicalProcessor
from hv.machine.mmio import MmioBus
from hv.machine.ram import PhysicalMemory
from hv.machine.registers import Segment, Table
from hv.machine.state import ProcessorState
from hv.machine.traps import Trap
from hv.root import boot
from hv.root.vdev.power import PORTS as POWER_PORTS
from hv.root.vdev.power import PowerSwitch
from hv.root.vdev.uart16550 import COM1, Uart16550
from hv.spec.exits import ExitReason
from hv.spec.hv_registers import HvRegisterName
from hv.spec.synic import HvSegmentRegister, HvTableRegister
from hv.spec.vmcs import VmcsField
from hv.spec.x86 import Rflags, Vector
from hv.trace.bus import Trace
from hv.trace.events import GuestEnded, SerialOutput, VmEntry, VmEntryRefused, VmxFailed
from hv.vmx.checks import Entry
from hv.vmx.controls import Controls
from hv.vmx.exit import VmExit
from hv.vmx.intercepts import BY_TRAP
from hv.vmx.intercepts.operands import advance, decoded_at, length_of
from hv.vmx.intercepts.undefined import undefined_here
from hv.vmx.reset import init_registers
from hv.vmx.root_operation.instructions import VmxInstructions
from hv.vmx.root_operation.operation import VmxMode, VmxOperation
from hv.vmx.root_operation.transitions import VmxTransitions
from hv.vmx.translation.cached import CachedMappings
from hv.vmx.translation.second_level import SecondLevel
from hv.vmx.vcpu import Vcpu

BARE_MIB = 16
PROGRAM = 1                     # the number under which its events are recorded, where others have a partition's
_FAILED = Rflags.CF.value | Rflags.ZF.value
_VALID = Rflags.ZF.value        # VMfailValid: the current VMCS has the error
_VMX_BIT, _MSR_BITS = 1 << 5, 1 << 5 | 1 << 0 | 1 << 6          # CPUID.1: VMX; MSR, FPU, PAE
_LONG_MODE = 1 << 29 | 1 << 20                                  # CPUID.80000001: LM, NX


class BareVp(NamedTuple):
    """The processor, as the rooms that see everything look at a VP."""

    guest_regs: ProcessorState
    vcpu: Vcpu


class BarePartition(NamedTuple):
    """Whose processor that is; there is one, number 0."""

    vps: dict[int, BareVp]


class BareProgram:
    """The program, as its user sees it: like a `VirtualMachine`, and its own worker."""

    crash, resets = None, 0             # there is nobody to report to, and who would start it again

    def __init__(self, machine: BareMachine, name: str) -> None:
        self.machine, self.name, self.partition_id = machine, name, PROGRAM
        # None while it may run, else "halt", "shutdown", "triple-fault", "budget" or "error"
        self.ended: str | None = None
        self.why = ""
        self.memory_bytes = machine.memory.size
        self._serial = bytearray()

    @property
    def worker(self) -> BareProgram:
        """Who reads its memory and ends it."""
        return self

    @property
    def partition(self) -> BarePartition:
        """The processor's side of it. Only the rooms that see everything look here."""
        return BarePartition({0: BareVp(self.machine.vcpu.state, self.machine.vcpu)})

    @property
    def serial(self) -> str:
        """What the serial port printed."""
        return self._serial.decode("utf-8", "replace")

    def send(self, byte: int) -> None:
        """The serial port sent *byte*."""
        self._serial.append(byte)
        if self.machine.trace.listening:
            self.machine.trace.emit(SerialOutput(chr(byte)))

    def read(self, spa: int, size: int) -> bytes:
        """Bytes of memory; fewer where it ends."""
        return self.machine.memory.read(spa, max(0, min(size, self.memory_bytes - spa)))

    def end(self, ended: str, why: str = "") -> None:
        """The machine is off."""
        if self.ended is None:
            self.ended, self.why = ended, why
            if self.machine.trace.listening:
                self.machine.trace.emit(GuestEnded(ended))


class BareMachine:
    """A machine with *image* loaded, and its processor in nobody's hands; ImageError when the program does not fit."""

    def __init__(self, image: Image, memory_mib: int = BARE_MIB, name: str = "program") -> None:
        boot.check(image, memory_mib << 20)
        self.memory, self.trace = PhysicalMemory(memory_mib << 20), Trace()
        self.processor = LogicalProcessor()
        self.clock = self.processor.clock
        self.trace.clock = lambda: self.clock.tsc
        self.trace.at(PROGRAM, 0)
        self.engine = Engine(self.memory, self.processor.counter)
        cached = CachedMappings(self.memory, MmioBus(), self.engine)
        self.vcpu = Vcpu(self.engine, self.clock, SecondLevel(cached))
        self.operation = VmxOperation(self.memory, cached=cached)
        self.transitions = VmxTransitions(self.operation, self.vcpu)
        self.transitions.on_entry_failure = self._refused
        self.vcpu.on_exit = self._leave
        self.instructions = VmxInstructions(self.transitions, self.vcpu.memory)
        cached.enter(self.vcpu.second_level)
        self.guest = BareProgram(self, name)
        self.vms = [self.guest]
        self.refused: list[Entry] = []          # VM entries that a rule refused
        self._ports: list[tuple[range, Any]] = [(COM1, Uart16550(COM1.start, self.guest.send)),
                                                (POWER_PORTS, PowerSwitch(lambda: self.guest.end("shutdown")))]
        self._load(image)

    def _load(self, image: Image) -> None:
        """What a boot loader does."""
        for spa, data in boot.tables(image, boot.Information()).items():
            self.memory.write(spa, data)
        for segment in image.segments:
            self.memory.write(segment.gpa, segment.data)
        init_registers(self.vcpu.state)
        for name, value in boot.initial_registers(image, 0, self.memory.size).items():
            setattr(self.vcpu.state, HvRegisterName(name).name.lower(), _register(value))

    # --- running ------------------------------------------------------------------------------------------

    def run(self, until_tsc: int | None = None, paused: Callable[[], bool] | None = None) -> None:
        """Run until the program has ended, the clock reaches *until_tsc*, or *paused* says so."""
        until = 1 << 62 if until_tsc is None else until_tsc
        while self.guest.ended is None and self.clock.tsc < until and not (paused is not None and paused()):
            if self.operation.mode is VmxMode.NON_ROOT:
                self._run_guest(until)
            elif self.operation.mode is VmxMode.ABORTED:
                self.guest.end("error", "a VMX abort: the processor is shut down")
            else:
                self._run_root(until)

    def _run_guest(self, until: int) -> None:
        self.vcpu.run(until)
        if self.operation.mode is VmxMode.NON_ROOT and self.vcpu.non_register.activity:
            self.guest.end("halt", "its guest sleeps, and nothing could wake it")

    def _run_root(self, until: int) -> None:
        self.engine.on_trap = self._on_trap
        if not self.engine.run(self.vcpu.state, until):
            self.processor.counter.done = max(self.clock.tsc, until)    # the block that would pass it waits

    def end_budget(self) -> None:
        """The program has used up what it was given, if it still runs."""
        self.guest.end("budget", "the budget of virtual time is used up")

    def close(self) -> None:
        """Give everything back to the host."""
        self.engine.close()
        self.memory.close()

    # --- outside of VMX operation, and in root operation -----------------------------------------------------

    def _on_trap(self, trap: Trap, detail: int) -> bool:
        """What the engine cannot do alone; True to go on. It counts as much time as a VM exit."""
        self.vcpu.work[0] += EXIT_TICKS
        try:
            self._do(trap, detail)
        except GuestFault as fault:
            refused = self.vcpu.deliver(exception(fault))
            if refused is not None:
                self.guest.end("triple-fault", f"triple-faulted at rip {self.vcpu.state.rip:#x} over {fault}")
        return False

    def _do(self, trap: Trap, detail: int) -> None:
        state, msrs = self.vcpu.state, self.transitions.msrs
        self.vcpu.controls = Controls(self.vcpu.vmcs.read)
        if self.operation.mode is VmxMode.OFF:
            self.vcpu.controls.cr_fixed = {0: 0, 4: 0}          # bits are fixed in VMX operation only
        if trap is Trap.HLT:
            advance(self.vcpu, length_of(self.vcpu))
            self.guest.end("halt")
        elif trap is Trap.RDMSR:
            value = msrs.read(state.ecx)
            state.rax, state.rdx = value & 0xFFFF_FFFF, value >> 32
            advance(self.vcpu, length_of(self.vcpu))
        elif trap is Trap.WRMSR:
            msrs.write(state.ecx, state.edx << 32 | state.eax)
            advance(self.vcpu, length_of(self.vcpu))
        elif trap is Trap.EXCEPTION and detail == Vector.UD:
            self._undefined()
        elif trap not in (Trap.IN, Trap.OUT) or not self._port(trap):
            self._answer(BY_TRAP[trap](self.vcpu, detail))

    def _answer(self, exit: VmExit | None) -> None:
        """What is a VM exit in a guest has its plain meaning here."""
        state = self.vcpu.state
        if exit is None:
            return
        if exit.reason is ExitReason.CPUID:
            state.rax, state.rbx, state.rcx, state.rdx = _cpuid(state.eax)
        elif exit.reason in (ExitReason.TRIPLE_FAULT, ExitReason.TASK_SWITCH):
            self.guest.end("triple-fault", f"{exit.reason.name} at rip {state.rip:#x}")
            return
        elif exit.reason not in (ExitReason.INVD, ExitReason.WBINVD):
            raise GuestFault(Vector.UD)
        advance(self.vcpu, exit.instruction_length)

    def _port(self, trap: Trap) -> bool:
        """One number to or from a device of ours; False when none is there, it is a string, or not permitted."""
        port, size, value = self.engine.port()
        device = next((device for ports, device in self._ports if port in ports), None)
        decoded = decoded_at(self.vcpu)
        if device is None or decoded.port is None or decoded.port.string or self.vcpu.state.cpl:
            return False
        if trap is Trap.OUT:
            device.write_port(port, size, value)
        else:
            mask = (1 << 8 * size) - 1
            self.vcpu.state.rax = self.vcpu.state.rax & ~mask | device.read_port(port, size) & mask
        advance(self.vcpu, decoded.length)
        return True

    def _undefined(self) -> None:
        decoded = undefined_here(self.vcpu)
        if decoded is None:
            raise GuestFault(Vector.UD)
        self.instructions.execute(decoded)
        self._tell(decoded)

    # --- what is recorded ------------------------------------------------------------------------------------

    def _tell(self, decoded: Decoded) -> None:
        """A VMX instruction is done: what came of it, where that is no VM exit."""
        if self.operation.mode is VmxMode.NON_ROOT:
            if self.trace.listening:
                self.trace.emit(VmEntry(self.vcpu.state.rip))
            return
        if decoded.mnemonic in ("vmlaunch", "vmresume") and self.transitions.entry_result.error is not None:
            self._keep_refused()
        if self.trace.listening and self.vcpu.state.rflags & _FAILED:       # VMsucceed clears them
            self._tell_failed(decoded)

    def _tell_failed(self, decoded: Decoded) -> None:
        current = self.operation.current if self.vcpu.state.rflags & _VALID else None
        error = 0 if current is None else current.read(VmcsField.VM_INSTRUCTION_ERROR)
        self.trace.emit(VmxFailed(decoded.mnemonic, error))

    def _refused(self, exit: VmExit) -> None:
        """A VM entry that failed as a VM exit."""
        if not self.transitions.entry_result.entered:
            self._keep_refused()
        if self.trace.listening:
            self.trace.emit(exit)

    def _keep_refused(self) -> None:
        """The rule that refused a VM entry, and the VMCS as it was."""
        failure = self.transitions.entry_result.failure
        assert failure is not None, "a refused entry has a reason"
        self.refused.append(self.entry())
        if self.trace.listening:
            self.trace.emit(VmEntryRefused(failure.rule.id, failure.words, failure.broken.found))

    def entry(self) -> Entry:
        """The VM entry of the current VMCS, as its checks see it; without one, that of an empty VMCS."""
        vmcs = self.operation.current or self.vcpu.vmcs
        return Entry(vmcs.snapshot(), self.operation.processor, self.memory, self.vcpu.state.in_long_mode, vmcs.address)

    def _leave(self, exit: VmExit) -> bool:
        if self.trace.listening:
            self.trace.emit(exit)
        return self.transitions.leave(exit)


def _register(value: Any) -> Any:
    """A register's value, from the hypervisor's layouts to the processor's own."""
    if isinstance(value, HvSegmentRegister):
        return Segment(value.selector, value.base, value.limit, value.attributes)
    return Table(value.base, value.limit) if isinstance(value, HvTableRegister) else value


def _cpuid(leaf: int) -> tuple[int, int, int, int]:
    """The processor's own CPUID: EAX, EBX, ECX, EDX. # Simplified: who it is, VMX and long mode; the rest is 0."""
    ebx, edx, ecx = (int.from_bytes(VENDOR[at : at + 4], "little") for at in (0, 4, 8))
    return {0: (1, ebx, ecx, edx), 1: (0, 0, _VMX_BIT, _MSR_BITS), 0x80000000: (0x80000001, 0, 0, 0),
            0x80000001: (0, 0, 0, _LONG_MODE)}.get(leaf, (0, 0, 0, 0))

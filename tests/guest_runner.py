"""Guests for tests: machine code on the real platform, and what became of it.

    result = run_guest("mov eax, 0x40000000; cpuid; hlt")
    assert result.ended == "halt"

A source has one statement on a line, or several with `;` between them (which is why it can have no comments).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hv.image.model import Image, Segment
from hv.image.passes import Assembly
from hv.image.source import read_statements
from hv.image.worker import Worker
from hv.machine.state import ProcessorState
from hv.platform import Machine, VirtualMachine
from hv.spec.x86 import PAGE_SIZE
from hv.trace.bus import Record
from hv.vmx.exit import VmExit

ORIGIN = {16: 0x7C00, 32: 0x10000, 64: 0x10000}
BUDGET = 2_000_000          # ticks of virtual time: far more than a guest of a test needs
_GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
            "r15")
_OTHERS = ("rip", "rflags", "cpl", "cr0", "cr2", "cr3", "cr4", "efer", "dr6", "dr7")
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr", "gdtr", "idtr")


@dataclass
class GuestRun:
    """How a guest ended, with everything that can be seen of it from outside."""

    ended: str | None
    why: str
    serial: str
    registers: dict[str, Any]
    exits: dict[str, int]                   # by reason
    tsc: int
    memory: bytes
    events: list[Any] = field(default_factory=list)     # what the trace said, without time and place

    def of(self, kind: type) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def fingerprint(self) -> tuple[Any, ...]:
        """Equal for two runs that cannot be told apart."""
        return (self.ended, self.why, self.serial, tuple(self.registers.items()), tuple(self.exits.items()), self.tsc,
                hashlib.sha256(self.memory).hexdigest())

    def __getattr__(self, name: str) -> Any:
        """A register by its name."""
        try:
            return self.registers[name]
        except KeyError:
            raise AttributeError(name) from None


@cache
def _assembler() -> Worker:
    return Worker()


@cache
def assemble(source: str, bits: int = 64, origin: int | None = None) -> tuple[tuple[int, bytes], ...]:
    """The segments of *source*: address and bytes."""
    assembly = Assembly(bits, ORIGIN[bits] if origin is None else origin, {})
    assembly.run(read_statements(source.replace(";", "\n"), "test.asm", ()), _assembler())
    return tuple((gpa, bytes(data)) for gpa, data in assembly.segments)


def image_of(code: str | bytes, bits: int = 64, data: Mapping[int, bytes] | None = None) -> Image:
    """A program of assembly, or of bytes as they are, with *data* at other addresses; it starts at its origin."""
    segments = ((ORIGIN[bits], code),) if isinstance(code, bytes) else assemble(code, bits)
    all_segments = sorted([*segments, *(data or {}).items()])
    return Image("test", [Segment(gpa, part, True, True) for gpa, part in all_segments if part], ORIGIN[bits], bits)


def registers_of(state: ProcessorState) -> dict[str, Any]:
    """All registers by name."""
    return {name: getattr(state, name) for name in (*_GENERAL, *_OTHERS, *_SEGMENTS)}


def observe(machine: Machine, vm: VirtualMachine, events: list[Any] | None = None) -> GuestRun:
    """What can be seen of *vm* now."""
    vp = vm.partition.vps[0]
    counts = Counter({reason: count for reason, count in enumerate(vp.vcpu.exits) if count})
    return GuestRun(vm.ended, vm.why, vm.serial, registers_of(vp.guest_regs), {str(k): v for k, v in counts.items()},
                    machine.clock.tsc, memory_of(machine, vm), events or [])


def memory_of(machine: Machine, vm: VirtualMachine) -> bytes:
    """All memory of *vm*, which is one run of pages."""
    first = vm.worker.pages[0] * PAGE_SIZE
    return machine.memory.read(first, vm.worker.memory_bytes)


def run_guest(code: str | bytes, bits: int = 64, *, budget: int = BUDGET, memory_mib: int = 2, vps: int = 1,
              data: Mapping[int, bytes] | None = None, prepare: Callable[[Machine, VirtualMachine], None] | None = None,
              trace: bool = True, apic_virtualization: bool | None = None) -> GuestRun:
    """Run *code* in a VM of its own until it ends or *budget* ticks are used up; *prepare* may change it before."""
    machine = Machine(memory_mib=memory_mib + 8, apic_virtualization=apic_virtualization)
    try:
        vm = machine.create_vm("guest", image_of(code, bits, data), memory_mib=memory_mib, vps=vps)
        if prepare is not None:
            prepare(machine, vm)
        events: list[Any] = []

        def note(record: Record) -> None:
            events.append(record.event)

        if trace:
            machine.trace.listen(note)
        machine.run(until_tsc=machine.clock.tsc + budget)
        machine.end_budget()
        return observe(machine, vm, events)
    finally:
        machine.close()


def exits_of(result: GuestRun) -> list[VmExit]:
    """The VM exits of a run, in order."""
    return result.of(VmExit)

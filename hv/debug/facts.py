"""Events with names for all that is known of them: what queries and stops ask about.

A `Fact` is a record of the trace, and of a VM exit also what its instruction was about (`msr`, `port`, `leaf`, ...):
the exit-information fields do not say it, the registers at the exit do, and those are gone a moment later. So the
`Recording` of a session looks at them when the exit is emitted, before its handler runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

from hv.spec import msrs
from hv.spec.exits import ExitReason, InterruptionInfo, InterruptionType, IoQualification
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.partition import HvPartitionProperty
from hv.spec.synic import HvMessageType
from hv.spec.vtd import FaultReason
from hv.spec.x86 import Vector
from hv.trace import events
from hv.trace.bus import Recent, Record
from hv.trace.event import Event
from hv.trace.events import SwitchReason
from hv.vmx.exit import VmExit

EVENT_CLASSES: dict[str, type[Any]] = {
    "VmExit": VmExit,
    **{name: found for name, found in vars(events).items()
       if isinstance(found, type) and issubclass(found, Event) and found is not Event},
}
# Of every event, and of exits by their reason: name -> what it is, for help and completion.
PLACE = {
    "event": "the kind of event", "sequence": "its number", "tsc": "virtual time, ticks of 2 GHz",
    "in_partition": "id of the partition it happened in", "in_vp": "index of the VP that ran", "vm": "name of the VM",
}
OPERANDS = {
    "rip": "where the instruction is", "msr": "index, of RDMSR and WRMSR", "value": "what WRMSR or OUT writes",
    "port": "of IN and OUT", "size": "bytes, of IN and OUT", "write": "True of OUT", "leaf": "EAX of CPUID",
    "subleaf": "ECX of CPUID", "control": "the input value of VMCALL", "code": "bits 15:0 of it",
    "number": "of the control register", "vector": "of the exception or interrupt", "gpa": "guest-physical address",
    "gva": "guest linear address",
}
EXIT_FIELDS = ("reason", "qualification", "instruction_length", "guest_physical_address", "guest_linear_address",
               "interruption_info", "idt_vectoring_info", "instruction_info")
# What the names in capital letters stand for, by the field they are compared with. The first one that has it.
ENUMERATIONS: dict[str, tuple[type[Enum], ...]] = {
    "reason": (ExitReason, FaultReason), "code": (HypercallCode, HvPartitionProperty), "status": (HvStatus,),
    "msr": (msrs.Msr,), "vector": (Vector,), "message_type": (HvMessageType,), "kind": (InterruptionType,),
    "why": (SwitchReason,),
}
ALIASES: dict[str, dict[str, int]] = {
    "reason": {"MSR_READ": ExitReason.RDMSR, "MSR_WRITE": ExitReason.WRMSR, "IO": ExitReason.IO_INSTRUCTION,
               "HYPERCALL": ExitReason.VMCALL, "EXCEPTION": ExitReason.EXCEPTION_OR_NMI},
}
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def field_names() -> dict[str, str]:
    """Every name that some event has a value for, and whose it is."""
    found = dict.fromkeys(EXIT_FIELDS, "VmExit")
    for name, kind in EVENT_CLASSES.items():
        for part in getattr(kind, "FIELDS", ()):
            found[part] = f"{found[part]}, {name}" if part in found else name
    found |= {"partition": "the event's own, or where it happened", "vp": "the event's own, or the one that ran"}
    return {**found, **{name: f"VmExit: {meaning}" for name, meaning in OPERANDS.items() if name not in found}, **PLACE}


class Fact(NamedTuple):
    """A record, and of an exit what its instruction was about."""

    record: Record
    operands: Mapping[str, Any]
    vm: str

    def field(self, name: str) -> Any:
        """The value called *name*; KeyError when this event has none."""
        record, event = self.record, self.record.event
        match name:
            case "event":
                return type(event).__name__
            case "sequence":
                return record.sequence
            case "tsc":
                return record.tsc
            case "in_partition":
                return record.partition
            case "in_vp":
                return record.vp
            case "vm":
                return self.vm
        if isinstance(event, VmExit):
            return self._of_exit(event, name)
        if name in event.__dict__:
            return event.__dict__[name]
        return self._where(name)

    def get(self, name: str) -> Any:
        """The value called *name*, or None."""
        try:
            return self.field(name)
        except KeyError:
            return None

    def _where(self, name: str) -> int:
        """`partition` and `vp` of an event that has no such fields of its own are where it happened."""
        return {"partition": self.record.partition, "vp": self.record.vp}[name]

    def _of_exit(self, exit: VmExit, name: str) -> Any:
        if name not in EXIT_FIELDS:
            return self.operands[name] if name in self.operands else self._where(name)
        value = getattr(exit, name)
        if value is None:
            raise KeyError(name)
        return value

    def inspect(self) -> dict[str, Any]:
        """All of it, by name."""
        shown = self.record.event.inspect() if hasattr(self.record.event, "inspect") else {}
        return {name: self.field(name) for name in PLACE} | shown | dict(self.operands)


class Recording(Recent):
    """The last *limit* facts of *machine*; *names* are its VMs' by partition. `operands` go with `records`."""

    def __init__(self, machine: Any, limit: int, names: Mapping[int, str]) -> None:
        super().__init__(limit)
        self._partitions, self._names = machine.hypervisor.partitions, names
        self.operands: deque[Mapping[str, Any]] = deque(maxlen=limit)
        self.seen = 0                   # how many there were in all

    def __call__(self, record: Record) -> None:
        """A listener of the trace."""
        super().__call__(record)
        self.operands.append(self._operands(record) if isinstance(record.event, VmExit) else _NOTHING)
        self.seen += 1

    def clear(self) -> None:
        """Forget all of them."""
        self.records.clear()
        self.operands.clear()

    def _operands(self, record: Record) -> Mapping[str, Any]:
        partition = self._partitions.get(record.partition)
        vp = None if partition is None else partition.vps.get(record.vp)
        return _NOTHING if vp is None else operands_of(record.event, vp.regs)

    def facts(self) -> Iterator[Fact]:
        """All that is kept, oldest first."""
        return map(self._fact, self.records, self.operands)

    def newest(self) -> Fact:
        """The last one; there must be one."""
        return self._fact(self.records[-1], self.operands[-1])

    def _fact(self, record: Record, operands: Mapping[str, Any]) -> Fact:
        return Fact(record, operands, self._names.get(record.partition, ""))


def operands_of(exit: VmExit, regs: Any) -> dict[str, Any]:
    """What the instruction that exits is about; *regs* are those at the exit."""
    found: dict[str, Any] = {"rip": regs.rip}
    match exit.reason:
        case ExitReason.RDMSR:
            found["msr"] = regs.ecx
        case ExitReason.WRMSR:
            found |= {"msr": regs.ecx, "value": regs.edx << 32 | regs.eax}
        case ExitReason.CPUID:
            found |= {"leaf": regs.eax, "subleaf": regs.ecx}
        case ExitReason.VMCALL:
            control = regs.rcx if regs.bits == 64 else regs.edx << 32 | regs.eax
            found |= {"control": control, "code": control & 0xFFFF}
        case ExitReason.IO_INSTRUCTION:
            found |= _io(IoQualification(exit.qualification), regs)
        case ExitReason.CR_ACCESS:
            found["number"] = exit.qualification & 0xF
        case ExitReason.EXCEPTION_OR_NMI | ExitReason.EXTERNAL_INTERRUPT if exit.interruption_info:
            found["vector"] = InterruptionInfo(exit.interruption_info).vector
    if exit.guest_physical_address is not None:
        found["gpa"] = exit.guest_physical_address
    if exit.guest_linear_address is not None:
        found["gva"] = exit.guest_linear_address
    return found


def _io(io: IoQualification, regs: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {"port": io.port, "size": io.size, "write": not io.in_}
    if not io.in_ and not io.string:
        shown["value"] = regs.rax & (1 << 8 * io.size) - 1
    return shown

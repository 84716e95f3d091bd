"""What is changed in a machine from outside, as data: it can be stored, and done again on another one.

A change says all that it needs, in numbers and names of the manuals: who (a partition's id, a VP's index), what, and
the new value. Nothing in it is evaluated later. It is carried out between two instructions of a machine that stands
still, the way a parent does it where a parent can, so a value that the processor could not hold is refused.

    SetRegister(partition=2, vp=0, name="RAX", value=5).apply(machine)
"""

from __future__ import annotations

import msgspec

from hv.hypervisor.hypercalls.direct import call_directly
from hv.hypervisor.hypercalls.registry import Call
from hv.hypervisor.msrs.processor import WRITERS
from hv.hypervisor.msrs.registry import OURS, write_unchecked
from hv.hypervisor.partitions.partition import PartitionState
from hv.hypervisor.registers.table import VALUE_SIZE, set_register
from hv.platform import Box, Machine
from hv.replay.refusal import ChangeRefused, fits, in_words, partition_of, spans, vp_of
from hv.root.vmwp import Worker
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.vmcs import VmcsField
from hv.vmx.root_operation.operation import VmFail


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="change"):
    """One change; ChangeRefused when it says something that no machine could take."""

    def apply(self, machine: Box) -> None:
        """Carry it out on *machine*, which stands still; ChangeRefused, and nothing was changed."""
        raise NotImplementedError


class SetRegister(Change, frozen=True, tag="register"):
    """Register *name* (of HvRegisterName) of a VP is *value*: its 16 bytes as a number, the lowest byte first."""

    partition: int
    vp: int
    name: str
    value: int

    def __post_init__(self) -> None:
        if self.name not in HvRegisterName.__members__:
            raise ChangeRefused(f"`{self.name}` is no register")
        fits(self.value, 8 * VALUE_SIZE)

    def apply(self, machine: Box) -> None:
        """As HvCallSetVpRegisters of its parent does; TLFS "HvCallSetVpRegisters"."""
        vp = vp_of(machine, self.partition, self.vp)
        with in_words(f"{self.name} {self.value:#x}"):
            set_register(vp, HvRegisterName[self.name], self.value.to_bytes(VALUE_SIZE, "little"))
        vp.registers_written()


class SetMsr(Change, frozen=True, tag="msr"):
    """A VP executes WRMSR of *value* to MSR *index*, whatever privileges its partition has."""

    partition: int
    vp: int
    index: int
    value: int

    def __post_init__(self) -> None:
        fits(self.index, 32)
        fits(self.value, 64)

    def apply(self, machine: Box) -> None:
        """With the rules of WRMSR: what would be #GP there is refused."""
        vp = vp_of(machine, self.partition, self.vp)
        what = f"{self.value:#x} to MSR {self.index:#x}"
        with in_words(what):
            if self.index in OURS:
                write_unchecked(vp, self.index, self.value)
            elif self.index in WRITERS:
                WRITERS[self.index](vp, self.index, self.value)
            else:
                raise ChangeRefused(f"MSR {self.index:#x} is not there, or is only read")
        vp.registers_written()


class SetVmcsField(Change, frozen=True, tag="vmcs"):
    """*field* (of VmcsField) of the VMCS of a VP is *value*: VMWRITE. Whether it fits is asked by the next VM entry."""

    partition: int
    vp: int
    field: str
    value: int

    def __post_init__(self) -> None:
        if self.field not in VmcsField.__members__:
            raise ChangeRefused(f"`{self.field}` is no VMCS field")
        fits(self.value, VmcsField[self.field].mask.bit_length())

    def apply(self, machine: Box) -> None:
        """ChangeRefused for a field that this processor does not have."""
        vp = vp_of(machine, self.partition, self.vp)
        try:
            vp.vmcs.write(VmcsField[self.field], self.value)
        except VmFail as error:
            raise ChangeRefused(f"VMWRITE of {self.field} fails: {error}") from None
        vp.kick()


class ParentCall(Change, frozen=True, tag="hypercall"):
    """VP 0 of partition *caller* makes the hypercall *code* (of HypercallCode), with *input* and a list of *elements*.

    How a parent does what is no register: interrupts, properties, rights of pages.
    """

    caller: int
    code: str
    input: bytes
    elements: bytes = b""

    def __post_init__(self) -> None:
        if self.code not in HypercallCode.__members__:
            raise ChangeRefused(f"`{self.code}` is no hypercall")

    def apply(self, machine: Box) -> None:
        """With the privileges of the caller. Of a list, the elements before the refused one are done."""
        caller = partition_of(machine, self.caller)
        vp = caller.vps.get(0)
        if vp is None:
            raise ChangeRefused(f"partition {self.caller} has no vp 0 that could call")
        with in_words(self.code):
            caller.require_state(PartitionState.ACTIVE)         # what does not run, calls nobody
            call_directly(Call(machine.hypervisor, vp), HypercallCode[self.code], self.input, self.elements)


class TypeText(Change, frozen=True, tag="type"):
    """*data* comes in at COM1 of a VM, as fast as its guest takes it."""

    partition: int
    data: bytes

    def apply(self, machine: Box) -> None:
        """ChangeRefused when no worker of root's has that partition."""
        _worker(machine, self.partition).receive(self.data)


class StrikeKeys(Change, frozen=True, tag="keys"):
    """*text* is typed at the keyboard of a VM with a PC board."""

    partition: int
    text: str

    def apply(self, machine: Box) -> None:
        """ChangeRefused when no worker of root's has that partition, or there is no keyboard, or no such key."""
        try:
            if not _worker(machine, self.partition).strike(self.text):
                raise ChangeRefused(f"partition {self.partition} has no keyboard, which is part of a PC board")
        except ValueError as error:
            raise ChangeRefused(str(error)) from None


def _worker(machine: Box, partition: int) -> Worker:
    workers = machine.root.workers if isinstance(machine, Machine) else []
    worker = next((worker for worker in workers if worker.partition_id == partition), None)
    if worker is None or worker.ended is not None:
        raise ChangeRefused(f"partition {partition} is no VM of root's that runs")
    machine.trace.at(machine.hypervisor.root.id, 0)
    return worker


class LetTimePass(Change, frozen=True, tag="time"):
    """*ticks* pass in which nobody runs, up to the next timer at the furthest: somebody let an idle machine wait."""

    ticks: int

    def __post_init__(self) -> None:
        fits(self.ticks, 62)

    def apply(self, machine: Box) -> None:
        """ChangeRefused when a timer is due before."""
        clock = machine.clock
        then, deadline = clock.tsc + self.ticks, clock.next_deadline()
        if then >= 1 << 62 or (deadline is not None and then > deadline):
            raise ChangeRefused(f"{self.ticks} ticks cannot pass at {clock.tsc}: the next timer is due at {deadline}")
        clock.advance(self.ticks)


class SetMemory(Change, frozen=True, tag="memory"):
    """*data* stands at guest-physical *gpa* of a partition, whatever rights its EPT gives its own code there."""

    partition: int
    gpa: int
    data: bytes

    def __post_init__(self) -> None:
        fits(self.gpa, 64)

    def apply(self, machine: Box) -> None:
        """Overlays are written, not what they hide. Code that was translated from there is dropped."""
        done = 0
        for spa, length, _ in spans(partition_of(machine, self.partition), self.gpa, len(self.data)):
            machine.memory.write(spa, self.data[done : done + length])
            done += length


class SetPhysicalMemory(Change, frozen=True, tag="physical memory"):
    """*data* stands at system-physical *spa*, whoever's page that is."""

    spa: int
    data: bytes

    def __post_init__(self) -> None:
        fits(self.spa, 64)

    def apply(self, machine: Box) -> None:
        """Nobody is told: what a processor or the IOMMU has cached of tables there stays cached."""
        if self.spa + len(self.data) > machine.memory.size:
            raise ChangeRefused(f"system-physical {self.spa:#x} is no RAM, which ends at {machine.memory.size:#x}")
        machine.memory.write(self.spa, self.data)


class LetThrough(Change, frozen=True, tag="interrupt entry"):
    """The remapping entry of the device interrupt that has physical *vector* is *present*, or blocks it."""

    vector: int
    present: bool

    def apply(self, machine: Box) -> None:
        """ChangeRefused when no device has that vector."""
        hypervisor = machine.hypervisor
        route = hypervisor.interrupts.at(self.vector)
        if route is None or hypervisor.iommu is None:
            raise ChangeRefused(f"no device has physical vector {self.vector:#x}")
        hypervisor.iommu.let_through(route.source_id, self.vector, self.present)


AnyChange = (TypeText | StrikeKeys | LetTimePass | SetRegister | SetMsr | SetVmcsField | ParentCall | LetThrough
             | SetMemory | SetPhysicalMemory)

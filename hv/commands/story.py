"""The run that `hv demo` tells about: a root, the children A and B, and an attacker.

B waits for letters. A's device copies each letter and interrupts, then A posts it to B; before the last one A sleeps.
While both sleep the attacker tries everything, and memory is hashed before and after. Then A wakes, and the last letter
must still arrive. What is kept is the events, the hashes, and the machine itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from hv.commands.building import load_image
from hv.commands.files import find_guest
from hv.platform import Machine, VirtualMachine
from hv.spec.x86 import PAGE_SIZE
from hv.trace.bus import Record
from hv.trace.events import Hypercall

LETTERS = 5
DEVICE_VECTOR, MESSAGE_VECTOR, MESSAGE_SINT = 0x50, 0x40, 2
BAG_GPA = 0x301000                      # where A's device copies letters to, guests/postman.asm
MACHINE_MIB, VM_MIB = 32, 4             # small, so that all of it is hashed in no time
BOTH_ASLEEP = 20_000_000                # ticks: 10 ms. Four letters are through, A's timer is set to 50 ms
ATTACK_OVER = 80_000_000                # 40 ms
END = 1_000_000_000                     # 0.5 s
E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Memory:
    """Hashes of memory at one moment: of A, of B, and page by page of what is root's own."""

    a: str
    b: str
    root: dict[int, bytes]


@dataclass
class Story:
    """A finished run."""

    machine: Machine
    a: VirtualMachine
    b: VirtualMachine
    attacker: VirtualMachine
    records: list[Record]
    before: Memory
    after: Memory
    attack_over: int = 0                # number of records before the end of the attack
    letters_before: int = 0             # that B had when the attack began

    def __post_init__(self) -> None:
        self._by_kind: dict[type, list[Record]] = {}
        for record in self.records:
            self._by_kind.setdefault(type(record.event), []).append(record)

    def name(self, partition_id: int) -> str:
        """`A`, `root` ..."""
        names = {vm.partition_id: vm.name for vm in (self.a, self.b, self.attacker)}
        return {0: "hypervisor", self.machine.hypervisor.root.id: "root", **names}.get(partition_id, "?")

    def of(self, kind: type[E], partition: int | None = None) -> Iterator[E]:
        """The events of one kind, of what ran in one partition if given."""
        return (record.event for record in self._by_kind.get(kind, ()) if partition in (None, record.partition))

    def exits(self, vm: VirtualMachine, name: str) -> int:
        """How often *vm* exited for the reason called *name*."""
        return sum(1 for record in self.records if record.partition == vm.partition_id and is_exit(record.event)
                   and record.event.reason.name == name)

    @property
    def hypercall_pages(self) -> set[int]:
        """The pages of root's that hold the input and output of its hypercalls: those it writes by itself."""
        calls = list(self.of(Hypercall, self.machine.hypervisor.root.id))
        return {gpa // PAGE_SIZE for call in calls for gpa in (call.input_gpa, call.output_gpa)}


def is_exit(event: Any) -> bool:
    """This event is a VM exit."""
    return hasattr(event, "instruction_length")


def tell() -> Story:
    """Make the machine, and run the story to its end. The machine stays open."""
    machine = Machine(memory_mib=MACHINE_MIB)
    records: list[Record] = []
    machine.trace.listen(records.append)
    b = machine.create_vm("B", load_image(find_guest("receiver")), VM_MIB)
    a = machine.create_vm("A", load_image(find_guest("postman")), VM_MIB, dma_device=True)
    machine.connect(a, 1, b, MESSAGE_SINT)
    machine.run(until_tsc=BOTH_ASLEEP)
    letters = b.serial.count("got message")
    attacker = machine.create_vm("attacker", load_image(find_guest("attacker")), VM_MIB, dma_device=True, other=b)
    before = memory_now(machine, a, b)
    machine.run(until_tsc=ATTACK_OVER)
    after = memory_now(machine, a, b)
    end = len(records)
    machine.run(until_tsc=END)
    return Story(machine, a, b, attacker, records, before, after, end, letters)


def memory_now(machine: Machine, a: VirtualMachine, b: VirtualMachine) -> Memory:
    """The hashes at this moment."""
    owners = machine.hypervisor.owners
    own = [page for page in range(machine.memory.size // PAGE_SIZE)
           if owners.is_root(page) and owners.borrower(page) is None]
    read = machine.memory.read
    root = {page: hashlib.blake2b(read(page * PAGE_SIZE, PAGE_SIZE), digest_size=16).digest() for page in own}
    return Memory(hash_of(a), hash_of(b), root)


def hash_of(vm: VirtualMachine) -> str:
    """SHA-256 over all memory of *vm*, as root sees it."""
    digest = hashlib.sha256()
    for page in vm.worker.pages:
        digest.update(vm.machine.memory.read(page * PAGE_SIZE, PAGE_SIZE))
    return digest.hexdigest()

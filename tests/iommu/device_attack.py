"""A guest that programs its device with all that comes to its mind, while root changes the guest's memory.

    python -m tests.iommu.device_attack --attempts 10000 --seed 1

The device's registers are written as the guest's stores would write them; the guest owns them (its EPT maps the page).
"""

from __future__ import annotations

import argparse
import random
from contextlib import closing
from hashlib import sha256
from typing import Any

from hv.image.model import Image, Segment
from hv.machine.dma_engine import LONGEST, DmaCommand, DmaEngineRegisters
from hv.platform import Machine
from hv.spec.apic import DEFAULT_BASE
from hv.spec.partition import HvMapGpaFlags
from hv.spec.vtd import AddressType, RemappableAddress
from hv.spec.x86 import PAGE_SIZE
from hv.trace.events import Dma

SECRET = b"the victim's own"
MIB = 4
HALTS = Image("halts", [Segment(0x7C00, b"\xf4", True, True)], 0x7C00, 16)


class Attack:
    """An attacker and a victim, each with a device, and what was seen of the attacker's."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.machine, self.random = machine, random.Random(seed)
        self.victim = machine.create_vm("victim", HALTS, memory_mib=MIB, dma_device=True)
        self.attacker = machine.create_vm("attacker", HALTS, memory_mib=MIB, dma_device=True)
        for page in self.victim.worker.pages:
            machine.memory.write(page * PAGE_SIZE, SECRET * (PAGE_SIZE // len(SECRET)))
        assigned = self.attacker.worker.device
        assert assigned is not None
        self.rid = assigned.source_id
        self.device = next(device for device in machine.devices if device.rid == self.rid)
        self.pages = [page for page, mapping in self.attacker.partition.space.mappings()
                      if mapping.spa < machine.memory.size]
        self.own_vectors = {route.vector for route in machine.hypervisor.interrupts.of_device(self.rid)}
        self.vectors: list[int] = []
        self.strayed: list[int] = []
        self.moved = self.refused = self.attempts = 0
        machine.iommu.interrupt = lambda message: self.vectors.append(message.vector)
        machine.trace.listen(lambda record: self.hear(record.event))

    def hear(self, event: Any) -> None:
        """Each request that passed has to end in a page that is the attacker's at that moment."""
        if isinstance(event, Dma) and event.source_id == self.rid:
            self.moved += 1
            if event.spa >> 12 not in self.now_own():
                self.strayed.append(event.spa)

    def now_own(self) -> set[int]:
        if self._own is None:
            self._own = {mapping.spa >> 12 for _, mapping in self.attacker.partition.space.mappings()}
        return self._own

    _own: set[int] | None = None

    # --- one attempt -----------------------------------------------------------------------------------

    def address(self) -> int:
        """Own pages, their edges, everybody else's system-physical pages, the interrupt window, anything."""
        rng, size = self.random, MIB << 20
        edge = rng.choice((0, size, DEFAULT_BASE, 0xFEF00000, 1 << 32, 1 << 39, 1 << 46, 1 << 48, 1 << 64))
        own = rng.choice(self.pages) * PAGE_SIZE + rng.randrange(PAGE_SIZE)
        return rng.choice((
            own, own, own, own,
            edge + rng.randrange(-8192, 8192),
            rng.choice(self.victim.worker.pages) * PAGE_SIZE + rng.randrange(PAGE_SIZE),
            rng.randrange(self.machine.memory.size),
            self.message(),
            rng.getrandbits(64),
        )) % (1 << 64)

    def message(self) -> int:
        """An address of the interrupt window: a guessed handle of the victim's or its own, or any at all."""
        guess = RemappableAddress(window=DEFAULT_BASE >> 20, remappable=1, handle_low=self.random.randrange(4))
        return self.random.choice((guess.raw, DEFAULT_BASE + self.random.randrange(1 << 20)))

    def length(self) -> int:
        rng = self.random
        return rng.choice((0, 1, 4, 4, 8, PAGE_SIZE, PAGE_SIZE + 1, rng.randrange(1, LONGEST // 4), LONGEST + 1))

    def write(self, **registers: int) -> None:
        for name, value in registers.items():
            offset, kind = DmaEngineRegisters.FIELDS[name]
            self.device.write(offset, kind.size, value)

    def attempt(self) -> None:
        """One command of the device, with its interrupt, and now and then something root does meanwhile."""
        rng = self.random
        self.attempts += 1
        self.machine.trace.listening = rng.random() < 0.75      # the unit is quicker while nobody looks
        match rng.randrange(16):
            case 0:
                self.device.send_message(self.address(), rng.getrandbits(32))
            case 1:                             # a device whose firmware is the attacker's
                self.refused += self.machine.iommu.dma_read(
                    self.rid, self.address(), 64, AddressType.TRANSLATED) is None
            case 2:
                self.write(source=rng.getrandbits(64))
                self.device.write(rng.randrange(0, 80), rng.choice((1, 2, 4, 8)), rng.getrandbits(64))
            case _:
                self.command()
        if rng.randrange(8) == 0:
            self.root_remaps()
        while self.machine.clock.skip_to_next():
            self.machine.clock.run_due()
        if self.device.status.error:
            self.refused += 1

    def command(self) -> None:
        rng = self.random
        self.write(
            interrupt_ack=0, source=self.address(), destination=self.address(), length=self.length(),
            pattern=rng.getrandbits(32), msi_enable=rng.randrange(2), msi_data=rng.choice((0, rng.getrandbits(32))),
            msi_address=rng.choice((self.message(), self.address())),
            command=rng.choice((DmaCommand.COPY, DmaCommand.FILL, DmaCommand.FILL, rng.randrange(5))))

    def root_remaps(self) -> None:
        """Root takes pages of the domain away, gives them back elsewhere, or read-only."""
        worker, winhv, rng = self.attacker.worker, self.machine.root.winhv, self.random
        gpa_page = rng.choice(self.pages)
        if gpa_page >= MIB << 8:
            return
        what = rng.randrange(3)
        if what == 0:
            winhv.unmap_gpa_pages(worker.partition_id, gpa_page, 1)
        else:
            flags = HvMapGpaFlags.READABLE | (HvMapGpaFlags.WRITABLE if what == 1 else 0)
            winhv.map_gpa_pages(worker.partition_id, gpa_page, [rng.choice(worker.pages)], flags)
        self._own = None

    # --- what must be so -------------------------------------------------------------------------------

    def victim_hash(self) -> str:
        digest = sha256()
        for page in self.victim.worker.pages:
            digest.update(self.machine.memory.read(page * PAGE_SIZE, PAGE_SIZE))
        return digest.hexdigest()

    def leaked(self) -> int:
        """Pages of the attacker in which the victim's secret stands."""
        return sum(SECRET in self.machine.memory.read(page * PAGE_SIZE, PAGE_SIZE)
                   for page in self.attacker.worker.pages)


def attack(attempts: int, seed: int = 0) -> Attack:
    """*attempts* of them, judged: AssertionError when any reached what is not the attacker's."""
    with closing(Machine(memory_mib=32)) as machine:
        made = Attack(machine, seed)
        before = made.victim_hash()
        for _ in range(attempts):
            made.attempt()
        assert made.victim_hash() == before, "the victim's memory has changed"
        assert not made.strayed, f"requests ended at {made.strayed[:4]}"
        assert made.leaked() == 0, "the attacker has read the victim's memory"
        assert set(made.vectors) <= made.own_vectors, f"vectors {set(made.vectors) - made.own_vectors}"
        return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--attempts", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    done = attack(asked.attempts, asked.seed)
    print(f"{done.attempts} attempts: {done.moved} requests passed, all into the attacker's own pages; "
          f"{done.refused} were refused; {len(done.vectors)} interrupts, all its own")

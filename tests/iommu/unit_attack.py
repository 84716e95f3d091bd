"""A device that its own guest does not trust: it sends all that comes to its mind, while the guest changes its table.

    python -m tests.iommu.unit_attack --attempts 10000 --seed 1

The guest has a remapping unit. Whoever has the device in his hands (a program of the guest's, a guest of the guest's)
writes its MSI-X table and makes it send; in the guest's interrupt remapping table one entry is the device's.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from contextlib import closing
from typing import Any

from hv.platform import Machine
from hv.spec.pc import IO_APIC_RID
from hv.trace.events import GuestInterruptRefused, GuestInterruptRemapped
from tests.hypervisor.devices.pc_with_unit import COMPATIBLE, DEVICE, OTHER, PcWithUnit, named

OWN_HANDLE, OWN_VECTOR = 20, 0x61
ENTRIES, MESSAGES = 256, 2              # of the table that PcWithUnit has; of the device's MSI-X table


class UnitAttack:
    """The device OTHER is the attacker's; the vectors of all entries but its own are the victim's."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.random, self.guest = random.Random(seed), PcWithUnit(machine)
        self.guest.start()
        for handle in range(ENTRIES):
            self.rewrite(handle)
        self.guest.msix(OTHER, 0, named(OWN_HANDLE))
        self.raised: Counter[int] = Counter()
        self.refused: Counter[int] = Counter()
        machine.trace.listen(lambda record: self.hear(record.event))

    def hear(self, event: Any) -> None:
        """What the unit made of it."""
        if isinstance(event, GuestInterruptRefused):
            assert event.source_id == OTHER
            self.refused[event.reason] += 1
        elif isinstance(event, GuestInterruptRemapped):
            assert (event.source_id, event.index) == (OTHER, OWN_HANDLE)

    def rewrite(self, handle: int) -> None:
        """The guest gives an entry to one of its trusted devices, or takes it away."""
        rng = self.random
        trusted = rng.choice((
            {"source_id": DEVICE}, {"source_id": IO_APIC_RID}, {"source_id": DEVICE + 4, "qualifier": rng.randrange(3)},
            {"source_id": 0xF0FF, "validation": 2}, {"present": 0}, {"source_id": OTHER, "delivery_mode": 3},
            {"source_id": OTHER + 1, "fault_disabled": 1}))
        if handle == OWN_HANDLE:
            trusted = {"source_id": OTHER, "vector": OWN_VECTOR}
        any_of_its = {"vector": rng.choice((0x31, 0x51, 0xFE)), "destination": rng.randrange(2)}
        self.guest.entry(handle, **any_of_its | trusted)

    def address(self) -> int:
        """A handle of the table or beyond it, with and without a subhandle; a processor; any place of the window."""
        rng = self.random
        return rng.choice((
            named(OWN_HANDLE), named(rng.randrange(ENTRIES)), named(rng.randrange(ENTRIES), subhandle_valid=1),
            named(rng.getrandbits(16)), COMPATIBLE | rng.randrange(4) << 12, COMPATIBLE | rng.randrange(1 << 20),
            rng.getrandbits(32)))

    def attempt(self) -> None:
        """One message, by the table of the device or by root's call, which an emulated one would come by."""
        rng, guest = self.random, self.guest
        if rng.randrange(8) == 0:
            self.rewrite(rng.randrange(ENTRIES))
            if rng.randrange(4):
                guest.forget()
        data = rng.choice((0, 0, rng.randrange(ENTRIES), rng.getrandbits(16), rng.getrandbits(32)))
        number = rng.randrange(MESSAGES)
        match rng.randrange(3):
            case 0:
                guest.msix(OTHER, number, self.address(), data)
                guest.interrupt(OTHER, number)
            case 1:
                guest.send(self.address(), data, OTHER)
            case _:                     # a device whose firmware is the attacker's
                guest.real(OTHER).send_message(self.address(), data)
                guest.machine.scheduler.take_idle_interrupts()
        assert not any(vp.nmi_pending for vp in guest.vm.partition.vps.values()), "an NMI"
        for vectors in guest.taken():
            self.raised.update(vectors)


def attack(attempts: int, seed: int = 0) -> UnitAttack:
    """*attempts* of them, judged: AssertionError when any raised what is not the device's."""
    with closing(Machine(memory_mib=24)) as machine:
        made = UnitAttack(machine, seed)
        for _ in range(attempts):
            made.attempt()
        assert set(made.raised) <= {OWN_VECTOR}, f"vectors {set(made.raised) - {OWN_VECTOR}}"
        assert {source for _, source, _ in made.guest.faults()} <= {OTHER}
        return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--attempts", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    done = attack(asked.attempts, asked.seed)
    print(f"{asked.attempts} attempts: {sum(done.refused.values())} were refused, by {len(done.refused)} reasons; "
          f"{done.raised.total()} interrupts, all its own")

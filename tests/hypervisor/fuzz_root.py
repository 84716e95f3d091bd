"""The fuzz where root itself is the guest: its VPs obey scripts, and so make, feed and end children by machine code.

Its memory is the machine's; so a script may well destroy its own program, and then the machine is at its end. What the
hypervisor keeps for itself is out of its reach, and the books of all memory are exact after every script.
"""

from __future__ import annotations

import argparse
import random

from hv.root_machine import RootMachine
from tests.hypervisor.fuzz import TICKS, a_command
from tests.hypervisor.near import ROOT
from tests.hypervisor.random_calls import World
from tests.hypervisor.script_guest import POSITION, ROOM, SCRIPTS, STRIDE, VPS, image, packed

SCRIPTS_OF_A_MACHINE = 6


class RootFuzzed(World):
    """A machine whose root obeys scripts."""

    def __init__(self) -> None:
        self.machine = RootMachine(image(), memory_mib=16, vps=VPS)     # type: ignore[assignment]
        self.hypervisor = self.machine.hypervisor
        self.done = 0

    def obey(self, seeds: list[int]) -> None:
        """Seed *n* is a command of VP *n* modulo their number."""
        memory = self.machine.memory
        commands = [a_command(random.Random(seed), number, ROOT, self.hypervisor) for number, seed in enumerate(seeds)]
        scripts = [commands[vp::VPS] for vp in range(VPS)]
        for vp, script in enumerate(scripts):
            for gpa, data in packed(script, vp).items():
                memory.write(gpa, data)

        def position(vp: int) -> int:
            return int.from_bytes(memory.read(SCRIPTS + vp * STRIDE + POSITION, 8), "little")

        self.machine.run(self.machine.clock.tsc + TICKS,
                         paused=lambda: all(position(vp) >= len(scripts[vp]) for vp in range(VPS)))
        self.done += sum(min(position(vp), len(scripts[vp])) for vp in range(VPS))


def play(seed: int) -> int:
    """One machine until its root has ended or has done its scripts; the number of commands that were done."""
    chance = random.Random(seed)
    with RootFuzzed() as world:
        world.machine.run(world.machine.clock.tsc + TICKS // 4)
        for _ in range(SCRIPTS_OF_A_MACHINE):
            if world.machine.vms[0].ended is None:
                world.obey([chance.getrandbits(32) for _ in range(ROOM)])
                world.check_books()
        return world.done


def main() -> None:
    """`python -m tests.hypervisor.fuzz_root --first 0 --count 100`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    done = 0
    for seed in range(options.first, options.first + options.count):
        try:
            done += play(seed)
        except Exception:
            print(f"seed {seed}")
            raise
    print(f"{done} commands of root in {options.count} machines, no failure")


if __name__ == "__main__":
    main()

"""A fuzz of the whole hypervisor interface, driven by hypothesis: `make fuzz SEED=1 SECONDS=60`.

A child in machine code (`script_guest.py`) makes hypercalls, well and badly formed, and reads and writes MSRs with any
value; root makes hypercalls about it and about a victim that sits beside it. After every batch: nothing in the victim
has moved but by root's own hand, and the books of all memory are exact. A Python error, a hang, or a status that
does not exist is a failure, which hypothesis shrinks to the shortest script that still fails.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.hypervisor.partitions.partition import PartitionState
from hv.image.model import Image
from hv.platform import Machine
from hv.root.winhv import HvError
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.control import HypercallControl
from hv.spec.partition import HvPartitionProperty
from hv.trace.bus import Record
from hv.trace.events import Hypercall
from tests.guest_runner import image_of as program
from tests.hypervisor.answers import Answers
from tests.hypervisor.lives import live, wind_up
from tests.hypervisor.near_msrs import a_value, an_msr
from tests.hypervisor.random_calls import CALLER, ROOT, VICTIM, Said, World, say
from tests.hypervisor.script_guest import (
    BLOCKS,
    LENGTH,
    MEMORY_MIB,
    OUTPUTS,
    POSITION,
    ROOM,
    SCRIPTS,
    SIZE,
    STRIDE,
    VPS,
    XMM_COUNT,
    Command,
    Do,
    image,
    notes_of,
    packed,
)

BATCHES, ROOT_CALLS, LIVES = 6, 32, 6             # of one machine: batches of the child, and calls of root after each
TICKS = 4_000_000                       # virtual time that a batch may take before the child is taken for lost
MACHINES = 10                           # of one seed
LONGEST_SECONDS = 60                    # real time of one machine, from outside: more is a hang
C = HypercallCode
_FAST = HypercallControl(fast=1).raw
_ALL_ONES = (1 << 64) - 1
_REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "rip", "rflags", "cr0", "cr3", "cr4", "efer")
# What a partition without children does.
_A_CHILDS = [code for code in HYPERCALLS if code in {
    *range(C.SWITCH_VIRTUAL_ADDRESS_SPACE, C.CREATE_PARTITION), C.GET_PARTITION_ID, C.GET_VP_REGISTERS,
    C.SET_VP_REGISTERS, *range(C.TRANSLATE_VIRTUAL_ADDRESS, C.SIGNAL_EVENT + 1), C.DEPOSIT_MEMORY, C.WITHDRAW_MEMORY,
    C.GET_MEMORY_BALANCE, *range(C.POST_DEBUG_DATA, C.UNMAP_STATS_PAGE + 1), C.OUTPUT_DEBUG_CHARACTER, C.CREATE_PORT,
    C.CONNECT_PORT, C.SET_PORT_PROPERTY, C.START_VIRTUAL_PROCESSOR, C.GET_VP_INDEX_FROM_APIC_ID,
    C.MAP_STATS_PAGE2}]
_LAST = (HypercallCode.FINALIZE_PARTITION, HypercallCode.DELETE_PARTITION)


class Fuzzed(World):
    """Root, a child that obeys scripts and has every privilege, and a victim that sleeps with its SynIC on."""

    def __init__(self, parallel: bool = False) -> None:
        self.machine = Machine(memory_mib=16, parallel=parallel)
        self.hypervisor, winhv = self.machine.hypervisor, self.machine.root.winhv
        self.pages_of_root = self.hypervisor.root.pool.in_use
        self.child = self.machine.create_vm("caller", image(), MEMORY_MIB, vps=VPS).worker
        victim = self.machine.create_vm("victim", _sleeper(), MEMORY_MIB).worker
        assert (self.child.partition_id, victim.partition_id) == (CALLER, VICTIM)
        self.hypervisor.partitions[CALLER].set_privileges(self.hypervisor.root.privileges)
        for debugged in (ROOT, CALLER):
            winhv.set_partition_property(debugged, HvPartitionProperty.DEBUG_CHANNEL_ID, 1)
        winhv.create_message_port(VICTIM, 1, CALLER, 2, 0)
        winhv.create_event_port(VICTIM, 2, CALLER, 2, 0, 0, 4)
        winhv.connect_port(CALLER, 1, VICTIM, 1)
        winhv.connect_port(CALLER, 2, VICTIM, 2, 2)
        self.pages = {CALLER: [page << 12 for page in self.child.pages],
                      VICTIM: [page << 12 for page in victim.pages]}
        self.done: Counter[str] = Counter()
        self.answers = Answers()
        self.machine.trace.listen(self._hear)

    def _hear(self, record: Record) -> None:
        """Count what each call was answered: a campaign that is always refused proves little.

        A status that does not exist is an error here. RAX proves less: the other VPs write registers too.
        """
        event = record.event
        if isinstance(event, Hypercall):
            assert event.reps <= HypercallControl(event.control).rep_count, f"{event}: too many reps"
            self.answers.add(event.code, event.status)

    @property
    def alive(self) -> bool:
        """The child can still be asked: its partition stands, and its VP has not ended."""
        partition = self.hypervisor.partitions.get(CALLER)
        return (partition is not None and partition.state is PartitionState.ACTIVE and self.child.ended is None
                and 0 in partition.vps and not partition.vps[0].stopped_because)

    def victim_state(self) -> object:
        """All that the victim is; None when it runs, as root may have let it, or when there is none any more."""
        partition = self.hypervisor.partitions.get(VICTIM)
        if partition is None or partition.state is not PartitionState.ACTIVE:
            return None
        if any(vp.runnable for vp in partition.vps.values()):
            return None
        registers = [[getattr(vp.regs, name) for name in _REGISTERS] for _, vp in sorted(partition.vps.items())]
        return self.memory_of(VICTIM), registers, partition.state, partition.pool.inspect()

    def obey(self, scripts: list[list[Command]]) -> None:
        """The VPs of the child do their *scripts*, as far as they can, and are looked at."""
        for vp, script in enumerate(scripts):
            for gpa, data in packed(script, vp).items():
                self.child.write(gpa, data)
        ends = self.machine.clock.tsc + TICKS
        self.machine.run(ends, paused=lambda: self._all_done(scripts) or not self.alive)
        for vp, script in enumerate(scripts):
            done = self._position(vp)
            self.done["commands of the child"] += min(done, len(script))
        if self.alive and not self._all_done(scripts):
            self._revive()

    def _all_done(self, scripts: list[list[Command]]) -> bool:
        return all(self._position(vp) >= len(script) for vp, script in enumerate(scripts))

    def _revive(self) -> None:
        """A VP is lost: root starts the child afresh, as far as there is a child, and lets it begin."""
        self.done["children started afresh"] += 1
        for vp in range(VPS):
            self.child.write(SCRIPTS + vp * STRIDE + LENGTH, bytes(16))
        winhv = self.machine.root.winhv
        try:
            for code in (HvPartitionProperty.SUSPEND, HvPartitionProperty.TIME_FREEZE):
                winhv.set_partition_property(CALLER, code, 0)
            self.child.load(image())
            for vp in range(VPS):
                for base in (0xFEE0_0000, 0xFEE0_0800 | (vp == 0) << 8):
                    winhv.set_vp_registers(CALLER, vp, {N.APIC_BASE: base})
                winhv.set_vp_registers(CALLER, vp, {N.INTERCEPT_SUSPEND: 0, N.EXPLICIT_SUSPEND: 0})
        except HvError:
            self.done["children that cannot be started"] += 1
        self.machine.run(self.machine.clock.tsc + TICKS // 4)

    def notes(self, vp: int, count: int) -> list[int]:
        """What VP *vp* noted for the first *count* commands of its script."""
        return notes_of(self.child.read(SCRIPTS + vp * STRIDE, SIZE * count))

    def _position(self, vp: int) -> int:
        return int.from_bytes(self.child.read(SCRIPTS + vp * STRIDE + POSITION, 8), "little")


def _sleeper() -> Image:
    """It switches its SynIC on, and sleeps for good."""
    return program(_SLEEPER, 64)


_SLEEPER = """
    xor edx, edx; mov ecx, 0x40000083; mov eax, 0x101001; wrmsr
    mov ecx, 0x40000082; mov eax, 0x102001; wrmsr
    mov ecx, 0x40000092; mov eax, 0x52; wrmsr
    mov ecx, 0x40000080; mov eax, 1; wrmsr
    cli; hlt
"""


def a_command(chance: random.Random, number: int, caller: int = CALLER) -> Command:
    """What a VP of *caller* does as step *number* of its script."""
    kind = chance.randrange(20)
    if kind < 11:
        return _a_call(chance, number, caller)
    if kind < 17:
        return _an_msr_write(chance)
    if kind < 18:
        return Command(Do.RDMSR, rcx=an_msr(chance))
    return Command(chance.choice((Do.CPUID, Do.VMCALL, Do.LISTEN)), rax=_a_leaf(chance), rcx=chance.randrange(4))


def _a_leaf(chance: random.Random) -> int:
    return chance.choice((0, 1, 7, 0xB, 0x4000_0000, 0x8000_0000)) + chance.randrange(16)


def _a_call(chance: random.Random, number: int, caller: int) -> Command:
    code = chance.choice(_A_CHILDS) if caller == CALLER and chance.random() < 0.7 else None
    said = say(chance, (caller,), code)
    block = said.block[:4096]
    rdx = BLOCKS + (number << 12) if said.input_gpa is None else said.input_gpa
    r8 = OUTPUTS + (number << 12) if said.output_gpa is None else said.output_gpa
    xmm = bytes(16 * XMM_COUNT)
    if said.control & _FAST:
        whole = block.ljust(16 + 16 * XMM_COUNT, b"\0")[: 16 + 16 * XMM_COUNT]
        rdx, r8 = (int.from_bytes(whole[at : at + 8], "little") for at in (0, 8))
        xmm = whole[16:]
    return Command(Do.HYPERCALL, rcx=said.control, rdx=rdx & _ALL_ONES, r8=r8 & _ALL_ONES, xmm=xmm, block=block,
                   gpa=BLOCKS + (number << 12))


def _an_msr_write(chance: random.Random) -> Command:
    index = an_msr(chance)
    value = a_value(chance, index)
    return Command(Do.WRMSR, rcx=index, rax=value & 0xFFFF_FFFF, rdx=value >> 32)


class Batch(NamedTuple):
    """Scripts of the child, some calls of root, some steps in the lives of other partitions: a seed for each."""

    child: list[int]
    root: list[int]
    lives: list[int]


# One seed is one command, and 0 is none: what is shrunk away leaves the others as they are.
_SEEDS = st.integers(0, (1 << 32) - 1)
BATCHES_OF_A_MACHINE = st.lists(
    st.builds(Batch, st.lists(_SEEDS, min_size=ROOM, max_size=ROOM),
              st.lists(_SEEDS, min_size=ROOT_CALLS, max_size=ROOT_CALLS),
              st.lists(_SEEDS, max_size=LIVES)),
    min_size=BATCHES // 2, max_size=BATCHES)


def play(batches: list[Batch], told: Callable[[str], None] = lambda text: None,
         parallel: bool = False) -> tuple[Counter[str], Answers]:
    """One machine, from boot to the end of its scripts: how much was done of what, and what calls were answered."""
    with Fuzzed(parallel) as world:
        world.machine.run(world.machine.clock.tsc + TICKS // 4)     # both reach their loops
        for batch in batches:
            if not world.alive:
                break
            scripts = [[a_command(random.Random(seed), number) for number, seed in enumerate(batch.child)
                        if seed and number % VPS == vp] for vp in range(VPS)]
            told(f"the child does {scripts}")
            before = world.victim_state()
            world.obey(scripts)
            assert world.victim_state() == before, "the child changed the victim"
            world.check_books()
            for call in [say(random.Random(seed), (ROOT,)) for seed in batch.root if seed]:
                told(f"root says {call}")
                _root_says(world, call)
            world.check_books()
            for seed in batch.lives:
                told(f"root goes on with the life of {seed}")
                live(world, random.Random(seed))
            world.check_books()
        wind_up(world)
        return world.done, world.answers


def _root_says(world: Fuzzed, call: Said) -> None:
    if call.code in _LAST and int.from_bytes(call.block[:8], "little") in (CALLER, VICTIM):
        return                          # it may, but then there is nothing left to fuzz
    world.said(call)
    world.done["calls of root"] += 1


# --- As a program ------------------------------------------------------------------------------------------------

class Campaign:
    """Machines of one seed after the other, and what they did."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.answers = Answers()
        self.start = time.monotonic()

    def run(self, seed: int, seconds: float, shrink: bool = True, parallel: bool = False) -> int:
        """Machines from *seed* on until *seconds* have passed; 1 when one of them failed."""
        self._parallel = parallel
        self._phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
        signal.signal(signal.SIGALRM, _hangs)
        for number in count(seed):
            if time.monotonic() - self.start >= seconds:
                return 0
            if not self._round(number):
                print(f"seed {number} fails; this shows it again: make fuzz SEED={number} SECONDS=1")
                return 1
            print(f"\r{self.summary()}", end="" if sys.stdout.isatty() else "\n", flush=True)
        return 0

    def _round(self, number: int) -> bool:
        """Some machines of one seed; False when one failed, which is then shown as small as it gets."""
        @seeded(number)
        @settings(max_examples=MACHINES, database=None, deadline=None, suppress_health_check=list(HealthCheck),
                  phases=self._phases, print_blob=False)
        @given(BATCHES_OF_A_MACHINE)
        def run(batches: list[Batch]) -> None:
            signal.alarm(LONGEST_SECONDS)
            done, answers = play(batches, note, self._parallel)
            self.done.update(done, machines=1)
            self.answers.update(answers)

        try:
            run()
        except Exception as error:
            print()
            sys.excepthook(type(error), error, error.__traceback__)
            return False
        finally:
            signal.alarm(0)
        return True

    def summary(self) -> str:
        """How far it is."""
        inputs = self.done["commands of the child"] + self.done["calls of root"]
        parts = ", ".join(f"{number} {what}" for what, number in sorted(self.done.items()))
        return f"{time.monotonic() - self.start:.0f} s: {inputs} inputs ({parts})"


def _hangs(number: int, frame: FrameType | None) -> None:
    raise AssertionError(f"a machine still runs after {LONGEST_SECONDS} seconds")


def main() -> int:
    """`make fuzz`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="where to begin; the same seed is the same run")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--whole", action="store_true", help="show a failure as it is found, not as small as it gets")
    parser.add_argument("--parallel", action="store_true", help="each partition in a host thread of its own")
    options = parser.parse_args()
    campaign = Campaign()
    failed = campaign.run(options.seed, options.seconds, not options.whole, options.parallel)
    print(f"\n{campaign.summary()}; {'a failure' if failed else 'no failure'}")
    print("\n".join(campaign.answers.lines()))
    return failed


if __name__ == "__main__":
    raise SystemExit(main())

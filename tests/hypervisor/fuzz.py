"""A fuzz of the whole hypervisor interface, driven by hypothesis: `make fuzz SEED=1 SECONDS=60`.

Two children in machine code (`script_guest.py`) make hypercalls, well and badly formed, read and write MSRs with any
value, and send to each other; root makes hypercalls about them and about a victim that sits beside them, and at times
takes one of them down at work. After every batch: nothing in the victim has moved but by root's own hand, and the books
of all memory are exact. A Python error, a hang, or a status that
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
from hv.hypervisor.hypervisor import Hypervisor
from hv.hypervisor.partitions.partition import PartitionState
from hv.image.model import Image
from hv.platform import DEVICE_RID, Machine
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.control import HypercallControl
from hv.spec.partition import ANY_VP, HvPartitionProperty
from hv.spec.synic import MESSAGE_SIZE, PortType
from hv.trace.bus import Record
from hv.trace.events import Hypercall
from tests.guest_runner import image_of as program
from tests.hypervisor.answers import Answers
from tests.hypervisor.attacker import Attacker
from tests.hypervisor.lives import end, live, wind_up
from tests.hypervisor.near import A_CHILDS, CALLER, PEER, ROOT, VICTIM
from tests.hypervisor.near_msrs import a_value, an_msr
from tests.hypervisor.random_calls import Said, World, say
from tests.hypervisor.script_guest import (
    BLOCKS,
    MEMORY_MIB,
    OUTPUTS,
    ROOM,
    SYNIC_PAGES,
    SYNIC_STRIDE,
    VPS,
    XMM_COUNT,
    Command,
    Do,
)

BATCHES, ROOT_CALLS, LIVES = 6, 32, 6             # of one machine: batches of the child, and calls of root after each
TICKS = 1_500_000                       # virtual time that a batch may take before the child is taken for lost
ENDS = 9                                # of so many batches one takes the peer down
BOOT_TICKS = 6_000_000                  # in which all have begun
MACHINES = 10                           # of one seed
LONGEST_SECONDS = 60                    # real time of one machine, from outside: more is a hang
SPARE_PAGES = 16                        # of an attacker, for its device
_FAST = HypercallControl(fast=1).raw
_ALL_ONES = (1 << 64) - 1
_REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "rip", "rflags", "cr0", "cr3", "cr4", "efer")
_OF_A_CHILD = sorted(A_CHILDS & HYPERCALLS.keys())
# What passes between two children, and what goes on in each meanwhile.
_BETWEEN = (*[HypercallCode.POST_MESSAGE] * 5, *[HypercallCode.SIGNAL_EVENT] * 4, HypercallCode.DELETE_PORT,
            HypercallCode.DISCONNECT_PORT, HypercallCode.SET_PORT_PROPERTY, HypercallCode.FLUSH_VIRTUAL_ADDRESS_SPACE,
            HypercallCode.FLUSH_VIRTUAL_ADDRESS_LIST_EX, HypercallCode.SEND_SYNTHETIC_CLUSTER_IPI)
_LAST = (HypercallCode.FINALIZE_PARTITION, HypercallCode.DELETE_PARTITION)


class Fuzzed(World):
    """Root, two children that obey scripts and have every privilege, and a victim that sleeps with its SynIC on.

    The two may send to each other, and the first one to the victim, too. The second has a remapping unit.
    """

    def __init__(self, parallel: bool = False) -> None:
        self.machine = Machine(memory_mib=24, parallel=parallel)
        self.hypervisor, winhv = self.machine.hypervisor, self.machine.root.winhv
        self.pages_of_root = self.hypervisor.root.pool.in_use
        self.attackers = {CALLER: Attacker(self.machine, "caller")}
        victim = self.machine.create_vm("victim", _sleeper(), MEMORY_MIB).worker
        self.attackers[PEER] = Attacker(self.machine, "peer")
        assert (*self.attackers, victim.partition_id) == (CALLER, PEER, VICTIM)
        winhv.set_partition_property(ROOT, HvPartitionProperty.DEBUG_CHANNEL_ID, 1)
        winhv.set_partition_property(CALLER, HvPartitionProperty.DEBUG_CHANNEL_ID, 1)
        self._connect(CALLER, VICTIM, 1, 0)
        self._introduce()
        self.pages = {CALLER: [page << 12 for page in self.attackers[CALLER].worker.pages],
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

    def _connect(self, sender: int, receiver: int, first: int, vp: int = ANY_VP) -> None:
        """Ports *first* (messages) and the next one (events) into SINT 2 of *receiver*, and connections of that id."""
        winhv = self.machine.root.winhv
        winhv.create_message_port(receiver, first, sender, 2, vp)
        winhv.create_event_port(receiver, first + 1, sender, 2, vp, 0, 4)
        winhv.connect_port(sender, first, receiver, first)
        winhv.connect_port(sender, first + 1, receiver, first + 1, PortType.EVENT)

    def _introduce(self) -> None:
        """The two attackers may send to each other, and each has a device that may interrupt it."""
        winhv = self.machine.root.winhv
        for sender, receiver in ((CALLER, PEER), (PEER, CALLER)):
            self._connect(sender, receiver, 3)
            if sender == PEER:
                winhv.set_partition_property(sender, HvPartitionProperty.VIRTUAL_IOMMU, 1)
            winhv.attach_device(sender, DEVICE_RID + sender, 1)
            winhv.deposit_memory(sender, winhv.memory.allocate(SPARE_PAGES))
            winhv.map_device_interrupt(sender, DEVICE_RID + sender, 0, 0x41)

    def begin(self) -> None:
        """All reach their loops; then each attacker gets one more VP, which waits to be started."""
        partitions = [self.hypervisor.partitions[id] for id in self.attackers]
        self.machine.run(self.machine.clock.tsc + BOOT_TICKS, paused=lambda: all(
            vp.synic.accepts_messages for each in partitions for vp in each.vps.values()))
        winhv = self.machine.root.winhv
        for id in self.attackers:
            winhv.create_vp(id, VPS)
            winhv.set_vp_registers(id, VPS, {N.EXPLICIT_SUSPEND: 0})

    @property
    def living(self) -> list[Attacker]:
        """The attackers that can still be asked."""
        return [each for each in self.attackers.values() if each.alive]

    def victim_state(self) -> object:
        """All that the victim is; None when it runs, as root may have let it, or when there is none any more."""
        partition = self.hypervisor.partitions.get(VICTIM)
        if partition is None or partition.state is not PartitionState.ACTIVE:
            return None
        if any(vp.runnable for vp in partition.vps.values()):
            return None
        registers = [[getattr(vp.regs, name) for name in _REGISTERS] for _, vp in sorted(partition.vps.items())]
        return self.memory_of(VICTIM), registers, partition.state, partition.pool.inspect()

    def obey(self, scripts: dict[int, list[list[Command]]], ends: bool = False) -> None:
        """The attackers do their scripts side by side, as far as they can, and are looked at.

        With *ends* the peer is taken down in the midst of it, whatever is under way to it or from it.
        """
        for id, its_scripts in scripts.items():
            self.attackers[id].obey(its_scripts)
        stop = self.machine.clock.tsc + TICKS
        peer = self.attackers.get(PEER)
        if ends and peer is not None and peer.alive:
            self.machine.run(stop, paused=lambda: 2 * peer.commands_done >= peer.commands_given or not peer.alive)
            self.done["commands of children"] += peer.commands_done
            self._end_peer(peer)
        self.machine.run(stop, paused=lambda: all(each.has_obeyed for each in self.living))
        for each in self.attackers.values():
            self.done["commands of children"] += each.commands_done
        for each in self.living:
            if not each.has_obeyed:
                self._revive(each)

    def _end_peer(self, peer: Attacker) -> None:
        peer.leave()
        del self.attackers[PEER]
        end(self, PEER)
        self.check_books()
        self.done["peers taken down at work"] += 1

    def _revive(self, lost: Attacker) -> None:
        """A VP is lost: root starts its child afresh, as far as there is a child, and lets it begin."""
        self.done["children started afresh"] += 1
        if not lost.revive():
            self.done["children that cannot be started"] += 1
        self.machine.run(self.machine.clock.tsc + BOOT_TICKS // 6)


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


def a_command(chance: random.Random, number: int, caller: int, books: Hypervisor) -> Command:
    """What a VP of *caller* does as step *number* of its script."""
    kind = chance.randrange(20)
    if kind < 11:
        return _a_call(chance, number, caller, books)
    if kind < 17:
        return _an_msr_write(chance)
    if kind < 18:
        return Command(Do.RDMSR, rcx=an_msr(chance))
    if kind < 19:
        slots = SYNIC_PAGES + chance.randrange(VPS) * SYNIC_STRIDE
        return Command(Do.TAKE, rdi=slots + chance.randrange(5) * MESSAGE_SIZE)
    do = chance.choice((Do.CPUID, Do.VMCALL, Do.LISTEN, Do.LISTEN))
    return Command(do, rax=_a_leaf(chance), rcx=chance.randrange(4))


def _a_leaf(chance: random.Random) -> int:
    return chance.choice((0, 1, 7, 0xB, 0x4000_0000, 0x8000_0000)) + chance.randrange(16)


def _a_call(chance: random.Random, number: int, caller: int, books: Hypervisor) -> Command:
    code = None
    if caller != ROOT and chance.random() < 0.8:
        code = chance.choice(_BETWEEN if chance.random() < 0.25 else _OF_A_CHILD)
    said = say(chance, (caller,), code, books)
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
    """Commands of two children, some calls of root, some steps in the lives of other partitions: a seed for each.

    With *ends* the second child is taken down while it does its commands.
    """

    child: list[int]
    root: list[int]
    lives: list[int]
    peer: list[int] = []
    ends: bool = False


# One seed is one command, and 0 is none: what is shrunk away leaves the others as they are.
_SEEDS = st.integers(0, (1 << 32) - 1)
BATCHES_OF_A_MACHINE = st.lists(
    st.builds(Batch, st.lists(_SEEDS, min_size=ROOM, max_size=ROOM),
              st.lists(_SEEDS, min_size=ROOT_CALLS, max_size=ROOT_CALLS),
              st.lists(_SEEDS, max_size=LIVES), st.lists(_SEEDS, min_size=ROOM, max_size=ROOM),
              st.integers(0, ENDS).map(lambda number: number == ENDS)),
    min_size=BATCHES // 2, max_size=BATCHES)


def play(batches: list[Batch], told: Callable[[str], None] = lambda text: None,
         parallel: bool = False) -> tuple[Counter[str], Answers]:
    """One machine, from boot to the end of its scripts: how much was done of what, and what calls were answered."""
    with Fuzzed(parallel) as world:
        world.begin()
        for batch in batches:
            if not world.living:
                break
            scripts = {each.id: _scripts(world, each.id, batch.child if each.id == CALLER else batch.peer)
                       for each in world.living}
            told(f"the children do {scripts}{', and one of them ends' if batch.ends else ''}")
            before = world.victim_state()
            world.obey(scripts, batch.ends)
            assert world.victim_state() == before, "the children changed the victim"
            world.check_books()
            for seed in filter(None, batch.root):
                call = say(random.Random(seed), (ROOT,), hypervisor=world.hypervisor)
                told(f"root says {call}")
                _root_says(world, call)
            world.check_books()
            for seed in batch.lives:
                told(f"root goes on with the life of {seed}")
                live(world, random.Random(seed))
            world.check_books()
        wind_up(world)
        return world.done, world.answers


def _scripts(world: Fuzzed, caller: int, seeds: list[int]) -> list[list[Command]]:
    """Of each VP; seed *n* is a command of VP *n* modulo their number."""
    return [[a_command(random.Random(seed), number, caller, world.hypervisor) for number, seed in enumerate(seeds)
             if seed and number % VPS == vp] for vp in range(VPS)]


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
        inputs = self.done["commands of children"] + self.done["calls of root"]
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

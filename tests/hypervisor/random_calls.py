"""Hypercalls that nobody would make: what may be said, and a machine with real engines to say it to.

`make` gives the calls of one seed. Their input blocks are made field by field: a field like *partition_id* is near the
truth most of the time, and anything at all otherwise. `World` is root with two children and ports between them.

A larger campaign than the tests': `python -m tests.hypervisor.random_calls --first 0 --count 20000`.
"""

from __future__ import annotations

import argparse
import random
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from types import TracebackType

from hv.hypervisor.errors import CallIntercepted
from hv.hypervisor.hypercalls.door import hypercall_to_end
from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.hypervisor.hypervisor import Hypervisor
from hv.hypervisor.partitions.partition import Partition
from hv.machine.faults import GuestFault, NestedFault
from hv.platform import DEVICE_RID, DEVICE_SPA, Machine
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.msrs import HvSynicSint
from hv.spec.partition import HvPartitionProperty
from hv.spec.synic import PortType
from hv.spec.x86 import PAGE_SIZE
from tests.hypervisor import grammar
from tests.hypervisor.near import CALLER, ROOT, VICTIM

MEMORY_MIB = 4
CHILD_PAGES = 6
GUEST_INPUT, GUEST_OUTPUT = 0x2000, 0x3000          # gpa in a child
ROOT_INPUT, ROOT_OUTPUT = 0x20_000, 0x21_000        # gpa of root, in what it keeps for itself
MOST_FAST_BYTES = 112                   # in two general and six XMM registers
RUN_TICKS = 20_000                      # the machine goes on for so long after every eighth call
N = HvRegisterName
SOMEWHERE = (0x2004, 0x2FF8, 0x2FF0, 0x1000, 0, 0x100_000, 0x380_000, DEVICE_SPA, 0xFEE0_0000, 1 << 45, (1 << 64) - 8)
# What ends a partition or a VP is said less often than what needs one, and what has most to do more often.
_FATAL = (HypercallCode.FINALIZE_PARTITION, HypercallCode.DELETE_VP)
_DEEP = (HypercallCode.SET_VP_REGISTERS, HypercallCode.SET_VP_REGISTERS, HypercallCode.GET_VP_REGISTERS,
         HypercallCode.MAP_GPA_PAGES, HypercallCode.WRITE_GPA)


@dataclass(frozen=True)
class Said:
    """One call: who, the control word, the input block, and where it says that input and output are.

    None is the place where the block was put, and one that can be written.
    """

    caller: int
    control: int
    block: bytes
    input_gpa: int | None = None
    output_gpa: int | None = None

    @property
    def code(self) -> int:
        """What is called."""
        return int(HypercallControl(self.control).call_code)


def say(chance: random.Random, callers: tuple[int, ...], code: int | None = None,
        hypervisor: Hypervisor | None = None) -> Said:
    """One call of one of *callers*, of *code* if it is given; most have the shape that their code wants.

    With a *hypervisor* half of them name what is there, and are right in every field, or in all but one.
    """
    caller = chance.choice(callers)
    if code is None:
        code = _a_code(chance)
    declaration = HYPERCALLS.get(code)
    words = grammar.Words()
    if declaration is not None:
        words = grammar.input_of(chance, declaration, caller, hypervisor if chance.random() < 0.6 else None)
    fast = len(words.block) <= MOST_FAST_BYTES and chance.random() < 0.4
    control = HypercallControl(call_code=code, rep_count=words.reps, rep_start=words.start, fast=int(fast),
                               variable_header_size=words.units).raw
    if chance.random() < 0.04:
        control ^= 1 << chance.randrange(16, 64)
    places = [chance.choice(SOMEWHERE) if chance.random() < 0.04 else None for _ in range(2)]
    return Said(caller, control, words.block, *places)


def _a_code(chance: random.Random) -> int:
    code = chance.choice(list(HYPERCALLS)) if chance.random() < 0.95 else chance.randrange(1 << 16)
    return int(chance.choice(_DEEP)) if chance.random() < (0.8 if code in _FATAL else 0.1) else code


def make(seed: int, callers: tuple[int, ...] = (ROOT, ROOT, CALLER), count: int = 60) -> list[Said]:
    """What *callers* say, in order; the same for the same seed."""
    chance = random.Random(seed)
    return [say(chance, callers) for _ in range(count)]


class World:
    """Root, and two children of 24 KiB with a VP each. The caller has every privilege of root's, the victim the usual.

    The caller may send through connections 1 (messages) and 2 (events) to the victim's SINT 2, whose SynIC is on.
    """

    def __init__(self) -> None:
        self.machine = Machine(MEMORY_MIB)
        self.hypervisor, winhv = self.machine.hypervisor, self.machine.root.winhv
        root = self.hypervisor.root
        self.pages_of_root = root.pool.in_use       # before there is any child
        for expected in (CALLER, VICTIM):
            partition = winhv.create_partition()
            assert partition == expected
            if partition == CALLER:
                winhv.set_partition_property(partition, HvPartitionProperty.PRIVILEGE_FLAGS, root.privileges)
            winhv.initialize_partition(partition)
            winhv.map_gpa_pages(partition, 0, self.machine.root.memory.allocate(CHILD_PAGES))
            winhv.create_vp(partition, 0)
            winhv.attach_device(partition, DEVICE_RID + partition - CALLER, 1)
        winhv.set_vp_registers(VICTIM, 0, {N.SIMP: 0x4001, N.SIEFP: 0x5001, N.SCONTROL: 1,
                                           N.SINT2: HvSynicSint(vector=0x52).raw})
        winhv.create_message_port(VICTIM, 1, CALLER, 2, 0)
        winhv.create_event_port(VICTIM, 2, CALLER, 2, 0, 0, 4)
        winhv.connect_port(CALLER, 1, VICTIM, 1)
        winhv.connect_port(CALLER, 2, VICTIM, 2, PortType.EVENT)
        self.pages = {id: [mapping.spa for _, mapping in self.hypervisor.partitions[id].space.mappings()]
                      for id in (CALLER, VICTIM)}

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.machine.close()

    def said(self, call: Said) -> tuple[HvStatus, int] | str | None:
        """Status and reps completed; an intercept or a fault as text; None when the caller is no more."""
        partition = self.hypervisor.partitions.get(call.caller)
        if partition is None or 0 not in partition.vps or partition._space is None:
            return None
        usual_input, usual_output = (ROOT_INPUT, ROOT_OUTPUT) if partition.is_root else (GUEST_INPUT, GUEST_OUTPUT)
        first, second = (int.from_bytes(call.block[at : at + 8], "little") for at in (0, 8))
        for n in range(6):
            partition.vps[0].regs.write_xmm(n, call.block[16 * n + 16 : 16 * n + 32].ljust(16, b"\0"))
        if not call.control & HypercallControl(fast=1).raw:
            try:
                partition.space.write(usual_input, call.block)
            except NestedFault:
                return None
            first = usual_input if call.input_gpa is None else call.input_gpa
            second = usual_output if call.output_gpa is None else call.output_gpa
        elif partition.is_root:
            for n in range(6):
                partition.vps[0].regs.write_xmm(n, call.block[16 * n + 16 : 16 * n + 32].ljust(16, b"\0"))
        try:
            result = HypercallResult(hypercall_to_end(self.hypervisor, partition.vps[0], call.control, first, second))
        except NestedFault as fault:
            return f"intercept at {fault.gpa:#x}"
        except GuestFault as fault:
            return str(fault)
        except CallIntercepted:
            return "its parent is asked"
        return HvStatus(result.status), result.reps_complete

    def memory_of(self, partition_id: int) -> bytes:
        """What stands in the pages that the child began with."""
        return b"".join(self.machine.memory.read(spa, PAGE_SIZE) for spa in self.pages[partition_id])

    def check_books(self) -> None:
        """Each page that the hypervisor has is in one pool, and each that is lent is mapped."""
        partitions, owners = self.hypervisor.partitions.values(), self.hypervisor.owners.inspect()
        assert owners["hypervisor"] == sum(each.pool.available + each.pool.in_use for each in partitions)
        lent = {mapping.spa for each in partitions if each._space and not each.is_root
                for _, mapping in each.space.mappings()}
        assert owners["lent"] == len(lent)
        for each in partitions:
            if not each.is_root and each._space is not None and each.space.tables is not None:
                seen = {gpa + n for gpa, _, _, size in each.space.tables.mappings() for n in range(0, size, PAGE_SIZE)}
                wanted = {page << 12 for page, _ in each.space.mappings() if each.space.visible(page).rights}
                wanted |= {page << 12 for page in each.space._overlays}
                assert seen == wanted, f"partition {each.id}"
            self._check_buffers(each)

    def _check_buffers(self, partition: Partition) -> None:
        """A buffer of a port is in use exactly while a message waits in it."""
        waiting = Counter(id(message.owner) for vp in partition.vps.values() for queue in vp.synic.queues
                          for message in queue)
        for port in partition.ports.values():
            in_use = getattr(port, "buffers_in_use", 0)
            assert in_use == waiting[id(port)], f"port {port.port_id} of partition {partition.id} uses {in_use} buffers"

    def fingerprint(self) -> str:
        """All memory, and all that the hypervisor shows of itself."""
        shown = repr(self.hypervisor.inspect()).encode()
        return sha256(self.machine.memory.read(0, self.machine.memory.size) + shown).hexdigest()


def speak(world: World, calls: Iterable[Said]) -> list[object]:
    """Make the calls, look after each whether anything is wrong, and give what came of them."""
    ends: list[object] = []
    for number, call in enumerate(calls):
        before = world.memory_of(VICTIM)
        ends.append(world.said(call))
        world.check_books()
        if call.caller != ROOT or call.code != HypercallCode.WRITE_GPA:
            assert world.memory_of(VICTIM) == before, call
        if number % 8 == 7:
            world.machine.run(world.machine.clock.tsc + RUN_TICKS)
    return ends


def campaign(first: int, count: int) -> int:
    """Run seeds and print what went wrong; how many misbehaved."""
    wrong = 0
    for seed in range(first, first + count):
        try:
            with World() as world:
                speak(world, make(seed))
        except Exception:
            wrong += 1
            print(f"seed {seed}: {traceback.format_exc()}")
    print(f"{count} seeds from {first}: {wrong} misbehaved")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    raise SystemExit(bool(campaign(options.first, options.count)))

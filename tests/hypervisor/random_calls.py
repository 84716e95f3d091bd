"""Hypercalls that nobody would make: what may be said, and a machine with real engines to say it to.

`make` gives the calls of one seed. Their input blocks are made field by field: a field like *partition_id* is near the
truth most of the time, and anything at all otherwise. `World` is root with two children and ports between them.

A larger campaign than the tests': `python -m tests.hypervisor.random_calls --first 0 --count 20000`.
"""

from __future__ import annotations

import argparse
import random
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from types import TracebackType

from hv.hypervisor.errors import CallIntercepted
from hv.hypervisor.hypercalls.door import hypercall_to_end
from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.hypervisor.registers.table import REGISTERS
from hv.machine.faults import GuestFault, NestedFault
from hv.platform import DEVICE_RID, DEVICE_SPA, Machine
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.hypercalls.devices import HvDeviceId
from hv.spec.layout import FieldType, Layout
from hv.spec.msrs import HvSynicSint
from hv.spec.partition import ANY_VP, PARTITION_ID_SELF, VP_INDEX_SELF, HvMapGpaFlags, HvPartitionProperty
from hv.spec.synic import PortType
from hv.spec.x86 import PAGE_SIZE

ROOT, CALLER, VICTIM = 1, 2, 3          # partition ids
MEMORY_MIB = 4
CHILD_PAGES = 6
GUEST_INPUT, GUEST_OUTPUT = 0x2000, 0x3000          # gpa in a child
ROOT_INPUT, ROOT_OUTPUT = 0x20_000, 0x21_000        # gpa of root, in what it keeps for itself
MOST_FAST_BYTES = 112                   # in two general and six XMM registers
RUN_TICKS = 20_000                      # the machine goes on for so long after every eighth call
N = HvRegisterName
Draw = Callable[[random.Random], int]
SOMEWHERE = (0x2004, 0x2FF8, 0x2FF0, 0x1000, 0, 0x100_000, 0x380_000, DEVICE_SPA, 0xFEE0_0000, 1 << 45, (1 << 64) - 8)


def _one_of(*values: int) -> Draw:
    return lambda chance: chance.choice(values)


def _page(chance: random.Random) -> int:
    return chance.choice((chance.randrange(8), chance.randrange(8), chance.randrange(0x100, 0x300), 0, 0x200, 0x400,
                          DEVICE_SPA >> 12, (1 << 28) - 1, 1 << 28, (1 << 52) - 1, (1 << 64) - 1))


def _gpa(chance: random.Random) -> int:
    return chance.randrange(8) << 12 | chance.choice((0, 8, 0xFF0, 0xFFF))


def _device(chance: random.Random) -> int:
    if chance.random() < 0.2:
        return chance.randrange(3)                  # a logical id
    return HvDeviceId(rid=DEVICE_RID + chance.randrange(3), device_type=chance.choice((1, 1, 1, 1, 0))).raw


def _map_flags(chance: random.Random) -> int:
    return chance.choice((0, 1, 3, 0xD, 0xF, 0xF, 0xE)) | chance.choice((
        0, 0, 0, HvMapGpaFlags.LARGE_PAGE, HvMapGpaFlags.NO_ACCESS, 1 << 30))


_BUILT = [name for name in HvRegisterName if name in REGISTERS]


def _name(chance: random.Random) -> int:
    return int(chance.choice(_BUILT if chance.random() < 0.7 else list(HvRegisterName)))


_PARTITION = _one_of(*[CALLER] * 5, *[VICTIM] * 5, ROOT, 4, 0, *[PARTITION_ID_SELF] * 3)
_ID = _one_of(0, 1, 1, 2, 2, 3, (1 << 24) - 1, 1 << 24)
_VP = _one_of(*[0] * 10, 1, 1, 2, 63, 64, *[VP_INDEX_SELF] * 2, ANY_VP)
_VECTOR = _one_of(0, 0xFFFF_FFFF, 0x52, 0x30, 0xFF, 0x100, 15, 16)
_NEAR: dict[str, Draw] = {
    **dict.fromkeys(("partition_id", "target_partition_id", "domain_partition", "port_partition",
                     "connection_partition", "parent_id", "previous_child_id"), _PARTITION),
    **dict.fromkeys(("vp_index", "target_vp"), _VP),
    **dict.fromkeys(("page_number", "target_gpa_base", "gva_page"), _page),
    **dict.fromkeys(("port_id", "connection_id"), _ID),
    **dict.fromkeys(("vector", "target_vector"), _VECTOR),
    "base_gpa": _gpa, "device_id": _device, "map_flags": _map_flags, "logical_device_id": _one_of(0, 1),
    "property_code": _one_of(*map(int, HvPartitionProperty)), "name": _name,
    "property_value": _one_of(0, 1, 100, 0x2030_FFFF, (1 << 64) - 1), "byte_count": _one_of(0, 1, 8, 15, 16, 17),
    "payload_size": _one_of(0, 1, 16, 240, 241), "message_type": _one_of(0, 1, 5, 0x7FFF_FFFF, 0x8000_0000),
    "access_type": _one_of(0, 3, 3, 4, 4, 7), "intercept_type": _one_of(0, 1, 2, 3, 3, 0xD, 0xF, 0x11, 5),
    "intercept_parameter": _one_of(0, 6, 14, 31, 32, 0x3F8, 0x3F8 | 0x3FF << 16, 0xFFFF << 16, 0xC000_0080),
    "interrupt_control": _one_of(0, 0, 1, 4, 5, 6, 7, 7, 8, 9, 7 | 1 << 32, 1 << 32, 1 << 33, 1 << 34),
    "interrupt_type": _one_of(0, 1, 4),
    "destination": _one_of(0, 0, 1, 0xFF, 1 << 40), "trigger_mode": _one_of(0, 1, 2), "vector_count": _one_of(1, 1, 2),
    "valid_bank_mask": _one_of(0, 1, 1, 1, 3, 1 << 63), "format": _one_of(0, 0, 0, 1, 2),
    "target_vp_mask": _one_of(1, 1, 3, 0, 1 << 63), "source": _one_of(1, 1, 1, 2),
    "port_type": _one_of(1, 1, 2, 2, 3, 4),
    "target_sint": _one_of(2, 3, 16, 0x5000), "gpa": _one_of(0, 0, 0, 0x5000, 0x5004),
    "flag_count": _one_of(0, 0, 4, 2048), "base_flag_number": _one_of(0, 0, 8, 2047),
    "flag_number": _one_of(0, 3, 4, 2047),
    "object_type": _one_of(1, 2, 0x10001, 0x10002, 0x10002, 3), "map_location": _page, "lp_index": _one_of(0, 0, 1),
    "domain_id": _one_of(*[1 << 32] * 4, 2 << 32, 2 << 32, 0, 0xFFFF_FFFF << 32, 1 << 32 | 1, 1 << 32 | 3, 16),
    "device_map_flags": _one_of(3, 3, 1, 0, 2), "settings": _one_of(1, 2, 3),
    "logical_property_code": _one_of(10, 10, 0),
    "device_va_base": _one_of(0, 0, 0x1000, 0x2000, 0xFEDF_E000, (1 << 48) - 0x2000, 8, 1 << 40),
    "control_flags": _one_of(0, 1, 3, 6, 0x41, 0x81, 1 << 9),
}
# Mostly zero, else hardly a call gets further.
_SELDOM = {"padding", "reserved", "unused", "flags", "proximity_domain_info", "isolation_properties", "input_vtl",
           "target_vtl", "owner_vtl", "create_flags", "flush_flags", "page_table_root", "port_vtl",
           "min_connection_vtl", "connection_vtl", "attach_vtl", "target_flags", "trigger_value",
           "trigger_flags", "is_doorbell", "subnode_type", "subnode_id", "unmap_flags"}
# What ends a partition or a VP is said less often than what needs one, and what has most to do more often.
_FATAL = (HypercallCode.FINALIZE_PARTITION, HypercallCode.DELETE_VP)
_DEEP = (HypercallCode.SET_VP_REGISTERS, HypercallCode.SET_VP_REGISTERS, HypercallCode.GET_VP_REGISTERS,
         HypercallCode.MAP_GPA_PAGES, HypercallCode.WRITE_GPA)


def _field(chance: random.Random, name: str, kind: FieldType) -> bytes:
    if kind.layout is not None:
        return b"".join(_block(chance, kind.layout) for _ in range(kind.count))
    near = _NEAR.get(name)
    if name.rstrip("012") in _SELDOM:
        return bytes(kind.size) if chance.random() < 0.99 else chance.randbytes(kind.size)
    if near is None or chance.random() < 0.02:
        return chance.choice((bytes(kind.size), chance.randbytes(kind.size), b"\xff" * kind.size))
    return (near(chance) & (1 << 8 * kind.size) - 1).to_bytes(kind.size, "little")


def _block(chance: random.Random, layout: type[Layout]) -> bytes:
    return b"".join(_field(chance, name, kind) for name, (_, kind) in layout.FIELDS.items())


def _variable_header(chance: random.Random, block: bytes) -> tuple[int, bytes]:
    """Units that follow the fixed input: mostly as many as the bank mask in its last field says."""
    wanted = int.from_bytes(block[-8:], "little").bit_count()
    units = wanted if wanted <= 64 and chance.random() < 0.9 else chance.randrange(4)
    return units, b"".join(chance.choice((0, 1, 3, chance.getrandbits(64))).to_bytes(8, "little") for _ in range(units))


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


def say(chance: random.Random, callers: tuple[int, ...]) -> Said:
    """One call of one of *callers*; most have the shape that their code wants."""
    code = chance.choice(list(HYPERCALLS)) if chance.random() < 0.95 else chance.randrange(1 << 16)
    if chance.random() < (0.8 if code in _FATAL else 0.2):
        code = int(chance.choice(_DEEP))
    declaration = HYPERCALLS.get(code)
    block, reps, start, header = b"", 0, 0, 0
    if declaration is not None:
        reps = chance.randrange(1, 5) if declaration.rep else 0
        start = chance.randrange(reps) if reps and chance.random() < 0.2 else 0
        block = _block(chance, declaration.input) if declaration.input else b""
        if declaration.variable:
            header, banks = _variable_header(chance, block)
            block += banks
        if declaration.rep_input is not None:
            block += b"".join(_block(chance, declaration.rep_input) for _ in range(reps))
    fast = len(block) <= 112 and chance.random() < 0.4
    control = HypercallControl(call_code=code, rep_count=reps, rep_start=start, fast=int(fast),
                               variable_header_size=header).raw
    if chance.random() < 0.04:
        control ^= 1 << chance.randrange(16, 64)
    places = [chance.choice(SOMEWHERE) if chance.random() < 0.04 else None for _ in range(2)]
    return Said(chance.choice(callers), control, block, *places)


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
            if each._space is not None and each.space.tables is not None:
                seen = {gpa + n for gpa, _, _, size in each.space.tables.mappings() for n in range(0, size, PAGE_SIZE)}
                wanted = {page << 12 for page, _ in each.space.mappings() if each.space.visible(page).rights}
                wanted |= {page << 12 for page in each.space._overlays}
                assert seen == wanted, f"partition {each.id}"

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

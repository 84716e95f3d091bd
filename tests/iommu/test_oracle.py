"""The walker against a slow oracle that reads the manual's bits one by one, on random tables."""

from __future__ import annotations

import random

from hv.spec.vtd import ContextCommand, FaultReason, Granularity, IotlbCommand, VtdRegister
from tests.iommu.bench import CONTEXTS, DEVICE, LEVELS, RAM, ROOT, Bench

R = FaultReason
TABLES = (*LEVELS, 0xA000, 0xB000)


def bit(value: int, number: int) -> int:
    return value >> number & 1


def field(value: int, high: int, low: int) -> int:
    return sum(bit(value, number) << number - low for number in range(low, high + 1))


def oracle(bench: Bench, bus: int, devfn: int, iova: int, write: bool) -> tuple[FaultReason | None, int, bool]:
    """(why not, where to, may the refusal be recorded), by VT-d "DMA Remapping" with nothing cached."""
    def load(spa: int, size: int) -> int | None:
        return int.from_bytes(bench.memory.read(spa, size), "little") if spa + size <= RAM else None

    root = load(ROOT + 16 * bus, 16)
    assert root is not None
    if not bit(root, 0):
        return R.ROOT_NOT_PRESENT, 0, True
    if field(root, 11, 1) or field(root, 127, 46):
        return R.ROOT_RESERVED, 0, True
    context = load(field(root, 45, 12) * 4096 + 16 * devfn, 16)
    if context is None:
        return R.CONTEXT_ACCESS, 0, True
    loud = not bit(context, 1)
    if not bit(context, 0):
        return R.CONTEXT_NOT_PRESENT, 0, loud
    if field(context, 11, 4) or field(context, 63, 46) or bit(context, 71) or field(context, 127, 88):
        return R.CONTEXT_RESERVED, 0, loud
    kind, width = field(context, 3, 2), field(context, 66, 64)
    if kind == 3 or width not in (1, 2):
        return R.CONTEXT_INVALID, 0, loud
    bits = 48 if kind == 2 or width == 2 else 39
    if iova >= 2**bits:
        return R.ADDRESS_BEYOND_WIDTH, 0, loud
    if kind == 2:
        return None, iova, loud
    table = field(context, 45, 12) * 4096
    for level in range(width + 2, 0, -1):
        low = 12 + 9 * (level - 1)
        entry = load(table + 8 * field(iova, low + 8, low), 8)
        if entry is None:
            return R.SECOND_LEVEL_ACCESS, 0, loud
        if not bit(entry, 1 if write else 0):
            return (R.WRITE_REFUSED if write else R.READ_REFUSED), 0, loud
        large = level > 1 and bit(entry, 7)
        if bit(entry, 11) or field(entry, 51, 46) or (large and level == 4):
            return R.SECOND_LEVEL_RESERVED, 0, loud
        if large and field(entry, low - 1, 12):
            return R.SECOND_LEVEL_RESERVED, 0, loud
        if large or level == 1:
            return None, field(entry, 45, low) << low | field(iova, low - 1, 0), loud
        table = field(entry, 45, 12) * 4096
    raise AssertionError


class Garden:
    """Random tables, mostly right: so that requests end at every place of the walk."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = Bench()
        for table in TABLES:
            for slot in range(512):
                self.bench.memory.write_u64(table + 8 * slot, self.entry())
        for devfn in range(256):
            self.write16(CONTEXTS + 16 * devfn, self.context())
        for bus in range(256):
            self.write16(ROOT + 16 * bus, self.root())

    def write16(self, spa: int, value: int) -> None:
        self.bench.memory.write(spa, value.to_bytes(16, "little"))

    def rarely(self, bits: int, one_in: int = 24) -> int:
        """One of the lowest *bits* bits, now and then."""
        return 1 << self.random.randrange(bits) if self.random.randrange(one_in) == 0 else 0

    def page(self) -> int:
        if self.random.randrange(20) == 0:
            return self.random.randrange(1 << 34)
        return self.random.choice(TABLES) >> 12

    def entry(self) -> int:
        large = self.random.randrange(8) == 0
        page = self.random.randrange(1 << 16) << self.random.choice((9, 18)) if large else self.page()
        rights = self.random.choice((3, 3, 3, 3, 3, 3, 1, 2, 0))
        return (page & (1 << 34) - 1) << 12 | rights | large << 7 | self.rarely(64)

    def context(self) -> int:
        low = self.page() << 12 | self.random.choice((0, 0, 0, 0, 1, 2, 3)) << 2 | (self.random.randrange(8) > 0)
        high = self.random.choice((1, 1, 2, 2, 2, 3, 0)) | self.random.randrange(4) << 8
        return (high << 64 | low) ^ self.rarely(128, 8)

    def root(self) -> int:
        table = CONTEXTS if self.random.randrange(12) else self.random.randrange(1 << 34) << 12
        return (table | (self.random.randrange(8) > 0)) ^ self.rarely(128, 8)


def test_the_walker_agrees_with_an_oracle_on_random_tables():
    """4000 requests without caches: the same address, or the same reason, and the same silence."""
    garden = Garden(6)
    bench, rng, seen = garden.bench, garden.random, dict.fromkeys(FaultReason, 0)
    for _ in range(4000):
        bus, devfn = rng.randrange(256), rng.randrange(256)
        iova, write = rng.getrandbits(rng.choice((30, 38, 39, 47, 48, 48, 50, 64))), rng.random() < 0.5
        if 0xFEE00000 <= iova < 0xFEF00000:
            continue
        reason, spa, loud = oracle(bench, bus, devfn, iova, write)
        bench.write(VtdRegister.CCMD, ContextCommand(invalidate=1, granularity=Granularity.GLOBAL).raw, 8)
        bench.write(VtdRegister.IOTLB, IotlbCommand(invalidate=1, granularity=Granularity.GLOBAL).raw, 8)
        bench.events.clear()
        passed = bench.iommu.dma_write(bus << 8 | devfn, iova, b"") if write else \
            bench.iommu.dma_read(bus << 8 | devfn, iova, 1) is not None
        records = bench.records()
        bench.trace.listening = False                # nobody looks: what is cached, or near it, is answered quickly
        for length in (1, 1):
            again = bench.iommu.dma_write(bus << 8 | devfn, iova, b"") if write else \
                bench.iommu.dma_read(bus << 8 | devfn, iova, length) is not None
            assert again is passed
        bench.trace.listening = True
        if reason is None:
            assert (records, passed) == ([], spa <= RAM if write else spa < RAM)
            assert not passed or bench.events[0].spa == spa
        else:
            seen[reason] += 1
            assert not passed
            assert [(event.reason, event.iova) for event in bench.events] == [(reason, iova)]
            assert {record.reason for record in records} == ({reason} if loud else set())
            for number in range(8):
                bench.free_record(number)
    reachable = {reason for reason in FaultReason if reason < 0x20} - {R.ROOT_ACCESS, R.TYPE_BLOCKED}
    assert {reason for reason, count in seen.items() if count} == reachable


def test_a_device_of_the_bench_passes_the_oracle_too():
    bench = Bench()
    reason, spa, _ = oracle(bench, DEVICE >> 8, DEVICE & 0xFF, 0x12345678, False)
    assert (reason, spa) == (None, 0x100678)

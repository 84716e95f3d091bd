"""May this program touch that port?"""

from __future__ import annotations

import pytest

from hv.machine.io_permission import io_permitted
from hv.machine.registers import Segment
from hv.spec.x86 import Tss32
from tests.machine.fakes import FLAT_CODE_32, FakeMemory, FakeState

TSS, BITMAP = 0x1000, 0x68
VM = 1 << 17


def permitted(port: int, size: int = 1, cpl: int = 3, iopl: int = 0, closed: tuple[int, ...] = (), limit: int = 0x2068,
              base: int = BITMAP, rights: int = 0x8B, flags: int = 0, cr0: int = 0x11) -> bool:
    """Protected mode with a bitmap that forbids the *closed* ports."""
    memory = FakeMemory()
    memory.data[TSS : TSS + Tss32.SIZE] = Tss32(io_map_base=base).pack()
    for number in closed:
        memory.data[TSS + base + number // 8] |= 1 << number % 8
    state = FakeState(cr0=cr0, cpl=cpl, rflags=2 | iopl << 12 | flags, cs=FLAT_CODE_32)
    state.tr = Segment(8, TSS, limit, rights)
    return io_permitted(state, memory.linear(state), port, size)


EVERYTHING = tuple(range(0x400))


@pytest.mark.parametrize(("arguments", "answer"), [
    ({"cr0": 0x10, "cpl": 0, "closed": EVERYTHING}, True),
    ({"cpl": 0, "closed": EVERYTHING}, True),
    ({"cpl": 3, "iopl": 3, "closed": EVERYTHING}, True),
    ({"cpl": 1, "iopl": 0, "closed": EVERYTHING}, False),
    ({"cpl": 3, "closed": EVERYTHING}, False),
    ({"cpl": 3, "iopl": 3, "flags": VM, "closed": EVERYTHING}, False),
    ({"cpl": 3, "iopl": 0, "flags": VM}, True),
    ({}, True),
    ({"closed": (0x3F8,)}, False),
    ({"closed": (0x3F7, 0x3F9)}, True),
    ({"size": 2, "closed": (0x3F9,)}, False),
    ({"size": 4, "closed": (0x3FB,)}, False),
    ({"size": 4, "closed": (0x3FC,)}, True),
], ids=["real-mode", "cpl-0", "iopl-3", "cpl-above-iopl", "cpl-3", "v86-ignores-iopl", "v86-bitmap", "open", "closed",
        "neighbours", "second-byte", "fourth-byte", "beyond-the-access"])
def test_port_access_follows_iopl_and_the_bitmap(arguments, answer):
    """SDM "I/O Permission Bit Map"."""
    assert permitted(0x3F8, **arguments) == answer


def test_an_access_across_bytes_of_the_bitmap_asks_both():
    assert not permitted(0x3F7, size=2, closed=(0x3F8,))
    assert permitted(0x3F7, size=2, closed=(0x3F9,))


@pytest.mark.parametrize(("limit", "answer"), [(BITMAP + 0x80, True), (BITMAP + 0x7F, False), (BITMAP + 0x7E, False)],
                         ids=["both-bytes-inside", "second-byte-outside", "outside"])
def test_two_bytes_of_the_bitmap_must_lie_within_the_tss(limit, answer):
    assert permitted(0x3F8, limit=limit) == answer


@pytest.mark.parametrize("rights", [0x83, 0x82, 0x10000], ids=["286-tss", "ldt", "unusable"])
def test_only_a_32_or_64_bit_tss_has_a_bitmap(rights):
    assert not permitted(0x3F8, rights=rights)


def test_a_tss_too_small_for_its_fixed_part_forbids_all():
    assert not permitted(0, limit=0x66, base=0)

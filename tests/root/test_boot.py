"""The state a program starts in is what docs/guests.md promises."""

import pytest

from hv.image.errors import ImageError
from hv.image.model import Image, Segment
from hv.machine.registers import Segment as MachineSegment
from hv.machine.registers import Table
from hv.platform import Machine
from hv.root import boot
from hv.spec.x86 import Cr0, Tss64

MIB = 1 << 20
GENERAL = ("rax", "rcx", "rdx", "rbx", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
ENTRY = {16: 0x7C00, 32: 0x10000, 64: 0x10000}
DATA_SEGMENTS = ("ds", "es", "ss", "fs", "gs")


def program(bits, gpa=None, size=16, executable=True):
    gpa = ENTRY[bits] if gpa is None else gpa
    segments = [Segment(ENTRY[bits], b"\x90" * 16, True, True)]
    if gpa != ENTRY[bits]:
        segments.append(Segment(gpa, b"\x90" * size, True, executable))
    return Image("test", sorted(segments, key=lambda segment: segment.gpa), ENTRY[bits], bits)


@pytest.fixture(params=[16, 32, 64])
def started(request):
    """A VM that has not run yet, in each mode."""
    machine = Machine(memory_mib=8)
    vm = machine.create_vm("test", program(request.param), memory_mib=4, vps=2)
    vm.bits, vm.regs = request.param, vm.partition.vps[0].guest_regs
    yield vm
    machine.close()


# --- registers ----------------------------------------------------------------------------------------------------

def test_registers_that_all_modes_share(started):
    regs = started.regs
    assert (regs.rdi, regs.rsi, regs.rflags, regs.rip) == (0, 4 * MIB, 2, ENTRY[started.bits])
    assert {name: getattr(regs, name) for name in GENERAL} == dict.fromkeys(GENERAL, 0)


def test_the_mode_is_the_programs(started):
    regs = started.regs
    assert (regs.cr0, regs.cr3, regs.cr4, regs.efer, regs.rsp) == {
        16: (0x10, 0, 0, 0, 0x7C00),
        32: (0x31, 0, 0, 0, 0x90000),
        64: (0x8001_0033, 0x71000, 0x620, 0xD00, 0x90000),
    }[started.bits]


def test_segments_are_flat(started):
    regs, bits = started.regs, started.bits
    code, data = {16: (0, 0), 32: (0x18, 0x10), 64: (0x08, 0x10)}[bits]
    assert (regs.cs.selector, regs.cs.base) == (code, 0)
    assert (regs.cs.limit, regs.cs.rights) == {
        16: (0xFFFF, 0x9B), 32: (0xFFFF_FFFF, 0xC09B), 64: (0xFFFF_FFFF, 0xA09B)}[bits]
    for name in DATA_SEGMENTS:
        segment = getattr(regs, name)
        assert (segment.selector, segment.base) == (data, 0)
        assert segment.rights == (0x93 if bits == 16 else 0xC093)
        assert segment.limit == (0xFFFF if bits == 16 else 0xFFFF_FFFF)


def test_descriptor_tables(started):
    if started.bits == 16:
        assert started.regs.idtr == Table(0, 0x3FF)
    else:
        assert started.regs.gdtr == Table(0x70000, 0x2F)
        assert started.regs.idtr == Table(0, 0)
        assert started.regs.tr == MachineSegment(0x20, 0x70100, Tss64.SIZE - 1, 0x8B)


def test_the_second_vp_waits_for_sipi(started):
    vp = started.partition.vps[1]
    assert vp.wait_for_sipi
    assert not vp.runnable


# --- memory -------------------------------------------------------------------------------------------------------

def quads(vm, gpa, count):
    data = vm.worker.read(gpa, 8 * count)
    return [int.from_bytes(data[n : n + 8], "little") for n in range(0, 8 * count, 8)]


def test_the_information_block(started):
    assert quads(started, 0x500, 5) == [0, 0, 0, started.partition_id, 0]


def test_the_gdt_holds_what_the_segments_say(started):
    if started.bits == 16:
        assert not any(quads(started, 0x70000, 512))        # a 16-bit program makes its own
        return
    null, code64, data, code32, task, _ = quads(started, 0x70000, 6)
    assert (null, code64, data, code32) == (0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_9B00_0000_FFFF)
    assert task & 0xFFFF == Tss64.SIZE - 1
    assert task >> 16 & 0xFF_FFFF == 0x70100
    assert task >> 40 == 0x8B                               # a busy 64-bit TSS
    assert quads(started, 0x70028, 1) == [0]                # the upper half of its base
    tss = Tss64.parse(started.worker.read(0x70100, Tss64.SIZE))
    assert (tss.rsp0, tss.ist1) == (0x98000, 0x98000)


ADDRESSES = (0, 0x10000, 2 * MIB, 64 * MIB - 1, 0xF000_0000, 0xFEE0_0080)


def test_linear_addresses_are_guest_physical_ones(started):
    assert bool(started.regs.cr0 & Cr0.PG) is (started.bits == 64)
    for gva in ADDRESSES:
        assert started.partition.vps[0].vcpu.memory.walk(gva).gpa == gva


@pytest.mark.parametrize("started", [64], indirect=True)
def test_what_is_no_code_is_not_executable(started):
    walk = started.partition.vps[0].vcpu.memory.walk
    for gva in ADDRESSES:
        assert walk(gva).page_size == 2 * MIB
        assert walk(gva).writable
        assert not walk(gva).user
        assert walk(gva).executable is (gva < 2 * MIB)


def test_an_executable_segment_above_2_mib_is_executable():
    image = program(64, 6 * MIB)
    directory = boot.tables(image, boot.Information())[boot.LOW_DIRECTORY]
    entries = [int.from_bytes(directory[n : n + 8], "little") for n in range(0, 8 * 32, 8)]
    assert [n for n, entry in enumerate(entries) if not entry >> 63] == [0, 3]
    assert not any(directory[8 * 32 :])


@pytest.mark.parametrize(("gpa", "size", "pages"), [
    (4 * MIB - 1, 1, [0, 1]), (4 * MIB - 1, 2, [0, 1, 2]), (2 * MIB, 2 * MIB, [0, 1]), (6 * MIB, 0, [0]),
])
def test_a_large_page_is_executable_where_any_byte_of_it_is_code(gpa, size, pages):
    directory = boot.tables(program(64, gpa, size), boot.Information())[boot.LOW_DIRECTORY]
    assert [n for n in range(32) if not directory[8 * n + 7] >> 7] == pages


def test_the_page_tables_have_nothing_else():
    made = boot.tables(program(64), boot.Information())
    assert {gpa: len(made[gpa]) for gpa in (0x71000, 0x72000, 0x73000, 0x74000)} == dict.fromkeys(
        (0x71000, 0x72000, 0x73000, 0x74000), 4096)
    top = [int.from_bytes(made[0x72000][n : n + 8], "little") for n in range(0, 4096, 8)]
    assert {n: entry for n, entry in enumerate(top) if entry} == {0: 0x73003, 3: 0x74003}
    high = [int.from_bytes(made[0x74000][n : n + 8], "little") for n in range(0, 4096, 8)]
    assert {n: entry for n, entry in enumerate(high) if entry} == {
        0x180: 1 << 63 | 0xF00000FB, 0x1F7: 1 << 63 | 0xFEE000FB}


def test_a_data_segment_is_not_executable():
    directory = boot.tables(program(64, 6 * MIB, executable=False), boot.Information())[boot.LOW_DIRECTORY]
    assert int.from_bytes(directory[24:32], "little") >> 63


def test_the_information_block_names_device_and_neighbour():
    machine = Machine(memory_mib=8)
    first = machine.create_vm("a", program(64), memory_mib=1)
    second = machine.create_vm("b", program(64), memory_mib=1, dma_device=True, other=first)
    bar, address, data, own, other = quads(second, 0x500, 5)
    assert (bar, own, other) == (0xF000_0000, second.partition_id, first.partition_id)
    assert address >> 20 == 0xFEE                   # where interrupt messages go
    assert address & 0x10                           # remappable: a handle stands there, no destination
    assert data < 1 << 32
    machine.close()


# --- what does not fit --------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("bits", "gpa", "size", "text"), [
    pytest.param(64, 4 * MIB, 1, "reaches up to 0x400001, the VM has 0x400000 bytes of memory", id="too-big"),
    pytest.param(64, 0x500, 1, "at 0x500 lies over 0x500..0x5ff, which the loader uses", id="information-block"),
    pytest.param(16, 0x5FF, 1, "at 0x5ff lies over 0x500..0x5ff", id="information-block-in-real-mode"),
    pytest.param(64, 0x70000, 1, "at 0x70000 lies over 0x70000..0x7ffff", id="tables"),
    pytest.param(32, 0x6FFFF, 2, "at 0x6ffff lies over 0x70000..0x7ffff", id="into-the-tables"),
])
def test_a_program_may_not_lie_over_the_loaders_things(bits, gpa, size, text):
    with pytest.raises(ImageError, match=text.replace("..", r"\.\.")):
        boot.check(program(bits, gpa, size), 4 * MIB)


@pytest.mark.parametrize(("bits", "gpa"), [
    (64, 4 * MIB - 1), (64, 0x600), (64, 0x4FF), (64, 0x80000), (16, 0x70000), (32, 0x6FFFF)])
def test_a_program_may_stand_right_beside_them(bits, gpa):
    boot.check(program(bits, gpa, 1), 4 * MIB)

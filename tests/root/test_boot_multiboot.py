"""A Multiboot kernel starts as the "Multiboot Specification" says, and small ones of ours run."""

from __future__ import annotations

import random

import pytest

from hv.image.elf import Elf64Header, Elf64SectionHeader
from hv.image.errors import ImageError
from hv.image.load import load
from hv.image.model import BootOptions, Module
from hv.image.multiboot import header_offset, load_multiboot
from hv.platform import Machine
from hv.root import starting
from hv.root.boot import Information
from hv.root.memory_map import MemoryMap
from hv.root.pc import Pc
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.multiboot import MultibootInfo, MultibootModule, MultibootRange
from tests.kernels import MULTIBOOT_GPA, multiboot_elf, multiboot_flat, multiboot_header

MIB = 1 << 20
MODULES = (Module(b"one", "a.bin x"), Module(b"two" * 2000, "b"))


def kernel(data):
    return load_multiboot(data, "k", 16 * MIB)


def started(data, options=BootOptions(), memory_mib=8):     # noqa: B008
    return starting.start(kernel(data), options, MemoryMap(memory_mib * MIB), Information(), name="k")


def at(start, gpa, size):
    """Bytes of the memory that *start* leaves."""
    return next(data[gpa - first : gpa - first + size] for first, data in start.memory.items()
                if first <= gpa < first + len(data))


def text(start, gpa):
    return at(start, gpa, 4096).partition(b"\0")[0]


def information(start):
    return MultibootInfo.parse(at(start, start.registers[N.RBX], MultibootInfo.SIZE))


# --- real ones -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def machine():
    machine = Machine(memory_mib=32)
    yield machine
    machine.close()


@pytest.mark.parametrize("data", [multiboot_elf(), multiboot_elf(bits=64), multiboot_flat()],
                         ids=["elf32", "elf64", "addresses"])
def test_a_kernel_runs_and_finds_what_it_is_handed(machine, data):
    """EAX, EBX, flat 32-bit mode; an ELF64 is entered in it too, as other loaders do."""
    options = BootOptions("a=b c", b"", (Module(b"one", "one.bin first"), Module(b"two", "second")))
    vm = machine.create_vm("greeter", kernel(data), memory_mib=8, options=options)
    machine.run(until_tsc=machine.clock.tsc + 2_000_000)
    assert isinstance(vm.worker.motherboard, Pc)
    assert (vm.kind, vm.ended, vm.serial) == ("multiboot", "shutdown", "greeter a=b c|one.bin first=one|second=two")
    machine.destroy_vm(vm)


# --- what it finds -------------------------------------------------------------------------------------------------

def test_the_registers_are_the_specifications():
    """"Machine state": EAX, EBX, flat segments, paging off, IF and VM clear."""
    registers = started(multiboot_elf()).registers
    assert (registers[N.RAX], registers[N.RIP], registers[N.RFLAGS]) == (0x2BADB002, MULTIBOOT_GPA + 0x40, 2)
    assert (registers[N.CR0] & 1, registers[N.CR0] >> 31) == (1, 0)
    assert registers[N.CS].attributes == 0xC09B
    for name in (N.CS, N.DS, N.ES, N.FS, N.GS, N.SS):
        assert (registers[name].base, registers[name].limit) == (0, 0xFFFFFFFF)
    assert registers[N.IDTR].limit == 0


def test_the_information_is_the_specifications():
    start = started(multiboot_elf(), BootOptions("quiet"))
    info = information(start)
    assert info.flags == 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9     # no boot device, no drives, no video
    assert (info.mem_lower, info.mem_upper) == (636, 7 * 1024)
    assert (text(start, info.cmdline), text(start, info.boot_loader_name)) == (b"k quiet", b"hvlab")
    ranges = at(start, info.mmap_addr, info.mmap_length)
    found = [MultibootRange.parse(ranges, n) for n in range(0, len(ranges), MultibootRange.SIZE)]
    assert {each.size for each in found} == {20}
    assert [(each.base_addr, each.length, each.type) for each in found] == [
        tuple(part) for part in MemoryMap(8 * MIB).parts]


def test_modules_begin_on_pages_behind_the_kernel():
    start = started(multiboot_elf(), BootOptions(modules=MODULES))
    info = information(start)
    assert info.mods_count == 2
    end = kernel(multiboot_elf()).end
    for n, module in enumerate(MODULES):
        entry = MultibootModule.parse(at(start, info.mods_addr + 16 * n, 16))
        assert entry.mod_start % 4096 == 0
        assert entry.mod_start >= end
        assert at(start, entry.mod_start, entry.mod_end - entry.mod_start) == module.content
        assert text(start, entry.string).decode() == module.text
        end = entry.mod_end


def with_sections():
    """An ELF64 with a string section that no segment has."""
    data = multiboot_elf(bits=64)
    header = Elf64Header.parse(data)
    header.shoff, header.shnum, header.shentsize, header.shstrndx = len(data) + 16, 2, Elf64SectionHeader.SIZE, 1
    strings = Elf64SectionHeader(name=1, type=3, offset=len(data), size=16)
    return header.pack() + data[Elf64Header.SIZE :] + b"\0.shstrtab\0".ljust(16, b"!") \
        + Elf64SectionHeader().pack() + strings.pack()


def test_an_elf_kernel_finds_its_sections():
    """Symbols and strings that no segment has are loaded, and their headers say where."""
    start = started(with_sections())
    info = information(start)
    assert info.flags & 1 << 5
    assert (info.syms_num, info.syms_size, info.syms_shndx) == (2, 64, 1)
    section = Elf64SectionHeader.parse(at(start, info.syms_addr + 64, 64))
    assert text(start, section.addr + section.name) == b".shstrtab"


# --- what cannot be started ----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("data", "text"), [
    (multiboot_elf(flags=7), "wants a video mode"), (multiboot_elf(flags=0x13), "requires 0x10, which no loader"),
    (multiboot_header() + b"x", "neither an ELF file nor"), (multiboot_flat()[:0x18], "ends at byte 0x20, the file at"),
    (multiboot_flat(header_addr=0), "loads bytes 0x100000.."), (multiboot_flat(load_end_addr=1), "loads bytes 0x0.."),
    (multiboot_flat(load_end_addr=0x200000), "loads bytes 0x0..0x100000"),
    (multiboot_flat(bss_end_addr=0xFFFFFFFF), "the VM has 0x1000000"),
    (multiboot_flat(load_addr=0xFFFFFFF0, header_addr=0xFFFFFFF0), "it takes 0xfffffff0"),
    (multiboot_flat(entry_addr=0), "its entry 0x0 is outside"),
])
def test_a_kernel_that_lies_is_refused(data, text):
    with pytest.raises(ImageError) as caught:
        kernel(data)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


BELOW = {"header_addr": 0x9E000, "load_addr": 0x9E000, "entry_addr": 0x9E040, "bss_end_addr": 0}


@pytest.mark.parametrize(("data", "options", "memory_mib", "text"), [
    (multiboot_flat(bss_end_addr=0x900000), BootOptions(), 8, "needs memory up to 0x900000"),
    (multiboot_flat(**BELOW | {"bss_end_addr": 0x9F001}), BootOptions(), 8, "over 0x9f000..0xfffff"),
    (multiboot_flat(**{key: value - 0x2E000 if value else 0 for key, value in BELOW.items()}), BootOptions(), 8,
     "over 0x60000..0x70fff"),
    (multiboot_elf(), BootOptions(modules=(Module(bytes(8 * MIB), "m"),)), 8, "take 0x800000 bytes at 0x101000"),
    (multiboot_elf(), BootOptions("x" * 70000), 8, "the kernel is told"),
    (multiboot_elf(), BootOptions("a\0b"), 8, "zero byte"),
    (multiboot_elf(), BootOptions("", b"i"), 8, "an initrd is for kernels of kind linux"),
])
def test_what_does_not_fit_is_refused(data, options, memory_mib, text):
    with pytest.raises(ImageError, match=text):
        started(data, options, memory_mib)


def test_no_mutation_gets_through_as_another_error():
    """Whatever is changed in header, ELF or sections: a kernel that is ready, or one line."""
    chance, refused = random.Random(6), 0
    for n in range(400):
        data = bytearray((with_sections(), multiboot_elf(), multiboot_flat())[n % 3])
        magic = header_offset(bytes(data))
        for _ in range(chance.randrange(1, 4)):
            place = chance.choice((chance.randrange(min(200, len(data))), chance.randrange(len(data))))
            if not magic <= place < magic + 12:
                data[place] = chance.choice((0, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        try:
            started(bytes(data), BootOptions("x", b"", MODULES))
        except ImageError as error:
            refused += 1
            assert "\n" not in str(error)   # noqa: PT017
    assert 20 < refused < 400


def test_the_kind_is_recognised(tmp_path):
    for name, data in (("a", multiboot_elf()), ("b.bin", multiboot_flat()), ("c.elf", multiboot_elf(bits=64))):
        (tmp_path / name).write_bytes(data)
        assert load(tmp_path / name).kind == "multiboot"

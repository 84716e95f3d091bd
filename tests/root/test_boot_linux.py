"""A Linux kernel starts as "The Linux/x86 Boot Protocol" says, and a small one of ours runs."""

from __future__ import annotations

import pytest

from hv.image.bzimage import load_bzimage
from hv.image.errors import ImageError
from hv.image.model import BootOptions
from hv.platform import Machine
from hv.root import boot_linux, starting
from hv.root.boot import Information
from hv.root.memory_map import MemoryMap
from hv.root.pc import Pc
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.linux_boot import E820_RAM, E820_RESERVED, SetupHeader, ZeroPage
from tests.guest_runner import image_of
from tests.kernels import GREETER, LOAD_GPA, bzimage, code, packed, vmlinux

MIB = 1 << 20
KERNEL = bzimage(packed(vmlinux()))


def handed(image, *options):
    return image, BootOptions(*options)


def started(handed, memory_mib=64):
    return starting.start(*handed, MemoryMap(memory_mib * MIB), Information())


def zero_page(start):
    return ZeroPage.parse(start.memory[boot_linux.ZERO_PAGE])


def linux(data=KERNEL, unpack=True):
    return load_bzimage(data, "k", 64 * MIB, unpack)


# --- a real one ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def machine():
    machine = Machine(memory_mib=96)
    yield machine
    machine.close()


def said(machine, handed):
    """What an image prints, in a VM with a PC board that it gets without asking."""
    image, options = handed
    vm = machine.create_vm("linux", image, memory_mib=32, options=options)
    machine.run(until_tsc=machine.clock.tsc + 2_000_000)
    assert isinstance(vm.worker.motherboard, Pc)
    ended, serial = vm.ended, vm.serial
    machine.destroy_vm(vm)
    return ended, serial


def test_an_unpacked_kernel_runs(machine):
    boot = handed(linux(), "console=ttyS0 quiet", b"initrd\0")
    assert said(machine, boot) == ("shutdown", "hello console=ttyS0 quiet|initrd")


def test_a_kernel_that_unpacks_itself_runs(machine):
    """It is entered at 0x200 of its protected-mode code, where its own decompressor would begin."""
    boot = handed(linux(bzimage(kernel=bytes(0x200) + code(origin=LOAD_GPA + 0x200)), unpack=False), "a=b")
    assert said(machine, boot) == ("shutdown", "hello a=b|")


def test_a_32_bit_kernel_runs(machine):
    """It is entered at its first byte, in flat protected mode, ESI at the zero page."""
    source = GREETER.replace("lea rbx, [rip + text]", "mov ebx, text").replace("rsi", "esi").replace("rbx", "ebx")
    boot = handed(linux(bzimage(kernel=code(source, bits=32), xloadflags=0)), "32")
    assert said(machine, boot) == ("shutdown", "hello 32|")


# --- registers -----------------------------------------------------------------------------------------------------

def test_the_registers_are_the_protocols():
    """64-bit Boot Protocol: 64-bit mode with paging, __BOOT_CS and __BOOT_DS, RSI at the zero page, interrupts off."""
    registers = started(handed(linux())).registers
    assert (registers[N.RIP], registers[N.RSI], registers[N.RFLAGS]) == (LOAD_GPA, boot_linux.ZERO_PAGE, 2)
    assert registers[N.CR0] & 1 << 31
    assert (registers[N.EFER], registers[N.CR4] & 1 << 5) == (0x500, 1 << 5)
    assert (registers[N.CS].selector, registers[N.CS].attributes) == (0x10, 0xA09B)
    for name in (N.DS, N.ES, N.SS):
        assert (registers[name].selector, registers[name].limit) == (0x18, 0xFFFFFFFF)


def test_a_32_bit_kernel_starts_without_paging():
    registers = started(handed(linux(bzimage(xloadflags=0)))).registers
    assert (registers[N.CR0], registers[N.CS].attributes, registers[N.RBX], registers[N.RBP], registers[N.RDI]) == (
        0x31, 0xC09B, 0, 0, 0)


def test_the_first_4_gib_are_mapped_one_to_one():
    directory = started(handed(linux())).memory[boot_linux.DIRECTORIES]
    entries = [int.from_bytes(directory[n : n + 8], "little") for n in range(0, len(directory), 8)]
    assert [entry & -(2 * MIB) for entry in entries] == list(range(0, 4 << 30, 2 * MIB))
    assert {entry & 0x1FFFFF for entry in entries[:0x700]} == {0xE3}
    assert {entry & 0x1FFFFF for entry in entries[0x700:]} == {0xFB}    # devices are not cached


def test_the_gdt_holds_what_the_segments_say():
    for kernel, descriptor in ((linux(), 0x00AF9B000000FFFF), (linux(bzimage(xloadflags=0)), 0x00CF9B000000FFFF)):
        gdt = started(handed(kernel)).memory[boot_linux.GDT]
        assert int.from_bytes(gdt[0x10:0x18], "little") == descriptor
        assert int.from_bytes(gdt[0x18:0x20], "little") == 0x00CF93000000FFFF


# --- the zero page -------------------------------------------------------------------------------------------------

def test_the_zero_page_has_the_kernels_header_with_our_answers():
    boot = handed(linux(), "quiet", b"x" * 5000)
    page, start = zero_page(started(boot)), started(boot)
    assert (page.hdr.header, page.hdr.version, page.hdr.type_of_loader) == (0x53726448, 0x20F, 0xFF)
    assert start.memory[page.hdr.cmd_line_ptr] == b"quiet\0"
    assert page.hdr.ramdisk_size == 5000
    assert start.memory[page.hdr.ramdisk_image] == b"x" * 5000
    assert page.acpi_rsdp_addr == 0
    assert zero_page(boot_linux.start(*boot, MemoryMap(64 * MIB), 0xE0000)).acpi_rsdp_addr == 0xE0000


def test_a_kernel_is_not_told_what_its_decompressor_would_have_done():
    """KASLR_FLAG says that it was moved; setup_data and the heap are a loader's own."""
    page = zero_page(started(handed(linux(bzimage(packed(vmlinux()), loadflags=0x83, setup_data=7)))))
    assert (page.hdr.loadflags, page.hdr.setup_data) == (1, 0)


def test_the_memory_map_has_the_hole_of_the_pc():
    page = zero_page(started(handed(linux())))
    ranges = [(each.address, each.address + each.size, each.type) for each in page.e820_table[: page.e820_entries]]
    low, devices = [(0, 0x9F000, E820_RAM), (0x9F000, 0x100000, E820_RESERVED)], (0xE0000000, 0xE1000000, E820_RESERVED)
    assert ranges == [*low, (0x100000, 64 * MIB, E820_RAM), devices]
    assert [(part.start, part.start + part.size, part.kind) for part in MemoryMap(MIB).parts] == [*low, devices]


@pytest.mark.parametrize(("fields", "size", "gpa"), [
    pytest.param({}, 4096, 64 * MIB - 4096, id="as-high-as-memory"),
    pytest.param({}, 1, 64 * MIB - 4096, id="on-a-page"),
    pytest.param({"initrd_addr_max": 0x2FFFFFF}, 4096, 0x2FFF000, id="as-high-as-the-kernel-allows"),
    pytest.param({"initrd_addr_max": 0x2FFFFFE}, 4096, 0x2FFE000, id="on-a-page-below-that"),
])
def test_the_initrd_is_as_high_as_may_be(fields, size, gpa):
    page = zero_page(started(handed(linux(bzimage(packed(vmlinux()), **fields)), "", b"i" * size)))
    assert page.hdr.ramdisk_image == gpa


@pytest.mark.parametrize(("boot", "memory_mib", "text"), [
    pytest.param(handed(linux(), "", bytes(60 * MIB)), 64, "has 0x3c00000 bytes; between",
                 id="initrd-larger-than-memory"),
    pytest.param(handed(linux(bzimage(packed(vmlinux()), initrd_addr_max=5)), "", b"i"), 64, "has 0x1 bytes; between",
                 id="initrd-nowhere"),
    pytest.param(handed(linux(), "x" * 2048), 64, "has 2048 bytes, the kernel takes 2047", id="line-too-long"),
    pytest.param(handed(linux(bzimage(packed(vmlinux()), cmdline_size=1 << 31)), "x" * 70000), 64, "kernel takes 61439",
                 id="line-longer-than-the-place-for-it"),
    pytest.param(handed(linux(bzimage(packed(vmlinux()), version=0x205)), "x" * 256), 64, "takes 255", id="old-kernel"),
    pytest.param(handed(linux(), "a\0b"), 64, "zero byte", id="zero-byte"),
    pytest.param(handed(linux()), 19, "needs memory up to 0x1400000, the VM has it up to 0x1300000", id="init-size"),
    pytest.param(handed(linux(bzimage(packed(vmlinux()), init_size=0xFFFFFFFF))), 64, "up to 0x100ffffff", id="lying"),
    pytest.param(handed(linux(bzimage(relocatable_kernel=0, code32_start=0x11000))), 64, "a segment at 0x11000, below",
                 id="over-the-loader"),
    pytest.param(handed(image_of("hlt"), "quiet"), 4, "a command line is for kernels of kind", id="line-for-none"),
    pytest.param(handed(image_of("hlt"), "", b"i"), 4, "an initrd is for kernels of kind", id="initrd-for-none"),
])
def test_what_does_not_fit_is_refused(boot, memory_mib, text):
    with pytest.raises(ImageError, match=text):
        started(boot, memory_mib)


def test_the_header_in_the_image_is_not_written_to():
    image = linux()
    before = image.setup
    started(handed(image, "a", b"b"))
    assert image.setup == before
    assert SetupHeader.parse(before).ramdisk_size == 0

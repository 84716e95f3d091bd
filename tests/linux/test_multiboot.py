"""Multiboot kernels of others, as Debian ships them: each comes as far as it can without what it would start next."""

import gzip

from hv.image.load import load
from hv.image.model import BootOptions
from hv.platform import Machine
from tests.linux import debian

SECOND = 2_000_000_000
NO_BIOS = "no-real-mode"            # else Xen asks a BIOS for memory and disks
COM1 = "console=com1 com1=115200,8n1"


def boot(path, command_line=""):
    """(the machine, a VM of 64 MiB with that kernel)"""
    machine = Machine(memory_mib=80)
    return machine, machine.create_vm("kernel", load(path), 64, options=BootOptions(command_line))


def unzipped(package, folder):
    """The kernel of *package*, as a boot loader unpacks it."""
    (packed,) = (debian.unpacked(package) / "boot").glob("*.gz")
    (folder / "kernel").write_bytes(gzip.decompress(packed.read_bytes()))
    return folder / "kernel"


def test_xen_says_that_it_was_given_no_kernel(tmp_path):
    """A hypervisor enters long mode, finds its command line and the serial port, and misses its first module."""
    machine, vm = boot(unzipped("xen-hypervisor-4.17-amd64", tmp_path), f"{NO_BIOS} {COM1} noreboot")
    machine.run(machine.clock.tsc + SECOND)
    assert "Xen version 4." in vm.serial
    assert "Bootloader: hvlab" in vm.serial
    assert "dom0 kernel not specified" in vm.serial
    assert vm.ended == "halt"
    machine.close()


def test_gnu_mach_finds_the_devices_of_the_pc_and_no_server_to_start(tmp_path):
    machine, vm = boot(unzipped("gnumach-image-1.8-486", tmp_path))
    machine.run(machine.clock.tsc + SECOND, paused=lambda: "No bootstrap code" in vm.screen())
    screen = vm.screen()
    assert "biosmem: 000000000000100000:000000000003fff000, available" in screen
    assert "com0: at atbus0, port = 3f8x" in screen
    assert "RTC time is 2024-01-01 00:00:00" in screen
    assert "No bootstrap code loaded" in screen
    machine.close()


def test_grub_invaders_shows_its_first_wave():
    """A game: text screen, and a keyboard that it polls."""
    machine, vm = boot(debian.unpacked("grub-invaders") / "boot/invaders.exec")
    machine.run(machine.clock.tsc + SECOND, paused=lambda: vm.screen().count("-*-") == 40)
    assert vm.screen().count("-*-") == 40
    machine.close()

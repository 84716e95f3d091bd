"""GRUB, as Debian ships it for coreboot: a boot loader that needs no BIOS, with drivers of its own."""

import re

import pytest

from hv.commands.outcome import exit_code
from hv.image.load import load
from hv.platform import Machine
from tests.linux import debian
from tests.linux.console import Console

MODULES = ("serial", "terminal", "normal", "lsmmap", "lspci", "cbls", "date", "halt")
BEGIN = "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\n"
ESCAPES = re.compile(r"\x1b\[\??[\d;]*\w")
PROMPT = "grub> "


@pytest.fixture(scope="module")
def grub(tmp_path_factory):
    """An image with MODULES in it, which begins with BEGIN."""
    folder = tmp_path_factory.mktemp("grub")
    (folder / "begin").write_text(BEGIN)
    modules = debian.unpacked("grub-coreboot-bin") / "usr/lib/grub/i386-coreboot"
    debian.run(debian.unpacked("grub-common") / "usr/bin/grub-mkimage", "-d", modules, "-O", "i386-coreboot", "-p", "",
               "-c", folder / "begin", "-o", folder / "grub.elf", *MODULES)
    return load(folder / "grub.elf")


def test_grub_comes_to_its_prompt_knows_the_machine_and_halts_it(grub):
    """The memory map is that of coreboot's tables, the devices are those of PCI, the time is the clock's; `halt` reads
    in the DSDT how to switch off."""
    machine = Machine(memory_mib=72)
    vm = machine.create_vm("grub", grub, 64, pc=True)
    console = Console(machine, vm)

    def command(line):
        vm.type(line + "\r")
        return ESCAPES.sub("", console.until(PROMPT))

    console.until(PROMPT)
    memory = command("lsmmap")
    assert "base_addr = 0x0, length = 0x9f000, available RAM" in memory
    assert "base_addr = 0x100000, length = 0x3eff000, available RAM" in memory
    assert "00:00.0 1414:29c0 [0600] Host Bridge" in command("lspci")
    assert "tag=0f size=20 serial" in command("lscoreboot")
    assert "2024-01-01 00:00:00 Monday" in command("date")
    console.end("halt\r")
    assert (vm.ended, exit_code([vm])) == ("shutdown", 0)
    machine.close()

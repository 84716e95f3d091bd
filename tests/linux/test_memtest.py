"""memtest86+, as Debian ships it: a program for a bare PC, and one that finds what memory does wrong."""

import pytest

from hv.image.load import load
from hv.platform import Machine
from tests.linux import debian

SECOND = 2_000_000_000


@pytest.mark.timeout(300)
def test_memtest86_completes_a_pass_over_16_mib_without_an_error():
    machine = Machine(memory_mib=40)
    vm = machine.create_vm("memtest", load(debian.unpacked("memtest86+") / "boot/memtest86+x64.bin"), 16)
    for _ in range(300):
        machine.run(machine.clock.tsc + 2 * SECOND)
        if "Status: Pass" in (screen := vm.screen()):
            break
    assert "Memtest86+" in screen
    assert "Pass:  1        Errors: 0" in screen
    machine.close()

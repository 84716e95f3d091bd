"""memtest86+, as Debian ships it: a program for a bare PC, and one that finds what memory does wrong."""

import pytest

from hv.image.load import load
from hv.image.model import BootOptions
from hv.platform import Machine
from tests.linux import debian

SLICE_TICKS = 400_000_000           # 200 ms: what runs behind the end of the pass is in vain
SLICES = 3000
SMALL_MIB, LARGE_MIB = 5, 16        # with `--full-size`; it finds nothing to test in 4 MiB, where it is itself


@pytest.mark.timeout(300)
def test_memtest86_completes_a_pass_without_an_error(full_size):
    """Without its measurement of the memory's speed, which is no part of a pass."""
    memory_mib = LARGE_MIB if full_size else SMALL_MIB
    image = load(debian.unpacked("memtest86+") / "boot/memtest86+x64.bin")
    machine = Machine(memory_mib=memory_mib + 24)
    vm = machine.create_vm("memtest", image, memory_mib, options=BootOptions("nobench"))
    for _ in range(SLICES):
        machine.run(machine.clock.tsc + SLICE_TICKS)
        if "Status: Pass" in (screen := vm.screen()):
            break
    assert "Memtest86+" in screen
    assert f"Memory  :{memory_mib:5}MB" in screen
    assert "Pass:  1        Errors: 0" in screen
    machine.close()

"""What firmware leaves in the MTRRs of a PC, as its processors read it."""

from hv.platform import Machine
from tests.guest_runner import image_of

READ = "; ".join(f"mov ecx, {msr:#x}; rdmsr; mov [{0x20000 + 8 * n:#x}], eax; mov [{0x20004 + 8 * n:#x}], edx"
                 for n, msr in enumerate((0x2FF, 0x250, 0x259, 0x26F, 0x200, 0x201, 0x202)))


def test_ram_is_cached_and_devices_are_not():
    """SDM "Memory Type Range Registers": of overlapping ranges uncached wins."""
    machine = Machine(memory_mib=16)
    try:
        vm = machine.create_vm("pc", image_of(f"{READ}; cli; hlt", 64), memory_mib=4, vps=2, pc=True)
        machine.run(until_tsc=machine.clock.tsc + 1_000_000)
        found = [int.from_bytes(vm.worker.read(0x20000 + 8 * n, 8), "little") for n in range(7)]
        assert found == [0xC06, 0x0606_0606_0606_0606, 0, 0x0505_0505_0505_0505, 0xE000_0000, 0xFF_E000_0800, 0]
        assert vm.partition.vps[1].regs.kept_msrs == vm.partition.vps[0].regs.kept_msrs
    finally:
        machine.close()

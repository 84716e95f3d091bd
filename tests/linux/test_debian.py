"""An unmodified Debian kernel in a child partition: to a shell, its commands, and off again."""

import hashlib

import pytest

from hv.commands.outcome import exit_code
from hv.image import initramfs
from hv.image.load import load
from hv.image.model import BootOptions
from hv.platform import Machine
from tests.linux import debian
from tests.linux.console import PROMPT, Console

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def busybox():
    return (debian.unpacked("busybox-static") / "bin/busybox").read_bytes()


def _see_interrupts_go_through_the_units_table(console, vm):
    """The serial port's is by an entry of it; told to go to the other processor, the kernel changes that entry."""
    table = vm.partition.virtual_iommu.unit.remapper

    def counts():
        (line,) = [line for line in console.command("cat /proc/interrupts").splitlines() if "ttyS0" in line]
        assert "IR-IO-APIC" in line
        return [int(word) for word in line.split()[1:3]]

    assert (table.enabled, table.table.extended) == (True, 1)
    idle, busy = sorted(before := counts())
    assert idle == 0 < busy                     # the kernel chooses the one that has fewer vectors
    other = before.index(idle)
    console.command(f"echo {1 << other} > /proc/irq/4/smp_affinity")
    assert counts()[other] > 0
    assert not [record for record in vm.partition.virtual_iommu.unit.faults.records if record.fault]


@pytest.mark.parametrize(("vps", "viommu"), [(1, False), (2, True)])
def test_a_debian_kernel_boots_to_a_shell_that_works_and_powers_off(vps, viommu, busybox):
    """Everything that an operating system asks of its machine, on the way to this: boot protocol, ACPI, interrupt
    controllers, timers, serial port, Hyper-V's own interface; with two processors INIT, SIPI and IPIs too, and a
    remapping unit that the kernel itself programs, before a network card."""
    image = load(debian.kernel())
    machine = Machine(memory_mib=288)
    options = BootOptions("console=ttyS0 panic=-1 intel_iommu=on", initramfs.busybox(busybox))
    vm = machine.create_vm("debian", image, 256, vps, options=options, devices=["ring"] * viommu, viommu=viommu)
    console = Console(machine, vm)
    console.until(PROMPT)
    assert console.command("uname -a").startswith("Linux (none) 6.")
    processors = console.command("cat /proc/cpuinfo")
    assert processors.count("model name\t: hvlab virtual processor") == vps
    log = console.command("dmesg")
    assert "Hypervisor detected: Microsoft Hyper-V" in log
    assert "clocksource: hyperv_clocksource_tsc_page" in log
    assert f"smpboot: Total of {vps} processors activated" in log
    assert ("DMAR: dmar0: Using Queued invalidation" in log) is viommu
    assert ("DMAR-IR: Enabled IRQ remapping in x2apic mode" in log) is viommu
    assert not [line for line in log.splitlines() if "BUG" in line or "WARNING" in line or "ACPI Error" in line]
    assert "fed00000-fed003ff : HPET 0" in console.command("cat /proc/iomem")
    clocks = "/sys/devices/system/clocksource/clocksource0"
    assert console.command(f"cat {clocks}/available_clocksource").split()[-3:] == [
        "hyperv_clocksource_tsc_page", "hpet", "acpi_pm"]
    assert "tsc" in console.command(f"cat {clocks}/current_clocksource")       # an invariant one, as Hyper-V has it
    assert "Hyper-V clockevent" in console.command("cat /proc/timer_list")
    assert console.command('n=0; while [ $n -lt 500 ]; do n=$((n+1)); done; echo "n is $n"').endswith("n is 500\n")
    assert hashlib.sha256(busybox).hexdigest() in console.command("sha256sum /bin/busybox")
    if viommu:
        _see_interrupts_go_through_the_units_table(console, vm)
    assert "reboot: Power down" in console.end("poweroff -f")
    assert (vm.ended, exit_code([vm])) == ("shutdown", 0)
    machine.close()

"""The PC board: which devices a complete small PC has, at which ports and addresses, on which interrupt lines.

This file is the wiring diagram. Each device is a file of `vdev/`; what it needs of its VM comes as `PcHost`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from hv.root.assignable import AssignedDevice
from hv.root.device_of_vm import DeviceOfVm
from hv.root.firmware.board import Board, RemappingUnit, Scope
from hv.root.interrupt_controllers import InterruptControllers
from hv.root.lines import InterruptLines
from hv.root.motherboard import Motherboard
from hv.root.timers import RootTimers
from hv.root.vdev.acpi_pm import AcpiPm
from hv.root.vdev.assigned_function import AssignedFunction
from hv.root.vdev.diagnostics import DebugExit, PostDisplay
from hv.root.vdev.fw_cfg import FwCfg
from hv.root.vdev.hpet import BLOCK_ID, Hpet
from hv.root.vdev.i8042 import I8042
from hv.root.vdev.i8254 import I8254
from hv.root.vdev.pci_host import SELECT, PciHost
from hv.root.vdev.reset_control import ResetControl
from hv.root.vdev.rtc import Rtc
from hv.root.vdev.system_control import SystemControlA, SystemControlB
from hv.root.vdev.uart16550 import Uart16550
from hv.root.winhv import WinHv
from hv.spec.acpi import ScopeType
from hv.spec.hpet import WINDOW_SIZE as HPET_SIZE
from hv.spec.hv_registers import HvRegisterName
from hv.spec.pc import (
    ACPI_CONTROL,
    ACPI_EVENT,
    ACPI_TIMER,
    CMOS,
    COM1_PORTS,
    DEBUG_EXIT,
    ECAM_BUSES,
    ECAM_GPA,
    FW_CFG,
    HPET_GPA,
    IO_APIC_ID,
    IO_APIC_RID,
    KEYBOARD_COMMAND,
    KEYBOARD_DATA,
    PCI_DATA,
    PIT,
    POST_PORT,
    RESET_CONTROL,
    SYSTEM_CONTROL_A,
    SYSTEM_CONTROL_B,
    VIRTUAL_IOMMU_GPA,
    Irq,
)
from hv.spec.vtd import GUEST_ADDRESS_WIDTH

IOMMU = RemappingUnit(VIRTUAL_IOMMU_GPA, GUEST_ADDRESS_WIDTH, remaps_interrupts=True, includes_all=True,
                      scopes=(Scope(ScopeType.IO_APIC, IO_APIC_RID, IO_APIC_ID),))
FIRST_ASSIGNED = 0x10                   # 00:02.0: what is assigned to the VM, a device number for each


class PcHost(NamedTuple):
    """What the worker does for the devices of its VM, which is *partition_id*."""

    winhv: WinHv
    partition_id: int
    vp_count: int
    memory_bytes: int
    timers: RootTimers
    send: Callable[[int], None]         # a byte has left COM1
    end: Callable[[str], None]          # the VM is over behind this instruction: "shutdown"
    restart: Callable[[], None]         # it begins again, behind this instruction
    leave: Callable[[int], None]        # it is over, with a value for who started it
    show_post_code: Callable[[int], None]


class Pc(Motherboard):
    """The board of one VM with a PC."""

    def __init__(self, host: PcHost) -> None:
        super().__init__()
        self.host, self.lines = host, InterruptLines()
        self.has_iommu = False
        self.interrupts = InterruptControllers(self, self.lines, host.winhv, host.partition_id)
        self._add_clocks()
        self.add("com1", COM1_PORTS, Uart16550(COM1_PORTS.start, host.send, self.lines.line(Irq.COM1), host.timers))
        self._add_power()
        self.keyboard = I8042(self.lines.line(Irq.KEYBOARD), host.restart)
        for port in (KEYBOARD_DATA, KEYBOARD_COMMAND):
            self.add("keyboard", range(port, port + 1), self.keyboard)
        self.fw_cfg = FwCfg()
        self.add("fw_cfg", FW_CFG, self.fw_cfg)
        self._add_pci()

    def _add_clocks(self) -> None:
        host = self.host
        hpet = Hpet(self.lines, host.timers)
        self.add_memory("hpet", range(HPET_GPA, HPET_GPA + HPET_SIZE), hpet)
        pit = I8254(hpet.legacy_line(Irq.TIMER), host.timers)
        self.add("pit", PIT, pit)
        self.add("system-control-b", range(SYSTEM_CONTROL_B, SYSTEM_CONTROL_B + 1), SystemControlB(pit, host.timers))
        self.add("rtc", CMOS, Rtc(hpet.legacy_line(Irq.RTC), host.timers, host.memory_bytes, host.vp_count))

    def _add_pci(self) -> None:
        self.pci = PciHost()
        self.add("pci", SELECT, self.pci)
        self.add("pci", PCI_DATA, self.pci)
        self.add_memory("pci", range(ECAM_GPA, ECAM_GPA + (ECAM_BUSES << 20)), self.pci)

    def add_iommu(self) -> None:
        """The hypervisor has given the guest a remapping unit of its own."""
        self.has_iommu = self.interrupts.messages.is_remapped = True

    def assign(self, device: AssignedDevice, number: int) -> None:
        """The machine's *device* is on the VM's PCI bus, as the VM's assigned device *number*."""
        host = self.host
        of_vm = DeviceOfVm(host.winhv, host.partition_id, host.vp_count, self, device, self.has_iommu)
        self.pci.plug(FIRST_ASSIGNED + 8 * number, AssignedFunction(of_vm))

    @property
    def board(self) -> Board:
        """What firmware describes of it."""
        host = self.host
        ((signature, _, _, features),) = host.winhv.get_vp_cpuid_values(host.partition_id, 0, [(1, 0)])
        return Board(host.vp_count, signature, features, has_pci="pci" in self.devices,
                     has_keyboard="keyboard" in self.devices,
                     hpet_block_id=BLOCK_ID, iommu=IOMMU if self.has_iommu else None)

    def end_of_interrupt(self, vector: int) -> None:
        """A processor has ended a level-triggered interrupt."""
        self.interrupts.end_of_interrupt(vector)

    def interruptible(self, vp_index: int) -> Mapping[HvRegisterName, int]:
        """The VP stands where it would take an interrupt: registers to set before it goes on."""
        return self.interrupts.interruptible(vp_index)

    def _add_power(self) -> None:
        """What ends the machine, or begins it again."""
        host = self.host
        acpi = AcpiPm(self.lines.line(Irq.ACPI), host.timers, lambda: host.end("shutdown"))
        for ports in (ACPI_EVENT, ACPI_CONTROL, ACPI_TIMER):
            self.add("acpi", ports, acpi)
        self.add("system-control-a", range(SYSTEM_CONTROL_A, SYSTEM_CONTROL_A + 1), SystemControlA(host.restart))
        self.add("reset-control", range(RESET_CONTROL, RESET_CONTROL + 1), ResetControl(host.restart))
        self.add("debug-exit", DEBUG_EXIT, DebugExit(host.leave))
        self.add("post", range(POST_PORT, POST_PORT + 1), PostDisplay(host.show_post_code))

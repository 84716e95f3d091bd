"""A function of the machine on the PCI bus of a VM: its registers are the device's own, its configuration space is not.

The guest reaches the device's registers directly, at the place it has given to the virtual BAR. What could reach beyond
its VM is root's: the real BARs stay where they are, and the messages of interrupts are not the guest's but stand for
what it wrote. So the guest can name vectors of its own processors, and nothing else.

| in configuration space | the guest reads | the guest's writes |
|---|---|---|
| identity, class | the device's | |
| command | its own | bus master and INTx disable go to the device |
| status | its own, and the device's master abort | clear the device's |
| BARs | its own | move the device's registers in its memory |
| power management | its own | the state goes to the device |
| MSI, MSI-X | its own, pending bits the device's | become routes, by the hypervisor |
| PCI Express | a root complex integrated endpoint | a function-level reset is done |
| everything else | zeroes | |
"""

# Simplified: of MSI one message is shown, for more would need neighbouring entries of the interrupt-remapping table;
# MSI-X has all of them. I/O BARs and ROMs are not shown.

from __future__ import annotations

from typing import Any, Protocol

from hv.pci.bars import FIRST_BAR, Bar, declare_bars
from hv.pci.config import ConfigSpace, reaches
from hv.pci.msi import Message, Msi
from hv.pci.msix import Msix
from hv.spec.pci import (
    BAR_COUNT,
    CAPABILITY_PCI_EXPRESS,
    CAPABILITY_POWER,
    EXPRESS_VERSION,
    INTEGRATED_ENDPOINT,
    ExpressDeviceCapabilities,
    ExpressDeviceControl,
    MsiCapability,
    PciCommand,
    PciExpressCapability,
    PciHeader,
    PciStatus,
    PowerCapability,
    PowerControl,
)
from hv.spec.x86 import PAGE_SIZE

_STATUS = PciHeader.offset_of("status")
_ABORTED = PciStatus(master_abort=1).raw
_PASSED = PciCommand(bus_master=1, intx_disabled=1).raw
_COPIED = ("vendor_id", "device_id", "revision", "programming_interface", "subclass", "base_class",
           "subsystem_vendor_id", "subsystem_id")


class Device(Protocol):
    """The function of the machine behind it, and what the hypervisor does for it: `hv/root/device_of_vm.py`."""

    bars: tuple[Bar, ...]               # of memory; the one that has the MSI-X table is among them
    messages: int                       # entries of that table
    msix_bar: int                       # which one that is

    def header(self) -> PciHeader:
        """The device's."""
        raise NotImplementedError

    def command(self, raw: int) -> None:
        """These bits of the command register are the guest's."""

    def clear_status(self, raw: int) -> None:
        """Write ones into the status register."""

    def power(self, state: int) -> None:
        """Go to a power state."""

    def reset(self) -> None:
        """A function-level reset."""

    def show(self, bar: Bar, gpas: range | None) -> None:
        """The BAR's pages stand at *gpas* of the VM, or nowhere."""

    def trap(self, gpas: range | None, function: AssignedFunction) -> None:
        """Accesses to *gpas* come to *function*."""

    def pending(self) -> int:
        """The device's pending bits, of MSI-X."""
        raise NotImplementedError

    def pending_msi(self) -> int:
        """Likewise of MSI."""
        raise NotImplementedError

    def use_msix(self, enabled: bool, entries: list[tuple[Message, bool]]) -> None:
        """The guest has these entries, as (message, masked)."""

    def use_msi(self, enabled: bool, message: Message, masked: bool) -> None:
        """The guest has this message."""


class AssignedFunction:
    """What the guest sees of *device*."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.bars = tuple(Bar(bar.number, max(bar.size, PAGE_SIZE), bar.kind) for bar in device.bars)
        self.config = self._declare_header()
        self._power = self.config.add_capability(
            PowerCapability(capability_id=CAPABILITY_POWER, capabilities=3, control=PowerControl(no_soft_reset=1).raw),
            PowerCapability(control=PowerControl(state=3).raw))
        self.msi = Msi(self.config)
        self.msix = Msix(self.config, device.messages, device.msix_bar, device.pending)
        self._express = self.config.add_capability(
            PciExpressCapability(
                capability_id=CAPABILITY_PCI_EXPRESS, flags=EXPRESS_VERSION | INTEGRATED_ENDPOINT << 4,
                device_capabilities=ExpressDeviceCapabilities(role_based_errors=1, function_reset=1).raw),
            PciExpressCapability(device_control=ExpressDeviceControl(function_reset=1).raw))
        device.command(0)

    def _declare_header(self) -> ConfigSpace:
        real = self.device.header()
        header = PciHeader(**{name: getattr(real, name) for name in _COPIED})
        writable = PciHeader(command=PciCommand(memory_enabled=1, bus_master=1, intx_disabled=1).raw)
        declare_bars(header, writable, self.bars)
        return ConfigSpace(header, writable)

    # --- configuration space ---------------------------------------------------------------------------

    def config_read(self, offset: int, size: int) -> int:
        """The guest's, with what only the device knows."""
        if reaches(offset, size, _STATUS, 2):
            own = self.config.field(PciHeader, "status") & ~_ABORTED
            self.config.set_field(PciHeader, "status", own | self.device.header().status & _ABORTED)
        elif reaches(offset, size, self.msi.offset, MsiCapability.SIZE):
            self.config.set_field(MsiCapability, "pending", self.device.pending_msi(), self.msi.offset)
        return self.config.read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Change the guest's, and let the device have its part of it."""
        if not self.config.write(offset, size, value):
            return
        if offset < FIRST_BAR:
            self.device.command(self.config.field(PciHeader, "command") & _PASSED)
            if offset <= _STATUS + 1 < offset + size:
                self.device.clear_status(value >> 8 * (_STATUS + 1 - offset) << 8 & _ABORTED)
        elif reaches(offset, size, self._power, PowerCapability.SIZE):
            self.device.power(self.config.field(PowerCapability, "control", self._power) & 3)
            self._route()               # what was changed while the device could not be reached
        elif reaches(offset, size, self._express, PciExpressCapability.SIZE):
            self._reset_if_asked()
        elif offset >= FIRST_BAR + 4 * BAR_COUNT:
            self._route()

    def _reset_if_asked(self) -> None:
        control = self.config.field(PciExpressCapability, "device_control", self._express)
        if ExpressDeviceControl(control).function_reset:
            self.reset()

    def reset(self) -> None:
        """A function-level reset: of the device, and of what the guest sees of it. The bus then sees to the BARs."""
        self.config.reset()
        self.msix.reset()
        self._route()
        self.device.reset()
        self.device.command(0)

    # --- BARs ------------------------------------------------------------------------------------------

    def place(self, bar: Bar, gpas: range | None) -> None:
        """The guest has moved a BAR: the device's pages go there; the MSI-X table is root's, and stays trapped."""
        if bar.number == self.msix.bar:
            self.device.trap(gpas, self)
        else:
            self.device.show(bar, gpas)

    def read_memory(self, offset: int, size: int) -> int:
        """The BAR of the MSI-X table."""
        return self.msix.read(offset, size)

    def write_memory(self, offset: int, size: int, value: int) -> None:
        """Likewise."""
        if self.msix.write(offset, size, value) is not None:
            self._route()

    # --- interrupts ------------------------------------------------------------------------------------

    def _route(self) -> None:
        """Let the device's interrupts be what the guest says they are. MSI-X goes before MSI."""
        entries = [(self.msix.table.message(number), self.msix.is_masked(number))
                   for number in range(self.device.messages)]
        self.device.use_msix(self.msix.enabled, entries)
        state = self.msi.state
        self.device.use_msi(self.msi.enabled and not self.msix.enabled, Message(
            state.address_high << 32 | state.address_low, state.data), bool(state.mask & 1))

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"header": self.config.header.inspect(), "msi": self.msi.state.inspect(), "msix": self.msix.inspect()}

"""The machine's assignable devices, as root knows them: found on its PCI bus, reset, and given to VMs.

Root owns the bus: configuration space, and the pages of BARs that no VM may have. Which function it is, what it can do
and where its registers are it finds out as any operating system does. PCI "Configuration Space".
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from hv.pci import enumeration
from hv.pci.bars import Bar
from hv.pci.enumeration import ConfigAccess
from hv.spec.pci import (
    CAPABILITY_MSI,
    CAPABILITY_PCI_EXPRESS,
    OUR_VENDOR,
    DeviceId,
    ExpressDeviceControl,
    MsiCapability,
    MsiControl,
    PciCommand,
    PciExpressCapability,
    PciHeader,
    Rid,
)
from hv.spec.x86 import PAGE_SIZE

KINDS = {"dma": DeviceId.DMA_ENGINE, "ring": DeviceId.NETWORK_CARD}     # what users call them
_COMMAND, _DEVICE_ID = PciHeader.offset_of("command"), PciHeader.offset_of("device_id")
_RESET = ExpressDeviceControl(function_reset=1).raw
_ON = PciCommand(memory_enabled=1, bus_master=1).raw


class MemoryAccess(Protocol):
    """The way to the machine's memory-mapped registers, by system-physical address."""

    def read(self, spa: int, size: int) -> int:
        """A load of *size* bytes."""
        raise NotImplementedError

    def write(self, spa: int, size: int, value: int) -> None:
        """A store."""


class PhysicalPci(NamedTuple):
    """The machine's bus."""

    config: ConfigAccess
    memory: MemoryAccess

    def functions(self, kind: str) -> list[int]:
        """The requester ids of the functions of a *kind* (KINDS), in order."""
        wanted = OUR_VENDOR | KINDS[kind] << 16
        return [rid for rid in enumeration.functions(self.config) if self.config.config_read(rid, 0, 4) == wanted]


class AssignedDevice:
    """The function *source_id* of the machine, on its way to a VM: as after power on, its BARs where they were."""

    def __init__(self, pci: PhysicalPci, source_id: int) -> None:
        self.pci, self.source_id = pci, source_id
        self.kind = DeviceId(self.config_read(_DEVICE_ID, 2))
        self.capabilities = enumeration.capabilities(pci.config, source_id)
        self.bars: dict[Bar, int] = {bar: enumeration.bar_address(pci.config, source_id, bar)
                                     for bar in enumeration.bars(pci.config, source_id)}
        self.reset()

    @property
    def bar_page(self) -> int:
        """The page of the device's registers: its first BAR."""
        return next(iter(self.bars.values())) // PAGE_SIZE

    @property
    def has_own_message(self) -> bool:
        """Its registers have a place for the message of its interrupt; others have the MSI capability for that."""
        return self.kind is DeviceId.DMA_ENGINE

    def config_read(self, offset: int, size: int) -> int:
        """Configuration space."""
        return self.pci.config.config_read(self.source_id, offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Likewise."""
        self.pci.config.config_write(self.source_id, offset, size, value)

    def reset(self) -> None:
        """A function-level reset, so that nobody finds what the last one left; then its BARs and its command again."""
        self.config_write(self.capabilities[CAPABILITY_PCI_EXPRESS] + PciExpressCapability.offset_of("device_control"),
                          2, _RESET)
        for bar, address in self.bars.items():
            enumeration.set_bar(self.pci.config, self.source_id, bar, address)
        self.config_write(_COMMAND, 2, _ON)

    def interrupt_by(self, message: tuple[int, int]) -> None:
        """Let it send *message*, its address and data, by MSI."""
        address, data = message
        at = self.capabilities[CAPABILITY_MSI]
        for name, size, value in (("address_low", 4, address & 0xFFFF_FFFF), ("address_high", 4, address >> 32),
                                  ("data", 2, data), ("control", 2, MsiControl(enabled=1).raw)):
            self.config_write(at + MsiCapability.offset_of(name), size, value)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"source_id": str(Rid(self.source_id)), "kind": self.kind.name, "bars": {
            bar.number: address for bar, address in self.bars.items()}}

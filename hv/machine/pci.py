"""A PCI function: configuration space, BARs, its interrupts, and the one way by which it reaches memory.

Whatever a device does on its own (DMA and MSIs, which are memory writes too) goes to its `upstream`, the IOMMU, under
its requester id, and only while the bus-master bit is set. The rules of configuration space are `hv/pci/`'s.
PCI "Configuration Space", "Device Control"; PCI Express "Function Level Reset".
"""

# Simplified: no INTx (interrupt pin 0), no ROM; a function-level reset is done when its write returns.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from hv.pci.bars import FIRST_BAR, Bar, declare_bars, decoded
from hv.pci.config import ConfigSpace, all_ones, reaches
from hv.pci.msi import Msi
from hv.pci.msix import MSIX_BAR_SIZE, Msix
from hv.spec.pci import (
    BAR_COUNT,
    CAPABILITY_PCI_EXPRESS,
    CAPABILITY_POWER,
    EXPRESS_VERSION,
    INTEGRATED_ENDPOINT,
    OUR_VENDOR,
    BarKind,
    ExpressDeviceCapabilities,
    ExpressDeviceControl,
    MsiCapability,
    PciCommand,
    PciExpressCapability,
    PciHeader,
    PciStatus,
    PowerCapability,
    PowerControl,
    Rid,
)

_COMMAND, _BUS_MASTER, _MASTER_ABORT = PciHeader.offset_of("command"), 4, PciStatus(master_abort=1).raw
_D0 = 0
_POWER_CONTROL = PowerCapability.offset_of("control")
_EXPRESS_CONTROL = PciExpressCapability.offset_of("device_control")


class DmaPort(Protocol):
    """Where a function's requests go. A request that is refused aborts; the device goes on."""

    def dma_read(self, source_id: int, iova: int, size: int) -> bytes | None:
        """*size* bytes, or None when the read was aborted."""

    def dma_write(self, source_id: int, iova: int, data: bytes) -> bool:
        """True when *data* was stored, False (and nothing stored) when the write was aborted."""
        raise NotImplementedError

    def message(self, source_id: int, address: int, data: int) -> None:
        """A posted write of the dword *data*, meant as an interrupt."""


class PciFunction:
    """A function with requester id *rid* whose requests go to *upstream*.

    A device gives the class variables, and overrides `read_register`, `write_register` and `reset_device`.
    """

    VENDOR_ID: ClassVar[int] = OUR_VENDOR
    DEVICE_ID: ClassVar[int] = 0xFFFF
    CLASS_CODE: ClassVar[tuple[int, int, int]] = (0xFF, 0x00, 0x00)    # base class, subclass, programming interface
    BARS: ClassVar[tuple[Bar, ...]] = (Bar(0, 4096),)                  # the device's; its registers are the first
    MESSAGES: ClassVar[int] = 1                                        # interrupts, a power of two
    MSIX_BAR: ClassVar[int] = 4

    def __init__(self, rid: int, upstream: DmaPort) -> None:
        self.rid, self.upstream = rid, upstream
        self.on_decode: Callable[[], None] = lambda: None              # the bus: a BAR may answer elsewhere now
        self.bars = (*self.BARS, Bar(self.MSIX_BAR, MSIX_BAR_SIZE))
        self.config = self._declare_header()
        self._power = self.config.add_capability(
            PowerCapability(capability_id=CAPABILITY_POWER, capabilities=3,
                            control=PowerControl(no_soft_reset=1).raw),
            PowerCapability(control=PowerControl(state=3).raw))
        self.msi = Msi(self.config, (self.MESSAGES - 1).bit_length())
        self.msix = Msix(self.config, self.MESSAGES, self.MSIX_BAR)
        self._express = self.config.add_capability(
            PciExpressCapability(
                capability_id=CAPABILITY_PCI_EXPRESS, flags=EXPRESS_VERSION | INTEGRATED_ENDPOINT << 4,
                device_capabilities=ExpressDeviceCapabilities(role_based_errors=1, function_reset=1).raw),
            PciExpressCapability(device_control=ExpressDeviceControl(function_reset=1).raw))

    def _declare_header(self) -> ConfigSpace:
        base_class, subclass, interface = self.CLASS_CODE
        header = PciHeader(
            vendor_id=self.VENDOR_ID, device_id=self.DEVICE_ID, base_class=base_class, subclass=subclass,
            programming_interface=interface, subsystem_vendor_id=self.VENDOR_ID, subsystem_id=self.DEVICE_ID)
        command = PciCommand(memory_enabled=1, bus_master=1, intx_disabled=1,
                             io_enabled=int(any(bar.is_io for bar in self.bars)))
        writable = PciHeader(command=command.raw)
        declare_bars(header, writable, self.bars)
        return ConfigSpace(header, writable)

    # Configuration space.

    def config_read(self, offset: int, size: int) -> int:
        """*size* bytes (1, 2, 4, aligned) of configuration space; all ones for any other access."""
        return self.config.read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Change what software may change there, and do what follows from it; any other access is ignored."""
        if not self.config.write(offset, size, value):
            return
        if reaches(offset, size, self._express + _EXPRESS_CONTROL, 2):
            self._reset_if_asked()
        if reaches(offset, size, _COMMAND, 1) or reaches(offset, size, FIRST_BAR, 4 * BAR_COUNT) \
                or reaches(offset, size, self._power + _POWER_CONTROL, 2):
            self.on_decode()
        if offset >= self.msi.offset:
            self._send_released()

    def _reset_if_asked(self) -> None:
        """PCI Express "Function Level Reset": everything is as after power on, and nothing is under way any more."""
        control = self.config.field(PciExpressCapability, "device_control", self._express)
        if ExpressDeviceControl(control).function_reset:
            self.config.reset()
            self.msix.reset()
            self.reset_device()
            self.on_decode()

    @property
    def header(self) -> PciHeader:
        """The header as it stands."""
        return self.config.header

    @property
    def _is_awake(self) -> bool:
        """In D0: only then it answers at its BARs and sends."""
        return self.config.data[self._power + _POWER_CONTROL] & 3 == _D0

    @property
    def is_bus_master(self) -> bool:
        """May the function send requests?"""
        return bool(self.config.data[_COMMAND] & _BUS_MASTER) and self._is_awake

    def decoded(self, bar: Bar) -> int | None:
        """Where a BAR of this function answers, or None while it does not."""
        return decoded(self.config, bar) if self._is_awake else None

    @property
    def bar(self) -> int | None:
        """Where the device's registers answer, or None while they do not."""
        return self.decoded(self.bars[0])

    # What is behind the BARs.

    def read(self, offset: int, size: int, index: int = 0) -> int:
        """*size* bytes at *offset* of BAR *index*; all ones while it does not answer, or outside."""
        bar = self._at(offset, size, index)
        if bar is None:
            return all_ones(size)
        return self.msix.read(offset, size) if index == self.MSIX_BAR else self.read_register(offset, size)

    def write(self, offset: int, size: int, value: int, index: int = 0) -> None:
        """Store the low *size* bytes of *value*; ignored while the BAR does not answer, or outside."""
        bar = self._at(offset, size, index)
        if bar is None:
            return
        if index != self.MSIX_BAR:
            self.write_register(offset, size, value & all_ones(size))
        elif self.msix.write(offset, size, value) is not None:
            self._send_released()

    def _at(self, offset: int, size: int, index: int) -> Bar | None:
        bar = next((bar for bar in self.bars if bar.number == index), None)
        if bar is None or self.decoded(bar) is None or not (size > 0 and 0 <= offset <= bar.size - size):
            return None
        return bar

    def read_register(self, offset: int, size: int) -> int:
        """The device's own part of `read`."""
        return all_ones(size)

    def write_register(self, offset: int, size: int, value: int) -> None:
        """The device's own part of `write`."""

    def reset_device(self) -> None:
        """The device's own part of a function-level reset: what it was doing is forgotten."""

    # What the device sends.

    def dma_read(self, iova: int, size: int) -> bytes | None:
        """Read memory as this function; None when it is no bus master or the request was aborted."""
        if not self.is_bus_master:
            return None
        data = self.upstream.dma_read(self.rid, iova, size)
        if data is None:
            self._note_abort()
        return data

    def dma_write(self, iova: int, data: bytes) -> bool:
        """Write memory as this function; False when it is no bus master or the request was aborted."""
        if not self.is_bus_master:
            return False
        stored = self.upstream.dma_write(self.rid, iova, data)
        if not stored:
            self._note_abort()
        return stored

    def _note_abort(self) -> None:
        """# Simplified: writes are posted, and silicon hears of none that is refused; this status tells of both."""
        status = self.config.field(PciHeader, "status")
        self.config.set_field(PciHeader, "status", status | _MASTER_ABORT)

    def send_message(self, address: int, data: int) -> None:
        """Send a message signalled interrupt; lost when the function is no bus master."""
        if self.is_bus_master:
            self.upstream.message(self.rid, address, data & 0xFFFFFFFF)

    def interrupt(self, number: int = 0) -> bool:
        """Interrupt *number*, by MSI-X or else by MSI; a masked one waits. False while software has enabled neither."""
        way = self.msix if self.msix.enabled else self.msi
        if not way.enabled:
            return False
        message = way.fire(number)
        if message is not None:
            self.send_message(*message)
        return True

    def _send_released(self) -> None:
        """A mask went: what waited behind it is sent."""
        way = self.msix if self.msix.enabled else self.msi
        for message in way.released():
            self.send_message(*message)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"rid": str(Rid(self.rid)), "header": self.header.inspect(),
                "bars": {bar.number: self.decoded(bar) for bar in self.bars},
                "msi": MsiCapability.inspect(self.msi.state), "msix": self.msix.inspect()}


__all__ = ["Bar", "BarKind", "DmaPort", "PciFunction", "all_ones"]

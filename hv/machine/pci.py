"""A PCI function: configuration space, one memory BAR, MSI, and the one way by which it reaches memory.

Whatever a device does on its own (DMA and MSIs, which are memory writes too) goes to its `upstream`, the IOMMU, under
its requester id, and only while the bus-master bit is set. PCI "Configuration Space", "MSI Capability Structure".
"""

# Simplified: one 32-bit memory BAR, no INTx, no power management; a configuration access is 1, 2 or 4 aligned bytes.

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from hv.spec.pci import (
    CAPABILITY_MSI,
    CONFIG_SIZE,
    MsiCapability,
    MsiControl,
    PciCommand,
    PciHeader,
    PciStatus,
    Rid,
)

CAPABILITY_OFFSET = 0x40


class DmaPort(Protocol):
    """Where a function's requests go. A request that is refused aborts; the device goes on."""

    def dma_read(self, source_id: int, iova: int, size: int) -> bytes | None:
        """*size* bytes, or None when the read was aborted."""

    def dma_write(self, source_id: int, iova: int, data: bytes) -> bool:
        """True when *data* was stored, False (and nothing stored) when the write was aborted."""
        raise NotImplementedError

    def message(self, source_id: int, address: int, data: int) -> None:
        """A posted write of the dword *data*, meant as an interrupt."""


def all_ones(size: int) -> int:
    """What a read of *size* bytes gives when nobody answers."""
    return (1 << 8 * size) - 1


class PciFunction:
    """A function with requester id *rid* whose requests go to *upstream*.

    A device gives the class variables, and overrides `read_register` and `write_register`.
    """

    VENDOR_ID: ClassVar[int] = 0x1414
    DEVICE_ID: ClassVar[int] = 0xFFFF
    CLASS_CODE: ClassVar[tuple[int, int, int]] = (0xFF, 0x00, 0x00)    # base class, subclass, programming interface
    BAR_SIZE: ClassVar[int] = 4096                                     # bytes, a power of two, at least 16

    def __init__(self, rid: int, upstream: DmaPort) -> None:
        self.rid, self.upstream = rid, upstream
        self._config = bytearray(CONFIG_SIZE)
        self._writable = bytearray(CONFIG_SIZE)                         # mask of the bits software may change
        self._declare_header()
        self._declare_msi()

    def _declare_header(self) -> None:
        base_class, subclass, interface = self.CLASS_CODE
        header = PciHeader(
            vendor_id=self.VENDOR_ID, device_id=self.DEVICE_ID, base_class=base_class, subclass=subclass,
            programming_interface=interface, capabilities=CAPABILITY_OFFSET,
            status=PciStatus(has_capabilities=1).raw)
        writable = PciHeader(
            command=PciCommand(memory_enabled=1, bus_master=1, intx_disabled=1).raw,
            bar0=0xFFFFFFFF & ~(self.BAR_SIZE - 1), cache_line_size=0xFF, interrupt_line=0xFF)
        self._config[: PciHeader.SIZE] = header.pack()
        self._writable[: PciHeader.SIZE] = writable.pack()

    def _declare_msi(self) -> None:
        capability = MsiCapability(capability_id=CAPABILITY_MSI, control=MsiControl(is_64_bit=1).raw)
        writable = MsiCapability(control=MsiControl(enabled=1).raw, address_low=0xFFFFFFFC,
                                 address_high=0xFFFFFFFF, data=0xFFFF)
        end = CAPABILITY_OFFSET + MsiCapability.SIZE
        self._config[CAPABILITY_OFFSET:end] = capability.pack()
        self._writable[CAPABILITY_OFFSET:end] = writable.pack()

    # Configuration space.

    def config_read(self, offset: int, size: int) -> int:
        """*size* bytes (1, 2, 4, aligned) of configuration space; all ones for any other access."""
        if not _is_config_access(offset, size):
            return all_ones(max(size, 0))
        return int.from_bytes(self._config[offset : offset + size], "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Change what software may change there; any other access is ignored.

        All ones written to BAR 0 read back as its size: PCI "Base Addresses".
        """
        if not _is_config_access(offset, size):
            return
        mask = int.from_bytes(self._writable[offset : offset + size], "little")
        merged = self.config_read(offset, size) & ~mask | value & mask
        self._config[offset : offset + size] = merged.to_bytes(size, "little")

    @property
    def header(self) -> PciHeader:
        """The header as it stands."""
        return PciHeader.parse(self._config)

    @property
    def msi(self) -> MsiCapability:
        """The MSI capability as it stands."""
        return MsiCapability.parse(self._config, CAPABILITY_OFFSET)

    @property
    def is_bus_master(self) -> bool:
        """May the function send requests?"""
        return bool(PciCommand(self.header.command).bus_master)

    @property
    def bar(self) -> int | None:
        """Where BAR 0 answers, or None while memory accesses are disabled."""
        header = self.header
        return header.bar0 if PciCommand(header.command).memory_enabled else None

    # The registers behind BAR 0.

    def read(self, offset: int, size: int) -> int:
        """*size* bytes at *offset* of the BAR; all ones while memory accesses are disabled, or outside."""
        if not self._is_decoded(offset, size):
            return all_ones(max(size, 0))
        return self.read_register(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store the low *size* bytes of *value*; ignored while memory accesses are disabled, or outside."""
        if self._is_decoded(offset, size):
            self.write_register(offset, size, value & all_ones(size))

    def _is_decoded(self, offset: int, size: int) -> bool:
        return self.bar is not None and size > 0 and 0 <= offset <= self.BAR_SIZE - size

    def read_register(self, offset: int, size: int) -> int:
        """The device's own part of `read`."""
        return all_ones(size)

    def write_register(self, offset: int, size: int, value: int) -> None:
        """The device's own part of `write`."""

    # What the device sends.

    def dma_read(self, iova: int, size: int) -> bytes | None:
        """Read memory as this function; None when it is no bus master or the request was aborted."""
        return self.upstream.dma_read(self.rid, iova, size) if self.is_bus_master else None

    def dma_write(self, iova: int, data: bytes) -> bool:
        """Write memory as this function; False when it is no bus master or the request was aborted."""
        return self.is_bus_master and self.upstream.dma_write(self.rid, iova, data)

    def send_message(self, address: int, data: int) -> None:
        """Send a message signalled interrupt; lost when the function is no bus master."""
        if self.is_bus_master:
            self.upstream.message(self.rid, address, data & 0xFFFFFFFF)

    def send_msi(self) -> bool:
        """Send what the MSI capability says; False while it is disabled."""
        msi = self.msi
        if not MsiControl(msi.control).enabled:
            return False
        self.send_message(msi.address_high << 32 | msi.address_low, msi.data)
        return True

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"rid": str(Rid(self.rid)), "header": self.header.inspect(), "msi": self.msi.inspect(), "bar": self.bar}


def _is_config_access(offset: int, size: int) -> bool:
    return size in (1, 2, 4) and offset % size == 0 and 0 <= offset <= CONFIG_SIZE - size

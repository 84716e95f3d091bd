"""A function of the machine in the hands of a VM with a PC board: what root does to it, and asks of the hypervisor.

The registers of the device are mapped into the VM where its guest wants them; each message that the guest has written
becomes a route (HvCallMapDeviceInterrupt, HvCallRetargetDeviceInterrupt), and the device gets the route's message. What
is no interrupt of one of the VM's own processors becomes none, and the device's entry stays masked.

Where the VM has a remapping unit of its own, the hypervisor looks the guest's message up in the guest's table whenever
the device sends what stands for it, so the route is told the message and nothing else.
"""

# Simplified: without such a unit, of lowest priority the first of the processors named takes the interrupt; logical
# destinations of xAPIC are those of the flat model, and they are looked up when the guest writes the message.

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from hv.pci.bars import Bar
from hv.pci.msi import Message
from hv.root.assignable import AssignedDevice
from hv.root.motherboard import Motherboard
from hv.root.vdev.assigned_function import AssignedFunction
from hv.root.winhv import HvError, OutOfPages, WinHv
from hv.spec.apic import (
    BROADCAST_XAPIC,
    LOWEST_LEGAL_VECTOR,
    MSI_WINDOW,
    ApicBase,
    DeliveryMode,
    MsiAddress,
    MsiData,
)
from hv.spec.hv_registers import HvRegisterName
from hv.spec.pci import (
    CAPABILITY_MSI,
    CAPABILITY_MSIX,
    CAPABILITY_POWER,
    MsiCapability,
    MsiControl,
    MsixCapability,
    MsixControl,
    MsixEntry,
    PciCommand,
    PciHeader,
    PowerCapability,
    Rid,
)
from hv.spec.x86 import PAGE_SIZE

_MSI = -1                               # among the routes: that of the MSI capability
_MASKED = 1
_FIXED = (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY)
_PENDING_OFFSET_MASK, _BAR_MASK = ~7, 7


class Target(NamedTuple):
    """What a message asks for: *vector* of each of the processors in *vp_mask*, or of one of them."""

    vector: int
    vp_mask: int
    multicast: bool


class _Route(NamedTuple):
    asked: Message                      # by the guest
    message: tuple[int, int]            # what the device sends instead


class DeviceOfVm:
    """*device*, assigned to *partition_id* with VPs 0..*vp_count*-1; its trapped BAR is on *board*. *is_remapped*: it
    is behind a remapping unit of the VM's own."""

    def __init__(self, winhv: WinHv, partition_id: int, vp_count: int, board: Motherboard,
                 device: AssignedDevice, is_remapped: bool = False) -> None:
        self._winhv, self._partition_id, self._vp_count, self._board = winhv, partition_id, vp_count, board
        self._is_remapped = is_remapped
        self.device = device
        self.bars = tuple(bar for bar in device.bars if not bar.is_io)
        at = device.capabilities[CAPABILITY_MSIX]
        self.messages = MsixControl(device.config_read(at + MsixCapability.offset_of("control"), 2)).last_entry + 1
        self.msix_bar = device.config_read(at + MsixCapability.offset_of("table"), 4) & _BAR_MASK
        self._table = next(spa for bar, spa in device.bars.items() if bar.number == self.msix_bar)
        pending = device.config_read(at + MsixCapability.offset_of("pending"), 4)
        self._pending = self._table + (pending & _PENDING_OFFSET_MASK)
        self._routes: dict[int, _Route] = {}
        self._shown: dict[int, range] = {}
        self._trapped: range | None = None

    # --- configuration ---------------------------------------------------------------------------------

    def header(self) -> PciHeader:
        """The device's."""
        raw = b"".join(self.device.config_read(at, 4).to_bytes(4, "little") for at in range(0, PciHeader.SIZE, 4))
        return PciHeader.parse(raw)

    def command(self, raw: int) -> None:
        """These bits are the guest's; the device's BARs always answer, to those who have them in their memory."""
        self.device.config_write(PciHeader.offset_of("command"), 2, raw | PciCommand(memory_enabled=1).raw)

    def clear_status(self, raw: int) -> None:
        """Write ones into the status register."""
        self.device.config_write(PciHeader.offset_of("status"), 2, raw)

    def power(self, state: int) -> None:
        """Go to a power state."""
        at = self.device.capabilities[CAPABILITY_POWER] + PowerCapability.offset_of("control")
        self.device.config_write(at, 2, state)

    def reset(self) -> None:
        """A function-level reset."""
        self.device.reset()

    # --- BARs ------------------------------------------------------------------------------------------

    def show(self, bar: Bar, gpas: range | None) -> None:
        """The device's registers stand at *gpas*, or nowhere. Without memory for the tables, nowhere."""
        was = self._shown.pop(bar.number, None)
        if was is not None:
            self._winhv.unmap_gpa_pages(self._partition_id, was.start // PAGE_SIZE, len(was) // PAGE_SIZE)
        if gpas is None:
            return
        first = next(spa for own, spa in self.device.bars.items() if own.number == bar.number) // PAGE_SIZE
        try:
            self._winhv.map_gpa_pages(self._partition_id, gpas.start // PAGE_SIZE,
                                      range(first, first + len(gpas) // PAGE_SIZE))
        except OutOfPages:
            return
        self._shown[bar.number] = gpas

    def trap(self, gpas: range | None, function: AssignedFunction) -> None:
        """Accesses to *gpas* come to *function*."""
        if self._trapped is not None:
            self._board.remove_memory(self._trapped)
        self._trapped = gpas
        if gpas is not None:
            self._board.add_memory(f"msi-x {Rid(self.device.source_id)}", gpas, function)

    # --- interrupts ------------------------------------------------------------------------------------

    def pending(self) -> int:
        """The device's pending bits, of MSI-X."""
        return self.device.pci.memory.read(self._pending, 8)

    def pending_msi(self) -> int:
        """Likewise of MSI."""
        return self.device.config_read(self.device.capabilities[CAPABILITY_MSI] + MsiCapability.offset_of("pending"), 4)

    def use_msix(self, enabled: bool, entries: list[tuple[Message, bool]]) -> None:
        """The device's table gets a route for each entry that is one; the others, and all while off, are masked."""
        for number, (message, masked) in enumerate(entries):
            route = self._follow(number, message if enabled else None)
            self._write_entry(number, route, masked)
        at = self.device.capabilities[CAPABILITY_MSIX] + MsixCapability.offset_of("control")
        self.device.config_write(at, 2, MsixControl(enabled=int(enabled)).raw)

    def _write_entry(self, number: int, route: _Route | None, masked: bool) -> None:
        """Masked while it changes."""
        memory, entry = self.device.pci.memory, self._table + number * MsixEntry.SIZE
        address, data = route.message if route is not None else (0, 0)
        words = (address & 0xFFFF_FFFF, address >> 32, data, _MASKED if masked or route is None else 0)
        if tuple(memory.read(entry + 4 * at, 4) for at in range(4)) == words:
            return
        memory.write(entry + MsixEntry.offset_of("vector_control"), 4, _MASKED)
        for at, word in enumerate(words):
            memory.write(entry + 4 * at, 4, word)

    def use_msi(self, enabled: bool, message: Message, masked: bool) -> None:
        """The device's MSI capability gets the route's message; off while there is none."""
        route = self._follow(_MSI, message if enabled else None)
        at = self.device.capabilities[CAPABILITY_MSI]
        if route is not None:
            self.device.config_write(at + MsiCapability.offset_of("mask"), 4, int(masked))
            self.device.interrupt_by(route.message)
        else:
            self.device.config_write(at + MsiCapability.offset_of("control"), 2, MsiControl().raw)

    def _follow(self, number: int, asked: Message | None) -> _Route | None:
        """The route for what the guest asks for interrupt *number*: made, changed, or taken away."""
        route = self._routes.get(number)
        if route is not None and route.asked == asked:
            return route
        if self._is_remapped:
            return self._follow_message(number, asked)
        target = None if asked is None else self._target(asked)
        if target is None or asked is None:
            self._forget(number)
            return None
        message = route.message if route is not None else self._map(target)
        if message is None:
            return None
        self._winhv.retarget_device_interrupt(self._partition_id, self.device.source_id, message, target.vector,
                                              target.vp_mask, target.multicast)
        self._routes[number] = _Route(asked, message)
        return self._routes[number]

    def _follow_message(self, number: int, asked: Message | None) -> _Route | None:
        """Likewise, of a VM with a unit: another message is another route. What is no interrupt has none."""
        self._forget(number)
        if asked is None or MsiAddress(asked.address).window != MSI_WINDOW:
            return None
        message = self._made(partial(self._winhv.map_device_message, self._partition_id, self.device.source_id,
                                     asked.address, asked.data))
        if message is None:
            return None
        self._routes[number] = _Route(asked, message)
        return self._routes[number]

    def _forget(self, number: int) -> None:
        route = self._routes.pop(number, None)
        if route is not None:
            self._winhv.unmap_device_interrupt(self._partition_id, self.device.source_id, route.message)

    def _map(self, target: Target) -> tuple[int, int] | None:
        first = (target.vp_mask & -target.vp_mask).bit_length() - 1
        return self._made(partial(self._winhv.map_device_interrupt, self._partition_id, self.device.source_id, first,
                                  target.vector))

    @staticmethod
    def _made(make: Callable[[], tuple[int, int]]) -> tuple[int, int] | None:
        """The message of a new route; None when the hypervisor has no vector left, or no memory for it."""
        try:
            return make()
        except (HvError, OutOfPages):
            return None

    def _target(self, message: Message) -> Target | None:
        """What the guest's message names; None for what is no vector of its processors. SDM "Message Signalled
        Interrupts"."""
        address, data = MsiAddress(message.address), MsiData(message.data)
        if (address.window != MSI_WINDOW or address.remappable or data.vector < LOWEST_LEGAL_VECTOR
                or data.delivery_mode not in _FIXED):
            return None
        mask = sum(1 << vp for vp in range(min(self._vp_count, 64)) if self._is_named(vp, address))
        one = bool(address.redirection_hint) or data.delivery_mode == DeliveryMode.LOWEST_PRIORITY
        return Target(data.vector, mask, not one and mask & mask - 1 != 0) if mask else None

    def _is_named(self, vp: int, address: MsiAddress) -> bool:
        """VP *vp*'s local APIC takes messages for that destination."""
        if not address.logical:
            wide = address.destination | address.extended_destination << 8
            return wide in (vp, BROADCAST_XAPIC)
        ldr = self._winhv.get_vp_register(self._partition_id, vp, HvRegisterName.APIC_LDR)
        base = self._winhv.get_vp_register(self._partition_id, vp, HvRegisterName.APIC_BASE)
        if ApicBase(base).extended:
            return not ldr >> 16 and bool(ldr & address.destination)        # 8 bits reach the first cluster only
        return bool(ldr >> 24 & address.destination)

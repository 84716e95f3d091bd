"""Message-signalled interrupts on their way from root's virtual devices to the processors of their VM.

A device, or the I/O APIC for one of its pins, writes 32 bits to an address of 0xFEExxxxx. That write is a value here,
`Msi`, until it is delivered. In a VM with a remapping unit of its own the hypervisor is told who wrote it, and looks it
up in the guest's table. SDM "Message Signalled Interrupts"; PCI "MSI and MSI-X Operation"; VT-d "Interrupt Remapping".
"""

# Simplified: an SMI goes nowhere, as there is no system-management mode; a fixed interrupt below vector 16, which
# its receiver would note in its error status, is lost.

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

from hv.root.winhv import HvError, WinHv
from hv.spec.apic import LOWEST_LEGAL_VECTOR, MSI_WINDOW, DeliveryMode, MsiAddress, MsiData
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.interrupts import HvInterruptControl, HvInterruptType

_VECTORED = (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY)
_KINDS = {
    DeliveryMode.FIXED: HvInterruptType.FIXED, DeliveryMode.LOWEST_PRIORITY: HvInterruptType.LOWEST_PRIORITY,
    DeliveryMode.NMI: HvInterruptType.NMI, DeliveryMode.INIT: HvInterruptType.INIT,
    DeliveryMode.EXTINT: HvInterruptType.EXT_INT,
}
_EXT_INT = HvInterruptType.EXT_INT
# Nobody has that id; or the VM is going away, and a timer of one of its devices has not heard of it.
_NOBODY = (HvStatus.INVALID_VP_INDEX, HvStatus.INVALID_PARTITION_ID, HvStatus.INVALID_PARTITION_STATE)
_REFUSED = (HvStatus.OPERATION_DENIED, *_NOBODY)        # or the guest's unit does not let it through


class Msi(NamedTuple):
    """A write of *data* (32 bits) to *address* (64)."""

    address: int
    data: int

    @property
    def is_remappable(self) -> bool:
        """It names an entry of an interrupt-remapping table, not a processor; VT-d "Interrupt Requests"."""
        return bool(MsiAddress(self.address).remappable)

    @property
    def destination(self) -> int:
        """The APIC id, or the logical set: 8 bits, and above them 7 which are 0 unless the guest was told of them.

        TLFS "Virtualization stack properties": a VM with extended destinations has the upper ones in address bits
        11..5.
        """
        address = MsiAddress(self.address)
        return address.destination | address.extended_destination << 8


SendMsi = Callable[[Msi], bool]             # False when no processor took it
OnExtint = Callable[[int, bool], bool]      # destination, and whether that is a logical one


class _Meaning(NamedTuple):
    """What a hypercall is asked for."""

    kind: HvInterruptType
    vector: int
    destination: int
    logical: bool
    level: bool


@lru_cache(maxsize=1024)
def _meaning(msi: Msi) -> _Meaning | None:
    """None for what goes nowhere. A device sends the same few messages all the time."""
    address, data = MsiAddress(msi.address), MsiData(msi.data & 0xFFFF_FFFF)
    mode = DeliveryMode(data.delivery_mode)
    vectored = mode in _VECTORED
    if address.window != MSI_WINDOW or address.remappable or mode not in _KINDS:
        return None
    if vectored and data.vector < LOWEST_LEGAL_VECTOR:
        return None
    if mode is DeliveryMode.FIXED and address.redirection_hint:
        mode = DeliveryMode.LOWEST_PRIORITY         # one of those that are named is enough
    return _Meaning(_KINDS[mode], data.vector if vectored else 0, msi.destination, bool(address.logical),
                    vectored and bool(data.level))


class MsiDelivery:
    """The end of the way: the local APICs of *partition_id*. *on_extint* hears of the one kind that no local APIC
    keeps, whose vector an 8259 gives at the moment the processor acknowledges it. While `is_remapped` a remapping unit
    of the VM's own is before them.
    """

    def __init__(self, winhv: WinHv, partition_id: int,
                 on_extint: OnExtint = lambda destination, logical: False) -> None:
        self._winhv, self._partition_id, self.on_extint = winhv, partition_id, on_extint
        self.is_remapped = False

    def way_of(self, requester_id: int) -> SendMsi:
        """What the device *requester_id* sends its messages by."""
        return partial(self.send, requester_id)

    def send(self, requester_id: int, msi: Msi) -> bool:
        """The device interrupts whom *msi* names. False when nobody is there, it asks for what does not exist, or the
        VM's own unit refuses it."""
        if self.is_remapped:
            return self._send_through_unit(requester_id, msi)
        meaning = _meaning(msi)
        if meaning is None:
            return False
        kind, vector, destination, logical, level = meaning
        if kind is _EXT_INT:
            return self.on_extint(destination, logical)
        try:
            self._winhv.assert_virtual_interrupt(self._partition_id, vector, destination, kind, level, logical)
        except HvError as error:
            if error.status not in _NOBODY:
                raise
            return False
        return True

    def _send_through_unit(self, requester_id: int, msi: Msi) -> bool:
        if MsiAddress(msi.address).window != MSI_WINDOW:
            return False
        try:
            became = self._winhv.assert_device_interrupt(self._partition_id, requester_id, *msi)
        except HvError as error:
            if error.status not in _REFUSED:
                raise
            return False
        control = HvInterruptControl(became.interrupt_control)
        if control.interrupt_type == _EXT_INT:
            return self.on_extint(became.destination, bool(control.logical_destination_mode))
        return True

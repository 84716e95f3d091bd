"""INTR: from the 8259s of a VM to its processors, as interrupts of type ExtInt; TLFS "Virtual Interrupt Types".

On a PC the processor asks for the vector when it takes the interrupt (INTA). Here the vector that the answer would be
stands on the partition's external line beforehand, level-triggered, and whenever the 8259s change their mind - a higher
one comes, a request is withdrawn - another one is put there, or none. So what a processor finds is what INTA would have
said at that moment. That it has taken it is not told: HvCallClearVirtualInterrupt is tried before the registers of the
8259s are looked at or changed, and succeeds once for each interrupt that was taken. In between nobody could know:
until its EOI, an interrupt in service holds back everything that could be offered next. Automatic EOI is the exception;
then the VP that takes these interrupts is asked to tell when it could take one (HvRegisterDeliverabilityNotifications),
which is behind the handler of the last.

INTR leads to three places: the external line, for a local APIC whose LINT0 entry says ExtINT or which is disabled; the
LINT0 pins, where an entry that says something else (fixed: "virtual wire") is raised by each edge; and pin 0 of the
I/O APIC. An entry of that which says ExtINT makes a message without a vector; the processor it names acknowledges at
the 8259s when it can take an interrupt.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.root.winhv import HvError, WinHv
from hv.spec.apic import BROADCAST_X2APIC
from hv.spec.hv_registers import DeliverabilityNotificationsRegister, HvRegisterName
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.interrupts import INTERRUPT_VECTOR_NONE, HvInterruptType

BOOT_VP = 0                             # whose LINT0 the firmware leaves as ExtINT
_DELIVERABLE = DeliverabilityNotificationsRegister(interrupt_notification=1).raw
# The VM is going away, and a timer of one of its devices has not heard of it.
_GONE = (HvStatus.INVALID_VP_INDEX, HvStatus.INVALID_PARTITION_ID, HvStatus.INVALID_PARTITION_STATE)


class ExternalLine:
    """INTR of VM *partition_id*; *pin* is the I/O APIC's. It is an `Intr` of the 8259s."""

    def __init__(self, winhv: WinHv, partition_id: int, pin: Callable[[bool], None]) -> None:
        self._winhv, self._partition_id, self._pin = winhv, partition_id, pin
        self.offered: int | None = None     # the vector that stands there
        self.named: set[int] = set()        # VPs that an I/O APIC's message told to acknowledge

    def taken(self) -> bool:
        """A processor has acknowledged what stood there; True once."""
        if self.offered is None or not self._try_to_clear():
            return False
        self.offered = None
        self._pin(False)
        return True

    def offer(self, vector: int | None, rises: bool, watched: bool) -> bool:
        """Let *vector* stand there, or nothing. False when what stood there was acknowledged at the last moment."""
        if vector != self.offered:
            try:
                self._assert(HvInterruptType.EXT_INT, INTERRUPT_VECTOR_NONE if vector is None else vector)
            except HvError as error:
                if error.status is not HvStatus.ACKNOWLEDGED:
                    return _is_gone(error)
                return not self.taken()
            self.offered = vector
            if watched and vector is not None:
                self._watch(BOOT_VP)
        if rises or vector is None:
            self._pin(False)
        if rises and vector is not None:
            self._pin(True)
            self._raise_pins()
        return True

    def _assert(self, kind: HvInterruptType, vector: int = 0, destination: int = 0) -> None:
        self._winhv.assert_virtual_interrupt(self._partition_id, vector, destination, kind, kind == _EXT_INT)

    def _raise_pins(self) -> None:
        try:
            self._assert(HvInterruptType.LOCAL_INT0, destination=BROADCAST_X2APIC)
        except HvError as error:
            _is_gone(error)

    def _try_to_clear(self) -> bool:
        try:
            self._winhv.clear_virtual_interrupt(self._partition_id)
        except HvError as error:
            return error.status is not HvStatus.NOT_ACKNOWLEDGED and not _is_gone(error)
        return True

    def name(self, vp_index: int) -> bool:
        """A message of delivery mode ExtINT: the VP acknowledges at the 8259s when it can. False: there is none."""
        try:
            self._watch(vp_index)
        except HvError as error:
            return not _is_gone(error)
        self.named.add(vp_index)
        return True

    def acknowledges(self, vp_index: int) -> bool:
        """The VP, which can take an interrupt now, was told to; True once."""
        was_named = vp_index in self.named
        self.named.discard(vp_index)
        return was_named

    def _watch(self, vp_index: int) -> None:
        self._winhv.set_vp_registers(self._partition_id, vp_index,
                                     {HvRegisterName.DELIVERABILITY_NOTIFICATIONS: _DELIVERABLE})


_EXT_INT = HvInterruptType.EXT_INT


def _is_gone(error: HvError) -> bool:
    """True: the VM is; else that is raised which nobody expected."""
    if error.status not in _GONE:
        raise error
    return True

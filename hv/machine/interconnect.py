"""The wires between local APICs: who is meant by a destination, and what each delivery mode does there.

Both kinds of message come this way: an IPI that a processor writes into its ICR (`send`), and an interrupt message of
a device or an I/O APIC (`deliver`). SDM "Determining IPI Destination".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hv.spec.apic import BROADCAST_X2APIC, BROADCAST_XAPIC, LOWEST_LEGAL_VECTOR, DeliveryMode, Esr, Icr, Shorthand

if TYPE_CHECKING:
    from hv.machine.apic import LocalApic

_MODES = tuple(DeliveryMode)        # by number
FIXED_OR_LOWEST = (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY)


class Message(NamedTuple):
    """What travels: *vector* 0..255, *mode*, and for a device's message whether it is *level* triggered."""

    vector: int
    mode: DeliveryMode
    level: bool = False


class Interconnect:
    """The local APICs that can reach one another, in order of arrival."""

    def __init__(self) -> None:
        self.apics: list[LocalApic] = []

    def add(self, apic: LocalApic) -> None:
        """Connect *apic*; ValueError when its id is taken."""
        if any(other.apic_id == apic.apic_id for other in self.apics):
            raise ValueError(f"APIC id {apic.apic_id} is connected already")
        self.apics.append(apic)
        apic.interconnect = self

    def targets(self, destination: int, logical: bool, broadcast: int = BROADCAST_XAPIC) -> list[LocalApic]:
        """The APICs that *destination* names; *broadcast* is the id that means all of them."""
        if destination == broadcast:
            return [apic for apic in self.apics if apic.is_present]
        return [apic for apic in self.apics if apic.answers_to(destination, logical)]

    def named(self, destination: int, logical: bool) -> list[LocalApic]:
        """Likewise, for a message that may have been meant for APICs of either mode: all ones is everybody, of eight
        bits for an xAPIC, of 32 for any."""
        if destination not in (BROADCAST_XAPIC, BROADCAST_X2APIC):
            return self.targets(destination, logical)
        return [apic for apic in self.apics if apic.is_present
                and (destination == BROADCAST_X2APIC or not apic.is_x2apic or apic.answers_to(destination, logical))]

    def deliver(self, vector: int, destination: int, logical: bool = False, delivery_mode: int = DeliveryMode.FIXED,
                level: bool = False, redirection_hint: bool = False, broadcast: int = BROADCAST_XAPIC) -> bool:
        """Deliver a device's interrupt message; False when nobody took it.

        A redirection hint turns fixed into lowest priority: one of the targets is enough.
        """
        mode = _MODES[delivery_mode & 7]
        if redirection_hint and mode is DeliveryMode.FIXED:
            mode = DeliveryMode.LOWEST_PRIORITY
        return self.hand_out(Message(vector & 0xFF, mode, level), self.targets(destination, logical, broadcast))

    def send_fixed(self, vector: int, destination: int) -> bool:
        """A fixed interrupt to the physical *destination*, no broadcast; False, and nothing done, unless it is that of
        one APIC which is enabled."""
        named = [apic for apic in self.apics if apic.apic_id & 0xFF == destination]
        return len(named) == 1 and named[0].apic_id == destination and named[0].is_enabled and named[0].accept(vector)

    def send(self, sender: LocalApic, icr: Icr) -> None:
        """Carry out a write to the ICR of *sender*; its error status tells what went wrong."""
        # Simplified: combinations the SDM calls invalid are dropped, as are SMIs (there is no SMM here).
        mode, shorthand = DeliveryMode(icr.delivery_mode), Shorthand(icr.shorthand)
        if not self._is_valid(icr, mode, shorthand):
            return
        if mode in FIXED_OR_LOWEST and icr.vector < LOWEST_LEGAL_VECTOR:
            sender.error(Esr.SEND_ILLEGAL_VECTOR)
            return
        taken = self.hand_out(Message(icr.vector, mode), self._named_by(sender, icr, shorthand))
        if not taken and shorthand is Shorthand.NONE and not sender.is_x2apic:
            sender.error(Esr.SEND_ACCEPT)

    @staticmethod
    def _is_valid(icr: Icr, mode: DeliveryMode, shorthand: Shorthand) -> bool:
        if mode in (DeliveryMode.RESERVED, DeliveryMode.EXTINT, DeliveryMode.SMI):
            return False
        if mode is DeliveryMode.INIT and icr.trigger and not icr.level:
            return False                        # INIT level de-assert: today's processors ignore it
        return mode is DeliveryMode.FIXED or shorthand in (Shorthand.NONE, Shorthand.OTHERS)

    def _named_by(self, sender: LocalApic, icr: Icr, shorthand: Shorthand) -> list[LocalApic]:
        if shorthand is Shorthand.SELF:
            return [sender]
        if shorthand is not Shorthand.NONE:
            everybody = self.targets(BROADCAST_XAPIC, False)
            return [apic for apic in everybody if shorthand is Shorthand.ALL or apic is not sender]
        if sender.is_x2apic:
            return self.targets(icr.destination, bool(icr.logical), BROADCAST_X2APIC)
        return self.targets(icr.destination >> 24, bool(icr.logical))

    @staticmethod
    def hand_out(message: Message, targets: list[LocalApic]) -> bool:
        """Give *message* to *targets*; False when nobody took it.

        Lowest priority picks the enabled target with the lowest PPR, then the lowest id; the others take all.
        """
        if message.mode is DeliveryMode.LOWEST_PRIORITY:
            enabled = [apic for apic in targets if apic.is_enabled]
            targets = [min(enabled, key=lambda apic: (apic.ppr, apic.apic_id))] if enabled else []
        taken = [apic.take(message) for apic in targets]
        return any(taken)

"""A parent hears when its child ends a level-triggered interrupt; TLFS "HvInterceptTypeX64ApicEoi".

Who emulates an I/O APIC asserts a level-triggered interrupt again when the device still wants it, and must know of the
end of the last one. The message does not stop the VP: it has no intercept header, and nothing to complete.
# Simplified: of interrupts that are edges, which no I/O APIC would hear of either, there is no message.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hv.hypervisor.synic.synic import QueuedMessage
from hv.spec.intercepts import HvInterceptAccess, HvInterceptType
from hv.spec.synic import SINT_INTERCEPT, ApicEoiMessage, HvMessageType
from hv.trace.events import InterceptSent

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

_EXECUTE = int(HvInterceptAccess.EXECUTE)


class EoiMessages:
    """Those of *vp*. There is one buffer for each vector: an end that the parent has not seen yet is told once."""

    def __init__(self, vp: VirtualProcessor) -> None:
        self.vp = vp
        self._waiting: set[int] = set()         # vectors whose message is not delivered

    def follow(self) -> None:
        """The parent asked for them, or does not any more."""
        vp = self.vp
        wanted = vp.partition.intercepts.wants(HvInterceptType.APIC_EOI, 0, _EXECUTE)
        vp.apic.on_broadcast_eoi = self.send if wanted else _nobody
        if not wanted:
            self.forget()

    def send(self, vector: int) -> None:
        """The VP has ended *vector*."""
        vp, parent = self.vp, self.vp.partition.parent
        assert parent is not None, "somebody asked for the message"
        if vector in self._waiting or not parent.vps:
            return
        self._waiting.add(vector)
        payload = ApicEoiMessage(vp_index=vp.index, interrupt_vector=vector).pack()
        parent.vps[min(parent.vps)].synic.post(SINT_INTERCEPT, QueuedMessage(
            HvMessageType.X64_APIC_EOI, payload, vp.partition.id, partial(self._waiting.discard, vector), owner=self))
        if vp.partition.trace.listening:
            vp.partition.trace.emit(InterceptSent(HvMessageType.X64_APIC_EOI, vp.partition.id, vp.index))

    def forget(self) -> None:
        """What waits for the parent's slot is not sent any more."""
        parent = self.vp.partition.parent
        if self._waiting and parent is not None:
            for receiver in parent.vps.values():
                receiver.synic.drop(self)


def _nobody(vector: int) -> None:
    """The parent did not ask."""

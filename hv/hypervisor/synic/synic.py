"""One VP's synthetic interrupt controller: registers, message queues, delivery into its pages.

TLFS "SynIC" and "Inter-Partition Communication". A message goes into the slot of its SINT when the slot is empty;
else it waits, and MessagePending in the slot tells the guest to write EOM once it has emptied it. What was missed is
tried again with the next message, with an EOI of the SINT's vector, and when SynIC or message page are switched on.

The two pages belong to the VP: what is in them stays while they are moved or switched off, and is zero after the VP was
made or reset. Left out: the event ring (SIRBP), proxy and as-intercept SINTs, whose bits are kept and mean nothing.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.memory.gpa_space import READ_WRITE, GpaSpace, Overlay
from hv.machine.faults import GuestFault
from hv.spec.hv_status import HvStatus
from hv.spec.msrs import (
    SINT_COUNT,
    SINT_RESET,
    HvOverlayPage,
    HvScontrol,
    HvSiefp,
    HvSimp,
    HvSynicSint,
    HvVpAssistPage,
    Msr,
)
from hv.spec.synic import EVENT_FLAGS_SIZE, MESSAGE_PENDING, MESSAGE_SIZE, HvMessageHeader
from hv.spec.x86 import PAGE_SIZE
from hv.trace.bus import Trace
from hv.trace.events import EventDelivered, MessageDelivered, MessagePending, OverlayMoved

if TYPE_CHECKING:
    from hv.hypervisor.partitions.partition import VpPages
    from hv.hypervisor.vps.vp import VirtualProcessor

LOWEST_VECTOR = 16
VERSION = 1                             # SVERSION
_PENDING_OFFSET = HvMessageHeader.offset_of("message_flags")
_HEADER = struct.Struct("<" + HvMessageHeader.FORMAT)
_EMPTY_PAGE = bytes(PAGE_SIZE)


class QueuedMessage(NamedTuple):
    """A message on its way. *on_delivered* is called once its buffer is free: it is in its slot, or was dropped.

    A *payload* that is a function is asked for its bytes at the moment of delivery: a timer says when that was.
    *owner* is whose buffer it is in, for `drop`.
    """

    message_type: int
    payload: bytes | Callable[[], bytes]
    sender: int
    on_delivered: Callable[[], None] | None = None
    owner: object = None


class Synic:
    """The SynIC of *vp*. Its two pages are overlays on the partition's memory, from the partition's pool."""

    def __init__(self, vp: VirtualProcessor, space: GpaSpace, pages: VpPages, trace: Trace) -> None:
        self.vp, self.space, self.trace = vp, space, trace
        self.message_page, self.event_page, self.assist_page = pages.messages, pages.event_flags, pages.assist
        self._simp_overlay = Overlay(f"SIMP of vp {vp.index}", pages.messages, READ_WRITE)
        self._siefp_overlay = Overlay(f"SIEFP of vp {vp.index}", pages.event_flags, READ_WRITE)
        self._assist_overlay = Overlay(f"assist page of vp {vp.index}", pages.assist, READ_WRITE)
        self.scontrol, self.simp, self.siefp, self.assist = HvScontrol(), HvSimp(), HvSiefp(), HvVpAssistPage()
        self.sints = [HvSynicSint(SINT_RESET) for _ in range(SINT_COUNT)]
        self.queues: list[deque[QueuedMessage]] = [deque() for _ in range(SINT_COUNT)]
        self.auto_eoi_vectors: frozenset[int] = frozenset()     # whoever acknowledges one of these ends it at once
        self.on_auto_eoi: Callable[[], None] = lambda: None     # they are others now
        self.accepts_messages = False                           # SynIC and message page are on
        self.accepts_events = [False] * SINT_COUNT              # event-flag page too, and the SINT is not masked
        self._raises = [0] * SINT_COUNT                         # the vector that a message or event raises; 0 = none

    def reset(self) -> None:
        """Registers as after reset, pages uncovered and empty, queues dropped."""
        for queue in self.queues:
            while queue:
                self._release(queue.popleft())
        self._move(self.simp, HvSimp(), self._simp_overlay)
        self._move(self.siefp, HvSiefp(), self._siefp_overlay)
        self._move(self.assist, HvVpAssistPage(), self._assist_overlay)
        self.scontrol, self.simp, self.siefp, self.assist = HvScontrol(), HvSimp(), HvSiefp(), HvVpAssistPage()
        self.sints = [HvSynicSint(SINT_RESET) for _ in range(SINT_COUNT)]
        self._follow()
        self._follow_auto_eoi()
        self.space.memory.write(self.message_page, _EMPTY_PAGE)
        self.space.memory.write(self.event_page, _EMPTY_PAGE)

    # Software's face: the MSRs. Privileges are checked by whoever dispatches them.

    def read_msr(self, index: int) -> int:
        """SCONTROL, SVERSION, SIEFP, SIMP, EOM or a SINT; #GP for any other."""
        if Msr.HV_SINT0 <= index <= Msr.HV_SINT15:
            return self.sints[index - Msr.HV_SINT0].raw
        match index:
            case Msr.HV_SCONTROL:
                return self.scontrol.raw
            case Msr.HV_SVERSION:
                return VERSION
            case Msr.HV_SIEFP:
                return self.siefp.raw
            case Msr.HV_SIMP:
                return self.simp.raw
            case Msr.HV_EOM:
                return 0
        raise GuestFault(13, 0)

    def write_msr(self, index: int, value: int) -> None:
        """Write one of those; #GP for SVERSION, a bad SINT vector, a page outside the GPA space."""
        if Msr.HV_SINT0 <= index <= Msr.HV_SINT15:
            self._set_sint(index - Msr.HV_SINT0, HvSynicSint(value))
            return
        match index:
            case Msr.HV_SCONTROL:
                self.scontrol = HvScontrol(value)
            case Msr.HV_SIEFP:
                self._move(self.siefp, HvSiefp(value), self._siefp_overlay)
                self.siefp = HvSiefp(value)
            case Msr.HV_SIMP:
                self._move(self.simp, HvSimp(value), self._simp_overlay)
                self.simp = HvSimp(value)
            case Msr.HV_EOM:
                pass
            case _:
                raise GuestFault(13, 0)
        self._follow()
        self.scan()

    def _set_sint(self, sint: int, value: HvSynicSint) -> None:
        """TLFS "SINTx Registers": an unmasked SINT needs a vector of 16..255; guests do write 0x10000."""
        if value.vector < LOWEST_VECTOR and not value.masked and not value.polling:
            raise GuestFault(13, 0)
        self.sints[sint] = value
        if self.queues[sint]:
            self._hear_eoi(sint)
        self._follow()
        self._follow_auto_eoi()

    def _follow(self) -> None:
        """Keep the facts that every message and event asks for."""
        on, sints = self.scontrol.enable, self.sints
        self.accepts_messages = bool(on and self.simp.enable)
        self.accepts_events = [bool(on and self.siefp.enable and not sint.masked) for sint in sints]
        self._raises = [0 if sint.masked or sint.polling else sint.vector for sint in sints]

    def _follow_auto_eoi(self) -> None:
        before = self.auto_eoi_vectors
        self.auto_eoi_vectors = frozenset(each.vector for each in self.sints if each.auto_eoi and not each.masked)
        if self.auto_eoi_vectors != before:
            self.on_auto_eoi()

    def _move(self, old: HvOverlayPage, new: HvOverlayPage, overlay: Overlay) -> None:
        """Lay *overlay* where *new* says; #GP when that is outside the GPA space or the tables cannot grow."""
        if (old.enable, old.gpfn) == (new.enable, new.gpfn) or not (old.enable or new.enable):
            return
        if new.enable:
            cover_or_fault(self.space, new.gpfn, overlay)
        if old.enable:
            self.space.uncover(old.gpfn, overlay)
        if self.trace.listening:
            self.trace.emit(OverlayMoved(overlay.name, new.gpfn << 12 if new.enable else None))

    def set_assist_page(self, value: int) -> None:
        """HV_VP_ASSIST_PAGE; TLFS "Virtual VP Assist Page". Plain memory, empty when it appears; #GP as for SIMP."""
        new = HvVpAssistPage(value)
        self._move(self.assist, new, self._assist_overlay)
        if new.enable and not self.assist.enable:
            self.space.memory.write(self.assist_page, _EMPTY_PAGE)
        self.assist = new

    # The senders' face.

    def post(self, sint: int, message: QueuedMessage) -> None:
        """Put *message* into the slot of *sint*, or queue it behind what waits there."""
        if self.vp.partition.still is not None:
            self.vp.partition.still()
        self.queues[sint].append(message)
        self._deliver(sint)

    def post_now(self, sint: int, message_type: int, payload: bytes, sender: int) -> bool:
        """Put a message into the slot of *sint* if it is empty and nobody waits for it; False when it is to be queued.

        What `post` does then, without a queue.
        """
        memory, slot = self.space.memory, self.message_page + sint * MESSAGE_SIZE
        if self.vp.partition.still is not None:
            self.vp.partition.still()
        if not self.accepts_messages or self.queues[sint] or memory.read_u32(slot):
            return False
        header = _HEADER.pack(message_type, len(payload), 0, 0, sender)
        memory.write(slot + 4, header[4:] + payload)
        memory.write(slot, header[:4])                  # the type comes last
        if self.trace.listening:
            self.trace.emit(MessageDelivered(sint, message_type, sender))
        vector = self._raises[sint]
        if vector:
            self.vp.apic.accept(vector)
        return True

    def withdraw(self, sint: int, message: QueuedMessage) -> None:
        """Forget *message*, which waits for the slot of *sint*; nobody is told. It must wait there."""
        self.queues[sint].remove(message)

    def post_direct(self, sint: int, message: QueuedMessage) -> None:
        """Put *message* into the slot of *sint* now, or not at all.

        INVALID_SYNIC_STATE while SynIC or message page is off, or the SINT is masked; OBJECT_IN_USE while a message
        is in the slot or waits for it.
        """
        refusal = self.refusal(sint)
        if refusal is not None:
            raise refusal
        self.post(sint, message)

    def refusal(self, sint: int) -> HypercallError | None:
        """Why a message may not go into the slot of *sint* at once; None: it may."""
        if not self.accepts_messages or self.sints[sint].masked:
            return HypercallError(HvStatus.INVALID_SYNIC_STATE, f"vp {self.vp.index}: sint {sint} takes no messages")
        if self.queues[sint] or self.space.memory.read_u32(self.message_page + sint * MESSAGE_SIZE):
            return HypercallError(HvStatus.OBJECT_IN_USE, f"vp {self.vp.index}: the slot of sint {sint} has a message")
        return None

    def ask_for_eom(self, sint: int) -> None:
        """Somebody waits for the slot of *sint*: the guest that empties it says so by EOM, or EOI."""
        slot = self.message_page + sint * MESSAGE_SIZE
        if self.accepts_messages and self.space.memory.read_u32(slot):
            self._mark_pending(sint, slot)

    def _mark_pending(self, sint: int, slot: int) -> None:
        memory = self.space.memory
        flags = memory.read(slot + _PENDING_OFFSET, 1)[0]
        memory.write(slot + _PENDING_OFFSET, bytes((flags | MESSAGE_PENDING,)))
        self._hear_eoi(sint)

    def drop(self, owner: object) -> None:
        """Forget the messages that wait here in buffers of *owner*; those that are in their slots stay."""
        for sint, queue in enumerate(self.queues):
            dropped = [message for message in queue if message.owner is owner]
            if dropped:
                self.queues[sint] = deque(message for message in queue if message.owner is not owner)
                for message in dropped:
                    self._release(message)

    def signal(self, sint: int, flag: int) -> bool:
        """Set event *flag* (0..2047) of *sint*; True when it was clear, and so the guest is interrupted.

        INVALID_SYNIC_STATE while SynIC or event-flag page is off, or the SINT is masked.
        """
        if not self.accepts_events[sint]:
            raise HypercallError(HvStatus.INVALID_SYNIC_STATE, f"vp {self.vp.index}: sint {sint} takes no events")
        if self.vp.partition.still is not None:
            self.vp.partition.still()
        spa, bit = self.event_page + sint * EVENT_FLAGS_SIZE + (flag >> 3), 1 << (flag & 7)
        memory = self.space.memory
        before = memory.view[spa]
        if before & bit:
            return False
        memory.write(spa, bytes((before | bit,)))
        if self.trace.listening:
            self.trace.emit(EventDelivered(sint, flag))
        vector = self._raises[sint]
        if vector:
            self.vp.apic.accept(vector)
        return True

    def scan(self) -> None:
        """Try every queue again: EOM was written, or the SynIC was switched on."""
        for sint, queue in enumerate(self.queues):
            if queue:
                self._deliver(sint)

    def on_eoi(self, vector: int) -> None:
        """The guest ended *vector*: a message of a SINT bound to it may fit now."""
        for sint, queue in enumerate(self.queues):
            if queue and self.sints[sint].vector == vector:
                self._deliver(sint)

    def inspect(self) -> dict[str, Any]:
        """Plain data: `inspect vm/1/synic/sint2` of the REPL."""
        sints = {f"sint{n}": {**sint.inspect(), "queued": len(self.queues[n])} for n, sint in enumerate(self.sints)}
        return {"scontrol": self.scontrol.inspect(), "simp": self.simp.inspect(), "siefp": self.siefp.inspect(),
                **sints}

    def _deliver(self, sint: int) -> None:
        """Move the queue's head into the slot; TLFS "Message Delivery": the type is written last."""
        if not self.accepts_messages:
            return
        queue, memory, slot = self.queues[sint], self.space.memory, self.message_page + sint * MESSAGE_SIZE
        if memory.read_u32(slot):
            self._mark_pending(sint, slot)
            if self.trace.listening:
                self.trace.emit(MessagePending(sint, queue[0].message_type))
            return
        message = queue.popleft()
        payload = message.payload if isinstance(message.payload, bytes) else message.payload()
        header = _HEADER.pack(0, len(payload), MESSAGE_PENDING if queue else 0, 0, message.sender)
        memory.write(slot, header + payload)
        memory.write(slot, message.message_type.to_bytes(4, "little"))
        if message.on_delivered is not None:
            message.on_delivered()
        if self.trace.listening:
            self.trace.emit(MessageDelivered(sint, message.message_type, message.sender))
        vector = self._raises[sint]
        if vector:
            self.vp.apic.accept(vector)

    def _hear_eoi(self, sint: int) -> None:
        """A message waits: the EOI of the SINT's vector is a chance to deliver it."""
        register = self.sints[sint]
        if register.vector >= LOWEST_VECTOR:
            self.vp.apic.hear_eoi(register.vector)

    @staticmethod
    def _release(message: QueuedMessage) -> None:
        if message.on_delivered is not None:
            message.on_delivered()


def cover_or_fault(space: GpaSpace, page: int, overlay: Overlay) -> None:
    """Lay *overlay* over *page* for a guest's WRMSR: what a hypercall would refuse is #GP(0) there.

    # Simplified: without memory for tables the guest gets #GP; Hyper-V asks the parent for more.
    """
    if page >= space.page_limit:
        raise GuestFault(13, 0)
    try:
        space.cover(page, overlay)
    except HypercallError as error:
        raise GuestFault(13, 0) from error

"""VID: takes what children could not do themselves, and hands it to the worker of the VM.

The hypervisor puts an intercept message into slot 0 of root's message page and raises an interrupt. VID reads the
slot, frees it, asks for the next one, and gives the message to whoever registered for the partition; TLFS "Intercepts",
"SynIC Message Processing".
"""

from __future__ import annotations

from collections.abc import Callable

from hv.root.processor import RootProcessor
from hv.spec.msrs import HvScontrol, HvSimp, HvSynicSint, Msr
from hv.spec.synic import MESSAGE_PENDING, MESSAGE_SIZE, SINT_INTERCEPT, HvMessage, HvMessageType

INTERCEPT_VECTOR = 0x30
_EMPTY = int(HvMessageType.NONE).to_bytes(4, "little")     # of a slot, which begins with the message's type

InterceptHandler = Callable[[HvMessage], None]


class Vid:
    """Dispatches intercept messages by partition."""

    def __init__(self, processor: RootProcessor) -> None:
        self._processor, self._memory = processor, processor.memory
        self._handlers: dict[int, InterceptHandler] = {}
        self._threads: dict[int, list[int]] = {}        # partition -> its VPs that have one
        page = processor.memory.allocate()[0]
        self._slot = page * 4096 + SINT_INTERCEPT * MESSAGE_SIZE
        processor.connect_interrupt(INTERCEPT_VECTOR, self._on_interrupt)
        processor.wrmsr(Msr.HV_SIMP, HvSimp(enable=1, gpfn=page).raw)
        processor.wrmsr(Msr.HV_SINT0 + SINT_INTERCEPT, HvSynicSint(vector=INTERCEPT_VECTOR).raw)
        processor.wrmsr(Msr.HV_SCONTROL, HvScontrol(enable=1).raw)

    def register(self, partition_id: int, handler: InterceptHandler) -> None:
        """From now on *handler* gets the intercepts of this partition."""
        self._handlers[partition_id] = handler

    def unregister(self, partition_id: int) -> None:
        """Messages of this partition are dropped from now on, and its VPs have no threads."""
        self._handlers.pop(partition_id, None)
        for vp_index in self._threads.pop(partition_id, []):
            self._processor.connect_thread(partition_id, vp_index, None)

    def connect_thread(self, partition_id: int, vp_index: int, thread: Callable[[], int]) -> None:
        """*thread* goes on where HvCallDispatchVp of that VP comes back, and gives the flags of its next call."""
        self._threads.setdefault(partition_id, []).append(vp_index)
        self._processor.connect_thread(partition_id, vp_index, thread)

    def _on_interrupt(self) -> None:
        while (message := self._take()) is not None:
            handler = self._handlers.get(message.header.sender)
            if handler is not None:
                handler(message)
            if not message.header.message_flags & MESSAGE_PENDING:
                return                  # the next one comes with an interrupt of its own

    def _take(self) -> HvMessage | None:
        """The message in the slot, which is free afterwards; None when it is empty. The order is the protocol's:
        read, free, and only then look whether more wait."""
        found = self._memory.read(self._slot, MESSAGE_SIZE)
        if found[: len(_EMPTY)] == _EMPTY:
            return None
        message = HvMessage.parse(found)
        self._memory.write(self._slot, _EMPTY)
        if message.header.message_flags & MESSAGE_PENDING:
            self._processor.wrmsr(Msr.HV_EOM, 0)
        return message

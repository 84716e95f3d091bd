"""A network card: rings of descriptors in guest memory, one to send and one to receive, as NICs of today have them.

Where the DMA engine has registers for one copy, this device is given work by lists in memory, and tells there how it
went. Each function is an interface of its own; a switch on the card (`ring_wire.py`) takes frames between them.
Its registers are BAR 0 (`RingRegisters`), a register is written and read whole, as one or two aligned dwords:

| offset | size | register | |
|---|---|---|---|
| 00 | 4 RO | ID | "RING" |
| 04 | 4 RO | STATUS | `RingStatus` |
| 08 | 4 | CONTROL | `RingControl` |
| 0C | 4 | CAUSE | `RingCause`: what has happened; written ones clear |
| 10 | 4 | ENABLE | causes that interrupt; one that becomes enabled while it stands does at once |
| 14 | 4 | MODERATION | microseconds between two interrupts of the same cause, 0..65535 |
| 18 | 8 RO | ADDRESS | the Ethernet address, first byte lowest |
| 20 | 8 RO | ABORTED | the address in memory behind the last error: refused by the IOMMU, or of the bad descriptor |
| 28 | 4 RO | SENT | frames, since the function was enabled |
| 2C | 4 RO | RECEIVED | likewise |
| 30 | 4 RO | DROPPED | frames for which no buffer was given |
| 40 | 8 | TX_BASE | of the transmit ring, a multiple of 16; CONTROL.enabled = 0 when written, likewise the next |
| 48 | 4 | TX_SIZE | descriptors, a power of two, 2..1024 |
| 4C | 4 RO | TX_HEAD | the device has come so far |
| 50 | 4 | TX_TAIL | the guest has given so far: the doorbell |
| 60 | 8 | RX_BASE | of the receive ring, as above |
| 68 | 4 | RX_SIZE | |
| 6C | 4 RO | RX_HEAD | |
| 70 | 4 | RX_TAIL | |

A descriptor (`RingDescriptor`) is one piece of a frame. A frame to be sent is the pieces up to one with END. One
doorbell starts the work and the device goes on until it has come to the tail, frame by frame: 1 us and one tick per
byte of virtual time each. It reads the pieces, hands the frame to the switch, writes length, flags and DONE into each
descriptor by DMA, and interrupts if one of them asks for it. A received frame fills as many of the receive ring's
buffers as it needs; END marks the last. Nothing is partly received: what finds too little room is dropped and counted.

Interrupts are 0 for sent, 1 for received, 2 for errors, by MSI-X or by MSI. MODERATION puts a least time between two of
the same number: what happens earlier is announced together, when the time is over.

A mistake stops the function: STATUS.error and its code, CAUSE.error, and nothing moves until CONTROL.enabled is written
0 and 1 again. A wrong register access is told in STATUS and changes nothing else.
"""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from hv.machine.clock import TSC_HZ, Timer, VirtualClock
from hv.machine.descriptor_ring import (
    LARGEST_FRAME,
    SMALLEST_FRAME,
    DescriptorFlags,
    DescriptorRing,
    Piece,
    RingError,
    RingFault,
)
from hv.machine.device_registers import find
from hv.machine.pci import Bar, BarKind, DmaPort, PciFunction, all_ones
from hv.machine.ring_wire import Wire
from hv.spec.layout import Layout, Register, bits, raw, u32, u64
from hv.spec.pci import DeviceId
from hv.trace import events
from hv.trace.bus import Trace

DEVICE_MAGIC = int.from_bytes(b"RING", "little")
TICKS_PER_US = TSC_HZ // 1_000_000
SETUP_TICKS = TICKS_PER_US              # of one frame
TX, RX, ERROR = 0, 1, 2                 # causes, and the numbers of their interrupts
_CAUSES, _MODERATION = 0b111, 0xFFFF
_END, _INTERRUPT = DescriptorFlags.END.value, DescriptorFlags.INTERRUPT.value


class RingRegisters(Layout):
    """BAR 0 of the device, 128 bytes of 4096."""

    id: u32
    status: u32
    control: u32
    cause: u32
    enable: u32
    moderation: u32
    address: u64
    aborted: u64
    sent: u32
    received: u32
    dropped: u32
    reserved0: raw[12]
    tx_base: u64
    tx_size: u32
    tx_head: u32
    tx_tail: u32
    reserved1: raw[12]
    rx_base: u64
    rx_size: u32
    rx_head: u32
    rx_tail: u32
    reserved2: raw[12]


class RingStatus(Register):
    """STATUS."""

    WIDTH: ClassVar[int] = 32
    enabled = bits(0)
    error = bits(1)
    sending = bits(2)
    code = bits(11, 8)                  # RingError


class RingControl(Register):
    """CONTROL."""

    WIDTH: ClassVar[int] = 32
    enabled = bits(0)                   # 0 to 1: both rings are empty, counters 0; to 0: nothing moves any more
    loopback = bits(1)                  # frames sent are received by this function, and nobody else


class RingCause(Register):
    """CAUSE and ENABLE."""

    WIDTH: ClassVar[int] = 32
    sent = bits(TX)
    received = bits(RX)
    error = bits(ERROR)


_SETTINGS = frozenset({"tx_base", "tx_size", "rx_base", "rx_size"})     # kept while the function is disabled


class RingNic(PciFunction):
    """The function with requester id *rid*, on *clock*; its frames go by *wire*."""

    DEVICE_ID: ClassVar[int] = DeviceId.NETWORK_CARD.value
    CLASS_CODE: ClassVar[tuple[int, int, int]] = (0x02, 0x00, 0x00)    # network, Ethernet
    BARS: ClassVar[tuple[Bar, ...]] = (Bar(0, 4096, BarKind.MEMORY_64),)
    MESSAGES: ClassVar[int] = 4

    def __init__(self, rid: int, upstream: DmaPort, clock: VirtualClock, wire: Wire,
                 trace: Trace | None = None) -> None:
        super().__init__(rid, upstream)
        self.clock, self.wire, self.trace = clock, wire, trace or Trace()
        self.address = b"\x02HV\0" + rid.to_bytes(2, "big")             # locally administered
        self.tx, self.rx = DescriptorRing(self), DescriptorRing(self)
        self._took = False                                              # the last frame that came
        self._work: Timer | None = None                                 # the step of sending that is under way
        self._held: list[Timer | None] = [None] * 3                     # interrupts that wait for their time
        self._open_at = [0] * 3                                         # when the next of each may be sent
        self._clear()
        wire.stations.append(self)

    def _clear(self) -> None:
        self.registers = RingRegisters(id=DEVICE_MAGIC, address=int.from_bytes(self.address, "little"))
        self.status, self.control = RingStatus(), RingControl()

    def reset_device(self) -> None:
        """Nothing is under way any more."""
        self._stop()
        self._clear()
        self.tx, self.rx = DescriptorRing(self), DescriptorRing(self)
        self._open_at = [0] * 3

    # --- registers -------------------------------------------------------------------------------------

    def read_register(self, offset: int, size: int) -> int:
        """A register, or half of one of eight bytes; all ones for anything else."""
        found = find(RingRegisters, offset, size)
        if found is None:
            return all_ones(size)
        self._show()
        value = getattr(self.registers, found[0])
        number = int.from_bytes(value, "little") if isinstance(value, bytes) else value
        return number >> found[1] & all_ones(size)

    def _show(self) -> None:
        """Write what the function knows into its registers."""
        shown = self.registers
        shown.status, shown.control = self.status.raw, self.control.raw
        shown.tx_head, shown.tx_tail, shown.rx_head, shown.rx_tail = (
            self.tx.head, self.tx.tail, self.rx.head, self.rx.tail)

    def write_register(self, offset: int, size: int, value: int) -> None:
        """Write a register, or half of one; to a read-only one nothing happens, a wrong access is an error."""
        found = find(RingRegisters, offset, size)
        if found is None or found[0].startswith("reserved"):
            self.status.error, self.status.code = 1, RingError.ACCESS
            return
        name, shift = found
        if name in _SETTINGS:
            if not self.status.enabled:
                kept = getattr(self.registers, name) & ~(all_ones(size) << shift)
                setattr(self.registers, name, kept | value << shift)
        elif name in _WRITERS:
            _WRITERS[name](self, value)

    def _write_control(self, value: int) -> None:
        was = self.control.enabled
        self.control = RingControl(enabled=value & 1, loopback=value >> 1 & 1)
        if was and not self.control.enabled:
            self._stop()
            self.status = RingStatus()
        elif self.control.enabled and not was:
            self._guarded(self._start)

    def _write_cause(self, value: int) -> None:
        self.registers.cause &= ~value

    def _write_enable(self, value: int) -> None:
        news = value & ~self.registers.enable & self.registers.cause & _CAUSES
        self.registers.enable = value & _CAUSES
        for number in (TX, RX, ERROR):
            if news >> number & 1:
                self._announce(number)

    def _write_moderation(self, value: int) -> None:
        self.registers.moderation = value & _MODERATION

    def _write_tx_tail(self, value: int) -> None:
        if self._moves:
            self._guarded(partial(self.tx.give, value))
            self._next()

    def _write_rx_tail(self, value: int) -> None:
        if self._moves:
            self._guarded(partial(self.rx.give, value))

    # --- life ------------------------------------------------------------------------------------------

    @property
    def _moves(self) -> bool:
        return bool(self.status.enabled) and self.status.code in (RingError.NONE, RingError.ACCESS)

    def _start(self) -> None:
        registers = self.registers
        registers.sent = registers.received = registers.dropped = registers.aborted = 0
        self.status = RingStatus()
        self.tx.open(registers.tx_base, registers.tx_size)
        self.rx.open(registers.rx_base, registers.rx_size)
        self.status.enabled = 1

    def _stop(self) -> None:
        for timer in (self._work, *self._held):
            self.clock.cancel(timer)
        self._work, self._held = None, [None] * 3

    def _guarded(self, step: Callable[[], None]) -> bool:
        """Do a step of the work; False, and the function stands still, when it met what it cannot use."""
        try:
            step()
        except RingFault as fault:
            self.status.error, self.status.code, self.status.sending = 1, fault.error, 0
            self.registers.aborted = fault.address
            self.clock.cancel(self._work)
            if self.trace.listening:
                self.trace.emit(events.DeviceStopped(self.rid, fault.error.name, fault.address))
            self._happened(ERROR)
            return False
        return True

    def _do(self, step: Callable[[], None]) -> None:
        """A step whose time has come."""
        self._guarded(step)

    # --- sending ---------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Look for the next frame, unless one is under way."""
        if self._moves and not self.tx.is_empty and not self.status.sending:
            self.status.sending = 1
            self._work = self.clock.at(self.clock.tsc + SETUP_TICKS, partial(self._do, self._fetch))

    def _fetch(self) -> None:
        pieces = self.tx.frame()
        if pieces is None:
            self.status.sending = 0             # the guest has not given the end of it; its doorbell goes on
            return
        size = sum(piece.length for piece in pieces)
        if not SMALLEST_FRAME <= size <= LARGEST_FRAME:
            raise RingFault(RingError.FRAME)
        self._work = self.clock.at(self.clock.tsc + size, partial(self._do, partial(self._send, pieces)))

    def _send(self, pieces: list[Piece]) -> None:
        frame = b"".join([self.tx.read(piece.address, piece.length) for piece in pieces])
        self._hand_over(frame)
        for piece in pieces:
            self.tx.give_back(piece, piece.length, piece.flags)
        self.registers.sent = self.registers.sent + 1 & 0xFFFF_FFFF
        if any(piece.flags & _INTERRUPT for piece in pieces):
            self._happened(TX)
        self.status.sending = 0
        self._next()

    def _hand_over(self, frame: bytes) -> None:
        if self.control.loopback:
            takers: tuple[int, ...] = (self.rid,) if self.receive(frame) else ()
        else:
            takers = self.wire.send(self, frame)
        if self.trace.listening:
            self.trace.emit(events.FrameSent(self.rid, len(frame), takers))

    # --- receiving -------------------------------------------------------------------------------------

    def receive(self, frame: bytes) -> bool:
        """Take a frame into the buffers that the guest has given; False when it was dropped."""
        return self._moves and self._guarded(partial(self._store, frame)) and self._took

    def _store(self, frame: bytes) -> None:
        pieces = self.rx.room(len(frame))
        self._took = pieces is not None
        if pieces is None:
            self.registers.dropped = self.registers.dropped + 1 & 0xFFFF_FFFF
            return
        done = 0
        for piece in pieces:
            part = frame[done : done + piece.length]
            self.rx.write(piece.address, part)
            done += len(part)
            self.rx.give_back(piece, len(part), _END if done == len(frame) else 0)
        self.registers.received = self.registers.received + 1 & 0xFFFF_FFFF
        self._happened(RX)

    # --- interrupts ------------------------------------------------------------------------------------

    def _happened(self, number: int) -> None:
        self.registers.cause |= 1 << number
        if self.registers.enable >> number & 1:
            self._announce(number)

    def _announce(self, number: int) -> None:
        """Interrupt now, or when the time since the last one is over; what is announced already is not again."""
        if self._held[number] is not None:
            return
        now = self.clock.tsc
        if now >= self._open_at[number]:
            self._open_at[number] = now + self.registers.moderation * TICKS_PER_US
            self.interrupt(number)
        else:
            self._held[number] = self.clock.at(self._open_at[number], partial(self._held_over, number))

    def _held_over(self, number: int) -> None:
        """The time is over: interrupt, unless the guest has seen to it in the meantime."""
        self._held[number] = None
        if self.registers.cause & self.registers.enable & 1 << number:
            self._announce(number)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        self._show()
        return {**super().inspect(), "registers": self.registers.inspect(), "status": self.status.inspect(),
                "tx": self.tx.inspect(), "rx": self.rx.inspect()}


_WRITERS: dict[str, Callable[[RingNic, int], None]] = {
    "control": RingNic._write_control,
    "cause": RingNic._write_cause,
    "enable": RingNic._write_enable,
    "moderation": RingNic._write_moderation,
    "tx_tail": RingNic._write_tx_tail,
    "rx_tail": RingNic._write_rx_tail,
}

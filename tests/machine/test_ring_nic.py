"""The network card: rings in memory, frames between functions, and what becomes of those who write nonsense there."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.machine.clock import VirtualClock
from hv.machine.descriptor_ring import MOST_PIECES, DescriptorFlags, DescriptorStatus, RingDescriptor, RingError
from hv.machine.ring_nic import (
    DEVICE_MAGIC,
    ERROR,
    RX,
    SETUP_TICKS,
    TICKS_PER_US,
    TX,
    RingNic,
    RingRegisters,
    RingStatus,
)
from hv.machine.ring_wire import Wire
from hv.spec.pci import MsixControl, PciCommand, PciHeader
from hv.trace import events
from hv.trace.bus import Trace

AT = RingRegisters.offset_of
TX_RING, RX_RING, SIZE = 0x1000, 0x2000, 8
FRAMES, BUFFERS = 0x10000, 0x20000
END, INTERRUPT = DescriptorFlags.END.value, DescriptorFlags.INTERRUPT.value
EVERYBODY = b"\xff" * 6


class FakeMemory:
    """256 KiB of its own for each function, behind a port that refuses the pages in *refused*."""

    def __init__(self) -> None:
        self.data: dict[int, bytearray] = {}
        self.refused: set[int] = set()
        self.messages: list[tuple[int, int]] = []
        self.requests = 0

    def of(self, rid: int) -> bytearray:
        return self.data.setdefault(rid, bytearray(0x40000))

    def _refuses(self, iova: int, size: int) -> bool:
        self.requests += 1
        return iova + size > 0x40000 or any(page in self.refused for page in range(iova >> 12, (iova + size >> 12) + 1))

    def dma_read(self, source_id: int, iova: int, size: int) -> bytes | None:
        return None if self._refuses(iova, size) else bytes(self.of(source_id)[iova : iova + size])

    def dma_write(self, source_id: int, iova: int, data: bytes) -> bool:
        if self._refuses(iova, len(data)):
            return False
        self.of(source_id)[iova : iova + len(data)] = data
        return True

    def message(self, source_id: int, address: int, data: int) -> None:
        self.messages.append((source_id, data))


class Interface:
    """A function and what its driver does."""

    def __init__(self, bench: Bench, rid: int) -> None:
        self.bench, self.rid = bench, rid
        self.nic = RingNic(rid, bench.memory, bench.clock, bench.wire, bench.trace)
        self.nic.config_write(PciHeader.offset_of("command"), 2, PciCommand(memory_enabled=1, bus_master=1).raw)
        for number in range(3):
            self.nic.write(number * 16 + 8, 4, 0x40 + number, self.nic.MSIX_BAR)
            self.nic.write(number * 16 + 12, 4, 0, self.nic.MSIX_BAR)
        self.nic.config_write(self.nic.msix.offset + 2, 2, MsixControl(enabled=1).raw)
        self.set(tx_base=TX_RING, tx_size=SIZE, rx_base=RX_RING, rx_size=SIZE, enable=0b111)
        self.set(control=1)

    def set(self, **registers: int) -> None:
        for name, value in registers.items():
            offset, kind = RingRegisters.FIELDS[name]
            self.nic.write(offset, kind.size, value)

    def get(self, name: str) -> int:
        offset, kind = RingRegisters.FIELDS[name]
        return self.nic.read(offset, kind.size)

    @property
    def memory(self) -> bytearray:
        return self.bench.memory.of(self.rid)

    @property
    def status(self) -> RingStatus:
        return RingStatus(self.get("status"))

    def put(self, ring: int, at: int, address: int, length: int, flags: int = 0, status: int = 0) -> None:
        self.memory[ring + at * 16 : ring + at * 16 + 16] = RingDescriptor(
            address=address, length=length, flags=flags, status=status).pack()

    def at(self, ring: int, at: int) -> RingDescriptor:
        return RingDescriptor.parse(self.memory, ring + at * 16)

    def send(self, frame: bytes, at: int = 0, flags: int = END | INTERRUPT) -> None:
        self.memory[FRAMES : FRAMES + len(frame)] = frame
        self.put(TX_RING, at, FRAMES, len(frame), flags)
        self.set(tx_tail=(at + 1) % SIZE)

    def give_buffers(self, *lengths: int) -> None:
        for at, length in enumerate(lengths):
            self.put(RX_RING, at, BUFFERS + at * 0x1000, length)
        self.set(rx_tail=len(lengths))

    @property
    def vectors(self) -> list[int]:
        return [data - 0x40 for rid, data in self.bench.memory.messages if rid == self.rid]


class Bench:
    """A card with functions 0x18 and 0x19, and one more for each that is asked for."""

    def __init__(self, count: int = 2) -> None:
        self.memory, self.clock, self.wire, self.trace = FakeMemory(), VirtualClock(), Wire(), Trace()
        self.records: list[object] = []
        self.trace.listen(lambda record: self.records.append(record.event))
        self.all = [Interface(self, 0x18 + number) for number in range(count)]

    def run(self) -> None:
        while self.clock.skip_to_next():
            self.clock.run_due()


def a_frame(to: bytes, size: int = 64) -> bytes:
    return to + bytes(n * 7 & 0xFF for n in range(size - 6))


def test_the_registers_are_128_bytes_and_begin_with_the_id():
    bench = Bench()
    assert (RingRegisters.SIZE, bench.all[0].get("id"), RingDescriptor.SIZE) == (128, DEVICE_MAGIC, 16)
    assert bench.all[0].get("address").to_bytes(8, "little") == b"\x02HV\0\0\x18\0\0"


def test_a_frame_goes_from_one_function_to_another():
    bench = Bench()
    a, b = bench.all
    frame = a_frame(b.nic.address)
    b.give_buffers(2048)
    a.send(frame)
    assert a.status.sending
    bench.run()
    assert bytes(b.memory[BUFFERS : BUFFERS + 64]) == frame
    assert b.at(RX_RING, 0) == RingDescriptor(address=BUFFERS, length=64, flags=END, status=DescriptorStatus.DONE)
    assert a.at(TX_RING, 0).status == DescriptorStatus.DONE
    assert (a.get("sent"), b.get("received"), a.get("tx_head"), b.get("rx_head")) == (1, 1, 1, 1)
    assert (a.vectors, b.vectors, a.get("cause"), b.get("cause")) == ([TX], [RX], 1 << TX, 1 << RX)
    assert bench.records == [events.FrameSent(a.rid, 64, (b.rid,))]


def test_a_frame_takes_a_microsecond_and_a_tick_per_byte():
    bench = Bench()
    bench.all[0].send(a_frame(EVERYBODY, 1000))
    bench.run()
    assert bench.clock.tsc == SETUP_TICKS + 1000


def test_a_scatter_list_is_gathered_and_scattered():
    """Three pieces are sent, and four buffers filled; END is the last's."""
    bench = Bench()
    a, b = bench.all
    frame = a_frame(b.nic.address, 3000)
    b.give_buffers(1000, 500, 1000, 1000)
    a.memory[FRAMES : FRAMES + 3000] = frame
    for at, (start, end, flags) in enumerate(((0, 14, 0), (14, 2000, 0), (2000, 3000, END))):
        a.put(TX_RING, at, FRAMES + start, end - start, flags)
    a.set(tx_tail=3)
    bench.run()
    got = [b.at(RX_RING, at) for at in range(4)]
    assert [(one.length, one.flags) for one in got] == [(1000, 0), (500, 0), (1000, 0), (500, END)]
    assert b"".join(bytes(b.memory[one.address : one.address + one.length]) for one in got) == frame
    assert a.vectors == [], "nobody asked for an interrupt"


@pytest.mark.parametrize(("to", "takers"), [
    (EVERYBODY, [1, 2]), (b"\x02HV\0\0\x19", [1]), (b"\x02HV\0\0\x18", [0]), (b"\x02HV\0\0\x77", [])])
def test_the_switch_looks_at_the_destination(to, takers):
    """IEEE 802.3: a group's frame is everybody's but the sender's; one to nobody is lost, and sent all the same."""
    bench = Bench(3)
    for each in bench.all:
        each.give_buffers(2048)
    bench.all[0].send(a_frame(to))
    bench.run()
    assert [number for number, each in enumerate(bench.all) if each.get("received")] == takers
    assert bench.all[0].get("sent") == 1


def test_in_loopback_a_function_hears_itself_and_nobody_does():
    bench = Bench()
    for each in bench.all:
        each.give_buffers(2048)
    bench.all[0].set(control=3)
    bench.all[0].send(a_frame(EVERYBODY))
    bench.run()
    assert [each.get("received") for each in bench.all] == [1, 0]


@pytest.mark.parametrize("buffers", [(), (63,), (32, 31)])
def test_what_finds_too_little_room_is_dropped_whole(buffers):
    bench = Bench()
    a, b = bench.all
    b.give_buffers(*buffers)
    before = bytes(b.memory)
    a.send(a_frame(b.nic.address))
    bench.run()
    assert (bytes(b.memory), b.get("dropped"), b.get("rx_head"), b.vectors) == (before, 1, 0, [])
    assert bench.records[-1].takers == ()


def test_one_doorbell_sends_all_that_was_given_and_the_ring_goes_round():
    bench = Bench()
    a, b = bench.all
    for round_ in range(3):
        b.set(control=0)
        b.set(control=1)
        b.give_buffers(*[2048] * 7)
        for at in range(5):
            a.put(TX_RING, (round_ * 5 + at) % SIZE, FRAMES, 64, END)
        a.memory[FRAMES : FRAMES + 64] = a_frame(b.nic.address)
        a.set(tx_tail=(round_ + 1) * 5 % SIZE)
        bench.run()
        assert b.get("received") == 5
    assert (a.get("sent"), a.get("tx_head")) == (15, 15 % SIZE)


def test_a_frame_without_its_end_waits_for_the_next_doorbell():
    bench = Bench()
    a, b = bench.all
    b.give_buffers(2048)
    a.send(a_frame(b.nic.address, 20), flags=0)
    bench.run()
    assert (a.get("sent"), a.status.sending, a.status.error) == (0, 0, 0)
    a.put(TX_RING, 1, FRAMES + 100, 30, END)
    a.set(tx_tail=2)
    bench.run()
    assert (a.get("sent"), b.at(RX_RING, 0).length) == (1, 50)


# --- interrupts ---------------------------------------------------------------------------------------------------


def test_moderation_puts_a_least_time_between_two_interrupts_of_a_cause():
    bench = Bench()
    a, b = bench.all
    b.set(moderation=50)
    b.give_buffers(*[2048] * 6)
    times = []
    message = bench.memory.message
    bench.memory.message = lambda rid, address, data: (times.append(bench.clock.tsc), message(rid, address, data))
    for at in range(6):
        a.put(TX_RING, at, FRAMES, 64, END)
    a.memory[FRAMES : FRAMES + 64] = a_frame(b.nic.address)
    a.set(tx_tail=6)
    bench.run()
    assert (b.get("received"), b.vectors) == (6, [RX, RX])
    assert times[1] - times[0] == 50 * TICKS_PER_US


def test_a_held_interrupt_whose_cause_was_cleared_is_not_sent():
    bench = Bench()
    a, b = bench.all
    b.set(moderation=1000)
    b.give_buffers(2048, 2048)
    a.memory[FRAMES : FRAMES + 64] = a_frame(b.nic.address)
    for at in range(2):
        a.put(TX_RING, at, FRAMES, 64, END)
    a.set(tx_tail=2)
    while b.get("received") < 2:
        bench.clock.skip_to_next()
        bench.clock.run_due()
    b.set(cause=1 << RX)
    bench.run()
    assert b.vectors == [RX]


def test_a_cause_that_stands_interrupts_when_it_becomes_enabled():
    bench = Bench()
    a = bench.all[0]
    a.set(enable=0)
    a.send(a_frame(EVERYBODY))
    bench.run()
    assert (a.vectors, a.get("cause")) == ([], 1 << TX)
    a.set(enable=1 << TX)
    assert a.vectors == [TX]


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("registers", "error"), [
    ({"tx_base": 8}, RingError.RING), ({"tx_size": 0}, RingError.RING), ({"tx_size": 2048}, RingError.RING),
    ({"rx_size": 6}, RingError.RING), ({"rx_size": 1}, RingError.RING)], ids=str)
def test_a_ring_that_is_none_does_not_start(registers, error):
    a = Bench().all[0]
    a.set(control=0)
    a.set(**registers)
    a.set(control=1)
    assert (a.status.error, a.status.code, a.status.enabled, a.vectors) == (1, error, 0, [ERROR])


@pytest.mark.parametrize(("descriptor", "error", "aborted"), [
    ((FRAMES, 0, END), RingError.DESCRIPTOR, TX_RING), ((FRAMES, 65537, END), RingError.DESCRIPTOR, TX_RING),
    ((FRAMES, 2**32 - 1, END), RingError.DESCRIPTOR, TX_RING), ((FRAMES, 64, 4), RingError.DESCRIPTOR, TX_RING),
    ((FRAMES, 64, END, 1), RingError.DESCRIPTOR, TX_RING), ((FRAMES, 13, END), RingError.FRAME, 0),
    ((0x5000, 64, END), RingError.READ_ABORTED, 0x5000), ((2**64 - 1, 64, END), RingError.READ_ABORTED, 2**64 - 1),
    ((2**64 - 64, 64, END), RingError.READ_ABORTED, 2**64 - 64), ((1 << 52, 64, END), RingError.READ_ABORTED, 1 << 52),
    ((0xFEE00000, 14, END), RingError.READ_ABORTED, 0xFEE00000)], ids=str)
def test_a_bad_descriptor_stops_the_function_until_it_is_started_again(descriptor, error, aborted):
    bench = Bench()
    bench.memory.refused = {5}
    a = bench.all[0]
    a.put(TX_RING, 0, *descriptor)
    a.set(tx_tail=1)
    bench.run()
    assert (a.status.error, a.status.code, a.get("aborted"), a.get("sent")) == (1, error, aborted, 0)
    assert (a.vectors, bench.records) == ([ERROR], [events.DeviceStopped(a.rid, error.name, aborted)])
    a.send(a_frame(EVERYBODY))
    bench.run()
    assert a.get("sent") == 0
    a.set(control=0)
    a.set(control=1)
    a.send(a_frame(EVERYBODY))
    bench.run()
    assert (a.get("sent"), a.status.error) == (1, 0)


def test_a_frame_of_too_many_pieces_and_one_that_is_too_long():
    bench = Bench()
    a = bench.all[0]
    for pieces, length, error in ((MOST_PIECES + 1, 16, RingError.CHAIN), (3, 32768, RingError.FRAME)):
        a.set(control=0)
        a.set(tx_size=64)
        a.set(control=1)
        for at in range(pieces):
            a.put(TX_RING, at, FRAMES, length, END if at == pieces - 1 else 0)
        a.set(tx_tail=pieces)
        bench.run()
        assert (a.status.code, a.get("tx_head")) == (error, 0)


def test_a_ring_that_goes_round_without_an_end_costs_one_look():
    """All descriptors without END: the device reads each at most once for a doorbell, and waits."""
    bench = Bench()
    a = bench.all[0]
    for at in range(SIZE):
        a.put(TX_RING, at, FRAMES, 64)
    before = bench.memory.requests
    a.set(tx_tail=SIZE - 1)
    bench.run()
    assert (bench.memory.requests - before, a.status.error, a.status.sending) == (SIZE - 1, 0, 0)


@pytest.mark.parametrize("name", ["tx_tail", "rx_tail"])
def test_a_tail_beyond_the_ring(name):
    a = Bench().all[0]
    a.set(**{name: SIZE})
    assert (a.status.error, a.status.code) == (1, RingError.TAIL)


def test_a_receiver_with_a_bad_ring_stops_itself_and_not_the_sender():
    bench = Bench()
    a, b = bench.all
    b.put(RX_RING, 0, BUFFERS, 0)
    b.set(rx_tail=1)
    a.send(a_frame(b.nic.address))
    bench.run()
    assert (b.status.code, b.vectors, a.get("sent"), a.status.error) == (RingError.DESCRIPTOR, [ERROR], 1, 0)
    assert bench.records[-1] == events.FrameSent(a.rid, 64, ())


def test_buffers_the_iommu_refuses():
    bench = Bench()
    bench.memory.refused = {0x21}
    a, b = bench.all
    b.give_buffers(32, 64)
    a.send(a_frame(b.nic.address))
    bench.run()
    assert (b.status.code, b.get("aborted"), a.get("sent")) == (RingError.WRITE_ABORTED, BUFFERS + 0x1000, 1)


def test_settings_are_kept_while_the_function_is_enabled():
    a = Bench().all[0]
    a.set(tx_base=0x9000, rx_size=4)
    assert (a.get("tx_base"), a.get("rx_size")) == (TX_RING, SIZE)


@pytest.mark.parametrize(("offset", "size"), [
    (0, 1), (2, 2), (AT("control"), 8), (4, 8), (1, 4), (0x34, 4), (0x200, 4)])
def test_an_access_of_the_wrong_size_or_place_is_told_and_stops_nothing(offset, size):
    bench = Bench()
    a = bench.all[0]
    a.nic.write(offset, size, 0)
    a.send(a_frame(EVERYBODY))
    bench.run()
    assert (a.status.error, a.status.code, a.status.enabled, a.get("sent")) == (1, RingError.ACCESS, 1, 1)


def test_disabling_and_resetting_stop_what_is_under_way():
    bench = Bench()
    a, b = bench.all
    b.give_buffers(2048)
    a.send(a_frame(b.nic.address))
    a.set(control=0)
    bench.run()
    assert (b.get("received"), a.status.raw) == (0, 0)
    a.set(control=1)
    a.send(a_frame(b.nic.address))
    a.nic.reset_device()
    bench.run()
    assert (b.get("received"), a.get("tx_base"), a.get("enable"), a.get("control")) == (0, 0, 0, 0)


WORD = st.integers(0, 2**32 - 1) | st.sampled_from((0, 1, 2, 3, 8, 0xFFFF, FRAMES, TX_RING))
WRITE = st.tuples(st.sampled_from(range(0, 0x84, 4)) | st.integers(0, 0x84), st.sampled_from((4, 4, 4, 8, 2)), WORD)
DESCRIPTOR = st.tuples(st.integers(0, SIZE - 1), st.integers(0, 2**64 - 1) | st.just(FRAMES), st.integers(0, 70000),
                       st.integers(0, 3) | st.integers(0, 2**16 - 1), st.sampled_from((0, 0, 0, 1)))


@settings(max_examples=60, deadline=None)
@given(st.lists(WRITE | DESCRIPTOR, max_size=30))
def test_no_driver_breaks_the_card_or_hangs_it(acts):
    """Every act takes a bounded number of requests, whatever was done before, and the other function goes on."""
    bench = Bench()
    a, b = bench.all
    b.give_buffers(*[2048] * 7)
    for act in acts:
        if len(act) == 3:
            a.nic.write(*act)
        else:
            for ring in (TX_RING, RX_RING):
                a.put(ring, *act)
        bench.run()
        assert bench.memory.requests < 4000
        bench.memory.requests = 0
        a.nic.read(act[0], 4)
    b.send(a_frame(EVERYBODY))
    bench.run()
    assert b.get("sent") == 1

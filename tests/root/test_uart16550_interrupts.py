"""COM1's interrupts, FIFOs and loop-back; National Semiconductor "PC16550D"."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.root.vdev.uart16550 import COM1, Register, Uart16550
from tests.root.bench_clock import Clock, Wire

R = Register
NONE, LINE_ERROR, RECEIVED, TIME_OUT, TRANSMITTED, MODEM = 0x01, 0x06, 0x04, 0x0C, 0x02, 0x00
FIFO_14, FIFO_1 = 0xC7, 0x07
OUT2, LOOP = 0x08, 0x10


def characters(count):
    """How many ticks they take at the divisor after reset, 12."""
    return count * 10 * 16 * 12 * 2_000_000_000 // 1_843_200


class Port:
    """A UART with a line, OUT2 on, and interrupts *enabled*."""

    def __init__(self, enabled=0, fifos=0, timers=None):
        self.sent, self.wire = bytearray(), Wire()
        self.uart = Uart16550(COM1.start, self.sent.append, self.wire, timers)
        self.write(R.MODEM_CONTROL, OUT2)
        self.write(R.INTERRUPT_ID, fifos)
        self.write(R.INTERRUPT_ENABLE, enabled)

    def read(self, register):
        return self.uart.read_port(COM1.start + register, 1)

    def write(self, register, value):
        self.uart.write_port(COM1.start + register, 1, value)

    @property
    def cause(self):
        return self.read(R.INTERRUPT_ID) & 0xF

    def read_all(self):
        data = bytearray()
        while self.read(R.LINE_STATUS) & 1:
            data.append(self.read(R.DATA))
        return bytes(data)


def test_an_empty_transmitter_is_told_once_to_who_asks():
    """"Interrupt Identification Register": reading it, when it names the transmitter, takes the interrupt back."""
    port = Port(enabled=2)
    assert (port.wire.level, port.cause) == (True, TRANSMITTED)
    assert (port.wire.level, port.cause) == (False, NONE)
    port.write(R.INTERRUPT_ENABLE, 0)
    port.write(R.INTERRUPT_ENABLE, 2)
    assert port.cause == TRANSMITTED


def test_each_byte_sent_is_an_edge_for_who_waits_for_the_transmitter():
    port = Port(enabled=2)
    for byte in b"abc":
        port.write(R.DATA, byte)
    assert (port.wire.level, port.wire.rises, port.sent) == (True, 4, b"abc")


def test_who_enables_nothing_is_told_nothing():
    port = Port()
    port.uart.receive(b"x")
    port.write(R.DATA, 0x41)
    assert (port.wire.level, port.cause) == (False, NONE)


def test_out2_gates_the_line_and_not_the_register():
    port = Port(enabled=1)
    port.uart.receive(b"x")
    port.write(R.MODEM_CONTROL, 0)
    assert (port.wire.level, port.cause) == (False, RECEIVED)
    port.write(R.MODEM_CONTROL, OUT2)
    assert port.wire.level


def test_the_most_urgent_cause_is_named_first():
    """"Interrupt Control Functions": line status, received data, transmitter, modem status."""
    port = Port(enabled=0xF)
    port.uart.receive_break()
    port.write(R.MODEM_CONTROL, OUT2 | LOOP)        # the modem lines change
    port.write(R.MODEM_CONTROL, OUT2)
    assert port.cause == LINE_ERROR
    assert port.read(R.LINE_STATUS) & 0x1F == 0x11
    assert port.cause == RECEIVED
    assert port.read(R.DATA) == 0
    assert port.cause == TRANSMITTED
    assert port.cause == MODEM
    assert port.read(R.MODEM_STATUS) == 0xB3        # CTS and DSR went and came
    assert (port.cause, port.wire.level) == (NONE, False)


@pytest.mark.parametrize(("fifos", "level"), [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
def test_a_fifo_tells_at_its_trigger_level_and_of_fewer_by_the_time_out(fifos, level):
    port = Port(enabled=1, fifos=fifos)
    port.uart.receive(bytes(level))
    assert port.cause == RECEIVED
    port.read(R.DATA)
    assert port.cause == (TIME_OUT if level > 1 else NONE)
    assert port.wire.level is (level > 1)


@pytest.mark.parametrize(("fifos", "room"), [(0, 1), (FIFO_14, 16)])
def test_what_does_not_fit_waits_and_follows_as_the_guest_reads(fifos, room):
    port = Port(enabled=1, fifos=fifos)
    text = bytes(range(40))
    port.uart.receive(text)
    assert len(port.uart.waiting) == 40 - room
    assert port.read_all() == text
    assert port.uart.inspect()["received"] == 40


def test_with_timers_characters_take_the_time_that_the_divisor_gives_them():
    clock = Clock()
    port = Port(enabled=1, fifos=FIFO_1, timers=clock)
    port.uart.receive(bytes(20))
    clock.advance(characters(16) - 1)
    assert not port.wire.level
    clock.advance(1)
    assert len(port.read_all()) == 16
    assert clock.pending == 1
    clock.advance(characters(4))
    assert len(port.read_all()) == 4
    assert clock.pending == 0


@pytest.mark.parametrize("fifos", [0, FIFO_1])
def test_in_loop_back_what_is_sent_is_received(fifos):
    port = Port(enabled=1, fifos=fifos)
    port.write(R.MODEM_CONTROL, OUT2 | LOOP)
    port.write(R.DATA, 0x5A)
    assert (port.cause, port.wire.level) == (RECEIVED, False)
    assert (port.read_all(), port.sent) == (b"\x5a", b"")


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 0x20), (2, 0x10), (4, 0x40), (8, 0x80), (0xA, 0x90), (0, 0)])
def test_in_loop_back_the_modem_outputs_are_its_inputs(outputs, inputs):
    """"Modem Control Register" bit 4. 0xA is what Linux probes a 16550 with."""
    port = Port()
    port.write(R.MODEM_CONTROL, LOOP | outputs)
    assert port.read(R.MODEM_STATUS) & 0xF0 == inputs


def test_the_end_of_ringing_is_told_its_beginning_is_not():
    port = Port()
    port.write(R.MODEM_CONTROL, LOOP)
    port.read(R.MODEM_STATUS)
    port.write(R.MODEM_CONTROL, LOOP | 4)
    assert port.read(R.MODEM_STATUS) == 0x40
    port.write(R.MODEM_CONTROL, LOOP)
    assert port.read(R.MODEM_STATUS) == 0x04


@pytest.mark.parametrize(("fifos", "kept"), [(0, b"\x10"), (FIFO_1, bytes(range(16)))])
def test_too_much_is_an_overrun(fifos, kept):
    """"Line Status Register" bit 1: the register holds the newest character; a FIFO is kept as it is."""
    port = Port(enabled=4, fifos=fifos)
    port.write(R.MODEM_CONTROL, OUT2 | LOOP)
    for byte in range(17):
        port.write(R.DATA, byte)
    assert port.cause == LINE_ERROR
    assert port.read(R.LINE_STATUS) == 0x63
    assert port.cause == NONE
    assert port.read_all() == kept


def test_a_break_is_told_when_its_character_is_next():
    port = Port(enabled=5, fifos=FIFO_1)
    port.uart.receive(b"a")
    port.uart.receive_break()
    assert port.read(R.LINE_STATUS) == 0xE1             # there is an error in the FIFO, not of this one
    assert port.cause == RECEIVED
    port.read(R.DATA)
    assert port.cause == LINE_ERROR
    assert port.read(R.LINE_STATUS) == 0xF1
    assert port.read(R.LINE_STATUS) == 0x61


def test_fifos_are_emptied_on_request_and_when_they_are_switched():
    port = Port(fifos=FIFO_1)
    for control in (0x03, 0x00):
        port.uart.receive(b"abc")
        port.write(R.INTERRUPT_ID, control)
        assert port.read(R.LINE_STATUS) & 1 == 0


def test_reset_is_the_state_after_power_on():
    port = Port(enabled=3, fifos=FIFO_14)
    port.uart.receive(b"abc")
    port.uart.reset()
    assert not port.wire.level
    assert [port.read(register) for register in range(8)] == [0, 0, NONE, 0, 0, 0x60, 0xB0, 0]


ACCESS = st.tuples(st.integers(0, 9), st.sampled_from([1, 2, 4]), st.integers(0, 0xFFFF_FFFF), st.booleans())


@given(st.lists(ACCESS, max_size=80))
def test_no_accesses_raise_or_set_more_than_one_alarm(steps):
    clock = Clock()
    port = Port(timers=clock)
    for register, size, value, write in steps:
        if register > 7:
            port.uart.receive(bytes(value % 40))
            clock.advance(value)
        elif write:
            port.uart.write_port(COM1.start + register, size, value & (1 << 8 * size) - 1)
        else:
            assert 0 <= port.uart.read_port(COM1.start + register, size) < 1 << 8 * size
        assert clock.pending <= 1
        assert len(port.uart.fifo) <= 16
        assert port.wire.level is port.uart.asserted

"""COM1, register by register; National Semiconductor "PC16550D"."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.root.vdev.uart16550 import COM1, Register, Uart16550

DLAB = 0x80


class Port:
    """A UART at COM1; *sent* is what came out."""

    def __init__(self):
        self.sent = bytearray()
        self.uart = Uart16550(COM1.start, self.sent.append)

    def read(self, register, size=1):
        return self.uart.read_port(COM1.start + register, size)

    def write(self, register, value, size=1):
        self.uart.write_port(COM1.start + register, size, value)


def test_what_is_written_to_data_comes_out_in_order():
    port = Port()
    for byte in b"hello":
        port.write(Register.DATA, byte)
    assert port.sent == b"hello"
    assert port.uart.inspect()["sent"] == 5


def test_it_is_always_ready_for_the_next_byte():
    """LSR bits 5 and 6: transmitter holding and shift register empty. Nothing was received: bit 0 is clear."""
    assert Port().read(Register.LINE_STATUS) == 0x60


def test_nothing_is_ever_received():
    assert Port().read(Register.DATA) == 0


@pytest.mark.parametrize(("register", "written", "read"), [
    pytest.param(Register.SCRATCH, 0xA5, 0xA5, id="scratch"),
    pytest.param(Register.LINE_CONTROL, 0x03, 0x03, id="line-control"),
    pytest.param(Register.INTERRUPT_ENABLE, 0xFF, 0x0F, id="interrupt-enable-has-four-bits"),
    pytest.param(Register.MODEM_CONTROL, 0xFF, 0x1F, id="modem-control-has-five-bits"),
    pytest.param(Register.LINE_STATUS, 0x00, 0x60, id="line-status-is-read-only"),
    pytest.param(Register.MODEM_STATUS, 0x00, 0xB0, id="modem-status-is-read-only"),
])
def test_a_register_keeps_what_it_has_room_for(register, written, read):
    port = Port()
    port.write(register, written)
    assert port.read(register) == read
    assert not port.sent


def test_behind_dlab_the_first_two_registers_are_the_divisor():
    """PC16550D "Programmable Baud Generator"."""
    port = Port()
    port.write(Register.INTERRUPT_ENABLE, 0x05)
    port.write(Register.LINE_CONTROL, DLAB | 3)
    port.write(Register.DATA, 0x34)
    port.write(Register.INTERRUPT_ENABLE, 0x12)
    assert (port.read(Register.DATA), port.read(Register.INTERRUPT_ENABLE)) == (0x34, 0x12)
    assert port.uart.divisor == 0x1234
    port.write(Register.LINE_CONTROL, 3)
    assert port.read(Register.INTERRUPT_ENABLE) == 0x05
    assert not port.sent


def test_the_interrupt_register_says_none_and_whether_the_fifo_is_on():
    port = Port()
    assert port.read(Register.INTERRUPT_ID) == 0x01
    port.write(Register.INTERRUPT_ID, 0x01)
    assert port.read(Register.INTERRUPT_ID) == 0xC1


@pytest.mark.parametrize("size", [2, 4])
def test_a_wider_access_is_one_register_with_ones_above(size):
    port = Port()
    assert port.read(Register.LINE_STATUS, size) == (1 << 8 * size) - 0x100 | 0x60
    port.write(Register.DATA, 0x4142_4344, size)
    assert port.sent == b"D"


@given(st.lists(st.tuples(st.integers(0, 7), st.sampled_from([1, 2, 4]), st.integers(0, 0xFFFF_FFFF), st.booleans())))
def test_no_access_is_more_than_a_register_has(steps):
    port = Port()
    for register, size, value, write in steps:
        if write:
            port.write(register, value & (1 << 8 * size) - 1, size)
        else:
            assert 0 <= port.read(register, size) < 1 << 8 * size
    assert port.uart.sent == len(port.sent)


def test_the_port_begins_at_9600_baud_with_nothing_sent():
    shown = Port().uart.inspect()
    assert (shown["divisor"], shown["sent"], shown["line_control"]) == (12, 0, 0)
    assert Port().read(Register.INTERRUPT_ID) == 0x01


@pytest.mark.parametrize(("written", "read"), [(0x01, 0xC1), (0xC7, 0xC1), (0x06, 0x01), (0x00, 0x01)])
def test_the_fifos_are_on_when_bit_0_says_so(written, read):
    """PC16550D "FIFO Control Register": bits 7:6 of the IIR tell."""
    port = Port()
    port.write(Register.INTERRUPT_ID, written)
    assert port.read(Register.INTERRUPT_ID) == read


def test_each_half_of_the_divisor_leaves_the_other():
    port = Port()
    port.write(Register.LINE_CONTROL, DLAB)
    for register, value in ((0, 0x34), (1, 0x12), (0, 0x56)):
        port.write(register, value)
    assert port.uart.inspect()["divisor"] == 0x1256
    port.write(1, 0)
    assert port.uart.inspect()["divisor"] == 0x56

"""The I/O APIC, pin by pin; Intel "82093AA I/O Advanced Programmable Interrupt Controller" (IOAPIC), ICH "APIC"."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.root.msi import Msi
from hv.root.vdev.io_apic import IoApic

SELECT, WINDOW, EOI = 0x00, 0x10, 0x40
MASKED, LEVEL, REMOTE_IRR, LOGICAL = 1 << 16, 1 << 15, 1 << 14, 1 << 11


class Bench:
    """An I/O APIC; *sent* is what came out, *takes* whether anybody takes it."""

    def __init__(self):
        self.sent, self.takes = [], True
        self.chip = IoApic(self.send)

    def send(self, msi):
        self.sent.append(msi)
        return self.takes

    def read(self, index):
        self.chip.write_memory(SELECT, 4, index)
        return self.chip.read_memory(WINDOW, 4)

    def write(self, index, value):
        self.chip.write_memory(SELECT, 4, index)
        self.chip.write_memory(WINDOW, 4, value)

    def entry(self, pin, low, high=0):
        self.write(0x11 + 2 * pin, high)
        self.write(0x10 + 2 * pin, low)

    def low(self, pin):
        return self.read(0x10 + 2 * pin)

    def pulse(self, pin):
        self.chip.set_pin(pin, True)
        self.chip.set_pin(pin, False)

    @property
    def vectors(self):
        return [msi.data & 0xFF for msi in self.sent]


@pytest.fixture
def bench():
    return Bench()


# --- registers ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("index", "value"), [
    pytest.param(0x00, 0x0F00_0000, id="id"),
    pytest.param(0x01, 0x0017_0020, id="version-20-with-24-entries"),
    pytest.param(0x02, 0x0F00_0000, id="arbitration-is-the-id"),
    pytest.param(0x03, 0, id="absent"),
    pytest.param(0x10, MASKED, id="first-entry-is-masked"),
    pytest.param(0x11, 0, id="first-entry-high"),
    pytest.param(0x3E, MASKED, id="last-entry"),
    pytest.param(0x40, 0, id="behind-the-last-entry"),
    pytest.param(0xFF, 0, id="last-index"),
])
def test_a_register_after_reset(bench, index, value):
    assert bench.read(index) == value


@pytest.mark.parametrize(("index", "written", "read"), [
    pytest.param(0x00, 0xFFFF_FFFF, 0x0F00_0000, id="id-has-four-bits"),
    pytest.param(0x01, 0, 0x0017_0020, id="version-is-read-only"),
    pytest.param(0x02, 0x0300_0000, 0x0F00_0000, id="arbitration-is-read-only"),
    pytest.param(0x10, 0xFFFF_FFFF, 0x0001_AFFF, id="status-and-remote-irr-are-read-only"),
    pytest.param(0x11, 0xFFFF_FFFF, 0xFFFF_0000, id="destination-and-remappable-bits"),
    pytest.param(0x40, 0xFFFF_FFFF, 0, id="nothing-behind-the-last-entry"),
])
def test_a_register_keeps_what_it_has_room_for(bench, index, written, read):
    bench.write(index, written)
    assert bench.read(index) == read


@pytest.mark.parametrize("size", [1, 2, 8])
def test_the_window_takes_dwords_and_the_index_any_size(bench, size):
    bench.chip.write_memory(SELECT, size, 0x10)
    assert bench.chip.read_memory(SELECT, 4) == 0x10
    bench.chip.write_memory(WINDOW, size, 0x31)
    assert bench.chip.read_memory(WINDOW, 4) == MASKED
    assert bench.chip.read_memory(WINDOW, size) == 0


@pytest.mark.parametrize("offset", [1, 0x04, 0x11, 0x14, 0x20, 0x41, 0x3FC])
def test_between_the_registers_there_is_nothing(bench, offset):
    bench.chip.write_memory(SELECT, 4, 0x10)
    bench.chip.write_memory(offset, 4, 0xFFFF_FFFF)
    assert bench.chip.read_memory(offset, 4) == 0
    assert bench.chip.read_memory(WINDOW, 4) == MASKED


# --- messages -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("low", "high", "address", "data"), [
    pytest.param(0x31, 0, 0xFEE0_0000, 0x31, id="fixed"),
    pytest.param(0x131, 0x0300_0000, 0xFEE0_3000, 0x131, id="lowest-priority-to-3"),
    pytest.param(LOGICAL | 0x31, 0xFF00_0000, 0xFEEF_F004, 0x31, id="logical"),
    pytest.param(LEVEL | 0x31, 0, 0xFEE0_0000, 0xC031, id="level"),
    pytest.param(LEVEL | 0x400, 0, 0xFEE0_0000, 0x400, id="an-nmi-is-an-edge-always"),
    pytest.param(0x700, 0x0100_0000, 0xFEE0_1000, 0x700, id="extint"),
    pytest.param(0x31, 0x0102_0000, 0xFEE0_1020, 0x31, id="extended-destination"),
    pytest.param(LOGICAL | 0x31, 0x1235_0000, 0xFEE1_2354, 0x31, id="remappable-with-a-handle-of-16-bits"),
])
def test_an_entry_says_what_is_sent(bench, low, high, address, data):
    """SDM "Message Address Register Format"; VT-d "I/OxAPIC Programming"."""
    bench.entry(5, low, high)
    bench.pulse(5)
    assert bench.sent == [Msi(address, data)]


# --- edges ----------------------------------------------------------------------------------------------------------

def test_each_edge_is_sent_once(bench):
    bench.entry(4, 0x34)
    for asserted in (True, True, False, False, True):
        bench.chip.set_pin(4, asserted)
    assert bench.vectors == [0x34, 0x34]


def test_an_edge_at_a_masked_entry_is_lost(bench):
    """82093AA "Interrupt Mask": not delivered or held pending."""
    bench.entry(4, MASKED | 0x34)
    bench.chip.set_pin(4, True)
    bench.entry(4, 0x34)
    assert bench.vectors == []
    bench.chip.set_pin(4, False)
    bench.chip.set_pin(4, True)
    assert bench.vectors == [0x34]


# --- levels ---------------------------------------------------------------------------------------------------------

def test_a_level_is_sent_once_until_its_eoi_and_again_while_it_lasts(bench):
    bench.entry(9, LEVEL | 0x39)
    bench.chip.set_pin(9, True)
    assert bench.low(9) == LEVEL | REMOTE_IRR | 0x39
    bench.chip.set_pin(9, False)
    bench.chip.set_pin(9, True)
    assert bench.vectors == [0x39]
    bench.chip.end_of_interrupt(0x38)
    assert bench.vectors == [0x39]
    bench.chip.end_of_interrupt(0x39)
    assert bench.vectors == [0x39, 0x39]
    bench.chip.set_pin(9, False)
    bench.chip.end_of_interrupt(0x39)
    assert bench.vectors == [0x39, 0x39]
    assert bench.low(9) == LEVEL | 0x39


def test_software_ends_it_by_the_eoi_register(bench):
    """ICH "EOI Register": for processors that do not broadcast."""
    bench.entry(9, LEVEL | 0x39)
    bench.chip.set_pin(9, True)
    bench.chip.write_memory(EOI, 4, 0x39)
    assert bench.vectors == [0x39, 0x39]
    assert bench.chip.read_memory(EOI, 4) == 0


def test_a_level_is_sent_when_it_is_unmasked_but_not_twice(bench):
    bench.entry(9, LEVEL | MASKED | 0x39)
    bench.chip.set_pin(9, True)
    assert bench.vectors == []
    bench.entry(9, LEVEL | 0x39)
    bench.entry(9, LEVEL | MASKED | 0x39)
    bench.entry(9, LEVEL | 0x39)
    assert bench.vectors == [0x39]


def test_masked_it_hears_of_its_end_and_waits(bench):
    bench.entry(9, LEVEL | 0x39)
    bench.chip.set_pin(9, True)
    bench.entry(9, LEVEL | MASKED | 0x39)
    bench.chip.end_of_interrupt(0x39)
    assert (bench.vectors, bench.low(9)) == ([0x39], LEVEL | MASKED | 0x39)
    bench.entry(9, LEVEL | 0x39)
    assert bench.vectors == [0x39, 0x39]


def test_edge_mode_forgets_remote_irr(bench):
    """What software does when it has changed the vector before the EOI."""
    bench.entry(9, LEVEL | 0x39)
    bench.chip.set_pin(9, True)
    bench.entry(9, LEVEL | 0x49)
    bench.chip.end_of_interrupt(0x39)
    assert bench.low(9) == LEVEL | REMOTE_IRR | 0x49
    bench.entry(9, MASKED | 0x49)
    bench.entry(9, LEVEL | 0x49)
    assert bench.vectors == [0x39, 0x49]


def test_two_pins_with_one_vector_end_together(bench):
    for pin in (9, 10):
        bench.entry(pin, LEVEL | 0x39)
        bench.chip.set_pin(pin, True)
    bench.chip.end_of_interrupt(0x39)
    assert bench.vectors == [0x39] * 4


def test_what_nobody_took_has_no_remote_irr(bench):
    """82093AA "Remote IRR": set when a local APIC accepts."""
    bench.takes = False
    bench.entry(9, LEVEL | 0x39)
    bench.chip.set_pin(9, True)
    assert bench.low(9) == LEVEL | 0x39
    bench.takes = True
    bench.entry(9, LEVEL | 0x39)
    assert bench.low(9) == LEVEL | REMOTE_IRR | 0x39


def test_a_reset_masks_every_pin(bench):
    bench.entry(9, LEVEL | 0x39)
    bench.chip.set_pin(9, True)
    bench.write(0, 0x0300_0000)
    bench.chip.reset()
    assert (bench.low(9), bench.read(0), bench.vectors) == (MASKED, 0x0F00_0000, [0x39])
    bench.entry(9, LEVEL | 0x49)
    assert bench.vectors == [0x39, 0x49]


def test_it_shows_what_is_not_as_after_reset(bench):
    bench.entry(9, LEVEL | 0x39, 0x0100_0000)
    bench.chip.set_pin(9, True)
    shown = bench.chip.inspect()
    assert shown["asserted"] == [9]
    assert list(shown["entries"]) == [9]
    assert (shown["entries"][9]["vector"], shown["entries"][9]["remote_irr"]) == (0x39, 1)


_STEPS = st.one_of(
    st.tuples(st.just("pin"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("low"), st.integers(0, 3), st.sampled_from([0x31, MASKED | 0x31, LEVEL | 0x32, LEVEL | 0x31,
                                                                  LEVEL | MASKED | 0x32, 0x400, LEVEL | 0x700])),
    st.tuples(st.just("eoi"), st.sampled_from([0x31, 0x32, 0]), st.none()),
    st.tuples(st.just("raw"), st.integers(0, 0x3FF), st.integers(0, 0xFFFF_FFFF)))


@given(st.lists(_STEPS, max_size=40), st.booleans())
def test_a_level_is_never_forgotten(steps, takes):
    """Whatever software does: a pin that is asserted, unmasked and level has sent, and waits for the EOI of it."""
    bench = Bench()
    bench.takes = takes
    for what, which, value in steps:
        match what:
            case "pin":
                bench.chip.set_pin(which, value)
            case "low":
                bench.write(0x10 + 2 * which, value)
            case "eoi":
                bench.chip.end_of_interrupt(which)
            case _:
                bench.chip.write_memory(which, 4, value)
        for pin, entry in enumerate(bench.chip.entries):
            if bench.chip.asserted[pin] and entry & LEVEL and not entry & (MASKED | 0x600):
                assert bool(entry & REMOTE_IRR) is takes

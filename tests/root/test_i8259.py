"""The two 8259s, command by command; Intel "8259A Programmable Interrupt Controller"."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.root.vdev.i8259 import I8259Pair

MASTER, SLAVE, TRIGGERS = 0x20, 0xA0, 0x4D0
EOI, SPECIFIC, ROTATE, READ_ISR, POLL = 0x20, 0x60, 0xA0, 0x0B, 0x0C


class Cpu:
    """The processor's end of INTR: what stands there, and what was taken."""

    def __init__(self):
        self.vector, self.rises, self.watched, self.was_taken, self.at_once = None, 0, False, False, False

    def taken(self):
        taken, self.was_taken = self.was_taken, False
        if taken:
            self.vector = None
        return taken

    def offer(self, vector, rises, watched):
        if self.at_once and vector != self.vector:
            self.at_once, self.vector = False, None
            return False
        self.vector, self.rises, self.watched = vector, self.rises + rises, watched
        return True

    def take(self):
        """INTA."""
        vector, self.was_taken = self.vector, True
        return vector


class Bench:
    """The pair as an operating system sets it up: vectors 0x20 and 0x28, nothing masked."""

    def __init__(self, icw4=1):
        self.cpu = Cpu()
        self.pair = I8259Pair(self.cpu)
        for base, icw2, icw3 in ((MASTER, 0x20, 4), (SLAVE, 0x28, 2)):
            self.out(base, 0x11)
            for icw in (icw2, icw3, icw4):
                self.out(base + 1, icw)

    def out(self, port, value):
        self.pair.write_port(port, 1, value)

    def read(self, port):
        return self.pair.read_port(port, 1)

    def up(self, *lines):
        for line in lines:
            self.pair.set_line(line, True)

    def down(self, *lines):
        for line in lines:
            self.pair.set_line(line, False)

    def pulse(self, *lines):
        for line in lines:
            self.up(line)
            self.down(line)

    def registers(self, base=MASTER):
        """IRR, ISR, IMR."""
        self.out(base, 0x0A)
        irr = self.read(base)
        self.out(base, READ_ISR)
        return irr, self.read(base), self.read(base + 1)

    def served(self, limit=20):
        """Vectors in the order in which a processor takes and ends them."""
        vectors = []
        while self.cpu.vector is not None and len(vectors) < limit:
            vectors.append(self.cpu.take())
            if vectors[-1] >= 0x28:
                self.out(SLAVE, EOI)
            self.out(MASTER, EOI)
        return vectors


@pytest.fixture
def bench():
    return Bench()


# --- initialization -------------------------------------------------------------------------------------------------

def test_the_firmware_leaves_everything_masked():
    cpu = Cpu()
    pair = I8259Pair(cpu)
    for line in range(16):
        pair.set_line(line, True)
    assert cpu.vector is None
    pair.write_port(MASTER + 1, 1, 0xFE)
    assert cpu.vector == 0x08
    pair.write_port(SLAVE + 1, 1, 0xFE)
    pair.write_port(MASTER + 1, 1, 0xFB)
    assert cpu.vector == 0x70


def test_a_reset_is_what_the_firmware_leaves():
    """The wires are not reset: a level that is still there is a request again, once it is unmasked."""
    bench = Bench()
    bench.pair = I8259Pair(bench.cpu, levels=1 << 9)
    assert [bench.read(TRIGGERS), bench.read(TRIGGERS + 1)] == [0, 2]
    bench.out(TRIGGERS, 0xFF)
    for port in (MASTER + 1, SLAVE + 1):
        bench.out(port, 0)
    bench.up(9, 5, 1)
    assert bench.cpu.take() == 0x09
    bench.pair.reset()
    assert [bench.cpu.vector, bench.read(TRIGGERS), bench.read(TRIGGERS + 1)] == [None, 0, 2]
    assert (bench.registers(), bench.registers(SLAVE)) == ((0, 0, 0xFF), (2, 0, 0xFF))
    bench.out(MASTER + 1, 0)
    bench.out(SLAVE + 1, 0)
    assert bench.served(1) == [0x71]


def test_icw1_clears_and_nothing_comes_until_the_last_icw(bench):
    """8259A "Initialization Command Words 1 and 2"."""
    bench.out(MASTER + 1, 0xFF)
    bench.up(3)
    bench.out(MASTER, 0x11)
    assert bench.read(MASTER + 1) == 0
    bench.up(4)
    for icw in (0x40, 4):
        assert bench.cpu.vector is None
        bench.out(MASTER + 1, icw)
    assert bench.cpu.vector is None
    bench.out(MASTER + 1, 1)
    assert bench.served() == [0x44]         # what was high before is no edge


@pytest.mark.parametrize(("icw1", "icws"), [(0x11, 3), (0x10, 2), (0x13, 2), (0x12, 1)],
                         ids=["all", "without-icw4", "single", "single-without-icw4"])
def test_icw1_says_how_many_follow(bench, icw1, icws):
    bench.out(MASTER, icw1)
    for icw in (0x40, 0, 0)[:icws]:
        bench.out(MASTER + 1, icw)
    bench.out(MASTER + 1, 0xA5)
    assert bench.read(MASTER + 1) == 0xA5
    bench.up(1)
    assert bench.cpu.vector == 0x41


# --- requests -------------------------------------------------------------------------------------------------------

def test_the_highest_comes_first(bench):
    """Input 0 is the highest; the slave's are where the master's input 2 is."""
    bench.pulse(7, 3, 15, 8, 1, 0)
    assert bench.served() == [0x20, 0x21, 0x28, 0x2F, 0x23, 0x27]


def test_a_higher_one_replaces_what_nobody_has_taken(bench):
    bench.pulse(5)
    assert bench.cpu.vector == 0x25
    bench.pulse(1)
    assert bench.cpu.vector == 0x21
    assert bench.cpu.rises == 1             # INTR was high all the time


def test_in_service_it_holds_back_what_is_not_higher(bench):
    """8259A "Fully Nested Mode"."""
    bench.pulse(5)
    bench.cpu.take()
    bench.pulse(5, 6)
    assert bench.cpu.vector is None
    bench.pulse(3)
    assert bench.cpu.take() == 0x23
    assert bench.registers() == (1 << 5 | 1 << 6, 1 << 3 | 1 << 5, 0)
    bench.out(MASTER, EOI)
    assert bench.cpu.vector is None
    bench.out(MASTER, EOI)
    assert bench.served() == [0x25, 0x26]


def test_the_mask_holds_back_and_keeps_the_request(bench):
    bench.out(MASTER + 1, 0x20)
    bench.pulse(5)
    assert bench.cpu.vector is None
    bench.out(MASTER + 1, 0)
    assert bench.cpu.vector == 0x25
    bench.out(MASTER + 1, 0x20)
    assert bench.cpu.vector is None


def test_an_edge_is_one_interrupt_and_a_level_as_many_as_it_lasts(bench):
    bench.out(TRIGGERS + 1, 0x02)
    bench.up(5)
    assert bench.served() == [0x25]
    bench.down(5)
    bench.up(9)
    assert bench.served(3) == [0x29] * 3
    assert bench.cpu.take() == 0x29
    bench.down(9)                           # the handler has served the device, and then ends the interrupt
    bench.out(SLAVE, EOI)
    bench.out(MASTER, EOI)
    assert bench.served() == []


def test_a_level_that_falls_is_no_request_any_more(bench):
    bench.out(TRIGGERS, 0x20)
    bench.up(5)
    assert bench.cpu.vector == 0x25
    bench.down(5)
    assert bench.cpu.vector is None
    assert bench.registers()[0] == 0


def test_it_falls_and_rises_anew_for_who_waits_for_edges(bench):
    """A local APIC with LINT0 fixed acknowledges nothing: each edge of the timer must be one of INTR."""
    for _ in range(3):
        bench.pulse(0)
    assert (bench.cpu.vector, bench.cpu.rises) == (0x20, 3)
    bench.pulse(8, 8)
    assert bench.cpu.rises == 3             # a lower one does not move INTR


@pytest.mark.parametrize("port", [TRIGGERS, TRIGGERS + 1])
def test_some_inputs_are_edges_always(bench, port):
    bench.out(port, 0xFF)
    assert bench.read(port) == (0xF8 if port == TRIGGERS else 0xDE)


# --- acknowledgement ------------------------------------------------------------------------------------------------

def test_the_registers_say_what_a_processor_has_taken_meanwhile(bench):
    bench.pulse(4)
    assert bench.registers() == (0x10, 0, 0)
    bench.cpu.take()
    assert bench.registers() == (0, 0x10, 0)


def test_one_that_is_taken_at_the_last_moment_is_served_first(bench):
    """Another thread runs the processor: between the look and the offer it may acknowledge."""
    bench.pulse(4)
    bench.cpu.at_once = True
    bench.pulse(1)
    assert bench.registers()[1] != 0


def test_without_a_request_it_is_input_7_and_nothing_is_in_service(bench):
    """8259A "Interrupt Sequence": a default IR7."""
    assert bench.pair.acknowledge() == 0x27
    assert bench.registers() == (0, 0, 0)


def test_a_slave_whose_request_is_gone_gives_its_input_7(bench):
    """The edge from the slave stays latched in the master, which has it in service; the slave has nothing."""
    bench.out(TRIGGERS + 1, 0x02)
    bench.up(9)
    bench.down(9)
    assert bench.cpu.vector == 0x2F
    bench.cpu.take()
    assert bench.registers() == (0, 4, 0)
    assert bench.registers(SLAVE) == (0, 0, 0)
    bench.out(MASTER, EOI)
    bench.pulse(10)
    assert bench.served() == [0x2A]


# --- ends -----------------------------------------------------------------------------------------------------------

def test_a_specific_eoi_ends_what_it_names(bench):
    bench.pulse(5)
    bench.cpu.take()
    bench.pulse(2, 3)
    bench.cpu.take()
    bench.out(MASTER, SPECIFIC + 5)
    assert bench.registers()[1] == 1 << 3


def test_an_eoi_of_nothing_is_nothing(bench):
    for command in (EOI, SPECIFIC + 3, ROTATE, 0xE3):
        bench.out(MASTER, command)
    assert bench.registers() == (0, 0, 0)


def test_the_slave_needs_two_eois(bench):
    bench.pulse(9)
    bench.cpu.take()
    bench.pulse(8)
    assert bench.cpu.vector is None         # higher, but the master's input 2 is in service
    bench.out(SLAVE, EOI)
    assert bench.cpu.vector is None
    bench.out(MASTER, EOI)
    assert bench.served() == [0x28]


def test_special_fully_nested_mode_lets_the_slave_interrupt_itself():
    """8259A "Special Fully Nested Mode"."""
    bench = Bench(icw4=0x11)
    bench.pulse(9)
    bench.cpu.take()
    bench.pulse(8)
    assert bench.cpu.take() == 0x28
    assert bench.registers(SLAVE)[1] == 3


def test_automatic_eoi_ends_at_once_and_is_watched():
    """8259A "Automatic End of Interrupt": nothing the guest writes says that the next one may come."""
    bench = Bench(icw4=3)
    bench.pulse(0, 1)
    assert (bench.cpu.vector, bench.cpu.watched) == (0x20, True)
    bench.cpu.take()
    bench.pair.refresh()
    assert bench.cpu.vector == 0x21
    assert bench.registers() == (2, 0, 0)


def test_automatic_eoi_of_the_slave_makes_a_new_edge_for_the_next():
    bench = Bench(icw4=3)
    bench.pulse(8, 9)
    for vector in (0x28, 0x29):
        assert bench.cpu.take() == vector
        bench.pair.refresh()
    assert bench.cpu.vector is None


# --- rotation and special mask --------------------------------------------------------------------------------------

@pytest.mark.parametrize(("commands", "order"), [
    pytest.param([0xC0 + 3], [0x24, 0x25, 0x21, 0x23], id="set-lowest"),
    pytest.param([], [0x21, 0x23, 0x24, 0x25], id="fixed"),
])
def test_the_lowest_priority_can_be_set(bench, commands, order):
    """8259A "Specific Rotation"."""
    bench.out(MASTER + 1, 0xFF)
    bench.pulse(1, 3, 4, 5)
    for command in commands:
        bench.out(MASTER, command)
    bench.out(MASTER + 1, 0)
    assert bench.served() == order


@pytest.mark.parametrize("command", [ROTATE, 0xE0 + 3], ids=["non-specific", "specific"])
def test_who_was_served_becomes_the_lowest(bench, command):
    """8259A "Automatic Rotation": equal priorities."""
    bench.pulse(3)
    bench.cpu.take()
    bench.pulse(3, 6)
    bench.out(MASTER, command)
    assert bench.cpu.vector == 0x26


@pytest.mark.parametrize(("command", "first"), [(0x80, 0x26), (0x00, 0x23)], ids=["set", "cleared"])
def test_rotation_in_automatic_eoi_mode(command, first):
    bench = Bench(icw4=3)
    bench.out(MASTER, 0x80)
    bench.out(MASTER, command)
    bench.pulse(3)
    bench.cpu.take()
    bench.pulse(3, 6)
    assert bench.cpu.vector == first


def test_the_special_mask_lets_lower_ones_through(bench):
    """8259A "Special Mask Mode": what is masked in service holds back nobody, and a plain EOI does not end it."""
    bench.pulse(2, 3)
    bench.cpu.take()
    bench.pulse(6)
    bench.out(MASTER, 0x68)
    bench.out(MASTER + 1, 1 << 3)
    assert bench.cpu.take() == 0x26
    bench.out(MASTER, EOI)
    bench.out(MASTER, EOI)
    assert bench.registers() == (0, 1 << 3, 1 << 3)
    bench.out(MASTER, 0x48)
    bench.pulse(6)
    assert bench.cpu.vector is None


# --- reading --------------------------------------------------------------------------------------------------------

def test_a_poll_acknowledges(bench):
    """8259A "Poll Command": one read in place of INTA."""
    bench.out(MASTER, POLL)
    assert bench.read(MASTER) == 0
    bench.pulse(5, 9)
    bench.out(MASTER, POLL)
    assert bench.read(MASTER) == 0x82
    bench.out(SLAVE, POLL)
    assert bench.read(SLAVE) == 0x81
    assert bench.registers() == (1 << 5, 1 << 2, 0)
    assert bench.registers(SLAVE)[:2] == (0, 1 << 1)
    assert bench.read(MASTER + 1) == 0


@pytest.mark.parametrize("size", [2, 4])
def test_a_wider_access_is_one_register_with_ones_above(bench, size):
    bench.pair.write_port(MASTER + 1, size, 0x1234_56A5 & (1 << 8 * size) - 1)
    assert bench.pair.read_port(MASTER + 1, size) == (1 << 8 * size) - 0x100 | 0xA5


def test_lines_above_15_are_the_io_apics_alone(bench):
    bench.up(2, 16, 23)
    assert bench.cpu.vector is None
    assert bench.registers() == (0, 0, 0)


def test_it_shows_both_chips(bench):
    bench.up(9)
    shown = bench.pair.inspect()
    assert (shown["slave"]["irr"], shown["slave"]["inputs"], shown["master"]["irr"]) == (2, 2, 4)
    assert shown["master"]["vector_base"] == 0x20


_STEPS = st.one_of(
    st.tuples(st.just("line"), st.integers(0, 23), st.booleans()),
    st.tuples(st.just("out"), st.sampled_from([0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1]), st.integers(0, 255)),
    st.tuples(st.just("in"), st.sampled_from([0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1]), st.none()),
    st.tuples(st.just("take"), st.none(), st.none()))


@given(st.lists(_STEPS, max_size=60))
def test_what_is_offered_is_what_inta_gives(steps):
    bench = Bench()
    for what, which, value in steps:
        match what:
            case "line":
                bench.pair.set_line(which, value)
            case "out":
                bench.out(which, value)
            case "in":
                assert 0 <= bench.read(which) <= 0xFF
            case _ if bench.cpu.vector is not None:
                before = bench.cpu.vector
                assert bench.pair.acknowledge() == before
                bench.pair.refresh()
    assert all(0 <= register <= 0xFF for base in (MASTER, SLAVE) for register in bench.registers(base))

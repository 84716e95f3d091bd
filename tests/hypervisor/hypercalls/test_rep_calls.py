"""Long rep calls: interrupted after 50 us or for an interrupt, continued where they stopped, and never free.

TLFS "Hypercall Continuation".
"""

import pytest

from hv.hypervisor.errors import CallInterrupted
from hv.hypervisor.hypercalls.door import hypercall, hypercall_to_end
from hv.hypervisor.hypercalls.registry import ATTEMPT_TICKS, REP_TICKS
from hv.hypervisor.memory.gpa_space import READ_WRITE, Overlay
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.hypercalls.memory import (
    DepositMemoryInput,
    GpaMapping,
    GpaPageNumber,
    MapGpaPagesInput,
    SparseGpaPagesInput,
    UnmapGpaPagesInput,
    WithdrawMemoryInput,
)
from hv.spec.hypercalls.registers import RegisterName, VpRegistersInput
from hv.spec.partition import PARTITION_ID_SELF, HvMapGpaFlags, HvUnmapGpaFlags
from hv.spec.x86 import LARGE_PAGES
from hv.trace.events import HypercallInterrupted
from tests.hypervisor.fakes import Machine

IN, OUT = 0x4000, 0x5000
AT_ONCE = ATTEMPT_TICKS // REP_TICKS
RAX, UNKNOWN = 0x20000, 0x999


@pytest.fixture
def machine():
    return Machine()


def ask_registers(machine, count, unknown=-1):
    """GetVpRegisters for RAX of root, *count* times over; element *unknown* names nothing."""
    names = [UNKNOWN if n == unknown else RAX for n in range(count)]
    header = VpRegistersInput(partition_id=PARTITION_ID_SELF)
    machine.memory.write(IN, header.pack() + b"".join(RegisterName(name=name).pack() for name in names))
    machine.root_vp.regs.rax = 0x5AFE
    return HypercallControl(call_code=C.GET_VP_REGISTERS, rep_count=count).raw


def unmap(machine, count):
    """UnmapGpaPages of *count* pages of a child, most of which never were."""
    child = machine.child()
    machine.memory.write(IN, UnmapGpaPagesInput(target_partition_id=child.id).pack())
    return child, HypercallControl(call_code=C.UNMAP_GPA_PAGES, rep_count=count).raw


class LargeReps:
    """Calls for a child's 2 MiB from page 512 on; what stands there are root's 2 MiB from 4 MiB on."""

    flags = HvMapGpaFlags.READABLE | HvMapGpaFlags.WRITABLE | HvMapGpaFlags.LARGE_PAGE
    sources = (1024, 1536, 2048, 2560)

    def __init__(self):
        self.machine = Machine(pages=8192)
        self.child = self.machine.child(vps=0)

    def map(self, count=1):
        header = MapGpaPagesInput(target_partition_id=self.child.id, map_flags=self.flags, target_gpa_base=LARGE_PAGES)
        pages = b"".join(GpaPageNumber(page_number=self.sources[n % 4]).pack() for n in range(count))
        return self._do(C.MAP_GPA_PAGES, header.pack() + pages, count)

    def map_sparse(self, count=1):
        header = SparseGpaPagesInput(target_partition_id=self.child.id, map_flags=self.flags)
        pages = b"".join(GpaMapping(target_gpa_page=(n + 1) * LARGE_PAGES, source_gpa_page=self.sources[n % 4]).pack()
                         for n in range(count))
        return self._do(C.MAP_SPARSE_GPA_PAGES, header.pack() + pages, count)

    def unmap(self, count=1):
        header = UnmapGpaPagesInput(target_partition_id=self.child.id, target_gpa_base=LARGE_PAGES,
                                    unmap_flags=HvUnmapGpaFlags.LARGE_PAGE)
        return self._do(C.UNMAP_GPA_PAGES, header.pack(), count)

    def _do(self, code, data, count):
        """How many reps the first attempt did, and what they cost, in usual reps."""
        self.machine.memory.write(IN, data)
        before = self.machine.clock.tsc
        answer = attempt(self.machine, HypercallControl(call_code=code, rep_count=count).raw)
        done = answer.rep_start if isinstance(answer, HypercallControl) else answer.reps_complete
        return done, (self.machine.clock.tsc - before) / REP_TICKS


@pytest.fixture
def large():
    return LargeReps()


def attempt(machine, control):
    """The control word to go on with, or the result."""
    try:
        return HypercallResult(hypercall(machine.hypervisor, machine.root_vp, control, IN, OUT))
    except CallInterrupted as interrupted:
        return HypercallControl(interrupted.control)


def test_a_long_call_stops_after_50_us_and_says_where_to_go_on(machine):
    child, control = unmap(machine, 1000)
    before = machine.clock.tsc
    more = attempt(machine, control)
    assert isinstance(more, HypercallControl)
    assert (more.rep_start, more.rep_count, more.call_code) == (AT_ONCE, 1000, C.UNMAP_GPA_PAGES)
    assert more.raw & ~HypercallControl(rep_start=0xFFF).raw == control
    assert machine.clock.tsc - before == ATTEMPT_TICKS
    assert machine.events(HypercallInterrupted) == [HypercallInterrupted(C.UNMAP_GPA_PAGES, AT_ONCE, 1000)]
    assert not list(child.space.mappings())


@pytest.mark.parametrize("call", ["map", "map_sparse", "unmap"])
def test_a_rep_of_2_mib_is_the_work_of_32_so_fewer_are_done_at_once(large, call):
    act = getattr(large, call)
    assert act(1) == (1, 32)
    assert getattr(LargeReps(), call)(100) == (AT_ONCE // 32, AT_ONCE // 32 * 32)


@pytest.mark.parametrize("call", ["map", "map_sparse"])
def test_2_mib_where_something_stands_are_512_pages_of_work(large, call):
    """And then one is more than an attempt should be, but one is always done."""
    large.map(2)
    assert getattr(large, call)(2) == (1, 512)
    large.child.space.map(4 * LARGE_PAGES, 500, 7)
    assert large.map_sparse(4) == (1, 512)


def test_an_overlay_is_unmapped_around_page_by_page(large):
    large.map()
    large.child.space.cover(LARGE_PAGES + 3, Overlay("test", large.child.pool.allocate(), READ_WRITE))
    assert large.unmap(2) == (1, 512)


def test_2_mib_that_a_device_sees_too_are_512_pages_of_work(large):
    """Its domain has pages of 4 KiB; where nothing stood nobody has to be told."""
    large.child.space.listeners.append(lambda page, mapping: None)
    assert large.map() == (1, 512)
    assert large.unmap() == (1, 512)
    assert large.unmap() == (1, 32)


def test_a_rep_of_2_mib_that_is_refused_is_not_charged(large):
    large.sources = (1024, 1, 1, 1)
    assert large.map(4) == (1, 32)


def test_the_reps_after_a_heavy_one_are_taken_to_be_as_heavy(large):
    """So an attempt is longer than it should be by one rep at most."""
    large.child.space.map(2 * LARGE_PAGES, 500, 7)
    done, cost = large.map(5)
    assert (done, cost) == (2, 32 + 512)


def test_in_a_finalized_partition_nothing_is_unmapped_and_nothing_weighs_more(large):
    large.map(2)
    large.machine.hypervisor.finalize_partition(large.child)
    assert large.unmap(200) == (200, 200)


@pytest.mark.parametrize("count", [1, AT_ONCE, AT_ONCE + 1, 4 * AT_ONCE - 1, 4095])
def test_attempts_add_up_to_the_whole(machine, count):
    """Each begins where the last one stopped; the reps completed are absolute; time is that of the reps."""
    _, word = unmap(machine, count)
    before, starts = machine.clock.tsc, [0]
    while isinstance(answer := attempt(machine, word), HypercallControl):
        starts.append(answer.rep_start)
        word = answer.raw
    assert (answer.status, answer.reps_complete) == (HvStatus.SUCCESS, count)
    assert starts == list(range(0, count, AT_ONCE))
    assert machine.clock.tsc - before == count * REP_TICKS


def test_who_is_no_machine_code_goes_on_at_once(machine):
    _, word = unmap(machine, 600)
    result = HypercallResult(hypercall_to_end(machine.hypervisor, machine.root_vp, word, IN, OUT))
    assert (result.status, result.reps_complete) == (HvStatus.SUCCESS, 600)
    assert len(machine.events(HypercallInterrupted)) == 2


def test_a_timer_that_comes_due_is_not_kept_waiting(machine):
    _, word = unmap(machine, 1000)
    machine.clock.at(machine.clock.tsc + 10 * REP_TICKS + 5, lambda: None)
    assert attempt(machine, word).rep_start == 10
    assert attempt(machine, word).rep_start == 1, "one rep is done whatever is due"


def test_an_interrupt_that_a_rep_causes_comes_before_the_next(machine):
    word = ask_registers(machine, 5)
    machine.root_vp.event_pending = True
    assert attempt(machine, word).rep_start == 1
    machine.root_vp.event_pending = False
    assert attempt(machine, word).reps_complete == 5


def test_the_outputs_of_each_attempt_stand_in_their_places(machine):
    """And those of the reps that are still to be done are not touched."""
    word = ask_registers(machine, 200)
    machine.memory.write(OUT, b"\xee" * 4096)
    machine.clock.at(machine.clock.tsc + 150 * REP_TICKS, lambda: None)
    more = attempt(machine, word)
    assert more.rep_start == 150
    value = (0x5AFE).to_bytes(16, "little")
    assert machine.memory.read(OUT, 4096) == value * 150 + b"\xee" * (4096 - 150 * 16)
    assert attempt(machine, HypercallControl(call_code=C.GET_VP_REGISTERS, rep_count=200, rep_start=199).raw) \
        .reps_complete == 200
    assert machine.memory.read(OUT + 150 * 16, 50 * 16) == b"\xee" * 49 * 16 + value


def test_a_rep_that_is_refused_ends_the_call_with_what_was_done(machine):
    """TLFS "Hypercall Outputs": meaningful for any status. The reps done are paid for."""
    word, before = ask_registers(machine, 4, unknown=2), machine.clock.tsc
    answer = attempt(machine, word)
    assert (answer.status, answer.reps_complete) == (HvStatus.INVALID_PARAMETER, 2)
    assert machine.clock.tsc - before == 2 * REP_TICKS


def test_what_an_interrupted_call_did_is_done_once(machine):
    """Pages go into the pool and come out again, each once, over several attempts."""
    child, count = machine.child(), 300
    machine.hypervisor.create_partition(machine.root)
    pages = [machine.fresh_page() for _ in range(count)]
    machine.memory.write(IN, DepositMemoryInput(partition_id=child.id).pack()
                         + b"".join(GpaPageNumber(page_number=page).pack() for page in pages))
    available = child.pool.available
    word = HypercallControl(call_code=C.DEPOSIT_MEMORY, rep_count=count).raw
    assert HypercallResult(hypercall_to_end(machine.hypervisor, machine.root_vp, word, IN, OUT)).reps_complete == count
    assert child.pool.available == available + count
    machine.memory.write(IN, WithdrawMemoryInput(partition_id=child.id).pack())
    word = HypercallControl(call_code=C.WITHDRAW_MEMORY, rep_count=count).raw
    result = HypercallResult(hypercall_to_end(machine.hypervisor, machine.root_vp, word, IN, OUT))
    assert (result.status, result.reps_complete) == (HvStatus.SUCCESS, count)
    out = machine.memory.read(OUT, 8 * count)
    assert sorted(int.from_bytes(out[n : n + 8], "little") for n in range(0, 8 * count, 8)) == sorted(pages)

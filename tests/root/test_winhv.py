"""WinHv: pages, rep calls over many pages, deposit and retry, and what it raises."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.hypervisor.hypercalls.door import hypercall_to_end
from hv.root.winhv import DEPOSIT_BATCH, HvError, OutOfPages, RootMemory, WinHv
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.partition import PARTITION_ID_SELF, HvMapGpaFlags, HvUnmapGpaFlags
from tests.hypervisor.fakes import Machine


class Bench:
    """A real hypervisor with fake VPs, root's memory of *free* pages, and a door that notes what passes."""

    def __init__(self, free=512):
        self.machine = Machine(pages=2048)
        root, vp = self.machine.root, self.machine.root_vp
        self.words = []

        def door(control, input_gpa, output_gpa):
            self.words.append(HypercallControl(control))
            return hypercall_to_end(self.machine.hypervisor, vp, control, input_gpa, output_gpa)
        self.memory = RootMemory(root.space.read, root.space.write, range(64, 64 + free))
        self.winhv = WinHv(door, self.memory)

    def codes(self):
        return [HypercallCode(word.call_code) for word in self.words]


def test_a_whole_partition_by_hypercalls_alone():
    bench = Bench()
    winhv, free = bench.winhv, bench.memory.free_count
    child = winhv.create_partition()
    winhv.initialize_partition(child)
    ram = bench.memory.allocate(32)
    winhv.map_gpa_pages(child, 0, ram)
    winhv.create_vp(child, 0)
    winhv.set_vp_registers(child, 0, {N.RIP: 0x7C00, N.RSP: 0x7000})
    assert winhv.get_vp_register(child, 0, N.RIP) == 0x7C00
    winhv.delete_vp(child, 0)
    winhv.finalize_partition(child)
    bench.memory.free(ram)
    assert winhv.withdraw_memory(child)
    assert winhv.get_memory_balance(child) == (0, 0)
    winhv.delete_partition(child)
    assert bench.memory.free_count == free
    assert winhv.children() == []


def test_insufficient_memory_is_answered_with_a_batch_and_the_call_again():
    bench = Bench()
    child = bench.winhv.create_partition()
    bench.winhv.initialize_partition(child)
    assert bench.codes() == [HypercallCode.CREATE_PARTITION, HypercallCode.INITIALIZE_PARTITION,
                             HypercallCode.DEPOSIT_MEMORY, HypercallCode.INITIALIZE_PARTITION]
    assert sum(bench.winhv.get_memory_balance(child)) == DEPOSIT_BATCH


def test_a_rep_call_goes_on_where_memory_ran_out():
    bench = Bench()
    child = bench.winhv.create_partition()
    bench.winhv.initialize_partition(child)
    for spread in range(12):
        bench.winhv.map_gpa_pages(child, spread << 18, bench.memory.allocate(1))
    assert len(list(bench.machine.hypervisor.partitions[child].space.mappings())) == 12
    assert HypercallCode.DEPOSIT_MEMORY in bench.codes()[4:]


def test_a_long_list_is_cut_into_pages():
    """At most 509 elements of a MapGpaPages fit its input page; 256 values fit an output page."""
    bench = Bench(free=1300)
    child = bench.winhv.create_partition()
    bench.winhv.initialize_partition(child)
    bench.words.clear()
    bench.winhv.map_gpa_pages(child, 0x40, bench.memory.allocate(1100))
    first = [word for word in bench.words if word.call_code == HypercallCode.MAP_GPA_PAGES and not word.rep_start]
    assert [word.rep_count for word in first] == [509, 509, 82]
    space = bench.machine.hypervisor.partitions[child].space
    assert [page for page, _ in space.mappings()] == list(range(0x40, 0x40 + 1100))
    bench.winhv.create_vp(child, 0)
    assert len(bench.winhv.get_vp_registers(child, 0, [N.RIP] * 300)) == 300
    bench.winhv.unmap_gpa_pages(child, 0x40, 1100)
    assert not list(space.mappings())


def test_every_other_status_is_raised_with_the_calls_name():
    with pytest.raises(HvError, match=r"^DELETE_PARTITION: INVALID_PARTITION_ID$") as caught:
        Bench().winhv.delete_partition(77)
    assert caught.value.status == HvStatus.INVALID_PARTITION_ID


def test_a_door_that_stops_early_is_entered_again():
    """TLFS "Hypercall Continuation": SUCCESS with fewer reps than asked means: go on from there."""
    done = []

    def door(control, input_gpa, output_gpa):
        word = HypercallControl(control)
        done.append(word.rep_start)
        return HypercallResult(status=0, reps_complete=min(word.rep_start + 3, word.rep_count)).raw
    winhv = WinHv(door, RootMemory(lambda gpa, size: bytes(size), lambda gpa, data: None, range(8)))
    winhv.deposit_memory(2, [1, 2, 3, 4, 5, 6, 7])
    assert done == [0, 3, 6]


def test_root_runs_out_of_pages_with_a_clear_word():
    bench = Bench(free=10)
    child = bench.winhv.create_partition()
    with pytest.raises(OutOfPages, match=r"^16 pages are wanted, 8 are free$"):
        bench.winhv.initialize_partition(child)


def test_pages_come_lowest_first_and_go_back():
    memory = RootMemory(lambda gpa, size: b"", lambda gpa, data: None, [5, 3, 9])
    assert memory.allocate(2) == [3, 5]
    memory.free([3])
    assert memory.allocate(2) == [3, 9]


@pytest.mark.parametrize(("free", "count", "run"), [
    (range(2048), 600, range(1024, 1624)), (range(2048), 512, range(1536, 2048)), (range(2048), 1, range(1536, 1537)),
    (range(1535), 512, range(512, 1024)), (range(511, 1025), 512, range(512, 1024)), (range(512), 512, range(512)),
    ([*range(600), *range(700, 1500)], 300, range(1024, 1324)), ([*range(600), *range(700, 1500)], 512, range(512)),
], ids=["from the top", "to the very end", "one", "aligned", "beside others", "all", "above a gap", "below a gap"])
def test_a_run_is_the_highest_that_begins_at_a_large_page(free, count, run):
    memory = RootMemory(lambda gpa, size: b"", lambda gpa, data: None, free)
    assert memory.allocate_run(count) == list(run)
    assert memory.allocate(memory.free_count) == sorted({*free} - {*run})


@pytest.mark.parametrize(("free", "count"), [([], 1), (range(1, 512), 1), (range(511), 512), (range(100, 1200), 700),
                                             ([*range(511), 512], 512)])
def test_without_such_a_run_no_page_is_taken(free, count):
    memory = RootMemory(lambda gpa, size: b"", lambda gpa, data: None, free)
    with pytest.raises(OutOfPages, match=f"^{count} consecutive pages are wanted, {len(free)} are free$"):
        memory.allocate_run(count)
    assert memory.free_count == len(free)


class Scripted:
    """A door that answers with *answers*, (status, reps completed), one after the other; deposits succeed."""

    def __init__(self, *answers, pages=64):
        self.answers, self.calls, self.ram = list(answers), [], bytearray(pages << 12)
        self.memory = RootMemory(lambda gpa, size: bytes(self.ram[gpa : gpa + size]), self.store, range(pages))
        self.winhv = WinHv(self.door, self.memory)

    def store(self, gpa, data):
        self.ram[gpa : gpa + len(data)] = data

    def door(self, control, input_gpa, output_gpa):
        word = HypercallControl(control)
        self.calls.append((HypercallCode(word.call_code), word.rep_count, word.rep_start))
        if word.call_code == HypercallCode.DEPOSIT_MEMORY:
            return HypercallResult(status=0, reps_complete=word.rep_count).raw
        status, done = self.answers.pop(0)
        return HypercallResult(status=status, reps_complete=done).raw


MAP, DEPOSIT, SHORT = HypercallCode.MAP_GPA_PAGES, HypercallCode.DEPOSIT_MEMORY, HvStatus.INSUFFICIENT_MEMORY


def test_a_rep_call_that_runs_out_of_memory_twice_gets_two_batches():
    script = Scripted((SHORT, 1), (SHORT, 1), (0, 3))
    script.winhv.map_gpa_pages(2, 0, [40, 41, 42])
    assert script.calls == [(MAP, 3, 0), (DEPOSIT, 16, 0), (MAP, 3, 1), (DEPOSIT, 16, 0), (MAP, 3, 1)]


def test_a_call_that_runs_out_of_roots_own_memory_gets_a_batch_for_root():
    """Whoever else would pay for it; TLFS "Memory Management"."""
    script = Scripted((HvStatus.INSUFFICIENT_ROOT_MEMORY, 0), (SHORT, 0), (0, 0))
    pools = []
    script.winhv.deposit_memory = lambda pool, pages: pools.append(pool)
    script.winhv.attach_device(2, 8, 1)
    assert pools == [PARTITION_ID_SELF, 2]


def test_batches_have_an_end(monkeypatch):
    monkeypatch.setattr("hv.root.winhv.MAX_DEPOSITS", 2)
    script = Scripted(*[(SHORT, 0)] * 3)
    with pytest.raises(HvError, match="MAP_GPA_PAGES: INSUFFICIENT_MEMORY"):
        script.winhv.map_gpa_pages(2, 0, [40])
    assert [code for code, _, _ in script.calls] == [MAP, DEPOSIT, MAP, DEPOSIT, MAP]
    script = Scripted(*[(SHORT, 0)] * 2)
    with pytest.raises(HvError, match="CREATE_VP: INSUFFICIENT_MEMORY"):
        script.winhv.create_vp(2, 0)


def test_a_rep_call_that_fails_midway_raises_and_one_without_a_pool_gets_no_batch():
    script = Scripted((HvStatus.INVALID_PARAMETER, 1), (SHORT, 0))
    with pytest.raises(HvError, match="MAP_GPA_PAGES: INVALID_PARAMETER"):
        script.winhv.map_gpa_pages(2, 0, [40, 41])
    with pytest.raises(HvError, match="GET_VP_REGISTERS: INSUFFICIENT_MEMORY"):
        script.winhv.get_vp_registers(2, 0, [N.RIP])
    assert len(script.calls) == 2


def test_a_pool_is_withdrawn_by_pages_of_512_until_it_has_no_more():
    script = Scripted((0, 512), (0, 88), pages=1200)
    free = script.memory.free_count
    script.ram[0x1000:0x1008] = (1111).to_bytes(8, "little")
    assert script.winhv.withdraw_memory(2, 600)[:2] == [1111, 0]
    assert [(count, start) for _, count, start in script.calls] == [(512, 0), (88, 0)]
    assert script.memory.free_count == free + 600
    script = Scripted((HvStatus.NO_RESOURCES, 3), (HvStatus.ACCESS_DENIED, 0))
    script.ram[0x1000:0x1018] = b"".join(page.to_bytes(8, "little") for page in (7, 8, 9))
    assert script.winhv.withdraw_memory(2) == [7, 8, 9]
    with pytest.raises(HvError, match="WITHDRAW_MEMORY: ACCESS_DENIED"):
        script.winhv.withdraw_memory(2)
    assert script.winhv.withdraw_memory(2, 0) == []


ACTS = st.sampled_from(["create", "vp", "map", "unmap", "end"])
STEPS = st.lists(st.tuples(ACTS, st.integers(0, 3), st.integers(0, 7)), max_size=25)


@settings(max_examples=25)
@given(STEPS)
def test_no_page_is_lost_whatever_root_does(steps):
    """Pages are root's, lent, or in a pool, and all are root's again when every partition has ended."""
    bench = Bench(free=1500)
    winhv, lent, free = bench.winhv, {}, bench.memory.free_count
    region = bench.machine.root.pool.available + bench.machine.root.pool.in_use
    for what, which, where in steps:
        known = sorted(lent)
        if what == "create" and len(known) < 4:
            child = winhv.create_partition()
            winhv.initialize_partition(child)
            lent[child] = {}
        elif known:
            act(winhv, bench.memory, known[which % len(known)], what, where, lent)
    for child in list(lent):
        act(winhv, bench.memory, child, "end", 0, lent)
    winhv.withdraw_memory(1)
    assert bench.memory.free_count == free
    assert bench.machine.hypervisor.owners.inspect() == {"pages": 2048, "hypervisor": region, "lent": 0}


def act(winhv, memory, child, what, where, lent):
    """One step of a random life."""
    if what == "vp":
        with contextlib.suppress(HvError):                      # the VP exists already
            winhv.create_vp(child, where)
    elif what == "map" and where not in lent[child]:
        lent[child][where] = memory.allocate(2)
        winhv.map_gpa_pages(child, where << 20, lent[child][where])
    elif what == "unmap" and where in lent[child]:
        winhv.unmap_gpa_pages(child, where << 20, 2)
        memory.free(lent[child].pop(where))
    elif what == "end":
        end(winhv, memory, child, lent)


def end(winhv, memory, child, lent):
    winhv.finalize_partition(child)
    for index in range(8):
        with contextlib.suppress(HvError):                      # there is no such VP
            winhv.delete_vp(child, index)
    winhv.withdraw_memory(child)
    winhv.delete_partition(child)
    for pages in lent.pop(child).values():
        memory.free(pages)


def test_sparse_pages_and_large_ones_come_and_go():
    bench = Bench(free=1600)
    child = bench.winhv.create_partition()
    bench.winhv.initialize_partition(child)
    space = bench.machine.hypervisor.partitions[child].space
    pages = dict(zip(range(0, 600 << 3, 8), bench.memory.allocate(600), strict=True))
    bench.winhv.map_sparse_gpa_pages(child, pages, HvMapGpaFlags.READABLE)
    assert {page: mapping.spa >> 12 for page, mapping in space.mappings()} == pages
    bench.winhv.modify_sparse_gpa_pages(child, pages, HvMapGpaFlags.READABLE | HvMapGpaFlags.WRITABLE)
    assert {int(mapping.rights) for _, mapping in space.mappings()} == {3}
    bench.winhv.unmap_gpa_pages(child, 0, 10, HvUnmapGpaFlags.LARGE_PAGE)
    assert list(space.mappings()) == []

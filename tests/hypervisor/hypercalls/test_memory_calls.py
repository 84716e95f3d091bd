"""The map of a child, page by page, sparse and large; and what its page tables make of an address."""

import pytest

from hv.hypervisor.hypercalls.door import hypercall
from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.hypervisor.memory.gpa_space import READ_WRITE, Overlay
from hv.machine.faults import Access
from hv.spec.hv_status import HvStatus as S
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.hypercalls.memory import GpaMapping, GpaPageNumber, TranslateGvaFlags, TranslateGvaResult
from hv.spec.partition import HvMapGpaFlags as F
from hv.spec.partition import HvUnmapGpaFlags
from hv.spec.x86 import Cr4, Rflags
from hv.trace.events import PagesMapped, PagesUnmapped
from tests.hypervisor.fakes import Machine

IN, OUT = 0x4000, 0x5000
LARGE = 512                             # pages
R, RW, RWX = int(F.READABLE), int(F.READABLE | F.WRITABLE), int(F.READABLE | F.WRITABLE | F.EXECUTABLE)
WRONG = S.INVALID_PARAMETER


class Bench(Machine):
    """Root's calls about a guest whose pages stand at 0x100 and on."""

    def __init__(self, pool=32, pages=0):
        super().__init__(pages=3072)
        self._next_page = 1024
        self.guest = self.child(pages=pages, pool=pool)

    def ask(self, code, elements=(), count=None, **fields):
        declaration = HYPERCALLS[code]
        block = declaration.input(**fields).pack() + b"".join(element.pack() for element in elements)
        self.memory.write(IN, block)
        reps = (len(elements) if count is None else count) if declaration.rep else 0
        word = HypercallControl(call_code=code, rep_count=reps).raw
        result = HypercallResult(hypercall(self.hypervisor, self.root_vp, word, IN, OUT))
        return S(result.status), result.reps_complete

    def sparse(self, *pairs, flags=RW):
        elements = [GpaMapping(target_gpa_page=target, source_gpa_page=source) for target, source in pairs]
        return self.ask(C.MAP_SPARSE_GPA_PAGES, elements, target_partition_id=self.guest.id, map_flags=flags)

    def modify(self, *pages, flags=R):
        elements = [GpaPageNumber(page_number=page) for page in pages]
        return self.ask(C.MODIFY_SPARSE_GPA_PAGES, elements, target_partition_id=self.guest.id, map_flags=flags)

    def unmap(self, base, count=1, flags=0):
        return self.ask(C.UNMAP_GPA_PAGES, count=count, target_partition_id=self.guest.id, target_gpa_base=base,
                        unmap_flags=int(flags))

    def standing(self):
        return {page: (mapping.spa >> 12, int(mapping.rights)) for page, mapping in self.guest.space.mappings()}

    def in_tables(self):
        return {gpa + n >> 12: (spa + n >> 12, int(rights)) for gpa, spa, rights, size
                in self.guest.space.tables.mappings() for n in range(0, size, 4096)}


@pytest.fixture
def bench():
    return Bench()


# --- the map ------------------------------------------------------------------------------------------------------

def test_each_page_of_a_sparse_list_has_a_target_of_its_own(bench):
    assert bench.sparse((0x100, 2000), (0x5000, 2001), ((1 << 28) - 1, 2002)) == (S.SUCCESS, 3)
    assert bench.standing() == {0x100: (2000, 3), 0x5000: (2001, 3), (1 << 28) - 1: (2002, 3)} == bench.in_tables()
    assert bench.events(PagesMapped)[-3:] == [
        PagesMapped(2, page << 12, 1, 3) for page in (0x100, 0x5000, (1 << 28) - 1)]


@pytest.mark.parametrize(("pairs", "flags", "status", "reps"), [
    ([(0x100, 2000), (1 << 28, 2001)], RW, WRONG, 1),
    ([(0x100, 2000), (0x101, 1 << 30)], RW, S.OPERATION_DENIED, 1),
    ([(0x100, 2000)], int(F.WRITABLE), WRONG, 0),
    ([(0x100, 2000)], R | int(F.KERNEL_EXECUTABLE), WRONG, 0),
    ([(0x100, 2000)], R | int(F.USER_EXECUTABLE), WRONG, 0),
    ([(0x100, 2000)], R | 0x20000, WRONG, 0),           # a page of zeros
    ([(0x200, 1536), (0x401, 2048)], RW | int(F.LARGE_PAGE), WRONG, 1),
    ([(0x200, 1536), (0x400, 2049)], RW | int(F.LARGE_PAGE), WRONG, 1),
    ([((1 << 28) - LARGE, 1536)], RW | int(F.LARGE_PAGE), S.SUCCESS, 1),
])
def test_a_sparse_list_ends_at_what_is_refused(bench, pairs, flags, status, reps):
    assert bench.sparse(*pairs, flags=flags) == (status, reps)
    assert len(bench.standing()) == reps * (LARGE if flags & F.LARGE_PAGE else 1)


def test_rights_are_changed_where_pages_stand(bench):
    bench.sparse((0x100, 2100), (0x200, 2101))
    bench.sparse((0x400, 1536), flags=RWX | int(F.LARGE_PAGE))
    assert bench.modify(0x200, 0x403) == (S.SUCCESS, 2)
    standing = bench.standing()
    assert (standing[0x100], standing[0x200], standing[0x402], standing[0x403]) == (
        (2100, 3), (2101, 1), (1538, 7), (1539, 1))
    assert standing == bench.in_tables()
    assert bench.modify(0x200, flags=0) == (S.SUCCESS, 1)
    assert bench.guest.space.tables.walk(0x200 << 12).spa is None
    assert bench.hypervisor.owners.inspect()["lent"] == 2 + LARGE


@pytest.mark.parametrize(("pages", "flags", "status", "reps"), [
    ((0x100, 0x101), R, WRONG, 1), ((0x100,), int(F.WRITABLE), WRONG, 0), ((0x100,), R | int(F.LARGE_PAGE), WRONG, 0),
    ((1 << 52,), R, WRONG, 0)])
def test_rights_of_what_does_not_stand_are_not_changed(bench, pages, flags, status, reps):
    bench.sparse((0x100, 2000))
    assert bench.modify(*pages, flags=flags) == (status, reps)
    assert list(bench.standing()) == [0x100]


def test_two_mib_are_unmapped_at_once_and_cost_no_page():
    bench = Bench(pool=12)
    bench.sparse((0x200, 1536), (0x400, 2048), flags=RWX | int(F.LARGE_PAGE))
    spare = [bench.guest.pool.allocate() for _ in range(bench.guest.pool.available)]
    assert bench.unmap(0x200) == (S.INSUFFICIENT_MEMORY, 0)             # one page of it would need a table
    assert bench.unmap(0x200, 2, HvUnmapGpaFlags.LARGE_PAGE) == (S.SUCCESS, 2)
    assert bench.standing() == bench.in_tables() == {}
    assert bench.hypervisor.owners.inspect()["lent"] == 0
    assert bench.events(PagesUnmapped) == [PagesUnmapped(2, 0x200 << 12, 2 * LARGE)]
    assert bench.guest.pool.in_use >= len(spare)


@pytest.mark.parametrize("covered", [False, True])
def test_two_mib_with_only_some_pages_are_unmapped_and_an_overlay_stays(bench, covered):
    bench.sparse((0x201, 2000), (0x3FF, 2001), (0x400, 2002))
    overlay = Overlay("test", bench.guest.pool.allocate(), READ_WRITE)
    if covered:
        bench.guest.space.cover(0x201, overlay)
    assert bench.unmap(0x200, 1, HvUnmapGpaFlags.LARGE_PAGE) == (S.SUCCESS, 1)
    assert list(bench.standing()) == [0x400]
    assert set(bench.in_tables()) == ({0x201, 0x400} if covered else {0x400})


@pytest.mark.parametrize(("base", "count", "flags", "status"), [
    (0x201, 1, HvUnmapGpaFlags.LARGE_PAGE, WRONG), ((1 << 28) - LARGE, 1, HvUnmapGpaFlags.LARGE_PAGE, S.SUCCESS),
    ((1 << 28) - LARGE, 2, HvUnmapGpaFlags.LARGE_PAGE, WRONG), (0x200, 1, 4, WRONG),
])
def test_unmapping_2_mib_has_its_alignment_and_its_range(bench, base, count, flags, status):
    assert bench.unmap(base, count, flags)[0] == status


@pytest.mark.parametrize(("state", "status"), [("created", S.INVALID_PARTITION_STATE), ("finalized", S.SUCCESS)])
def test_what_is_finalized_has_nothing_left_to_unmap(bench, state, status):
    """Unmapping is part of tearing down, and a page where nothing stands is no error."""
    if state == "finalized":
        bench.hypervisor.finalize_partition(bench.guest)
    else:
        bench.guest = bench.hypervisor.create_partition(bench.root)
    assert bench.unmap(0x100, 3) == (status, 3 if status == S.SUCCESS else 0)
    assert bench.sparse((0x100, 2000)) == (S.INVALID_PARTITION_STATE, 0)
    assert bench.modify(0x100) == (S.INVALID_PARTITION_STATE, 0)


# --- translation --------------------------------------------------------------------------------------------------

PML4, PDPT, PD, PT = 0x1000, 0x2000, 0x3000, 0x4000
ACCESSED, DIRTY = 0x20, 0x40


@pytest.fixture
def tabled():
    """GVA 0x5000 is the user's page 6, 0x6000 the kernel's page 7, read-only for both; nothing was used yet."""
    bench = Bench(pages=9)
    for at, entry in {PML4: PDPT | 7, PDPT: PD | 7, PD: PT | 7, PT + 8 * 5: 0x6005, PT + 8 * 6: 0x7001}.items():
        bench.guest.space.write(at, entry.to_bytes(8, "little"))
    regs = bench.guest.vps[0].regs
    regs.cr3, regs.cr4 = PML4, Cr4.PAE | Cr4.SMAP | Cr4.SMEP
    return bench


def translated(bench, gva, **flags):
    fields = {"partition_id": bench.guest.id, "gva_page": gva >> 12, "control_flags": TranslateGvaFlags(**flags).raw}
    answers = []
    for code in (C.TRANSLATE_VIRTUAL_ADDRESS, C.TRANSLATE_VIRTUAL_ADDRESS_EX):
        assert bench.ask(code, **fields)[0] == S.SUCCESS
        answer = HYPERCALLS[code].output.parse(bench.memory.read(OUT, HYPERCALLS[code].output.SIZE))
        answers.append((answer.result_code, answer.cache_type, answer.overlay_page, answer.gpa_page))
    assert answers[0] == answers[1]
    return TranslateGvaResult(answers[0][0]), answers[0][3]


def entry(bench, at):
    return int.from_bytes(bench.guest.space.read(at, 8), "little")


T = TranslateGvaResult


@pytest.mark.parametrize(("gva", "flags", "result"), [
    (0x5000, {"validate_read": 1}, T.PRIVILEGE_VIOLATION),                                  # SMAP
    (0x5000, {"validate_execute": 1}, T.PRIVILEGE_VIOLATION),                               # SMEP
    (0x5000, {"validate_read": 1, "override_smap": 1}, T.SUCCESS),
    (0x5000, {"validate_execute": 1, "override_smap": 1}, T.PRIVILEGE_VIOLATION),
    (0x5000, {"validate_read": 1, "validate_execute": 1, "privilege_exempt": 1}, T.SUCCESS),
    (0x5000, {"validate_read": 1, "user_access": 1}, T.SUCCESS),
    (0x5000, {"validate_write": 1, "user_access": 1}, T.PRIVILEGE_VIOLATION),
    (0x6000, {"validate_write": 1}, T.PRIVILEGE_VIOLATION),                                 # CR0.WP
    (0x6000, {"validate_read": 1, "validate_execute": 1}, T.SUCCESS),
    (0x6000, {"validate_read": 1, "user_access": 1}, T.PRIVILEGE_VIOLATION),
])
def test_a_translation_validates_what_it_is_asked_to(tabled, gva, flags, result):
    assert translated(tabled, gva, **flags) == (result, (gva >> 12) + 1 if result == T.SUCCESS else 0)


def test_the_ac_flag_excuses_from_smap_unless_that_is_enforced(tabled):
    tabled.guest.vps[0].regs.rflags |= Rflags.AC
    assert translated(tabled, 0x5000, validate_read=1) == (T.SUCCESS, 6)
    assert translated(tabled, 0x5000, validate_read=1, enforce_smap=1)[0] == T.PRIVILEGE_VIOLATION


def test_accessed_and_dirty_are_set_only_if_that_is_asked(tabled):
    tabled.guest.space.write(PT + 8 * 6, (0x7003).to_bytes(8, "little"))
    translated(tabled, 0x6000, validate_write=1)
    assert [entry(tabled, at) & (ACCESSED | DIRTY) for at in (PML4, PDPT, PD, PT + 48)] == [0] * 4
    translated(tabled, 0x6000, validate_read=1, set_page_table_bits=1)
    assert [entry(tabled, at) & (ACCESSED | DIRTY) for at in (PML4, PDPT, PD, PT + 48)] == [ACCESSED] * 4
    translated(tabled, 0x6000, validate_write=1, set_page_table_bits=1)
    assert entry(tabled, PT + 48) & (ACCESSED | DIRTY) == ACCESSED | DIRTY


@pytest.mark.parametrize(("rights", "flags", "result"), [
    (None, {}, T.GPA_UNMAPPED), (Access(0), {}, T.GPA_NO_READ_ACCESS), (Access.READ, {}, T.SUCCESS),
    (Access.READ, {"set_page_table_bits": 1}, T.GPA_NO_WRITE_ACCESS)])
def test_a_page_table_that_cannot_be_reached_is_named(tabled, rights, flags, result):
    """The GPA is that of the page table: its parent can do something about it."""
    spa = tabled.guest.space.mapping(PD >> 12).spa >> 12
    tabled.guest.space.unmap(PD >> 12)
    if rights is not None:
        tabled.guest.space.map(PD >> 12, spa, rights)
    expected = (result, 7 if result == T.SUCCESS else PD >> 12)
    assert translated(tabled, 0x6000, validate_read=1, **flags) == expected

"""The walk of a DMA request, each reason to refuse one, and what the caches do about changed tables."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.iommu.translate import IOTLB_ENTRIES, Leaf, Translator
from hv.spec.vtd import (
    HOST_ADDRESS_WIDTH,
    ContextEntry,
    FaultReason,
    Granularity,
    IotlbAddress,
    IotlbCommand,
    RootEntry,
    SecondLevelEntry,
    VtdRegister,
)
from hv.trace import events
from tests.iommu.bench import CONTEXTS, DATA, DEVICE, DOMAIN, IOVA, LEVELS, RAM, Bench
from tests.proves import proves

OUTSIDE = 1 << HOST_ADDRESS_WIDTH - 1 >> 12      # a page where no RAM is
GOOD_CONTEXT = ContextEntry(present=1, address_width=2, domain_id=DOMAIN, second_level=LEVELS[3] >> 12)


def context(**changes: int) -> ContextEntry:
    return ContextEntry(GOOD_CONTEXT.raw, **changes)


def leaf(**fields: int) -> SecondLevelEntry:
    return SecondLevelEntry(**{"readable": 1, "writable": 1, "page": DATA >> 12} | fields)


def with_reserved(entry, bit: int):
    assert type(entry).RESERVED >> bit & 1
    return type(entry)(entry.raw | 1 << bit)


@proves("iommu/TranslationType.SECOND_LEVEL")
def test_a_mapped_address_reaches_its_page():
    bench = Bench()
    assert bench.iommu.dma_write(DEVICE, IOVA + 0x10, b"hello")
    assert bench.memory.read(DATA + 0x10, 5) == b"hello"
    assert bench.iommu.dma_read(DEVICE, IOVA + 0x11, 3) == b"ell"
    assert bench.events[0] == events.Dma(DEVICE, IOVA + 0x10, 5, True, DATA + 0x10)
    assert bench.records() == []


@proves("iommu/GlobalCommand.translation")
def test_without_te_addresses_pass_untranslated():
    bench = Bench()
    bench.command()
    assert bench.iommu.dma_write(DEVICE, DATA + 8, b"x")
    assert bench.memory.read(DATA + 8, 1) == b"x"
    assert bench.iommu.dma_read(DEVICE, RAM, 1) is None
    assert bench.records() == []


RULES = [
    ("root-not-present", lambda b: b.root(RootEntry()), False, FaultReason.ROOT_NOT_PRESENT),
    ("context-not-present", lambda b: b.context(ContextEntry()), False, FaultReason.CONTEXT_NOT_PRESENT),
    ("width-1-unsupported-0", lambda b: b.context(context(address_width=0)), False, FaultReason.CONTEXT_INVALID),
    ("width-5-levels", lambda b: b.context(context(address_width=3)), False, FaultReason.CONTEXT_INVALID),
    ("type-reserved", lambda b: b.context(context(type=3)), False, FaultReason.CONTEXT_INVALID),
    ("write-refused", lambda b: b.entry(1, leaf(writable=0)), True, FaultReason.WRITE_REFUSED),
    ("read-refused", lambda b: b.entry(1, leaf(readable=0)), False, FaultReason.READ_REFUSED),
    ("write-refused-above", lambda b: b.entry(3, leaf(writable=0, page=LEVELS[1] >> 12)), True,
     FaultReason.WRITE_REFUSED),
    ("not-present-read", lambda b: b.entry(2, SecondLevelEntry()), False, FaultReason.READ_REFUSED),
    ("not-present-write", lambda b: b.entry(2, SecondLevelEntry()), True, FaultReason.WRITE_REFUSED),
    ("second-level-outside", lambda b: b.entry(2, leaf(page=OUTSIDE)), False, FaultReason.SECOND_LEVEL_ACCESS),
    ("top-table-outside", lambda b: b.context(context(second_level=OUTSIDE)), False, FaultReason.SECOND_LEVEL_ACCESS),
    ("context-table-outside", lambda b: b.root(RootEntry(present=1, context_table=OUTSIDE)), False,
     FaultReason.CONTEXT_ACCESS),
    ("root-reserved-low", lambda b: b.root(with_reserved(RootEntry(present=1), 1)), False, FaultReason.ROOT_RESERVED),
    ("root-reserved-high", lambda b: b.root(with_reserved(RootEntry(present=1), 64)), False, FaultReason.ROOT_RESERVED),
    ("context-reserved-low", lambda b: b.context(with_reserved(context(), 4)), False, FaultReason.CONTEXT_RESERVED),
    ("context-reserved-high", lambda b: b.context(with_reserved(context(), 100)), False, FaultReason.CONTEXT_RESERVED),
    ("leaf-reserved-snoop", lambda b: b.entry(1, with_reserved(leaf(), 11)), False, FaultReason.SECOND_LEVEL_RESERVED),
    ("leaf-reserved-address", lambda b: b.entry(1, with_reserved(leaf(), 51)), False,
     FaultReason.SECOND_LEVEL_RESERVED),
    ("level-4-large", lambda b: b.entry(4, leaf(large=1)), False, FaultReason.SECOND_LEVEL_RESERVED),
    ("large-page-not-aligned", lambda b: b.entry(2, leaf(large=1, page=1)), False, FaultReason.SECOND_LEVEL_RESERVED),
    ("rights-before-reserved", lambda b: b.entry(1, with_reserved(leaf(writable=0), 11)), True,
     FaultReason.WRITE_REFUSED),
]


@pytest.mark.parametrize(("arrange", "write", "reason"), [pytest.param(
    *row[1:], id=row[0], marks=proves("iommu/TranslationType.RESERVED") if row[0] == "type-reserved" else ())
    for row in RULES])
def test_a_request_is_refused_for_the_reason_of_the_manual(arrange, write, reason):
    """VT-d "Fault Reason Encodings": aborted, and recorded with source, page, direction and reason."""
    bench = Bench()
    arrange(bench)
    assert not bench.dma(write=write)
    record = bench.only_record()
    assert (record.reason, record.source_id, record.page << 12, record.is_read) == (reason, DEVICE, IOVA, not write)
    assert bench.events == [events.DmaFault(DEVICE, IOVA, write, reason, reason.text)]


@proves("capability/Cap.mgaw")
@pytest.mark.parametrize(("width", "iova", "passes"), [
    pytest.param(2, (1 << 48) - 0x1000, True, id="last-page-of-48-bits"),
    pytest.param(2, 1 << 48, False, id="beyond-48-bits"),
    pytest.param(1, 1 << 39, False, id="beyond-39-bits"),
    pytest.param(2, (1 << 64) - 8, False, id="last-address-of-all"),
])
def test_an_address_beyond_the_width_is_refused(width, iova, passes):
    bench = Bench()
    bench.context(context(address_width=width))
    for level in (4, 3, 2):
        bench.entry(level, SecondLevelEntry(readable=1, writable=1, page=LEVELS[level - 2] >> 12), iova)
    bench.entry(1, leaf(), iova)
    assert bench.dma(iova) is passes
    assert passes or bench.only_record().reason == FaultReason.ADDRESS_BEYOND_WIDTH


def test_a_root_table_outside_memory_is_its_own_reason():
    bench = Bench()
    bench.write(VtdRegister.RTADDR, OUTSIDE << 12, 8)
    bench.command(set_root_table=1, translation=1)
    assert not bench.dma()
    assert bench.only_record().reason == FaultReason.ROOT_ACCESS


@proves("iommu/VtdRegister.RTADDR", "iommu/GlobalCommand.set_root_table")
def test_a_new_root_table_counts_from_srtp_on():
    bench = Bench()
    bench.write(VtdRegister.RTADDR, OUTSIDE << 12, 8)
    assert bench.dma()


@proves("capability/Cap.large_pages")
@pytest.mark.parametrize(("level", "size"), [(2, 1 << 21), (3, 1 << 30)])
def test_a_large_page_maps_all_of_its_range(level, size):
    bench = Bench()
    base = IOVA & ~(size - 1)
    bench.entry(level, leaf(large=1, page=0))
    bench.memory.write(DATA, b"here")
    assert bench.iommu.dma_read(DEVICE, base + DATA, 4) == b"here"
    assert (bench.iommu.dma_read(DEVICE, base + size - 4, 4) is None) is (size > RAM)
    assert bench.records() == []        # where no RAM answers is no fault of the unit


@proves("capability/Cap.sagaw")
def test_three_levels_are_walked_for_39_bits():
    bench = Bench()
    bench.context(context(address_width=1, second_level=LEVELS[2] >> 12))
    assert bench.dma()


@proves("iommu/TranslationType.PASS_THROUGH", "capability/Ecap.pass_through")
def test_a_pass_through_device_sees_memory_as_it_is():
    bench = Bench()
    bench.context(context(type=2, second_level=0))
    bench.memory.write(DATA, b"here")
    assert bench.iommu.dma_read(DEVICE, DATA, 4) == b"here"


@pytest.mark.parametrize("arrange", [
    pytest.param(lambda b: b.context(ContextEntry(fault_disabled=1)), id="context-not-present"),
    pytest.param(lambda b: b.context(context(fault_disabled=1, address_width=0)), id="context-invalid"),
    pytest.param(lambda b: (b.context(context(fault_disabled=1)), b.entry(1, leaf(readable=0))), id="read-refused"),
    pytest.param(lambda b: (b.context(context(fault_disabled=1)), b.entry(1, with_reserved(leaf(), 11))),
                 id="second-level-reserved"),
])
def test_fpd_silences_faults_found_after_the_context_entry(arrange):
    """VT-d "Context Entry": the request is aborted all the same."""
    bench = Bench()
    arrange(bench)
    assert not bench.dma()
    assert bench.records() == []


def test_fpd_does_not_silence_the_root():
    bench = Bench()
    bench.context(context(fault_disabled=1))
    bench.root(RootEntry())
    bench.dma()
    assert bench.only_record().reason == FaultReason.ROOT_NOT_PRESENT


def test_a_request_that_fails_on_its_second_page_writes_nothing():
    bench = Bench()
    assert not bench.iommu.dma_write(DEVICE, IOVA + 0xFFE, b"abcd")
    assert bench.memory.read(DATA + 0xFFE, 2) == b"\0\0"
    assert bench.only_record().page << 12 == IOVA + 0x1000


@proves("capability/Cap.zero_length_read")
@pytest.mark.parametrize(("rights", "reads", "writes"), [
    pytest.param({}, True, True, id="both-rights"),
    pytest.param({"readable": 0}, True, True, id="write-only"),
    pytest.param({"writable": 0}, True, False, id="read-only"),
    pytest.param({"readable": 0, "writable": 0}, False, False, id="not-present"),
])
def test_a_request_of_no_bytes_is_translated(rights, reads, writes):
    """VT-d "Zero-length Read": a page that may be written will do (CAP.ZLR); a write needs its right as any."""
    bench = Bench()
    bench.entry(1, leaf(**rights))
    assert bench.iommu.dma_write(DEVICE, IOVA, b"") is writes
    assert bench.iommu.dma_read(DEVICE, IOVA, 0) == (b"" if reads else None)
    assert len(bench.records()) == (not reads) + (not writes)


@pytest.mark.parametrize(("iova", "size"), [(0xFEE00000, 8), (0xFEE00002, 4), (0xFEDFFFFC, 8), (0xFEE00000, 1)])
def test_the_interrupt_window_is_never_translated(iova, size):
    """VT-d "Address Range FEEx_xxxx": only a dword write is an interrupt request."""
    bench = Bench()
    assert not bench.iommu.dma_write(DEVICE, iova, bytes(size))
    assert bench.iommu.dma_read(DEVICE, iova, size) is None
    assert (bench.messages, bench.records()) == ([], [])


# --- Caches ---------------------------------------------------------------------------------------


def invalidate_page(bench: Bench, iova: int, address_mask: int = 0, domain_id: int = DOMAIN) -> None:
    bench.write(VtdRegister.IVA, IotlbAddress(page=iova >> 12, address_mask=address_mask).raw, 8)
    bench.write(VtdRegister.IOTLB, IotlbCommand(
        invalidate=1, granularity=Granularity.SELECTIVE, domain_id=domain_id).raw, 8)


def test_an_unmapped_page_stays_reachable_until_it_is_invalidated():
    bench = Bench()
    assert bench.dma()
    bench.entry(1, SecondLevelEntry())
    assert bench.dma()
    invalidate_page(bench, IOVA)
    assert not bench.dma()


def test_cached_rights_stay_until_they_are_invalidated():
    bench = Bench()
    bench.entry(1, leaf(writable=0))
    assert bench.dma()
    bench.entry(1, leaf())
    assert not bench.dma(write=True)
    invalidate_page(bench, IOVA)
    assert bench.dma(write=True)


@proves("capability/Ecap.coherent")
def test_what_was_refused_is_not_cached():
    """CM = 0: a page that becomes present needs no invalidation."""
    bench = Bench()
    bench.entry(1, SecondLevelEntry())
    assert not bench.dma()
    bench.entry(1, leaf())
    assert bench.dma()


@proves("capability/Cap.domains")
def test_two_domains_have_their_own_cached_pages():
    bench = Bench()
    bench.context(context(domain_id=6), DEVICE + 1)
    assert bench.dma()
    assert bench.dma(source_id=DEVICE + 1)
    bench.entry(1, SecondLevelEntry())
    invalidate_page(bench, IOVA, domain_id=6)
    assert bench.dma()
    assert not bench.dma(source_id=DEVICE + 1)


def test_the_iotlb_forgets_its_oldest_page_when_it_is_full():
    translator = Translator(Bench().memory)
    for page in range(IOTLB_ENTRIES + 1):
        translator._cache(page, Leaf(DATA, 3, 4096))
    assert next(translator.cached_pages()) == (0, 0x1000, DATA, 3)


# --- Against a model ------------------------------------------------------------------------------

PAGES = st.integers(0, 11)
STEPS = st.lists(st.one_of(
    st.tuples(st.just("map"), PAGES, st.integers(0, 15), st.integers(1, 3)),
    st.tuples(st.just("unmap"), PAGES, st.just(0), st.just(0)),
    st.tuples(st.just("invalidate"), PAGES, st.integers(0, 3), st.just(0)),
    st.tuples(st.just("access"), PAGES, st.integers(0, 1), st.just(0)),
), max_size=40)


@settings(max_examples=100)
@given(STEPS)
def test_translation_agrees_with_a_dictionary_and_its_stale_copy(steps):
    """*tables* is what memory says, *cached* what a request succeeded with since the last invalidation."""
    bench = Bench()
    tables: dict[int, tuple[int, int]] = {}
    cached: dict[int, tuple[int, int]] = {}
    for step, page, value, rights in steps:
        iova = page << 12
        match step:
            case "map":
                for level in (4, 3, 2):
                    bench.entry(level, SecondLevelEntry(readable=1, writable=1, page=LEVELS[level - 2] >> 12), iova)
                bench.entry(1, SecondLevelEntry(
                    readable=rights & 1, writable=rights >> 1, page=(DATA >> 12) + value), iova)
                tables[page] = (value, rights)
            case "unmap":
                bench.entry(1, SecondLevelEntry(), iova)
                tables.pop(page, None)
            case "invalidate":
                invalidate_page(bench, iova, value)
                cached = {n: entry for n, entry in cached.items() if n >> value != page >> value}
            case "access":
                found = cached.get(page) or tables.get(page)
                allowed = found is not None and bool(found[1] >> value & 1)
                assert bench.dma(iova, write=bool(value)) is allowed
                if allowed:
                    cached[page] = found
                    assert bench.events[-1].spa == DATA + (found[0] << 12)


@settings(max_examples=60)
@given(st.binary(min_size=64, max_size=64), st.sampled_from([0x1000, CONTEXTS, *LEVELS]), st.integers(0, 2**64 - 1))
def test_garbage_in_the_tables_never_breaks_the_unit(garbage, place, iova):
    bench = Bench()
    bench.memory.write(place, garbage * 64)
    for source_id in (DEVICE, 0xFFFF, 0):
        for write in (False, True):
            bench.dma(iova, write, source_id)
            bench.dma(iova % (1 << 48), write, source_id)
    bench.iommu.inspect()


@pytest.mark.parametrize(("hint", "passes"), [(0, False), (1, True)], ids=["all-levels", "leaves-only"])
def test_a_table_that_was_walked_stays_known_until_it_is_invalidated(hint, passes):
    """VT-d "Paging-Structure Caches": IH is software's word that only last-level entries have changed."""
    bench = Bench()
    bench.entry(1, leaf(), IOVA + 0x1000)
    bench.entry(1, leaf(), IOVA + 0x2000)
    assert bench.dma()
    bench.entry(2, SecondLevelEntry())
    bench.trace.listening = False
    assert bench.dma(IOVA + 0x1000)
    bench.write(VtdRegister.IVA, IotlbAddress(page=IOVA >> 12, hint=hint).raw, 8)
    bench.write(VtdRegister.IOTLB, IotlbCommand(
        invalidate=1, granularity=Granularity.SELECTIVE, domain_id=DOMAIN).raw, 8)
    assert bench.dma(IOVA + 0x2000) is passes


def test_pages_near_a_known_table_keep_every_rule():
    """A table that is known saves the walk to it and none of the checks; nor do rights of its upper levels get lost."""
    bench = Bench()
    bench.trace.listening = False
    bench.entry(3, leaf(writable=0, page=LEVELS[1] >> 12))
    entries = [leaf(), leaf(writable=0), leaf(readable=0), SecondLevelEntry(), with_reserved(leaf(), 11),
               leaf(page=RAM >> 12)]
    for number, entry in enumerate(entries):
        bench.entry(1, entry, IOVA + (number << 12))
    assert [bench.dma(IOVA + (number << 12)) for number in range(6)] == [True, True, False, False, False, False]
    assert [bench.dma(IOVA + (number << 12), write=True) for number in range(6)] == [False] * 6
    found = [(record.reason, record.page - (IOVA >> 12)) for record in bench.records()]
    assert found[:3] == [(FaultReason.READ_REFUSED, 2), (FaultReason.READ_REFUSED, 3),
                         (FaultReason.SECOND_LEVEL_RESERVED, 4)]


def test_a_pass_through_device_at_address_0_finds_no_page_of_its_domain():
    bench = Bench()
    for level in (4, 3, 2):
        bench.entry(level, SecondLevelEntry(readable=1, writable=1, page=LEVELS[level - 2] >> 12), 0)
    bench.entry(1, leaf(), 0)
    bench.context(context(type=2), DEVICE + 1)
    bench.memory.write(0, b"zero")
    bench.trace.listening = False
    assert bench.iommu.dma_read(DEVICE, 0, 4) == bytes(4)
    assert [bench.iommu.dma_read(DEVICE + 1, 0, 4) for _ in range(2)] == [b"zero"] * 2

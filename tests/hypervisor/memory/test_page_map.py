"""The record of a map: it says what a dictionary of pages would, with no more records than the tables have entries."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.hypervisor.memory.gpa_space import ALL, READ_WRITE
from hv.hypervisor.memory.page_map import Mapping, PageMap
from hv.spec.x86 import LARGE_PAGES, PAGE_SIZE
from tests.hypervisor.fakes import Machine

FIRSTS = st.sampled_from([0, LARGE_PAGES, 7 * LARGE_PAGES])
PAGES = st.builds(int.__add__, FIRSTS, st.sampled_from([0, 1, 200, LARGE_PAGES - 1]))
MAPPINGS = st.none() | st.builds(Mapping, st.integers(0, 50).map(lambda n: n * PAGE_SIZE), st.just(READ_WRITE))
ACTS = st.lists(st.one_of(st.tuples(st.just("put"), PAGES, MAPPINGS), st.tuples(st.just("try"), PAGES, MAPPINGS),
                          st.tuples(st.just("large"), FIRSTS, MAPPINGS), st.tuples(st.just("clear"), FIRSTS)))


def pages_near(first):
    return range(first, first + LARGE_PAGES)


@settings(max_examples=60, deadline=None)
@given(ACTS)
def test_it_is_a_dictionary_of_pages(acts):
    record, model = PageMap(), {}
    for what, page, *mapping in acts:
        if what in ("put", "try"):
            before = record.get(page)
            split = record.put(page, mapping[0])
            if what == "try":
                record.take_back(page, before, split)
            else:
                model[page] = mapping[0]
        elif what == "clear":
            record.clear_large(page)
            model.update(dict.fromkeys(pages_near(page)))
        elif mapping[0] and not record.any_near(page):
            record.put_large(page, mapping[0])
            model.update({n: Mapping(mapping[0].spa + (n - page) * PAGE_SIZE, READ_WRITE) for n in pages_near(page)})
        standing = {page: mapping for page, mapping in sorted(model.items()) if mapping is not None}
        assert list(record.items()) == list(standing.items())
        assert len(record) == len(standing)
        assert all(record.get(n) == standing.get(n) for n in pages_near(0))


@pytest.mark.parametrize("places", [1, 40])
def test_a_large_page_is_one_record_wherever_it_stands_again(places):
    """Nothing that is kept for a partition is free: a record has its entry in a table, which the pool paid for."""
    child = Machine(pages=2048).child(pages=0, pool=12, vps=0)
    for n in range(places):
        child.space.map_large(n * LARGE_PAGES, 512, ALL)
    assert child.space.mapped_count == places * LARGE_PAGES
    assert child.space.inspect()["records"] == places == len(list(child.space.tables.mappings()))
    child.space.unmap(3)
    assert child.space.inspect()["records"] == places - 1 + LARGE_PAGES - 1 == len(list(child.space.tables.mappings()))

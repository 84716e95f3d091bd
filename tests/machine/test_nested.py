"""The mirror of the second level, against a dictionary that says what it should hold."""

from __future__ import annotations

import random

import pytest

from hv.machine.nested import LARGE, PRESENT, USER, WRITABLE, NestedTables

BASE, ALIAS = 1 << 38, 1 << 37


def a_mirror(pages: int = 64) -> NestedTables:
    return NestedTables(memoryview(bytearray(pages * 4096)), BASE, ALIAS)


def entry(mirror: NestedTables, gpa: int) -> int:
    """What the engine would find for *gpa*, by a walk of its own."""
    table = mirror.root
    for shift in (39, 30, 21, 12):
        found = mirror._words[(table - BASE) // 8 + (gpa >> shift & 511)]
        if not found & PRESENT:
            return 0
        table = found & 0x000F_FFFF_FFFF_F000
    return found


@pytest.mark.parametrize("seed", range(10))
def test_random_fills_and_drops_leave_what_a_dictionary_would(seed):
    rng, mirror, model = random.Random(seed), a_mirror(), {}
    for _ in range(500):
        region, page = rng.randrange(3), rng.randrange(1200)
        gpa, spa = (0, 1 << 30, 3 << 39)[region] + page * 4096, (region * 1200 + page) * 4096
        if rng.random() < 0.2:
            assert mirror.drop(gpa) is (gpa in model)
            model.pop(gpa, None)
        else:       # each page of RAM behind one guest page only
            writable, executable = rng.random() < 0.5, rng.random() < 0.5
            mirror.fill(gpa, spa, writable, executable)
            model[gpa] = spa + (0 if executable else ALIAS) | PRESENT | USER | (WRITABLE if writable else 0)
    for gpa, wanted in model.items():
        assert entry(mirror, gpa) == wanted
        assert mirror.refuses_fetch(gpa) is bool(wanted & ALIAS)


def test_a_full_mirror_starts_over():
    """It is only a cache: what it forgets is asked for again."""
    mirror = a_mirror(pages=8)
    for number in range(50):
        mirror.fill(number << 21, 0x1000, True, False)
        assert entry(mirror, number << 21)
    held = [number for number in range(50) if entry(mirror, number << 21)]
    assert 1 <= len(held) <= 5
    assert held[-1] == 49


def test_clear_forgets_everything():
    mirror = a_mirror()
    mirror.fill(0x1000, 0x2000, True, True)
    mirror.fill_large(LARGE, LARGE, True)
    mirror.clear()
    assert not entry(mirror, 0x1000)
    assert not entry(mirror, LARGE)
    assert not mirror.refuses_fetch(LARGE)


def test_a_large_fill_enters_512_pages_of_which_none_is_executable():
    mirror = a_mirror()
    mirror.fill_large(2 * LARGE, 5 * LARGE, False)
    for offset in range(0, LARGE, 4096):
        assert entry(mirror, 2 * LARGE + offset) == ALIAS + 5 * LARGE + offset | PRESENT | USER
        assert mirror.refuses_fetch(2 * LARGE + offset)


def test_a_large_fill_leaves_out_the_pages_that_there_is_code_of():
    """The engine asks for each of them, since it depends on their rights by which address they are entered."""
    mirror = a_mirror()
    mirror.set_executable(5 * LARGE + 0x3000 >> 12, True)
    mirror.fill_large(2 * LARGE, 5 * LARGE, True)
    assert not entry(mirror, 2 * LARGE + 0x3000)
    assert entry(mirror, 2 * LARGE + 0x4000) & ALIAS


@pytest.mark.parametrize("executable", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_when_a_page_becomes_code_or_data_all_its_translations_are_dropped(large, executable):
    """A store by the wrong address would leave stale code behind."""
    mirror = a_mirror()
    spa = 5 * LARGE + 0x3000
    others = [7 * LARGE + 0x3000, 9 * LARGE + 0x3000]
    for gpa in others:
        if large:
            mirror.fill_large(gpa & -LARGE, spa & -LARGE, True)
        else:
            mirror.fill(gpa, spa, True, not executable)
    mirror.set_executable(spa >> 12, executable)
    assert (spa >> 12 in mirror.executable) is executable
    for gpa in others:
        assert not entry(mirror, gpa)
    assert not large or mirror.refuses_fetch(7 * LARGE)


def test_what_there_is_code_of_is_known_when_the_translations_are_forgotten():
    mirror = a_mirror()
    mirror.set_executable(5, True)
    mirror.clear()
    assert mirror.executable == {5}


def test_a_guest_page_that_was_given_another_page_is_left_alone():
    mirror = a_mirror()
    mirror.fill(0x1000, 0x8000, True, False)
    mirror.fill(0x1000, 0x9000, True, False)
    mirror.set_executable(8, True)
    assert entry(mirror, 0x1000) == ALIAS + 0x9000 | PRESENT | USER | WRITABLE


def test_a_page_that_is_not_in_the_mirror_refuses_nothing():
    mirror = a_mirror()
    assert not mirror.refuses_fetch(0x1000)
    assert not mirror.drop(0x1000)

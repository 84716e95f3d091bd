"""The past of RAM: what changed is kept, and any mark can be put back."""

import random

import pytest

from hv.machine.ram import PhysicalMemory
from hv.replay.pages import PageHistory, used_pages
from hv.spec.x86 import PAGE_SIZE


@pytest.fixture
def memory():
    memory = PhysicalMemory(64 * PAGE_SIZE)
    yield memory
    memory.close()


def test_only_what_changed_is_kept(memory):
    history = PageHistory(memory)
    history.mark()
    memory.write(5 * PAGE_SIZE + 7, b"a")
    memory.write(9 * PAGE_SIZE, b"b")
    history.mark()
    assert history.bytes_kept == 2 * PAGE_SIZE
    history.mark()
    assert history.bytes_kept == 2 * PAGE_SIZE


def test_a_page_that_became_zero_again_is_a_change(memory):
    history = PageHistory(memory)
    memory.write(PAGE_SIZE, b"x")
    full = history.mark()
    memory.write(PAGE_SIZE, b"\0")
    empty = history.mark()
    history.put_back(full)
    assert memory.read(PAGE_SIZE, 1) == b"x"
    history.put_back(empty)
    assert memory.read(PAGE_SIZE, 1) == b"\0"


@pytest.mark.parametrize("seed", range(5))
def test_any_mark_can_be_put_back_from_anywhere(memory, seed):
    chosen, history, images = random.Random(seed), PageHistory(memory), []
    for _ in range(12):
        for _ in range(chosen.randrange(4)):
            memory.write(chosen.randrange(64 * PAGE_SIZE), bytes((chosen.randrange(256),)))
        assert history.mark() == len(images)
        images.append(memory.read(0, memory.size))
    for _ in range(40):
        number = chosen.randrange(len(images))
        history.put_back(number)
        assert memory.read(0, memory.size) == images[number]
        memory.write(chosen.randrange(64 * PAGE_SIZE), b"between")      # which no mark knows


def test_pages_that_nobody_touched_are_not_looked_at(memory):
    memory.write(3 * PAGE_SIZE, b"x")
    assert 3 in used_pages(memory)
    assert len(used_pages(memory)) <= 64

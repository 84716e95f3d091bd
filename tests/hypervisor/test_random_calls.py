"""Whatever root and a child say, in whatever order: a status or an intercept, honest books, nobody else harmed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.hypervisor.hypercalls.registry import HYPERCALLS
from tests.hypervisor import random_calls
from tests.hypervisor.random_calls import CALLER, ROOT, SOMEWHERE, VICTIM, Said, World, make, speak

PLACES = st.one_of(st.none(), st.sampled_from(SOMEWHERE), st.integers(0, (1 << 64) - 1))
WORDS = st.builds(lambda code, fast, count, start, noise: code | fast << 16 | count << 32 | start << 48 | noise,
                  st.one_of(st.sampled_from(sorted(HYPERCALLS)), st.integers(0, 0xFFFF)), st.integers(0, 1),
                  st.integers(0, 0xFFF), st.integers(0, 3), st.one_of(st.just(0), st.integers(0, (1 << 64) - 1)))
NOISE = st.builds(Said, st.sampled_from((ROOT, CALLER)), WORDS, st.binary(max_size=320), PLACES, PLACES)


def others(world: World) -> tuple[object, ...]:
    """What no call of the caller may change. Its messages do wait at the victim's ports, and time passes."""
    victim, root = (world.hypervisor.partitions[id].inspect() for id in (VICTIM, ROOT))
    del victim["ports"], victim["reference_time"], root["reference_time"]
    return world.memory_of(VICTIM), victim, root


@pytest.mark.parametrize("seed", range(25))
def test_what_a_child_says_reaches_nobody_else(seed: int) -> None:
    """It holds every privilege of root's, and still has no memory and no children to use them on."""
    with World() as world:
        before = others(world)
        for call in make(seed, callers=(CALLER,)):
            speak(world, [call])
            assert others(world) == before


@pytest.mark.parametrize("seed", range(100, 125))
def test_what_anybody_says_has_an_end_and_the_same_one_twice(seed: int) -> None:
    """Root may break its own machine, not the hypervisor's books."""
    ends = []
    for _ in range(2):
        with World() as world:
            ends.append((speak(world, make(seed)), world.fingerprint()))
    assert ends[0] == ends[1]


@settings(max_examples=60)
@given(st.lists(NOISE, min_size=1, max_size=10))
def test_mere_noise_has_an_end(said: list[Said]) -> None:
    with World() as world:
        speak(world, said)


def test_a_campaign_reports_what_misbehaves(monkeypatch, capsys) -> None:
    def wrong(world: World, calls: list[Said]) -> list[object]:
        raise KeyError("ours")

    assert random_calls.campaign(0, 2) == 0
    monkeypatch.setattr(random_calls, "speak", wrong)
    assert random_calls.campaign(0, 2) == 2
    assert "seed 1: Traceback" in capsys.readouterr().out

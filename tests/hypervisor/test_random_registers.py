"""Whatever root makes of a child's registers: a status, an end, every page back, and the same twice."""

import pytest

from tests.hypervisor.random_registers import play
from tests.played_twice import campaign, wrong


@pytest.mark.parametrize("seed", range(40))
def test_a_child_whose_registers_are_anything(seed):
    assert not wrong(play, seed)


def test_a_campaign_names_what_raises_differs_and_ends_the_process(capfd):
    ends = iter(range(100))

    def bad(seed):
        if seed == 1:
            raise KeyError("ours")
        if seed == 3:
            raise SystemExit(7)
        return [next(ends)] if seed == 2 else []

    assert campaign(bad, 0, 5) == 3
    said = capfd.readouterr().out
    assert "seed 1: Traceback" in said
    assert "seed 2: played otherwise the second time: [(0, 1)]" in said
    assert "seed 3: ends the process: 7" in said
    assert said.endswith("5 seeds from 0: 3 misbehaved\n")

"""Whatever a VMCS and what it points to, or a hypervisor is: no Python error, an end, and the same twice."""

import pytest

from tests.played_twice import wrong
from tests.vmx import random_root, random_vmcs


@pytest.mark.parametrize("seed", range(40))
def test_a_guest_of_a_random_vmcs(seed):
    assert not wrong(random_vmcs.play, seed)


@pytest.mark.parametrize("seed", range(20))
def test_a_guest_of_a_random_vmcs_without_native_routines(seed, monkeypatch):
    monkeypatch.setenv("HVLAB_NO_NATIVE", "1")
    assert not wrong(random_vmcs.play, 100 + seed)


@pytest.mark.parametrize("seed", range(20))
def test_a_hypervisor_whose_region_is_overwritten(seed):
    assert not wrong(random_root.play, seed)


def test_a_hypervisor_whose_last_block_is_longer_than_its_time_ends():
    assert not wrong(random_root.play, 7100020)

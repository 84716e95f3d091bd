"""Sets of virtual processors: TLFS "Virtual Processor Sets"."""

import pytest

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.vps.sets import vps_in_mask, vps_in_set
from hv.spec.hv_status import HvStatus
from hv.spec.vp_set import HvGenericSetFormat, HvVpSet
from tests.hypervisor.fakes import Machine


@pytest.fixture
def partition():
    return Machine(pages=1024).child(vps=4)


def numbers(vps):
    return [vp.index for vp in vps]


def test_a_mask_names_vps_by_bit_and_passes_over_what_does_not_exist(partition):
    assert numbers(vps_in_mask(partition, 1 << 63 | 0b1010)) == [1, 3]
    assert numbers(vps_in_mask(partition, 0)) == []


@pytest.mark.parametrize(("mask", "banks", "meant"), [
    (0, (), []), (1, (0b101,), [0, 2]), (1 << 63, (0b101,), []), (1 | 1 << 7, (0b1000, 0b1), [3])])
def test_a_sparse_set_has_one_bank_for_each_bit_of_its_mask(partition, mask, banks, meant):
    assert numbers(vps_in_set(partition, HvVpSet(valid_bank_mask=mask), banks)) == meant


def test_the_set_of_all_needs_no_banks(partition):
    assert numbers(vps_in_set(partition, HvVpSet(format=HvGenericSetFormat.ALL, valid_bank_mask=7), ())) == [0, 1, 2, 3]


@pytest.mark.parametrize(("named", "banks", "status"), [
    (HvVpSet(format=2), (), HvStatus.INVALID_PARAMETER),
    (HvVpSet(valid_bank_mask=3), (1,), HvStatus.INVALID_HYPERCALL_INPUT),
    (HvVpSet(valid_bank_mask=0), (1,), HvStatus.INVALID_HYPERCALL_INPUT)])
def test_a_malformed_set_is_refused(partition, named, banks, status):
    with pytest.raises(HypercallError) as refused:
        vps_in_set(partition, named, banks)
    assert refused.value.status is status


def test_the_layout_has_its_size():
    assert HvVpSet.SIZE == 16

"""The inputs that the fuzz makes: right ones are accepted, spoiled ones are wrong in one field and no more."""

import random

import pytest

from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.control import HypercallControl
from tests.hypervisor import grammar
from tests.hypervisor.fuzz import Fuzzed
from tests.hypervisor.near import ROOT
from tests.hypervisor.random_calls import Said

TRIES = 40


@pytest.fixture(scope="module")
def world():
    with Fuzzed() as made:
        made.begin()
        yield made


def words(world, code, seed, flawless, monkeypatch):
    monkeypatch.setattr(grammar, "FLAWLESS", flawless)
    return grammar.input_of(random.Random(seed), HYPERCALLS[code], ROOT, world.hypervisor)


@pytest.mark.parametrize("code", [
    C.RETARGET_DEVICE_INTERRUPT, C.MAP_DEVICE_INTERRUPT, C.GET_LOGICAL_DEVICE_PROPERTY, C.CREATE_DEVICE_DOMAIN,
    C.ASSERT_DEVICE_INTERRUPT,
    C.MAP_DEVICE_GPA_PAGES, C.ATTACH_DEVICE_DOMAIN, C.DETACH_DEVICE_DOMAIN, C.START_VIRTUAL_PROCESSOR, C.CREATE_PORT,
    C.GET_PORT_PROPERTY, C.DISCONNECT_PORT, C.UNMAP_DEVICE_INTERRUPT], ids=lambda code: code.name)
def test_what_is_right_is_accepted_at_least_sometimes(world, code, monkeypatch):
    """The rows go on with what the ones before them made: a domain that is there, a device in it."""
    answers = set()
    for seed in range(TRIES):
        made = words(world, code, seed, 1.0, monkeypatch)
        control = HypercallControl(call_code=code, rep_count=made.reps, rep_start=made.start,
                                   variable_header_size=made.units)
        answers.add(world.said(Said(ROOT, control.raw, made.block))[0])
    assert HvStatus.SUCCESS in answers, answers


@pytest.mark.parametrize("code", [
    C.START_VIRTUAL_PROCESSOR, C.RETARGET_DEVICE_INTERRUPT, C.FLUSH_VIRTUAL_ADDRESS_LIST_EX],
    ids=lambda code: code.name)
def test_a_spoiled_input_is_wrong_in_one_field_at_most(world, code, monkeypatch):
    leaves = list(grammar._leaves(HYPERCALLS[code].input))
    spoiled = set()
    for seed in range(TRIES):
        right = words(world, code, seed, 1.0, monkeypatch)
        wrong = words(world, code, seed, 0.0, monkeypatch)
        assert (len(wrong.block), wrong[1:]) == (len(right.block), right[1:])
        differ = [at for at, (a, b) in enumerate(zip(right.block, wrong.block, strict=True)) if a != b]
        fields = {name + str(at) for name, at, size in leaves for n in differ if at <= n < at + size}
        assert len(fields) <= 1
        spoiled |= fields
    assert len(spoiled) > 3, "not always the same field"

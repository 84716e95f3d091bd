"""The register file as a whole: sizes, halves, global commands, and whatever software writes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.iommu.unit import CAPABILITIES, EXTENDED_CAPABILITIES, VERSION
from hv.spec.vtd import (
    FAULT_OFFSET,
    FAULT_RECORDS,
    REGISTERS_SIZE,
    WIDE_REGISTERS,
    Cap,
    Ecap,
    GlobalCommand,
    VtdRegister,
)
from tests.iommu.bench import DEVICE, IOVA, Bench
from tests.proves import proves


@proves("iommu/VtdRegister.VER", "iommu/VtdRegister.CAP", "iommu/VtdRegister.ECAP")
def test_the_capabilities_are_those_of_the_model():
    bench = Bench()
    assert bench.read(VtdRegister.VER) == VERSION
    cap, ecap = Cap(bench.read(VtdRegister.CAP, 8)), Ecap(bench.read(VtdRegister.ECAP, 8))
    assert (cap, ecap) == (CAPABILITIES, EXTENDED_CAPABILITIES)
    assert (cap.sagaw, cap.mgaw + 1, cap.caching_mode, ecap.iotlb_offset * 16) == (6, 48, 0, VtdRegister.IVA)


@pytest.mark.parametrize("register", sorted(WIDE_REGISTERS))
def test_a_wide_register_reads_the_same_whole_and_by_halves(register):
    bench = Bench()
    bench.write(register, 0x123456789ABCD000, 8)
    halves = bench.read(register) | bench.read(register + 4) << 32
    assert bench.read(register, 8) == halves


def test_two_registers_may_be_written_together():
    bench = Bench()
    bench.write(VtdRegister.FEADDR, 0x1_FEE01000, 8)
    assert (bench.read(VtdRegister.FEADDR), bench.read(VtdRegister.FEUADDR)) == (0xFEE01000, 1)


@pytest.mark.parametrize(("offset", "size"), [
    (0x08, 2), (0x09, 4), (0x0C, 8), (0x10, 16), (0x08, 0), (-8, 8), (0x2000, 4)])
def test_an_access_of_a_wrong_size_or_place_reads_0_and_writes_nothing(offset, size):
    bench = Bench()
    bench.write(offset, 0xFF, size)
    assert bench.read(offset, size) == 0


@proves("iommu/VtdRegister.GCMD", "iommu/VtdRegister.GSTS", "iommu/GlobalCommand.translation")
def test_the_status_follows_the_command():
    bench = Bench()
    assert GlobalCommand(bench.read(VtdRegister.GSTS)) == GlobalCommand(
        translation=1, interrupt_remapping=1, set_root_table=1, set_interrupt_table=1)
    bench.command(compatibility_format=1)
    assert GlobalCommand(bench.read(VtdRegister.GSTS)) == GlobalCommand(
        compatibility_format=1, set_root_table=1, set_interrupt_table=1)
    assert bench.read(VtdRegister.GCMD) == 0


def test_a_read_of_memory_that_is_not_there_aborts_without_a_record():
    bench = Bench()
    bench.command()
    assert not bench.iommu.dma_write(DEVICE, 2**64 - 1, b"xy")
    assert bench.records() == []


OFFSETS = st.one_of(
    st.sampled_from(sorted(VtdRegister)), st.integers(0, REGISTERS_SIZE // 4).map(lambda n: n * 4),
    st.integers(FAULT_OFFSET, FAULT_OFFSET + 16 * FAULT_RECORDS))
VALUES = st.one_of(
    st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1 << 31, 1 << 63, 0xC7000000, 0x8000, 0x3000, 0x10]))


@settings(max_examples=150)
@given(st.lists(st.tuples(OFFSETS, st.sampled_from([4, 8, 8, 4, 1, 2]), VALUES), max_size=25))
def test_no_sequence_of_register_writes_breaks_the_unit(writes):
    """Whatever stands in the registers, requests pass or are refused, and PPF is the OR of the F bits."""
    bench = Bench()
    for offset, size, value in writes:
        bench.write(offset, value, size)
        assert 0 <= bench.read(offset, size) < 1 << 8 * size
        bench.dma()
        bench.dma(IOVA + 0x1000, write=True)
        bench.iommu.message(DEVICE, 0xFEE00010, 0)
        assert bench.fault_status.pending == bool(bench.records())
    bench.iommu.inspect()

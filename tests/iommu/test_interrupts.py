"""Interrupt remapping: which requests pass, what they become, and each reason to refuse one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.iommu.interrupts import InterruptMessage, allowed_sources, requested_index
from hv.spec.apic import DeliveryMode
from hv.spec.vtd import FaultReason, InterruptTableAddress, Irte, RemappableAddress, VtdRegister
from hv.trace import events
from tests.iommu.bench import DEVICE, INTERRUPTS, RAM, Bench
from tests.proves import proves

PLAIN = 0xFEE0100C              # destination 1, logical, redirection hint
ENTRY = Irte(present=1, vector=0x51, destination=0x0300)        # EIME = 0: the id is in bits 15:8


def handle(index: int) -> int:
    return RemappableAddress(
        window=0xFEE, remappable=1, handle_low=index & 0x7FFF, handle_high=index >> 15).raw


def irte(**changes: int) -> Irte:
    return Irte(ENTRY.raw, **changes)


@proves("iommu/GlobalCommand.interrupt_remapping")
def test_without_ire_a_message_passes_as_it_is_written():
    bench = Bench()
    bench.command(translation=1)
    bench.iommu.message(DEVICE, PLAIN, 0xC141)
    assert bench.messages == [InterruptMessage(
        vector=0x41, destination=1, logical=True, delivery_mode=1, level=True, redirection_hint=True)]


@proves("iommu/GlobalCommand.compatibility_format")
@pytest.mark.parametrize(("compatibility", "extended", "passes"), [
    pytest.param(0, 0, False, id="cfi-off"),
    pytest.param(1, 0, True, id="cfi-on"),
    pytest.param(1, 1, False, id="cfi-on-but-eime"),
])
def test_compatibility_format_passes_only_by_cfi_without_eime(compatibility, extended, passes):
    """VT-d "Interrupt Requests in Compatibility Format"."""
    bench = Bench()
    bench.write(VtdRegister.IRTA, InterruptTableAddress(page=INTERRUPTS >> 12, size=7, extended=extended).raw, 8)
    bench.command(set_interrupt_table=1, interrupt_remapping=1, compatibility_format=compatibility)
    bench.iommu.message(DEVICE, PLAIN, 0x41)
    assert bool(bench.messages) is passes
    assert passes or bench.only_record().reason == FaultReason.COMPATIBILITY_BLOCKED


@proves("capability/Ecap.interrupt_remapping")
def test_an_entry_says_what_is_delivered():
    bench = Bench()
    bench.irte(7, irte(logical=1, redirection_hint=1, level=1, delivery_mode=DeliveryMode.LOWEST_PRIORITY))
    bench.iommu.message(DEVICE, handle(7), 0)
    assert bench.messages == [InterruptMessage(
        vector=0x51, destination=3, logical=True, delivery_mode=1, level=True, redirection_hint=True)]
    assert bench.events == [events.InterruptRemapped(DEVICE, 7, 0x51, 3)]


@proves("iommu/VtdRegister.IRTA", "capability/Ecap.extended_interrupts")
def test_with_eime_the_destination_has_32_bits():
    bench = Bench()
    bench.write(VtdRegister.IRTA, InterruptTableAddress(page=INTERRUPTS >> 12, size=7, extended=1).raw, 8)
    bench.command(set_interrupt_table=1, interrupt_remapping=1)
    bench.irte(0, irte(destination=0x12345678))
    bench.iommu.message(DEVICE, handle(0), 0)
    assert bench.messages[0].destination == 0x12345678


@pytest.mark.parametrize(("address", "data", "index"), [
    pytest.param(handle(0x7FFF), 9, 0x7FFF, id="no-subhandle"),
    pytest.param(handle(0x8001), 0, 0x8001, id="handle-bit-15-is-bit-2"),
    pytest.param(handle(4) | 8, 3, 7, id="subhandle-is-added"),
    pytest.param(handle(0xFFFF) | 8, 0xFFFF, 0x1FFFE, id="the-sum-has-17-bits"),
])
def test_the_index_comes_from_handle_and_subhandle(address, data, index):
    assert requested_index(address, data) == index


RULES = [
    ("data-reserved", lambda b: b.irte(7, irte()), 0x10000, 7, FaultReason.REQUEST_RESERVED),
    ("index-beyond-table", lambda b: None, 0, 256, FaultReason.INDEX_BEYOND_TABLE),
    ("not-present", lambda b: b.irte(7, irte(present=0)), 0, 7, FaultReason.IRTE_NOT_PRESENT),
    ("reserved-low", lambda b: b.irte(7, Irte(ENTRY.raw | 1 << 12)), 0, 7, FaultReason.IRTE_RESERVED),
    ("reserved-high", lambda b: b.irte(7, Irte(ENTRY.raw | 1 << 127)), 0, 7, FaultReason.IRTE_RESERVED),
    ("destination-without-eime", lambda b: b.irte(7, irte(destination=1)), 0, 7, FaultReason.IRTE_RESERVED),
    ("svt-reserved", lambda b: b.irte(7, irte(validation=3)), 0, 7, FaultReason.IRTE_RESERVED),
    ("delivery-mode-reserved", lambda b: b.irte(7, irte(delivery_mode=3)), 0, 7, FaultReason.IRTE_RESERVED),
    ("delivery-mode-startup", lambda b: b.irte(7, irte(delivery_mode=6)), 0, 7, FaultReason.IRTE_RESERVED),
    ("another-device", lambda b: b.irte(7, irte(validation=1, source_id=0x19)), 0, 7, FaultReason.SOURCE_REFUSED),
]


@pytest.mark.parametrize(("arrange", "data", "index", "reason"), [pytest.param(
    *row[1:], id=row[0], marks=proves("iommu/SourceValidation.RESERVED") if row[0] == "svt-reserved" else ())
    for row in RULES])
def test_an_interrupt_is_refused_for_the_reason_of_the_manual(arrange, data, index, reason):
    bench = Bench()
    arrange(bench)
    bench.iommu.message(DEVICE, handle(index), data)
    record = bench.only_record()
    assert (record.reason, record.source_id, record.index, bench.messages) == (reason, DEVICE, index, [])
    assert bench.events == [events.InterruptRemapFault(DEVICE, index, reason, reason.text)]


@proves("iommu/GlobalCommand.set_interrupt_table")
def test_a_table_outside_memory_is_its_own_reason():
    bench = Bench()
    bench.write(VtdRegister.IRTA, RAM | 7, 8)
    bench.command(set_interrupt_table=1, interrupt_remapping=1)
    bench.iommu.message(DEVICE, handle(0), 0)
    assert bench.only_record().reason == FaultReason.IRTE_ACCESS


@pytest.mark.parametrize("changes", [
    pytest.param({"present": 0}, id="not-present"),
    pytest.param({"validation": 3}, id="reserved"),
    pytest.param({"validation": 1}, id="source"),
])
def test_fpd_silences_what_the_entry_itself_refuses(changes):
    bench = Bench()
    bench.irte(7, irte(fault_disabled=1, **changes))
    bench.iommu.message(DEVICE, handle(7), 0)
    assert (bench.messages, bench.records()) == ([], [])


@proves("iommu/SourceValidation.NONE", "iommu/SourceValidation.REQUESTER", "iommu/SourceValidation.BUS_RANGE")
@pytest.mark.parametrize(("fields", "source_id", "allowed"), [
    pytest.param({}, 0x1234, True, id="no-validation"),
    pytest.param({"validation": 1}, 0x0018, True, id="the-device"),
    pytest.param({"validation": 1}, 0x0019, False, id="another-function"),
    pytest.param({"validation": 1, "qualifier": 1}, 0x001C, True, id="sq-1-ignores-function-bit-2"),
    pytest.param({"validation": 1, "qualifier": 1}, 0x001A, False, id="sq-1-compares-function-bit-1"),
    pytest.param({"validation": 1, "qualifier": 2}, 0x001E, True, id="sq-2-ignores-function-bits-2-and-1"),
    pytest.param({"validation": 1, "qualifier": 2}, 0x0019, False, id="sq-2-compares-function-bit-0"),
    pytest.param({"validation": 1, "qualifier": 3}, 0x001F, True, id="sq-3-ignores-the-function"),
    pytest.param({"validation": 1, "qualifier": 3}, 0x0010, False, id="sq-3-compares-the-device"),
    pytest.param({"validation": 2, "source_id": 0x0204}, 0x02FF, True, id="first-bus"),
    pytest.param({"validation": 2, "source_id": 0x0204}, 0x0400, True, id="last-bus"),
    pytest.param({"validation": 2, "source_id": 0x0204}, 0x0500, False, id="bus-above"),
    pytest.param({"validation": 2, "source_id": 0x0204}, 0x01FF, False, id="bus-below"),
])
def test_an_entry_is_for_the_sources_it_names(fields, source_id, allowed):
    """VT-d "Source-id Validation"."""
    entry = Irte(**{"source_id": 0x0018} | fields)
    mask, first, last = allowed_sources(entry)
    assert (first <= source_id & mask <= last) is allowed


def test_a_changed_entry_counts_only_after_its_invalidation():
    bench = Bench()
    bench.irte(7, irte())
    bench.iommu.message(DEVICE, handle(7), 0)
    bench.irte(7, irte(vector=0x61))
    bench.iommu.message(DEVICE, handle(7), 0)
    bench.iommu.remapper.invalidate(7)
    bench.iommu.message(DEVICE, handle(7), 0)
    assert [message.vector for message in bench.messages] == [0x51, 0x51, 0x61]


def test_a_message_outside_the_window_is_a_plain_write():
    bench = Bench()
    bench.command()
    bench.iommu.message(DEVICE, 0x100000, 0x12345678)
    assert (bench.memory.read_u32(0x100000), bench.messages) == (0x12345678, [])


@settings(max_examples=200)
@given(st.integers(0, 2**128 - 1), st.integers(0xFEE00000, 0xFEEFFFFF), st.integers(0, 2**32 - 1),
       st.integers(0, 0xFFFF))
def test_no_entry_and_no_message_breaks_the_unit(raw, address, data, source_id):
    bench = Bench()
    bench.irte(0, Irte(raw | 1))
    for place in (address, handle(0)):
        bench.iommu.message(source_id, place, data)
    assert len(bench.messages) + len(bench.records()) <= 2
    assert all(message.destination <= 0xFF for message in bench.messages)

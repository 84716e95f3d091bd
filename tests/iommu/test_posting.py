"""Entries in posted format: a vector noted in a descriptor, and who is told of it."""

from __future__ import annotations

import pytest

from hv.iommu.interrupts import InterruptMessage
from hv.iommu.unit import CAPABILITIES, Iommu
from hv.spec.vtd import (
    Cap,
    FaultReason,
    InterruptTableAddress,
    Irte,
    PidControl,
    PostedIrte,
    VtdRegister,
)
from hv.trace import events
from tests.iommu.bench import DATA, DEVICE, INTERRUPTS, RAM, Bench
from tests.iommu.test_interrupts import handle
from tests.proves import proves

PID = DATA + 0x40
VECTOR, NOTIFY = 0x83, 0xF2


class Posting(Bench):
    """Entry 7 posts VECTOR into the descriptor at PID, which notifies APIC 3 by NOTIFY."""

    def __init__(self, extended: bool = False) -> None:
        super().__init__()
        self.extended = extended
        self.write(VtdRegister.IRTA, InterruptTableAddress(
            page=INTERRUPTS >> 12, size=7, extended=int(extended)).raw, 8)
        self.command(set_interrupt_table=1, interrupt_remapping=1)
        self.irte(7, entry())
        self.control()

    def control(self, **fields: int) -> None:
        where = 3 if self.extended else 3 << 8
        self.memory.write_u64(PID + 32, PidControl(**{"vector": NOTIFY, "destination": where} | fields).raw)

    def send(self, source_id: int = DEVICE) -> None:
        self.messages.clear()
        self.iommu.message(source_id, handle(7), 0)

    @property
    def requests(self) -> int:
        return int.from_bytes(self.memory.read(PID, 32), "little")

    @property
    def outstanding(self) -> int:
        return PidControl(self.memory.read_u64(PID + 32)).outstanding


def entry(descriptor: int = PID, **fields: int) -> Irte:
    return Irte(PostedIrte(**{
        "present": 1, "posted": 1, "vector": VECTOR, "descriptor_low": descriptor >> 6 & 0x3FFFFFF,
        "descriptor_high": descriptor >> 32} | fields).raw)


@proves("capability/Cap.posted")
@pytest.mark.parametrize("extended", [False, True])
def test_a_vector_is_noted_and_the_processor_is_told_once(extended):
    """VT-d "Interrupt Posting": the next one is only noted, until the receiver has cleared ON."""
    bench = Posting(extended)
    bench.send()
    assert (bench.requests, bench.outstanding) == (1 << VECTOR, 1)
    assert bench.messages == [InterruptMessage(NOTIFY, 3, False, 0, False, False)]
    bench.irte(7, entry(vector=0x21))
    bench.iommu.remapper.invalidate()
    bench.send()
    assert (bench.requests, bench.messages) == (1 << VECTOR | 1 << 0x21, [])
    bench.control()
    bench.send()
    assert len(bench.messages) == 1
    assert bench.events == [events.InterruptPosted(0, DEVICE, VECTOR, PID, True),
                            events.InterruptPosted(0, DEVICE, 0x21, PID, False),
                            events.InterruptPosted(0, DEVICE, 0x21, PID, True)]


@pytest.mark.parametrize(("suppressed", "urgent", "told"), [(0, 0, 1), (1, 0, 0), (1, 1, 1), (0, 1, 1)])
def test_while_suppressed_only_an_urgent_one_is_told(suppressed, urgent, told):
    bench = Posting()
    bench.control(suppressed=suppressed)
    bench.irte(7, entry(urgent=urgent))
    bench.send()
    assert (len(bench.messages), bench.requests, bench.outstanding) == (told, 1 << VECTOR, told)


def test_a_destination_has_32_bits_with_eime():
    bench = Posting(extended=True)
    bench.control(destination=0x12345678)
    bench.send()
    assert bench.messages[0].destination == 0x12345678


@pytest.mark.parametrize("fpd", [0, 1])
@pytest.mark.parametrize(("arrange", "reason"), [
    pytest.param(*row, marks=proves(f"iommu/FaultReason.{row[1].name}")) for row in (
        (lambda b, fpd: b.irte(7, entry(RAM, fault_disabled=fpd)), FaultReason.DESCRIPTOR_ACCESS),
        (lambda b, fpd: b.irte(7, entry(1 << 45, fault_disabled=fpd)), FaultReason.DESCRIPTOR_ACCESS),
        (lambda b, fpd: b.control() or b.memory.write_u64(PID + 32, 1 << 2) or b.irte(7, entry(fault_disabled=fpd)),
         FaultReason.DESCRIPTOR_RESERVED),
        (lambda b, fpd: b.control(destination=1) or b.irte(7, entry(fault_disabled=fpd)),
         FaultReason.DESCRIPTOR_RESERVED),
        (lambda b, fpd: b.irte(7, entry(validation=1, source_id=DEVICE + 1, fault_disabled=fpd)),
         FaultReason.SOURCE_REFUSED),
        *((lambda b, fpd, bit=bit: b.irte(7, Irte(entry(fault_disabled=fpd).raw | 1 << bit)),
           FaultReason.IRTE_RESERVED) for bit in (2, 7, 12, 24, 37, 84, 95)),
    )])
def test_a_posting_is_refused_and_nothing_is_noted(arrange, reason, fpd):
    """VT-d "Interrupt Posting": all of these are found behind the entry, so FPD silences them."""
    bench = Posting()
    arrange(bench, fpd)
    bench.send()
    assert (bench.messages, bench.requests) == ([], 0)
    assert [record.reason for record in bench.records()] == ([] if fpd else [reason])


def test_without_the_capability_the_mode_is_a_reserved_bit():
    bench = Posting()
    plain = Iommu(bench.memory, bench.messages.append, capabilities=Cap(CAPABILITIES.raw, posted=0))
    plain.write(VtdRegister.IRTA, 8, InterruptTableAddress(page=INTERRUPTS >> 12, size=7).raw)
    for command in (1 << 24, 1 << 25):
        plain.write(VtdRegister.GCMD, 4, command)
    plain.message(DEVICE, handle(7), 0)
    assert (plain.faults.records[0].reason, bench.requests) == (FaultReason.IRTE_RESERVED, 0)

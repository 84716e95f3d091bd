"""Interrupts of the devices of a PC whose guest has a remapping unit: each is looked up in the guest's table."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import pytest

from hv.debug.exports.machine_map import mermaid
from hv.platform import Machine
from hv.root.msi import Msi
from hv.root.winhv import HvError
from hv.spec.apic import ApicBase, ApicRegister
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hv_status import HvStatus as S
from hv.spec.hypercalls.interrupts import INTERRUPT_VECTOR_NONE, HvInterruptControl, HvInterruptType
from hv.spec.io_apic import RedirectionEntry
from hv.spec.pc import IO_APIC_RID
from hv.spec.pci import MsiCapability, MsiControl
from hv.spec.vtd import FaultReason, Irte, PidControl, PostedIrte, RemappableAddress
from hv.trace.events import GuestInterruptRefused, GuestInterruptRemapped
from tests.hypervisor.devices.pc_with_unit import COMPATIBLE, DEVICE, HALTS, OTHER, PcWithUnit, R, named
from tests.proves import proves

F = FaultReason
PID = 0x22000


@pytest.fixture(scope="module")
def machine():
    with closing(Machine(memory_mib=24)) as machine:
        yield machine


@pytest.fixture
def guest(machine):
    guest = PcWithUnit(machine)
    yield guest
    machine.destroy_vm(guest.vm)


# --- what an entry makes of a message --------------------------------------------------------------------------------

@proves("capability/Ecap.interrupt_remapping")
@pytest.mark.parametrize(("fields", "taken"), [
    pytest.param({}, [{0x51}, set()], id="fixed"),
    pytest.param({"destination": 1}, [set(), {0x51}], id="the-other-processor"),
    pytest.param({"destination": 0xFF}, [{0x51}, {0x51}], id="everybody"),
    pytest.param({"destination": 3, "logical": 1}, [{0x51}, {0x51}], id="logical-set"),
    pytest.param({"destination": 3, "logical": 1, "redirection_hint": 1}, [{0x51}, set()], id="one-of-the-set"),
    pytest.param({"destination": 3, "logical": 1, "delivery_mode": 1}, [{0x51}, set()], id="lowest-priority"),
    pytest.param({"vector": 0xFE, "source_id": DEVICE + 4, "qualifier": 1}, [{0xFE}, set()], id="ignores-fn-2"),
    pytest.param({"source_id": 0x0010, "validation": 2}, [{0x51}, set()], id="bus-range"),
    pytest.param({"source_id": 0x1234, "validation": 0}, [{0x51}, set()], id="not-checked"),
])
def test_a_message_is_what_its_entry_says(guest, fields, taken):
    for vp, apic in enumerate(guest.apics):
        apic.write(ApicRegister.LDR, 1 << 24 + vp)
    guest.start()
    guest.entry(9, **fields)
    assert guest.send(named(9), 0) == S.SUCCESS
    assert (guest.taken(), guest.faults()) == (taken, [])


def test_level_nmi_and_extint(guest):
    """An NMI and a level are the processor's; the vector of an ExtINT is that of root's 8259s, so root is told."""
    guest.start()
    guest.entry(1, level=1)
    guest.entry(2, delivery_mode=4)
    guest.entry(3, delivery_mode=7, destination=1)
    assert guest.send(named(1)) == guest.send(named(2)) == S.SUCCESS
    assert (guest.apics[0].tmr, guest.vm.partition.vps[0].nmi_pending) == (1 << 0x51, True)
    told = guest.machine.root.winhv.assert_device_interrupt(guest.vm.partition_id, DEVICE, named(3), 0)
    assert (HvInterruptControl(told.interrupt_control).interrupt_type, told.destination) == (HvInterruptType.EXT_INT, 1)
    assert guest.board.interrupts.messages.send(DEVICE, Msi(named(3), 0))
    assert guest.board.interrupts.intr.named == {1}


def test_a_subhandle_is_added_to_the_handle(guest):
    """VT-d "Interrupt Requests in Remappable Format": SHV is for a device with several messages and one address."""
    guest.start()
    guest.entry(12, vector=0x62)
    assert guest.send(named(9, subhandle_valid=1), 3) == S.SUCCESS
    assert guest.taken() == [{0x62}, set()]


@proves("capability/Ecap.extended_interrupts")
@pytest.mark.parametrize(("extended", "destination", "taken"), [
    (0, 1, [set(), {0x51}]), (1, 1, [set(), {0x51}]), (1, 0xFFFF_FFFF, [{0x51}, {0x51}]), (1, 0x101, None),
    (1, 0xFF, None), (0, 2, None)])
def test_destinations_have_32_bits_with_eime(guest, extended, destination, taken):
    """VT-d "Interrupt Remapping Table Entry": EIME=0 has eight bits of them."""
    write = guest.machine.root.winhv.set_vp_registers
    for vp in (0, 1):
        write(guest.vm.partition_id, vp, {HvRegisterName.APIC_BASE: ApicBase(
            page=0xFEE00, enabled=1, extended=1, bsp=int(not vp)).raw})
    guest.start(extended=extended)
    guest.entry(9, destination=destination)
    assert guest.send(named(9)) == (S.SUCCESS if taken else S.INVALID_VP_INDEX)
    assert guest.taken() == (taken or [set(), set()])


@proves("iommu/GlobalCommand.compatibility_format")
@pytest.mark.parametrize(("bits", "passes"), [
    pytest.param(None, True, id="not-enabled"), pytest.param({}, False, id="cfi-0"),
    pytest.param({"compatibility_format": 1}, True, id="cfi-1"),
    pytest.param({"compatibility_format": 1, "extended": 1}, False, id="eime-blocks-whatever-cfi"),
])
def test_compatibility_format_is_blocked_or_passed(guest, bits, passes):
    """VT-d "Interrupt Requests in Compatibility Format"; GCMD.CFI means nothing with EIME."""
    if bits is not None:
        guest.start(**bits)
    assert guest.send(COMPATIBLE | 1 << 12, 0x61) == (S.SUCCESS if passes else S.OPERATION_DENIED)
    assert guest.taken() == [set(), {0x61} if passes else set()]
    assert guest.faults() == ([] if passes else [(F.COMPATIBILITY_BLOCKED, DEVICE, 0)])


# --- what is refused -------------------------------------------------------------------------------------------------

def posts_to(descriptor: int, **fields: int) -> int:
    """An entry in posted format."""
    return PostedIrte(present=1, posted=1, vector=0x51, descriptor_low=descriptor >> 6, **fields).raw


class Refusal(NamedTuple):
    """A message that is refused for *reason* once *arrange* is done, and whether FPD of the entry silences it."""

    reason: FaultReason
    arrange: Callable[[PcWithUnit, int], None]
    address: int = named(9)
    data: int = 0
    silenced: bool = False


REFUSALS = [
    Refusal(F.REQUEST_RESERVED, lambda g, fpd: g.entry(9, fault_disabled=fpd), data=1 << 16),
    Refusal(F.INDEX_BEYOND_TABLE, lambda g, fpd: g.entry(9, fault_disabled=fpd), named(256)),
    Refusal(F.IRTE_NOT_PRESENT, lambda g, fpd: g.entry(9, present=0, fault_disabled=fpd), silenced=True),
    Refusal(F.IRTE_ACCESS, lambda g, fpd: g.unit.write(R.IRTA, 8, 1 << 40 | 7) or g.command(
        set_interrupt_table=1, interrupt_remapping=1)),
    Refusal(F.IRTE_RESERVED, lambda g, fpd: g.entry(9, delivery_mode=3, fault_disabled=fpd), silenced=True),
    Refusal(F.IRTE_RESERVED, lambda g, fpd: g.store(9, Irte(1 << 127, present=1, fault_disabled=fpd).raw),
            silenced=True),
    Refusal(F.COMPATIBILITY_BLOCKED, lambda g, fpd: None, COMPATIBLE, 0x51),
    Refusal(F.SOURCE_REFUSED, lambda g, fpd: g.entry(9, source_id=OTHER, fault_disabled=fpd), silenced=True),
    Refusal(F.SOURCE_REFUSED, lambda g, fpd: g.entry(9, source_id=0x0102, validation=2, fault_disabled=fpd),
            silenced=True),
    Refusal(F.DESCRIPTOR_ACCESS, lambda g, fpd: g.store(9, posts_to(1 << 30, fault_disabled=fpd)), silenced=True),
    Refusal(F.DESCRIPTOR_RESERVED, lambda g, fpd: g.store(9, posts_to(PID, fault_disabled=fpd)) or
            g.vm.worker.write(PID + 32, bytes([4])), silenced=True),
]


@pytest.mark.parametrize("refusal", [pytest.param(
    refusal, id=refusal.reason.name, marks=proves(f"iommu/FaultReason.{refusal.reason.name}")) for refusal in REFUSALS])
@pytest.mark.parametrize("fpd", [0, 1])
def test_a_refused_message_raises_nothing_and_is_recorded(guest, refusal, fpd):
    """VT-d "Interrupt Remapping Fault Conditions": FPD silences what is found once the entry was read."""
    guest.start()
    refusal.arrange(guest, fpd)
    guest.forget()
    assert guest.send(refusal.address, refusal.data) == S.OPERATION_DENIED
    index = 0 if refusal.address == COMPATIBLE else RemappableAddress(refusal.address).handle_low
    assert guest.taken() == [set(), set()]
    assert guest.faults() == ([] if fpd and refusal.silenced else [(refusal.reason, DEVICE, index)])


def test_every_interrupt_fault_reason_is_caused_here():
    assert {refusal.reason for refusal in REFUSALS} == {reason for reason in F if reason >= F.REQUEST_RESERVED}


def test_a_refusal_raises_the_guests_own_fault_event(guest):
    """Which is not remapped itself."""
    guest.start()
    for register, value in ((R.FEDATA, 0x62), (R.FEADDR, COMPATIBLE | 1 << 12), (R.FECTL, 0)):
        guest.unit.write(register, 4, value)
    guest.send(named(9))
    assert guest.taken() == [set(), {0x62}]


@proves("iommu/DescriptorType.INTERRUPT")
def test_an_entry_is_what_it_was_until_it_is_invalidated(guest):
    """VT-d "Interrupt Entry Cache": one that was not present is not kept."""
    guest.start()
    assert guest.send(named(9)) == S.OPERATION_DENIED
    guest.entry(9)
    guest.entry(8, vector=0x61)
    guest.send(named(9))
    guest.send(named(8))
    guest.entry(9, vector=0x52)
    guest.entry(8, vector=0x62)
    guest.taken()
    guest.forget(selective=1, index=9)
    guest.send(named(9))
    guest.send(named(8))
    assert guest.taken() == [{0x52, 0x61}, set()]
    guest.forget()
    guest.send(named(8))
    assert guest.taken() == [{0x62}, set()]


# --- root's side -----------------------------------------------------------------------------------------------------

def test_what_root_may_not_ask(guest, machine):
    winhv, id = machine.root.winhv, guest.vm.partition_id
    assert [guest.send(0xFED0_0000), guest.send(COMPATIBLE | 7 << 12, 0x51)] == [
        S.INVALID_PARAMETER, S.INVALID_VP_INDEX]
    plain = machine.create_vm("plain", HALTS, memory_mib=1, pc=True, devices=("ring",))
    source = plain.worker.device.source_id
    for act in (lambda: winhv.assert_device_interrupt(plain.partition_id, DEVICE, COMPATIBLE, 0x51),
                lambda: winhv.map_device_message(plain.partition_id, source, COMPATIBLE, 0x51)):
        with pytest.raises(HvError) as refused:
            act()
        assert refused.value.status == S.FEATURE_UNAVAILABLE
    machine.destroy_vm(plain)
    own = guest.vm.worker.device.source_id
    message = winhv.map_device_message(id, own, COMPATIBLE, 0x51)
    for act in (lambda: winhv.retarget_device_interrupt(id, own, message, 0x52, 1),
                lambda: winhv.map_device_message(id, own, 0xFED0_0000, 0x51)):
        with pytest.raises(HvError) as refused:
            act()
        assert refused.value.status == S.INVALID_PARAMETER


def test_the_io_apic_goes_through_the_table_as_the_device_that_dmar_names(guest):
    """VT-d "I/OxAPIC Programming": a level waits for the EOI of the pin's own vector, not of the entry's."""
    chip = guest.board.interrupts.io_apic

    def pin(number: int, **fields: int) -> None:
        entry = RedirectionEntry(remappable=1, **fields).raw | 9 << 49
        for half in (1, 0):
            chip.write_memory(0, 1, 0x10 + 2 * number + half)
            chip.write_memory(0x10, 4, entry >> 32 * half & 0xFFFFFFFF)

    guest.start()
    guest.entry(9, vector=0x71)
    pin(5, vector=5)
    guest.board.lines.pulse(5)
    assert (guest.taken(), guest.faults()) == ([set(), set()], [(F.SOURCE_REFUSED, IO_APIC_RID, 9)])
    guest.entry(9, vector=0x71, source_id=IO_APIC_RID)
    guest.board.lines.pulse(5)
    assert guest.taken() == [{0x71}, set()]
    pin(11, vector=11, level=1)
    guest.board.lines.set(11, True)
    assert guest.taken() == [{0x71}, set()]
    chip.end_of_interrupt(0x71)
    assert guest.taken() == [set(), set()], "it has not ended"
    chip.write_memory(0x40, 4, 11)
    assert guest.taken() == [{0x71}, set()]


# --- assigned devices ------------------------------------------------------------------------------------------------

def test_the_message_of_an_assigned_device_is_looked_up_when_it_is_sent(guest):
    """The device sends what root has put there; what the guest has put into the MSI-X table is a message of its own."""
    guest.msix(DEVICE, 1, COMPATIBLE | 1 << 12, 0x61)
    guest.interrupt(DEVICE, 1)
    assert guest.taken() == [set(), {0x61}]
    guest.start()
    guest.interrupt(DEVICE, 1)
    assert (guest.taken(), guest.faults()) == ([set(), set()], [(F.COMPATIBILITY_BLOCKED, DEVICE, 0)])
    guest.msix(DEVICE, 1, named(9))
    guest.entry(9, destination=1)
    guest.interrupt(DEVICE, 1)
    assert guest.taken() == [set(), {0x51}]
    guest.entry(9)
    guest.forget()
    guest.interrupt(DEVICE, 1)
    assert guest.taken() == [{0x51}, set()]


def test_an_assigned_device_with_anothers_handle_raises_nothing_but_a_fault(guest):
    guest.start()
    guest.entry(9)
    guest.msix(DEVICE, 0, named(9))
    guest.msix(OTHER, 0, named(9))
    guest.interrupt(OTHER)
    assert (guest.taken(), guest.faults()) == ([set(), set()], [(F.SOURCE_REFUSED, OTHER, 9)])
    guest.interrupt(DEVICE)
    assert (guest.taken(), guest.faults()) == ([{0x51}, set()], [])


def test_a_guest_may_have_its_interrupts_posted(guest):
    """Into its own memory, of an assigned device and of root's; whether anybody is told is answered to root."""
    guest.start()
    guest.store(9, posts_to(PID))
    guest.vm.worker.write(PID + 32, PidControl(vector=0xF2, destination=1 << 8).raw.to_bytes(8, "little"))
    guest.msix(DEVICE, 0, named(9))
    guest.interrupt(DEVICE)
    assert guest.taken() == [set(), {0xF2}]
    assert guest.vm.worker.read(PID, 33) == bytes(10) + b"\x02" + bytes(21) + b"\x01"
    told = guest.machine.root.winhv.assert_device_interrupt(guest.vm.partition_id, OTHER, named(9), 0)
    assert (told.vector, guest.taken()) == (INTERRUPT_VECTOR_NONE, [set(), set()])


def test_msi_goes_the_same_way(guest):
    guest.start()
    guest.entry(9)
    pci, msi = guest.board.pci, guest.board.pci.functions[DEVICE].msi.offset
    guest.let_send(DEVICE)
    pci.config_write(DEVICE, msi + MsiCapability.offset_of("address_low"), 4, named(9))
    pci.config_write(DEVICE, msi + 2, 2, MsiControl(enabled=1).raw)
    guest.interrupt(DEVICE)
    assert guest.taken() == [{0x51}, set()]


def test_a_message_that_is_no_interrupt_stays_masked_and_routes_go_with_what_names_them(guest):
    routing = guest.machine.hypervisor.interrupts
    source = guest.real(DEVICE).rid
    guest.msix(DEVICE, 0, 0x1000, 0x51)
    assert routing.of_device(source) == []
    for address in (COMPATIBLE, named(9), named(10)):
        guest.msix(DEVICE, 0, address)
    (route,) = routing.of_device(source)
    assert route.asked == routing.inspect()[f"{route.vector:#x}"]["asked"] == (named(10), 0)
    assert f"vector {route.vector:#x} is by a table of the guest" in mermaid(guest.machine, {})
    guest.board.pci.functions[DEVICE].reset()
    assert routing.of_device(source) == []


def test_what_becomes_of_a_message_is_told(guest):
    seen = []
    guest.machine.trace.listen(lambda record: seen.append(record.event))
    guest.start()
    guest.entry(9)
    guest.msix(DEVICE, 0, named(9))
    guest.interrupt(DEVICE)
    guest.send(named(9), device=OTHER)
    own = guest.vm.partition_id
    assert [event for event in seen if isinstance(event, GuestInterruptRemapped | GuestInterruptRefused)] == [
        GuestInterruptRemapped(own, DEVICE, 9, 0x51, 0),
        GuestInterruptRefused(own, OTHER, 9, F.SOURCE_REFUSED, F.SOURCE_REFUSED.text)]

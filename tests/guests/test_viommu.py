"""guests/viommu.asm, guests/remapping.asm: guests that start a remapping unit as an operating system does."""

from __future__ import annotations

from contextlib import closing

import pytest

from hv.commands.files import guests_folder
from hv.image.load import load
from hv.platform import Machine
from hv.spec.synic import HvMessageType
from hv.spec.vtd import FaultReason
from hv.trace import events

SAID = """\
the IOMMU has version 0x0000000000000010
it is on, status 0x00000000c7000000
a copy through our table: done
the bytes are at 0x0000000000301000
a copy from an address it does not have: refused
a fault was recorded, reason 0x0000000000000006
address 0x0000000000300000
of device 0x0000000000000010
a copy behind a changed entry: done
the bytes are at 0x0000000000301000
a copy behind the invalidation: done
the bytes are at 0x0000000000302000
the guest has had its own IOMMU
"""


@pytest.fixture(scope="module")
def run():
    with closing(Machine(memory_mib=32)) as machine:
        seen = []
        machine.trace.listen(lambda record: seen.append(record.event))
        vm = machine.create_vm("viommu", load(str(guests_folder() / "viommu.asm")), memory_mib=4, dma_device=True,
                               viommu=True)
        machine.run(2_000_000_000)
        yield vm, seen


def test_the_guest_brings_the_unit_up_and_sees_what_its_tables_say(run):
    """Translation, a fault with its interrupt, a stale entry, and the invalidation after which it is gone."""
    vm, _ = run
    assert (vm.serial, vm.ended) == (SAID, "shutdown")


def test_the_physical_unit_has_refused_what_the_guests_unit_recorded(run):
    _, seen = run
    faults = [event for event in seen if isinstance(event, events.DmaFault)]
    assert [(fault.iova, fault.write, fault.reason) for fault in faults] == [
        (0x300000, False, FaultReason.READ_REFUSED)]


def test_root_hears_nothing_of_the_units_registers(run):
    """The unit is the hypervisor's: its exits are answered where they are taken."""
    _, seen = run
    registers = [event for event in seen if isinstance(event, events.MmioAccess) and event.gpa >> 12 == 0xFED90]
    asked = [event for event in seen if isinstance(event, events.InterceptSent)]
    assert len(registers) > 30
    assert {event.message_type for event in asked} == {HvMessageType.X64_IO_PORT_INTERCEPT}


REMAPPED = """\
interrupts are remapped, status 0x0000000007000000
a frame, by entry 5: vector 0x0000000000000051
behind a changed entry: vector 0x0000000000000051
behind the invalidation: vector 0x0000000000000052
a message that names its vector: refused, reason 0x0000000000000025
  entry 0x0000000000000000
  of device 0x0000000000000010
an entry that is another device's: refused, reason 0x0000000000000026
  entry 0x0000000000000009
  of device 0x0000000000000010
the timer, by entry 7: vector 0x0000000000000071
every interrupt was the table's
"""


def test_interrupts_of_a_pc_are_those_of_its_guests_table():
    """A card's MSI-X, which the machine's own unit remaps before it comes here, and the I/O APIC's timer pin."""
    with closing(Machine(memory_mib=32)) as machine:
        seen = []
        machine.trace.listen(lambda record: seen.append(record.event))
        vm = machine.create_vm("remapping", load(str(guests_folder() / "remapping.asm")), memory_mib=4, pc=True,
                               devices=("ring",), viommu=True)
        machine.run(2_000_000_000)
        assert (vm.serial, vm.ended) == (REMAPPED, "shutdown")
    remapped = [event for event in seen if isinstance(event, events.GuestInterruptRemapped)]
    assert [(event.source_id, event.index, event.vector) for event in remapped] == [
        (0x10, 5, 0x51), (0x10, 5, 0x51), (0x10, 5, 0x52), (0xF0F8, 7, 0x71)]
    physical = [event for event in seen if isinstance(event, events.InterruptRemapped)]
    assert len(physical) == 5, "the machine's unit let every message of the card through"

"""HvCallScrubPartition: a parent resets its child, as the child itself does by HV_X64_MSR_RESET."""

import pytest

from hv.platform import Machine
from hv.root.winhv import HvError
from hv.spec.hv_registers import HvRegisterName as N
from hv.trace.events import PartitionReset
from tests.guest_runner import image_of

BUSY = """mov ecx, 0x40000000; mov eax, 0x1234; xor edx, edx; wrmsr
mov ecx, 0x40000090; mov eax, 0x52; wrmsr
mov rax, cr4; or eax, 0x80; mov cr4, rax
mov dword ptr [0x9000], 0x600D; cli; hlt"""


@pytest.fixture
def machine():
    machine = Machine(memory_mib=16)
    yield machine
    machine.close()


def test_vps_and_synthetic_state_are_as_after_creation_and_memory_stays(machine):
    vm, events, winhv = machine.create_vm("busy", image_of(BUSY), 2), [], machine.root.winhv
    names = (N.RIP, N.CR4, N.GUEST_OS_ID, N.SINT0, N.EXPLICIT_SUSPEND)

    def values():
        return [winhv.get_vp_register(vm.partition_id, 0, name) for name in names]

    machine.run()
    assert values()[1:] == [0x6A0, 0x1234, 0x52, 1]
    machine.trace.listen(lambda record: events.append(record.event))
    winhv.scrub_partition(vm.partition_id)
    assert values() == [0xFFF0, 0, 0, 0x10000, 1]
    assert vm.worker.read(0x9000, 2) == b"\x0d\x60"
    assert PartitionReset(vm.partition_id) in events


def test_only_an_active_child_can_be_scrubbed(machine):
    winhv = machine.root.winhv
    with pytest.raises(HvError, match="INVALID_PARTITION_STATE"):
        winhv.scrub_partition(winhv.create_partition())
    with pytest.raises(HvError, match="INVALID_PARTITION_ID"):
        winhv.scrub_partition(77)

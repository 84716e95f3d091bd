"""ApicEoi: a parent that emulates an I/O APIC hears when its child ends a level-triggered interrupt.

The guest writes port 0x70 to have its parent raise vector 0x51.
"""

import pytest

from hv.hypervisor.hypercalls.intercepts import install_intercept
from hv.hypervisor.hypercalls.registry import Call
from hv.spec import synic as s
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.intercepts import HvInterceptType as T
from hv.spec.intercepts import InstallInterceptInput
from hv.spec.synic import HvMessageType as M
from tests.guest_runner import run_guest
from tests.guests.test_deliverability import IDT
from tests.guests.test_intercept_types import Parent, past

# R8 counts; the last OUT shows that nothing had to be completed in between.
GUEST = (f"{IDT} lea rdi, [rip + handler]; mov ecx, 0x51; call gate; xor r8d, r8d; mov ebx, 0xFEE00000;"
         "mov dword ptr [rbx + 0xF0], 0x1FF; sti; out 0x70, al; nop; nop; out 0x71, al; cli; hlt;"
         "handler: inc r8d; mov dword ptr [rbx + 0xB0], 0; iretq")
PORTS = [(T.IO_PORT, 0x70, 3), (T.IO_PORT, 0x71, 3)]


class IoApic(Parent):
    """Raises 0x51, as *level* says, once for each port access and again for each of its ends, up to *times*."""

    def __init__(self, installs, level=True, times=1):
        super().__init__(installs, None)
        self.level, self.times, self.at = level, times, []

    def __call__(self, machine, vm):
        winhv, call = machine.root.winhv, Call(machine.hypervisor, machine.hypervisor.root.vps[0])
        for kind, parameter, access in self.installs:
            install_intercept(call, InstallInterceptInput(partition_id=vm.partition_id, access_type=access,
                                                          intercept_type=kind, intercept_parameter=parameter))

        def take(message):
            self.messages.append(message)
            io = message.header.message_type == M.X64_IO_PORT_INTERCEPT
            if self.times and not (io and s.IoPortIntercept.parse(message.payload).port == 0x71):
                self.times -= 1
                winhv.assert_virtual_interrupt(vm.partition_id, 0x51, level=self.level)
            if io:
                winhv.set_vp_registers(vm.partition_id, 0, {**past(message), N.INTERCEPT_SUSPEND: 0})

        machine.root.vid.register(vm.partition_id, take)


@pytest.mark.parametrize("virtualized", [True, False], ids=["processor", "software"])
@pytest.mark.parametrize("times", [1, 3])
def test_the_end_of_a_level_triggered_interrupt_is_told_and_stops_nobody(virtualized, times):
    """The parent asserts it again while its device wants it; the child's VP goes on by itself."""
    parent = IoApic([*PORTS, (T.APIC_EOI, 0, 4)], times=times)
    guest = run_guest(GUEST, prepare=parent, apic_virtualization=virtualized)
    ends = [s.ApicEoiMessage.parse(each.payload) for each in parent.messages
            if each.header.message_type == M.X64_APIC_EOI]
    assert [(each.vp_index, each.interrupt_vector) for each in ends] == [(0, 0x51)] * times
    assert (guest.r8, guest.ended) == (times, "halt")


@pytest.mark.parametrize(("installs", "level"), [([], True), ([(T.APIC_EOI, 0, 4)], False),
                                                 ([(T.APIC_EOI, 0, 4), (T.APIC_EOI, 0, 0)], True)],
                         ids=["nobody asked", "an edge", "not any more"])
def test_there_is_no_message_of(installs, level):
    parent = IoApic([*PORTS, *installs], level)
    guest = run_guest(GUEST, prepare=parent)
    assert M.X64_APIC_EOI not in parent.types
    assert guest.r8 == 1

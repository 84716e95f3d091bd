"""A guest that sets registers of its own: what it wrote holds from the next instruction on, and VM entry checks it."""

import pytest

from hv.platform import Machine
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hv_registers import InternalActivityRegister
from hv.trace.events import Hypercall
from tests.guest_runner import image_of

# SetVpRegisters, fast: it does not fit, so the list is in memory at 0x200000; RBX counts what comes behind.
CODE = """
mov ecx, 0x40000000; mov eax, 1; xor edx, edx; wrmsr
mov ecx, 0x40000001; mov eax, 0x61001; xor edx, edx; wrmsr
mov edi, 0x200000; mov qword ptr [rdi], -1; mov dword ptr [rdi + 8], 0xFFFFFFFE; mov dword ptr [rdi + 12], 0
mov dword ptr [rdi + 16], {name}; mov dword ptr [rdi + 20], 0; mov qword ptr [rdi + 24], 0
mov rax, {value}; mov [rdi + 32], rax; mov qword ptr [rdi + 40], 0
mov rcx, 0x100000051; mov rdx, rdi; mov eax, 0x61000; call rax
mov ebx, 1
cli; hlt
"""


class Own:
    def __init__(self, name, value, code=CODE):
        self.machine = Machine(16)
        image = image_of(code.format(name=int(name), value=value), 64, None)
        granted = HvPrivilege.ACCESS_VP_REGISTERS
        self.vm = self.machine.create_vm("guest", image, memory_mib=4)
        partition = self.vm.partition
        partition.set_privileges(partition.privileges | int(granted))
        self.records = []
        self.machine.trace.listen(self.records.append)
        self.machine.run(until_tsc=self.machine.clock.tsc + 200_000)
        self.vp = partition.vps[0]

    @property
    def status(self):
        """Of the guest's one call, before root has anything to do with it."""
        return next(record.event.status for record in self.records
                    if isinstance(record.event, Hypercall) and record.partition == self.vm.partition_id)


@pytest.fixture
def own():
    made = []

    def make(*arguments):
        made.append(Own(*arguments))
        return made[-1]
    yield make
    for one in made:
        one.machine.close()


def test_a_guest_sets_a_register_of_its_own(own):
    run = own(N.DR0, 0x1234)
    assert (run.status, run.vp.regs.dr0, run.vp.regs.rbx, run.vm.ended) == (0, 0x1234, 1, "halt")


@pytest.mark.parametrize(("name", "value"), [(N.CR0, 0x33), (N.CR4, 0x600), (N.EFER, 0x400)],
                         ids=["no-paging", "no-pae", "no-lme"])
def test_a_state_that_no_processor_enters_is_not_entered(own, name, value):
    """Nothing behind the hypercall is executed with it."""
    run = own(name, value)
    assert (run.status, run.vp.regs.rbx, run.vp.runnable) == (0, 0, False)


@pytest.mark.parametrize(("name", "value"), [
    (N.EXPLICIT_SUSPEND, 1), (N.INTERCEPT_SUSPEND, 1),
    (N.INTERNAL_ACTIVITY_STATE, InternalActivityRegister(startup_suspend=1).raw)],
    ids=["explicit", "intercept", "startup"])
def test_a_guest_that_suspends_itself_stops_behind_the_call(own, name, value):
    run = own(name, value)
    assert (run.status, run.vp.regs.rbx, run.vp.runnable) == (0, 0, False)

"""What a parent can intercept, with real guest code: each type is one message, with what the manual says it has."""

import pytest

from hv.hypervisor.hypercalls.intercepts import install_intercept
from hv.hypervisor.hypercalls.registry import Call
from hv.spec import synic as s
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hv_registers import PendingInterruptionRegister
from hv.spec.intercepts import HvInterceptType as T
from hv.spec.intercepts import InstallInterceptInput
from hv.spec.x86 import Vector
from hv.trace import events
from tests.guest_runner import run_guest

ESTABLISH = ("mov ecx, 0x40000000; mov edx, 0x81000000; xor eax, eax; wrmsr;"
             "mov ecx, 0x40000001; xor edx, edx; mov eax, 0x61001; wrmsr;")
HALT = "cli; hlt"


class Parent:
    """Takes the child's messages in place of its worker. *answer* gives the registers that complete each."""

    def __init__(self, installs, answer):
        self.installs, self.answer, self.messages = installs, answer, []

    def __call__(self, machine, vm):
        call = Call(machine.hypervisor, machine.hypervisor.root.vps[0])
        for kind, parameter, access in self.installs:
            install_intercept(call, InstallInterceptInput(partition_id=vm.partition_id, access_type=access,
                                                          intercept_type=kind, intercept_parameter=parameter))

        def take(message):
            self.messages.append(message)
            registers = self.answer(message)
            machine.root.winhv.set_vp_registers(vm.partition_id, 0, {**registers, N.INTERCEPT_SUSPEND: 0})

        machine.root.vid.register(vm.partition_id, take)

    @property
    def types(self):
        return [message.header.message_type for message in self.messages]


def past(message):
    """RIP behind the instruction."""
    header = s.HvInterceptHeader.parse(message.payload)
    return {N.RIP: header.rip + (header.length_and_cr8 & 0xF)}


def run(code, installs, answer=past, **options):
    parent = Parent(installs, answer)
    return run_guest(f"{code}; {HALT}", prepare=parent, **options), parent


@pytest.mark.parametrize(("code", "result"), [
    ("mov eax, 0x70; out 0x70, al", None), ("xor eax, eax; in al, 0x70", 0xFF), ("xor eax, eax; in ax, 0x70", 0xFFFF)])
def test_a_port_without_an_intercept_is_an_empty_bus(code, result):
    """TLFS "Intercepts": OUT is dropped, IN returns all ones; no message."""
    guest, parent = run(code, [])
    assert not parent.messages
    assert result is None or guest.rax == result


@pytest.mark.parametrize("installs", [[(T.CPUID, 0x77, 4)], [(T.GLOBAL_CPUID, 0, 4)]], ids=["leaf", "global"])
def test_cpuid_carries_the_default_and_its_length(installs):
    guest, parent = run("mov eax, 0x77; mov ecx, 5; cpuid", installs, lambda message: past(message) | {N.RBX: 9})
    (message,) = parent.messages
    body = s.CpuidIntercept.parse(message.payload)
    assert (body.rax, body.rcx, body.header.length_and_cr8 & 0xF) == (0x77, 5, 2)
    assert guest.rbx == 9


@pytest.mark.parametrize(("code", "access"), [("rdmsr", s.InterceptAccess.READ), ("wrmsr", s.InterceptAccess.WRITE)])
def test_an_msr_tells_read_from_write(code, access):
    _, parent = run(f"mov ecx, 0xC0001234; mov eax, 1; mov edx, 2; {code}", [(T.MSR, 0xC000_1234, 3)])
    body = s.MsrIntercept.parse(parent.messages[0].payload)
    assert (body.msr_number, body.rdx, body.rax, body.header.access_type) == (0xC000_1234, 2, 1, access)


def test_an_msr_of_the_hypervisors_is_never_intercepted():
    """TLFS "Intercepts": MSRs that the hypervisor virtualizes are its own affair."""
    guest, parent = run("mov ecx, 0x40000002; rdmsr", [(T.MSR, 0x4000_0002, 3)])
    assert (parent.messages, guest.rax) == ([], 0)


def test_a_page_fault_has_its_address_in_the_message_and_not_in_cr2():
    """Before it is delivered: the guest has no IDT and would triple-fault."""
    guest, parent = run("mov rbx, 0x7F000000; mov al, [rbx]", [(T.EXCEPTION, Vector.PF, 4)],
                        lambda message: {N.RIP: s.HvInterceptHeader.parse(message.payload).rip + 2})
    body = s.ExceptionIntercept.parse(parent.messages[0].payload)
    assert (body.exception_vector, body.exception_parameter, body.error_code) == (Vector.PF, 0x7F00_0000, 0)
    assert s.HvExceptionInfo(body.exception_info).error_code_valid
    assert body.instruction_bytes[:2] == b"\x8a\x03"
    assert body.instruction_byte_count >= 2
    assert (body.registers[3], guest.cr2, guest.ended) == (0x7F00_0000, 0, "halt")


def test_an_exception_is_intercepted_before_it_is_combined_to_a_double_fault():
    """#NP of the gate that #UD needs: the message is about #NP, and what was being delivered is kept for the parent."""
    waiting = []

    def answer(message):
        waiting.append(parent.pending())
        return {N.RIP: s.HvInterceptHeader.parse(message.payload).rip + 2, N.PENDING_INTERRUPTION: 0}

    parent = Parent([(T.EXCEPTION, Vector.NP, 4), (T.EXCEPTION, Vector.DF, 4)], answer)

    def prepare(machine, vm):
        parent(machine, vm)
        parent.pending = lambda: PendingInterruptionRegister(
            machine.root.winhv.get_vp_register(vm.partition_id, 0, N.PENDING_INTERRUPTION))

    code = "mov rax, 0x60FFF; lidt [rip + table]; ud2; cli; hlt; table: .word 0xFFF; .quad 0x60000"
    guest = run_guest(code, prepare=prepare, data={0x60000 + 6 * 16: (0x8E00 << 32 & ~(0x8000 << 32) | 8 << 16
                                                                    ).to_bytes(16, "little")})
    assert [s.ExceptionIntercept.parse(each.payload).exception_vector for each in parent.messages] == [Vector.NP]
    assert (waiting[0].interruption_pending, waiting[0].interruption_vector) == (1, Vector.UD)
    assert guest.ended == "halt"


@pytest.mark.parametrize(("code", "vector", "length"), [("int3", 3, 1), ("int 3", 3, 2)])
def test_int3_is_an_exception_and_int_n_is_none(code, vector, length):
    installs = [(T.EXCEPTION, vector, 4)]
    source = ".byte 0xCC" if code == "int3" else ".byte 0xCD, 3"
    guest, parent = run(source, installs, lambda message: {N.RIP: s.HvInterceptHeader.parse(message.payload).rip + 1})
    if length == 2:
        assert (parent.types, guest.ended) == ([s.HvMessageType.UNRECOVERABLE_EXCEPTION] * len(parent.types), "halt")
        assert s.HvMessageType.X64_EXCEPTION_INTERCEPT not in parent.types
    else:
        body = s.ExceptionIntercept.parse(parent.messages[0].payload)
        assert s.HvExceptionInfo(body.exception_info).software_exception
        assert body.header.length_and_cr8 & 0xF == 1


def test_a_hypercall_can_be_the_parents_to_answer():
    """Whatever its code is, and without the hypervisor's page: the parent offers an interface of its own."""
    guest, parent = run("mov ecx, 0x1234; mov edx, 5; mov r8d, 6; vmcall", [(T.HYPERCALL, 0, 4)],
                        lambda message: past(message) | {N.RAX: 77})
    body = s.HypercallIntercept.parse(parent.messages[0].payload)
    assert parent.types == [s.HvMessageType.HYPERCALL_INTERCEPT]
    assert (body.rcx, body.rdx, body.r8, body.header.length_and_cr8 & 0xF) == (0x1234, 5, 6, 3)
    assert guest.rax == 77
    assert not [call for call in guest.of(events.Hypercall) if call.code == 0x1234]


def test_a_hypercall_intercept_that_is_installed_later_is_seen_by_the_next_call():
    code = (f"{ESTABLISH} mov rcx, 0x10008; mov edx, 5; mov eax, 0x61000; call rax; mov ebx, eax; out 0x70, al;"
            "mov rcx, 0x10008; mov eax, 0x61000; call rax")
    parent = Parent([(T.IO_PORT, 0x70, 3)], None)

    def answer(message):
        if message.header.message_type == s.HvMessageType.X64_IO_PORT_INTERCEPT:
            parent.install_hypercalls()
        return past(message) | {N.RAX: 77}

    def prepare(machine, vm):
        parent.answer = answer
        parent(machine, vm)
        call = Call(machine.hypervisor, machine.hypervisor.root.vps[0])
        parent.install_hypercalls = lambda: install_intercept(call, InstallInterceptInput(
            partition_id=vm.partition_id, access_type=4, intercept_type=T.HYPERCALL, intercept_parameter=0))

    guest = run_guest(f"{code}; {HALT}", prepare=prepare)
    assert (guest.rbx, guest.rax) == (0, 77)
    assert parent.types == [s.HvMessageType.X64_IO_PORT_INTERCEPT, s.HvMessageType.HYPERCALL_INTERCEPT]


@pytest.mark.parametrize(("installs", "status"), [([], 0x12), ([(T.UNKNOWN_SYNIC_CONNECTION, 0, 4)], 77)])
def test_a_connection_that_is_not_there_can_be_the_parents(installs, status):
    """HvCallSignalEvent of connection 5: INVALID_CONNECTION_ID, or a message about the hypercall."""
    code = f"{ESTABLISH} mov rcx, 0x1005D; mov edx, 5; mov eax, 0x61000; call rax"
    guest, parent = run(code, installs, lambda message: past(message) | {N.RAX: 77})
    assert guest.rax == status
    assert parent.types == [s.HvMessageType.HYPERCALL_INTERCEPT] * len(installs)

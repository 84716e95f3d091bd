"""A VP that its parent dispatches: intercepts come back from the call, and what the parent changes the VP has."""

import pytest

from hv.hypervisor.hypercalls.door import hypercall
from hv.platform import Machine
from hv.root.winhv import HvError
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hv_status import HvStatus as S
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.vps import DispatchVpInput, DispatchVpOutput, HvVpDispatchState
from hv.spec.intercepts import HvInterceptType
from hv.spec.synic import HvMessage, IoPortIntercept, MemoryIntercept
from hv.spec.synic import HvMessageType as T
from hv.spec.vp_state import HvRegisterPage, HvRegisterPageDirtyFlags
from hv.spec.x86 import PAGE_SIZE
from hv.trace.events import InterceptCompleted, InterceptSent, MessageDelivered, PostCode
from tests.guest_runner import image_of, registers_of
from tests.hypervisor.fakes import Machine as FakeMachine
from tests.hypervisor.registers.test_register_page import PageBench, refused

AGAIN = 1                               # DispatchVpFlags.clear_intercept_suspend


class Bench(PageBench):
    """Root's thread notes the message and the registers, then does what *thread* does."""

    def __init__(self):
        super().__init__()
        self.places = self.winhv.map_message_page(self.id, 0), self.winhv.map_register_page(self.id, 0)
        self.came, self.thread = [], self.step_over
        self.machine.root.vid.connect_thread(self.id, 0, self.come_back)

    def come_back(self):
        message = HvMessage.parse(self.memory.read(self.places[0] * PAGE_SIZE, HvMessage.SIZE))
        self.came.append((message.header.message_type, self.read(self.places[1])))
        return self.thread(message, self.read(self.places[1]))

    def step_over(self, message, page):
        page.rip += 2
        self.write(self.places[1], page, instruction_pointer=1)
        return AGAIN

    def dispatch(self):
        self.winhv.dispatch_vp(self.id, 0)
        self.go()

    @property
    def rips(self):
        return [page.rip for _, page in self.came]


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.close()


def test_each_intercept_comes_back_with_message_and_registers(bench):
    bench.dispatch()
    assert [(kind, page.rip, page.is_valid) for kind, page in bench.came] == [
        (T.X64_IO_PORT_INTERCEPT, 0x1000, 1), (T.X64_IO_PORT_INTERCEPT, 0x1002, 1)]
    assert (bench.vp.halted, bench.number(N.RIP)) == (True, 0x1005)
    assert bench.read(bench.places[1]).is_valid == 0
    page = bench.came[0][1]
    assert (page.gp_registers[0], page.gp_registers[15], page.rflags, page.cr8) == (0x11, 0xF, 2, 3)


def test_the_message_is_the_one_that_a_slot_would_have_had(bench):
    seen = []
    bench.machine.root.vid.register(bench.id, seen.append)
    bench.go()                                              # not dispatched yet: it comes by SINT 0 as well
    place = bench.places[0] * PAGE_SIZE
    by_slot = bench.memory.read(place, HvMessage.SIZE)
    bench.memory.write(place, bytes(HvMessage.SIZE))
    bench.thread = lambda message, page: 0
    bench.dispatch()
    assert len(seen) == 1
    assert bench.memory.read(place, HvMessage.SIZE) == by_slot == seen[0].pack()


def test_all_general_registers_can_be_results(bench):
    def answer(message, page):
        page.gp_registers = tuple(range(0x100, 0x110))
        page.rip += 2
        bench.write(bench.places[1], page, instruction_pointer=1, general_purpose=1)
        return AGAIN
    bench.thread = answer
    bench.dispatch()
    assert [bench.number(name) for name in (N.RAX, N.RCX, N.RSP, N.R15)] == [0x100, 0x101, 0x104, 0x10F]
    assert bench.came[1][1].gp_registers == tuple(range(0x100, 0x110))


@pytest.mark.parametrize("dirty", [("general_purpose",), ("flags", "instruction_pointer"), ("xmm",), ()])
def test_any_group_that_is_dirty_is_taken(bench, dirty):
    def answer(message, page):
        page.gp_registers, page.rip, page.rflags, page.xmm = (0x55,) * 16, 0x1004, 0x46, (7,) * 12
        bench.write(bench.places[1], page, **dict.fromkeys(dirty, 1))
        bench.thread = lambda message, page: 0
        return AGAIN
    bench.thread = answer
    bench.dispatch()
    assert bench.number(N.RAX) == (0x55 if "general_purpose" in dirty else 0x11)
    assert bench.vp.halted == ("instruction_pointer" in dirty)
    assert bench.number(N.RFLAGS) == (0x46 if "flags" in dirty else 2)
    assert bench.number(N.XMM5) == (7 << 64 | 7 if "xmm" in dirty else 5 << 64 | 6)


def test_a_thread_that_does_not_dispatch_again_leaves_the_vp_waiting(bench):
    bench.thread = lambda message, page: 0
    bench.dispatch()
    assert (bench.vp.intercept_suspend, bench.rips, bench.partition.awaiting) == (
        True, [0x1000], {0: T.X64_IO_PORT_INTERCEPT})
    page = bench.read(bench.places[1])
    page.rip = 0x1004
    bench.write(bench.places[1], page, instruction_pointer=1)
    bench.go()
    assert (bench.vp.halted, bench.partition.awaiting) == (True, {})


def test_what_no_register_can_hold_leaves_the_vp_waiting(bench):
    def answer(message, page):
        page.rflags = 1 << 40
        bench.write(bench.places[1], page, flags=1)
        return AGAIN
    bench.thread = answer
    bench.dispatch()
    assert (bench.vp.intercept_suspend, bench.number(N.RFLAGS)) == (True, 2)


def test_who_is_suspended_by_its_own_access_stands_behind_it(bench):
    def answer(message, page):
        bench.step_over(message, page)
        bench.set(N.EXPLICIT_SUSPEND, 1)
        return AGAIN
    bench.thread = answer
    bench.dispatch()
    assert (bench.number(N.RIP), bench.vp.intercept_suspend, bench.vp.runnable, len(bench.came)) == (
        0x1002, False, False, 1)


def test_the_thread_may_answer_by_hypercalls(bench):
    def answer(message, page):
        bench.winhv.set_vp_registers(bench.id, 0, {N.RIP: page.rip + 2, N.RBX: 5, N.INTERCEPT_SUSPEND: 0})
        return 0
    bench.thread = answer
    bench.dispatch()
    assert (bench.rips, bench.number(N.RBX), bench.vp.halted) == ([0x1000, 0x1002], 5, True)


def test_what_is_no_port_comes_back_too(bench):
    """CPUID, then a store to where no memory is."""
    bench.memory.write(bench.pages[1] * PAGE_SIZE, bytes.fromhex("0fa2 a200f0 f4"))     # cpuid; mov [0xf000], al; hlt
    bench.winhv.install_intercept(bench.id, HvInterceptType.CPUID, 0, 4)
    bench.set(N.RAX, 0)

    def answer(message, page):
        if message.header.message_type == T.UNMAPPED_GPA:
            assert MemoryIntercept.parse(message.payload).gpa == 0xF000
            page.rip += 3
            bench.write(bench.places[1], page, instruction_pointer=1)
            return AGAIN
        return bench.step_over(message, page)
    bench.thread = answer
    bench.dispatch()
    assert [kind for kind, _ in bench.came] == [T.X64_CPUID_INTERCEPT, T.UNMAPPED_GPA]
    assert (bench.number(N.RIP), bench.vp.halted) == (0x1006, True)


def test_a_listener_sees_what_root_did_between_asking_and_answer():
    machine = Machine(24)
    heard = []
    machine.create_vm("pc", image_of("mov al, 7; out 0x80, al; hlt"), 4, pc=True)
    machine.trace.listen(heard.append)
    machine.run()
    machine.close()
    at = next(n for n, record in enumerate(heard) if isinstance(record.event, InterceptSent))
    assert [(record.partition, type(record.event)) for record in heard[at : at + 3]] == [
        (2, InterceptSent), (1, PostCode), (2, InterceptCompleted)]
    assert not any(isinstance(record.event, MessageDelivered) for record in heard)


# --- with and without ---------------------------------------------------------------------------------------

PROGRAMS = {
    "sizes": "mov rax, -1; mov edx, 0x3FF; in al, dx; mov rbx, rax; mov rax, -1; in ax, dx; mov rcx, rax; "
             "mov rax, -1; in eax, dx; mov dx, 0x70; mov al, 0x8F; out dx, al; in al, 0x71; out 0x80, al; hlt",
    "steps": "lea rax, [db_]; mov ebx, 0x1F000; mov [rbx+16], ax; mov cx, cs; mov [rbx+18], cx; shr eax, 16; "
             "mov word ptr [rbx+20], 0x8E00; mov [rbx+22], ax; mov word ptr [rbx+0x100], 0xFF; mov [rbx+0x102], rbx; "
             "lidt [rbx+0x100]; mov edi, 0x20000; pushfq; or qword ptr [rsp], 0x100; popfq; out 0x80, al; in al, 0x71; "
             "nop; pushfq; and qword ptr [rsp], -0x101; popfq; hlt; "
             "db_: push rax; mov rax, [rsp+8]; mov [rdi], rax; add edi, 8; pop rax; iretq",
    "shadow": "sti; out 0x80, al; cli; mov ax, ss; mov ss, ax; out 0x80, al; in al, 0x64; hlt",
    "strings": "cld; lea rsi, [text]; mov ecx, 4; mov edx, 0x80; rep outsb; mov edi, 0x20000; mov ecx, 3; "
               "mov dx, 0x3FF; rep insb; hlt; text: .byte 1, 2, 3, 4",
    "flags": "mov r12, 50; again: xor eax, r12d; out 0x80, al; jnp odd; inc rbx; odd: in al, 0x64; adc rcx, rax; "
             "dec r12; jnz again; hlt",
}


def outcome(source, dispatched, smp=1):
    machine = Machine(24)
    vm = machine.create_vm("pc", image_of(source), 4, smp, pc=True)
    codes = []
    if not dispatched:
        for index in range(smp):
            machine.root.winhv.unmap_message_page(vm.partition_id, index)
            machine.root.winhv.unmap_register_page(vm.partition_id, index)
    machine.trace.listen(lambda record: codes.append(record.event) if isinstance(record.event, PostCode) else None)
    machine.run(machine.clock.tsc + 20_000_000)
    found = (vm.ended, codes, registers_of(vm.partition.vps[0].regs), vm.worker.read(0x10000, 0x11000),
             vm.worker.inspect()["devices"]["com1"])
    machine.close()
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_guest_cannot_tell_whether_it_is_dispatched(name):
    assert outcome(PROGRAMS[name], True) == outcome(PROGRAMS[name], False)


def test_with_a_thread_for_each_vm_the_calls_come_back_in_roots_turn():
    machine = Machine(24, parallel=True)
    vms = [machine.create_vm(f"pc{n}", image_of(PROGRAMS["flags"]), 4, pc=True) for n in range(2)]
    machine.run()
    assert [vm.ended for vm in vms] == ["halt", "halt"]
    assert not machine.hypervisor.root_answers_at_once
    rcx = [vm.partition.vps[0].regs.rcx for vm in vms]
    machine.close()
    assert rcx[0] == rcx[1] == outcome(PROGRAMS["flags"], True)[2]["rcx"]


# --- the call -----------------------------------------------------------------------------------------------

def test_it_needs_both_pages(bench):
    bench.winhv.unmap_message_page(bench.id, 0)
    with refused(S.INVALID_VP_STATE):
        bench.winhv.dispatch_vp(bench.id, 0)


def test_it_needs_a_thread(bench):
    bench.machine.root.vid.unregister(bench.id)
    with refused(S.OPERATION_DENIED):
        bench.winhv.dispatch_vp(bench.id, 0)


def test_a_caller_that_is_machine_code_has_none():
    machine = FakeMachine()
    child = machine.child()
    machine.memory.write(0x5000, DispatchVpInput(partition_id=child.id).pack())
    assert hypercall(machine.hypervisor, machine.root_vp, C.DISPATCH_VP, 0x5000, 0x6000) == S.OPERATION_DENIED


@pytest.mark.parametrize(("field", "value", "status"), [
    ("flags", 2, S.INVALID_PARAMETER), ("time_slice", 1, S.INVALID_PARAMETER), ("spec_ctrl", 1, S.INVALID_PARAMETER),
    ("vp_index", 1, S.INVALID_VP_INDEX), ("partition_id", 99, S.INVALID_PARTITION_ID)])
def test_wrong_parameters_are_refused(bench, field, value, status):
    given = {"partition_id": bench.id, field: value}
    bench.memory.write(0x5000, DispatchVpInput(**given).pack())
    root = bench.machine.hypervisor.root.vps[0]
    assert hypercall(bench.machine.hypervisor, root, C.DISPATCH_VP, 0x5000, 0x6000) & 0xFFFF == status


def test_it_answers_at_once_and_completes_what_it_is_told_to(bench):
    bench.thread = lambda message, page: 0
    bench.dispatch()
    bench.memory.write(0x5000, DispatchVpInput(partition_id=bench.id, flags=AGAIN).pack())
    root = bench.machine.hypervisor.root.vps[0]
    assert not hypercall(bench.machine.hypervisor, root, C.DISPATCH_VP, 0x5000, 0x6000)
    output = DispatchVpOutput.parse(bench.memory.read(0x6000, DispatchVpOutput.SIZE))
    assert (output.dispatch_state, output.dispatch_event) == (HvVpDispatchState.READY, 0)
    assert not bench.vp.intercept_suspend


@pytest.mark.parametrize("page", ["message", "register"])
def test_a_parent_that_unmaps_a_page_hears_by_messages_again(bench, page):
    bench.winhv.dispatch_vp(bench.id, 0)
    seen = []
    bench.machine.root.vid.register(bench.id, seen.append)
    getattr(bench.winhv, f"unmap_{page}_page")(bench.id, 0)
    bench.go()
    assert (bench.came, [IoPortIntercept.parse(message.payload).port for message in seen]) == ([], [0x80])


def test_a_vp_that_is_deleted_comes_back_no_more(bench):
    bench.winhv.dispatch_vp(bench.id, 0)
    bench.vp.dispatched.come_back_later()
    bench.winhv.delete_vp(bench.id, 0)
    bench.machine.run(bench.machine.clock.tsc + 10_000)
    assert bench.came == []


def test_refusals_name_the_call(bench):
    with pytest.raises(HvError, match="DISPATCH_VP: INVALID_VP_INDEX"):
        bench.winhv.dispatch_vp(bench.id, 3)


def test_the_dirty_flags_are_read_together_with_rip():
    assert HvRegisterPage.picker("dirty", "rip").size == HvRegisterPage.offset_of("rip") + 8
    assert HvRegisterPageDirtyFlags(instruction_pointer=1).raw == 2

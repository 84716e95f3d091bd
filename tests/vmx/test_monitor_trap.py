"""The monitor trap flag: an exit behind each instruction; SDM "Monitor Trap Flag"."""

import pytest

from hv.machine.registers import Table
from hv.spec.vmcs import Interruptibility, PendingDebugExceptions, PrimaryControls
from tests.proves import proves
from tests.vmx.event_box import CODE, HANDLERS, F, R, T, control, info, put, reasons
from tests.vmx.vcpu_box import BITMAP_A, BITMAP_B

MTF = PrimaryControls.MONITOR_TRAP_FLAG
NONE = PrimaryControls(0)
TF, IF = 0x100, 0x200


def trace(box, vcpu, most: int = 40) -> list[int]:
    """Run under the monitor trap flag to HLT; RIP at each of its exits, from CODE on."""
    control(vcpu, MTF)
    seen: list[int] = []

    def handle(exit):
        if exit.reason is R.MONITOR_TRAP_FLAG:
            seen.append(vcpu.state.cs.base + vcpu.state.rip - CODE)
        elif exit.reason is not R.HLT:
            vcpu.state.complete_instruction(exit.instruction_length)
        return exit.reason is not R.HLT and len(seen) < most

    box.handle = handle
    box.go(vcpu, 1 << 30)
    return seen


@pytest.mark.parametrize("bits", [16, 32, 64])
@proves("control/PrimaryControls.MONITOR_TRAP_FLAG", "exit/MONITOR_TRAP_FLAG")
def test_it_exits_behind_each_instruction(box, bits):
    vcpu = box.vcpu(bits)
    box.put(b"\x90\xb0\x01\xeb\x01\x90\x90\xf4", 64)        # nop; mov al, 1; jmp +1; nop; nop; hlt
    assert trace(box, vcpu) == [1, 3, 6, 7]
    assert set(reasons(box)[:-1]) == {R.MONITOR_TRAP_FLAG}


def test_an_instruction_that_exits_has_no_monitor_trap(box):
    vcpu = box.vcpu()
    box.put("nop; cpuid; nop; hlt")
    assert trace(box, vcpu) == [1, 4]
    assert reasons(box) == [R.MONITOR_TRAP_FLAG, R.CPUID, R.MONITOR_TRAP_FLAG, R.HLT]


@pytest.mark.parametrize("source", ["rdtsc", "mov rax, cr0; mov cr0, rax", "wbinvd"], ids=["rdtsc", "cr0", "wbinvd"])
def test_an_instruction_that_is_done_without_an_exit_has_one(box, source):
    vcpu = box.vcpu()
    length = box.put(f"{source}; hlt") - 1
    assert trace(box, vcpu)[-1] == length


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("prefix", ["", "67"])
def test_each_iteration_of_a_string_instruction_counts(box, count, prefix):
    """RIP stays at the instruction until the last one, which ends it."""
    vcpu = box.vcpu()
    state = vcpu.state
    state.rcx, state.rsi, state.rdi = count | (1 << 33 if prefix else 0), 0x20000, 0x20800
    box.put(bytes.fromhex(prefix) + b"\xf3\xa4\xf4", 64)
    end = 2 + len(prefix) // 2
    assert trace(box, vcpu) == [0] * (count - 1) + [end]


@pytest.mark.parametrize("source", ["rep insb", "rep outsw"])
def test_each_iteration_of_a_string_that_no_device_answers_counts(box, source):
    """It does not exit, so software here does the iteration; SDM "Monitor Trap Flag"."""
    vcpu = box.vcpu()
    put(vcpu, IO_BITMAP_A=BITMAP_A, IO_BITMAP_B=BITMAP_B)
    control(vcpu, PrimaryControls.USE_IO_BITMAPS)
    vcpu.state.rcx, vcpu.state.rdx, vcpu.state.rsi, vcpu.state.rdi = 3, 0x80, 0x20000, 0x20800
    end = box.put(f"{source}; hlt") - 1
    assert trace(box, vcpu) == [0, 0, end]
    assert vcpu.state.rcx == 0


def test_an_instruction_that_jumps_to_itself_counts_each_time(box):
    vcpu = box.vcpu()
    box.put(b"\xeb\xfe", 64)
    assert trace(box, vcpu, 5) == [0] * 5


@pytest.mark.parametrize("kind", [T.EXTERNAL_INTERRUPT, T.NMI, T.SOFTWARE_INTERRUPT, T.HARDWARE_EXCEPTION])
def test_behind_an_injection_it_exits_before_the_handlers_first_instruction(box, kind):
    vcpu = box.vcpu()
    vector = 2 if kind is T.NMI else 6
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(vector, kind), VM_ENTRY_INSTRUCTION_LENGTH=1)
    assert trace(box, vcpu) == [HANDLERS + 16 * vector - CODE]


@pytest.mark.parametrize(("code", "vector"), [(b"\xcd\x21", 0x21), (b"\xcc", 3), (b"\x0f\x0b", 6)],
                         ids=["int", "int3", "fault"])
def test_an_event_of_the_guests_own_counts_when_it_is_delivered(box, code, vector):
    vcpu = box.vcpu()
    box.put(code, 64)
    assert trace(box, vcpu) == [HANDLERS + 16 * vector - CODE]


def test_a_fault_that_is_filled_on_the_way_does_not_count(box):
    """The engine asks for its translations while an instruction runs; none of that is an instruction."""
    vcpu = box.vcpu()
    box.engine.invept()
    vcpu.state.rbx = 0x20000
    box.put("mov al, [rbx]; mov [rbx + 0x1000], al; hlt")
    assert trace(box, vcpu) == [2, 8]


def test_no_blocking_holds_it(box):
    vcpu = box.vcpu()
    box.put("nop; nop; hlt")
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=Interruptibility.BLOCKING_BY_MOV_SS)
    assert trace(box, vcpu) == [1, 2]


def test_a_single_step_that_comes_at_the_same_time_pends_and_is_delivered_next(box):
    """The monitor trap goes first, and the exit saves what pends; SDM "Priority Among Concurrent Events"."""
    vcpu = box.vcpu()
    vcpu.state.rflags = 2 | TF
    control(vcpu, MTF)
    box.put("nop; nop; hlt")
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rip) == ([R.MONITOR_TRAP_FLAG], CODE + 1)
    assert vcpu.vmcs.read(F.GUEST_PENDING_DEBUG_EXCEPTIONS) == PendingDebugExceptions(bs=1).raw
    box.go(vcpu)
    assert (reasons(box)[1:], vcpu.state.rip) == ([R.MONITOR_TRAP_FLAG], HANDLERS + 16)


def test_without_the_control_nothing_is_left_of_it(box):
    vcpu = box.vcpu()
    box.put("nop; nop; hlt")
    control(vcpu, MTF)
    box.go(vcpu)
    control(vcpu, NONE, MTF)
    box.go(vcpu)
    assert reasons(box) == [R.MONITOR_TRAP_FLAG, R.HLT]
    assert not vcpu.watchful


def test_it_can_be_asked_for_inside_an_exit(box):
    vcpu = box.vcpu()

    def handle(exit):
        if exit.reason is R.CPUID:
            vcpu.state.complete_instruction(2)
            control(vcpu, MTF)
            return True
        return False

    box.handle = handle
    box.put("cpuid; nop; hlt")
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rip) == ([R.CPUID, R.MONITOR_TRAP_FLAG], CODE + 3)


def test_a_triple_fault_is_an_exit_and_has_no_monitor_trap(box):
    vcpu = box.vcpu()
    vcpu.state.idtr = Table(0, 0)
    control(vcpu, MTF)
    box.put("ud2")
    box.go(vcpu)
    assert reasons(box) == [R.TRIPLE_FAULT]


def test_time_goes_on_by_the_length_of_the_instruction(box):
    vcpu = box.vcpu()
    box.put(b"\x90" * 8 + b"\xf4", 64)
    control(vcpu, MTF)
    box.go(vcpu)
    first = box.clock.tsc
    box.go(vcpu)
    assert box.clock.tsc == first + 1001

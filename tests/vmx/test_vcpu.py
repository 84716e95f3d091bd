"""The loop: events go in, windows open, interrupts of the processor exit, faults during delivery are recorded."""

from __future__ import annotations

import pytest

from hv.machine.clock import EXIT_TICKS
from hv.machine.idt import Event, EventKind
from hv.machine.registers import Table
from hv.spec.exits import ExitReason, InterruptionInfo, InterruptionType
from hv.vmx.events.injection import event_of
from tests.machine.engine_box import DATA, GDT, STACK, TABLE
from tests.vmx.vcpu_box import CODE, HANDLERS, IDT, vector_at

R = ExitReason
MODES = (16, 32, 64)


def reasons(box) -> list[ExitReason]:
    return [exit.reason for exit in box.exits]


@pytest.mark.parametrize("bits", MODES)
@pytest.mark.parametrize("kind", [EventKind.EXTERNAL, EventKind.EXCEPTION, EventKind.NMI])
def test_an_injected_event_runs_its_handler_first(box, bits, kind):
    vcpu = box.vcpu(bits)
    vcpu.state.rflags = 0x202
    box.put("mov ebx, 1; cpuid", bits)
    assert vcpu.inject(Event(2 if kind is EventKind.NMI else 0x21 if kind is EventKind.EXTERNAL else 0, kind))
    box.go(vcpu)
    assert reasons(box) == [R.HLT]
    assert vector_at(vcpu) in (0, 2, 0x21)
    assert vcpu.state.rbx == 0
    assert not vcpu.state.interrupts_enabled


@pytest.mark.parametrize("bits", MODES)
def test_a_handler_that_returns_goes_on_where_the_guest_was(box, bits):
    vcpu = box.vcpu(bits)
    vcpu.state.rflags, vcpu.state.rbx = 0x203, 0
    box.memory.write(HANDLERS + 16 * 0x21, b"\x48\xcf" if bits == 64 else b"\xcf")
    box.put("mov ebx, 1; hlt", bits)
    sp = vcpu.state.rsp
    vcpu.inject(Event(0x21, EventKind.EXTERNAL))
    box.go(vcpu)
    assert (vcpu.state.rbx, vcpu.state.rflags, vcpu.state.rsp) == (1, 0x203, sp)


def test_an_event_of_a_user_switches_to_the_stack_of_the_tss(box):
    vcpu = box.vcpu(64, user=True)
    box.put("nop")
    vcpu.inject(Event(0x21, EventKind.EXTERNAL))
    assert (vcpu.state.cpl, vcpu.state.rsp) == (0, 0x40000 - 40)
    box.go(vcpu)
    assert vector_at(vcpu) == 0x21


def test_a_handler_in_64_bit_code_with_a_base_is_found(box):
    """The base is ignored, and the engine's fetch agrees."""
    vcpu = box.vcpu()
    box.memory.write_u64(0x7008, 0x00AF9B00_5000_FFFF)
    box.put("ud2")
    box.go(vcpu)
    assert vector_at(vcpu) == 6


def test_each_exit_and_each_event_cost_time(box):
    vcpu = box.vcpu()
    start = box.clock.tsc
    vcpu.inject(Event(0x21, EventKind.EXTERNAL))
    assert box.clock.tsc == start + EXIT_TICKS
    box.go(vcpu)
    assert box.clock.tsc >= start + 2 * EXIT_TICKS


# --- windows and external interrupts -----------------------------------------------------------------------

@pytest.mark.parametrize("shadow", ["sti", "popfq"])
def test_a_window_exits_when_interrupts_can_be_taken(box, shadow):
    """SDM "Interrupt-Window Exiting": RFLAGS.IF is 1 and no shadow of STI blocks."""
    vcpu = box.vcpu()
    source = "inc ecx; sti; inc ecx; inc ecx; hlt" if shadow == "sti" else "inc ecx; push 0x202; popfq; inc ecx; hlt"
    box.put(source)
    vcpu.want_window(True)
    box.go(vcpu)
    assert reasons(box) == [R.INTERRUPT_WINDOW]
    assert vcpu.state.rcx == (2 if shadow == "sti" else 1)
    assert not vcpu.state.interrupt_shadow
    vcpu.want_window(False)
    box.go(vcpu)
    assert reasons(box) == [R.INTERRUPT_WINDOW, R.HLT]


def test_a_window_asked_for_inside_an_exit_opens_in_the_same_run(box):
    vcpu = box.vcpu()

    def handle(exit) -> bool:
        if exit.reason is R.CPUID:
            vcpu.want_window(True)
            vcpu.state.complete_instruction(2)
            return True
        return False

    box.handle = handle
    box.put("cpuid; sti; inc ecx; inc ecx; hlt")
    box.go(vcpu)
    assert reasons(box) == [R.CPUID, R.INTERRUPT_WINDOW]
    assert vcpu.state.rcx == 1


def test_a_window_that_never_opens_ends_with_the_budget(box):
    vcpu = box.vcpu()
    box.put("again: inc ecx; jmp again")
    vcpu.want_window(True)
    box.go(vcpu, 5000)
    assert box.exits == []
    assert vcpu.state.rcx > 100


def test_a_physical_interrupt_exits_before_the_next_instruction(box):
    vcpu = box.vcpu()
    waiting = [0x51]
    vcpu.interrupt_waits, vcpu.external_interrupt = lambda: bool(waiting), lambda: waiting.pop() if waiting else None
    box.handle = lambda exit: exit.reason is R.EXTERNAL_INTERRUPT
    box.put("mov ecx, 1; hlt")
    box.go(vcpu)
    assert reasons(box) == [R.EXTERNAL_INTERRUPT, R.HLT]
    info = InterruptionInfo(box.exits[0].interruption_info)
    assert (info.valid, info.vector, info.type) == (1, 0x51, InterruptionType.EXTERNAL_INTERRUPT)


def test_a_physical_interrupt_stops_a_guest_that_runs(box):
    """By the processor's APIC, which zeroes the limits; here a handler does it."""
    vcpu = box.vcpu()
    waiting: list[int] = []

    def handle(exit) -> bool:
        if exit.reason is R.CPUID:
            vcpu.state.complete_instruction(2)
            waiting.append(0x51)
            box.counter.limit = box.counter.deadline = 0
            return True
        return exit.reason is R.EXTERNAL_INTERRUPT

    vcpu.interrupt_waits, vcpu.external_interrupt = lambda: bool(waiting), lambda: waiting.pop() if waiting else None
    box.handle = handle
    box.put("cpuid; mov ecx, 1; hlt")
    box.go(vcpu)
    assert reasons(box) == [R.CPUID, R.EXTERNAL_INTERRUPT, R.HLT]


def test_a_physical_interrupt_reaches_a_guest_that_only_faults(box):
    """Its handler is not there, so no block of code ever runs; faults follow each other until something stops them."""
    vcpu = box.vcpu()
    waiting: list[int] = []
    box.gate(6, 64, offset=CODE)
    count = 0

    def interrupt() -> int | None:
        return waiting.pop() if waiting else None

    vcpu.interrupt_waits, vcpu.external_interrupt = lambda: bool(waiting), interrupt
    box.put("ud2")
    inject = vcpu.take

    def counted(event) -> bool:
        nonlocal count
        count += 1
        if count == 3:
            waiting.append(0x51)
            box.counter.limit = box.counter.deadline = 0
        return inject(event)

    vcpu.take = counted
    box.go(vcpu, 20_000)
    assert reasons(box)[0] is R.EXTERNAL_INTERRUPT


@pytest.mark.parametrize("vector", [6, 14])
def test_a_guest_whose_handler_faults_for_ever_ends_with_its_budget(box, vector):
    vcpu = box.vcpu()
    box.gate(vector, 64, offset=CODE if vector == 6 else 0x40000000)
    box.put("ud2" if vector == 6 else "mov rax, [0x40000000]")
    start = box.clock.tsc
    box.go(vcpu, 50_000)
    assert box.clock.tsc - start < 60_000
    assert vector == 14 or box.exits == []


# --- faults during delivery ----------------------------------------------------------------------------------

def test_a_stack_the_second_level_refuses_is_an_ept_violation_that_names_the_event(box):
    """SDM "Information for VM Exits That Occur During Event Delivery"."""
    vcpu = box.vcpu()
    box.ept.unmap(0x2F000)
    box.ept.invept()
    box.put("ud2")
    box.go(vcpu)
    exit = box.exits[0]
    assert (exit.reason, exit.guest_physical_address) == (R.EPT_VIOLATION, 0x30000 - 40)
    info = InterruptionInfo(exit.idt_vectoring_info)
    assert (info.valid, info.vector, info.type) == (1, 6, InterruptionType.HARDWARE_EXCEPTION)
    assert vcpu.state.rip == CODE
    box.ept.map(0x2F000, 0x2F000, 7)
    box.ept.invept()
    box.go(vcpu)
    assert vector_at(vcpu) == 6


@pytest.mark.parametrize(("source", "vector", "kind"), [
    ("int 0x21", 0x21, InterruptionType.SOFTWARE_INTERRUPT), ("int3", 3, InterruptionType.SOFTWARE_EXCEPTION)])
def test_a_software_interrupt_whose_delivery_exits_waits_for_the_handler(box, source, vector, kind):
    """It exits once, at the instruction, and that is where it stands until the handler's word."""
    vcpu = box.vcpu()
    box.ept.unmap(0x2F000)
    box.ept.invept()
    box.put(source)
    box.go(vcpu)
    assert reasons(box) == [R.EPT_VIOLATION]
    info = InterruptionInfo(box.exits[0].idt_vectoring_info)
    assert (info.valid, info.vector, info.type) == (1, vector, kind)
    assert vcpu.state.rip == CODE
    box.ept.map(0x2F000, 0x2F000, 7)
    box.ept.invept()
    box.go(vcpu)
    assert vector_at(vcpu) == vector


def test_an_exit_names_the_event_whose_delivery_met_it_not_the_one_that_led_there(box):
    """INT 0x22 has no gate: what is being delivered when the stack is refused is #NP, which begins anew."""
    vcpu = box.vcpu()
    vcpu.state.idtr = Table(IDT, 0x22F)
    gate = bytearray(box.memory.read(IDT + 16 * 0x21, 16))
    gate[5] &= 0x7F                             # not present
    box.memory.write(IDT + 16 * 0x22, bytes(gate))
    box.ept.unmap(0x2F000)
    box.ept.invept()
    box.put("int 0x22")
    box.go(vcpu)
    exit, info = box.exits[0], InterruptionInfo(box.exits[0].idt_vectoring_info)
    assert (info.valid, info.vector, info.type) == (1, 11, InterruptionType.HARDWARE_EXCEPTION)
    assert (info.error_code_valid, exit.idt_vectoring_error_code) == (1, 0x22 << 3 | 2)
    assert (exit.instruction_length, vcpu.state.rip) == (0, CODE)


@pytest.mark.parametrize(("code", "vector"), [(b"\xcd\x21", 0x21), (b"\xcc", 3), (b"\x0f\x0b", 6)])
def test_an_event_delivered_again_returns_where_it_would_have(box, code, vector):
    """SDM "Information for VM Exits Due to Instruction Execution": the length is valid for software events only."""
    vcpu = box.vcpu()
    box.ept.unmap(0x2F000)
    box.ept.invept()
    box.put(code)
    box.go(vcpu)
    exit = box.exits[0]
    box.ept.map(0x2F000, 0x2F000, 7)
    box.ept.invept()
    assert vcpu.inject(event_of(exit.idt_vectoring_info, exit.idt_vectoring_error_code, exit.instruction_length))
    box.go(vcpu)
    assert vector_at(vcpu) == vector
    behind = 0 if vector == 6 else len(code)
    assert exit.instruction_length == behind
    assert box.memory.read_u64(vcpu.state.rsp) == CODE + behind


@pytest.mark.parametrize("bits", MODES)
def test_without_an_idt_a_fault_is_a_triple_fault(box, bits):
    vcpu = box.vcpu(bits)
    vcpu.state.idtr = Table(0, 0)
    box.put("nop; ud2", bits)
    box.go(vcpu)
    assert reasons(box) == [R.TRIPLE_FAULT]
    assert vcpu.state.rip == (0 if bits == 16 else CODE) + 1


def test_a_fault_without_its_gate_is_another_fault_and_then_a_double_fault(box):
    vcpu = box.vcpu()
    box.memory.write_u64(IDT + 14 * 16, 0)
    box.put("mov rax, [rbx]")
    vcpu.state.rbx = 0x40000000
    box.go(vcpu)
    assert vector_at(vcpu) == 8
    assert vcpu.state.cr2 == 0x40000000


def test_a_task_gate_is_a_task_switch(box):
    vcpu = box.vcpu(32)
    box.memory.write_u64(GDT + 0x38, 0x0000_8900_9000_0067)
    box.memory.write_u64(IDT + 0x21 * 8, 0x0000_E500_0038_0000)
    box.put("int 0x21", 32)
    box.go(vcpu)
    exit = box.exits[0]
    assert (exit.reason, exit.qualification) == (R.TASK_SWITCH, 0x38 | 3 << 30)


# --- stepping, stopping ----------------------------------------------------------------------------------------

def test_a_step_is_one_instruction(box):
    vcpu = box.vcpu()
    box.put("inc ecx; inc ecx; cpuid")
    vcpu.step()
    assert (vcpu.state.rcx, vcpu.state.rip) == (1, CODE + 2)
    vcpu.step()
    assert vcpu.step() is True
    assert reasons(box) == [R.CPUID]


def test_a_timer_that_is_due_ends_the_run(box):
    vcpu = box.vcpu()
    box.put("again: inc ecx; jmp again")
    vcpu.run(box.clock.tsc + 1000)
    first = vcpu.state.rcx
    vcpu.run(box.clock.tsc + 1000)
    assert 0 < first < vcpu.state.rcx


def test_an_exit_handler_that_says_no_ends_the_run_and_the_next_run_goes_on(box):
    vcpu = box.vcpu()
    box.put("cmp ecx, ecx; cpuid; jne $ - 4; mov ebx, 7; hlt")
    box.go(vcpu)
    assert reasons(box) == [R.CPUID]
    vcpu.state.complete_instruction(2)
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rbx) == ([R.CPUID, R.HLT], 7)


def test_an_error_of_the_handler_comes_out_and_the_vcpu_lives_on(box):
    vcpu = box.vcpu()

    def handle(exit) -> bool:
        raise RuntimeError("ours")

    box.handle = handle
    box.put("cpuid; hlt")
    with pytest.raises(RuntimeError, match="ours"):
        box.go(vcpu)
    box.handle = lambda exit: False
    box.go(vcpu)
    assert reasons(box) == [R.CPUID, R.CPUID]


def test_two_vcpus_on_one_engine_keep_their_registers(box):
    first, second = box.vcpu(), box.vcpu(32)
    box.put(b"\xff\xc1\xeb\xfc")        # inc ecx; jmp -4: the same in both modes
    for _ in range(5):
        box.go(first, 1000)
        box.go(second, 3000)
    assert 0 < first.state.rcx < second.state.rcx


# --- a code segment's base in 64-bit mode ----------------------------------------------------------------------

FAR_JUMP = "mov dword ptr [0x20000], {rip}; mov word ptr [0x20004], 0x28; .byte 0xFF, 0x2C, 0x25, 0, 0, 2, 0"
FAR_RETURN = "push 0x28; push {rip}; .byte 0x48, 0xCB"
IRET = "mov rax, rsp; push 0x10; push rax; push 2; push 0x28; push {rip}; iretq"


@pytest.mark.parametrize("base", [0x1000, 0x700000], ids=["where-there-is-code", "where-there-is-nothing"])
@pytest.mark.parametrize("transfer", [FAR_JUMP, FAR_RETURN, IRET], ids=["jmp", "ret", "iret"])
def test_64_bit_mode_ignores_the_base_of_a_code_segment(box, transfer, base):
    """SDM "Segmentation in IA-32e Mode"; twice, since the engine keeps what it translated."""
    box.memory.write_u64(GDT + 0x28, 0x00AF9B000000FFFF | (base & 0xFFFFFF) << 16)
    box.put("inc ebx; hlt", at=0x11000)
    box.put("inc ecx; hlt", at=0x12000)
    box.put(transfer.format(rip=0x11000))
    vcpu = box.vcpu()
    state, cs = vcpu.state, vcpu.state.cs
    state.rbx = state.rcx = 0
    for count in (1, 2):
        state.rip, state.rsp, state.cs = CODE, STACK, cs
        box.go(vcpu)
        assert (state.rbx, state.rcx, state.rip) == (count, 0, 0x11002)


# --- faults of fetching ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("tail", [b"\x48\xC7", b"\x90"], ids=["crosses", "begins-there"])
@pytest.mark.parametrize("mapped", [True, False], ids=["second-level", "page-tables"])
def test_a_fetch_that_is_refused_in_the_next_page_is_that_of_its_own_instruction(box, mapped, tail):
    """What stands before it in the block is done, and done once."""
    page = CODE + 0x1000
    if mapped:
        box.ept.unmap(page)
        box.ept.invept()
    else:
        box.memory.write_u64(TABLE + (page >> 12) * 8, 0)
    vcpu = box.vcpu()
    code = b"\xff\xc1" * 5 + b"\xff\x03" * 3 + tail        # INC ECX, INC [RBX]
    vcpu.state.rip, vcpu.state.rbx, vcpu.state.rcx = page - len(code), DATA, 0
    box.memory.write(page - len(code), code)
    box.memory.write_u64(DATA, 0)
    box.go(vcpu)
    at = page if tail == b"\x90" else page - 2
    assert (vcpu.state.rcx, box.memory.read_u64(DATA)) == (5, 3)
    if mapped:
        assert (box.exits[0].reason, vcpu.state.rip, vcpu.state.interrupt_shadow) == (R.EPT_VIOLATION, at, False)
        assert box.exits[0].guest_physical_address & ~0xFFF == page
    else:
        assert (vector_at(vcpu), vcpu.state.cr2, box.memory.read_u64(vcpu.state.rsp + 8)) == (14, page, at)


def test_a_load_from_the_next_page_is_a_fault_of_the_load(box):
    """Its address alone looks like that of a fetch."""
    page = CODE + 0x1000
    box.memory.write_u64(TABLE + (page >> 12) * 8, 0)
    vcpu = box.vcpu()
    vcpu.state.rbx, vcpu.state.rcx = page, 0
    box.put("inc ecx; inc ecx; mov al, [rbx]")
    box.go(vcpu)
    assert (vector_at(vcpu), vcpu.state.rcx, box.memory.read_u64(vcpu.state.rsp + 8)) == (14, 2, CODE + 4)

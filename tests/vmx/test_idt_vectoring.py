"""Exits during event delivery, and injecting the event again; SDM "Information for VM Exits That Occur During Event
Delivery"."""

import pytest

from hv.machine.registers import Table
from hv.spec.exits import InterruptionInfo
from hv.spec.vmcs import PinControls
from tests.machine.engine_box import GDT, STACK, TABLE
from tests.proves import proves
from tests.vmx.event_box import (
    CODE,
    HANDLERS,
    IDT,
    INNER_STACK,
    F,
    R,
    T,
    again,
    control,
    frame,
    info,
    put,
    reasons,
    vcpu_in,
)
from tests.vmx.vcpu_box import vector_at

IF = 0x200
# What the guest does, the event that is delivered, and the length of the instruction.
EVENTS = {
    "int": (b"\xcd\x21", info(0x21, T.SOFTWARE_INTERRUPT), 2), "int3": (b"\xcc", info(3, T.SOFTWARE_EXCEPTION), 1),
    "int3-prefixed": (b"\x2e\xcc", info(3, T.SOFTWARE_EXCEPTION), 2),
    "int1": (b"\xf1", info(1, T.PRIVILEGED_SOFTWARE_EXCEPTION), 1),
    "ud": (b"\x0f\x0b", info(6, T.HARDWARE_EXCEPTION), 0),
    "gp": (b"\x8e\xd8", info(13, T.HARDWARE_EXCEPTION, error=True), 0),
}
PAGES = {"stack": STACK - 0x1000, "idt": IDT, "gdt": GDT & ~0xFFF}


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", EVENTS)
@proves("exit/EPT_VIOLATION")
def test_an_event_that_was_interrupted_and_injected_again_is_the_original_one(box, name, page, bits):
    """The page comes back, the event is injected from what the exit recorded, and the handler finds the frame that it
    finds without any of it."""
    code, recorded, length = EVENTS[name]
    frames = []
    for removed in (False, True):
        vcpu = box.vcpu(bits)
        vcpu.state.rax, vcpu.state.rflags = 0xFFF8, 2 | IF | 1
        box.put(code, 64)
        gpa = PAGES[page]
        if removed:
            if page == "gdt":
                box.memory.write_u64(0, 0)      # nothing else of that page is used before the event
            box.ept.unmap(gpa)
            box.ept.invept()

        def handle(exit, vcpu=vcpu, gpa=gpa):
            if exit.reason is not R.EPT_VIOLATION:
                return False
            if exit.idt_vectoring_info:         # the load of DS meets the page first, with no event
                assert (exit.idt_vectoring_info, exit.instruction_length) == (recorded, length)
                assert vcpu.state.rip == CODE
                again(vcpu, exit)
            box.ept.map(gpa, gpa, 7)
            box.ept.invept()
            return True

        box.handle = handle
        box.exits.clear()
        box.go(vcpu)
        assert reasons(box) == [R.EPT_VIOLATION] * removed + [R.HLT]
        assert vector_at(vcpu) == InterruptionInfo(recorded).vector
        frames.append(frame(box, vcpu, str(bits), 4 if "gp" in name else 3))
    # Of a fault, the frame of an injected one holds RF as software left it.
    flags = 3 if "gp" in name else 2
    frames[0][flags] &= ~(1 << 16)
    frames[1][flags] &= ~(1 << 16)
    assert frames[0] == frames[1]


def test_an_injected_event_that_is_interrupted_is_recorded_too(box):
    vcpu = box.vcpu()
    box.ept.unmap(STACK - 0x1000)
    box.ept.invept()
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(13, T.HARDWARE_EXCEPTION, error=True),
        VM_ENTRY_EXCEPTION_ERROR_CODE=0x1230)
    box.go(vcpu)
    exit = box.exits[0]
    assert (exit.idt_vectoring_info, exit.idt_vectoring_error_code) == (
        info(13, T.HARDWARE_EXCEPTION, error=True), 0x1230)
    assert not vcpu.vmcs.read(F.VM_ENTRY_INTERRUPTION_INFO) >> 31
    assert exit.interruption_info == 0


def test_an_interrupt_of_the_guests_own_is_recorded(box):
    vcpu = box.vcpu()
    control(vcpu, PinControls(0), PinControls.EXTERNAL_INTERRUPT_EXITING, F.PIN_BASED_CONTROLS)
    waiting = [0x51]
    vcpu.interrupt_waits, vcpu.external_interrupt = lambda: bool(waiting), lambda: waiting.pop()
    vcpu.state.rflags = 2 | IF
    box.ept.unmap(IDT)
    box.ept.invept()
    box.go(vcpu)
    assert (reasons(box), box.exits[0].idt_vectoring_info) == ([R.EPT_VIOLATION], info(0x51, T.EXTERNAL_INTERRUPT))


def test_an_nmi_whose_delivery_exits_has_blocked_nmis(box):
    """Software clears the blocking before it injects the NMI again."""
    vcpu = box.vcpu()
    control(vcpu, PinControls.VIRTUAL_NMIS)
    box.ept.unmap(IDT)
    box.ept.invept()
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(2, T.NMI))
    box.go(vcpu)
    assert box.exits[0].idt_vectoring_info == info(2, T.NMI)
    assert vcpu.vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE) == 8
    box.ept.map(IDT, IDT, 7)
    box.ept.invept()
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=0)
    again(vcpu, box.exits[0])
    box.go(vcpu)
    assert vector_at(vcpu) == 2


# --- the exception bitmap --------------------------------------------------------------------------------------------

def without_page(box, gva: int) -> None:
    """The guest's own page table does not map the page."""
    box.memory.write_u64(TABLE + (gva >> 12) * 8, 0)


def test_a_page_fault_of_the_delivery_exits_as_such_although_it_is_within_a_page_fault(box):
    """A hypervisor that fills page tables on demand needs to see it before it is made a #DF; CR2 is not written."""
    vcpu = box.vcpu()
    vcpu.state.rbx, vcpu.state.cr2 = 0x3FFF0, 0x77
    without_page(box, 0x3F000)
    without_page(box, STACK - 0x1000)
    put(vcpu, EXCEPTION_BITMAP=1 << 14, PAGE_FAULT_ERROR_CODE_MASK=2, PAGE_FAULT_ERROR_CODE_MATCH=2)    # writes only
    box.put("mov al, [rbx]; hlt")
    box.go(vcpu)
    exit = box.exits[0]
    assert (exit.reason, exit.qualification) == (R.EXCEPTION_OR_NMI, STACK - 48)
    assert exit.idt_vectoring_info == info(14, T.HARDWARE_EXCEPTION, error=True)
    assert (exit.interruption_error_code, exit.idt_vectoring_error_code) == (2, 0)
    assert (vcpu.state.cr2, vcpu.state.rip) == (0x3FFF0, CODE)          # of the first one, which was the guest's own


def test_a_double_fault_that_exits_has_lost_its_cause(box):
    vcpu = box.vcpu()
    box.gate(6, 64, kind=0x6E)
    box.gate(11, 64, kind=0x6E)
    put(vcpu, EXCEPTION_BITMAP=1 << 8)
    box.put("ud2")
    box.go(vcpu)
    exit = box.exits[0]
    assert InterruptionInfo(exit.interruption_info).vector == 8
    assert (exit.interruption_error_code, exit.idt_vectoring_info) == (0, 0)


@pytest.mark.parametrize(("source", "vector", "error"), [
    ("ud2", 6, None), ("mov ax, 0xFFF8; mov ds, ax", 13, 0xFFF8), ("div cl", 0, None), ("ltr cx", 13, 0),
    ("mov rax, cr4; bts rax, 63; mov cr4, rax", 13, 0), ("rdpmc", 13, 0), ("sysenter", 13, 0), ("rdtscp", 6, None)],
    ids=["ud2", "mov-ds", "div", "ltr", "mov-cr4", "rdpmc", "sysenter", "rdtscp"])
@proves("exit/EXCEPTION_OR_NMI", "event/HARDWARE_EXCEPTION")
def test_every_fault_obeys_the_bitmap_whoever_found_it(box, source, vector, error):
    """The engine or the software beside it. RFLAGS.RF of a fault is saved as 1."""
    vcpu = box.vcpu()
    vcpu.state.rcx = 0
    vcpu.vmcs.write(F.PRIMARY_PROC_CONTROLS, vcpu.vmcs.read(F.PRIMARY_PROC_CONTROLS) & ~(1 << 11))
    put(vcpu, EXCEPTION_BITMAP=0xFFFFFFFF)
    box.put(source)
    box.go(vcpu)
    found = InterruptionInfo(box.exits[0].interruption_info)
    assert (box.exits[0].reason, found.vector, found.type) == (R.EXCEPTION_OR_NMI, vector, T.HARDWARE_EXCEPTION)
    assert found.error_code_valid == (error is not None)
    assert box.exits[0].interruption_error_code == (error or 0)
    assert (box.exits[0].idt_vectoring_info, vcpu.state.rflags >> 16 & 1) == (0, 1)


@proves("instruction/INT1", "instruction/INT3")
@pytest.mark.parametrize(("code", "vector", "kind"), [
    (b"\xf1", 1, T.PRIVILEGED_SOFTWARE_EXCEPTION), (b"\xcc", 3, T.SOFTWARE_EXCEPTION)], ids=["int1", "int3"])
@proves("event/PRIVILEGED_SOFTWARE_EXCEPTION", "event/SOFTWARE_EXCEPTION")
def test_int1_and_int3_exit_with_their_type_and_length_and_can_be_injected(box, code, vector, kind):
    vcpu = box.vcpu()
    put(vcpu, EXCEPTION_BITMAP=0xFFFFFFFF)
    box.put(code + b"\x90", 64)
    box.go(vcpu)
    exit = box.exits[0]
    assert (exit.interruption_info, exit.instruction_length, exit.qualification) == (info(vector, kind), 1, 0)
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=exit.interruption_info, VM_ENTRY_INSTRUCTION_LENGTH=1)
    box.go(vcpu)
    assert (vector_at(vcpu), frame(box, vcpu, "64", 1)) == (vector, [CODE + 1])


def test_int_n_never_exits_by_the_bitmap(box):
    vcpu = box.vcpu()
    put(vcpu, EXCEPTION_BITMAP=0xFFFFFFFF)
    box.put("int 13")
    box.go(vcpu)
    assert (reasons(box), vector_at(vcpu)) == ([R.HLT], 13)


def test_a_real_mode_fault_that_exits_has_no_error_code(box):
    vcpu = vcpu_in(box, "real")
    put(vcpu, EXCEPTION_BITMAP=0xFFFFFFFF)
    box.put(b"\x0f\x00\xd8", 64)            # LTR: undefined in real mode
    box.go(vcpu)
    found = InterruptionInfo(box.exits[0].interruption_info)
    assert (found.vector, found.error_code_valid) == (6, 0)


# --- task gates --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "kept"), [("int", "software"), ("ud", "hardware"), ("injected", "hardware")])
@proves("exit/TASK_SWITCH")
def test_an_event_that_leads_to_a_task_gate_is_recorded(box, name, kept):
    """SDM "Exit Qualification for Task Switches": source 3; the length is that of the INT."""
    vcpu = box.vcpu(32)
    vector = 0x21 if name == "int" else 6
    box.memory.write_u64(GDT + 0x38, 0x0000_8900_9000_0067)
    vcpu.state.gdtr = Table(GDT, 0x3F)
    box.memory.write_u64(IDT + vector * 8, 0x0000_E500_0038_0000)
    box.put(EVENTS["int" if name == "int" else "ud"][0] if name != "injected" else b"\xf4", 64)
    if name == "injected":
        put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(6, T.HARDWARE_EXCEPTION))
    box.go(vcpu)
    exit = box.exits[0]
    assert (exit.reason, exit.qualification, vcpu.state.rip) == (R.TASK_SWITCH, 0x38 | 3 << 30, CODE)
    expected = info(0x21, T.SOFTWARE_INTERRUPT) if kept == "software" else info(6, T.HARDWARE_EXCEPTION)
    assert (exit.idt_vectoring_info, exit.instruction_length) == (expected, 2 if kept == "software" else 0)


def test_the_fetch_of_the_handlers_first_instruction_is_no_delivery(box):
    vcpu = box.vcpu()
    box.ept.unmap(HANDLERS)
    box.ept.invept()
    box.put("int 0x21")
    box.go(vcpu)
    assert (reasons(box), box.exits[0].idt_vectoring_info) == ([R.EPT_VIOLATION], 0)
    assert vcpu.state.rip == HANDLERS + 16 * 0x21


def test_the_inner_stack_of_a_user_is_refused_too(box):
    vcpu = box.vcpu(64, user=True)
    box.ept.unmap(INNER_STACK - 0x1000)
    box.ept.invept()
    box.put("int 0x21")
    box.go(vcpu)
    assert (box.exits[0].idt_vectoring_info, vcpu.state.cpl) == (info(0x21, T.SOFTWARE_INTERRUPT), 3)


@pytest.mark.parametrize(("source", "resumes"), [("mov al, [rbx]", 1), ("int 0x21", 0)], ids=["access", "delivery"])
def test_an_ept_violation_of_an_instruction_saves_rf(box, source, resumes):
    """SDM "Saving RIP, RSP, RFLAGS, and SSP": 1 when the instruction will run again; of a delivery, what it pushes."""
    vcpu = box.vcpu()
    vcpu.state.rbx = STACK - 8
    box.ept.unmap(STACK - 0x1000)
    box.ept.invept()
    box.put(source)
    box.go(vcpu)
    assert (reasons(box), vcpu.vmcs.read(F.GUEST_RFLAGS) >> 16 & 1) == ([R.EPT_VIOLATION], resumes)

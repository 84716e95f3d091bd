"""Blocking by STI, by MOV SS and by NMI, and the windows that open when it ends; SDM "Interruptibility State"."""

import pytest

from hv.spec.ept import EptViolationQualification
from hv.spec.exits import InterruptionInfo
from hv.spec.vmcs import Interruptibility, PinControls, PrimaryControls
from hv.spec.x86 import Rflags
from tests.machine.engine_box import STACK
from tests.proves import proves
from tests.vmx.event_box import CODE, HANDLERS, F, R, T, control, frame, info, put, reasons, vcpu_in
from tests.vmx.vcpu_box import vector_at

STI, MOV_SS, NMI = (Interruptibility.BLOCKING_BY_STI, Interruptibility.BLOCKING_BY_MOV_SS,
                    Interruptibility.BLOCKING_BY_NMI)
IF = 0x200
NONE = PrimaryControls(0)


def interruptibility(vcpu) -> int:
    return vcpu.vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE)


# --- which instruction it was ----------------------------------------------------------------------------------

SHADOWS = {
    "sti": (b"\xfb", 64, STI), "sti-32": (b"\xfb", 32, STI), "mov-ss-eax": (b"\x8e\xd0", 64, MOV_SS),
    "mov-ss-eax-32": (b"\x8e\xd0", 32, MOV_SS), "mov-ss-rex": (b"\x41\x8e\xd0", 64, MOV_SS),
    "mov-ss-memory": (b"\x8e\x13", 64, MOV_SS), "mov-ss-disp-like-sti": (b"\x8e\x53\xfb", 64, MOV_SS),
    "pop-ss": (b"\x17", 32, MOV_SS), "mov-ss-16": (b"\x8e\xd0", 16, MOV_SS), "sti-16": (b"\xfb", 16, STI),
    "mov-ds": (b"\x8e\xd8", 64, 0), "nop": (b"\x90", 64, 0),
}


@pytest.mark.parametrize("name", SHADOWS)
@proves("event/BLOCKING_BY_STI", "event/BLOCKING_BY_MOV_SS")
def test_an_exit_behind_it_shows_which_instruction_blocks(box, name):
    """The instruction is in the middle of others; CPUID behind it exits, and the state is as before CPUID."""
    code, bits, shown = SHADOWS[name]
    vcpu = box.vcpu(bits)
    vcpu.state.rax, vcpu.state.rbx, vcpu.state.r8 = 0x10, 0x20000, 0x10
    for at in (0x20000, 0x20000 - 5):
        box.memory.write(at, b"\x10\0")
    box.memory.write(vcpu.state.rsp, b"\x10\0\0\0")
    box.put(b"\x90" * 20 + code + b"\x0f\xa2\xf4", 64)
    box.go(vcpu)
    assert (reasons(box), interruptibility(vcpu)) == ([R.CPUID], shown)
    vcpu.state.complete_instruction(2)
    assert interruptibility(vcpu) == 0


def test_a_shadow_at_the_beginning_of_a_page_is_told_from_the_page_before(box):
    vcpu = box.vcpu()
    vcpu.state.rax = 0x10
    page = CODE + 0x1000
    box.memory.write(page - 2, b"\x8e\xd0\x0f\xa2")
    vcpu.state.rip = page - 2
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rip, interruptibility(vcpu)) == ([R.CPUID], page, MOV_SS)


@pytest.mark.parametrize("blocking", [STI, MOV_SS])
def test_a_written_blocking_holds_for_one_instruction_and_no_longer(box, blocking):
    """It stands in no code: software's word is honoured. The window opens behind the first instruction."""
    vcpu = box.vcpu()
    vcpu.state.rflags, vcpu.state.rcx = 2 | IF, 0
    control(vcpu, PrimaryControls.INTERRUPT_WINDOW_EXITING)
    box.put("inc ecx; inc ecx; hlt")
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=blocking)
    assert interruptibility(vcpu) == blocking
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rcx, interruptibility(vcpu)) == ([R.INTERRUPT_WINDOW], 1, 0)


@pytest.mark.parametrize("blocking", [STI, MOV_SS])
def test_a_written_blocking_is_still_there_when_the_first_instruction_exits(box, blocking):
    vcpu = box.vcpu()
    box.put("cpuid; cpuid; hlt")
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=blocking, GUEST_RFLAGS=0x202)
    box.go(vcpu)
    assert (reasons(box), interruptibility(vcpu)) == ([R.CPUID], blocking)
    vcpu.state.complete_instruction(2)
    box.go(vcpu)
    assert (reasons(box), interruptibility(vcpu)) == ([R.CPUID, R.CPUID], 0)


# --- windows ---------------------------------------------------------------------------------------------------

@proves("control/PrimaryControls.INTERRUPT_WINDOW_EXITING", "exit/INTERRUPT_WINDOW")
def test_the_window_is_the_control_bit_itself(box):
    vcpu = box.vcpu()
    vcpu.want_window(True)
    assert vcpu.vmcs.read(F.PRIMARY_PROC_CONTROLS) & PrimaryControls.INTERRUPT_WINDOW_EXITING
    vcpu.want_window(False)
    assert not vcpu.vmcs.read(F.PRIMARY_PROC_CONTROLS) & PrimaryControls.INTERRUPT_WINDOW_EXITING
    control(vcpu, PrimaryControls.INTERRUPT_WINDOW_EXITING)
    vcpu.state.rcx = 0
    box.put("inc ecx; sti; inc ecx; inc ecx; hlt")
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rcx) == ([R.INTERRUPT_WINDOW], 2)
    control(vcpu, NONE, PrimaryControls.INTERRUPT_WINDOW_EXITING)
    box.go(vcpu)
    assert reasons(box) == [R.INTERRUPT_WINDOW, R.HLT]


def test_a_window_that_is_open_already_exits_before_any_instruction_also_behind_an_injection(box):
    """SDM "Interrupt-Window Exiting": INT 0x21 by a trap gate leaves IF set, and its handler has not begun."""
    vcpu = box.vcpu()
    box.gate(0x21, 64, kind=0xEF)
    vcpu.state.rflags = 2 | IF
    control(vcpu, PrimaryControls.INTERRUPT_WINDOW_EXITING)
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(0x21, T.EXTERNAL_INTERRUPT))
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rip) == ([R.INTERRUPT_WINDOW], HANDLERS + 16 * 0x21)


@proves("control/PrimaryControls.NMI_WINDOW_EXITING", "exit/NMI_WINDOW", "control/PinControls.VIRTUAL_NMIS")
@pytest.mark.parametrize("mode", ["real", "16", "32", "64", "compat", "user32", "user64"])
def test_an_nmi_window_opens_right_behind_the_iret_that_ends_the_nmi(box, mode):
    """The guest's handler counts and returns; the exit comes before the instruction it returns to."""
    vcpu = vcpu_in(box, mode)
    iret = b"\x48\xcf" if mode in ("64", "compat", "user64") else b"\xcf"
    box.memory.write(HANDLERS + 16 * 2, (b"\xff\xc3" if mode not in ("real", "16") else b"\x43") + iret)
    vcpu.state.rbx = vcpu.state.rcx = 0
    box.put(b"\xff\xc1\xff\xc1\xf4" if mode not in ("real", "16") else b"\x41\x41\xf4", 64)
    control(vcpu, PinControls.VIRTUAL_NMIS)
    control(vcpu, PrimaryControls.NMI_WINDOW_EXITING)
    rip = vcpu.state.rip
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(2, T.NMI))
    box.go(vcpu)
    assert reasons(box) == [R.NMI_WINDOW]
    assert (vcpu.state.rbx & 0xFFFF, vcpu.state.rcx & 0xFFFF, vcpu.state.rip) == (1, 0, rip)
    assert interruptibility(vcpu) == 0


def test_an_nmi_window_of_a_virtual_8086_guest(box):
    """Its handler is in protected mode; IRET goes back to virtual-8086 mode."""
    vcpu = vcpu_in(box, "v86")
    box.memory.write(HANDLERS + 16 * 2, b"\xff\xc3\xcf")
    vcpu.state.rbx = 0
    box.put(b"\x41\x41\x0f\x0b", 64)
    control(vcpu, PinControls.VIRTUAL_NMIS)
    control(vcpu, PrimaryControls.NMI_WINDOW_EXITING)
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(2, T.NMI))
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rbx, vcpu.state.rip, vcpu.state.rflags >> 17 & 1) == ([R.NMI_WINDOW], 1, 0, 1)


def test_an_nmi_window_waits_for_the_instruction_that_mov_ss_protects(box):
    vcpu = box.vcpu()
    control(vcpu, PinControls.VIRTUAL_NMIS)
    control(vcpu, PrimaryControls.NMI_WINDOW_EXITING)
    vcpu.state.rcx = 0
    box.put("inc ecx; inc ecx; hlt")
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=MOV_SS)
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rcx) == ([R.NMI_WINDOW], 1)


def test_an_nmi_window_does_not_wait_for_sti(box):
    """SDM "NMI-Window Exiting": blocking by STI need not hold it."""
    vcpu = box.vcpu()
    vcpu.state.rflags = 2 | IF
    control(vcpu, PinControls.VIRTUAL_NMIS)
    control(vcpu, PrimaryControls.NMI_WINDOW_EXITING)
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=STI)
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rip, interruptibility(vcpu)) == ([R.NMI_WINDOW], CODE, STI)


# --- NMIs ------------------------------------------------------------------------------------------------------

@proves("control/PinControls.NMI_EXITING", "exit/EXCEPTION_OR_NMI", "event/NMI")
def test_an_nmi_exits_whatever_if_says(box):
    vcpu = box.vcpu()
    box.put("inc ecx; hlt")
    vcpu.signal_nmi()
    box.go(vcpu)
    assert reasons(box) == [R.EXCEPTION_OR_NMI]
    found = InterruptionInfo(box.exits[0].interruption_info)
    assert (found.valid, found.vector, found.type, found.error_code_valid) == (1, 2, T.NMI, 0)
    assert (vcpu.state.rip, interruptibility(vcpu)) == (CODE, 0)


def test_without_nmi_exiting_an_nmi_is_the_guests_own_and_the_next_waits_for_iret(box):
    """The second one comes while the first one's handler runs: it is delivered behind the IRET, not before."""
    vcpu = box.vcpu()
    control(vcpu, PinControls(0), PinControls.NMI_EXITING | PinControls.VIRTUAL_NMIS, F.PIN_BASED_CONTROLS)
    box.memory.write(HANDLERS + 32, b"\xff\xc3\x0f\xa2\x48\xcf")                # inc ebx; cpuid; iretq
    seen = []

    def handle(exit):
        if exit.reason is R.CPUID:
            seen.append((vcpu.state.rbx, vcpu.state.rsp, interruptibility(vcpu)))
            if len(seen) == 1:
                vcpu.signal_nmi()
            vcpu.state.rbx = len(seen)
            vcpu.state.complete_instruction(2)
            return True
        return False

    box.handle = handle
    vcpu.state.rbx = vcpu.state.rcx = 0
    box.put("inc ecx; hlt")
    vcpu.signal_nmi()
    box.go(vcpu)
    assert reasons(box) == [R.CPUID, R.CPUID, R.HLT]
    assert [blocked for _, _, blocked in seen] == [NMI, NMI]
    assert seen[0][1] == seen[1][1]                     # not nested: the first had returned
    assert (vcpu.state.rcx, interruptibility(vcpu)) == (1, 0)


@pytest.mark.parametrize("virtual", [False, True])
def test_blocking_of_virtual_nmis_does_not_hold_a_physical_one(box, virtual):
    vcpu = box.vcpu()
    control(vcpu, PinControls(0), PinControls(0) if virtual else PinControls.VIRTUAL_NMIS, F.PIN_BASED_CONTROLS)
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=NMI)
    vcpu.signal_nmi()
    box.put("inc ecx; hlt")
    box.go(vcpu)
    assert reasons(box) == [R.EXCEPTION_OR_NMI if virtual else R.HLT]
    assert interruptibility(vcpu) == NMI


def test_with_nmi_exiting_and_no_virtual_nmis_iret_leaves_the_blocking_alone(box):
    """SDM "IRET" in "Changes to Instruction Behavior in VMX Non-Root Operation"."""
    vcpu = box.vcpu()
    control(vcpu, PinControls(0), PinControls.VIRTUAL_NMIS, F.PIN_BASED_CONTROLS)
    box.memory.write(HANDLERS + 32, b"\x48\xcf")
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(2, T.NMI))
    box.put("hlt")
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rip, interruptibility(vcpu)) == ([R.HLT], CODE, NMI)


def test_an_nmi_waits_for_the_instruction_that_mov_ss_protects(box):
    vcpu = box.vcpu()
    vcpu.state.rcx = 0
    box.put("inc ecx; inc ecx; hlt")
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=MOV_SS)
    vcpu.signal_nmi()
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rcx) == ([R.EXCEPTION_OR_NMI], 1)


@pytest.mark.parametrize("bits", [32, 64])
def test_an_iret_that_faults_has_unblocked_nmis_and_the_exit_says_so(box, bits):
    """SDM "Information for VM Exits Due to Vectored Events", bit 12: #GP for a selector that is none."""
    vcpu = box.vcpu(bits)
    control(vcpu, PinControls.VIRTUAL_NMIS)
    iret, word = (b"\x48\xcf", 8) if bits == 64 else (b"\xcf", 4)
    box.memory.write(HANDLERS + 32, bytes((0xC7, 0x44, 0x24, word)) + b"\xf8\xff\0\0" + iret)   # the CS it returns to
    put(vcpu, EXCEPTION_BITMAP=1 << 13, VM_ENTRY_INTERRUPTION_INFO=info(2, T.NMI))
    box.go(vcpu)
    assert reasons(box) == [R.EXCEPTION_OR_NMI]
    found = InterruptionInfo(box.exits[0].interruption_info)
    assert (found.vector, found.nmi_unblocking, box.exits[0].interruption_error_code) == (13, 1, 0xFFF8)
    assert (vcpu.state.rip, interruptibility(vcpu)) == (HANDLERS + 32 + 8, 0)


@pytest.mark.parametrize("bits", [32, 64])
def test_an_iret_whose_stack_the_ept_refuses_has_unblocked_nmis_and_the_exit_says_so(box, bits):
    """SDM "Exit Qualification for EPT Violations", bit 12. Software blocks them again, and the IRET is run again."""
    vcpu = box.vcpu(bits)
    control(vcpu, PinControls.VIRTUAL_NMIS)
    control(vcpu, PrimaryControls.NMI_WINDOW_EXITING)
    box.memory.write(HANDLERS + 32, b"\x0f\xa2" + (b"\x48\xcf" if bits == 64 else b"\xcf"))

    def handle(exit):
        if exit.reason is R.CPUID:
            vcpu.state.complete_instruction(2)
            box.ept.unmap(STACK - 0x1000)
            box.ept.invept()
            return True
        if exit.reason is R.EPT_VIOLATION:
            found = EptViolationQualification(exit.qualification)
            assert (found.nmi_unblocking, exit.idt_vectoring_info, interruptibility(vcpu)) == (1, 0, 0)
            put(vcpu, GUEST_INTERRUPTIBILITY_STATE=NMI)
            box.ept.map(STACK - 0x1000, STACK - 0x1000, 7)
            box.ept.invept()
            return True
        return False

    box.handle = handle
    box.put("hlt", bits)
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(2, T.NMI))
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rip) == ([R.CPUID, R.EPT_VIOLATION, R.NMI_WINDOW], CODE)


def test_a_fault_of_an_iret_that_unblocked_nothing_does_not_say_so(box):
    vcpu = box.vcpu()
    control(vcpu, PinControls.VIRTUAL_NMIS)
    put(vcpu, EXCEPTION_BITMAP=1 << 13)
    box.put("push 0x10; push rsp; push 2; push 0xFFF8; push rax; iretq")
    box.go(vcpu)
    assert InterruptionInfo(box.exits[0].interruption_info).nmi_unblocking == 0


def test_a_handler_in_the_guest_of_a_fault_of_iret_finds_nmis_unblocked(box):
    """The #GP is the guest's own; the window opens before its handler begins."""
    vcpu = box.vcpu()
    control(vcpu, PinControls.VIRTUAL_NMIS)
    control(vcpu, PrimaryControls.NMI_WINDOW_EXITING)
    box.memory.write(HANDLERS + 32, b"\xc7\x44\x24\x08\xf8\xff\0\0\x48\xcf")
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(2, T.NMI))
    box.go(vcpu)
    assert (reasons(box), vector_at(vcpu)) == ([R.NMI_WINDOW], 13)
    assert frame(box, vcpu, "64", 2) == [0xFFF8, HANDLERS + 32 + 8]


@pytest.mark.parametrize("shadow", [False, True])
def test_who_takes_over_with_its_window_open_exits_before_its_first_instruction(box, shadow):
    """SDM "Interrupt-Window Exiting". The sibling stood where the flag was set; its turn must not end there. In the
    shadow of STI one instruction comes first, behind which its turn may end; the next one exits."""
    first, second, seen = box.vcpu(), box.vcpu(), []
    box.put("cpuid; hlt")
    box.put("inc ecx; hlt", at=CODE + 0x400)
    second.state.interrupt_shadow = shadow
    second.state.rip, second.state.rcx, second.state.rflags = CODE + 0x400, 0, 2 | Rflags.IF.value
    second.want_window(True)

    def of_first(exit):
        first.state.rip += exit.instruction_length
        second.come_next()
        return second.take_over(box.clock.tsc + 10_000)

    def of_second(exit):
        seen.append((exit.reason, second.state.rcx))
        second.want_window(False)
        return exit.reason is R.INTERRUPT_WINDOW

    first.on_exit, second.on_exit = of_first, of_second
    for _ in range(2 if shadow else 1):
        box.go(first)
    assert seen == [(R.INTERRUPT_WINDOW, int(shadow)), (R.HLT, 1)]

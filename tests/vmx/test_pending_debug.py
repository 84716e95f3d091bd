"""Pending debug exceptions: single steps, and what VM entry loads; SDM "Guest Non-Register State"."""

import pytest

from hv.spec.exits import DebugQualification, InterruptionInfo
from hv.spec.vmcs import ActivityState, Interruptibility, PendingDebugExceptions, PrimaryControls
from hv.spec.x86 import DR6_RESET, Dr6, Dr7
from tests.vmx.event_box import CODE, HANDLERS, F, R, T, control, frame, info, put, reasons
from tests.vmx.vcpu_box import ALL, vector_at

TF, IF, RF = 0x100, 0x200, 1 << 16
MOV_SS, STI = Interruptibility.BLOCKING_BY_MOV_SS, Interruptibility.BLOCKING_BY_STI
BS = PendingDebugExceptions(bs=1).raw
B1 = PendingDebugExceptions(b1=1, enabled_breakpoint=1).raw


def pending(vcpu) -> int:
    return vcpu.vmcs.read(F.GUEST_PENDING_DEBUG_EXCEPTIONS)


@pytest.mark.parametrize(("value", "dr6"), [
    (BS, DR6_RESET | Dr6.BS), (B1, DR6_RESET | 2), (BS | B1, DR6_RESET | 0x4002)])
def test_what_pends_is_a_debug_exception_before_the_first_instruction(box, value, dr6):
    vcpu = box.vcpu()
    vcpu.state.rcx = 0
    box.put("inc ecx; hlt")
    put(vcpu, GUEST_PENDING_DEBUG_EXCEPTIONS=value)
    box.go(vcpu)
    assert (vector_at(vcpu), vcpu.state.rcx, vcpu.state.dr6, pending(vcpu)) == (1, 0, dr6, 0)
    assert frame(box, vcpu, "64", 1) == [CODE]


def test_a_breakpoint_that_is_not_enabled_is_none(box):
    vcpu = box.vcpu()
    box.put("hlt")
    put(vcpu, GUEST_PENDING_DEBUG_EXCEPTIONS=PendingDebugExceptions(b1=1).raw)
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rip, vcpu.state.dr6) == ([R.HLT], CODE, DR6_RESET)


def test_behind_mov_ss_it_waits_for_one_instruction(box):
    vcpu = box.vcpu()
    vcpu.state.rcx = 0
    box.put("inc ecx; inc ecx; hlt")
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=MOV_SS, GUEST_PENDING_DEBUG_EXCEPTIONS=B1)
    box.go(vcpu)
    assert (vector_at(vcpu), vcpu.state.rcx, vcpu.state.dr6) == (1, 1, DR6_RESET | 2)


def test_behind_sti_it_does_not_wait(box):
    vcpu = box.vcpu()
    vcpu.state.rflags, vcpu.state.rcx = 2 | IF, 0
    box.put("inc ecx; hlt")
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=STI, GUEST_PENDING_DEBUG_EXCEPTIONS=B1)
    box.go(vcpu)
    assert (vector_at(vcpu), vcpu.state.rcx) == (1, 0)


@pytest.mark.parametrize(("kind", "vector", "blocked", "kept"), [
    (T.EXTERNAL_INTERRUPT, 0x21, 0, False), (T.NMI, 2, 0, False), (T.HARDWARE_EXCEPTION, 6, 0, False),
    (T.PRIVILEGED_SOFTWARE_EXCEPTION, 1, 0, False), (T.SOFTWARE_INTERRUPT, 0x21, 0, False),
    (T.SOFTWARE_EXCEPTION, 3, 0, False), (T.SOFTWARE_INTERRUPT, 0x21, MOV_SS, True),
    (T.SOFTWARE_EXCEPTION, 3, MOV_SS, True), (T.HARDWARE_EXCEPTION, 6, MOV_SS, False)])
def test_an_injection_discards_what_pends_but_a_software_one_behind_mov_ss(box, kind, vector, blocked, kept):
    """SDM "Delivery of Pending Debug Exceptions after VM Entry". The #DB that is kept comes on top of the handler."""
    vcpu = box.vcpu()
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=blocked, GUEST_PENDING_DEBUG_EXCEPTIONS=B1,
        VM_ENTRY_INTERRUPTION_INFO=info(vector, kind), VM_ENTRY_INSTRUCTION_LENGTH=2)
    box.go(vcpu)
    assert vector_at(vcpu) == (1 if kept else vector)
    if kept:
        assert frame(box, vcpu, "64", 1) == [HANDLERS + 16 * vector]


def test_a_processor_that_halts_wakes_for_it(box):
    vcpu = box.vcpu()
    put(vcpu, GUEST_ACTIVITY_STATE=ActivityState.HLT, GUEST_PENDING_DEBUG_EXCEPTIONS=B1)
    box.go(vcpu)
    assert vector_at(vcpu) == 1


@pytest.mark.parametrize("activity", [ActivityState.SHUTDOWN, ActivityState.WAIT_FOR_SIPI])
def test_a_processor_that_is_deaf_discards_it(box, activity):
    vcpu = box.vcpu()
    put(vcpu, GUEST_ACTIVITY_STATE=activity, GUEST_PENDING_DEBUG_EXCEPTIONS=B1)
    box.go(vcpu)
    assert (reasons(box), pending(vcpu), vcpu.state.rip) == ([], 0, CODE)


@pytest.mark.parametrize("source", ["nop", "rdtsc", "mov dr0, rax", "in al, 0x80"], ids=lambda s: s.split()[0])
def test_a_single_step_exits_by_the_exception_bitmap_and_leaves_dr6(box, source):
    """Whoever did the instruction: the qualification is what DR6 would have become."""
    vcpu = box.vcpu()
    vcpu.state.rflags = 2 | TF
    control(vcpu, 0, 1 << 24, F.PRIMARY_PROC_CONTROLS)          # ports do not exit
    put(vcpu, EXCEPTION_BITMAP=2)
    length = box.put(f"{source}; hlt") - 1
    box.go(vcpu)
    exit = box.exits[0]
    assert (exit.reason, exit.qualification) == (R.EXCEPTION_OR_NMI, DebugQualification(bs=1).raw)
    assert InterruptionInfo(exit.interruption_info).vector == 1
    assert (vcpu.state.rip, vcpu.state.dr6, vcpu.state.rflags & 1 << 16) == (CODE + length, DR6_RESET, 0)


def test_a_debug_register_access_that_dr7_forbids_exits_and_leaves_dr6_and_dr7(box):
    """SDM "Instruction-Breakpoint Exception Condition": it is a fault, so RF is 1 in what is saved or pushed."""
    vcpu = box.vcpu()
    vcpu.state.dr7 = Dr7(0x400, gd=1).raw
    put(vcpu, EXCEPTION_BITMAP=2)
    box.put("mov dr0, rax; hlt")
    box.go(vcpu)
    assert box.exits[0].qualification == DebugQualification(bd=1).raw
    assert (vcpu.state.rip, vcpu.state.dr6, vcpu.state.dr7) == (CODE, DR6_RESET, Dr7(0x400, gd=1).raw)
    assert vcpu.state.rflags & RF
    vcpu.state.rflags &= ~RF
    put(vcpu, EXCEPTION_BITMAP=0)
    box.go(vcpu)
    assert (vector_at(vcpu), vcpu.state.dr6, vcpu.state.dr7) == (1, DR6_RESET | Dr6.BD, 0x400)
    assert frame(box, vcpu, "64", 3)[2] & RF


@pytest.mark.parametrize(("code", "stops"), [
    (b"\x8e\xd0", []), (b"\x8e\xd8", [2]), (b"\xfb", [1])], ids=["mov-ss", "mov-ds", "sti"])
def test_a_single_step_does_not_stop_behind_mov_ss(box, code, stops):
    """SDM "Masking Exceptions and Interrupts When Switching Stacks": the #DB comes behind the instruction after it."""
    vcpu = box.vcpu()
    vcpu.state.rflags, vcpu.state.rax = 2 | TF, 0x10
    put(vcpu, EXCEPTION_BITMAP=2)
    box.put(code + b"\x90\x90\xf4", 64)
    seen = []

    def handle(exit):
        seen.append(vcpu.state.rip - CODE)
        return len(seen) < 4 and exit.reason is R.EXCEPTION_OR_NMI

    box.handle = handle
    box.go(vcpu)
    assert seen == [*stops, len(code) + 1, len(code) + 2, len(code) + 2]
    assert reasons(box)[-1] is R.HLT


@pytest.mark.parametrize("monitored", [False, True], ids=["freely", "monitor-trap"])
def test_an_exit_behind_a_single_stepped_mov_ss_saves_its_step(box, monitored):
    """SDM "Saving Non-Register State": exits with blocking by MOV SS save what pends; and "Checks on Guest Non-Register
    State" want it so, or a hypervisor that writes back what it read could not enter again."""
    vcpu = box.vcpu()
    vcpu.state.rflags, vcpu.state.rax, vcpu.state.rbx = 2 | TF, 0x10, 0x21000
    put(vcpu, EXCEPTION_BITMAP=2)
    if monitored:
        control(vcpu, PrimaryControls.MONITOR_TRAP_FLAG)
    box.ept.unmap(0x21000)
    box.ept.invept()
    box.put(b"\x8e\xd0\x89\x03\xf4", 64)         # mov ss, eax; mov [rbx], eax; hlt
    saved = []

    def handle(exit):
        saved.append((exit.reason, vcpu.state.rip - CODE, pending(vcpu)))
        if exit.reason is R.EPT_VIOLATION:
            box.ept.map(0x21000, 0x21000, ALL)
            box.ept.invept()
        for field in (F.GUEST_INTERRUPTIBILITY_STATE, F.GUEST_PENDING_DEBUG_EXCEPTIONS, F.GUEST_RFLAGS):
            vcpu.vmcs.write(field, vcpu.vmcs.read(field))
        return exit.reason is not R.EXCEPTION_OR_NMI

    box.handle = handle
    box.go(vcpu)
    between = [(R.MONITOR_TRAP_FLAG, 2, BS)] if monitored else []
    behind = [(R.MONITOR_TRAP_FLAG, 4, BS)] if monitored else []
    assert saved == [*between, (R.EPT_VIOLATION, 2, BS), *behind, (R.EXCEPTION_OR_NMI, 4, 0)]
    assert box.exits[-1].qualification == DebugQualification(bs=1).raw


@pytest.mark.parametrize(("code", "vector", "kept"), [(b"\x0f\x0b", 6, False), (b"\xcd\x21", 0x21, True)],
                         ids=["fault", "int"])
def test_an_event_behind_mov_ss_loses_what_pends_unless_it_is_softwares(box, code, vector, kept):
    """As for an injected one; SDM "Delivery of Pending Debug Exceptions after VM Entry"."""
    vcpu = box.vcpu()
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=MOV_SS, GUEST_PENDING_DEBUG_EXCEPTIONS=B1)
    box.put(code, 64)
    box.go(vcpu)
    assert vector_at(vcpu) == (1 if kept else vector)
    assert frame(box, vcpu, "64", 1) == [HANDLERS + 16 * vector if kept else CODE]


def test_a_step_over_an_instruction_that_exits_is_softwares_to_make(box):
    """CPUID is done by the handler, which owes the #DB: by the field, as any hypervisor must."""
    vcpu = box.vcpu()
    vcpu.state.rflags = 2 | TF

    def handle(exit):
        if exit.reason is not R.CPUID:
            return False
        vcpu.state.complete_instruction(2)
        put(vcpu, GUEST_PENDING_DEBUG_EXCEPTIONS=BS)
        return True

    box.handle = handle
    box.put("cpuid; nop; hlt")
    box.go(vcpu)
    assert (vector_at(vcpu), frame(box, vcpu, "64", 1), vcpu.state.dr6) == (1, [CODE + 2], DR6_RESET | Dr6.BS)

"""Event injection by VM entry: every type in every mode; SDM "Event Injection"."""

import pytest

from hv.machine.registers import Table
from hv.spec.exits import InterruptionInfo
from hv.spec.vmcs import Interruptibility, PinControls, PrimaryControls
from hv.spec.x86 import DR6_RESET, PUSHES_ERROR_CODE
from hv.vmx.events.injection import event_of
from tests.proves import proves
from tests.vmx.event_box import CODE, IDT, MODES, VALID, WIDTHS, F, R, T, control, frame, info, put, reasons, vcpu_in
from tests.vmx.vcpu_box import vector_at

IF, TF, RF, VM = 0x200, 0x100, 1 << 16, 1 << 17
KINDS = {T.EXTERNAL_INTERRUPT: 0x21, T.NMI: 2, T.HARDWARE_EXCEPTION: 6, T.SOFTWARE_INTERRUPT: 0x21,
         T.PRIVILEGED_SOFTWARE_EXCEPTION: 1, T.SOFTWARE_EXCEPTION: 3}
SOFTWARE = (T.SOFTWARE_INTERRUPT, T.PRIVILEGED_SOFTWARE_EXCEPTION, T.SOFTWARE_EXCEPTION)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@proves("event/EXTERNAL_INTERRUPT", "event/NMI", "event/HARDWARE_EXCEPTION", "event/SOFTWARE_INTERRUPT",
        "event/PRIVILEGED_SOFTWARE_EXCEPTION", "event/SOFTWARE_EXCEPTION")
def test_an_injected_event_reaches_its_handler_with_the_frame_of_its_type(box, kind, mode):
    """RIP in the frame is the guest's, and behind the instruction for what an instruction asks for; SDM "Event
    Injection": the frame is built from the state that was loaded, and no instruction of the guest runs first."""
    vcpu = vcpu_in(box, mode)
    flags = 2 | IF | 0xD5 | (VM if mode == "v86" else 0)
    vcpu.state.rflags = flags
    selector = vcpu.state.cs.selector
    box.put("ud2" if mode in ("64", "user64") else b"\x0f\x0b", 64)
    rip = vcpu.state.rip
    vector = KINDS[kind]
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(vector, kind), VM_ENTRY_INSTRUCTION_LENGTH=3)
    box.go(vcpu)
    assert reasons(box) == [R.HLT]
    assert vector_at(vcpu) == vector
    pushed = frame(box, vcpu, mode, 3)
    assert pushed == [rip + (3 if kind in SOFTWARE else 0), selector, flags & (1 << 8 * WIDTHS[mode]) - 1]
    assert vcpu.state.rflags & (IF | TF | RF | VM) == 0
    assert not vcpu.vmcs.read(F.VM_ENTRY_INTERRUPTION_INFO) & VALID


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "real"])
@pytest.mark.parametrize("vector", sorted(PUSHES_ERROR_CODE & {8, 10, 11, 12, 13, 14, 17}))
def test_an_error_code_is_pushed_when_the_field_says_so(box, vector, mode):
    vcpu = vcpu_in(box, mode)
    rip = vcpu.state.rip
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(vector, T.HARDWARE_EXCEPTION, error=True),
        VM_ENTRY_EXCEPTION_ERROR_CODE=0xBEE8)
    box.go(vcpu)
    assert vector_at(vcpu) == vector
    assert frame(box, vcpu, mode, 2) == [0xBEE8, rip]


def test_real_mode_pushes_no_error_code(box):
    vcpu = vcpu_in(box, "real")
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(13, T.HARDWARE_EXCEPTION))
    box.go(vcpu)
    assert (vector_at(vcpu), frame(box, vcpu, "real", 2)) == (13, [0, CODE >> 4])


@pytest.mark.parametrize(("kind", "vector", "reaches"), [
    (T.SOFTWARE_INTERRUPT, 0x21, 13), (T.SOFTWARE_EXCEPTION, 3, 13), (T.PRIVILEGED_SOFTWARE_EXCEPTION, 1, 1),
    (T.HARDWARE_EXCEPTION, 6, 6), (T.EXTERNAL_INTERRUPT, 0x21, 0x21), (T.NMI, 2, 2)])
@pytest.mark.parametrize("mode", ["user32", "user64"])
def test_the_dpl_of_the_gate_is_checked_for_what_a_program_asks_for(box, mode, kind, vector, reaches):
    """INT n, INT3 and INTO of a user need a gate of DPL 3; the #GP names the gate, with EXT 0."""
    vcpu = vcpu_in(box, mode)
    box.gate(vector, 64 if mode == "user64" else 32, kind=0x8E)
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(vector, kind), VM_ENTRY_INSTRUCTION_LENGTH=2)
    box.go(vcpu)
    assert vector_at(vcpu) == reaches
    if reaches == 13:
        assert frame(box, vcpu, mode, 2) == [vector << 3 | 2, CODE]     # the fault is that of the instruction


@pytest.mark.parametrize(("kind", "vector", "ext"), [
    (T.SOFTWARE_INTERRUPT, 0x21, 0), (T.SOFTWARE_EXCEPTION, 3, 0), (T.PRIVILEGED_SOFTWARE_EXCEPTION, 1, 1),
    (T.HARDWARE_EXCEPTION, 6, 1), (T.EXTERNAL_INTERRUPT, 0x21, 1), (T.NMI, 2, 1)])
@pytest.mark.parametrize("bits", [32, 64])
def test_a_gate_that_is_not_present_is_np_whose_ext_tells_who_asked(box, bits, kind, vector, ext):
    vcpu = box.vcpu(bits)
    box.gate(vector, bits, kind=0x6E)
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(vector, kind), VM_ENTRY_INSTRUCTION_LENGTH=1)
    box.go(vcpu)
    assert (vector_at(vcpu), frame(box, vcpu, str(bits), 1)) == (11, [vector << 3 | 2 | ext])


def test_a_software_interrupt_is_injected_in_virtual_8086_mode_whatever_iopl_says(box):
    vcpu = vcpu_in(box, "v86")
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(0x21, T.SOFTWARE_INTERRUPT), VM_ENTRY_INSTRUCTION_LENGTH=2)
    box.go(vcpu)
    assert vector_at(vcpu) == 0x21


@proves("capability/VmxMisc.zero_length_injection")
def test_an_instruction_length_of_0_returns_to_the_instruction_itself(box):
    """SDM "VMX Capability Reporting Facility", IA32_VMX_MISC bit 30."""
    vcpu = box.vcpu()
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(0x21, T.SOFTWARE_INTERRUPT), VM_ENTRY_INSTRUCTION_LENGTH=0)
    box.go(vcpu)
    assert (vector_at(vcpu), frame(box, vcpu, "64", 1)) == (0x21, [CODE])


def test_an_injected_exception_leaves_cr2_and_dr6_to_software(box):
    vcpu = box.vcpu()
    vcpu.state.cr2 = 0x1234
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(14, T.HARDWARE_EXCEPTION, error=True), VM_ENTRY_EXCEPTION_ERROR_CODE=2)
    box.go(vcpu)
    assert (vector_at(vcpu), vcpu.state.cr2) == (14, 0x1234)
    vcpu = box.vcpu()
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(1, T.HARDWARE_EXCEPTION))
    box.go(vcpu)
    assert (vector_at(vcpu), vcpu.state.dr6) == (1, DR6_RESET)


def test_an_injected_exception_does_not_exit_by_the_exception_bitmap(box):
    vcpu = box.vcpu()
    put(vcpu, EXCEPTION_BITMAP=0xFFFFFFFF, VM_ENTRY_INTERRUPTION_INFO=info(6, T.HARDWARE_EXCEPTION))
    box.go(vcpu)
    assert (reasons(box), vector_at(vcpu)) == ([R.HLT], 6)


def test_rf_is_pushed_as_it_was_loaded(box):
    vcpu = box.vcpu()
    for flags in (2, 2 | RF):
        vcpu.state.rflags, vcpu.state.rip = flags, CODE
        put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(6, T.HARDWARE_EXCEPTION))
        box.go(vcpu)
        assert frame(box, vcpu, "64", 3)[2] == flags


def test_delivery_ignores_what_blocks_the_guest_and_ends_the_shadow(box):
    vcpu = box.vcpu()
    vcpu.state.rflags = 2
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=Interruptibility.BLOCKING_BY_MOV_SS,
        VM_ENTRY_INTERRUPTION_INFO=info(0x21, T.SOFTWARE_INTERRUPT), VM_ENTRY_INSTRUCTION_LENGTH=2)
    box.go(vcpu)
    assert vector_at(vcpu) == 0x21
    assert vcpu.vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE) == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_fault_of_the_delivery_is_combined_with_the_event(box, mode):
    """Contributory on contributory is #DF; SDM "Interrupt 8 - Double Fault Exception". Real mode: the vector beyond
    the limit of the IDT is #GP, and #DF."""
    vcpu = vcpu_in(box, mode)
    if mode == "real":
        vcpu.state.idtr = Table(0, 13 * 4 - 1)
    else:
        size = 16 if WIDTHS[mode] == 8 else 8
        box.memory.write(IDT + 13 * size, bytes(size))
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(13, T.HARDWARE_EXCEPTION, error=mode != "real"))
    box.go(vcpu)
    assert vector_at(vcpu) == 8


@pytest.mark.parametrize("mode", MODES)
@proves("exit/TRIPLE_FAULT")
def test_a_double_fault_that_cannot_be_delivered_is_a_triple_fault(box, mode):
    """It carries no IDT-vectoring information, and the registers are as they were loaded."""
    vcpu = vcpu_in(box, mode)
    vcpu.state.idtr = Table(0, 0)
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(0x21, T.EXTERNAL_INTERRUPT))
    before = vcpu.state.rip, vcpu.state.rsp, vcpu.state.rflags
    box.go(vcpu)
    assert reasons(box) == [R.TRIPLE_FAULT]
    assert box.exits[0].idt_vectoring_info == box.exits[0].interruption_info == 0
    assert (vcpu.state.rip, vcpu.state.rsp, vcpu.state.rflags) == before
    assert not vcpu.vmcs.read(F.VM_ENTRY_INTERRUPTION_INFO) & VALID


@proves("control/PinControls.VIRTUAL_NMIS", "event/BLOCKING_BY_NMI")
@pytest.mark.parametrize("virtual", [False, True])
def test_injecting_an_nmi_blocks_nmis(box, virtual):
    vcpu = box.vcpu()
    control(vcpu, PinControls(0), PinControls(0) if virtual else PinControls.VIRTUAL_NMIS, F.PIN_BASED_CONTROLS)
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(2, T.NMI))
    box.go(vcpu)
    assert vector_at(vcpu) == 2
    assert vcpu.vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE) == Interruptibility.BLOCKING_BY_NMI


@proves("event/OTHER_EVENT", "exit/MONITOR_TRAP_FLAG")
def test_an_injected_monitor_trap_exits_before_the_first_instruction(box):
    """Type 7, vector 0: nothing is delivered, and the control need not be set."""
    vcpu = box.vcpu()
    box.put("mov ecx, 1; hlt")
    vcpu.state.rcx = 0
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(0, T.OTHER_EVENT))
    box.handle = lambda exit: exit.reason is R.MONITOR_TRAP_FLAG
    box.go(vcpu)
    assert reasons(box) == [R.MONITOR_TRAP_FLAG, R.HLT]
    assert (vcpu.state.rip, vcpu.state.rcx) == (CODE + 5, 1)


def test_an_event_written_by_an_exit_handler_is_injected_by_the_entry_that_follows(box):
    """The handler's exit is that of CPUID; INT 0x21's handler returns, and the guest goes on."""
    vcpu = box.vcpu()
    box.memory.write(0x51000 + 16 * 0x21, b"\xff\xc3\x48\xcf")         # inc ebx; iretq

    def handle(exit) -> bool:
        if exit.reason is not R.CPUID:
            return False
        put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(0x21, T.SOFTWARE_INTERRUPT),
            VM_ENTRY_INSTRUCTION_LENGTH=exit.instruction_length)
        return True

    box.handle = handle
    vcpu.state.rbx = vcpu.state.rcx = 0
    box.put("cpuid; inc ecx; cpuid; inc ecx; hlt")
    box.go(vcpu)
    assert reasons(box) == [R.CPUID, R.CPUID, R.HLT]
    assert (vcpu.state.rbx, vcpu.state.rcx) == (2, 2)


def test_inject_and_the_fields_are_one(box):
    """`Vcpu.inject` is for the hypervisor's own software: the same frame, the same blocking."""
    found = []
    for way in (0, 1):
        vcpu = box.vcpu()
        if way:
            put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(2, T.NMI))
        else:
            assert vcpu.inject(event_of(info(2, T.NMI), 0, 0))
        box.go(vcpu)
        found.append((vector_at(vcpu), frame(box, vcpu, "64", 5), vcpu.vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE)))
    assert found[0] == found[1]


def test_the_exception_bitmap_sees_what_an_injected_event_runs_into(box):
    """The exit names the fault, and the event that was being delivered; SDM "Information for VM Exits That Occur During
    Event Delivery"."""
    vcpu = box.vcpu()
    box.gate(0x21, 64, kind=0x6E)
    put(vcpu, EXCEPTION_BITMAP=1 << 11, VM_ENTRY_INTERRUPTION_INFO=info(0x21, T.SOFTWARE_INTERRUPT),
        VM_ENTRY_INSTRUCTION_LENGTH=2)
    box.go(vcpu)
    exit = box.exits[0]
    assert (exit.reason, exit.interruption_error_code) == (R.EXCEPTION_OR_NMI, 0x21 << 3 | 2)
    assert InterruptionInfo(exit.interruption_info).vector == 11
    assert (exit.idt_vectoring_info, exit.instruction_length) == (info(0x21, T.SOFTWARE_INTERRUPT), 2)
    assert vcpu.state.rip == CODE
    assert vcpu.vmcs.read(F.PRIMARY_PROC_CONTROLS) & PrimaryControls.HLT_EXITING

"""Guests in machine code with a virtual APIC: what the guest sees and what exits, control by control."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hv.spec.apic import ApicRegister as R
from hv.spec.exits import ExitReason, InterruptionInfo
from hv.spec.vmcs import ActivityState, PinControls, PrimaryControls, SecondaryControls, VmcsField
from hv.vmx.apic.virtual_apic import VIRR, VISR
from hv.vmx.exit import VmExit
from tests.machine.engine_box import STACK
from tests.proves import proves
from tests.vmx.apic_box import (
    ACCESS_GPA,
    ACCESS_SPA,
    DELIVERY,
    DESCRIPTOR,
    EOI_BY_MSR,
    EOI_BY_PAGE,
    PAGE,
    TPR_SHADOW,
    X2APIC,
    XAPIC,
    ApicBox,
)
from tests.vmx.vcpu_box import CODE, HANDLERS, IDT, MSR_BITMAP, VcpuBox, vector_at

E = ExitReason
REGISTERS = int(SecondaryControls.APIC_REGISTER_VIRTUALIZATION)
CR8_LOAD, CR8_STORE = int(PrimaryControls.CR8_LOAD_EXITING), int(PrimaryControls.CR8_STORE_EXITING)
TPR_AT, EOI_AT, ICR_AT = (hex(ACCESS_GPA + register) for register in (R.TPR, R.EOI, R.ICR_LOW))


@pytest.fixture
def apic(box: VcpuBox) -> Iterator[ApicBox]:
    return ApicBox(box)


def seen(exit: VmExit | None) -> tuple[ExitReason, int] | None:
    return exit and (exit.reason, exit.qualification)


# --- CR8 and the TPR shadow --------------------------------------------------------------------------------------

@proves("control/PrimaryControls.USE_TPR_SHADOW", "instruction/MOV_TO_CR", "instruction/MOV_FROM_CR")
def test_cr8_is_the_class_of_the_shadow(apic: ApicBox):
    """SDM "Virtualizing CR8-Based TPR Accesses": nothing exits, and the low nibble of VTPR is cleared by a write."""
    vcpu = apic.vcpu(0)
    apic.put(R.TPR, 0x5A)
    exit = apic.run(vcpu, "mov rax, cr8; mov ebx, 9; mov cr8, rbx; mov rdx, cr8; hlt")
    assert seen(exit) == (E.HLT, 0)
    assert (vcpu.state.rax, vcpu.state.rdx, apic.register(R.TPR)) == (5, 9, 0x90)


@proves("control/PrimaryControls.CR8_LOAD_EXITING", "control/PrimaryControls.CR8_STORE_EXITING", "exit/CR_ACCESS")
@pytest.mark.parametrize(("source", "control", "qualification"), [
    ("mov cr8, rbx; hlt", CR8_LOAD, 0x308), ("mov rbx, cr8; hlt", CR8_STORE, 0x318),
])
def test_cr8_exiting_comes_before_the_shadow(apic: ApicBox, source, control, qualification):
    """SDM "Instructions That Cause VM Exits": the exit is asked for before anything is virtualized."""
    vcpu = apic.vcpu(0, TPR_SHADOW | control)
    apic.put(R.TPR, 0x50)
    exit = apic.run(vcpu, source, rbx=0xFFFF)
    assert seen(exit) == (E.CR_ACCESS, qualification)
    assert (apic.register(R.TPR), vcpu.state.rip, vcpu.state.rbx) == (0x50, CODE, 0xFFFF)


def test_a_reserved_bit_of_cr8_is_a_fault(apic: ApicBox):
    """SDM "MOV - Move to/from Control Registers": #GP(0) for CR8[63:4]."""
    vcpu = apic.vcpu(0)
    apic.run(vcpu, "mov cr8, rbx", rbx=0x10)
    assert vector_at(vcpu) == 13
    assert apic.register(R.TPR) == 0


@proves("control/PrimaryControls.USE_TPR_SHADOW")
def test_without_a_shadow_cr8_leaves_the_page_alone(apic: ApicBox):
    vcpu = apic.vcpu(0, 0)
    assert seen(apic.run(vcpu, "mov ebx, 3; mov cr8, rbx; mov rax, cr8; hlt")) == (E.HLT, 0)
    assert (vcpu.state.rax, apic.register(R.TPR)) == (3, 0)


@proves("exit/TPR_BELOW_THRESHOLD", "control/PrimaryControls.USE_TPR_SHADOW")
@pytest.mark.parametrize("single_step", [False, True])
def test_the_threshold_exit_comes_behind_the_instruction(apic: ApicBox, single_step):
    """SDM "TPR Virtualization": trap-like, so RIP is the next instruction's and CR8 is written."""
    vcpu = apic.vcpu(XAPIC, TPR_THRESHOLD=5)
    apic.put(R.TPR, 0x70)
    exit = apic.run(vcpu, "mov cr8, rbx; mov cr8, rcx; hlt", rbx=5, rcx=4, rflags=0x102 if single_step else 2)
    if single_step:
        assert vector_at(vcpu) == 1         # behind the first MOV, at which nothing was below
        return
    assert seen(exit) == (E.TPR_BELOW_THRESHOLD, 0)
    assert (apic.register(R.TPR), vcpu.state.rip, exit.instruction_length) == (0x40, CODE + 8, 0)


@proves("exit/TPR_BELOW_THRESHOLD")
def test_a_priority_below_the_threshold_exits_at_entry(apic: ApicBox):
    """SDM "VM Exits Induced by the TPR Threshold": before the first instruction."""
    vcpu = apic.vcpu(XAPIC, TPR_THRESHOLD=2)
    apic.put(R.TPR, 0x10)
    assert seen(apic.run(vcpu, "inc rax; hlt")) == (E.TPR_BELOW_THRESHOLD, 0)
    assert (vcpu.state.rax, vcpu.state.rip) == (0, CODE)
    apic.put(R.TPR, 0x20)
    assert seen(apic.run(vcpu, "inc rax; hlt")) == (E.HLT, 0)
    assert vcpu.state.rax == 1


@pytest.mark.parametrize(("activity", "exits"), [(ActivityState.ACTIVE, True), (ActivityState.HLT, True),
                                                 (ActivityState.SHUTDOWN, False), (ActivityState.WAIT_FOR_SIPI, False)])
def test_the_threshold_exit_of_an_entry_depends_on_the_activity_state(apic: ApicBox, activity, exits):
    """SDM "VM Exits Induced by the TPR Threshold": it wakes from HLT, which stays the state; it does not occur in the
    shutdown state and in that of waiting for SIPI."""
    vcpu = apic.vcpu(XAPIC, TPR_THRESHOLD=2, GUEST_ACTIVITY_STATE=int(activity))
    exit = apic.run(vcpu, "nop; hlt")
    assert (exit is not None) is exits
    assert vcpu.vmcs.read(VmcsField.GUEST_ACTIVITY_STATE) == activity
    if exit is not None:
        assert seen(exit) == (E.TPR_BELOW_THRESHOLD, 0)


def test_the_threshold_exit_of_an_entry_does_not_outlive_it(apic: ApicBox):
    """The injection exits first. The next entry is without a TPR shadow, so it has no threshold."""
    vcpu = apic.vcpu(XAPIC, TPR_THRESHOLD=2, VM_ENTRY_INTERRUPTION_INFO=0x80000306)
    apic.box.ept.unmap(STACK - 0x1000)
    apic.box.ept.invept()

    def without_shadow(exit: VmExit) -> bool:
        primary = vcpu.vmcs.read(VmcsField.PRIMARY_PROC_CONTROLS)
        vcpu.vmcs.write(VmcsField.TPR_THRESHOLD, 0)
        vcpu.vmcs.write(VmcsField.PRIMARY_PROC_CONTROLS, primary & ~TPR_SHADOW)
        return len(apic.box.exits) == 1

    apic.box.handle = without_shadow
    apic.run(vcpu, "nop; cpuid")
    assert [exit.reason for exit in apic.box.exits] == [E.EPT_VIOLATION, E.CPUID]


# --- The APIC-access page ----------------------------------------------------------------------------------------

@proves("control/SecondaryControls.VIRTUALIZE_APIC_ACCESSES", "exit/APIC_ACCESS")
@pytest.mark.parametrize(("source", "qualification", "length"), [
    (f"mov eax, [{ACCESS_GPA + R.SVR:#x}]", 0x00F0, 7),                 # a read of what is not virtualized
    (f"mov [{ACCESS_GPA + R.EOI:#x}], ebx", 0x10B0, 7),
    (f"mov rax, [{ACCESS_GPA + R.TPR:#x}]", 0x0080, 8),                 # eight bytes
    (f"mov eax, [{ACCESS_GPA + R.TPR + 2:#x}]", 0x0082, 7),             # not within the dword
    (f"or dword ptr [{ACCESS_GPA + R.SVR:#x}], 1", 0x10F0, 8),          # read and written: a write
    (f"mov eax, [{ACCESS_GPA + 0x400:#x}]", 0x0400, 7),
    (f"push qword ptr [{ACCESS_GPA + R.TPR:#x}]", 0x0080, 0),           # not one that is carried out in software
])
def test_an_access_that_is_not_virtualized_exits(apic: ApicBox, source, qualification, length):
    """SDM "Virtualizing Reads from the APIC-Access Page", "APIC-Access VM Exits": offset and type of access."""
    vcpu = apic.vcpu(XAPIC)
    exit = apic.run(vcpu, source + "; hlt", rbx=7)
    assert seen(exit) == (E.APIC_ACCESS, qualification)
    assert vcpu.state.rip == CODE
    assert vcpu.state.rflags & 0x10000          # RF: the instruction is run again
    assert exit.instruction_length in (length, 0)
    assert not any(apic.box.memory.read(PAGE, 4096))
    assert not any(apic.box.memory.read(ACCESS_SPA, 4096))


@proves("control/SecondaryControls.VIRTUALIZE_APIC_ACCESSES", "exit/APIC_ACCESS")
def test_without_a_shadow_every_access_exits(apic: ApicBox):
    vcpu = apic.vcpu(XAPIC, 0)
    assert seen(apic.run(vcpu, f"mov eax, [{TPR_AT}]; hlt")) == (E.APIC_ACCESS, 0x0080)


@proves("exit/APIC_ACCESS")
def test_a_fetch_from_the_page_exits(apic: ApicBox):
    """SDM "Exit Qualification for APIC-Access VM Exits": access type 2."""
    vcpu = apic.vcpu(XAPIC)
    assert seen(apic.run(vcpu, f"mov eax, {ACCESS_GPA + 0x123}; jmp rax")) == (E.APIC_ACCESS, 0x2123)


@proves("exit/APIC_ACCESS")
def test_an_event_whose_stack_is_the_page_exits_with_the_event(apic: ApicBox):
    """SDM "Exit Qualification for APIC-Access VM Exits", type 3; "Information for VM Exits During Event Delivery"."""
    vcpu = apic.vcpu(XAPIC | REGISTERS)
    exit = apic.run(vcpu, "int 0x55", rsp=ACCESS_GPA + 0x100)
    assert exit is not None
    assert (exit.reason, exit.qualification >> 12) == (E.APIC_ACCESS, 3)
    assert InterruptionInfo(exit.idt_vectoring_info).vector == 0x55


@proves("exit/APIC_ACCESS")
def test_page_tables_in_the_page_exit(apic: ApicBox):
    """SDM "Guest-Physical Accesses to the APIC-Access Page": type 15, and 10 while an event is delivered."""
    vcpu = apic.vcpu(XAPIC | REGISTERS)
    vcpu.state.cr3 = ACCESS_GPA
    assert seen(apic.run(vcpu, "nop")) == (E.APIC_ACCESS, 0xF000)
    vcpu = apic.vcpu(XAPIC)
    apic.box.memory.write_u64(0x1000 + 8, ACCESS_GPA | 7)         # PML4 entry of linear addresses from 512 GiB on
    exit = apic.run(vcpu, "int 0x55", rsp=(512 << 30) + 0x100)
    assert exit is not None
    assert exit.qualification == 0xA000
    assert InterruptionInfo(exit.idt_vectoring_info).vector == 0x55


@proves("control/SecondaryControls.VIRTUALIZE_APIC_ACCESSES", "control/PrimaryControls.USE_TPR_SHADOW")
@pytest.mark.parametrize("bits", [32, 64])
def test_tpr_is_read_and_written_in_the_page(apic: ApicBox, bits):
    """SDM "Virtualizing Memory-Mapped APIC Accesses": with the TPR shadow alone, offset 080H."""
    vcpu = apic.vcpu(XAPIC, bits=bits)
    apic.put(R.TPR, 0x37)
    exit = apic.run(vcpu, f"mov eax, [{TPR_AT}]; mov dword ptr [{TPR_AT}], 0x12345678; movzx ecx, byte ptr [{TPR_AT}]; "
                          f"add dword ptr [{TPR_AT}], 8; hlt", bits)
    assert seen(exit) == (E.HLT, 0)
    assert (vcpu.state.rax, vcpu.state.rcx, apic.register(R.TPR)) == (0x37, 0x78, 0x80)


@proves("control/SecondaryControls.APIC_REGISTER_VIRTUALIZATION")
def test_with_register_virtualization_reads_see_the_page(apic: ApicBox):
    """SDM "Virtualizing Reads from the APIC-Access Page": no exit for the registers of the list, one for PPR."""
    vcpu = apic.vcpu(XAPIC | REGISTERS)
    for register in (R.ID, R.VERSION, R.ISR + 0x70, R.IRR, R.LVT_TIMER):
        apic.put(register, 0xA0000000 | register)
    source = "; ".join(f"mov {name}, [{ACCESS_GPA + register:#x}]" for name, register in (
        ("eax", R.ID), ("ebx", R.VERSION), ("ecx", R.ISR + 0x70), ("edx", R.IRR), ("esi", R.LVT_TIMER), ("edi", R.PPR)))
    assert seen(apic.run(vcpu, source)) == (E.APIC_ACCESS, R.PPR)
    state = vcpu.state
    assert [state.rax, state.rbx, state.rcx, state.rdx, state.rsi] == [
        0xA0000000 | register for register in (R.ID, R.VERSION, R.ISR + 0x70, R.IRR, R.LVT_TIMER)]


@proves("control/SecondaryControls.APIC_REGISTER_VIRTUALIZATION", "exit/APIC_WRITE")
@pytest.mark.parametrize("register", [R.SVR, R.LVT_TIMER, R.TIMER_INITIAL, R.EOI, R.ICR_LOW])
def test_a_write_reaches_the_page_and_exits_behind_the_instruction(apic: ApicBox, register):
    """SDM "APIC-Write VM Exits": trap-like; the value is found in the page."""
    vcpu = apic.vcpu(XAPIC | REGISTERS)
    exit = apic.run(vcpu, f"mov dword ptr [{ACCESS_GPA + register:#x}], 0x1234; hlt")
    assert seen(exit) == (E.APIC_WRITE, register)
    assert apic.register(register) == 0x1234
    assert vcpu.state.rip == CODE + 11


def test_a_repeated_store_exits_behind_each_element(apic: ApicBox):
    """SDM "APIC-Write Emulation": after an iteration of a REP-prefixed string instruction."""
    vcpu = apic.vcpu(XAPIC | REGISTERS)
    exit = apic.run(vcpu, "rep stosd; hlt", rdi=ACCESS_GPA + R.SVR, rcx=3, rax=0x11)
    assert seen(exit) == (E.APIC_WRITE, R.SVR)
    assert (vcpu.state.rip, vcpu.state.rcx, vcpu.state.rdi) == (CODE, 2, ACCESS_GPA + R.SVR + 4)


@pytest.mark.parametrize("single_step", [False, True], ids=["monitor-trap", "single-step"])
@pytest.mark.parametrize(("source", "pointer"), [("rep stosb", "rdi"), ("rep lodsb", "rsi")])
def test_each_element_of_a_repeated_access_counts(apic: ApicBox, source, pointer, single_step):
    """SDM "Monitor Trap Flag", "Single-Step Exception Condition": behind each iteration, also of a virtualized one."""
    vcpu = apic.vcpu(XAPIC, TPR_SHADOW | (0 if single_step else int(PrimaryControls.MONITOR_TRAP_FLAG)),
                     EXCEPTION_BITMAP=1 << 1)
    seen_at = []

    def note(exit: VmExit) -> bool:
        seen_at.append((exit.reason, vcpu.state.rip - CODE, vcpu.state.rcx))
        return len(seen_at) < 3

    apic.box.handle = note
    flags = 0x102 if single_step else 2
    apic.run(vcpu, source + "; hlt", rcx=3, rax=0x20, rflags=flags, **{pointer: ACCESS_GPA + R.TPR})
    reason = E.EXCEPTION_OR_NMI if single_step else E.MONITOR_TRAP_FLAG
    assert seen_at == [(reason, 0, 2), (reason, 0, 1), (reason, 2, 0)]


def test_the_guests_own_paging_comes_first(apic: ApicBox):
    """A page that the guest's tables forbid to write is #PF, whatever lies behind it; also for what reads first."""
    vcpu = apic.vcpu(XAPIC | REGISTERS)
    apic.box.memory.write_u64(0x4000 + 8 * (ACCESS_GPA >> 12), ACCESS_GPA | 0x65)
    apic.run(vcpu, f"or dword ptr [{ACCESS_GPA + R.SVR:#x}], 1")
    assert vector_at(vcpu) == 14
    assert vcpu.state.cr2 == ACCESS_GPA + R.SVR
    assert apic.register(R.SVR) == 0


def test_an_ept_violation_comes_first(apic: ApicBox):
    """SDM "Priority of APIC-Access VM Exits": EPT violations have priority."""
    vcpu = apic.vcpu(XAPIC | REGISTERS)
    apic.box.ept.map(ACCESS_GPA, ACCESS_SPA, 1)
    apic.box.ept.invept()
    assert apic.run(vcpu, f"mov [{TPR_AT}], eax").reason is E.EPT_VIOLATION
    assert seen(apic.run(vcpu, f"mov eax, [{TPR_AT}]; hlt", rip=CODE)) == (E.HLT, 0)


def test_when_the_control_is_off_the_page_is_memory(apic: ApicBox):
    """Also right after it was on: nothing of the access page is remembered, and nothing is forgotten of it."""
    vcpu = apic.vcpu(XAPIC)
    source = f"mov dword ptr [{TPR_AT}], 0x55; mov eax, [{TPR_AT}]; hlt"
    apic.run(vcpu, source)
    secondary = vcpu.vmcs.read(VmcsField.SECONDARY_PROC_CONTROLS)
    for on, behind in ((0, 0x55), (XAPIC, 0x55)):
        vcpu.vmcs.write(VmcsField.SECONDARY_PROC_CONTROLS, secondary & ~XAPIC | on)
        vcpu.state.rip = CODE
        assert seen(apic.run(vcpu, source)) == (E.HLT, 0)
        assert apic.box.memory.read_u32(ACCESS_SPA + R.TPR) == behind
    assert apic.register(R.TPR) == 0x55


# --- x2APIC mode -------------------------------------------------------------------------------------------------

@proves("control/SecondaryControls.VIRTUALIZE_X2APIC_MODE", "instruction/RDMSR", "instruction/WRMSR")
def test_the_tpr_msr_is_the_shadow(apic: ApicBox):
    """SDM "Virtualizing MSR-Based APIC Accesses"."""
    vcpu = apic.vcpu(X2APIC)
    apic.put(R.TPR, 0x33)
    exit = apic.run(vcpu, "mov ecx, 0x808; rdmsr; mov ebx, eax; mov eax, 0x47; xor edx, edx; wrmsr; rdmsr; hlt")
    assert seen(exit) == (E.HLT, 0)
    assert (vcpu.state.rbx, vcpu.state.rax, vcpu.state.rdx, apic.register(R.TPR)) == (0x33, 0x47, 0, 0x47)


@proves("control/PrimaryControls.USE_MSR_BITMAPS", "control/SecondaryControls.VIRTUALIZE_X2APIC_MODE")
def test_the_bitmap_comes_before_the_virtual_apic(apic: ApicBox):
    """SDM "MSR-Bitmap Address": an RDMSR that the bitmap makes exit is not virtualized."""
    vcpu = apic.vcpu(X2APIC | DELIVERY)
    apic.box.memory.write(MSR_BITMAP + 0x808 // 8, b"\1")                   # read of 808H
    apic.box.memory.write(MSR_BITMAP + 0x800 + 0x80B // 8, b"\x08")         # write of 80BH
    assert seen(apic.run(vcpu, "mov ecx, 0x808; rdmsr")) == (E.RDMSR, 0)
    assert seen(apic.run(vcpu, "mov ecx, 0x80B; wrmsr", rip=CODE)) == (E.WRMSR, 0)


@proves("control/SecondaryControls.VIRTUALIZE_X2APIC_MODE")
@pytest.mark.parametrize(("msr", "value"), [
    (0x808, 0x100), (0x808, 1 << 32), (0x80B, 1), (0x80B, 1 << 63), (0x83F, 0x100)])
def test_reserved_bits_of_an_x2apic_msr_are_a_fault(apic: ApicBox, msr, value):
    vcpu = apic.vcpu(X2APIC | DELIVERY)
    apic.run(vcpu, "wrmsr", rcx=msr, rax=value & 0xFFFFFFFF, rdx=value >> 32)
    assert vector_at(vcpu) == 13
    assert not any(apic.box.memory.read(PAGE, 4096))


@proves("control/SecondaryControls.APIC_REGISTER_VIRTUALIZATION")
def test_with_register_virtualization_every_msr_is_eight_bytes_of_the_page(apic: ApicBox):
    vcpu = apic.vcpu(X2APIC | REGISTERS)
    apic.put(0x300, 0x11), apic.put(0x304, 0x22)
    apic.run(vcpu, "mov ecx, 0x830; rdmsr; hlt")
    assert (vcpu.state.rax, vcpu.state.rdx) == (0x11, 0x22)


@proves("control/SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY", "exit/APIC_WRITE")
def test_an_illegal_self_ipi_exits(apic: ApicBox):
    """SDM "Virtualizing MSR-Based APIC Accesses": 83FH with a vector below 16."""
    vcpu = apic.vcpu(X2APIC | DELIVERY)
    exit = apic.run(vcpu, "mov ecx, 0x83F; mov eax, 5; xor edx, edx; wrmsr; hlt")
    assert seen(exit) == (E.APIC_WRITE, 0x3F0)
    assert apic.register(0x3F0) == 5
    assert vcpu.state.rip == CODE + 14


# --- Virtual-interrupt delivery ----------------------------------------------------------------------------------

WAYS = [("page", 64), ("page", 32), ("msr", 64)]


def a_guest(apic: ApicBox, way: str, bits: int, vectors: tuple[int, ...], pin: int = 0, **fields: int):
    """A vcpu that takes *vectors*, each ended by the page or by the MSR."""
    vcpu = apic.vcpu((XAPIC if way == "page" else X2APIC) | DELIVERY, bits=bits, pin=pin, **fields)
    apic.serve(vcpu, vectors, EOI_BY_PAGE if way == "page" else EOI_BY_MSR, bits)
    return vcpu


def self_ipi(way: str, vector: int) -> str:
    if way == "page":
        return f"mov dword ptr [{ICR_AT}], {0x40000 | vector:#x}"
    return f"mov ecx, 0x83F; mov eax, {vector:#x}; xor edx, edx; wrmsr"


def set_tpr(way: str, tpr: int) -> str:
    if way == "page":
        return f"mov dword ptr [{TPR_AT}], {tpr:#x}"
    return f"mov ecx, 0x808; mov eax, {tpr:#x}; xor edx, edx; wrmsr"


@proves("control/SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY", "event/EXTERNAL_INTERRUPT")
@pytest.mark.parametrize(("way", "bits"), WAYS)
def test_interrupts_are_served_by_priority_without_an_exit(apic: ApicBox, way, bits):
    """SDM "Virtual-Interrupt Delivery": three wait for STI, the highest is first; each EOI lets the next one in."""
    vcpu = a_guest(apic, way, bits, (0x31, 0x52, 0x73))
    source = "; ".join(self_ipi(way, vector) for vector in (0x52, 0x31, 0x73))
    exit = apic.run(vcpu, f"cli; {source}; sti; nop; nop; cli; hlt", bits)
    assert seen(exit) == (E.HLT, 0)
    assert apic.served == [0x73, 0x52, 0x31]
    assert len(apic.box.exits) == 1
    assert vcpu.vmcs.read(VmcsField.GUEST_INTERRUPT_STATUS) == 0
    assert apic.page.vectors(VIRR) == apic.page.vectors(VISR) == 0


@proves("control/SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY", "control/PrimaryControls.USE_TPR_SHADOW")
@pytest.mark.parametrize(("way", "bits"), WAYS)
def test_the_task_priority_holds_interrupts_back(apic: ApicBox, way, bits):
    """SDM "TPR Virtualization": lowering it lets in what is above, at the next boundary."""
    vcpu = a_guest(apic, way, bits, (0x31, 0x52))
    exit = apic.run(vcpu, f"sti; {set_tpr(way, 0x50)}; {self_ipi(way, 0x52)}; {self_ipi(way, 0x31)}; mov esi, 1; "
                          f"{set_tpr(way, 0x40)}; cli; {set_tpr(way, 0)}; hlt", bits)
    assert seen(exit) == (E.HLT, 0)
    assert apic.served == [0x52]            # 31H waits for IF, which is 0
    assert vcpu.vmcs.read(VmcsField.GUEST_INTERRUPT_STATUS) == 0x31
    assert apic.page.vectors(VIRR) == 1 << 0x31


@proves("control/SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY", "instruction/MOV_TO_CR", "instruction/MOV_FROM_CR")
def test_a_higher_interrupt_comes_into_a_lower_handler(apic: ApicBox):
    """Nesting: the handler of 31H sets IF and sends 52H and 33H; only the higher class is served inside it."""
    vcpu = a_guest(apic, "page", 64, (0x33, 0x52))
    handler = (f"mov dword ptr [r15], 1; add r15, 4; sti; {self_ipi('page', 0x33)}; {self_ipi('page', 0x52)}; nop; "
               f"cli; mov dword ptr [r15], 2; add r15, 4; {EOI_BY_PAGE}; iretq")
    apic.box.put(handler, at=0x58000)
    apic.box.gate(0x31, 64, offset=0x58000)
    exit = apic.run(vcpu, f"sti; {self_ipi('page', 0x31)}; nop; hlt")
    assert seen(exit) == (E.HLT, 0)
    assert apic.served == [1, 0x52, 2, 0x33]


@proves("exit/VIRTUALIZED_EOI")
@pytest.mark.parametrize(("way", "bits"), WAYS)
def test_an_eoi_of_the_bitmap_exits_behind_the_instruction(apic: ApicBox, way, bits):
    """SDM "EOI Virtualization": vector 52H (bit 18 of EOI_EXIT_BITMAP1) exits, 31H does not."""
    vcpu = a_guest(apic, way, bits, (0x31, 0x52), EOI_EXIT_BITMAP1=1 << 0x52 - 64)
    apic.box.handle = lambda exit: exit.reason is E.VIRTUALIZED_EOI
    apic.run(vcpu, f"sti; {self_ipi(way, 0x31)}; {self_ipi(way, 0x52)}; nop; cli; hlt", bits)
    assert [seen(exit) for exit in apic.box.exits] == [(E.VIRTUALIZED_EOI, 0x52), (E.HLT, 0)]
    assert apic.served == [0x31, 0x52]
    assert apic.page.vectors(VISR) == 0


def test_the_interrupt_that_software_requests_is_taken_at_entry(apic: ApicBox):
    """SDM "Evaluation of Pending Virtual Interrupts": at VM entry, by RVI; the page alone says nothing."""
    vcpu = a_guest(apic, "page", 64, (0x44,))
    apic.page.insert(VIRR, 0x44)
    assert seen(apic.run(vcpu, "sti; nop; nop; cli; hlt")) == (E.HLT, 0)
    assert apic.served == []
    vcpu.vmcs.write(VmcsField.GUEST_INTERRUPT_STATUS, 0x44)
    apic.run(vcpu, "sti; nop; nop; cli; hlt", rip=CODE)
    assert apic.served == [0x44]


def test_an_interrupt_waits_for_the_shadow_of_sti(apic: ApicBox):
    """SDM "Virtual-Interrupt Delivery": at the same boundaries as an external interrupt."""
    vcpu = a_guest(apic, "page", 64, (0x44,))
    exit = apic.run(vcpu, f"cli; {self_ipi('page', 0x44)}; sti; mov [r15], ecx; nop; hlt", rcx=0x99)
    assert seen(exit) == (E.HLT, 0)
    assert apic.box.memory.read_u32(0x20000) == 0x44        # over the guest's 99H: that was stored first
    assert apic.served == [0x44]


@proves("control/PrimaryControls.INTERRUPT_WINDOW_EXITING")
def test_with_interrupt_window_exiting_nothing_is_delivered(apic: ApicBox):
    """SDM "Evaluation of Pending Virtual Interrupts": the window's exit comes instead."""
    vcpu = a_guest(apic, "page", 64, (0x44,))
    vcpu.want_window(True)
    exit = apic.run(vcpu, f"cli; {self_ipi('page', 0x44)}; sti; nop; nop; hlt")
    assert seen(exit) == (E.INTERRUPT_WINDOW, 0)
    assert apic.served == []
    vcpu.want_window(False)
    apic.box.go(vcpu)
    assert apic.served == [0x44]


@proves("exit/APIC_ACCESS")
def test_a_virtual_interrupt_is_in_service_when_its_delivery_exits(apic: ApicBox):
    """SDM "Virtual-Interrupt Delivery": the state is updated first; the exit has the event for re-injection."""
    vcpu = a_guest(apic, "page", 64, (0x44,))
    vcpu.state.idtr = vcpu.state.idtr._replace(base=ACCESS_GPA)
    exit = apic.run(vcpu, f"sti; {self_ipi('page', 0x44)}; nop; hlt")
    assert seen(exit) == (E.APIC_ACCESS, 0x3440)
    assert InterruptionInfo(exit.idt_vectoring_info).vector == 0x44
    assert apic.page.vectors(VISR) == 1 << 0x44
    assert IDT


# --- Posted interrupts -------------------------------------------------------------------------------------------

@proves("control/PinControls.PROCESS_POSTED_INTERRUPTS", "exit/EXTERNAL_INTERRUPT")
def test_the_notification_vector_is_processed_without_an_exit(apic: ApicBox):
    """SDM "Posted-Interrupt Processing": ON and the requests are cleared, the rest of the descriptor stays."""
    vcpu = apic.vcpu(XAPIC | DELIVERY, pin=int(PinControls.PROCESS_POSTED_INTERRUPTS))
    apic.serve(vcpu, (0x45, 0x81), EOI_BY_PAGE)
    requests = (1 << 0x45 | 1 << 0x81).to_bytes(32, "little")
    apic.box.memory.write(DESCRIPTOR, requests + b"\xff" * 32)
    waiting = [0xF2, 0x33]
    vcpu.interrupt_waits, vcpu.external_interrupt = lambda: bool(waiting), lambda: waiting.pop(0)
    exit = apic.run(vcpu, "sti; nop; nop; cli; hlt")
    assert exit is not None
    assert (exit.reason, InterruptionInfo(exit.interruption_info).vector) == (E.EXTERNAL_INTERRUPT, 0x33)
    assert apic.box.memory.read(DESCRIPTOR, 64) == bytes(32) + b"\xfe" + b"\xff" * 31
    apic.box.go(vcpu)
    assert apic.served == [0x81, 0x45]
    assert vcpu.exits[E.EXTERNAL_INTERRUPT] == 1


@proves("control/PinControls.PROCESS_POSTED_INTERRUPTS")
def test_without_the_control_the_notification_vector_exits(apic: ApicBox):
    vcpu = apic.vcpu(XAPIC | DELIVERY)
    waiting = [0xF2]
    vcpu.interrupt_waits, vcpu.external_interrupt = lambda: bool(waiting), lambda: waiting.pop(0)
    assert apic.run(vcpu, "hlt").reason is E.EXTERNAL_INTERRUPT


@pytest.mark.parametrize("spa", [1 << 22, 1 << 45])
def test_a_descriptor_outside_ram_has_no_requests(apic: ApicBox, spa):
    vcpu = apic.vcpu(XAPIC | DELIVERY, pin=int(PinControls.PROCESS_POSTED_INTERRUPTS), POSTED_INTR_DESC_ADDR=spa)
    waiting = [0xF2]
    vcpu.interrupt_waits, vcpu.external_interrupt = lambda: bool(waiting), lambda: waiting.pop(0)
    assert seen(apic.run(vcpu, "sti; nop; hlt")) == (E.HLT, 0)


# --- Guests that are watched -------------------------------------------------------------------------------------

@proves("control/PrimaryControls.HLT_EXITING", "event/HLT")
def test_a_virtual_interrupt_wakes_a_processor_that_halted(apic: ApicBox):
    """SDM "Virtual-Interrupt Delivery": it ends the HLT state; one that is held back does not."""
    vcpu = a_guest(apic, "page", 64, (0x45,), pin=int(PinControls.PROCESS_POSTED_INTERRUPTS))
    primary = vcpu.vmcs.read(VmcsField.PRIMARY_PROC_CONTROLS)
    vcpu.vmcs.write(VmcsField.PRIMARY_PROC_CONTROLS, primary & ~int(PrimaryControls.HLT_EXITING))
    apic.box.memory.write(DESCRIPTOR, (1 << 0x45).to_bytes(32, "little") + bytes(32))
    waiting = [0xF2]

    def physical() -> int | None:
        return waiting.pop() if waiting and vcpu.non_register.activity else None

    vcpu.interrupt_waits, vcpu.external_interrupt = lambda: bool(waiting), physical
    exit = apic.run(vcpu, "sti; hlt; mov eax, 7; cpuid")
    assert seen(exit) == (E.CPUID, 0)
    assert apic.served == [0x45]
    assert vcpu.state.rax == 7


@proves("exit/MONITOR_TRAP_FLAG", "exit/APIC_WRITE", "exit/VIRTUALIZED_EOI")
def test_trap_like_exits_come_before_the_monitor_trap(apic: ApicBox):
    """SDM "Priority Among Concurrent Events": behind one instruction, the exit of the APIC is first."""
    mtf = int(PrimaryControls.MONITOR_TRAP_FLAG)
    vcpu = apic.vcpu(XAPIC | DELIVERY, TPR_SHADOW | mtf)
    apic.box.handle = lambda exit: exit.reason is not E.HLT
    apic.run(vcpu, f"mov dword ptr [{ACCESS_GPA + R.SVR:#x}], 0x1FF; nop; hlt")
    assert [exit.reason for exit in apic.box.exits] == [E.APIC_WRITE, E.MONITOR_TRAP_FLAG, E.HLT]
    assert apic.register(R.SVR) == 0x1FF


@proves("control/SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY")
def test_a_step_of_one_instruction_takes_the_interrupt_first(apic: ApicBox):
    vcpu = a_guest(apic, "page", 64, (0x44,))
    vcpu.state.rflags = 0x202
    vcpu.vmcs.write(VmcsField.GUEST_INTERRUPT_STATUS, 0x44)
    apic.page.insert(VIRR, 0x44)
    apic.box.put("nop; nop; hlt")
    for _ in range(8):
        vcpu.step()
    assert apic.served == [0x44]
    assert seen(apic.run(vcpu, "hlt", rip=CODE)) == (E.HLT, 0)


@proves("exit/TPR_BELOW_THRESHOLD")
def test_a_single_stepped_write_of_cr8_exits_and_then_traps(apic: ApicBox):
    """SDM "Recording VM-Exit Information": the #DB stays pending over a trap-like exit."""
    vcpu = apic.vcpu(XAPIC, TPR_THRESHOLD=5)
    apic.put(R.TPR, 0x70)
    exit = apic.run(vcpu, "mov cr8, rbx; nop; hlt", rbx=4, rflags=0x102)
    assert seen(exit) == (E.TPR_BELOW_THRESHOLD, 0)
    assert vcpu.vmcs.read(VmcsField.GUEST_PENDING_DEBUG_EXCEPTIONS) == 1 << 14
    apic.put(R.TPR, 0x70)
    apic.box.go(vcpu)
    assert vector_at(vcpu) == 1


@proves("control/SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY")
def test_a_single_stepped_write_of_tpr_lets_the_interrupt_through_behind_its_debug_exception(apic: ApicBox):
    """SDM "Evaluation and Delivery of Virtual Interrupts": the #DB is first, and the interrupt follows its IRET."""
    vcpu = apic.vcpu(XAPIC | DELIVERY, GUEST_INTERRUPT_STATUS=0x44)
    apic.serve(vcpu, (0x44,), EOI_BY_PAGE)
    apic.page.insert(VIRR, 0x44)
    apic.put(R.TPR, 0x60)
    apic.box.memory.write(HANDLERS + 16, b"\x48\xcf")            # iretq
    apic.run(vcpu, f"mov dword ptr [{TPR_AT}], 0x10; nop; nop; hlt", rflags=0x302)
    assert apic.served == [0x44]

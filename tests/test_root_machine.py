"""A root partition of machine code: what is its own, what is refused, and how it ends."""

import pytest

from hv.image.errors import ImageError
from hv.image.load import load
from hv.platform import MachineError
from hv.root_machine import RootMachine
from hv.spec.exits import ExitReason
from hv.spec.hv_status import HvStatus
from hv.trace import events
from hv.vmx.exit import VmExit
from tests.guest_runner import image_of

MEMORY_MIB = 16
REGION = (MEMORY_MIB << 20) - (1 << 20)         # of the hypervisor
OFF = "mov dx, 0x604; mov ax, 0x2000; out dx, ax; jmp $"
BUDGET = 20_000_000

# Living on after a fault needs an IDT: `lib/catch64.inc`. `access` notes the vector of a read of RBX in `[result]`.
PROGRAM = """
.include "lib/machine.inc"
.bits 64
.org 0x10000
.entry start
start:
    call catch_init
    call hypercall_init
{body}
    jmp power_off
read_rbx:
    mov rax, [rbx]
    ret
access:
    mov eax, offset read_rbx
    call try
    xchg rax, rdx
    call print_dec
    mov al, ' '
    call putc
    mov rax, rdx
    call print_hex
    mov al, '\\n'
    jmp putc
call_pages:                     ; a rep call with one page, ECX = code, RBX = address
    call clear_input
    mov edi, INPUT_PAGE
    mov qword ptr [rdi], -1     ; HV_PARTITION_ID_SELF
    mov rax, rbx
    shr rax, 12
    mov [rdi + 8], rax
    mov rax, 1 << 32
    or rcx, rax
    call hypercall
    call print_hex
    mov al, '\\n'
    jmp putc
.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/catch64.inc"
.include "lib/hypercall64.inc"
"""


class Run:
    """A root program, run to its end."""

    def __init__(self, image, budget=BUDGET, **options):
        self.machine = RootMachine(image, memory_mib=MEMORY_MIB, **options)
        self.records = []
        self.machine.trace.listen(self.records.append)
        self.machine.run(budget)
        self.machine.end_budget()
        self.guest, self.root = self.machine.guest, self.machine.hypervisor.root

    def of(self, kind):
        return [record.event for record in self.records if isinstance(record.event, kind)]


@pytest.fixture
def run(tmp_path):
    runs = []

    def start(source, budget=BUDGET, bits=64, **options):
        if "\n" in source:
            place = tmp_path / "root.asm"
            place.write_text(source)
            image = load(str(place))
        else:
            image = image_of(source, bits)
        runs.append(Run(image, budget, **options))
        return runs[-1]
    yield start
    for each in runs:
        each.machine.close()


def program(body):
    return PROGRAM.format(body=body)


# --- what is root's ---------------------------------------------------------------------------------------------------

def test_roots_out_reaches_the_machines_own_serial_port_and_power_switch(run):
    """TLFS "Intercepts": in root an access to an I/O port passes to the hardware; no message is sent to anybody."""
    result = run(f"mov dx, 0x3f8; mov al, 'H'; out dx, al; mov al, 'i'; out dx, al; {OFF}")
    assert (result.guest.ended, result.guest.serial) == ("shutdown", "Hi")
    assert not result.of(events.InterceptSent)


def test_roots_in_reads_the_hardware_and_ones_where_there_is_none(run):
    result = run(f"mov eax, -1; mov dx, 0x3fd; in al, dx; mov ebx, eax; mov dx, 0x70; in ax, dx; mov ecx, eax; {OFF}")
    regs = result.root.vps[0].regs
    assert (regs.rbx, regs.rcx) == (0xFFFF_FF60, 0xFFFF_FFFF)


@pytest.mark.parametrize("state", [1, 2, 3])
def test_root_idles_in_a_c_state_until_an_interrupt_is_pending(run, state):
    """TLFS "Processor Power States": reading the trigger idles; RFLAGS.IF is 0, so the interrupt is not taken."""
    config, trigger = 0x400000D0 + state, 0x400000C0 + state
    result = run(
        f"mov eax, 0x40000003; cpuid; mov r12d, ecx; mov ecx, {config}; mov eax, 0x1234; mov edx, 0x80000000; wrmsr;"
        "xor eax, eax; rdmsr; mov r13d, eax; mov r14d, edx; mov ebx, 0xFEE00000; mov dword ptr [rbx+0xF0], 0x1FF;"
        "mov dword ptr [rbx+0x3E0], 0xB; mov dword ptr [rbx+0x320], 0x61; mov dword ptr [rbx+0x380], 2000;"
        "mov ecx, 0x40000020; rdmsr; mov rdi, rax;"
        f"mov ecx, {trigger}; rdmsr; mov rbp, rax; mov ecx, 0x40000020; rdmsr; sub rax, rdi; mov r15, rax; {OFF}")
    regs = result.root.vps[0].regs
    assert (result.guest.ended, regs.r12 & 0xF) == ("shutdown", 3)
    assert (regs.r13, regs.r14, regs.rbp) == (0x1234, 0x8000_0000, 0)
    assert 90 <= regs.r15 <= 130                # 2000 bus clocks are 100 units of 100 ns
    assert len(result.of(events.VpHalted)) == 1
    assert not result.of(events.Injected)


def test_roots_string_of_bytes_goes_to_the_port(run):
    result = run(f"mov esi, text; mov ecx, 5; mov dx, 0x3f8; cld; rep outsb; {OFF}; text: .ascii \"hello\"")
    assert result.guest.serial == "hello"


def test_nothing_runs_after_the_power_is_off(run):
    result = run("mov dx, 0x604; mov ax, 0x2000; out dx, ax; mov ebx, 1; jmp $")
    assert (result.guest.ended, result.root.vps[0].regs.rbx) == ("shutdown", 0)


def test_root_starts_as_the_guide_says_with_all_memory_but_the_hypervisors(run):
    result = run(f"mov rbx, rsi; mov ecx, [0x518]; mov ebp, edi; {OFF}")
    regs = result.root.vps[0].regs
    assert (regs.rbx, regs.rcx, regs.rbp) == (REGION, 1, 0)


def test_root_has_roots_privileges(run):
    """CPUID leaf 0x40000003: CreatePartitions is EBX bit 0, CpuManagement bit 12."""
    result = run(f"mov eax, 0x40000003; cpuid; mov ecx, ebx; {OFF}")
    assert result.root.vps[0].regs.rcx & 0x1001 == 0x1001
    assert result.root.vps[0].regs.rcx == result.root.privileges >> 32


def test_root_reaches_the_registers_of_the_machines_devices(run):
    result = run(f"mov eax, 0xF0000000; mov ebx, [rax]; {OFF}")
    assert result.root.vps[0].regs.rbx.to_bytes(4, "little") == b"DMAE"


def test_an_access_to_where_no_memory_is_goes_to_the_bus(run):
    """TLFS "Memory Accesses": in root it proceeds to the same system-physical address. Nobody answers with ones."""
    result = run(f"mov eax, 0xF0100000; mov rbx, -2; mov rbx, [rax]; {OFF}")
    assert result.guest.ended == "shutdown"
    assert result.root.vps[0].regs.rbx == (1 << 64) - 1


def test_roots_second_processor_starts_by_init_and_sipi(run):
    result = run(program("""
    mov ebx, APIC
    mov dword ptr [rbx + APIC_ICR_HIGH], 1 << 24
    mov dword ptr [rbx + APIC_ICR_LOW], 0x4500      ; INIT
    mov dword ptr [rbx + APIC_ICR_LOW], 0x4608      ; SIPI, vector 8
.wait:
    pause
    cmp word ptr [0x9000], 7
    jne .wait
""") + """
.org 0x8000
.bits 16
    mov ax, 7
    mov bx, 0x900
    mov ds, bx
    mov [0], ax
    hlt
""", vps=2)
    assert result.guest.ended == "shutdown"


# --- what is not ------------------------------------------------------------------------------------------------------

def test_the_hypervisors_memory_is_a_machine_check(run):
    """TLFS "Memory Accesses": an access that root's rights forbid is #MC in root, vector 18."""
    result = run(program(f"    mov ebx, {REGION - 8:#x}\n    call access\n    mov ebx, {REGION:#x}\n    call access"))
    assert result.guest.serial == "65535 0x0000000000000000\n18 0x0000000000000000\n"


def test_a_deposited_page_is_gone_until_it_is_withdrawn_and_comes_back_wiped(run):
    """TLFS "HvCallDepositMemory", "HvCallWithdrawMemory": at once, also where root has used the page before."""
    result = run(program("""
    mov ebx, 0x400000
    mov dword ptr [rbx], 77
    call access
    mov ecx, 0x48
    call call_pages
    call access
    call withdraw
    call access
    jmp power_off
withdraw:
    call clear_input
    mov edi, INPUT_PAGE
    mov qword ptr [rdi], -1
    mov rcx, 0x100000049
    jmp hypercall
"""))
    assert result.guest.serial.splitlines() == [
        "65535 0x000000000000004d", "0x0000000100000000", "18 0x0000000000000000", "65535 0x0000000000000000"]


def test_depositing_what_is_the_hypervisors_is_refused(run):
    result = run(program(f"    mov ebx, {REGION:#x}\n    mov ecx, 0x48\n    call call_pages"))
    assert int(result.guest.serial, 16) == HvStatus.INVALID_PARAMETER


def test_a_hypercalls_input_in_the_hypervisors_memory_is_a_machine_check(run):
    """Nobody could answer a message about it."""
    result = run(program(f"""
    mov eax, offset .bad
    call try
    mov eax, edx
    call print_dec
    jmp power_off
.bad:
    mov edx, {REGION:#x}
    mov r8d, OUTPUT_PAGE
    mov ecx, 0x44
    mov eax, HYPERCALL_PAGE
    jmp rax"""))
    assert result.guest.serial == "18"


def test_an_unknown_msr_is_a_general_protection_fault(run):
    result = run(program("""
    mov eax, offset .bad
    call try
    mov eax, edx
    call print_dec
    jmp power_off
.bad:
    mov ecx, 0xC0001234
    rdmsr
    ret"""))
    assert result.guest.serial == "13"


# --- how it ends ------------------------------------------------------------------------------------------------------

def test_a_halt_with_interrupts_off_ends_it(run):
    assert run("hlt").guest.ended == "halt"


def test_a_halt_that_nothing_could_end_ends_it(run):
    """Interrupts are on, but no timer is set and nobody else runs."""
    assert run("sti; hlt; jmp $").guest.ended == "halt"


def test_a_triple_fault_ends_it_and_says_where(run):
    result = run("ud2")
    assert (result.guest.ended, result.guest.why) == ("triple-fault", "vp 0 triple-faulted at rip 0x10000")
    assert [exit.reason for exit in result.of(VmExit)] == [ExitReason.TRIPLE_FAULT]


def test_a_machine_check_that_cannot_be_delivered_ends_it(run):
    """The stack of the handler is in the hypervisor's memory too: the second machine check shuts the processor down."""
    result = run(program(f"    mov esp, {REGION + 0x800:#x}\n    push rax"))
    assert result.guest.ended == "triple-fault"


def test_a_program_that_runs_on_has_used_up_its_budget(run):
    assert run("jmp $", budget=1_000_000).guest.ended == "budget"


def test_a_program_that_does_not_fit_is_refused():
    with pytest.raises(ImageError):
        RootMachine(image_of("hlt", data={REGION: b"x"}), memory_mib=MEMORY_MIB)


@pytest.mark.parametrize("memory_mib", [0, 1, 1 << 20])
def test_a_machine_of_impossible_size_is_refused(memory_mib):
    with pytest.raises(MachineError):
        RootMachine(image_of("hlt"), memory_mib=memory_mib)


def test_two_runs_cannot_be_told_apart(run):
    """Same exits at the same times."""
    source = program(f"    mov ebx, {REGION:#x}\n    call access")
    first, second = run(source), run(source)
    told = [[(each.tsc, each.partition, each.vp, repr(each.event)) for each in one.records] for one in (first, second)]
    assert told[0] == told[1]

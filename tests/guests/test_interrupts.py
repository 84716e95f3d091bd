"""Interrupts as a guest meets them: from itself, from another VP, from its timer, from its device."""

import pytest

from hv.hypervisor.hypervisor import Hypervisor
from hv.image.library import guests_folder
from hv.image.load import load
from hv.platform import Machine
from hv.root import boot
from hv.root.vmwp import DEVICE_VECTOR
from hv.spec.exits import ExitReason
from hv.spec.hv_registers import HvRegisterName as N
from hv.trace import events
from hv.vmx.exit import VmExit
from tests.guest_runner import image_of, run_guest

LOG = 0x100000
X2APIC_ON = "mov ecx, 0x1B; rdmsr; or eax, 0xC00; wrmsr; mov ecx, 0x80F; mov eax, 0x1FF; xor edx, edx; wrmsr"
XAPIC_ON = "mov ebx, 0xFEE00000; mov dword ptr [rbx+0xF0], 0x1FF"
EOI = "mov dword ptr [rbx+0xB0], 0"
X2APIC_EOI = "push rax; push rcx; push rdx; mov ecx, 0x80B; xor eax, eax; xor edx, edx; wrmsr; " \
             "pop rdx; pop rcx; pop rax"
STOP = "cli; hlt"


@pytest.fixture(autouse=True, params=[pytest.param(True, id="virtualized"), pytest.param(False, id="by-exits")])
def virtualized(request, monkeypatch):
    """A guest sees no difference: every test here is of both ways."""
    monkeypatch.setattr(Hypervisor, "apic_virtualization", request.param)
    return request.param


def mark(letter):
    """Append *letter* to the guest's log; R14 is where the log ends."""
    return f"mov byte ptr [r14], {ord(letter)}; inc r14"


def guest(body, handlers, apic=XAPIC_ON):
    """A 64-bit guest with an IDT: *handlers* is vector -> code before its IRETQ."""
    gates = [f"mov eax, handler_{vector}; mov [0x{0x60000 + 16 * vector:x}], ax; "
             f"mov word ptr [0x{0x60002 + 16 * vector:x}], 8; mov word ptr [0x{0x60004 + 16 * vector:x}], 0x8E00; "
             f"shr eax, 16; mov [0x{0x60006 + 16 * vector:x}], ax" for vector in handlers]
    routines = [f"handler_{vector}:; {code}; iretq" for vector, code in handlers.items()]
    return "; ".join([f"mov r14d, {LOG}", *gates, "lidt [idt_pointer]", apic, body, STOP, *routines,
                      "idt_pointer:; .word 4095; .quad 0x60000"])


def log_of(result):
    return result.memory[LOG : LOG + 64].split(b"\0")[0].decode()


def injected(result):
    return [event.vector for event in result.of(events.Injected)]


def xapic_ipi(vector, bits=0x40000):
    return f"mov dword ptr [rbx+0x310], 0; mov dword ptr [rbx+0x300], {bits | vector}"


def x2apic_ipi(vector, high=0, bits=0x40000):
    return f"mov ecx, 0x830; mov eax, {bits | vector}; mov edx, {high}; wrmsr"


# --- a processor and itself ---------------------------------------------------------------------------------------

@pytest.mark.parametrize(("apic", "send", "eoi"), [
    pytest.param(XAPIC_ON, xapic_ipi(0x41), EOI, id="xapic-shorthand-self"),
    pytest.param(XAPIC_ON, xapic_ipi(0x41, 0), EOI, id="xapic-by-its-id"),
    pytest.param(XAPIC_ON, xapic_ipi(0x41, 0x80000), EOI, id="xapic-all"),
    pytest.param(X2APIC_ON, x2apic_ipi(0x41), X2APIC_EOI, id="x2apic-shorthand-self"),
    pytest.param(X2APIC_ON, x2apic_ipi(0x41, 0, 0), X2APIC_EOI, id="x2apic-by-its-id"),
    pytest.param(X2APIC_ON, "mov ecx, 0x83F; mov eax, 0x41; xor edx, edx; wrmsr", X2APIC_EOI, id="x2apic-self-ipi"),
])
def test_a_processor_interrupts_itself(apic, send, eoi):
    result = run_guest(guest(f"sti; {send}; nop; {mark('.')}", {0x41: f"{mark('A')}; {eoi}"}, apic))
    assert (result.ended, log_of(result), injected(result)) == ("halt", "A.", [0x41])


def test_an_interrupt_waits_for_sti_and_one_instruction_more(virtualized):
    """SDM "STI": interrupts are recognized after the instruction that follows."""
    body = f"xor r12d, r12d; {xapic_ipi(0x41)}; {mark('1')}; sti; inc r12; inc r12; inc r12; {mark('2')}"
    result = run_guest(guest(body, {0x41: f"mov r13, r12; {mark('A')}; {EOI}"}))
    assert log_of(result) == "1A2"
    assert (result.r13, result.r12) == (1, 3)
    assert (str(int(ExitReason.INTERRUPT_WINDOW)) in result.exits) is not virtualized


def test_an_interrupt_waits_behind_mov_ss():
    """SDM "Masking Exceptions and Interrupts When Switching Stacks"."""
    body = f"xor r12d, r12d; {xapic_ipi(0x41)}; mov eax, ss; mov ss, eax; inc r12; sti; inc r12; inc r12; {mark('.')}"
    result = run_guest(guest(body, {0x41: f"mov r13, r12; {mark('A')}; {EOI}"}))
    assert (log_of(result), result.r13) == ("A.", 2)


def test_popf_lets_an_interrupt_in_at_once():
    body = f"xor r12d, r12d; {xapic_ipi(0x41)}; push 0x202; popfq; inc r12; inc r12; {mark('.')}"
    result = run_guest(guest(body, {0x41: f"mov r13, r12; {mark('A')}; {EOI}"}))
    assert (log_of(result), result.r13) == ("A.", 0)


@pytest.mark.parametrize("raise_tpr", [
    pytest.param("mov eax, 5; mov cr8, rax", id="cr8"), pytest.param("mov dword ptr [rbx+0x80], 0x50", id="tpr")])
def test_the_task_priority_holds_an_interrupt_back(raise_tpr):
    """SDM "Task and Processor Priorities": only classes above the task priority come through."""
    body = f"{raise_tpr}; sti; {xapic_ipi(0x5F)}; nop; {mark('1')}; {xapic_ipi(0x61)}; nop; {mark('2')}; " \
           f"xor eax, eax; mov cr8, rax; nop; {mark('3')}"
    result = run_guest(guest(body, {0x5F: f"{mark('L')}; {EOI}", 0x61: f"{mark('H')}; {EOI}"}))
    assert log_of(result) == "1H2L3"


def test_a_higher_class_interrupts_a_handler_and_a_lower_one_waits_for_eoi():
    """SDM "Signaling Interrupt Servicing Completion": EOI ends the highest in service."""
    low = f"{mark('(')}; sti; {xapic_ipi(0x81)}; nop; {mark('-')}; {EOI}; {mark(')')}"
    high = f"{mark('[')}; sti; {xapic_ipi(0x32)}; nop; {mark('=')}; {EOI}; {mark(']')}"
    body = f"sti; {xapic_ipi(0x31)}; nop; {mark('.')}"
    result = run_guest(guest(body, {0x31: low, 0x81: high, 0x32: f"{mark('l')}; {EOI}"}))
    assert log_of(result) == "([=]-l)."
    assert injected(result) == [0x31, 0x81, 0x32]


def test_the_same_vector_twice_before_it_is_taken_comes_once():
    """SDM "Interrupt Acceptance for Fixed Interrupts": IRR has one bit for each vector."""
    result = run_guest(guest(f"{xapic_ipi(0x41)}; {xapic_ipi(0x41)}; sti; nop; nop; {mark('.')}",
                             {0x41: f"{mark('A')}; {EOI}"}))
    assert log_of(result) == "A."


def test_a_disabled_apic_takes_no_fixed_interrupt():
    result = run_guest(guest(f"mov dword ptr [rbx+0xF0], 0xFF; sti; {xapic_ipi(0x41)}; nop; {mark('.')}",
                             {0x41: f"{mark('A')}; {EOI}"}))
    assert log_of(result) == "."


def test_a_vector_below_16_is_an_error_and_no_interrupt():
    """SDM "ESR": send illegal vector."""
    body = f"sti; {xapic_ipi(0x0F)}; nop; mov dword ptr [rbx+0x280], 0; mov r12d, [rbx+0x280]; {mark('.')}"
    result = run_guest(guest(body, {0x41: EOI}))
    assert (log_of(result), result.r12, injected(result)) == (".", 0x20, [])


def test_an_nmi_comes_whatever_if_says():
    result = run_guest(guest(f"cli; {xapic_ipi(0, 0x400)}; nop; {mark('.')}", {2: mark('N')}))
    assert (log_of(result), injected(result)) == ("N.", [2])


@pytest.mark.parametrize("shadow", ["", "mov eax, ss; mov ss, eax;"])
def test_a_second_nmi_waits_for_iret(shadow):
    """SDM "Handling Multiple NMIs": the handler sends one more, and is not entered again before it returns."""
    handler = f"{mark('N')}; inc r13d; cmp r13d, 2; jae last; {xapic_ipi(0, 0x400)}; nop; {mark('.')}; {shadow} last:"
    result = run_guest(guest(f"xor r13d, r13d; {xapic_ipi(0, 0x400)}; nop; {mark('!')}", {2: handler}))
    assert (log_of(result), injected(result)) == ("N.N!", [2, 2])


def test_an_nmi_wakes_a_processor_that_sleeps_with_interrupts_off():
    """Only who is asleep for good has ended."""
    body = f"test edi, edi; jnz second; cli; hlt; {mark('W')}; cli; hlt; " \
           f"second:; mov ecx, 1000; again:; dec ecx; jnz again; {xapic_ipi(0, 0x400)}"
    result = run_two(guest(body, {2: mark('N')}))
    assert log_of(result) == "NW"


# --- HLT and the timer --------------------------------------------------------------------------------------------

def timer(lvt, count=1000):
    return f"mov dword ptr [rbx+0x3E0], 0x0B; mov dword ptr [rbx+0x320], {lvt}; mov dword ptr [rbx+0x380], {count}"


def test_hlt_wakes_for_the_one_shot_timer_once():
    result = run_guest(guest(f"{timer(0x41)}; sti; hlt; {mark('1')}; mov ecx, 30000; l:; dec ecx; jnz l; {mark('2')}",
                             {0x41: f"{mark('T')}; {EOI}"}))
    assert log_of(result) == "T12"
    assert result.of(events.VpHalted)


def test_a_processor_that_sleeps_has_not_run():
    """HV_X64_MSR_VP_RUNTIME counts its own time only: 100 000 bus clocks are 5000 units of 100 ns."""
    read = "mov ecx, 0x40000010; rdmsr; mov [{0}], rax; mov ecx, 0x40000020; rdmsr; mov [{0} + 8], rax"
    result = run_guest(guest(f"{read.format(LOG + 64)}; {timer(0x41, 100_000)}; sti; hlt; {read.format(LOG + 80)}",
                             {0x41: EOI}))
    ran, at, ran_then, then = (int.from_bytes(result.memory[LOG + 64 + 8 * n : LOG + 72 + 8 * n], "little")
                               for n in range(4))
    assert then - at > 4900
    assert ran_then - ran < 200


def test_the_periodic_timer_ticks_until_it_is_stopped():
    result = run_guest(guest(f"{timer(0x20041)}; sti; w:; hlt; cmp r14d, {LOG + 5}; jb w; "
                             f"mov dword ptr [rbx+0x380], 0; {mark('.')}", {0x41: f"{mark('T')}; {EOI}"}))
    assert log_of(result) == "TTTTT."


def test_the_tsc_deadline_timer_fires_when_the_counter_is_there():
    """SDM "TSC-Deadline Mode"; the MSR reads 0 once it has fired."""
    body = "mov dword ptr [rbx+0x320], 0x40041; rdtsc; shl rdx, 32; or rax, rdx; lea r12, [rax + 50000]; " \
           "mov rax, r12; mov rdx, r12; shr rdx, 32; mov ecx, 0x6E0; wrmsr; sti; hlt; " \
           f"{mark('.')}; mov ecx, 0x6E0; rdmsr; mov r10, rax"
    result = run_guest(guest(body, {0x41: f"rdtsc; shl rdx, 32; or rdx, rax; mov r13, rdx; {mark('T')}; {EOI}"}))
    assert log_of(result) == "T."
    assert 0 <= result.r13 - result.r12 < 20_000
    assert result.r10 == 0


def test_a_masked_timer_does_not_interrupt():
    result = run_guest(guest(f"{timer(0x10041)}; sti; mov ecx, 30000; l:; dec ecx; jnz l; {mark('.')}",
                             {0x41: f"{mark('T')}; {EOI}"}))
    assert log_of(result) == "."


def test_a_guest_that_sleeps_with_interrupts_off_has_ended_though_its_timer_ticks():
    result = run_guest(guest(f"{timer(0x20041)}; cli; hlt", {0x41: EOI}), budget=1 << 50)
    assert result.ended == "halt"


# --- another VP ---------------------------------------------------------------------------------------------------

def run_two(source):
    """Two VPs start at the entry, RDI is their number."""
    def start_second(machine, vm):
        image = image_of(source)
        machine.root.winhv.set_vp_registers(vm.partition_id, 1, {
            **boot.initial_registers(image, 1, vm.worker.memory_bytes), N.RSP: 0x88000, N.INTERNAL_ACTIVITY_STATE: 0})
    return run_guest(source, vps=2, prepare=start_second)


@pytest.mark.parametrize(("apic", "send", "eoi"), [
    pytest.param(XAPIC_ON, "mov dword ptr [rbx+0x310], 0x1000000; mov dword ptr [rbx+0x300], 0x41", EOI, id="xapic"),
    pytest.param(XAPIC_ON, "mov dword ptr [rbx+0x300], 0xC0041", EOI, id="xapic-others"),
    pytest.param(X2APIC_ON, x2apic_ipi(0x41, 1, 0), X2APIC_EOI, id="x2apic"),
    pytest.param(X2APIC_ON, x2apic_ipi(0x41, 0, 0xC0000), X2APIC_EOI, id="x2apic-others"),
])
def test_one_vp_interrupts_the_other(apic, send, eoi):
    body = f"test edi, edi; jnz sleeper; w:; cmp byte ptr [{LOG + 32}], 1; jne w; {send}; cli; hlt; " \
           f"sleeper:; mov byte ptr [{LOG + 32}], 1; sti; hlt; {mark('W')}"
    result = run_two(guest(body, {0x41: f"{mark('A')}; {eoi}"}, f"push rdi; {apic}; pop rdi"))
    assert (result.ended, log_of(result), injected(result)) == ("halt", "AW", [0x41])


# --- a device -----------------------------------------------------------------------------------------------------

def test_the_device_of_a_interrupts_b_and_arrives_in_a():
    """Request, remapping, exit of whoever runs, routing, injection into the owner: in this order."""
    machine = Machine(memory_mib=16)
    try:
        busy = machine.create_vm("busy", image_of("l:; inc rax; jmp l"), memory_mib=2)
        owner = machine.create_vm("owner", load(str(guests_folder() / "dma.asm")), memory_mib=4, dma_device=True)
        records = []
        machine.trace.listen(records.append)
        machine.run(until_tsc=20_000_000)
        way = [(type(record.event).__name__, record.partition) for record in records
               if isinstance(record.event, (events.InterruptRemapped, events.InterruptRouted, events.Injected))
               or (isinstance(record.event, VmExit) and record.event.reason is ExitReason.EXTERNAL_INTERRUPT)]
        start = next(n for n, (name, _) in enumerate(way) if name == "InterruptRemapped")
        way = [step for step in way[start:] if step != ("Injected", 1)]         # root's own, for the serial port
        assert [name for name, _ in way] == ["InterruptRemapped", "VmExit", "InterruptRouted", "Injected"]
        assert way[1][1] == busy.partition_id
        assert way[3] == ("Injected", owner.partition_id)
        vectors = [record.event.vector for record in records
                   if isinstance(record.event, events.Injected) and record.partition == owner.partition_id]
        assert vectors == [DEVICE_VECTOR]
        assert not [record for record in records
                    if isinstance(record.event, events.Injected) and record.partition == busy.partition_id]
        assert owner.ended == "shutdown"
    finally:
        machine.close()


def test_a_device_interrupts_while_its_owner_is_stepped():
    machine = Machine(memory_mib=16)
    try:
        vm = machine.create_vm("owner", load(str(guests_folder() / "dma.asm")), memory_mib=4, dma_device=True)
        for _ in range(20_000):
            if not machine.step(vm) and (vm.ended is not None or not machine.clock.skip_to_next()):
                break
        assert vm.serial == "interrupt taken, device status 0x000000000000000a, the bytes are in place\n"
        assert vm.ended == "shutdown"
    finally:
        machine.close()

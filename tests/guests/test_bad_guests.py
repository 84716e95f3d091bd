"""Guests that go wrong: each ends clearly, and its machine goes on."""

import random
import subprocess
import sys

import pytest

from hv.machine.idt import EventKind
from hv.platform import Machine
from hv.trace import events
from tests.guest_runner import image_of, run_guest

IDT = 0x60000
CATCH = "; ".join(                                  # one handler of #DE, #UD, #GP, #PF: R15 counts, RIP moves on by R13
    f"mov eax, handler_{code}; mov [{IDT + 16 * vector}], ax; mov word ptr [{IDT + 16 * vector + 2}], 8; "
    f"mov word ptr [{IDT + 16 * vector + 4}], 0x8E00; shr eax, 16; mov [{IDT + 16 * vector + 6}], ax"
    for vector, code in ((0, 0), (6, 0), (13, 1), (14, 1))) + "; lidt [idt_pointer]"
HANDLERS = "; cli; hlt; handler_0:; push 0; handler_1:; inc r15; pop r12; add [rsp], r13; iretq; " \
           "idt_pointer:; .word 4095; .quad 0x60000"


def caught(body, **more):
    """Run *body* with handlers; it ends by HLT."""
    return run_guest(f"{CATCH}; {body}{HANDLERS}", **more)


@pytest.mark.parametrize("target", ["0x3000000", "0x200000", "0xF0000000", "0xFEE00000"],
                         ids=["outside-ram", "first-byte-behind-ram", "device", "apic-page"])
@pytest.mark.parametrize("bits", [32, 64])
def test_a_jump_outside_ram_without_an_idt_is_a_triple_fault(target, bits):
    result = run_guest(f"mov eax, {target}; jmp {'eax' if bits == 32 else 'rax'}", bits)
    assert result.ended == "triple-fault"
    assert result.why.startswith("vp 0 triple-faulted at rip 0x")


@pytest.mark.parametrize("source", ["mov al, [di]", "mov [di], al", "add [di], ax", "rep movsb"])
def test_real_mode_reaches_behind_ram_and_gets_gp_without_an_error_code(source):
    """FFFF:0020 is behind 1 MiB, where nothing is. The handler finds IP, CS and FLAGS, and nothing else."""
    prepare = "xor ax, ax; mov ss, ax; mov sp, 0x7000; lea cx, [handler]; mov [13 * 4], cx; mov [13 * 4 + 2], ax; "
    where = "mov ax, 0xFFFF; mov ds, ax; mov di, 0x20; "
    result = run_guest(prepare + where + source + "; hlt; handler:; mov bx, sp; hlt", 16, memory_mib=1)
    assert (result.ended, result.registers["rbx"]) == ("halt", 0x7000 - 6)


def test_code_that_runs_out_of_memory_ends_there():
    """The last instruction is whole, the next one is not there. RIP may be before it: the engine translates ahead."""
    result = run_guest("mov eax, 0x1FFFFF; jmp rax", data={0x1FFFFF: b"\x90"})
    assert result.ended == "triple-fault"
    assert result.rip in (0x1FFFFF, 0x200000)


@pytest.mark.parametrize("code", [
    pytest.param(bytes(64), id="zeros"), pytest.param(b"\xff" * 64, id="ones"),
    pytest.param(bytes(range(256)), id="all-bytes"), pytest.param(b"\xf0" * 32, id="lock-prefixes"),
    pytest.param(b"\x66" * 64, id="operand-size-prefixes"), pytest.param(b"\x0f\x0b", id="ud2"),
    pytest.param(b"\x0f\xff", id="ud0"), pytest.param(b"\xcd\x80", id="int-80h"), pytest.param(b"\xcc", id="int3"),
    pytest.param(b"\xf1", id="icebp"), pytest.param(b"\xea\0\0\0\0", id="far-jump"),
    pytest.param(b"\xd9\xf8", id="fprem"),
    pytest.param(b"\x6c", id="insb"), pytest.param(b"\x6e", id="outsb"), pytest.param(b"\xf3\x6f", id="rep-outsd"),
    pytest.param(b"\x0f\x01\xc1", id="vmcall"), pytest.param(b"\x0f\x01\xd9", id="vmmcall"),
    pytest.param(b"\x0f\x01\xd8", id="vmrun"), pytest.param(b"\x0f\xaa", id="rsm"),
    pytest.param(b"\x0f\x37", id="getsec"),
    pytest.param(b"\x0f\x01\xd1", id="xsetbv"), pytest.param(b"\x0f\xa2" * 8, id="cpuids-then-zeros"),
])
@pytest.mark.parametrize("bits", [16, 32, 64])
def test_garbage_ends_with_one_of_the_known_words(code, bits):
    result = run_guest(code, bits, budget=300_000)
    assert result.ended in ("triple-fault", "budget", "halt", "error")
    assert result.why or result.ended == "halt"
    assert "Traceback" not in result.why


@pytest.mark.parametrize("seed", range(12))
def test_random_code_ends_and_a_second_run_is_the_same(seed):
    code = random.Random(seed).randbytes(2000)
    bits = (16, 32, 64)[seed % 3]
    first, second = (run_guest(code, bits, budget=400_000, trace=False) for _ in range(2))
    assert first.ended in ("triple-fault", "budget", "halt", "error", "shutdown")
    assert first.fingerprint() == second.fingerprint()


def test_a_guest_writes_its_own_code():
    """The store is seen by the next fetch, as on every x86; SDM "Self-Modifying Code"."""
    result = run_guest("mov byte ptr [there + 1], 42; there:; mov al, 7; mov bl, al; "
                       "mov ecx, 3; again:; inc byte ptr [place + 1]; place:; mov dl, 0; dec ecx; jnz again; cli; hlt")
    assert (result.rbx & 0xFF, result.rdx & 0xFF, result.ended) == (42, 3, "halt")


def test_a_guest_overwrites_itself_with_zeros():
    result = run_guest("mov edi, 0x10000; mov ecx, 4096; xor eax, eax; rep stosb; cli; hlt", budget=1_000_000)
    assert result.ended in ("triple-fault", "budget")


@pytest.mark.parametrize("code", ["l:; jmp l", "l:; pause; jmp l", "l:; cpuid; jmp l", "sti; l:; hlt; jmp l",
                                  "l:; mov ecx, 0x10; rdmsr; jmp l", "l:; in al, 0x80; jmp l"])
def test_an_endless_loop_ends_with_its_budget(code):
    result = run_guest(code, budget=400_000)
    if "hlt" in code:
        assert result.ended == "halt"               # nothing will ever wake it
    else:
        assert (result.ended, result.why) == ("budget", "the budget of virtual time is used up")


def test_an_endless_chain_of_faults_ends_with_its_budget():
    """The handler faults like the program: no block of code ever ends."""
    result = caught("mov r13d, 0; ud2", budget=2_000_000)
    assert result.ended == "budget"


@pytest.mark.parametrize("bits", [32, 64])
def test_three_faults_on_top_of_each_other_are_a_triple_fault(bits):
    result = run_guest("ud2", bits)
    assert (result.ended, result.why) == ("triple-fault", "vp 0 triple-faulted at rip 0x10000")
    assert result.of(events.GuestEnded) == [events.GuestEnded("triple-fault")]


def test_an_idt_in_memory_that_is_not_there_is_a_triple_fault():
    result = run_guest("mov word ptr [0x1000], 4095; mov qword ptr [0x1002], 0x3000000; lidt [0x1000]; ud2")
    assert result.ended == "triple-fault"


def test_a_stack_in_memory_that_is_not_there_is_a_triple_fault():
    assert caught("mov esp, 0x3000000; ud2").ended == "triple-fault"


def test_page_tables_in_memory_that_is_not_there_end_clearly():
    result = run_guest("mov eax, 0x3000000; mov cr3, rax; nop", budget=1_000_000)
    assert result.ended == "triple-fault"


def test_page_tables_on_the_apic_page_end_clearly():
    result = run_guest("mov eax, 0xFEE00000; mov cr3, rax; nop", budget=1_000_000)
    assert result.ended in ("triple-fault", "error")


@pytest.mark.parametrize(("code", "length", "vector"), [
    pytest.param("mov rax, [0x3000000]", 8, 13, id="read-behind-ram"),
    pytest.param("mov [0x3000000], rax", 8, 13, id="write-behind-ram"),
    pytest.param("mov rax, [0x1FFFFC]", 8, 13, id="read-across-the-end"),
    pytest.param("mov [0x1FFFFC], rax", 8, 13, id="write-across-the-end"),
    pytest.param("mov rax, [0x40000000]", 8, 14, id="read-without-a-page"),
    pytest.param("mov eax, [0xF0000000]", 7, 13, id="read-a-device-that-is-not-ours"),
    pytest.param("div rcx", 3, 0, id="divide-by-zero"),
])
def test_a_guest_that_catches_its_faults_lives_on(code, length, vector):
    if "0xF0000000" in code:
        code, length = "mov edx, 0xF0000000; l:; mov eax, [rdx]", 2
    result = caught(f"xor ecx, ecx; mov r13d, {length}; {code}; mov ebx, 5")
    assert (result.ended, result.r15, result.rbx) == ("halt", 1, 5)
    injected = [event.vector for event in result.of(events.Injected) if event.kind == EventKind.EXCEPTION]
    assert injected == ([13] if vector == 13 else [])       # #DE and #PF are the guest's own affair, without an exit


@pytest.mark.parametrize("code", ["rep stosb", "rep movsb", "rep lodsb", "repne scasb"])
def test_a_huge_rep_runs_into_the_end_of_memory(code):
    """The fault comes at the byte behind RAM, with the registers where they are."""
    result = run_guest(f"mov edi, 0x100000; mov esi, 0x100000; mov rcx, -1; mov al, 1; {code}", budget=1 << 40)
    assert result.ended == "triple-fault"
    assert 0x200000 in (result.rdi, result.rsi)


def test_a_huge_rep_that_touches_nothing_ends_with_its_budget():
    result = run_guest("mov rcx, -1; l:; loop l", budget=1_000_000)
    assert result.ended == "budget"


def test_a_guest_that_moves_its_apic_over_its_code_lives_with_it():
    """Nothing emulates a fetch: code on the APIC page is not there."""
    result = run_guest("mov ecx, 0x1B; mov eax, 0x10900; xor edx, edx; wrmsr; nop; cli; hlt", budget=1_000_000)
    assert result.ended in ("halt", "triple-fault", "error")


def test_the_machine_goes_on_when_a_guest_has_crashed():
    machine = Machine(memory_mib=12)
    try:
        bad = machine.create_vm("bad", image_of("ud2"), memory_mib=2)
        good = machine.create_vm("good", image_of("mov edx, 0x3F8; mov al, 'k'; out dx, al; cli; hlt"), memory_mib=2)
        machine.run()
        assert (bad.ended, good.ended, good.serial) == ("triple-fault", "halt", "k")
        again = machine.create_vm("again", image_of("cli; hlt"), memory_mib=2)
        machine.run()
        assert again.ended == "halt"
    finally:
        machine.close()


@pytest.mark.xfail(strict=True, reason="Unicorn 2.1.4 ends the process as it translates, or does it")
@pytest.mark.parametrize("code", [
    pytest.param("f00fbaeb07", id="bts-by-constant"), pytest.param("f00fabc3", id="bts"),
    pytest.param("f00fb3c3", id="btr"), pytest.param("f00fbbc3", id="btc"), pytest.param("f00fbae307", id="bt"),
    pytest.param("f00fc1c3", id="xadd"),
])
def test_lock_with_a_register_is_undefined(code):
    """SDM "LOCK - Assert LOCK# Signal Prefix": #UD where the destination is no memory. In a process of its own."""
    program = "import sys; from tests.guest_runner import run_guest; " \
              "print(run_guest(bytes.fromhex(sys.argv[1]) + b'\\xf4').ended)"
    ended = subprocess.run([sys.executable, "-c", program, code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "triple-fault\n")

"""Guest idle and reset, from inside: HV_GUEST_IDLE and HV_RESET."""

import pytest

from hv.hypervisor.hypervisor import Hypervisor
from hv.spec.exits import ExitReason
from hv.trace import events
from tests.guest_runner import assemble, exits_of, run_guest
from tests.guests.test_interrupts import EOI, XAPIC_ON, guest, log_of, mark

IDLE = "mov ecx, 0x400000F0; rdmsr"
TIMER = "mov dword ptr [rbx+0x3E0], 0xB; mov dword ptr [rbx+0x320], 0x61; mov dword ptr [rbx+0x380], 2000"
NOW = "mov ecx, 0x40000020; rdmsr"
ALIVE = "mov ecx, 0x40000100; rdmsr"        # crash parameter 0 counts our lives: it survives
RESET = "mov ecx, 0x40000003; mov eax, 1; xor edx, edx; wrmsr"


@pytest.fixture(autouse=True, params=[pytest.param(True, id="virtualized"), pytest.param(False, id="by-exits")])
def virtualized(request, monkeypatch):
    monkeypatch.setattr(Hypervisor, "apic_virtualization", request.param)


def test_idle_ends_when_an_interrupt_is_pending_though_it_cannot_be_taken():
    """TLFS "Guest Idle". 2000 bus clocks are 100 units of 100 ns."""
    result = run_guest(guest(
        f"{TIMER}; {NOW}; mov r12, rax; {IDLE}; {mark('i')}; {NOW}; sub rax, r12; mov r13, rax; sti; nop; nop; cli",
        {0x61: f"{mark('t')}; {EOI}"}))
    assert log_of(result) == "it"
    assert 90 <= result.r13 <= 130
    assert len(result.of(events.VpHalted)) == 2                 # and the HLT at the end


def test_idle_with_interrupts_on_takes_it_at_once():
    result = run_guest(guest(f"sti; {TIMER}; {IDLE}; {mark('i')}; nop", {0x61: f"{mark('t')}; {EOI}"}))
    assert log_of(result) == "ti"


def test_idle_without_anything_to_wake_for_is_the_end():
    result = run_guest(guest(f"{IDLE}; {mark('i')}", {}))
    assert (result.ended, log_of(result)) == ("halt", "")


def test_an_idle_vp_is_woken_by_another():
    """VP 1 is started in real mode at 0x8000 and idles; its interrupts are off."""
    start = f"{XAPIC_ON}; mov dword ptr [rbx+0x310], 0x1000000; mov dword ptr [rbx+0x300], 0x4500; " \
            "mov dword ptr [rbx+0x300], 0x4608"
    wait = "wait_ready:; pause; cmp byte ptr [0x9000], 1; jne wait_ready"
    ipi = "mov dword ptr [rbx+0x300], 0x4061; wait_done:; pause; cmp byte ptr [0x9001], 1; jne wait_done"
    # It switches its APIC on by MSR: real mode does not reach the page.
    second = ("mov ecx, 0x1B; rdmsr; or eax, 0xC00; wrmsr; mov ecx, 0x80F; mov eax, 0x1FF; xor edx, edx; wrmsr; "
              f"mov byte ptr [0x9000], 1; {IDLE}; mov byte ptr [0x9001], 1; cli; hlt")
    code = assemble(second, 16, 0x8000)[0][1]
    result = run_guest(guest(f"{start}; {wait}; {ipi}; {mark('d')}", {}), vps=2, data={0x8000: code})
    assert (result.ended, log_of(result)) == ("halt", "d")


@pytest.mark.parametrize("vps", [1, 2])
@pytest.mark.parametrize("before", [
    "nop", XAPIC_ON, f"{XAPIC_ON}; {TIMER}", "mov ecx, 0x1B; rdmsr; or eax, 0xC00; wrmsr",
    "mov ecx, 0x10; mov eax, 5; xor edx, edx; wrmsr", "mov rax, cr4; or eax, 0x80; mov cr4, rax",
], ids=["as-started", "apic", "timer", "x2apic", "tsc", "cr4"])
def test_a_reset_is_a_second_life_from_the_same_start(before, vps):
    """RDI, RSI, RSP, CR4 and APIC_BASE are noted in each life."""
    note = ("mov [r15], rdi; mov [r15+8], rsi; mov [r15+16], rsp; mov rax, cr4; mov [r15+24], rax; "
            "mov ecx, 0x1B; rdmsr; mov [r15+32], rax; mov [r15+40], r8")
    result = run_guest(
        f"{ALIVE}; mov r15d, eax; shl r15d, 12; add r15d, 0x100000; inc eax; wrmsr; {note}; "
        f"cmp r15d, 0x102000; je end; mov r8d, 77; {before}; {RESET}; mov byte ptr [0x103000], 1; end:; cli; hlt",
        memory_mib=4, vps=vps)
    lives = [result.memory[0x100000 + 0x1000 * life : 0x100000 + 0x1000 * life + 48] for life in range(3)]
    assert lives[0] == lives[1] == lives[2]
    assert any(lives[0])
    assert (result.memory[0x103000], result.ended) == (0, "halt")
    assert len(result.of(events.PartitionReset)) == 2


def test_a_reset_takes_x87_and_xmm_back():
    """FXSAVE in the first life, before anything was done, and in the second."""
    note = "mov r15d, eax; shl r15d, 12; add r15d, 0x100000; fxsave [r15]"
    result = run_guest(
        f"{ALIVE}; {note}; cmp eax, 1; je end; mov eax, 1; wrmsr; fninit; fld1; fldpi; "
        f"mov dword ptr [0x103000], 0x1FC0; ldmxcsr [0x103000]; "
        f"pcmpeqb xmm3, xmm3; movdqa xmm12, xmm3; {RESET}; end:; cli; hlt", memory_mib=4)
    first, second = result.memory[0x100000:0x100200], result.memory[0x101000:0x101200]
    assert first == second
    assert first[24:26] == b"\x80\x1f"
    assert not any(first[32:416])


def test_a_reset_by_the_second_vp():
    second = "mov ecx, 0x40000003; mov eax, 1; xor edx, edx; wrmsr; cli; hlt"
    code = assemble(second, 16, 0x8000)[0][1]
    start = f"{XAPIC_ON}; mov dword ptr [rbx+0x310], 0x1000000; mov dword ptr [rbx+0x300], 0x4500; " \
            "mov dword ptr [rbx+0x300], 0x4608"
    result = run_guest(f"{ALIVE}; inc eax; wrmsr; cmp eax, 2; je end; {start}; spin:; pause; jmp spin; end:; cli; hlt",
                       vps=2, data={0x8000: code})
    assert (result.ended, result.rax) == ("halt", 2)


def test_a_guest_that_resets_itself_for_ever_is_stopped_by_its_budget():
    result = run_guest(RESET, trace=False, budget=4_000_000)
    assert result.ended == "budget"
    assert sum(result.exits.values()) == result.exits[str(int(ExitReason.WRMSR))]


def test_idle_is_an_exit_like_any_other_rdmsr():
    result = run_guest(guest(f"{TIMER}; {IDLE}", {0x61: EOI}))
    assert [exit.reason for exit in exits_of(result)].count(ExitReason.RDMSR) == 1

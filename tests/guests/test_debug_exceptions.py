"""Guests that debug themselves: single steps over everything that is done for them, INT1, debug registers."""

import pytest

from hv.spec.x86 import DR6_RESET, DR7_RESET, Dr6
from tests.guest_runner import run_guest
from tests.guests.test_modes import LOAD, OFF, handlers
from tests.proves import proves

TF_ON = "pushfq; or dword ptr [rsp], 0x100; popfq"
TF_OFF = "pushfq; and dword ptr [rsp], 0xFFFFFEFF; popfq"
LOG = 0x200000
# The #DB handler notes the RIP it will return to; R14 is the end of the log.
NOTE = {"v1": "push rax; mov rax, [rsp + 8]; mov [r14], eax; add r14, 4; pop rax; iretq"}

DONE_FOR_THE_GUEST = {
    "rdtsc": "rdtsc", "cpuid": "xor eax, eax; cpuid", "rdmsr": "mov ecx, 0x10; rdmsr", "wrmsr": "mov ecx, 0x8B; wrmsr",
    "clts": "clts", "mov-cr0": "mov rax, cr0; mov cr0, rax", "mov-cr8": "xor eax, eax; mov cr8, rax",
    "mov-dr0": "mov dr0, rax", "in": "mov dx, 0x3FD; in al, dx", "in-empty": "in al, 0x80",
    "out": "mov dx, 0x3FA; out dx, al", "xapic": "mov edx, 0xFEE00000; mov eax, [rdx + 0x20]", "pause": "pause",
    "wbinvd": "wbinvd", "nop": "nop",
}


def steps_of(result):
    """The addresses at which the guest saw a #DB, in order."""
    log = result.memory[LOG : LOG + 256]
    return [word for word in (int.from_bytes(log[n : n + 4], "little") for n in range(0, 256, 4)) if word]


@pytest.mark.parametrize("source", DONE_FOR_THE_GUEST.values(), ids=DONE_FOR_THE_GUEST.keys())
def test_a_single_step_stops_behind_each_instruction_whoever_did_it(source):
    """SDM "Single-Step Exception Condition": behind every instruction, so the last one is the NOP's."""
    result = run_guest(f"{LOAD}; mov r14d, {LOG}; {TF_ON}; {source}; here: nop; {TF_OFF}; mov ebx, here; {OFF}",
                       data=handlers(64, **NOTE), memory_mib=4)
    assert result.ended == "shutdown"
    seen = steps_of(result)
    assert result.rbx in seen                   # behind the instruction, before the NOP
    assert result.rbx + 1 in seen
    assert sorted(set(seen)) == seen


def test_the_step_over_hlt_wakes_it():
    result = run_guest(f"{LOAD}; mov r14d, {LOG}; {TF_ON}; hlt; here: {TF_OFF}; mov ebx, here; {OFF}",
                       data=handlers(64, **NOTE), memory_mib=4)
    assert result.ended == "shutdown"
    assert result.rbx in steps_of(result)


def test_a_single_step_says_so_in_dr6():
    result = run_guest(f"{LOAD}; {TF_ON}; rdtsc; {OFF}", data=handlers(64))
    assert (result.rbx, result.dr6) == (1, DR6_RESET | Dr6.BS)


@pytest.mark.parametrize("bits", [32, 64])
def test_int1_is_a_debug_exception_behind_itself(bits):
    """SDM "INT n/INTO/INT3/INT1": the frame holds the address of the next instruction."""
    stack = "rsp" if bits == 64 else "esp"
    data = handlers(bits, v1=f"mov ebx, [{stack}]; mov ecx, 1; {OFF}")
    result = run_guest(f"{LOAD}; .byte 0xF1; here: hlt; {OFF}", bits, data=data)
    assert (result.ended, result.rcx) == ("shutdown", 1)
    assert result.memory[result.rbx - 1 : result.rbx + 1] == b"\xf1\xf4"


@pytest.mark.parametrize("register", [6, 7])
def test_the_high_half_of_a_debug_status_or_control_register_is_refused(register):
    """SDM "MOV - Move to/from Debug Registers": #GP(0) when a bit of 63:32 of DR6 or DR7 is written with 1."""
    result = run_guest(f"{LOAD}; mov eax, 1; shl rax, 32; mov dr{register}, rax", data=handlers(64))
    assert (result.rbx, result.dr6, result.dr7) == (13, DR6_RESET, DR7_RESET)


@pytest.mark.parametrize(("register", "zeros", "value", "ones"), [
    (6, 0xFFFF0FF0, 0xFFFFFFFF, 0xFFFFEFFF), (7, 0x400, 0xFFFFDFFF, 0xFFFF07FF)])
def test_the_fixed_bits_of_a_debug_register_stay(register, zeros, value, ones):
    """SDM "Debug Status Register (DR6)", "Debug Control Register (DR7)". With GD set, DR7 could not be read."""
    result = run_guest(f"xor eax, eax; mov dr{register}, rax; mov rcx, dr{register}; mov eax, {value}; "
                       f"mov dr{register}, rax; mov rsi, dr{register}; {OFF}")
    assert (result.rcx, result.rsi) == (zeros, ones)


@proves("cr4/DE")
@pytest.mark.parametrize("access", ["mov dr4, rax", "mov dr5, rax", "mov rax, dr4", "mov rax, dr5"])
@pytest.mark.parametrize("extensions", [False, True])
def test_with_debugging_extensions_dr4_and_dr5_are_none(access, extensions):
    """SDM "Debug Registers DR4 and DR5"."""
    result = run_guest(f"{LOAD}; mov rcx, cr4; or ecx, {8 if extensions else 0}; mov cr4, rcx; xor eax, eax; {access}; "
                       f"mov ebx, 0x77; {OFF}", data=handlers(64))
    assert result.rbx == (6 if extensions else 0x77)

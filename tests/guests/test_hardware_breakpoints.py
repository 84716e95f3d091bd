"""DR0..DR3 of a guest: what is met, where its #DB comes, and what DR6 says; SDM "Debug Registers"."""

import pytest

from hv.spec.x86 import Dr6
from hv.vmx.events.debug_registers import breakpoints
from tests.guest_runner import run_guest
from tests.guests.test_modes import LOAD, OFF, handlers

LOG, PLACES, DATA = 0x200000, 0x208000, 0x220000
EXECUTE, WRITE, IO, BOTH = 0, 1, 2, 3
LEN = {1: 0, 2: 1, 8: 2, 4: 3}
# The handler notes RIP and DR6, clears DR6, and lets the instruction go on with RF.
NOTE = ("push rax; mov rax, [rsp + 8]; mov [r13], rax; mov rax, dr6; mov [r13 + 8], rax; add r13, 16; "
        "mov eax, 0xFFFF0FF0; mov dr6, rax; bts qword ptr [rsp + 24], 16; pop rax; iretq")
MOVE = "mov ebx, 0x220000; mov eax, 7"


def dr7(*armed: tuple[int, int, int]) -> int:
    """*armed*: register, what it breaks on, length."""
    return sum(2 << 2 * n | on << 16 + 4 * n | LEN[length] << 18 + 4 * n for n, on, length in armed)


def at_label(n: int) -> str:
    return f"mov eax, met_{n}; mov dr0, rax"


# name -> (what is armed, the addresses, code with the place of the #DB as label met_N, DR6's bits or None for no #DB)
ROWS = {
    "write-of-4": (dr7((0, WRITE, 4)), f"mov eax, {DATA}; mov dr0, rax", "mov [rbx], eax; met_N: nop", 1),
    "write-does-not-see-a-read": (dr7((0, WRITE, 4)), f"mov eax, {DATA}; mov dr0, rax", "mov eax, [rbx]; met_N: nop",
                                  None),
    "both-sees-a-read": (dr7((1, BOTH, 4)), f"mov eax, {DATA}; mov dr1, rax", "mov eax, [rbx]; met_N: nop", 2),
    "one-byte-of-a-wide-write": (dr7((2, WRITE, 1)), f"mov eax, {DATA + 7}; mov dr2, rax",
                                 "mov [rbx], rax; met_N: nop", 4),
    "behind-the-range": (dr7((2, WRITE, 2)), f"mov eax, {DATA + 8}; mov dr2, rax", "mov [rbx], rax; met_N: nop", None),
    "eight-bytes-aligned": (dr7((3, WRITE, 8)), f"mov eax, {DATA + 5}; mov dr3, rax", "mov [rbx], al; met_N: nop", 8),
    "read-modify-write": (dr7((0, WRITE, 1)), f"mov eax, {DATA}; mov dr0, rax", "inc byte ptr [rbx]; met_N: nop", 1),
    "a-push": (dr7((0, WRITE, 8)), "lea rax, [rsp - 8]; mov dr0, rax", "push rcx; met_N: pop rcx", 1),
    "a-pop": (dr7((0, BOTH, 8)), f"mov eax, {DATA}; mov dr0, rax",
              "mov rbp, rsp; mov rsp, rbx; pop rcx; met_N: mov rsp, rbp", 1),
    "two-at-once": (dr7((0, WRITE, 4), (3, BOTH, 4)), f"mov eax, {DATA}; mov dr0, rax; mov dr3, rax",
                    "mov [rbx], eax; met_N: nop", 9),
    "a-store-that-is-done-for-the-guest": (dr7((0, WRITE, 4)), f"mov eax, {DATA}; mov dr0, rax",
                                           "smsw word ptr [rbx]; met_N: nop", 1),
    "an-instruction": (dr7((0, EXECUTE, 1)), None, "nop; met_N: nop; nop", 1),
    "an-instruction-that-exits": (dr7((0, EXECUTE, 1)), None, "nop; met_N: rdtsc; nop", 1),
    "behind-mov-ss": (dr7((0, EXECUTE, 1)), None, "mov ecx, 0x10; mov ss, cx; met_N: nop; nop", None),
    "a-port": (dr7((0, IO, 1)), "mov eax, 0x80; mov dr0, rax; mov rax, cr4; or eax, 8; mov cr4, rax",
               "out 0x80, al; met_N: nop", 1),
    "a-device's-port": (dr7((0, IO, 1)), "mov eax, 0x3F9; mov dr0, rax", "mov edx, 0x3F9; in al, dx; met_N: nop", 1),
    "another-port": (dr7((0, IO, 1)), "mov eax, 0x81; mov dr0, rax", "out 0x80, al; met_N: nop", None),
    "not-enabled": (0, f"mov eax, {DATA}; mov dr0, rax", "mov [rbx], eax; met_N: nop", None),
}


@pytest.fixture(scope="module")
def noted():
    """For each row what the handler noted: (RIP, DR6's low bits) in order, and where met_N is."""
    parts = [f"{LOAD}; mov r13d, {LOG}"]
    for n, (armed, addresses, code, _) in enumerate(ROWS.values()):
        parts.append(f"{addresses or at_label(n)}; mov eax, {armed}; {MOVE}; push rax; mov eax, {armed}; mov dr7, rax; "
                     f"pop rax; {code.replace('met_N', f'met_{n}')}; xor eax, eax; mov dr7, rax; "
                     f"mov qword ptr [r13], 0; add r13, 16; mov eax, met_{n}; mov [{PLACES + 4 * n}], eax")
    result = run_guest("; ".join([*parts, OFF]), data=handlers(64, v1=NOTE), memory_mib=4, budget=20_000_000)
    assert (result.ended, result.why) == ("shutdown", "")
    found, row = [], []
    for at in range(LOG, result.r13, 16):
        rip = int.from_bytes(result.memory[at : at + 8], "little")
        if rip:
            row.append((rip, int.from_bytes(result.memory[at + 8 : at + 16], "little") & 0xF))
        else:
            found.append(row)
            row = []
    places = [int.from_bytes(result.memory[PLACES + 4 * n : PLACES + 4 * n + 4], "little") for n in range(len(ROWS))]
    return dict(zip(ROWS, zip(places, found, strict=True), strict=True))


@pytest.mark.parametrize("name", ROWS)
def test_a_breakpoint_is_met_once_and_says_which(noted, name):
    """A trap behind the access, a fault before the instruction; SDM "Debug Exception Conditions"."""
    place, found = noted[name]
    bits = ROWS[name][3]
    assert found == ([] if bits is None else [(place, bits)])


def test_each_iteration_of_a_string_instruction_is_looked_at():
    """SDM "Data Breakpoint Conditions": REP is stopped behind the iteration that meets it."""
    armed = dr7((0, WRITE, 1))
    source = (f"{LOAD}; mov r13d, {LOG}; mov eax, {DATA + 3}; mov dr0, rax; mov eax, {armed}; mov dr7, rax; "
              f"mov edi, {DATA}; mov ecx, 8; mov al, 0x5A; cld; rep stosb; xor eax, eax; mov dr7, rax; {OFF}")
    note = "mov rsi, rdi; mov rbp, rcx; add r13, 16; iretq"
    result = run_guest(source, data=handlers(64, v1=note), memory_mib=4)
    assert (result.rsi, result.rbp, result.r13, result.rcx) == (DATA + 4, 4, LOG + 16, 0)
    assert result.memory[DATA : DATA + 8] == b"\x5a" * 8


def test_a_loop_stops_at_each_round_and_runs_freely_between():
    armed = dr7((0, EXECUTE, 1))
    source = (f"{LOAD}; mov r13d, {LOG}; mov eax, met; mov dr0, rax; mov eax, {armed}; mov dr7, rax; mov ecx, 3; "
              f"again: mov edx, 1000; inner: dec edx; jnz inner; met: dec ecx; jnz again; {OFF}")
    result = run_guest(source, data=handlers(64, v1=NOTE), memory_mib=4, budget=20_000_000)
    assert (result.ended, (result.r13 - LOG) // 16) == ("shutdown", 3)


def test_dr6_keeps_what_is_not_this_exceptions_own():
    """SDM "Debug Status Register (DR6)": B0..B3 are written with each #DB, BS only set."""
    armed = dr7((0, WRITE, 4))
    source = (f"{LOAD}; mov eax, {DATA}; mov dr0, rax; mov eax, {int(Dr6.BS) | 2}; mov dr6, rax; mov eax, {armed}; "
              f"mov dr7, rax; mov [{DATA}], eax; hlt")
    result = run_guest(source, data=handlers(64), memory_mib=4)
    assert (result.rbx, result.dr6 & 0xF00F) == (1, int(Dr6.BS) | 1)


def test_the_processor_aligns_the_address():
    class State:
        dr0, dr1, dr2, dr3, dr7 = 0x1007, 0x1003, 0x1001, 0xFFFF_FFFF_FFFF_FFFF, dr7((0, 1, 8), (1, 1, 4), (3, 1, 2))

    assert [(one.bit, one.address, one.length) for one in breakpoints(State())] == [
        (1, 0x1000, 8), (2, 0x1000, 4), (8, 0xFFFF_FFFF_FFFF_FFFE, 2)]

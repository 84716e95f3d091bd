"""Rules of the processor that programs try: what is refused, with which error code, at which address; SDM volume 3A.

One guest tries them all. Each row is a piece of code, and the exception it raises: vector, error code, and how far from
its first byte the saved RIP is.
"""

import pytest

from hv.spec.x86 import Cr4
from tests.guests.attempts import attempt
from tests.proves import proves

DE, DB, BP, UD, NP, SS, GP, PF = 0, 1, 3, 6, 11, 12, 13, 14
RF = 1 << 16
HOLE = "mov rax, 0x800000000000"        # not canonical


def _table(instruction: str) -> str:
    return (f"mov rsi, rsp; sub rsp, 16; {HOLE}; mov word ptr [rsp], 0xFFF; mov [rsp + 2], rax; {instruction} [rsp]; "
            "mov rsp, rsi")


def _control(register: str, change: str) -> str:
    return f"mov rax, {register}; {change}; mov {register}, rax"


RULES = {
    "lgdt-of-a-hole": (_table("lgdt"), GP, 0), "lidt-of-a-hole": (_table("lidt"), GP, 0),
    "load-from-a-hole": (f"{HOLE}; mov rbx, [rax]", GP, 0),
    "stack-load-from-a-hole": (f"{HOLE}; mov rbp, rax; mov rbx, [rbp]", SS, 0),
    "cr0-pe-off-under-pg": (_control("cr0", "btr rax, 0"), GP, 0),
    "cr0-nw-without-cd": (_control("cr0", "bts rax, 29"), GP, 0),
    "cr0-upper-half": (_control("cr0", "bts rax, 32"), GP, 0),
    "cr4-pae-off-in-long-mode": (_control("cr4", "btr rax, 5"), GP, 0),
    **{f"cr4-bit-{bit}-not-offered": (_control("cr4", f"bts rax, {bit}"), GP, 0)
       for bit in (11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 23, 24, 25, 28, 32, 63)},
    "cr8-above-15": ("mov eax, 0x10; mov cr8, rax", GP, 0),
    "lme-off-under-pg": ("mov ecx, 0xC0000080; rdmsr; btr eax, 8; wrmsr", GP, 0),
    "ss-of-another-level": ("mov eax, 0x13; mov ss, ax", GP, 0x10), "ds-beyond-the-table": ("mov eax, 0x500; "
                                                                                         "mov ds, ax", GP, 0x500),
    "mov-cs": (".byte 0x8E, 0xC8", UD, 0), "ltr-of-null": ("xor eax, eax; ltr ax", GP, 0),
    "lldt-of-data": ("mov eax, 0x10; lldt ax", GP, 0x10), "lldt-beyond-the-table": ("mov eax, 0x500; lldt ax", GP,
                                                                                 0x500),
    "ud2": ("ud2", UD, 0), "division-by-0": ("xor ecx, ecx; div ecx", DE, 0), "rdpmc": ("xor ecx, ecx; rdpmc", GP, 0),
    "page-not-there": ("mov ebx, [0x40000000]", PF, 0), "store-not-there": ("mov [0x40000000], ebx", PF, 2),
    "fxsave-unaligned": ("mov ebx, 0x220001; fxsave [rbx]", GP, 0),
    "cmpxchg16b-unaligned": ("mov ebx, 0x220001; .byte 0x48, 0x0F, 0xC7, 0x0B", GP, 0),
    "sixteen-bytes": (f".byte {', '.join(['0x66'] * 15)}, 0x90", GP, 0),
    "apic-base-reserved": ("mov ecx, 0x1B; rdmsr; bts eax, 9; wrmsr", GP, 0),
}
TRAPS = {"int3": ("int3", BP, 1), "icebp": (".byte 0xF1", DB, 1), "int-n": ("int 0x10", 16, 2)}
ALLOWED = {
    "null-ss-at-cpl-0": "xor eax, eax; mov ss, ax; mov eax, 0x10; mov ss, ax", "lldt-of-null": "xor eax, eax; lldt ax",
    "cr4-smep": "mov rax, cr4; bts rax, 20; mov cr4, rax; btr rax, 20; mov cr4, rax",
    "lidt-again": "sub rsp, 16; sidt [rsp]; lidt [rsp]; add rsp, 16",
    "lgdt-again": "sub rsp, 16; sgdt [rsp]; lgdt [rsp]; add rsp, 16",
}
# A #DE leaves RF in the frame, and IRET puts it back: it is over behind the instruction that is done again.
AFTER_A_FAULT = ("xor ecx, ecx; div ecx", "int3", "pushfq; pop rax; mov [0x220100], rax", "int3")


@pytest.fixture(scope="module")
def tried():
    return attempt([*(row[0] for row in RULES.values()), *(row[0] for row in TRAPS.values()), *ALLOWED.values(),
                    *AFTER_A_FAULT])


def _row(name: str) -> object:
    """A bit of CR4 that is not offered is a row of `docs/fidelity.md`."""
    bit = int(name.split("-")[2]) if name.endswith("not-offered") else 0
    names = [one.name for one in Cr4 if one == 1 << bit] if bit else []
    return pytest.param(name, marks=proves(f"cr4/{names[0]}")) if names else name


@pytest.mark.parametrize("name", [_row(name) for name in RULES])
def test_it_is_refused(tried, name):
    """A fault: RF is set in the frame, and RIP is at the instruction itself."""
    _, vector, error_code = RULES[name]
    raised = tried[list(RULES).index(name)]
    assert raised is not None
    assert (raised.vector, raised.error_code, bool(raised.rflags & RF)) == (vector, error_code, True)


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_is_behind_its_instruction_and_has_no_rf(tried, name):
    _, vector, offset = TRAPS[name]
    raised = tried[len(RULES) + list(TRAPS).index(name)]
    assert (raised.vector, raised.offset, raised.rflags & RF) == (vector, offset, 0)


@pytest.mark.parametrize("name", ALLOWED)
def test_it_is_allowed(tried, name):
    assert tried[len(RULES) + len(TRAPS) + list(ALLOWED).index(name)] is None


def test_the_resume_flag_is_over_with_the_next_instruction(tried):
    """SDM "RF - Resume flag"; PUSHF never shows it."""
    first = len(RULES) + len(TRAPS) + len(ALLOWED)
    assert [bool(tried[first + n].rflags & RF) for n in (0, 1, 3)] == [True, False, False]
    assert not tried.result.memory[0x220102] & 1

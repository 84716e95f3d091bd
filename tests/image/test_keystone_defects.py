"""What Keystone 0.9.2 gets wrong is mended, or refused with what to write instead."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hv.image.assembler import assemble
from hv.image.errors import ImageError

Encode = Callable[..., bytes]

MENDED = [
    # bits, source, bytes
    (64, "iretq", "48cf"),
    (64, "iretd", "cf"),
    (64, "sysretq", "480f07"),
    (64, "sysretl", "0f07"),
    (64, "endbr64", "f30f1efa"),
    (64, "rdpid rax", "f30fc7f8"),
    (64, "rdpid r9", "f3410fc7f9"),
    (64, "vmrun", "0f01d8"),
    (64, "retf", "cb"),
    (64, "retfq", "48cb"),
    (64, "lea rbx, [0x414243]", "488d1c2543424100"),
    (64, "mov rax, [0x1000]", "488b042500100000"),
    (64, "mov eax, fs:[0x10]", "648b042510000000"),
    (64, "mov byte ptr [0x1000], 5", "c604250010000005"),
    (64, "lea rsi, [rip + 0x1100]", "488d35f9000000"),
    (64, "lea rsi, [rel 0x1100]", "488d35f9000000"),
    (64, "mov dword ptr [rip + 0x1100], 7", "c705f600000007000000"),
    (64, "mov rax, offset there\n there: hlt", "48c7c007100000f4"),
    (64, "jmp fword ptr [rax]", "ff28"),
    (64, "jmp tbyte ptr [rax]", "48ff28"),
    (64, "jmp tbyte ptr [r9 + 8]", "49ff6908"),
    (64, "call fword ptr [rip + 0x1106]", "ff1d00010000"),
    (64, "nop\n.org 0x2000\nhlt", "90f4"),
    (64, "push -1", "6aff"),
    (64, "push 0x7fffffff", "68ffffff7f"),
    (64, "mov ds, ax", "8ed8"),
    (64, "cbw", "6698"),
    (64, "cwd", "6699"),
    (32, "iret", "cf"),
    (32, "iretd", "cf"),
    (32, "retf", "cb"),
    (32, "lgdt [0x1000]", "0f011500100000"),
    (32, "lidt [eax]", "0f0118"),
    (32, "push ds", "1e"),
    (32, "pop fs", "0fa1"),
    (32, "push 0x80000000", "6800000080"),
    (32, "jmp 0x8:0x1234", "ea341200000800"),
    (32, "call 0x18:0x12345", "9a452301001800"),
    (16, "ret", "c3"),
    (16, "ret 4", "c20400"),
    (16, "retf", "cb"),
    (16, "retf 2", "ca0200"),
    (16, "iret", "cf"),
    (16, "push 0x1234", "683412"),
    (16, "push 5", "6a05"),
    (16, "jmp 0x1234", "e93102"),
    (16, "call 0x1234", "e83102"),
    (16, "jmp 0x10:0x20", "ea20001000"),
    (16, "jmp dword 0x8:0x100", "66ea000100000800"),
    (16, "jmp 0x8:0x12345", "66ea452301000800"),
    (16, "cbw", "98"),
    (64, "rcl dword ptr [rbx], 1", "d113"),
    (16, "cwde", "6698"),
    (16, "jmp fword ptr [bx]", "66ff2f"),
    (16, "jmp far [bx]", "ff2f"),
]


@pytest.mark.parametrize(("bits", "source", "code"), MENDED, ids=[f"{row[0]}-{row[1][:30]}" for row in MENDED])
def test_a_form_keystone_gets_wrong_is_right_here(encode: Encode, bits: int, source: str, code: str) -> None:
    assert encode(source, bits).hex() == code


PLAIN = [
    # bits, source, bytes: what Keystone gets right, and we must not spoil
    (64, "imul eax, 5", "6bc005"), (64, "imul rcx, rdx", "480fafca"), (64, "imul eax, ebx, 5", "6bc305"),
    (64, "imul rax", "48f7e8"), (64, "mov eax, [rcx*8 + 0x1000]", "8b04cd00100000"), (64, "lgdt [rax]", "0f0110"),
    (16, "lgdt [0x1000]", "0f01160010"), (16, "mov ds, ax", "8ed8"), (64, "mov ds, word ptr [rax]", "8e18"),
    (64, "mov ax, ds", "668cd8"), (64, "mov rax, ds", "488cd8"), (64, "str ax", "660f00c8"), (64, "ltr ax", "0f00d8"),
    (64, "lock add dword ptr [rip + 0x20000], 1", "f08305f8ef010001"), (64, "lock inc byte ptr [rax]", "f0fe00"),
    (64, "lock xchg eax, [rbx]", "f08703"), (64, "lock xchg [rbx], eax", "f08703"),
    (64, "lock cmpxchg [rbx], eax", "f00fb103"),
    (64, "repne scasb", "f2ae"), (64, "repe cmpsq", "f348a7"), (64, "rep stosd", "f3ab"), (64, "repnz cmpsb", "f2a6"),
    (64, "xchg eax, ebx", "93"), (64, "test eax, [rbx]", "8503"), (64, "test [rbx], eax", "8503"),
    (64, "test al, 5", "a805"),
    (64, "cmovz eax, ebx", "0f44c3"), (64, "cmovnae eax, ebx", "0f42c3"), (64, "setnz al", "0f95c0"),
    (64, "sete [rax]", "0f9400"),
    (64, "fld st(1)", "d9c1"), (64, "shl eax, cl", "d3e0"), (64, "sal eax, 1", "d1e0"), (64, "mov rax, cr3", "0f20d8"),
    (64, "mov rax, 0x123456789abcdef0", "48b8f0debc9a78563412"), (64, "movabs rax, 5", "48b80500000000000000"),
    (64, "movzx eax, byte ptr [rax]", "0fb600"), (64, "movups xmm0, [rax]", "0f1000"), (64, "jmp rax", "ffe0"),
    (64, "jmp [rip + 0x2000]", "ff25fa0f0000"), (64, "call [rax]", "ff10"), (64, "mov word ptr [rax], 5", "66c7000500"),
    (64, "vmread [rax], rbx", "0f7818"), (64, "wait", "9b"), (64, "int1", "f1"), (64, "int 0x80", "cd80"),
    (64, "pause", "f390"),
    (32, "movaps xmm0, xmm1", "0f28c1"), (32, "jmp far [eax]", "ff28"), (16, "mov eax, [bx]", "668b07"),
    (16, "push eax", "6650"),
    (32, "mov eax, [ebx + esi*2 - 4]", "8b4473fc"), (64, "mov eax, fs:[rbx]", "648b03"),
    (64, "invept rax, [rbx]", "660f388003"),
]


@pytest.mark.parametrize(("bits", "source", "code"), PLAIN, ids=[f"{row[0]}-{row[1][:30]}" for row in PLAIN])
def test_a_form_keystone_gets_right_stays_right(encode: Encode, bits: int, source: str, code: str) -> None:
    assert encode(source, bits).hex() == code


REFUSED = [
    # bits, source, words of the message, words of the hint
    (64, "iret", "iret does not exist in 64-bit code", "iretq"),
    (64, "sysret", "sysret does not exist in 64-bit code", "sysretq"),
    (64, "push 0x80000000", "does not fit the immediate of push", "register"),
    (64, "jmp rip", "rip cannot be an operand", "lea"),
    (64, "pop rip", "rip cannot be an operand", "lea"),
    (64, "mov rax, rip", "rip cannot be an operand", "lea"),
    (64, "jmp 0x8:0x1000", "does not exist in 64-bit code", "retfq"),
    (64, "jmp far [rax]", "6- or 10-byte pointer", "tbyte ptr"),
    (64, "push cs", "push cs does not exist", "mov"),
    (64, "pusha", "does not exist in 64-bit code", "one by one"),
    (64, "mov al, 300", "does not fit 8 bits", ""),
    (64, "mov eax, 0x123456789", "does not fit 32 bits", ""),
    (64, "add rax, 0xffffffff", "no form with the immediate", "only mov"),
    (64, "mov rax, [rbx + 0x80000000]", "does not fit a signed 32-bit displacement", "mov rbx"),
    (64, "mov eax, [0xfee00000]", "does not fit a signed 32-bit displacement", "[rbx]"),
    (64, "inc [rax]", "size of the memory operand", "dword"),
    (64, "push [rax]", "size of the memory operand", "qword"),
    (64, "movzx eax, [rax]", "size of the memory operand", "byte"),
    (64, "shl [rax], cl", "size of the memory operand", "byte"),
    (64, "lock mov [rax], ebx", "lock does not go with", "xadd"),
    (64, "lock add eax, [rbx]", "lock does not go with", "destination"),
    (64, "rep nop", "string instructions only", "movsb"),
    (64, "lock", "stands alone", ""),
    (64, "mov rax, [rbx*3 + rcx]", "no address of the processor", "index"),
    (64, "mov rax, [eax + rbx]", "mixes registers", ""),
    (64, "db 1, 2", "db", ".byte"),
    (64, "times 4 nop", "times", ".skip"),
    (64, "%macro x", "an instruction, a label or a directive was expected", ""),
    (64, "section .text", "section", ".org"),
    (64, "movl $5, %eax", "another assembler", "Intel"),
    (64, "foo rax", "`foo` is no instruction", "spelling"),
    (64, "loop 0x2000", "this branch reaches -128..127", "jmp"),
    (64, "mov eax, rbx", "do not go with mov", "sizes"),
    (64, "cmpsd xmm0, xmm1, 2", "assembled as", ".byte"),
    (64, "out 0x3f8, al", "do not go with out", ""),
    (64, "jcxz 0x1000", "does not exist in 64-bit code", ""),
    (32, "mov rax, 1", "rax exists in 64-bit code only", ".bits 64"),
    (32, "jrcxz 0x1000", "does not exist in 32-bit code", ""),
    (16, "mov al, [0x12345]", "does not fit 16 bits", ""),
    (16, "mov al, [rip + 5]", "64-bit code only", ""),
    (16, "iretq", "does not exist in 16-bit code", ""),
    (64, "mov eax, 8:5", "mov takes no selector:offset", "jmp"),
    (64, "lea rax, [rip + 0x100000000]", "the target is +0xffffeff8 bytes away, and rip-relative", "register"),
    (64, "rep rep movsb", "more than one prefix", ""),
    (64, "rep rep rep rep movsb", "more than one prefix", ""),
    (64, "repne movsb", "repne goes with cmps and scas only", "write rep"),
    (64, "rep movsb rax", "string instructions only", ""),
    (64, "lock inc eax", "lock does not go with this inc", ""),
    (64, "lock movsb", "lock does not go with this movsb", ""),
    (64, "mov [rax], fs", "size of the memory operand", "word"),
    (64, "fadd st, st(1)", "assembled as `fadd st(1)`", ".byte"),
    (32, "mov eax, [rax]", "rax exists in 64-bit code only, and this is 32-bit code", "eax"),
    (32, "mov eax, [ebx + r8d]", "r8d exists in 64-bit code only", "eax"),
    (32, "mov spl, 1", "spl exists in 64-bit code only", "eax"),
    (16, "mov r8w, 1", "r8w exists in 64-bit code only", "or use ax"),
]


@pytest.mark.parametrize(("bits", "source", "message", "hint"), REFUSED, ids=[f"{row[0]}-{row[1]}" for row in REFUSED])
def test_a_form_that_cannot_be_right_is_refused(encode: Encode, bits: int, source: str, message: str,
                                                hint: str) -> None:
    with pytest.raises(ImageError) as caught:
        encode("nop\n" + source, bits)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.message.startswith("test.asm:2: ")
    assert caught.value.line == 2


def test_an_instruction_that_kills_keystone_is_named() -> None:
    """The child process ends; the line it ended on is the first one without an answer."""
    source = "nop\n" * 6 + "mov ah,[r8]\n" + "inc eax\n"
    with pytest.raises(ImageError) as caught:
        assemble(source, "deadly.asm")
    assert caught.value.line == 7
    assert "deadly.asm:7: `mov ah,[r8]`: the assembler crashed" in caught.value.message
    assert "ah cannot go with" in caught.value.hint


def test_an_assembler_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hv.image.worker.Worker.__init__", _impatient)
    with pytest.raises(ImageError) as caught:
        assemble("inc eax")
    assert "took too long" in caught.value.message


def _impatient(self: object) -> None:
    vars(self).update(_process=None, _time_limit=0.0, _greeted=False)


def test_a_missing_assembler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hv.image.worker.sys.executable", "/nonexistent/python")
    with pytest.raises(ImageError, match="does not start"):
        assemble("inc eax")

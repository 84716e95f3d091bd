"""Instructions that touch a device: carried out by the worker, they leave what they leave on RAM."""

from __future__ import annotations

from functools import cache

import pytest

from tests.root.emulation_box import DEVICE, RAM, Compared, Scratch, compare, real_mode

MOVES = ["mov [rbx], al", "mov [rbx + 1], ah", "mov [rbx + 2], ax", "mov [rbx + 4], eax", "mov [rbx], rax",
         "mov byte ptr [rbx], 0x7f", "mov word ptr [rbx], 0x8001", "mov dword ptr [rbx], -5", "mov qword ptr [rbx], -9",
         "mov al, [rbx]", "mov ah, [rbx + 1]", "mov ax, [rbx]", "mov eax, [rbx]", "mov rax, [rbx]",
         "mov r9d, [rbx + rcx*4 + 1]", "mov r8b, [rsi]", "mov sil, [rbx]", "movzx eax, byte ptr [rbx]",
         "movzx rax, word ptr [rbx]", "movsx eax, byte ptr [rbx]", "movsx ax, byte ptr [rbx]",
         "movsx rdx, word ptr [rbx + 2]", "movsxd rdx, dword ptr [rbx]", "movnti [rbx], rax", "movnti [rbx], edx"]
ARITHMETIC = [f"{operation} {operands}" for operation in ("add", "adc", "sub", "sbb", "and", "or", "xor", "cmp")
              for operands in ("[rbx], al", "dword ptr [rbx], 0x7fffffff", "rdx, [rbx]")]
ARITHMETIC += ["lock add qword ptr [rbx], -1", "test [rbx], eax", "test byte ptr [rbx], 0x81",
               "test qword ptr [rbx], 3"]
ARITHMETIC += [f"{operation} {size} ptr [rbx]" for operation in ("inc", "dec", "not", "neg")
               for size in ("byte", "qword")]
EXCHANGES = ["xchg [rbx], al", "xchg rax, [rbx]", "lock xadd [rbx], eax", "xadd [rbx + 8], r8", "xadd [rbx], cl",
             "lock cmpxchg [rbx], edx", "mov eax, [r14]; lock cmpxchg [r14], edx",
             "mov al, [r14 + 1]; cmpxchg [r14 + 1], cl"]
BITS = [f"{operation} {operands}" for operation in ("bt", "bts", "btr", "btc")
        for operands in ("dword ptr [rbx], 7", "[rbx], ecx", "qword ptr [rbx + 24], r9")]
BITS += ["mov eax, 100; lock bts [rbx], eax", "mov ax, -17; btc [rbx + 8], ax"]
SHIFTS = [f"{operation} {operands}" for operation in ("shl", "shr", "sar", "rol", "ror", "rcl", "rcr")
          for operands in ("byte ptr [rbx], 1", "word ptr [rbx], cl", "dword ptr [rbx], 31", "qword ptr [rbx], 17",
                           "byte ptr [rbx], 9")]
STRINGS = ["movsb", "movsq", "rep movsd", "std; rep movsw; cld", "mov ecx, 20; rep movsb", "stosb", "rep stosd",
           "lodsw", "rep lodsb", "cmpsb", "repe cmpsb", "repne cmpsd", "scasb", "mov al, [rbx + 42]; repne scasb",
           "mov rdi, 0x380000; rep movsq", "mov rsi, 0x1000; rep movsb", "mov edi, ebx; rep stosq",
           "mov ecx, 0; rep movsb"]
STACK = ["push qword ptr [rbx]; pop rax", "push rdx; pop qword ptr [rbx]", "push word ptr [rbx]; pop ax",
         "lea rax, [rip + go1]; mov [rbx], rax; jmp qword ptr [rbx]; hlt; go1:",
         "lea rax, [rip + go2]; mov [rbx], rax; call qword ptr [rbx]; hlt; go2: pop rdx"]
STACK += [f"mov r9, rsp; lea rsp, [rbx + 48]; {code}; mov rsp, r9" for code in (
    "push rdx; push -7; push 0x12345678; push ax; pop cx; pop rsi", "push qword ptr [r9]; pop rax", "pop rdx; pop ax",
    "enter 16, 0; mov rdx, rsp", "lea rbp, [rbx + 16]; leave; mov rsi, rsp", "call go3; go3: pop rdx",
    "lea rax, [rip + go4]; push rax; ret; hlt; go4:",
    "lea rax, [rip + go5]; mov [rsp], rax; ret 8; hlt; go5: mov rdx, rsp")]
VECTORS = ["movdqu [rbx], xmm0", "movdqu xmm0, [rbx + 5]", "movdqa [rbx], xmm0", "movaps xmm0, [rbx]",
           "movntdq [rbx], xmm0", "movd xmm0, dword ptr [rbx]", "movd dword ptr [rbx], xmm0",
           "movq xmm0, qword ptr [rbx]", "movq qword ptr [rbx], xmm0", "movups [rbx + 1], xmm0",
           "movss xmm0, dword ptr [rbx]", "movsd qword ptr [rbx], xmm0", "movntdqa xmm0, [rbx + 16]"]
VECTORS += [f"{name} xmm0, [rbx]" for name in ("movlps", "movlpd", "movhps", "movhpd", "pand", "pandn", "por", "pxor",
                                               "andps", "andnps", "orps", "xorps", "xorpd")]
VECTORS += [f"{name} [rbx + 8], xmm0" for name in ("movlps", "movhpd")]
MMX = ["movq mm3, [rbx]; movq rdx, mm3; emms", "movq mm1, rdx; movq [rbx], mm1; emms",
       "fld1; movq mm2, rdx; pxor mm2, [rbx]; movq rdx, mm2; fnstsw ax; emms",
       "fninit; fld1; fldpi; movntq [rbx], mm7; fnstsw ax; emms", "movd mm0, dword ptr [rbx]; movq rdx, mm0; emms",
       "fninit; movq mm5, rdx; movd dword ptr [rbx], mm5; fstp st(0); fnstsw ax; emms",
       "fninit; fldpi; movq mm0, [rbx]; sub rsp, 128; .byte 0xDD, 0x34, 0x24; mov edx, [rsp + 8]; add rsp, 128"]
CONDITIONS = [f"{name} byte ptr [rbx + {n}]" for n, name in enumerate(
    ("seto", "setb", "sete", "setbe", "sets", "setp", "setl", "setg", "setno", "setnp"))]
CONDITIONS += ["cmove rax, [rbx]", "cmovne eax, [rbx]", "cmovb dx, [rbx]", "cmovl eax, [rbx]"]
CROSSING = ["mov [r14 + 0xffd], rax", "mov rdx, [r14 + 0xffb]", "mov [rbx + 3], eax", "lea rdi, [r14 + 0x1ffe]; stosd",
            "add dword ptr [r14 + 0xffe], 0x12345678", "movdqu [r14 + 0xff9], xmm0",
            "lea rdi, [r14 + 0x4ffd]; rep stosd", "lea rsi, [r14 + 0x1ffd]; lea rdi, [r14 + 0x5ffe]; rep movsq",
            "std; lea rsi, [r14 + 0x5002]; lea rdi, [r14 + 0x6001]; rep movsd; cld",
            "lea rdi, [r14 + 0x4ff0]; mov ecx, 300; rep stosb", "lea rsi, [r14 + 0x1ffe]; rep lodsw; lodsd"]
PRODUCTS = [f"{operation} {size} ptr [rbx]" for operation in ("mul", "imul")
            for size in ("byte", "word", "dword", "qword")]
PRODUCTS += ["imul ax, [rbx]", "imul edx, [rbx]", "imul rax, [rbx], -5", "imul r9, [rbx + 3]",
             "imul eax, [rbx], 0x12345"]
QUOTIENTS = ["mov ax, 0x1234; div byte ptr [rbx]", "xor edx, edx; div word ptr [rbx]",
             "mov edx, 5; div dword ptr [rbx]", "xor edx, edx; div qword ptr [rbx]", "cwd; idiv word ptr [rbx]",
             "mov ax, -100; idiv byte ptr [rbx]", "cdq; idiv dword ptr [rbx]", "cqo; idiv qword ptr [rbx]"]
DOUBLES = [f"{operation} {operands}" for operation in ("shld", "shrd")
           for operands in ("[rbx], ax, 5", "[rbx], eax, 1", "[rbx], rax, cl", "[rbx], rdx, 63", "[rbx], edx, 32")]
SCANS = [f"{name} {operands}" for name in ("bsf", "bsr", "popcnt", "lzcnt")
         for operands in ("ax, [rbx]", "eax, [rbx]", "rax, [rbx + 1]")]
SCANS += ["mov qword ptr [rbx], 0; bsf rax, [rbx]", "mov qword ptr [rbx], 0; bsr eax, [rbx]",
          "mov dword ptr [rbx], 0; lzcnt eax, [rbx]", "mov dword ptr [rbx], 0; popcnt eax, [rbx]",
          ".byte 0xF3, 0x48, 0x0F, 0xBC, 0x03"]         # TZCNT, which this processor takes for BSF
WIDE = ["cmpxchg8b [rbx]", "mov r9, rbx; mov eax, [r9]; mov edx, [r9 + 4]; mov ebx, 0x1234; lock cmpxchg8b [r9]",
        "lea r9, [rbx + 16]; lock cmpxchg16b [r9]",
        "mov r9, rbx; mov rax, [r9 + 16]; mov rdx, [r9 + 24]; mov rbx, r8; lock cmpxchg16b [r9 + 16]", "xlatb"]
LONG = [*PRODUCTS, *QUOTIENTS, *DOUBLES, *SCANS, *WIDE, *MOVES, *ARITHMETIC,
        *EXCHANGES, *BITS, *SHIFTS, *STRINGS, *STACK, *VECTORS, *MMX, *CONDITIONS, *CROSSING]
PROTECTED = ["mov [ebx], al", "mov eax, [ebx + ecx*2]", "mov ah, [ebx]", "inc dword ptr [ebx]", "lock add [ebx], edx",
             "push dword ptr [ebx]; pop eax", "push edx; pop dword ptr [ebx]", "rep movsb", "rep stosd",
             "xadd [ebx], edx", "mov ax, [ebx]", "movzx eax, byte ptr [ebx]", "cmpxchg [ebx], dl", "bts [ebx], ecx",
             "rcl byte ptr [ebx], 1", "mul dword ptr [ebx]", "imul eax, [ebx]",
             "mov edi, esp; lea esp, [ebx + 48]; push edx; push 5; pop ax; call go6; go6: pop eax; mov esp, edi",
             "xor edx, edx; div word ptr [ebx]", "cmpxchg8b [ebx]", "shld [ebx], eax, 3", "bsr eax, [ebx]", "xlatb",
             "mov dl, es:[ebx + 5]", "mov cs:[0x8000], ebx; mov dx, [ebx + 2]", "repe cmpsw"]


@cache
def compared(bits: int) -> Compared:
    return compare(LONG if bits == 64 else PROTECTED, bits)


@pytest.mark.parametrize(("bits", "number"), [(64, number) for number in range(len(LONG))]
                         + [(32, number) for number in range(len(PROTECTED))],
                         ids=[*LONG, *(f"32-bit {form}" for form in PROTECTED)])
def test_an_instruction_leaves_on_a_device_what_it_leaves_on_ram(bits, number):
    """Registers, flags and XMM0, from two settings of the flags in 64-bit code."""
    left = compared(bits).left
    for flags in range(2 if bits == 64 else 1):
        assert left[number, flags, True] == left[number, flags, False]


@pytest.mark.parametrize("bits", [64, 32])
def test_memory_is_the_same_at_the_end(bits):
    assert compared(bits).ram == bytes(compared(bits).device.data)


def test_16_bit_code_reaches_a_device_through_its_segments():
    code = """mov bx, 0x10; mov [bx], ax; inc byte ptr [bx + 2]; mov eax, [bx + 4]; mov cs:[0x8000], eax
              mov si, 0x20; mov di, 0x40; mov cx, 5; rep movsb; mov al, [0x123]; mov [0x124], al; mov cs:[0x8004], si
              mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt"""
    on_device, untouched = Scratch(), Scratch()
    left, memory = real_mode(code, RAM, untouched)
    left_by_device, _ = real_mode(code, DEVICE, on_device)
    assert (left_by_device, bytes(on_device.data)) == (left, memory)
    assert untouched.accesses == []


def test_the_forms_do_reach_the_device():
    assert len(compared(64).device.accesses) > 2 * len(LONG)

.bits 64
.org 0x10000
start:
    rdtsc
    mov rax, cr3
    mov cr3, rax
    pause
    mov ebx, 5
    mov cr8, rbx
    mov dx, 0x3F8
    mov al, 'v'
    out dx, al
    mov esi, 0xFEE00000
    mov eax, [rsi + 0x30]
    mov eax, 0x40000000
    cpuid
    hlt

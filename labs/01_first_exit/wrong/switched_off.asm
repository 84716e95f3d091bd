; Wrong: it switches itself off.

.bits 64
.org 0x10000
.entry start

start:
    mov eax, 0x40000000         ; the hypervisor's first leaf
    cpuid                       ; VM exit: the hypervisor answers, not the processor
    lea rdi, [rip + signature]
    mov [rdi], ebx              ; "Micr"
    mov [rdi + 4], ecx          ; "osof"
    mov [rdi + 8], edx          ; "t Hv"
    mov dx, 0x604               ; the power port
    mov ax, 0x2000
    out dx, ax
    hlt

.org 0x200000
signature:
    .skip 12

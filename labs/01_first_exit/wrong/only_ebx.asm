; Wrong: ECX and EDX are not stored.

.bits 64
.org 0x10000
.entry start

start:
    mov eax, 0x40000000         ; the hypervisor's first leaf
    cpuid                       ; VM exit: the hypervisor answers, not the processor
    lea rdi, [rip + signature]
    mov [rdi], ebx              ; "Micr"
    hlt

.org 0x200000
signature:
    .skip 12

; Wrong: EAX is 0, so the processor's maker answers.

.bits 64
.org 0x10000
.entry start

start:
    xor eax, eax
    cpuid                       ; VM exit: the hypervisor answers, not the processor
    lea rdi, [rip + signature]
    mov [rdi], ebx              ; "Micr"
    mov [rdi + 4], ecx          ; "osof"
    mov [rdi + 8], edx          ; "t Hv"
    hlt

.org 0x200000
signature:
    .skip 12

; Wrong: it never ends; the processor executes the zeros behind the program.

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

.org 0x200000
signature:
    .skip 12

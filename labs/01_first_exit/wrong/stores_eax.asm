; Wrong: EAX is stored in the place of EBX.

.bits 64
.org 0x10000
.entry start

start:
    mov eax, 0x40000000         ; the hypervisor's first leaf
    cpuid                       ; VM exit: the hypervisor answers, not the processor
    lea rdi, [rip + signature]
    mov [rdi], eax              ; the last leaf, no letters
    mov [rdi + 4], ecx          ; "osof"
    mov [rdi + 8], edx          ; "t Hv"
    hlt

.org 0x200000
signature:
    .skip 12

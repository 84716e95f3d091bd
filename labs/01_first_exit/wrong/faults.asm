; Wrong: it stores to where EAX points, which is no memory.

.bits 64
.org 0x10000
.entry start

start:
    mov eax, 0x40000000         ; the hypervisor's first leaf
    cpuid                       ; VM exit: the hypervisor answers, not the processor
    mov [rax], ebx              ; "Micr"
    mov [rax + 4], ecx          ; "osof"
    mov [rax + 8], edx          ; "t Hv"
    hlt

.org 0x200000
signature:
    .skip 12

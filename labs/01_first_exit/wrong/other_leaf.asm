; Wrong: EAX asks for a leaf of the processor.

.bits 64
.org 0x10000
.entry start

start:
    mov eax, 5                  ; not a leaf of the hypervisor
    cpuid                       ; VM exit: the hypervisor answers, not the processor
    lea rdi, [rip + signature]
    mov [rdi], ebx              ; "Micr"
    mov [rdi + 4], ecx          ; "osof"
    mov [rdi + 8], edx          ; "t Hv"
    hlt

.org 0x200000
signature:
    .skip 12

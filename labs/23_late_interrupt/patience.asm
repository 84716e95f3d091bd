; A guest that interrupts itself twice: once while interrupts may come, and once while they may not. The second time it lets
; the interrupt in afterwards and looks for it, so many times at most, before it goes to sleep. There is nothing wrong with it:
; on a sound machine `looks` is 0 in the end, for the interrupt is there as soon as it is let in.

.include "lib/machine.inc"

VECTOR   = {{vector:#x}}
PATIENCE = {{patience}}             ; looks, before it sleeps

.bits 64
.org 0x10000
.entry start

start:
    mov edi, VECTOR
    mov eax, offset on_interrupt
    call idt_set
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    sti
    nop
    mov dword ptr [rbx + APIC_ICR_LOW], 0x40000 | VECTOR    ; to myself
    cli
    mov dword ptr [rbx + APIC_ICR_LOW], 0x40000 | VECTOR    ; once more, while it must wait
    mov eax, 0x40000000
    cpuid
    mov [rip + signature], ebx
    sti                         ; now it may come
    nop
    xor ecx, ecx
.look:
    cmp dword ptr [rip + count], 2
    jae .there
    inc ecx
    cmp ecx, PATIENCE
    jb .look
    hlt                         ; whatever comes wakes us
.there:
    mov [rip + looks], ecx
    cli
    hlt

on_interrupt:
    push rbx
    inc dword ptr [rip + count]
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rbx
    iretq

.include "lib/idt64.inc"

.org 0x200000
count:     .long 0              ; how many interrupts came
looks:     .long 0              ; how often the second one was looked for in vain
signature: .long 0

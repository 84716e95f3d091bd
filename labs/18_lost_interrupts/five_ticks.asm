; A guest that counts five interrupts of its APIC's timer, asks for the hypervisor's signature, and stops. There is nothing
; wrong with it: on a sound machine `count` is 5 in the end.

.include "lib/machine.inc"

VECTOR = 0x30
TICKS  = 5
PERIOD = 10000

.bits 64
.org 0x10000
.entry start

start:
    mov eax, 0x40000000
    cpuid
    mov [rip + signature], ebx
    mov edi, VECTOR
    mov eax, offset on_timer
    call idt_set
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    mov dword ptr [rbx + APIC_DIVIDE], 0x0B
    mov dword ptr [rbx + APIC_LVT_TIMER], 0x20000 | VECTOR  ; periodic
    mov dword ptr [rbx + APIC_INITIAL], PERIOD
.wait:
    cli
    cmp dword ptr [rip + count], TICKS
    jae .done
    sti
    hlt
    jmp .wait
.done:
    mov dword ptr [rbx + APIC_INITIAL], 0
    cli
    hlt

on_timer:
    push rbx
    inc dword ptr [rip + count]
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rbx
    iretq

.include "lib/idt64.inc"

.org 0x200000
count:     .long 0
signature: .long 0

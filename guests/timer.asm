; timer: ten interrupts of the local APIC's timer.
;
; Shows: an interrupt that arrives while the VP is halted; EOI; nothing happens faster or slower than virtual time.
; Read:  SDM volume 3, "APIC Timer" and "Signaling Interrupt Servicing Completion".

.include "lib/machine.inc"

VECTOR = 0x30
TICKS  = 10
PERIOD = 100000                 ; timer counts between two interrupts

.bits 64
.org 0x10000
.entry start

start:
    mov edi, VECTOR
    mov eax, offset on_timer
    call idt_set
    call idt_load

    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF               ; enabled, spurious vector 0xFF
    mov dword ptr [rbx + APIC_DIVIDE], 0x0B             ; divide by 1
    mov dword ptr [rbx + APIC_LVT_TIMER], 0x20000 | VECTOR  ; periodic, not masked
    mov dword ptr [rbx + APIC_INITIAL], PERIOD          ; writing the count starts it

.wait:
    cli
    cmp dword ptr [rip + count], TICKS
    jae .done
    sti                         ; the instruction after STI is still shielded: no interrupt between the two
    hlt
    jmp .wait
.done:
    lea rsi, [rip + text]
    call print
    mov eax, [rip + count]
    call print_dec
    mov al, '\n'
    call putc
    jmp power_off

on_timer:
    push rax
    push rbx
    inc dword ptr [rip + count]
    mov ebx, APIC
    cmp dword ptr [rip + count], TICKS
    jb .more
    mov dword ptr [rbx + APIC_INITIAL], 0               ; 0 stops the timer
.more:
    mov dword ptr [rbx + APIC_EOI], 0                   ; without it no interrupt of this class comes again
    pop rbx
    pop rax
    iretq

.include "lib/serial64.inc"
.include "lib/idt64.inc"

text:  .asciz "timer interrupts: "
.align 4
count: .long 0

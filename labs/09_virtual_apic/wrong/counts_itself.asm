; Wrong: the loop counts how often it was woken, and so does the handler.
;
; Let the APIC's timer interrupt five times, and look at the APIC from inside the handler. `count`, `in_service`,
; `priority` and `priority_after` at the end of this file are to be filled.
;
; `hv lab check` says how far you are; `hv lab hint` helps; docs/guests.md has the language.

.include "lib/machine.inc"      ; APIC, APIC_EOI, APIC_LVT_TIMER and so on

VECTOR   = 0x30
TICKS    = 5
PERIOD   = 10000                ; counts of the timer between two interrupts
APIC_PPR = 0x0A0                ; processor priority
APIC_ISR = 0x100                ; in service: 256 bits, in eight registers of 32 bits that stand 16 bytes apart

.bits 64
.org 0x10000
.entry start

start:
    mov edi, VECTOR
    mov eax, offset on_timer
    call idt_set                ; a gate of the IDT for our vector
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF           ; software enable: an APIC that is off takes no interrupt
    mov dword ptr [rbx + APIC_DIVIDE], 0x0B         ; divide by 1
    mov dword ptr [rbx + APIC_LVT_TIMER], 0x20000 | VECTOR  ; bit 17: periodic; bit 16, masked, is 0
    mov dword ptr [rbx + APIC_INITIAL], PERIOD      ; writing the count starts it
.wait:
    cli
    cmp dword ptr [rip + count], TICKS
    jae .done
    sti                         ; the instruction behind STI is shielded: no interrupt between the two
    hlt
    inc dword ptr [rip + count]
    jmp .wait
.done:
    mov dword ptr [rbx + APIC_INITIAL], 0           ; 0 stops the timer
    hlt                         ; with interrupts off: the end

on_timer:
    push rax                    ; whoever was interrupted must not notice
    push rbx
    inc dword ptr [rip + count]
    mov ebx, APIC
    mov eax, [rbx + APIC_ISR + 0x10]                ; vectors 0x20 to 0x3F: ours is bit 16
    mov [rip + in_service], eax
    mov eax, [rbx + APIC_PPR]
    mov [rip + priority], eax
    mov dword ptr [rbx + APIC_EOI], 0
    mov eax, [rbx + APIC_PPR]
    mov [rip + priority_after], eax
    pop rbx
    pop rax
    iretq

.include "lib/idt64.inc"

.org 0x200000
count:          .long 0         ; interrupts
in_service:     .long 0         ; the ISR register that has the bit of our vector, before EOI
priority:       .long 0         ; PPR before EOI
priority_after: .long 0xFFFFFFFF    ; PPR after EOI

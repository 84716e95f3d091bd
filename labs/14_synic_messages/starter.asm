; Messages of the SynIC.
;
; Two synthetic timers expire while interrupts are off, and both send a message to SINT2, which has one slot. Take both
; messages: `log` at the end of this file is to hold them.
;
; `hv lab check` says how far you are; `hv lab hint` helps; docs/guests.md has the language.

.include "lib/machine.inc"      ; HV_SIMP, HV_SINT2, HV_SCONTROL, HV_EOM, SIMP_PAGE and so on

VECTOR   = {{vector.number:#x}}
COUNT0   = 0x400000B1           ; when timer 0 expires, in units of 100 ns; its configuration is COUNT0 - 1
COUNT1   = 0x400000B3           ; timer 1; its configuration is COUNT1 - 1
SLOT     = 0                    ; where in SIMP_PAGE does the slot of SINT2 begin?

.bits 64
.org 0x10000
.entry start

start:
    mov edi, VECTOR
    mov eax, offset on_message
    call idt_set
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF   ; an APIC that is off takes no interrupt

    ; 1. the message page, SINT2, and the SynIC itself: put a value into RAX, an MSR into ECX, then `call write_msr`

    call now                    ; RAX = the reference counter, in units of 100 ns
    lea r12, [rax + 1000]       ; 100 us from now
    lea r13, [r12 + {{apart}}]
    ; 2. timer 0 expires at R12, timer 1 at R13; both send to SINT2

.spin:                          ; interrupts are off: both expire here
    call now
    cmp rax, r13
    jbe .spin
.wait:
    cli
    cmp dword ptr [rip + count], 2
    jae .done
    sti                         ; the instruction behind STI is shielded: no interrupt between the two
    hlt
    jmp .wait
.done:
    mov rax, [log + 16 + 8]
    sub rax, [log + 8]
    mov [apart], rax            ; {{apart}}: that is how far apart the two moments were
    hlt                         ; with interrupts off: the end

on_message:                     ; the SINT has auto-EOI: no EOI here
    push rax
    push rcx
    push rdi
    mov ecx, [rip + count]
    shl ecx, 4
    lea rdi, [rcx + log]        ; the next 16 bytes of the log
    inc dword ptr [rip + count]
    ; 3. the type (4 bytes) to [rdi], the number of the timer (4) to [rdi + 4], when it expired (8) to [rdi + 8]

    ; 4. free the slot; if another message waits, say that it may come

    pop rdi
    pop rcx
    pop rax
    iretq

.include "lib/idt64.inc"
.include "lib/time64.inc"

.org 0x210000
log:    .skip 32, 0xFF          ; two messages: type, timer, time
apart:  .quad 0
count:  .long 0

; Wrong: the second message is left waiting.
;
; Two synthetic timers expire while interrupts are off, and both send a message to SINT2, which has one slot. Take both
; messages: `log` at the end of this file is to hold them.
;
; `hv lab check` says how far you are; `hv lab hint` helps; docs/guests.md has the language.

.include "lib/machine.inc"      ; HV_SIMP, HV_SINT2, HV_SCONTROL, HV_EOM, SIMP_PAGE and so on

VECTOR   = {{vector.number:#x}}
COUNT0   = 0x400000B1           ; when timer 0 expires, in units of 100 ns; its configuration is COUNT0 - 1
COUNT1   = 0x400000B3           ; timer 1; its configuration is COUNT1 - 1
SLOT     = SIMP_PAGE + 2 * 256  ; SINT2's of sixteen

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

    mov ecx, HV_SIMP
    mov eax, SIMP_PAGE | 1      ; enabled
    call write_msr
    mov ecx, HV_SINT2
    mov eax, 0x20000 | VECTOR   ; auto-EOI, not masked
    call write_msr
    mov ecx, HV_SCONTROL
    mov eax, 1                  ; last: now something may come
    call write_msr

    call now                    ; RAX = the reference counter, in units of 100 ns
    lea r12, [rax + 1000]       ; 100 us from now
    lea r13, [r12 + {{apart}}]
    mov ecx, COUNT0
    mov rax, r12
    call write_msr
    mov ecx, COUNT0 - 1
    mov eax, 2 << 16 | 1        ; SINT2, enabled: one message, then the timer is off
    call write_msr
    mov ecx, COUNT1
    mov rax, r13
    call write_msr
    mov ecx, COUNT1 - 1
    mov eax, 2 << 16 | 1
    call write_msr

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
    mov eax, [SLOT]             ; HV_MESSAGE_HEADER.MessageType
    mov [rdi], eax
    mov eax, [SLOT + 16]        ; behind the header: TimerIndex
    mov [rdi + 4], eax
    mov rax, [SLOT + 16 + 8]    ; ExpirationTime
    mov [rdi + 8], rax

    mov dword ptr [SLOT], 0     ; HvMessageTypeNone: the slot is free
    mfence                      ; and only now look: the hypervisor may have set the flag until then
    jmp .alone
    mov ecx, HV_EOM
    xor eax, eax
    call write_msr
.alone:

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

; Wrong: the vector of the SIPI is taken for an address.
;
; Start the second one, ask it two questions by interrupts, and wait for its answers.
;
; `hv lab check` says how far you are; `hv lab hint` helps; docs/guests.md has the language.

.include "lib/machine.inc"

VECTOR = {{vector.number:#x}}

.bits 64
.org 0x10000
.entry start

start:                          ; VP 0
    mov edi, VECTOR
    mov eax, offset on_question
    call idt_set                ; both VPs use this IDT
    call idt_load
    mov ebx, APIC               ; each VP finds its own APIC here
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    mov rax, cr3
    mov [rip + smp_cr3], eax    ; the page tables that VP 1 is to use

    mov dword ptr [rbx + APIC_ICR_HIGH], 1 << 24    ; destination: APIC id 1
    mov dword ptr [rbx + APIC_ICR_LOW], 0x4500      ; mode 5: INIT
    mov dword ptr [rbx + APIC_ICR_LOW], 0x4680      ; mode 6
.arriving:
    pause                       ; whoever has something to do goes first
    cmp dword ptr [here], 1
    jne .arriving
    mov dword ptr [question], {{first.number}}
    call ask
    mov [heard], eax
    mov dword ptr [question], {{second.number}}
    call ask
    mov [heard + 4], eax
    hlt                         ; with interrupts off: the end

ask:                            ; VP 0: EAX = the answer of VP 1; RBX is the APIC
    mov dword ptr [answer], 0
    mov dword ptr [rbx + APIC_ICR_HIGH], 1 << 24
    mov dword ptr [rbx + APIC_ICR_LOW], 0x4000 | VECTOR     ; mode 0: fixed
.thinking:
    pause
    cmp dword ptr [answer], 0
    je .thinking
    mov eax, [answer]
    ret

ap_main:                        ; VP 1, in 64-bit mode: its APIC is on, its IDT loaded, interrupts are off
    mov dword ptr [here], 1
    sti
.sleep:
    hlt
    jmp .sleep

on_question:                    ; VP 1, each time it is interrupted
    push rax
    push rbx
    push rcx
    mov ecx, 200000             ; this is a difficult question
.think:
    dec ecx
    jnz .think
    mov eax, [question]
    add eax, eax
    mov [answer], eax
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rcx
    pop rbx
    pop rax
    iretq

.include "lib/idt64.inc"
.include "lib/smp64.inc"

.org 0x200000
here:     .long 0               ; written by VP 1
question: .long 0               ; written by VP 0
answer:   .long 0               ; written by VP 1
heard:    .long 0, 0            ; written by VP 0

.bits 16
.org 0x80000                    ; where VP 1 begins now; without this it would run through zeros
    cli
    hlt

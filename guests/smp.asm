; smp: all processors of a partition start, take interrupts from each other, and count to 100 000 under one ticket lock.
;
; Run:   hv run guests/smp.asm --smp 4        (up to 64)
; Shows: INIT and SIPI; an interrupt sent through ICR, and one to everybody by HvCallSendSyntheticClusterIpi; sleeping
;        with HLT until there is something to do; a fair lock that is handed from VP to VP.
; Read:  SDM volume 3, "Issuing Interprocessor Interrupts"; TLFS "HvCallSendSyntheticClusterIpi".

.include "lib/machine.inc"

TOTAL     = 100000
CALL_VECTOR = 0x41
NEXT      = 0x220000            ; the ticket that the next VP takes
SERVED    = 0x220040            ; the ticket that may enter; a cache line of its own, as a real program would have it
COUNTER   = 0x220080            ; what the lock guards
OWNER     = 0x220084            ; who had the lock last, plus one
HANDOFFS  = 0x220088            ; how often that was another one
TAKEN     = 0x2200C0            ; interrupts taken, by all
GO        = 0x220100            ; 1: count
DONE      = 0x220140            ; VPs that have finished
OWN       = 0x221000            ; a count for each VP

.bits 64
.org 0x10000
.entry start

start:
    call hypercall_init
    mov edi, CALL_VECTOR
    lea rax, [rip + on_call]
    call idt_set
    call idt_load
    call smp_start
    mov ebp, eax                                ; EBP: how many we are
    call print_dec
    lea rsi, [rip + here_text]
    call print

    ; One interrupt for each of the others, and wait for it: what a kernel's "call function on VP n" does.
    mov ebx, APIC
    mov r12d, 1
.each:
    cmp r12d, ebp
    jae .sent
    mov r13d, [TAKEN]
    mov eax, r12d
    shl eax, 24
    mov [rbx + APIC_ICR_HIGH], eax              ; destination: APIC id 31:24
    mov dword ptr [rbx + APIC_ICR_LOW], CALL_VECTOR
.taken:
    pause
    cmp [TAKEN], r13d
    je .taken
    inc r12d
    jmp .each
.sent:
    mov eax, [TAKEN]
    call print_dec
    lea rsi, [rip + icr_text]
    call print

    ; And one for all of them with one call. They find GO set when they look.
    mov dword ptr [TAKEN], 0
    mov dword ptr [GO], 1
    mov r8, -1
    mov ecx, 64
    sub ecx, ebp
    shr r8, cl                                  ; bits 0..n-1,
    and r8, -2                                  ; without ourselves
    mov ecx, 0x1000B                            ; fast: the vector in RDX, the mask in R8
    mov edx, CALL_VECTOR
    mov eax, HYPERCALL_PAGE
    call rax
    mov r14, rax
    xor edi, edi
    call count
.wait:
    pause
    cmp [DONE], ebp
    jne .wait
    lea rsi, [rip + call_text]
    call print
    mov rax, r14
    call print_hex
    lea rsi, [rip + taken_text]
    call print
    mov eax, [TAKEN]
    call print_dec
    mov al, '\n'
    call putc

    xor r12d, r12d
.line:
    lea rsi, [rip + vp_text]
    call print
    mov eax, r12d
    call print_dec
    lea rsi, [rip + counted_text]
    call print
    mov eax, [r12*4 + OWN]
    call print_dec
    mov al, '\n'
    call putc
    inc r12d
    cmp r12d, ebp
    jb .line
    lea rsi, [rip + total_text]
    call print
    mov eax, [COUNTER]
    call print_dec
    lea rsi, [rip + handoffs_text]
    call print
    mov eax, [HANDOFFS]
    call print_dec
    mov al, '\n'
    call putc
    jmp power_off

; The others sleep until they are called, and look at GO with interrupts off: no call is lost between look and sleep.
ap_main:
.look:
    cli
    cmp dword ptr [GO], 0
    jne .go
    sti                                         ; takes effect behind the next instruction, so HLT cannot miss it
    hlt
    jmp .look
.go:
    sti
    call count
.stop:
    cli
    hlt
    jmp .stop

; Count under the lock until the total is reached. EDI = who counts. Only registers are used while the lock is held.
count:
    lea edx, [rdi + 1]
.again:
    mov eax, 1
    lock xadd [NEXT], eax                       ; our ticket
.look:
    cmp [SERVED], eax
    je .mine
    pause                                       ; whoever holds the lock needs the processor more
    jmp .look
.mine:
    cmp dword ptr [COUNTER], TOTAL
    je .enough
    cmp [OWNER], edx
    je .same
    mov [OWNER], edx
    inc dword ptr [HANDOFFS]
.same:
    inc dword ptr [COUNTER]                     ; no LOCK prefix: the lock guards it
    inc dword ptr [rdi*4 + OWN]
    inc dword ptr [SERVED]                      ; x86 keeps stores in order: this releases
    jmp .again
.enough:
    inc dword ptr [SERVED]
    lock inc dword ptr [DONE]
    ret

on_call:
    push rax
    lock inc dword ptr [TAKEN]
    mov eax, APIC
    mov dword ptr [rax + APIC_EOI], 0
    pop rax
    iretq

here_text:     .asciz " VPs are here\n"
icr_text:      .asciz " interrupts sent by ICR, and taken\n"
call_text:     .asciz "HvCallSendSyntheticClusterIpi: status "
taken_text:    .asciz ", taken "
vp_text:       .asciz "VP "
counted_text:  .asciz " counted "
total_text:    .asciz "together "
handoffs_text: .asciz ", the lock changed hands "

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/hypercall64.inc"
.include "lib/smp64.inc"

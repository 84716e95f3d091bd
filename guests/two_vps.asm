; two_vps: both virtual processors of one partition count to 10 000 each, under one spin lock.
;
; Run:   hv run guests/two_vps.asm --smp 2
; Shows: INIT and SIPI through the local APIC; a VP that starts in real mode at the SIPI's page and joins the first
; one in long mode; a LOCK-prefixed instruction that is atomic between VPs although they take turns.
; Read:  SDM volume 3, "MP Initialization Protocol" and "Locked Atomic Operations".

.include "lib/machine.inc"

EACH    = 10000
COUNTER = 0x200000              ; data lives above 2 MiB, where pages are no-execute
LOCK    = 0x200040              ; its own cache line, as a real program would have it
DONE    = 0x200080              ; VPs that have finished
COUNT0  = 0x2000C0              ; what each VP counted by itself
COUNT1  = 0x2000C8

.bits 64
.org 0x10000
.entry start

start:
    mov ebx, APIC
    or dword ptr [rbx + APIC_SVR], 0x100        ; software enable
    mov rax, cr3
    mov [rip + ap_cr3], eax                     ; VP 1 will use our page tables

    ; INIT, then SIPI: "all excluding self" (bits 19:18 = 3). Vector 8 is page 0x8000, where `trampoline` is.
    mov dword ptr [rbx + APIC_ICR_LOW], 0xC4500
    call short_wait
    mov dword ptr [rbx + APIC_ICR_LOW], 0xC4608
    call short_wait

    mov edi, COUNT0
    call count
    mov ecx, 20000
.wait:                                          ; for VP 1, but not for ever
    cmp dword ptr [DONE], 2
    je .print
    pause
    dec ecx
    jnz .wait
    lea rsi, [rip + alone_text]
    call print
.print:
    lea rsi, [rip + vp0_text]
    mov rax, [COUNT0]
    call line
    lea rsi, [rip + vp1_text]
    mov rax, [COUNT1]
    call line
    lea rsi, [rip + total_text]
    mov rax, [COUNTER]
    call line
    jmp power_off

line:                                           ; text at RSI, number in RAX, new line
    call print
    call print_dec
    mov al, '\n'
    jmp putc

short_wait:                                     ; a real machine wants 10 ms and 200 us here
    mov ecx, 1000
.spin:
    pause
    dec ecx
    jnz .spin
    ret

; Count EACH times under the lock; the VP's own count goes to [RDI]. No stack is used: both VPs run this.
count:
    mov ecx, EACH
.again:
    lock bts dword ptr [LOCK], 0                ; CF = was it taken already?
    jc .spin
    mov rax, [COUNTER]                          ; read, add, write: three steps that only the lock keeps together
    inc rax
    mov [COUNTER], rax
    inc qword ptr [rdi]
    mov dword ptr [LOCK], 0                     ; x86 keeps stores in order: a plain store releases
    dec ecx
    jnz .again
    lock inc dword ptr [DONE]
    ret
.spin:
    pause                                       ; tells the hypervisor that we only wait
    cmp dword ptr [LOCK], 0                     ; look without LOCK first, it is cheaper
    jne .spin
    jmp .again

.include "lib/serial64.inc"

alone_text: .asciz "VP 1 does not finish: this partition needs two VPs (hv run two_vps --smp 2)\n"
vp0_text:   .asciz "VP 0 counted "
vp1_text:   .asciz "VP 1 counted "
total_text: .asciz "together "

; ---- VP 1 begins here: real mode, CS = 0x0800, IP = 0 -----------------------------------------------------------
.bits 16
.org 0x8000
trampoline:
    cli
    mov ax, cs
    mov ds, ax                                  ; so that offsets are counted from this page
    lgdt [ap_gdt_pointer - trampoline]
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    jmp dword 0x18:ap_protected                 ; a 32-bit offset, hence `dword`

.bits 32
ap_protected:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov eax, cr4
    or eax, 1 << 5                              ; PAE
    mov cr4, eax
    mov eax, [ap_cr3]
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 1 << 8 | 1 << 11                    ; LME, and NXE since the tables have NX bits
    wrmsr
    mov eax, cr0
    or eax, 1 << 31
    mov cr0, eax
    jmp 0x08:ap_long

.bits 64
ap_long:
    mov esp, 0x98000                            ; a stack of its own
    mov edi, COUNT1
    call count
.stop:
    cli
    hlt
    jmp .stop

.align 8
ap_gdt:
    .quad 0
    .quad 0x00AF9A000000FFFF                    ; 08: 64-bit code
    .quad 0x00CF92000000FFFF                    ; 10: data
    .quad 0x00CF9A000000FFFF                    ; 18: 32-bit code
ap_gdt_end:
ap_gdt_pointer:
    .word ap_gdt_end - ap_gdt - 1
    .long ap_gdt
ap_cr3:
    .long 0

; tlb_flush: what a processor has cached of a page table, and the ways to make another processor forget it.
;
; Run:   hv run guests/tlb_flush.asm --smp 2
; Shows: VP 1 reads through a window, VP 0 moves the window to another page. VP 1 goes on reading the old page until
;        somebody makes it forget: a hypercall for it, or an interrupt whose handler says INVLPG.
; Read:  SDM volume 3, "Propagation of Paging-Structure Changes to Multiple Processors"; TLFS "Virtual MMU".
;
; Before the flush either page would be right: a processor may forget whatever it likes. Behind it only the new one is.

.include "lib/machine.inc"

WINDOW   = 0x600000             ; linear; its 2 MiB get a page table of their own
PD_SLOT  = START_PD + 3 * 8
TABLE    = 0x210000
PAGE_A   = 0x211000             ; two pages, each begins with its letter
PAGE_B   = 0x212000
RIGHTS   = 3                    ; present, writable
TURN     = 0x220000             ; VP 0 counts up: look! VP 1 answers with the same number
SEEN     = 0x220040             ; what VP 1 saw
ANSWER   = 0x220080
VECTOR   = 0x41

.bits 64
.org 0x10000
.entry start

start:
    call hypercall_init
    mov edi, VECTOR
    lea rax, [rip + on_flush]
    call idt_set
    call idt_load
    mov dword ptr [PAGE_A], 'A'
    mov dword ptr [PAGE_B], 'B'
    mov qword ptr [TABLE], PAGE_A | RIGHTS
    mov qword ptr [PD_SLOT], TABLE | RIGHTS
    mov rax, cr3
    mov cr3, rax                                ; our own flush: the entry was of a large page
    mov r15, rax                                ; the address space
    call smp_start
    cmp eax, 2
    jae .enough
    lea rsi, [rip + alone_text]
    call print
    jmp power_off
.enough:
    lea rsi, [rip + first_text]
    call look

    lea rsi, [rip + space_text]
    mov ebx, 0x0002                             ; HvCallFlushVirtualAddressSpace
    mov r12d, 0
    mov r13d, 2                                 ; VP 1
    call by_hypercall
    lea rsi, [rip + spaces_text]
    mov r12d, 3                                 ; all processors, all spaces
    mov r13d, 0
    call by_hypercall
    lea rsi, [rip + list_text]
    mov rbx, 1 << 32 | 0x0003                   ; HvCallFlushVirtualAddressList, one range
    mov r12d, 0
    mov r13d, 2
    call by_hypercall
    lea rsi, [rip + space_ex_text]
    mov ebx, 1 << 17 | 0x0013                   ; ...SpaceEx: one unit of 8 bytes follows the header
    call by_set
    lea rsi, [rip + list_ex_text]
    mov rbx, 1 << 32 | 1 << 17 | 0x0014
    call by_set

    ; As it is done without a hypervisor: an interrupt for the other one, and its handler flushes.
    lea rsi, [rip + ipi_text]
    call move
    mov eax, APIC
    mov dword ptr [rax + APIC_ICR_HIGH], 1 << 24
    mov dword ptr [rax + APIC_ICR_LOW], VECTOR
    call look
    jmp power_off

; RSI = the text for it, RBX = control word, R12 = flags, R13 = mask of VPs: flush by that after a move.
by_hypercall:
    call move
    call clear_input
    mov [INPUT_PAGE], r15
    mov [INPUT_PAGE + 8], r12
    mov [INPUT_PAGE + 16], r13
    mov qword ptr [INPUT_PAGE + 24], WINDOW     ; the list, if it is one
    jmp ask

; The same by a set: format 0 (sparse), the mask of banks, then the bank; the list behind it.
by_set:
    call move
    call clear_input
    mov [INPUT_PAGE], r15
    mov qword ptr [INPUT_PAGE + 24], 1          ; bank 0 follows
    mov qword ptr [INPUT_PAGE + 32], 2          ; VP 1
    mov qword ptr [INPUT_PAGE + 40], WINDOW
ask:
    mov rcx, rbx
    call hypercall
    test ax, ax
    jz look
    lea rsi, [rip + refused_text]
    call print
    call print_hex
    jmp power_off

; The window shows the other page from now on. VP 1 has just read the old one; what does it see without a flush?
move:
    xor qword ptr [TABLE], PAGE_A ^ PAGE_B
    push rsi
    lea rsi, [rip + before_text]
    call look
    pop rsi
    ret

; VP 1 looks through the window: says RSI and the letter that it saw. A text that begins with a blank is half a line.
look:
    push rax
    inc dword ptr [TURN]
    mov eax, [TURN]
.wait:
    pause
    cmp [ANSWER], eax
    jne .wait
    call print
    mov al, [SEEN]
    call putc
    mov al, '\n'
    cmp byte ptr [rsi], ' '                     ; the line is not finished
    jne .end
    mov al, ' '
.end:
    call putc
    pop rax
    ret

ap_main:
    xor ebx, ebx
    sti
.wait:
    pause
    cmp [TURN], ebx
    je .wait
    mov ebx, [TURN]
    mov eax, [WINDOW]
    mov [SEEN], eax
    mov [ANSWER], ebx
    jmp .wait

on_flush:
    push rax
    mov eax, WINDOW
    invlpg [rax]
    mov eax, APIC
    mov dword ptr [rax + APIC_EOI], 0
    pop rax
    iretq

alone_text:    .asciz "this guest needs two VPs (hv run tlb_flush --smp 2)\n"
first_text:    .asciz "VP 1 sees page "
before_text:   .asciz " moved: "
space_text:    .asciz "flushed by HvCallFlushVirtualAddressSpace: "
spaces_text:   .asciz "flushed for everybody and all spaces: "
list_text:     .asciz "flushed by HvCallFlushVirtualAddressList: "
space_ex_text: .asciz "flushed by HvCallFlushVirtualAddressSpaceEx: "
list_ex_text:  .asciz "flushed by HvCallFlushVirtualAddressListEx: "
ipi_text:      .asciz "flushed by an interrupt and INVLPG: "
refused_text:  .asciz "refused: "

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/hypercall64.inc"
.include "lib/smp64.inc"

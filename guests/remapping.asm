; remapping: a guest decides itself which interrupts its devices may raise.
;
; Run:   hv run guests/remapping.asm --pc --viommu --device ring
; Shows: a device's message names no vector and no processor any more, but an entry of a table in our memory; the entry
; says the rest, and whose it is. A frame's interrupt through entry 5; the entry changed, which the unit does not know of
; until we invalidate it; a message that names a vector itself, and an entry that is another device's: both are refused,
; and each leaves a record and the unit's own interrupt. The timer comes by the table too, as the I/O APIC is a device.
; Read:  VT-d "Interrupt Remapping"; docs/iommu.md. viommu.asm does the same for DMA, ring.asm is about the card.

.include "lib/machine.inc"
.include "lib/ring_nic.inc"
.include "lib/vtd.inc"

FIRST_VECTOR  = 0x51            ; of entry 5, before it is changed
SECOND_VECTOR = 0x52            ; and then
TIMER_VECTOR  = 0x71
FAULT_VECTOR  = 0x62
CARD_ENTRY    = 5
TIMER_ENTRY   = 7
OTHERS_ENTRY  = 9               ; for a device that is not there
OTHERS_ID     = 0x00F8
TABLE         = 0x310000        ; interrupt remapping table, 256 entries of 16 bytes
QUEUE         = 0x311000
STATUS        = 0x312000
TX_RING       = 0x313000        ; 8 descriptors
RX_RING       = 0x314000        ; likewise, and none is given to the card
FRAME         = 0x315000        ; what is in it is no matter
REMAPPABLE    = 0xFEE00010      ; bits 19:5 are the entry's number
IO_APIC       = 0xFEC00000
IO_APIC_ID    = 0xF0F8          ; who its messages are from: the DMAR table says so
TIMER_PIN     = 2
HIGH_PD       = 0x74000         ; the loader's page directory of the fourth GiB
REGISTERS_2M  = VTD_BASE & 0xFFE00000       ; the I/O APIC's are in it too

.bits 64
.org 0x10000
.entry start

start:
    mov rax, REGISTERS_2M | 0x93        ; present, writable, uncached, large: the loader has not mapped them
    bts rax, 63                         ; and no code
    mov [HIGH_PD + (REGISTERS_2M >> 21 & 511) * 8], rax
    mov r14d, VTD_BASE                  ; R14 = the unit
    mov edi, FIRST_VECTOR
    mov eax, offset on_first
    call idt_set
    mov edi, SECOND_VECTOR
    mov eax, offset on_second
    call idt_set
    mov edi, TIMER_VECTOR
    mov eax, offset on_timer
    call idt_set
    mov edi, FAULT_VECTOR
    mov eax, offset on_fault
    call idt_set
    call idt_load
    mov edx, APIC
    mov dword ptr [rdx + APIC_SVR], 0x1FF
    call prepare_card
    cmp ebx, -1
    lea rsi, [rip + none_text]
    je .say

    ; the table: an entry is the vector (23:16), present (0), and whose it is (79:64, checked as 83:82 say)
    mov edi, TABLE
    mov ecx, 4096 / 8
    xor eax, eax
    cld
    rep stosq
    mov qword ptr [TABLE + CARD_ENTRY * 16], FIRST_VECTOR << 16 | 1
    mov eax, ebx                        ; the card
    or eax, 1 << 18
    mov [TABLE + CARD_ENTRY * 16 + 8], rax
    mov qword ptr [TABLE + OTHERS_ENTRY * 16], FIRST_VECTOR << 16 | 1
    mov qword ptr [TABLE + OTHERS_ENTRY * 16 + 8], 1 << 18 | OTHERS_ID
    mov qword ptr [TABLE + TIMER_ENTRY * 16], TIMER_VECTOR << 16 | 1
    mov qword ptr [TABLE + TIMER_ENTRY * 16 + 8], 1 << 18 | IO_APIC_ID

    ; the unit: its fault interrupt, which no table remaps; the queue; the table; and on
    mov dword ptr [r14 + VTD_FEDATA], FAULT_VECTOR
    mov eax, APIC                       ; as an address of messages: the processor with APIC id 0
    mov [r14 + VTD_FEADDR], eax
    mov dword ptr [r14 + VTD_FEUADDR], 0
    mov dword ptr [r14 + VTD_FECTL], 0
    mov qword ptr [r14 + VTD_IQT], 0
    mov eax, QUEUE
    mov [r14 + VTD_IQA], rax
    mov eax, GCMD_QIE
    call command
    mov eax, TABLE | 7                  ; 2^(7 + 1) entries
    mov [r14 + VTD_IRTA], rax
    mov eax, GCMD_SIRTP
    call command
    call forget
    mov eax, GCMD_IRE
    call command
    lea rsi, [rip + on_text]
    mov eax, [r14 + VTD_GSTS]
    call number

    ; the card
    lea rsi, [rip + frame_text]
    mov eax, REMAPPABLE | CARD_ENTRY << 5
    xor edx, edx
    call let_card_send
    mov byte ptr [TABLE + CARD_ENTRY * 16 + 2], SECOND_VECTOR
    lea rsi, [rip + stale_text]
    call send_frame
    call forget
    lea rsi, [rip + fresh_text]
    call send_frame
    lea rsi, [rip + direct_text]
    mov eax, APIC                       ; as without a unit
    mov edx, FIRST_VECTOR
    call let_card_send
    lea rsi, [rip + others_text]
    mov eax, REMAPPABLE | OTHERS_ENTRY << 5
    xor edx, edx
    call let_card_send

    ; the timer: an entry of the I/O APIC in remappable format has the table entry's number in its bits 63:49
    lea rsi, [rip + timer_text]
    call print
    mov dword ptr [rip + event], 0
    mov edx, IO_APIC
    mov dword ptr [rdx], 0x11 + 2 * TIMER_PIN
    mov dword ptr [rdx + 0x10], TIMER_ENTRY << 17 | 1 << 16
    mov dword ptr [rdx], 0x10 + 2 * TIMER_PIN
    mov dword ptr [rdx + 0x10], TIMER_PIN       ; not masked
    mov al, 0x30                        ; counter 0 of the 8254: down to 0, once
    out 0x43, al
    mov al, 0
    out 0x40, al
    mov al, 4
    out 0x40, al
    call report

    lea rsi, [rip + end_text]
.say:
    call print
    jmp power_off

; Everything the unit has cached of the table is invalid.
forget:
    mov eax, 0x04
    xor edx, edx
    call queue
    jmp wait_for_queue

; ---- the card ---------------------------------------------------------------------------------------------------

prepare_card:                           ; EBX = the function, R12 = its registers, R15 = its MSI-X table
    mov eax, NIC_ID
    call pci_find
    cmp ebx, -1
    je .none
    mov ecx, PCI_COMMAND
    mov eax, 6                          ; answer at the BARs, and send
    call pci_write
    mov ecx, PCI_BAR0
    call pci_read
    and eax, 0xFFFFFFF0
    mov r12d, eax
    mov al, CAPABILITY_MSIX
    call pci_capability
    mov r13d, ecx
    add ecx, 4
    call pci_read                       ; 2:0 which BAR, the rest is the offset in it
    mov r15d, eax
    and r15d, 0xFFFFFFF8
    and eax, 7
    lea ecx, [rax * 4 + PCI_BAR0]
    call pci_read
    and eax, 0xFFFFFFF0
    add r15d, eax
    mov ecx, r13d
    call pci_read
    or eax, 0x80000000                  ; message control is the upper half: enabled
    call pci_write
    mov eax, TX_RING
    mov [r12 + TX_BASE], rax
    mov dword ptr [r12 + TX_SIZE], 8
    mov eax, RX_RING
    mov [r12 + RX_BASE], rax
    mov dword ptr [r12 + RX_SIZE], 8
    mov dword ptr [r12 + NIC_ENABLE], 1
    mov dword ptr [r12 + NIC_CONTROL], 1
.none:
    ret

; The card's message is to EAX (address) with EDX (data) from now on; then as send_frame.
let_card_send:
    mov dword ptr [r15 + 12], 1         ; masked while it changes
    mov [r15], eax
    mov dword ptr [r15 + 4], 0
    mov [r15 + 8], edx
    mov dword ptr [r15 + 12], 0

; A frame goes out, RSI says which; then what its interrupt became.
send_frame:
    call print
    mov dword ptr [rip + event], 0
    mov eax, [r12 + TX_TAIL]
    mov ecx, eax
    shl ecx, 4
    mov qword ptr [rcx + TX_RING], FRAME
    mov dword ptr [rcx + TX_RING + D_LENGTH], 64
    mov dword ptr [rcx + TX_RING + D_FLAGS], END + WANTS_INTERRUPT
    inc eax
    and eax, 7
    mov [r12 + TX_TAIL], eax
    call report
    mov dword ptr [r12 + NIC_CAUSE], 1
    ret

; Sleeps until something comes, and says what.
report:
    cli
    cmp dword ptr [rip + event], 0
    jne .told
    sti
    hlt
    jmp report
.told:
    sti
    cmp dword ptr [rip + event], FAULT_VECTOR
    je .fault
    lea rsi, [rip + vector_text]
    mov eax, [rip + event]
    jmp number
.fault:
    lea rsi, [rip + reason_text]
    movzx eax, byte ptr [rip + record + 12]
    call number
    lea rsi, [rip + entry_text]
    movzx eax, word ptr [rip + record + 6]
    call number
    lea rsi, [rip + source_text]
    movzx eax, word ptr [rip + record + 8]
    jmp number

on_first:
    mov dword ptr [rip + event], FIRST_VECTOR
    jmp handled
on_second:
    mov dword ptr [rip + event], SECOND_VECTOR
    jmp handled
on_timer:
    mov dword ptr [rip + event], TIMER_VECTOR
    jmp handled
on_fault:                               ; keep the record, and give it back
    push rax
    push rcx
    mov eax, [r14 + VTD_FSTS]           ; 15:8 which of the records it is
    movzx ecx, ah
    shl ecx, 4
    mov rax, [r14 + rcx + VTD_FRCD]
    mov [rip + record], rax
    mov rax, [r14 + rcx + VTD_FRCD + 8]
    mov [rip + record + 8], rax
    mov eax, 1 << 31                    ; its F bit: written 1, it is clear
    mov [r14 + rcx + VTD_FRCD + 12], eax
    mov dword ptr [rip + event], FAULT_VECTOR
    pop rcx
    pop rax
handled:
    push rax
    mov eax, APIC
    mov dword ptr [rax + APIC_EOI], 0
    pop rax
    iretq

number:                                 ; RSI = what it is; RAX = its value
    call print
    call print_hex
    mov al, '\n'
    jmp putc

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/pci64.inc"
.include "lib/vtd64.inc"

none_text:   .asciz "there is no network card on the PCI bus\n"
on_text:     .asciz "interrupts are remapped, status "
frame_text:  .asciz "a frame, by entry 5: "
stale_text:  .asciz "behind a changed entry: "
fresh_text:  .asciz "behind the invalidation: "
direct_text: .asciz "a message that names its vector: "
others_text: .asciz "an entry that is another device's: "
timer_text:  .asciz "the timer, by entry 7: "
vector_text: .asciz "vector "
reason_text: .asciz "refused, reason "
entry_text:  .asciz "  entry "
source_text: .asciz "  of device "
end_text:    .asciz "every interrupt was the table's\n"
.align 8
record:      .quad 0, 0
event:       .long 0

; ring: a network card of the partition's own, found on the PCI bus of its PC.
;
; Shows: what a driver does, from the bus to the interrupt: find the function, let it answer and send, write its MSI-X
; table, give it rings of descriptors. Configuration space and the MSI-X table are the parent's (each access is a VM
; exit); the card's registers and rings are reached without one. The frame is sent in three pieces and comes back in two
; buffers, as the card is in loopback. Needs a PC board: hv run ring --pc --device ring
; Read:  PCI "Configuration Space", "MSI-X"; machine/ring_nic.py has the card's registers.

.include "lib/machine.inc"
.include "lib/ring_nic.inc"

SENT_VECTOR     = 0x51          ; ours to choose: the parent turns what we write into something the card may send
RECEIVED_VECTOR = 0x52
ERROR_VECTOR    = 0x53
TX_RING         = 0x300000
RX_RING         = 0x301000
FRAME           = 0x302000
BUFFERS         = 0x310000      ; of BUFFER_SIZE each
BUFFER_SIZE     = 1024
LENGTH          = 1500

.bits 64
.org 0x10000
.entry start

start:
    mov edi, SENT_VECTOR
    mov eax, offset on_sent
    call idt_set
    mov edi, RECEIVED_VECTOR
    mov eax, offset on_received
    call idt_set
    mov edi, ERROR_VECTOR
    mov eax, offset on_error
    call idt_set
    call idt_load
    mov edx, APIC
    mov dword ptr [rdx + APIC_SVR], 0x1FF

    ; the function
    mov eax, NIC_ID
    call pci_find               ; EBX = the function, from here on
    lea rsi, [rip + none_text]
    cmp ebx, -1
    je .say
    lea rsi, [rip + found_text]
    call print
    mov eax, ebx
    call print_hex
    mov ecx, PCI_COMMAND
    mov eax, 6                  ; answer at the BARs, and send
    call pci_write
    mov ecx, PCI_BAR0
    call pci_read
    and eax, 0xFFFFFFF0
    mov r12d, eax               ; R12 = the card's registers
    lea rsi, [rip + bar_text]
    call print
    call print_hex

    ; its interrupts: MSI-X, whose table is in a BAR too
    mov al, CAPABILITY_MSIX
    call pci_capability
    mov r13d, ecx               ; R13 = the capability
    add ecx, 4
    call pci_read               ; 2:0 which BAR, the rest is the offset in it
    mov edx, eax
    and edx, 0xFFFFFFF8
    and eax, 7
    lea ecx, [rax * 4 + PCI_BAR0]
    call pci_read
    and eax, 0xFFFFFFF0
    add edx, eax                ; EDX = the table
    mov eax, SENT_VECTOR
    mov ecx, 3
.entry:
    mov dword ptr [rdx], APIC   ; address: the processor with APIC id 0
    mov dword ptr [rdx + 4], 0
    mov dword ptr [rdx + 8], eax
    mov dword ptr [rdx + 12], 0 ; not masked
    add edx, 16
    inc eax
    dec ecx
    jnz .entry
    mov ecx, r13d
    call pci_read
    or eax, 0x80000000          ; message control is the upper half: enabled
    call pci_write

    ; receive ring: buffers, all given
    mov edi, RX_RING
    mov eax, BUFFERS
    mov ecx, 7
.buffer:
    mov [rdi], rax
    mov dword ptr [rdi + D_LENGTH], BUFFER_SIZE
    mov dword ptr [rdi + D_FLAGS], 0
    add eax, BUFFER_SIZE
    add edi, 16
    dec ecx
    jnz .buffer
    mov eax, TX_RING
    mov [r12 + TX_BASE], rax
    mov dword ptr [r12 + TX_SIZE], 8
    mov eax, RX_RING
    mov [r12 + RX_BASE], rax
    mov dword ptr [r12 + RX_SIZE], 8
    mov dword ptr [r12 + NIC_ENABLE], 7
    mov dword ptr [r12 + NIC_CONTROL], 3    ; enabled, loopback
    mov dword ptr [r12 + RX_TAIL], 7

    ; the frame, and the scatter list of it
    mov edi, FRAME
    mov ecx, LENGTH
    mov al, 7
.fill:
    mov [rdi], al
    add al, 31
    inc rdi
    dec ecx
    jnz .fill
    lea rsi, [rip + pieces]
    mov edi, TX_RING
    mov ecx, 6                  ; three descriptors, in quadwords
    cld
    rep movsq
    mov dword ptr [r12 + TX_TAIL], 3        ; the doorbell

.wait:
    cli
    cmp dword ptr [rip + errors], 0
    jne .report
    cmp dword ptr [rip + sent], 0
    je .sleep
    cmp dword ptr [rip + received], 0
    jne .report
.sleep:
    sti
    hlt
    jmp .wait

.report:
    lea rsi, [rip + counts_text]
    call print
    mov eax, [rip + sent]
    call print_dec
    mov al, '/'
    call putc
    mov eax, [rip + received]
    call print_dec
    mov al, '/'
    call putc
    mov eax, [rip + errors]
    call print_dec
    lea rsi, [rip + buffers_text]
    call print
    mov eax, [RX_RING + D_LENGTH]
    call print_dec
    mov al, '+'
    call putc
    mov eax, [RX_RING + 16 + D_LENGTH]
    call print_dec

    mov esi, FRAME              ; the buffers follow one another, so the frame is in one piece again
    mov edi, BUFFERS
    mov ecx, LENGTH
    cld
    repe cmpsb
    lea rsi, [rip + bad_text]
    jne .say
    cmp word ptr [TX_RING + 32 + D_STATUS], 1
    jne .say
    lea rsi, [rip + good_text]
.say:
    call print
    jmp power_off

; Each handler clears its cause in the card, counts, and ends the interrupt.
on_sent:
    push rax
    mov eax, 1
    inc dword ptr [rip + sent]
    jmp handled
on_received:
    push rax
    mov eax, 2
    inc dword ptr [rip + received]
    jmp handled
on_error:
    push rax
    mov eax, 4
    inc dword ptr [rip + errors]
handled:
    mov [r12 + NIC_CAUSE], eax
    mov eax, APIC
    mov dword ptr [rax + APIC_EOI], 0
    pop rax
    iretq

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/pci64.inc"

.align 8
pieces:                         ; address; length; flags and status
    .quad FRAME
    .long 14, 0
    .quad FRAME + 14
    .long 1000, 0
    .quad FRAME + 1014
    .long LENGTH - 1014, END + WANTS_INTERRUPT
sent:         .long 0
received:     .long 0
errors:       .long 0
none_text:    .asciz "there is no network card on the PCI bus\n"
found_text:   .asciz "network card at "
bar_text:     .asciz ", its registers at "
counts_text:  .asciz "\nsent/received/errors: "
buffers_text: .asciz ", buffers filled: "
good_text:    .asciz ", the frame came back\n"
bad_text:     .asciz ", the frame did NOT come back\n"

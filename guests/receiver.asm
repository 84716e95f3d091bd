; receiver: takes five messages from the other partition.
;
; Shows: the SynIC. A message is copied into slot 2 of the message page, then vector 0x40 is raised; while the slot is
; full the next message waits, until the guest empties the slot and writes EOM.
; Read:  TLFS "Virtual Interrupt Control", "SynIC Message Buffers", "SINTx Registers".

.include "lib/machine.inc"

MESSAGES = 5
VECTOR   = 0x40
SLOT     = SIMP_PAGE + 2 * 256          ; SINT2's slot: type u32, size u8, flags u8, reserved u16, sender u64, payload

.bits 64
.org 0x10000
.entry start

start:
    mov edi, VECTOR
    mov eax, offset on_message
    mov ecx, HV_SINT2
    call synic_on
    lea rsi, [rip + ready_text]
    call print

.wait:
    cli
    cmp dword ptr [rip + count], MESSAGES
    jae .done
    sti                                 ; shields the HLT: an interrupt cannot slip in between
    hlt
    jmp .wait
.done:
    lea rsi, [rip + done_text]
    call print
    jmp power_off

on_message:
    push rax
    push rcx
    push rdx
    push rsi
    mov esi, SLOT
    cmp dword ptr [rsi], 0
    je .empty                           ; a spurious one
    push rsi
    lea rsi, [rip + message_text]
    call print
    pop rsi
    mov rax, [rsi + 16]                 ; first eight bytes of payload
    call print_dec
    mov al, ' '
    call putc
    mov rax, [rsi + 24]                 ; then eight letters
    mov ecx, 8
.letter:
    call putc
    shr rax, 8
    dec ecx
    jnz .letter
    mov al, '\n'
    call putc
    inc dword ptr [rip + count]

    mov dword ptr [rsi], 0              ; empty the slot,
    mfence                              ; and only then look whether another message waits
    test byte ptr [rsi + 5], 1          ; MessagePending
    jz .empty
    mov ecx, HV_EOM
    xor eax, eax
    xor edx, edx
    wrmsr
.empty:
    mov ecx, HV_EOI                     ; the enlightened EOI: one MSR write
    xor eax, eax
    xor edx, edx
    wrmsr
    pop rsi
    pop rdx
    pop rcx
    pop rax
    iretq

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/hypercall64.inc"
.include "lib/synic64.inc"

ready_text:   .asciz "waiting for messages\n"
message_text: .asciz "got message "
done_text:    .asciz "all messages are here\n"
.align 4
count: .long 0

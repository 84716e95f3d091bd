; dma: a real device of the partition's own copies memory and interrupts.
;
; Shows: an assigned device: its registers are reached without an exit to the parent; its DMA goes through the IOMMU's
; tables of this partition; its MSI goes through interrupt remapping to this partition's virtual APIC.
; Read:  VT-d "DMA Remapping", "Interrupt Remapping"; machine/dma_engine.py has the device's registers.

.include "lib/machine.inc"
.include "lib/dma_engine.inc"

VECTOR      = 0x50              ; docs/guests.md: the loader maps the device's interrupt to it
SOURCE      = 0x300000
DESTINATION = 0x301000
LENGTH      = 64

.bits 64
.org 0x10000
.entry start

start:
    mov rbx, [INFO]             ; the BAR; 0 = this partition has no device
    lea rsi, [rip + none_text]
    test rbx, rbx
    jz .say
    lea rsi, [rip + other_text]
    cmp dword ptr [rbx + REG_ID], 0x45414D44    ; "DMAE", little-endian
    jne .say

    mov edi, VECTOR
    mov eax, offset on_device
    call idt_set
    call idt_load
    mov edx, APIC
    mov dword ptr [rdx + APIC_SVR], 0x1FF

    mov edi, SOURCE             ; something to copy
    mov eax, 0x41
    mov ecx, LENGTH
.fill:
    mov [rdi], al
    inc al
    inc rdi
    dec ecx
    jnz .fill

    mov rax, [INFO + 8]         ; the remappable MSI address and data the hypervisor chose
    mov [rbx + REG_MSI_ADDRESS], eax
    shr rax, 32
    mov [rbx + REG_MSI_ADDRESS + 4], eax
    mov eax, [INFO + 16]
    mov [rbx + REG_MSI_DATA], eax
    mov dword ptr [rbx + REG_MSI_ENABLE], 1
    mov dword ptr [rbx + REG_SOURCE], SOURCE            ; guest-physical: the IOMMU translates them
    mov dword ptr [rbx + REG_SOURCE + 4], 0
    mov dword ptr [rbx + REG_DESTINATION], DESTINATION
    mov dword ptr [rbx + REG_DESTINATION + 4], 0
    mov dword ptr [rbx + REG_LENGTH], LENGTH
    mov dword ptr [rbx + REG_COMMAND], 1                ; go

.wait:
    cli
    cmp dword ptr [rip + count], 0
    jne .compare
    sti
    hlt
    jmp .wait

.compare:
    lea rsi, [rip + status_text]
    call print
    mov eax, [rip + status]
    call print_hex
    mov esi, SOURCE
    mov edi, DESTINATION
    mov ecx, LENGTH
    cld
    repe cmpsb                  ; ZF = 1 when all bytes are equal
    lea rsi, [rip + good_text]
    je .say
    lea rsi, [rip + bad_text]
.say:
    call print
    jmp power_off

on_device:
    push rax
    push rbx
    mov rbx, [INFO]
    mov eax, [rbx + REG_STATUS]
    mov [rip + status], eax
    mov dword ptr [rbx + REG_ACK], 0
    inc dword ptr [rip + count]
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rbx
    pop rax
    iretq

.include "lib/serial64.inc"
.include "lib/idt64.inc"

none_text:   .asciz "this partition has no device\n"
other_text:  .asciz "the device is not a DMA engine\n"
status_text: .asciz "interrupt taken, device status "
good_text:   .asciz ", the bytes are in place\n"
bad_text:    .asciz ", the bytes are NOT in place\n"
.align 4
count:  .long 0
status: .long 0

; neighbour: the other partition of lab 10. It never sleeps, and its driver does what no driver should.
;
; It asks its own device for interrupts by the handle of yours, which the IOMMU refuses, then by its own: that one comes
; here, by vector 0x50, as yours comes to you. Three times it signals event flag 3 through connection 1, the only way it
; has to interrupt you. In between it computes, without an exit, so that what is yours arrives while it runs.

.include "lib/machine.inc"
.include "lib/dma_engine.inc"

VECTOR = 0x50
SIGNAL = 0x1005D                        ; HvCallSignalEvent, fast: parameters in registers
FLAG   = 3
ROUNDS = 3

.bits 64
.org 0x10000
.entry start

start:
    mov r15, [INFO]                     ; the device's registers
    mov edi, VECTOR
    mov eax, offset on_device
    call idt_set
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    call hypercall_init
    sti

    mov eax, [INFO + 8]                 ; the handle of a device before ours: its index is in bits 19:5
    sub eax, 1 << 5
    call copy
    mov eax, [INFO + 8]                 ; and our own
    call copy

    mov r14d, ROUNDS
.round:
    mov ecx, 200000
    call compute
.again:                                 ; refused as long as nobody listens there
    mov ecx, 20000
    call compute
    mov ecx, SIGNAL
    mov rdx, 1 | FLAG << 32             ; connection 1
    xor r8d, r8d
    mov eax, HYPERCALL_PAGE
    call rax
    test ax, ax
    jnz .again
    dec r14d
    jnz .round
    mov ecx, 1000000
    call compute
    cli
    hlt

copy:                                   ; EAX = MSI address; the device copies 64 bytes, and we compute meanwhile
    mov [r15 + REG_MSI_ADDRESS], eax
    mov dword ptr [r15 + REG_MSI_ADDRESS + 4], 0
    mov eax, [INFO + 16]
    mov [r15 + REG_MSI_DATA], eax
    mov dword ptr [r15 + REG_MSI_ENABLE], 1
    mov dword ptr [r15 + REG_ACK], 0
    mov qword ptr [r15 + REG_SOURCE], 0x300000
    mov qword ptr [r15 + REG_DESTINATION], 0x301000
    mov dword ptr [r15 + REG_LENGTH], 64
    mov dword ptr [r15 + REG_COMMAND], 1
    mov ecx, 20000
compute:                                ; ECX rounds of nothing that anybody else sees
    dec ecx
    jnz compute
    ret

on_device:
    push rbx
    mov dword ptr [r15 + REG_ACK], 0
    lock inc dword ptr [own]
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rbx
    iretq

.include "lib/idt64.inc"
.include "lib/hypercall64.inc"

.org 0x210000
own: .long 0                            ; interrupts of our own device

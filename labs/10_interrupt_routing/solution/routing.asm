; Interrupt routing: a solution.
;
; Two partitions, two devices, and one processor that runs both. What your device has to say arrives while the neighbour
; runs; what its device says is not for you.
;
; `hv lab check` says how far you are; `hv lab hint` helps; docs/guests.md has the language.

.include "lib/machine.inc"
.include "lib/dma_engine.inc"       ; REG_MSI_ADDRESS, REG_MSI_DATA, REG_MSI_ENABLE, REG_ACK and the others

DEVICE = 0x50                       ; the vector by which your device reaches you: the hypervisor chose it
EVENT  = 0x61                       ; the vector for events of the neighbour, by SINT2
FLAG   = 3                          ; the event flag that the neighbour sets

.bits 64
.org 0x10000
.entry start

start:
    mov edi, DEVICE                 ; 1. both vectors have a handler
    mov eax, offset on_device
    call idt_set
    mov edi, EVENT
    mov eax, offset on_event
    call idt_set
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    call hypercall_init

    mov r15, [INFO]                 ; 2. the device signals with the handle that it was given
    mov eax, [INFO + 8]
    mov [r15 + REG_MSI_ADDRESS], eax
    mov dword ptr [r15 + REG_MSI_ADDRESS + 4], 0
    mov eax, [INFO + 16]
    mov [r15 + REG_MSI_DATA], eax
    mov dword ptr [r15 + REG_MSI_ENABLE], 1

    mov ecx, HV_SINT2               ; 3. SINT2 interrupts with EVENT; its flags are in SIEFP_PAGE
    mov eax, EVENT
    xor edx, edx
    wrmsr
    mov ecx, HV_SIEFP
    mov eax, SIEFP_PAGE | 1
    wrmsr
    mov ecx, HV_SCONTROL
    mov eax, 1
    wrmsr

    call copy                       ; given: the first copy; the second when the first has interrupted
.wait:
    cli
    cmp dword ptr [copies], 2
    jb .sleep
    cmp dword ptr [events], 3
    jae .done
.sleep:
    sti                             ; shields the HLT: an interrupt cannot slip in between the two
    hlt
    jmp .wait
.done:
    hlt                             ; with interrupts off: the end

on_device:                          ; 4. the device has copied
    push rbx
    mov dword ptr [r15 + REG_ACK], 0
    inc dword ptr [copies]
    cmp dword ptr [copies], 2
    jae .end
    call copy
.end:
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rbx
    iretq

on_event:                           ; 5. the neighbour has signalled
    push rbx
    lock btr dword ptr [SIEFP_PAGE + 2 * 256], FLAG
    inc dword ptr [events]
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rbx
    iretq

copy:                               ; given: starts a copy of 64 KiB, and does not wait
    mov qword ptr [r15 + REG_SOURCE], 0x300000
    mov qword ptr [r15 + REG_DESTINATION], 0x400000
    mov dword ptr [r15 + REG_LENGTH], 0x10000
    mov dword ptr [r15 + REG_COMMAND], 1
    ret

.include "lib/idt64.inc"
.include "lib/hypercall64.inc"

.org 0x210000
copies: .long 0                     ; interrupts of your device
events: .long 0                     ; events of the neighbour

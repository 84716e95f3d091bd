; Interrupt routing.
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
    ; 1. both vectors get a handler, `on_device` and `on_event`

    call idt_load
    ; 1. and the APIC is switched on: 0x1FF to APIC_SVR

    call hypercall_init

    mov r15, [INFO]                 ; where the device's registers are
    ; 2. the device signals as [INFO + 8] and [INFO + 16] say

    ; 3. SINT2 interrupts with EVENT, its flags are in SIEFP_PAGE, and the SynIC is on

    call copy                       ; given: the first copy; the second when the first has interrupted
.wait:
    cli
    cmp dword ptr [copies], 2
    jb .sleep
    cmp dword ptr [events], 3
    jae .done
.sleep:
    ; 6. let interrupts come, and sleep until one has

    jmp .wait
.done:
    hlt                             ; with interrupts off: the end

on_device:                          ; the device has copied
    push rbx
    ; 4. acknowledge to the device, count in [copies], call `copy` again if that was the first, and end the interrupt

    pop rbx
    iretq

on_event:                           ; the neighbour has signalled
    push rbx
    ; 5. clear the flag, count in [events], and end the interrupt

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

; viommu: a guest brings up an IOMMU of its own, and decides itself what its device may reach.
;
; Run:   hv run guests/viommu.asm --device --viommu
; Shows: the order in which an operating system starts a remapping unit: fault interrupt, queue, root table, caches,
; interrupt table, translation. Then a copy through a table of ours; a copy from an address that the table does not have,
; the record of that fault and its interrupt; a changed entry that the unit does not know of until we invalidate it.
; Read:  VT-d "DMA Remapping", "Invalidation Queue", "Fault Logging"; docs/iommu.md has a picture of the tables.
;        Compare device_domain.asm, which asks the hypervisor by hypercalls instead.

.include "lib/machine.inc"
.include "lib/dma_engine.inc"
.include "lib/vtd.inc"

DEVICE_VECTOR = 0x50            ; docs/guests.md: the loader maps the device's interrupt to it
FAULT_VECTOR  = 0x62
SOURCE        = 0x300000        ; pages of ours
FIRST         = 0x301000
SECOND        = 0x302000
ROOT_TABLE    = 0x310000        ; 256 buses, 16 bytes each
CONTEXT_TABLE = 0x311000        ; 256 functions of bus 0, 16 bytes each
LEVEL_3       = 0x312000        ; three levels: 39 bits of address
LEVEL_2       = 0x313000
LEVEL_1       = 0x314000
QUEUE         = 0x315000        ; 256 descriptors of 16 bytes
STATUS        = 0x316000        ; what a wait descriptor writes
INTERRUPTS    = 0x317000        ; interrupt remapping table, 256 entries
IOVA          = 0x40000000      ; how the device shall see SOURCE; the page behind is where it shall write
LENGTH        = 64
HIGH_PD       = 0x74000         ; the loader's page directory of the fourth GiB
REGISTERS_2M  = VTD_BASE & 0xFFE00000
DOMAIN        = 7
READ_WRITE    = 3

.bits 64
.org 0x10000
.entry start

start:
    mov r15, [INFO]             ; the device's BAR
    test r15, r15
    lea rsi, [rip + none_text]
    jz .say
    mov rax, REGISTERS_2M | 0x93        ; present, writable, uncached, large: the loader has not mapped them
    bts rax, 63                         ; and no code
    mov [HIGH_PD + (REGISTERS_2M >> 21 & 511) * 8], rax
    mov r14d, VTD_BASE
    mov eax, [r14 + VTD_VER]
    lea rsi, [rip + version_text]
    call number
    mov edi, DEVICE_VECTOR
    mov eax, offset on_device
    call idt_set
    mov edi, FAULT_VECTOR
    mov eax, offset on_fault
    call idt_set
    call idt_load
    mov edx, APIC
    mov dword ptr [rdx + APIC_SVR], 0x1FF
    call prepare_device
    call build_tables

    ; the fault interrupt: mask it, say which message it is, unmask
    mov eax, 1 << 31
    mov [r14 + VTD_FECTL], eax
    mov dword ptr [r14 + VTD_FEDATA], FAULT_VECTOR
    mov dword ptr [r14 + VTD_FEADDR], 0xFEE00000
    mov dword ptr [r14 + VTD_FEUADDR], 0
    mov dword ptr [r14 + VTD_FECTL], 0

    ; the invalidation queue
    mov qword ptr [r14 + VTD_IQT], 0
    mov eax, QUEUE
    mov [r14 + VTD_IQA], rax
    mov eax, GCMD_QIE
    call command

    ; the root table; what the unit has cached of another one is invalid
    mov eax, ROOT_TABLE
    mov [r14 + VTD_RTADDR], rax
    mov eax, GCMD_SRTP
    call command
    mov eax, 0x11               ; context cache, all
    xor edx, edx
    call queue
    mov eax, 0x12               ; IOTLB, all
    xor edx, edx
    call queue
    call wait_for_queue

    ; interrupt remapping, the same way
    mov eax, INTERRUPTS | 7     ; 2^(7 + 1) entries
    mov [r14 + VTD_IRTA], rax
    mov eax, GCMD_SIRTP
    call command
    mov eax, 0x04               ; interrupt entry cache, all
    xor edx, edx
    call queue
    call wait_for_queue
    mov eax, GCMD_IRE
    call command

    mov eax, GCMD_TE
    call command
    lea rsi, [rip + on_text]
    mov eax, [r14 + VTD_GSTS]
    call number

    mov rax, IOVA
    lea rsi, [rip + inside_text]
    call copy
    mov edi, FIRST
    call compare

    mov eax, SOURCE             ; our own address of it: the table has no such page
    lea rsi, [rip + outside_text]
    call copy
    call wait_for_fault

    ; another page behind the same address: nothing changes ...
    mov edi, FIRST
    call clear_page
    mov qword ptr [LEVEL_1 + 8], SECOND | READ_WRITE
    mov rax, IOVA
    lea rsi, [rip + stale_text]
    call copy
    mov edi, FIRST
    call compare
    ; ... until the unit is told
    mov eax, 0x32 | DOMAIN << 16        ; IOTLB, pages of a domain
    mov rdx, IOVA + 0x1000              ; this one
    call queue
    call wait_for_queue
    mov rax, IOVA
    lea rsi, [rip + fresh_text]
    call copy
    mov edi, SECOND
    call compare
    lea rsi, [rip + end_text]
.say:
    call print
    jmp power_off

; ---- the unit ---------------------------------------------------------------------------------------------------

; Root entry of bus 0, context entry of the device, three levels for two pages.
build_tables:
    mov edi, ROOT_TABLE
    mov ecx, 0x8000 / 8
    xor eax, eax
    cld
    rep stosq
    mov qword ptr [ROOT_TABLE], CONTEXT_TABLE | 1
    movzx ebx, byte ptr [INFO + 40]     ; the device's requester id: its function on bus 0
    shl ebx, 4
    mov qword ptr [rbx + CONTEXT_TABLE], LEVEL_3 | 1
    mov qword ptr [rbx + CONTEXT_TABLE + 8], DOMAIN << 8 | 1    ; 39 bits
    mov qword ptr [LEVEL_3 + 8], LEVEL_2 | READ_WRITE           ; IOVA is the second GiB
    mov qword ptr [LEVEL_2], LEVEL_1 | READ_WRITE
    mov qword ptr [LEVEL_1], SOURCE | READ_WRITE
    mov qword ptr [LEVEL_1 + 8], FIRST | READ_WRITE
    ret

; ---- the device -------------------------------------------------------------------------------------------------

prepare_device:
    mov rax, [INFO + 8]         ; its message, as the hypervisor chose it
    mov [r15 + REG_MSI_ADDRESS], eax
    mov dword ptr [r15 + REG_MSI_ADDRESS + 4], 0
    mov eax, [INFO + 16]
    mov [r15 + REG_MSI_DATA], eax
    mov dword ptr [r15 + REG_MSI_ENABLE], 1
    mov rax, 0x756D6D6F69206E61 ; "an iommu"
    mov edi, SOURCE
    mov ecx, LENGTH / 8
    cld
    rep stosq
    ret

; The device copies from RAX to the page behind IOVA; RSI says which copy that is. Sleeps until its interrupt.
copy:
    call print
    mov [r15 + REG_SOURCE], eax
    mov dword ptr [r15 + REG_SOURCE + 4], 0
    mov dword ptr [r15 + REG_DESTINATION], IOVA + 0x1000
    mov dword ptr [r15 + REG_DESTINATION + 4], 0
    mov dword ptr [r15 + REG_LENGTH], LENGTH
    mov dword ptr [rip + finished], 0
    mov dword ptr [r15 + REG_COMMAND], 1
.wait:
    cli
    cmp dword ptr [rip + finished], 0
    jne .told
    sti
    hlt
    jmp .wait
.told:
    sti
    test dword ptr [rip + seen], 4      ; error
    lea rsi, [rip + done_text]
    jz .end
    lea rsi, [rip + refused_text]
.end:
    jmp print

; Is at EDI what the device was to copy?
compare:
    mov rax, [rdi]
    lea rsi, [rip + here_text]
    cmp rax, [SOURCE]
    je .say
    lea rsi, [rip + not_here_text]
.say:
    call print
    mov eax, edi
    lea rsi, [rip + empty_text]
    jmp number

clear_page:
    mov ecx, 4096 / 8
    xor eax, eax
    cld
    rep stosq
    ret

wait_for_fault:
    cli
    cmp dword ptr [rip + faults], 0
    jne .told
    sti
    hlt
    jmp wait_for_fault
.told:
    sti
    lea rsi, [rip + reason_text]
    movzx eax, byte ptr [rip + record + 12]
    call number
    lea rsi, [rip + address_text]
    mov rax, [rip + record]
    call number
    lea rsi, [rip + source_text]
    movzx eax, word ptr [rip + record + 8]
    call number
    ret

on_device:
    push rax
    mov eax, [r15 + REG_STATUS]
    mov [rip + seen], eax
    mov dword ptr [r15 + REG_ACK], 0
    inc dword ptr [rip + finished]
    jmp end_of_interrupt

on_fault:                       ; keep the record, and give it back
    push rax
    mov rax, [r14 + VTD_FRCD]
    mov [rip + record], rax
    mov rax, [r14 + VTD_FRCD + 8]
    mov [rip + record + 8], rax
    mov eax, 1 << 31            ; its F bit: written 1, it is clear
    mov [r14 + VTD_FRCD + 12], eax
    inc dword ptr [rip + faults]
end_of_interrupt:
    mov eax, APIC
    mov dword ptr [rax + APIC_EOI], 0
    pop rax
    iretq

number:                         ; RSI = what it is; RAX = its value
    call print
    call print_hex
    mov al, '\n'
    jmp putc

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/vtd64.inc"

none_text:     .asciz "this partition has no device\n"
version_text:  .asciz "the IOMMU has version "
on_text:       .asciz "it is on, status "
inside_text:   .asciz "a copy through our table: "
outside_text:  .asciz "a copy from an address it does not have: "
stale_text:    .asciz "a copy behind a changed entry: "
fresh_text:    .asciz "a copy behind the invalidation: "
done_text:     .asciz "done\n"
refused_text:  .asciz "refused\n"
here_text:     .asciz "the bytes are at "
not_here_text: .asciz "the bytes are NOT at "
empty_text:    .asciz ""
reason_text:   .asciz "a fault was recorded, reason "
address_text:  .asciz "address "
source_text:   .asciz "of device "
end_text:      .asciz "the guest has had its own IOMMU\n"
.align 8
record:   .quad 0, 0
finished: .long 0
faults:   .long 0
seen:     .long 0

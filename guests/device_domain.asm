; device_domain: a guest's own IOMMU driver: its device sees one page of its memory, and nothing else.
;
; Run:   hv run guests/device_domain.asm --device
; Shows: what device domains there are; a domain made, with two pages mapped at addresses of our choice; the device put
; into it by hypercall; a copy through it; a copy from an address that we have (but the device has not any more), which
; the IOMMU refuses; its interrupt on another vector, by HvCallRetargetDeviceInterrupt; all of it taken back.
; Read:  TLFS "Device Domains"; hv/hypervisor/devices/explicit_domain.py.
;        Compare dma.asm, whose device sees all of its memory.

.include "lib/machine.inc"
.include "lib/dma_engine.inc"

FIRST_VECTOR = 0x50             ; docs/guests.md: the loader maps the device's interrupt to it
VECTOR       = 0x61             ; and we want it here
SOURCE       = 0x300000         ; what we have
DESTINATION  = 0x301000
SECRET       = 0x302000
IOVA         = 0x7000000000     ; how the device shall see SOURCE; DESTINATION is the page behind
LENGTH       = 64
PCI          = 1 << 62          ; HV_DEVICE_ID of a PCI function: its requester id, and the type
DOMAIN       = 1                ; HV_DEVICE_DOMAIN_ID: our number in the upper half, type 0 is stage 2
ONE_REP      = 1 << 32
TWO_REPS     = 2 << 32
RETARGET     = 0x7E             ; call codes
CREATE       = 0xB1
ATTACH       = 0xB2
MAP          = 0xB3
UNMAP        = 0xB4
DETACH       = 0xC4
DELETE       = 0xC5
CAPABILITIES = 0x125
READ_WRITE   = 3

.bits 64
.org 0x10000
.entry start

start:
    mov r15, [INFO]             ; the BAR
    test r15, r15
    lea rsi, [rip + none_text]
    jz .say
    call hypercall_init
    mov edi, VECTOR
    mov eax, offset on_device
    call idt_set
    mov edi, FIRST_VECTOR
    mov eax, offset on_wrong
    call idt_set
    call idt_load
    mov edx, APIC
    mov dword ptr [rdx + APIC_SVR], 0x1FF
    mov rax, [INFO + 8]         ; the MSI the hypervisor chose
    mov [r15 + REG_MSI_ADDRESS], eax
    mov dword ptr [r15 + REG_MSI_ADDRESS + 4], 0
    mov eax, [INFO + 16]
    mov [r15 + REG_MSI_DATA], eax
    mov dword ptr [r15 + REG_MSI_ENABLE], 1
    mov rax, 0x6E69616D6F642061 ; "a domain"
    mov [SOURCE], rax
    mov [SECRET], rax

    call clear_input            ; may we make domains?
    mov qword ptr [INPUT_PAGE], -1
    mov ecx, CAPABILITIES
    call hypercall
    lea rsi, [rip + capabilities_text]
    call status
    lea rsi, [rip + width_text]
    call print
    movzx eax, byte ptr [OUTPUT_PAGE + 6]
    call print_dec
    mov al, '\n'
    call putc

    call retarget_input         ; the interrupt to VECTOR of VP 0
    mov ecx, RETARGET
    call hypercall
    lea rsi, [rip + retarget_text]
    call status

    call domain_input           ; a domain, empty
    mov ecx, CREATE
    call hypercall
    lea rsi, [rip + create_text]
    call status

    call domain_input           ; two pages of ours in it
    mov dword ptr [INPUT_PAGE + 28], READ_WRITE
    mov rax, IOVA
    mov [INPUT_PAGE + 32], rax
    mov qword ptr [INPUT_PAGE + 40], SOURCE >> 12
    mov qword ptr [INPUT_PAGE + 48], DESTINATION >> 12
    mov rcx, TWO_REPS | MAP
    call hypercall
    lea rsi, [rip + map_text]
    call status

    call domain_input           ; and the device in there
    mov rax, [rip + device]
    mov [INPUT_PAGE + 24], rax
    mov ecx, ATTACH
    call hypercall
    lea rsi, [rip + attach_text]
    call status

    mov rax, IOVA
    lea rsi, [rip + inside_text]
    call copy
    mov rax, [DESTINATION]
    cmp rax, [SOURCE]
    lea rsi, [rip + same_text]
    je .copied
    lea rsi, [rip + other_text]
.copied:
    call print
    mov eax, SECRET             ; our own address of it: the device knows no such thing
    lea rsi, [rip + secret_text]
    call copy

    call domain_input           ; without SOURCE the same copy ends
    mov rax, IOVA
    mov [INPUT_PAGE + 24], rax
    mov rcx, ONE_REP | UNMAP
    call hypercall
    lea rsi, [rip + unmap_text]
    call status
    mov rax, IOVA
    lea rsi, [rip + gone_text]
    call copy

    call domain_input           ; a domain with a device is not deleted
    mov ecx, DELETE
    call hypercall
    lea rsi, [rip + used_text]
    call status
    call clear_input
    mov qword ptr [INPUT_PAGE], -1
    mov rax, [rip + device]
    mov [INPUT_PAGE + 8], rax
    mov ecx, DETACH
    call hypercall
    lea rsi, [rip + detach_text]
    call status
    call domain_input
    mov ecx, DELETE
    call hypercall
    lea rsi, [rip + delete_text]
.say:
    call status
    jmp power_off

; The input page with the domain: ourselves, our trust level, its number.
domain_input:
    call clear_input
    mov qword ptr [INPUT_PAGE], -1
    mov dword ptr [INPUT_PAGE + 20], DOMAIN
    ret

retarget_input:
    call clear_input
    mov qword ptr [INPUT_PAGE], -1
    mov rax, [rip + device]
    mov [INPUT_PAGE + 8], rax
    mov dword ptr [INPUT_PAGE + 16], 1          ; of an MSI
    mov eax, [INFO + 8]
    mov [INPUT_PAGE + 24], eax
    mov eax, [INFO + 16]
    mov [INPUT_PAGE + 28], eax
    mov dword ptr [INPUT_PAGE + 40], VECTOR
    mov qword ptr [INPUT_PAGE + 48], 1          ; VP 0
    ret

; The device copies from RAX to the page behind IOVA; RSI says which copy that is. Sleeps until the interrupt.
copy:
    call print
    mov [r15 + REG_SOURCE], eax
    shr rax, 32
    mov [r15 + REG_SOURCE + 4], eax
    mov rax, IOVA + 0x1000
    mov [r15 + REG_DESTINATION], eax
    shr rax, 32
    mov [r15 + REG_DESTINATION + 4], eax
    mov dword ptr [r15 + REG_LENGTH], LENGTH
    mov dword ptr [rip + count], 0
    mov dword ptr [r15 + REG_COMMAND], 1
.wait:
    cli
    cmp dword ptr [rip + count], 0
    jne .told
    sti
    hlt
    jmp .wait
.told:
    mov eax, [rip + seen]
    test eax, 4                 ; error
    lea rsi, [rip + done_text]
    jz .end
    lea rsi, [rip + refused_text]
.end:
    jmp print

on_device:
    push rax
    mov eax, [r15 + REG_STATUS]
    mov [rip + seen], eax
    mov dword ptr [r15 + REG_ACK], 0
    inc dword ptr [rip + count]
    mov eax, APIC
    mov dword ptr [rax + APIC_EOI], 0
    pop rax
    iretq

on_wrong:
    lea rsi, [rip + wrong_text]
    call print
    jmp power_off

status:                         ; RSI = what it was; AX = its status
    call print
    movzx eax, ax
    call print_hex
    mov al, '\n'
    jmp putc

.include "lib/hypercall64.inc"
.include "lib/serial64.inc"
.include "lib/idt64.inc"

none_text:         .asciz "this partition has no device "
capabilities_text: .asciz "HvCallGetIommuCapabilities: status "
width_text:        .asciz "addresses of a device have bits: "
retarget_text:     .asciz "HvCallRetargetDeviceInterrupt: status "
create_text:       .asciz "HvCallCreateDeviceDomain: status "
map_text:          .asciz "HvCallMapDeviceGpaPages: status "
attach_text:       .asciz "HvCallAttachDeviceDomain: status "
unmap_text:        .asciz "HvCallUnmapDeviceGpaPages: status "
used_text:         .asciz "HvCallDeleteDeviceDomain with a device: status "
detach_text:       .asciz "HvCallDetachDeviceDomain: status "
delete_text:       .asciz "HvCallDeleteDeviceDomain: status "
inside_text:       .asciz "a copy inside the domain: "
secret_text:       .asciz "a copy of a page that is not in it: "
gone_text:         .asciz "a copy of a page that is no more in it: "
done_text:         .asciz "done\n"
refused_text:      .asciz "the IOMMU refused\n"
same_text:         .asciz "the bytes are in place\n"
other_text:        .asciz "the bytes are NOT in place\n"
wrong_text:        .asciz "the interrupt came on the old vector\n"
.align 8
device: .quad 0x10 | PCI        ; 00:02.0
count:  .long 0
seen:   .long 0

; ring_attacker: a driver that writes nonsense into the network card, its rings and its configuration space.
;
; Shows: whatever a guest with an assigned device does, it reaches its own memory and its own processors. Wild addresses,
; lengths and flags end in the card's error code; messages that name others' interrupts, NMIs or nobody's are none; BARs
; moved about take the card's registers along, and nothing else. Needs: hv run ring_attacker --pc --device ring
; Read:  root/vdev/assigned_function.py; VT-d "DMA Remapping", "Interrupt Remapping".

.include "lib/machine.inc"
.include "lib/ring_nic.inc"

FIRST_VECTOR    = 0x60          ; the messages name 0x60..0x6F, so only those may come
TX_RING         = 0x300000
RX_RING         = 0x301000
ROUNDS          = 256

.bits 64
.org 0x10000
.entry start

start:
    mov ecx, 256                ; every vector has a handler that counts
    xor edi, edi
.gate:
    mov eax, offset on_nobody
    cmp edi, 32
    jb .next
    cmp edi, FIRST_VECTOR
    jb .set
    cmp edi, FIRST_VECTOR + 16
    jae .set
    mov eax, offset on_named
.set:
    call idt_set
.next:
    inc edi
    dec ecx
    jnz .gate
    mov edi, 2                  ; NMI too
    mov eax, offset on_nobody
    call idt_set
    call idt_load
    mov edx, APIC
    mov dword ptr [rdx + APIC_SVR], 0x1FF
    sti

    mov eax, NIC_ID
    call pci_find               ; EBX = the function
    lea rsi, [rip + none_text]
    cmp ebx, -1
    je .say
    mov ecx, PCI_COMMAND
    mov eax, 6
    call pci_write
    mov ecx, PCI_BAR0
    call pci_read
    and eax, 0xFFFFFFF0
    mov r12d, eax               ; R12 = its registers
    mov al, CAPABILITY_MSIX
    call pci_capability
    mov r13d, ecx
    add ecx, 4
    call pci_read
    and eax, 7
    lea ecx, [rax * 4 + PCI_BAR0]
    call pci_read
    and eax, 0xFFFFFFF0
    mov r14d, eax               ; R14 = the MSI-X table
    mov ecx, r13d
    call pci_read
    or eax, 0x80000000
    call pci_write

    ; descriptors of nonsense
    mov r15d, ROUNDS
.ring:
    mov dword ptr [r12 + NIC_CONTROL], 0
    mov eax, TX_RING
    mov [r12 + TX_BASE], rax
    mov eax, RX_RING
    mov [r12 + RX_BASE], rax
    mov dword ptr [r12 + TX_SIZE], 8
    mov dword ptr [r12 + RX_SIZE], 8
    mov edi, TX_RING
    call nonsense
    mov edi, RX_RING
    call nonsense
    mov dword ptr [r12 + NIC_ENABLE], 7
    mov dword ptr [r12 + NIC_CONTROL], 3
    mov dword ptr [r12 + RX_TAIL], 7
    call random
    and eax, 7
    mov [r12 + TX_TAIL], eax
    mov ecx, 2000
.busy:
    pause
    mov eax, [r12 + NIC_STATUS]
    test eax, 4                 ; sending
    jz .idle
    dec ecx
    jnz .busy
.idle:
    test eax, 2
    jz .no_error
    inc dword ptr [rip + errors]
.no_error:
    mov eax, [r12 + NIC_SENT]
    add [rip + frames], eax
    dec r15d
    jnz .ring

    ; messages of nonsense, and BARs that wander; in between an interrupt is asked for
    mov r15d, ROUNDS
.message:
    call random
    mov edx, eax
    and edx, 0x30               ; one of the four entries
    add edx, r14d
    call random
    mov ecx, eax
    and eax, 0x000FFFFF
    test ecx, 0x40000000
    jz .window
    and eax, 0xC                ; often a destination that exists
.window:
    or eax, 0xFEE00000
    test ecx, 0x80000000
    jnz .address
    test ecx, 0x30000000
    jnz .address
    mov eax, ecx                ; sometimes no interrupt's address at all
.address:
    mov [rdx], eax
    mov dword ptr [rdx + 4], 0
    call random
    and eax, 0xFFFF070F         ; any delivery mode
    or eax, FIRST_VECTOR
    mov [rdx + 8], eax
    call random
    and eax, 1
    mov [rdx + 12], eax
    mov dword ptr [r12 + NIC_ENABLE], 0
    mov dword ptr [r12 + NIC_CONTROL], 0
    mov dword ptr [r12 + NIC_CONTROL], 3
    mov dword ptr [r12 + NIC_ENABLE], 7
    mov dword ptr [r12 + TX_TAIL], 99       ; beyond the ring: an error, which interrupts
    test r15d, 7
    jnz .stay
    mov ecx, PCI_BAR0           ; away, over the local APIC, RAM or anything, and back
    call random
    call pci_write
    mov ecx, PCI_BAR0
    mov eax, r12d
    call pci_write
.stay:
    dec r15d
    jnz .message

    mov eax, [rip + errors]
    lea rsi, [rip + rings_text]
    call print
    call print_dec
    lea rsi, [rip + errors_text]
    call print
    mov eax, [rip + frames]
    call print_dec
    lea rsi, [rip + messages_text]
    call print
    mov eax, [rip + nobody]
    call print_dec
    lea rsi, [rip + named_text]
    cmp dword ptr [rip + named], 0
    jne .say
    lea rsi, [rip + silent_text]
.say:
    call print
    jmp power_off

; EDI = a ring: eight descriptors, of which most parts are possible and some are not. EAX, ECX, EDI change.
nonsense:
    mov ecx, 8
.one:
    call random
    mov dword ptr [rdi + 4], 0
    test eax, 0x700
    jnz .low
    mov [rdi + 4], eax          ; one in eight is beyond 4 GiB
.low:
    test eax, 0x3000
    jz .far
    and eax, 0x007FFFFF         ; three in four are in our memory, or just behind it
.far:
    mov [rdi], eax
    call random
    test eax, 0x700000
    jz .long
    and eax, 0xFFF
.long:
    mov [rdi + D_LENGTH], eax
    call random
    and eax, 0x10003            ; flags, sometimes a status that is not 0
    test eax, 1
    jnz .flags
    and eax, 0xFFFF
.flags:
    mov [rdi + D_FLAGS], eax
    add edi, 16
    dec ecx
    jnz .one
    ret

; EAX = the next number of a linear congruential generator; its high bits are the good ones.
random:
    mov eax, [rip + seed]
    imul eax, eax, 1664525
    add eax, 1013904223
    mov [rip + seed], eax
    rol eax, 15
    ret

on_named:
    inc dword ptr [rip + named]
    jmp handled
on_nobody:
    inc dword ptr [rip + nobody]
handled:
    push rax
    mov eax, APIC
    mov dword ptr [rax + APIC_EOI], 0
    pop rax
    iretq

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/pci64.inc"

.align 4
seed:          .long 12345
errors:        .long 0
frames:        .long 0
named:         .long 0
nobody:        .long 0
none_text:     .asciz "there is no network card on the PCI bus\n"
rings_text:    .asciz "256 rings of nonsense: "
errors_text:   .asciz " errors, "
messages_text: .asciz " frames\n256 messages of nonsense: "
named_text:    .asciz " interrupts that nobody named\n"
silent_text:   .asciz " interrupts that nobody named, and none that somebody did\n"

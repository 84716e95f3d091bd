; Wrong: the destination is stored, which is where the copy began.
;
; A device copies memory for you, twice. The second copy reaches further than your memory does: see who stops it, where,
; and what the device says about it.
;
; `hv lab check` says how far you are; `hv lab hint` helps; docs/guests.md has the language.

.include "lib/machine.inc"
.include "lib/dma_engine.inc"   ; REG_SOURCE, REG_DESTINATION, REG_LENGTH, REG_COMMAND, REG_STATUS, REG_ACK

REG_ABORTED = 0x20              ; the address that was refused, 8 bytes
LAST_PAGE   = 0xFFF000          ; of this partition's memory, 16 MiB

.bits 64
.org 0x10000
.entry start

start:
    mov rbx, [INFO]             ; where the device's registers are
    mov qword ptr [rbx + REG_SOURCE], text          ; guest-physical, as the device sees it
    mov qword ptr [rbx + REG_DESTINATION], copy
    mov dword ptr [rbx + REG_LENGTH], 32
    call go

    mov qword ptr [rbx + REG_DESTINATION], LAST_PAGE
    mov dword ptr [rbx + REG_LENGTH], 8192          ; one page of it is ours
    call go
    mov [status], eax
    mov rax, [rbx + REG_DESTINATION]
    mov [aborted], rax
    hlt

go:                                                 ; starts the device and waits; EAX = its status
    mov dword ptr [rbx + REG_ACK], 0                ; forget what was
    mov dword ptr [rbx + REG_COMMAND], 1            ; copy
.wait:
    pause
    mov eax, [rbx + REG_STATUS]
    test eax, 1                                     ; busy?
    jnz .wait
    ret

.org 0x200000
status:  .quad 0
aborted: .quad 0
copy:
    .ascii "................................"

.org 0x300000
text:
    .ascii "A device knows no page tables.  "
    .skip 8160, 0x2E

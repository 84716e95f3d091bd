; Wrong: MSRs from 0xC0000000 on have a quarter of their own.

APIC_BASE = 0x1B                ; IA32_APIC_BASE: bit 10 makes it an x2APIC, whose registers are MSRs
SVR       = 0x80F               ; its spurious-interrupt register: bit 8 switches it on

.bits 64
.org 0x10000
.entry start

start:
    mov ecx, APIC_BASE          ; these three exit: the bitmap comes into use with them
    rdmsr
    bts eax, 10
    wrmsr
    mov ecx, SVR
    mov eax, 0x1FF
    xor edx, edx
    wrmsr

    xor r12d, r12d              ; the number of the access
.next:
    mov r13d, r12d
    shl r13d, 4
    add r13d, offset accesses   ; its row
    mov ebx, offset bitmap
    mov ecx, [r13]
    mov edx, [r13 + 4]
    call exits
    mov [answers + r12], al
    test eax, eax
    jnz .skip                   ; it would exit: leave it alone
    inc byte ptr [quiet]
    mov ecx, [r13]
    cmp dword ptr [r13 + 4], 0
    jne .write
    rdmsr
    jmp .skip
.write:
    mov eax, [r13 + 8]
    xor edx, edx
    wrmsr
.skip:
    inc r12d
    cmp r12d, ACCESSES
    jb .next
    hlt

; ECX = MSR, EDX = 0 when it is read and 1 when it is written, RBX = address of a bitmap of 4096 bytes.
; Answers EAX = 1 when the access exits, 0 when it does not. RAX, RCX, RDX, RSI, RDI and R8 may change.
exits:
    mov esi, ecx
    and esi, 0x1FFF             ; the place within its range
    xor r8d, r8d                ; low range: 0 .. 0x1FFF
    cmp ecx, 0x1FFF
    jbe .known
    xor r8d, r8d                ; high range: 0xC0000000 .. 0xC0001FFF
    sub ecx, 0xC0000000
    cmp ecx, 0x1FFF
    jbe .known
    mov eax, 1                  ; all others have no bit, and exit always
    ret
.known:
    test edx, edx
    jz .look
    add r8d, 0x800              ; writes have the second half of the page
.look:
    add r8, rbx
    mov eax, esi
    shr eax, 3                  ; eight bits to a byte
    movzx eax, byte ptr [r8 + rax]
    mov ecx, esi
    and ecx, 7                  ; bit 0 is the lowest
    shr eax, cl
    and eax, 1
    ret

.org 0x200000
bitmap:                         ; a copy of the one that the hypervisor gives to the processor
    .skip 0x100, 0xFF
    .byte 0xF3, 0x5E, 0x00, 0x00, 0x00, 0x7E, 0x02, 0xBE        ; 0x100
    .skip 0x7F9, 0xFF
    .byte 0xF6, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F              ; 0x901
    .skip 0x6F8, 0xFF

ACCESSES = 12
accesses:                       ; MSR, 0 = read or 1 = write, and what is written
    .long 0x810, 0, 0, 0        ; in-service, the first 32 vectors
    .long 0x80A, 0, 0, 0        ; processor priority
    .long 0x80D, 0, 0, 0        ; logical destination
    .long 0x80F, 0, 0, 0        ; spurious-interrupt register
    .long 0x80F, 1, 0x1FF, 0
    .long 0x808, 1, 0x20, 0     ; task priority
    .long 0x808, 0, 0, 0
    .long 0x80B, 1, 0, 0        ; end of interrupt
    .long 0x839, 0, 0, 0        ; the timer's current count
    .long 0xC0000080, 0, 0, 0   ; EFER
    .long 0xC0000808, 0, 0, 0   ; an MSR that nobody has
    .long 0x40000808, 0, 0, 0   ; and another one

.org 0x202000
answers: .skip 16, 0xFF         ; what `exits` said, one byte each
quiet:   .byte 0                ; how many accesses were done

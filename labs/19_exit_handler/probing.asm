; A guest that tries your hypervisor: it asks who is there, and uses a model-specific register as it should be used, and
; as it should not. What it meets it writes down; there is nothing to change in it.

.include "lib/machine.inc"

SCRATCH = {{msr:#x}}            ; your register
VALUE   = {{value:#x}}          ; a value that it may have
ABSENT  = {{msr:#x}} + 1        ; a register that nobody has
ONES    = 0xFFFFFFFF00000000    ; in upper halves that nobody may look at

.bits 64
.org 0x10000
.entry start

start:
    mov edi, 13                 ; #GP
    mov eax, offset on_gp
    call idt_set
    call idt_load

    mov rax, ONES | 0x40000000  ; who is there?
    mov rbx, ONES
    mov rcx, ONES
    mov rdx, ONES
    cpuid
    mov [last_leaf], rax
    mov [signature], ebx
    mov [signature + 4], ecx
    mov [signature + 8], edx
    or rbx, rcx
    or rbx, rdx
    shr rbx, 32
    mov [uppers], rbx

    mov eax, 0x40000001         ; is it one that we know?
    xor ecx, ecx
    cpuid
    mov [interface], eax
    mov [interface + 4], ebx
    mov [interface + 8], ecx
    mov [interface + 12], edx

    xor eax, eax                ; and the processor?
    xor ecx, ecx
    cpuid
    mov [maker], ebx
    mov [maker + 4], edx
    mov [maker + 8], ecx

    mov rcx, ONES | SCRATCH
    mov rax, ONES
    mov rdx, ONES
    rdmsr
    mov [at_reset], eax
    mov [at_reset + 4], edx
    or rax, rdx
    shr rax, 32
    or [uppers], rax

    mov rcx, ONES | SCRATCH
    mov rax, ONES | VALUE & 0xFFFFFFFF
    mov rdx, ONES | VALUE >> 32
    wrmsr
    call read
    mov [read_back], rax

    xor eax, eax                ; a reserved bit: #GP, and the old value stays
    mov edx, 0x80000000
    wrmsr
    call read
    mov [kept], rax

    mov ecx, ABSENT             ; #GP, and no register is changed
    mov rax, VALUE
    rdmsr
    mov [untouched], rax
    wrmsr                       ; #GP

    mov ebx, APIC               ; another processor has a register of its own
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    mov dword ptr [rbx + APIC_ICR_HIGH], 1 << 24
    mov dword ptr [rbx + APIC_ICR_LOW], 0x4500
    mov dword ptr [rbx + APIC_ICR_LOW], 0x4608
.wait:
    pause
    cmp dword ptr [there], 1
    jne .wait

    mov r9d, 16                 ; sixteen more values, each to be read back
    mov r8, VALUE
.more:
    imul r8, r8, 0x19660D
    add r8, 0x3C6EF35F
    shl r8, 16
    shr r8, 16                  ; 48 bits
    mov rax, r8
    mov rdx, r8
    shr rdx, 32
    mov ecx, SCRATCH
    wrmsr
    call read
    cmp rax, r8
    jne .other
    inc dword ptr [right]
.other:
    dec r9d
    jnz .more
    hlt

read:                           ; RAX = the register
    mov ecx, SCRATCH
    rdmsr
    shl rdx, 32
    mov eax, eax
    or rax, rdx
    ret

on_gp:                          ; [rsp] = error code, [rsp + 8] = RIP
    push rax
    mov rax, [rsp + 8]
    or [codes], rax
    inc dword ptr [faults]
    pop rax
    add rsp, 8
    add qword ptr [rsp], 2      ; RDMSR and WRMSR have two bytes
    iretq

.include "lib/idt64.inc"

.bits 16
.org 0x8000                     ; the other processor begins here, in real mode
    mov ecx, SCRATCH
    rdmsr
    mov dword ptr [0x9000], eax
    mov dword ptr [0x9004], edx
    mov dword ptr [0x9008], 1
    cli
    hlt

.bits 64
.org 0x9000
others: .quad -1                ; what VP 1 read
there:  .long 0

.org 0x200000
signature: .skip 12
.align 8, 0
last_leaf: .quad -1             ; RAX of leaf 0x40000000
interface: .quad -1, -1         ; EAX, EBX, ECX, EDX of leaf 0x40000001
maker:     .skip 12
.align 8, 0
uppers:    .quad -1             ; what was left in the upper halves of RAX, RBX, RCX and RDX
at_reset:  .quad -1             ; the register, before anybody wrote it
read_back: .quad -1             ; ... after VALUE was written
kept:      .quad -1             ; ... after a write that was refused
untouched: .quad -1             ; RAX, after a read that was refused
codes:     .quad 0              ; error codes of all faults
faults:    .long 0              ; how many there were
right:     .long 0              ; how many of sixteen values were read back

; Hypercalls that fail: a solution.

.include "lib/machine.inc"      ; constants: HYPERCALL_PAGE is the address to call

CREATE    = 0x40                ; HvCallCreatePartition: needs CreatePartitions, bit 0 of EBX
TRANSLATE = 0x52                ; HvCallTranslateVirtualAddress: takes 32 bytes, gives 16, needs no privilege

.bits 64
.org 0x10000
.entry start

start:
    call hypercall_init         ; the identity, then the page

    mov eax, 0x40000003         ; what may we do? EBX has the upper half of the privileges
    cpuid
    mov [rights], ebx

    mov ecx, CREATE             ; a code that exists, and a right that we lack
    mov edx, offset input
    mov r8d, offset output
    mov eax, HYPERCALL_PAGE
    call rax
    mov [denied], rax

    mov ecx, TRANSLATE
    mov edx, offset input + 4   ; no multiple of 8
    mov r8d, offset output
    mov eax, HYPERCALL_PAGE
    call rax
    mov [misplaced], rax

    mov rcx, 1 << 32 | TRANSLATE        ; a rep count, of a call that has no list
    mov edx, offset input
    mov r8d, offset output
    mov eax, HYPERCALL_PAGE
    call rax
    mov [malformed], rax
    hlt

.include "lib/hypercall64.inc"

.org 0x200000
input:                          ; a good input for TRANSLATE: where does linear 0x10000 lead?
    .quad -1
    .long -2
    .long 0
    .quad 1
    .quad 0x10

.org 0x201000
output:
    .skip 16

.org 0x202000
rights:    .long 0              ; EBX of CPUID leaf 0x40000003
.align 8, 0
denied:    .quad -1             ; result value of a call that your partition has no right to
misplaced: .quad -1             ; ... of TRANSLATE, with its input where no input may be
malformed: .quad -1             ; ... of TRANSLATE, with an input value that it cannot have

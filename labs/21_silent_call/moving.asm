; A guest that moves its hypercall page. It makes a call by way of the page at 0x61000; then it lets the hypervisor put
; the page at 0x62000, over a routine of its own that it used before, and makes the same call from there. There is nothing
; wrong with it: on a sound machine `first` and `second` are both 0 in the end, the status of a call that was done.

.include "lib/machine.inc"

OTHER_PAGE = 0x62000
TRANSLATE  = 0x52               ; HvCallTranslateVirtualAddress

.bits 64
.org 0x10000
.entry start

start:
    mov eax, 0x40000000
    cpuid
    mov [signature], ebx
    call hypercall_init         ; who we are; the page is to be at HYPERCALL_PAGE, 0x61000
    mov eax, HYPERCALL_PAGE
    call translate
    mov [first], rax

    mov eax, OTHER_PAGE
    call rax                    ; our own routine, while it is there
    mov [kept], rax

    mov ecx, HV_HYPERCALL       ; now the page is to be at OTHER_PAGE
    xor edx, edx
    mov eax, OTHER_PAGE | 1
    wrmsr
    mov eax, 0x40000001
    cpuid
    mov [interface], eax
    mov eax, OTHER_PAGE
    call translate
    mov [second], rax
    hlt

translate:                      ; RAX = the hypercall page; the result value of the call
    mov ecx, TRANSLATE
    mov edx, offset input
    mov r8d, offset output
    call rax
    ret

.include "lib/hypercall64.inc"

.org OTHER_PAGE
    mov eax, {{kept:#x}}
    ret

.org 0x200000
input:     .quad -1             ; where does linear 0x10000 lead?
           .long -2, 0
           .quad 1, 0x10
.org 0x201000
output:    .skip 16
.org 0x202000
first:     .quad -1             ; result value of the call by way of HYPERCALL_PAGE
second:    .quad -1             ; ... by way of OTHER_PAGE
kept:      .quad -1             ; what the routine at OTHER_PAGE gave
signature: .long 0
interface: .long 0

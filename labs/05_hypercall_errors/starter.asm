; Hypercalls that fail.
;
; Look up what your partition may do, then make three hypercalls that fail, each in its own way, and keep their result
; values. The hypercall page is there already. End with HLT.
;
; `hv lab check` says how far you are; `hv lab hint` helps; docs/guests.md has the language.

.include "lib/machine.inc"      ; constants: HYPERCALL_PAGE is the address to call

TRANSLATE = 0x52                ; HvCallTranslateVirtualAddress: takes 32 bytes, gives 16, needs no privilege

.bits 64
.org 0x10000
.entry start

start:
    call hypercall_init         ; what you wrote in the lab before: the identity, then the page

    ; your instructions go here: CPUID, then three calls
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

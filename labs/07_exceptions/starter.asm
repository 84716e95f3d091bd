; Exceptions.
;
; The program at `program` does three things that fail. Write the handlers: one steps over its instruction, one takes what
; the hypervisor has injected, one repairs the page tables so that the instruction works after all.
;
; `hv lab check` says how far you are; `hv lab hint` helps; docs/guests.md has the language.

.include "lib/machine.inc"      ; constants: START_PD is the page directory of the first GiB

.bits 64
.org 0x10000
.entry start

start:
    ; your instructions go here: three gates (idt_set: RDI = vector, RAX = handler), then `call idt_load`
    jmp program

on_ud:
    ; your instructions go here: where it was to `ud_rip`, then step over it
    hlt

on_gp:
    ; your instructions go here: its error code to `gp_code`, then step over the instruction
    hlt

on_pf:
    ; your instructions go here: its error code to `pf_code`, the address to `pf_address`, then repair
    hlt

.include "lib/idt64.inc"

.org 0x11000
program:                        ; do not change what follows
    ud2                         ; an instruction that is none: #UD
    mov ecx, 0x40000FFF         ; an MSR that this hypervisor does not have
    rdmsr                       ; #GP
    mov rax, 0x736B726F77207469 ; "it works"
    mov rbx, 0x4000008          ; 64 MiB and 8: the loader's page tables end before
    mov [rbx], rax              ; #PF
    hlt

.org 0x200000
ud_rip:     .quad 0             ; where UD2 was
gp_code:    .quad -1            ; error code of #GP
pf_code:    .quad -1            ; error code of #PF
pf_address: .quad 0             ; the linear address that could not be translated

.org 0x400000                   ; the memory that linear 64 MiB is to become: a page of 2 MiB
frame:      .quad 0
mended:     .quad 0

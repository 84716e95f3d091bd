; Wrong: the gates are made, but the IDT is never loaded.

.include "lib/machine.inc"      ; constants: START_PD is the page directory of the first GiB

.bits 64
.org 0x10000
.entry start

start:
    mov edi, 6                  ; #UD
    mov eax, offset on_ud
    call idt_set
    mov edi, 13                 ; #GP
    mov eax, offset on_gp
    call idt_set
    mov edi, 14                 ; #PF
    mov eax, offset on_pf
    call idt_set
    jmp program

on_ud:                          ; [rsp] = RIP: this exception has no error code
    push rax
    mov rax, [rsp + 8]
    mov [ud_rip], rax
    add qword ptr [rsp + 8], 2  ; UD2 has two bytes
    pop rax
    iretq

on_gp:                          ; [rsp] = error code, [rsp + 8] = RIP
    push rax
    mov rax, [rsp + 8]
    mov [gp_code], rax
    pop rax
    add rsp, 8                  ; IRETQ knows nothing of error codes
    add qword ptr [rsp], 2      ; RDMSR has two bytes
    iretq

on_pf:
    push rax
    mov rax, [rsp + 8]
    mov [pf_code], rax
    mov rax, cr2
    mov [pf_address], rax
    mov eax, offset frame
    or eax, 0x83                ; present, writable, large
    mov [START_PD + 32 * 8], rax        ; 64 MiB is 32 pages of 2 MiB
    pop rax
    add rsp, 8
    iretq                       ; to the same instruction, once more

.include "lib/idt64.inc"

.org 0x11000
program:
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

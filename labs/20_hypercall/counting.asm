; A guest that asks which of its processors have which APIC ids: as it should be asked, and as it should not. The result
; value of each call is written down, in the order of the calls. There is nothing to change in it.

.include "lib/machine.inc"

CALL = 0x9A                     ; HvCallGetVpIndexFromApicId
SELF = -1                       ; HV_PARTITION_ID_SELF
REPS = {{reps}}                 ; elements of the long list

.bits 64
.org 0x10000
.entry start

start:
    call hypercall_init
    mov rax, [INFO + 0x18]              ; our own partition id
    mov [by_number], rax
    mov ebx, offset results

    mov rcx, 2 << 32 | CALL             ; 0: two elements
    mov edx, offset list
    mov r8d, offset first
    call make
    mov r8d, offset output
    mov rcx, CALL                       ; 1: no elements
    call make
    mov rcx, 2 << 48 | 2 << 32 | CALL   ; 2: begins behind the last one
    call make
    mov rcx, 1 << 32 | 1 << 27 | CALL   ; 3: a reserved bit
    call make
    mov rcx, 1 << 32 | 1 << 17 | CALL   ; 4: a variable header, which this call has not
    call make
    mov rcx, CALL                       ; 5: no elements, at a bad place
    mov edx, offset list + 4
    call make

    mov rcx, 1 << 32 | CALL             ; 6: the input at no multiple of 8
    call make
    mov edx, offset crossing            ; 7: 16 bytes before the end of a page, and 20 long
    call make
    mov edx, offset list                ; 8: the output at no multiple of 8
    mov r8d, offset output + 4
    call make
    mov rcx, 3 << 32 | CALL             ; 9: 8 bytes before the end of a page, and 12 long
    mov r8d, offset crossing + 8
    call make
    mov edx, offset nobody + 4          ; 10: at no multiple of 8, and nobody's
    mov r8d, offset output
    call make

    mov rcx, 1 << 32 | CALL
    mov edx, offset padded              ; 11: bytes that must be zero
    call make
    mov edx, offset nobody              ; 12: no such partition
    call make
    mov edx, offset root                ; 13: there is one, and we are not its parent
    call make

    mov rcx, 4 << 32 | CALL             ; 14: no processor has the third id
    mov edx, offset by_number
    mov r8d, offset holes
    call make
    mov rcx, 3 << 48 | 4 << 32 | CALL   ; 15: and on behind it
    call make

    mov rcx, REPS << 32 | CALL          ; 16: a long list
    mov edx, offset long_list
    mov r8d, offset long_output
    call make
    hlt

make:                                   ; one call; its result value goes to the next place of `results`
    mov eax, HYPERCALL_PAGE
    call rax
    mov [rbx], rax
    add rbx, 8
    ret

.include "lib/hypercall64.inc"

.org 0x200000
list:      .quad SELF, 0
           .long {{third}}, 0, 0, 0
nobody:    .quad 0x777, 0
           .long 0, 0, 0, 0
root:      .quad 1, 0
           .long 0, 0
padded:    .quad SELF, 0x100
           .long 0, 0
by_number: .quad 0, 0
           .long {{second}}, {{fourth}}, 1, {{third}}
long_list: .quad SELF, 0
           .long {{fourth}}, {{third}}, {{second}}, 0, {{third}}, {{third}}, 0, {{fourth}}, {{second}}, 0, {{fourth}}, {{second}}

.org 0x201FF0
crossing:  .quad SELF, 0
           .long 0, 0

.org 0x203000
first:       .quad -1, -1
output:      .quad -1, -1, -1, -1
holes:       .quad -1, -1, -1, -1
long_output: .quad -1, -1, -1, -1, -1, -1, -1, -1

.org 0x204000
results:   .quad -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1

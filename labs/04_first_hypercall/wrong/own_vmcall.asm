; Wrong: VMCALL in the program itself: calls are taken from the page only.

GUEST_OS_ID    = 0x40000000     ; synthetic MSRs
HYPERCALL      = 0x40000001
HYPERCALL_PAGE = 0x61000        ; where the page is to be; the first 2 MiB are executable
TRANSLATE      = 0x52           ; the code of HvCallTranslateVirtualAddress

.bits 64
.org 0x10000
.entry start

start:
    mov ecx, GUEST_OS_ID            ; 1. who we are: no page without it
    mov edx, 0x81000000
    mov eax, 0x00010000
    wrmsr
    mov ecx, HYPERCALL              ; 2. the page: its address, and the enable bit
    xor edx, edx
    mov eax, HYPERCALL_PAGE | 1
    wrmsr
    mov qword ptr [input + 24], 0x61000 >> 12
    mov ecx, TRANSLATE              ; 3. the input value: a code, nothing else
    mov edx, offset input           ; guest-physical addresses of input and output
    mov r8d, offset answer
    vmcall
    mov [status], rax
    hlt

.org 0x200000                   ; data: a page for the input, a page for the output
input:                          ; as HvCallTranslateVirtualAddress wants it
    .quad -1                    ; partition id: -1 is our own
    .long -2                    ; VP index: -2 is our own
    .long 0
    .quad 1                     ; flags: it is about reading
    .quad 0                     ; the linear address, as a page number
status:
    .quad -1                    ; the result value

.org 0x201000
answer:
    .skip 16                    ; the hypervisor writes here

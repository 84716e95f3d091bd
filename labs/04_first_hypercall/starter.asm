; The first hypercall.
;
; Say who you are, ask for the hypercall page, then call the hypervisor through it: where does linear address 0x61000
; lead? Keep its result value at `status`; the answer itself goes to `answer`. End with HLT.
;
; `hv lab check` says how far you are; `hv lab hint` helps; docs/guests.md has the language.

GUEST_OS_ID    = 0x40000000     ; synthetic MSRs
HYPERCALL      = 0x40000001
HYPERCALL_PAGE = 0x61000        ; where the page is to be; the first 2 MiB are executable
TRANSLATE      = 0x52           ; the code of HvCallTranslateVirtualAddress

.bits 64
.org 0x10000
.entry start

start:
    ; your instructions go here: two MSRs, the input, the call
    hlt

.org 0x200000                   ; data: a page for the input, a page for the output
input:                          ; as HvCallTranslateVirtualAddress wants it
    .quad -1                    ; partition id: -1 is our own
    .long -2                    ; VP index: -2 is our own
    .long 0
    .quad 1                     ; flags: it is about reading
    .quad 0                     ; the linear address, as a page number: yours to fill in
status:
    .quad -1                    ; the result value: yours to fill in, when the call is back

.org 0x201000
answer:
    .skip 16                    ; the hypervisor writes here, if you say so

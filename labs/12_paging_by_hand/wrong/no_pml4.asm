; Wrong: the PML4 does not lead to the PDPT.
;
; Map the page `frame` at the linear address PLACE, which no table knows yet: three tables are to be filled, and one
; entry of the PML4. Then watch what the processor writes into the last entry.
;
; `hv lab check` says how far you are; `hv lab hint` helps; docs/guests.md has the language.

PLACE  = 0x8080604000           ; a linear address
PML4   = 0x71000                ; CR3 points here; entry 0 is in use: it maps the addresses we run at

.bits 64
.org 0x10000
.entry start

start:
    mov rax, pdpt | 3                   ; present and writable
    mov rax, directory | 3
    mov [pdpt + 2 * 8], rax             ; bits 38:30
    mov rax, table | 3
    mov [directory + 3 * 8], rax        ; bits 29:21
    mov rax, 0x8000000000000003 | frame ; and no-execute
    mov [table + 4 * 8], rax            ; bits 20:12

    mov rsi, PLACE
    mov al, [rsi]
    mov rax, [table + 4 * 8]
    mov [after_read], rax
    mov byte ptr [rsi], 't'
    mov rax, [table + 4 * 8]
    mov [after_write], rax

    and qword ptr [table + 4 * 8], ~0x60    ; neither A (bit 5) nor D (bit 6)
    invlpg [rsi]                        ; the processor has a translation that says that both are set
    mov al, [rsi]
    mov rax, [table + 4 * 8]
    mov [after_clear], rax

    hlt

.org 0x200000
after_read:  .quad 0
after_write: .quad 0
after_clear: .quad 0

.org 0x201000                   ; three pages for tables: each has 512 entries of 8 bytes, and all are zero
pdpt:
    .skip 4096
.org 0x202000
directory:
    .skip 4096
.org 0x203000
table:
    .skip 4096

.org {{frame.address:#x}}                  ; the page to be mapped
frame:
    .ascii "This page is at guest-physical address {{frame.address:#x}}."

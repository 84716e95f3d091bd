; Paging, walked by hand.
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
    ; 1. one entry in each of the four tables

    ; 2. read a byte at PLACE, store the last entry at `after_read`
    ;    write a byte at PLACE, store the last entry at `after_write`

    ; 3. clear A and D in the last entry, so that the processor says once more what happens;
    ;    read a byte at PLACE, store the last entry at `after_clear`

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

; From real mode to long mode.
;
; The way from real mode to 32-bit protected mode is here, and so is the 64-bit code that you must reach. Between them is
; your part: page tables, then four steps in the right order, then a far jump.
;
; `hv lab check` says how far you are; `hv lab hint` helps; docs/guests.md has the language.

PML4    = 0x20000               ; four pages for your tables, one each; this machine's memory begins as zeros
PDPT    = 0x21000
PD_LOW  = 0x22000
PD_HIGH = 0x23000
EFER    = 0xC0000080            ; the number of the MSR

.bits 16
.org 0x7C00
.entry start
start:
    cli
    lgdt [gdt_pointer]          ; descriptors for three kinds of code and data, at the end
    mov eax, cr0
    or eax, 1                   ; PE: protection on
    mov cr0, eax
    jmp 0x18:protected          ; a far jump loads CS: from here on code is 32 bits wide

.bits 32
protected:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, 0x7C00

    ; your instructions go here: tables, four steps, far jump
    hlt

.bits 64
long_mode:                      ; your far jump comes here: do not change what follows
    xor eax, eax
    inc rax                     ; its bytes mean `dec eax; inc eax` to a processor that is still in a 32-bit segment
    shl eax, 5
    add eax, 32                 ; so this is 64 in 64-bit code, and 32 otherwise
    mov [landed], eax
    mov rax, [0x40008000]       ; linear 1 GiB + 32 KiB: only your tables make that an address
    mov [found], rax
    hlt

.align 8
gdt:
    .quad 0                             ; 00: the null descriptor
    .quad 0x00AF9A000000FFFF            ; 08: code, 64-bit
    .quad 0x00CF92000000FFFF            ; 10: data
    .quad 0x00CF9A000000FFFF            ; 18: code, 32-bit
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt

.align 8
landed: .long 0
.align 8
found:  .quad 0

.org 0x8000
    .ascii "too low!"
.org 0x208000                   ; guest-physical 2 MiB + 32 KiB
    .ascii "deep end"

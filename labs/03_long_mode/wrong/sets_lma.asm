; Wrong: it sets LMA, which is the processor's, instead of LME.

PML4    = 0x20000               ; four pages for tables, one each; this machine's memory begins as zeros
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

    mov dword ptr [PML4], PDPT | 3              ; linear 0..512 GiB: present, writable
    mov dword ptr [PDPT], PD_LOW | 3            ; linear 0..1 GiB
    mov dword ptr [PDPT + 8], PD_HIGH | 3       ; linear 1..2 GiB
    mov dword ptr [PD_LOW], 0x000000 | 0x83     ; linear 0..2 MiB: a large page, where this program is
    mov dword ptr [PD_HIGH], 0x200000 | 0x83    ; linear 1 GiB..+2 MiB

    mov eax, cr4
    or eax, 1 << 5                              ; 1. PAE: entries of 64 bits
    mov cr4, eax
    mov eax, PML4                               ; 2. where the tables are
    mov cr3, eax
    mov ecx, EFER                               ; 3. LME: long mode, once paging is on
    rdmsr
    or eax, 1 << 10
    wrmsr
    mov eax, cr0
    or eax, 1 << 31                             ; 4. PG: now LMA becomes 1
    mov cr0, eax
    jmp 0x08:long_mode                          ; and this loads a 64-bit CS

.bits 64
long_mode:                      ; the far jump comes here
    xor eax, eax
    inc rax                     ; its bytes mean `dec eax; inc eax` to a processor that is still in a 32-bit segment
    shl eax, 5
    add eax, 32                 ; so this is 64 in 64-bit code, and 32 otherwise
    mov [landed], eax
    mov rax, [0x40008000]       ; linear 1 GiB + 32 KiB: only the tables make that an address
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

; long_mode: from real mode to 64-bit mode, step by step, by the guest itself.
;
; Shows: CR0, CR4 and EFER seen by the hypervisor as the guest changes mode; a guest's own page tables below the EPT.
; Read:  SDM volume 3, "Initializing IA-32e Mode" and "Switching to Protected Mode".

.include "lib/machine.inc"

PML4 = 0x20000                  ; one table of each level maps the first 2 MiB with one large page
PDPT = 0x21000
PD   = 0x22000

.bits 16
.org 0x7C00
.entry start

start:
    cli
    mov al, 'R'                 ; R, P, L: a mark on the serial port in each mode
    mov dx, COM1
    out dx, al

    ; real -> protected: a GDT, then CR0.PE, then a far jump that loads CS
    lgdt [gdt_pointer]
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    jmp 0x18:protected

.bits 32
protected:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, 0x7C00
    mov al, 'P'
    mov dx, COM1
    out dx, al

    ; page tables: the order matters, paging must not be on before they are right
    mov edi, PML4
    xor eax, eax
    mov ecx, 3 * 4096 / 4
    cld
    rep stosd
    mov dword ptr [PML4], PDPT | 3      ; present, writable
    mov dword ptr [PDPT], PD | 3
    mov dword ptr [PD], 0x83            ; 0..2 MiB: present, writable, large

    ; 1. CR4.PAE  2. CR3  3. EFER.LME  4. CR0.PG. Any other order is #GP or plain 32-bit paging.
    mov eax, cr4
    or eax, 1 << 5
    mov cr4, eax
    mov eax, PML4
    mov cr3, eax
    mov ecx, 0xC0000080                 ; EFER
    rdmsr
    or eax, 1 << 8                      ; LME: long mode, as soon as paging is on
    wrmsr
    mov eax, cr0
    or eax, 1 << 31
    mov cr0, eax                        ; EFER.LMA is 1 now; CS is still a 32-bit segment: compatibility mode
    jmp 0x08:long_mode

.bits 64
long_mode:
    mov esp, 0x7C00                     ; writing ESP clears the upper half of RSP, which nobody promised to be zero
    mov al, 'L'
    mov dx, COM1
    out dx, al
    mov al, '\n'
    out dx, al

    mov ecx, 0xC0000080
    rdmsr                               ; EDX:EAX
    mov ebx, eax
    lea rsi, [rip + efer_text]
    call print
    mov eax, ebx
    call print_hex
    lea rsi, [rip + bad_text]
    bt ebx, 10                          ; LMA
    jnc .say
    lea rsi, [rip + good_text]
.say:
    call print
    jmp power_off

.include "lib/serial64.inc"

efer_text: .asciz "EFER is "
good_text: .asciz ", long mode is active\n"
bad_text:  .asciz ", long mode is NOT active\n"

.align 8
gdt:
    .quad 0                             ; the null descriptor
    .quad 0x00AF9A000000FFFF            ; 08: 64-bit code
    .quad 0x00CF92000000FFFF            ; 10: data, flat
    .quad 0x00CF9A000000FFFF            ; 18: 32-bit code, flat
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt

; pc_devices: the devices of a PC one after another, each by the few lines that a driver begins with.
;
; Run:   hv run pc_devices --pc
; Shows: that a program finds its machine: devices on the PCI bus by asking all addresses, everything else in the tables
;        of ACPI. Two devices that interrupt (16550 and interval timer), each by its pin of the I/O APIC. Three clocks.
;        POST codes tell how far it came: in the REPL, `inspect vm/pc_devices/worker/motherboard/post`.
; Read:  docs/pc.md; ACPI "Fixed ACPI Description Table", "Multiple APIC Description Table"; the 82093AA data sheet.

.include "lib/machine.inc"

POST            = 0x80          ; the two digits that a PC shows before it can show anything else
CMOS_INDEX      = 0x70          ; which register of the clock, then its value at the next port
PIC_MASTER_MASK = 0x21
PIC_SLAVE_MASK  = 0xA1
PIT_COUNTER_0   = 0x40
PIT_MODE        = 0x43
PIT_10_MS       = 11932         ; of its 1 193 182 ticks a second

COM1_IER        = COM1 + 1      ; bit 1: interrupt when the transmitter is empty
COM1_IIR        = COM1 + 2      ; reading says why, and takes that cause back
COM1_MCR        = COM1 + 4      ; bit 3, OUT2, lets the interrupt out of the chip: so the PC is wired
FIFO            = 16            ; bytes that an empty transmitter takes

FADT            = 0x50434146    ; "FACP"
FADT_DSDT       = 40
FADT_PM1A_CNT   = 64
FADT_PM_TIMER   = 76
MADT            = 0x43495041    ; "APIC"
MADT_ENTRIES    = 44            ; each: type, length, and what is said
MADT_IO_APIC    = 1             ; its address at +4
MADT_OVERRIDE   = 2             ; line +3 of the old PC is on pin +4
NAME_S5         = 0x5F35535F    ; "_S5_"

IO_APIC_INDEX   = 0x00          ; which register, then its value in the window
IO_APIC_WINDOW  = 0x10
IO_APIC_VERSION = 1             ; bits 23:16: number of the last pin
IO_APIC_PINS    = 0x10          ; two registers for each: 0x10 + 2 * pin is the lower half

IRQ_TIMER       = 0             ; lines of the old PC
IRQ_COM1        = 4
TIMER_VECTOR    = 0x40          ; vectors are ours to choose
COM1_VECTOR     = 0x41

HIGH_PD         = 0x74000       ; the loader's page directory of 3..4 GiB
GIB_3           = 0xC0000000
UNCACHED_DATA   = 0x9B          ; present, writable, write-through, cache-disabled, 2 MiB

.bits 64
.org 0x10000
.entry start

start:
    mov al, 0x10
    call post
    call read_fadt
    jc .stop
    call read_madt
    jc .stop

    mov al, 0x20
    call post
    call show_pci

    mov al, 0x30
    call post
    call show_time

    mov al, 0x40
    call post
    call start_interrupts
    call send_by_interrupts

    mov al, 0x50
    call post
    call compare_clocks

    mov al, 0xFF
    call post
    jmp acpi_off
.stop:
    lea rsi, [rip + no_acpi_text]
    call print
    jmp power_off

post:
    out POST, al
    ret

; ---- ACPI: where this machine has its timer and its switch ------------------------------------------------------

read_fadt:                      ; CF = it says not what we need
    mov eax, FADT
    call acpi_find
    test esi, esi
    jz .none
    mov eax, [rsi + FADT_PM_TIMER]
    mov [rip + pm_timer], eax
    mov eax, [rsi + FADT_PM1A_CNT]
    mov [rip + pm1a_control], eax

    ; What to write there for "off" is an object in the DSDT, \_S5, which is a program for an interpreter. Small kernels
    ; look for the name: behind it stand PackageOp, a length, the number of elements, and the first of those.
    mov esi, [rsi + FADT_DSDT]
    mov ecx, [rsi + TABLE_LENGTH]
.look:
    cmp dword ptr [rsi], NAME_S5
    je .found
    inc rsi
    dec ecx
    jnz .look
.none:
    stc
    ret
.found:
    mov al, [rsi + 7]
    cmp al, 0x0A                ; a number that is not 0 or 1 has a prefix
    jne .type
    mov al, [rsi + 8]
.type:
    and eax, 7
    mov [rip + sleep_type], eax
    lea rsi, [rip + pm_text]
    call print
    mov edx, [rip + pm_timer]
    mov ecx, 4
    call hex
    lea rsi, [rip + off_text]
    call print
    mov edx, [rip + pm1a_control]
    call hex
    mov al, '\n'
    call putc
    clc
    ret

read_madt:                      ; the I/O APIC, and on which pin the timer is; CF = there is none
    mov eax, MADT
    call acpi_find
    test esi, esi
    jz .done
    mov edx, [rsi + TABLE_LENGTH]
    add edx, esi
    add esi, MADT_ENTRIES
.entry:
    cmp esi, edx
    jae .done
    cmp byte ptr [rsi], MADT_OVERRIDE
    je .override
    cmp byte ptr [rsi], MADT_IO_APIC
    jne .next
    mov eax, [rsi + 4]
    mov [rip + io_apic], eax
    jmp .next
.override:
    cmp byte ptr [rsi + 3], IRQ_TIMER
    jne .next
    mov eax, [rsi + 4]
    mov [rip + timer_pin], eax
.next:
    movzx eax, byte ptr [rsi + 1]
    add esi, eax
    jmp .entry
.done:
    cmp dword ptr [rip + io_apic], 1        ; CF = it is still 0
    ret

; ---- PCI: ask every address of bus 0; where nobody is, all ones come back ---------------------------------------

show_pci:
    xor ebx, ebx                ; bus 15:8, device 7:3, function 2:0
.next:
    xor ecx, ecx
    call pci_read               ; device 31:16, vendor 15:0
    cmp ax, -1
    je .absent
    lea rsi, [rip + pci_text]
    call print
    movzx edx, bl
    shr edx, 3
    mov ecx, 2
    call hex
    mov al, '.'
    call putc
    mov edx, ebx
    and edx, 7
    mov ecx, 1
    call hex
    mov al, ' '
    call putc
    xor ecx, ecx
    call pci_read
    mov edx, eax
    mov ecx, 4
    call hex                    ; the vendor is the lower half
    mov al, ':'
    call putc
    shr edx, 16
    call hex
    lea rsi, [rip + class_text]
    call print
    mov ecx, 8                  ; class 31:24, subclass 23:16
    call pci_read
    mov edx, eax
    shr edx, 16
    mov ecx, 4
    call hex
    mov al, '\n'
    call putc
.absent:
    inc ebx
    cmp ebx, 256
    jb .next
    ret

; ---- the real-time clock: a register's number to port 70, its value from port 71 --------------------------------

show_time:
    mov al, 0x0A                ; register A, bit 7: it is just about to change the others
    call cmos
    test al, 0x80
    jnz show_time
    lea rsi, [rip + time_text]
    call print
    lea rbx, [rip + time_fields]
.field:
    mov al, [rbx]               ; which register: they are two decimal digits each (BCD), as firmware leaves them
    call cmos
    movzx edx, al
    mov ecx, 2
    call hex
    mov al, [rbx + 1]           ; what stands behind it; behind the century nothing
    add rbx, 2
    test al, al
    jz .field
    call putc
    cmp al, '\n'
    jne .field
    ret

cmos:
    out CMOS_INDEX, al
    in al, CMOS_INDEX + 1
    ret

; ---- interrupts: device -> pin -> vector -> local APIC ----------------------------------------------------------

start_interrupts:
    mov edi, TIMER_VECTOR
    mov eax, offset on_timer
    call idt_set
    mov edi, COM1_VECTOR
    mov eax, offset on_com1
    call idt_set
    call idt_load
    mov al, 0xFF                ; the same lines lead to the 8259s: nobody shall answer twice
    out PIC_MASTER_MASK, al
    out PIC_SLAVE_MASK, al
    mov edx, APIC
    mov dword ptr [rdx + APIC_SVR], 0x1FF

    ; The loader has mapped the local APIC, but not this: registers must not be cached, and are no code (bit 63).
    mov eax, [rip + io_apic]
    mov edx, eax
    sub edx, GIB_3
    shr edx, 21                 ; which 2 MiB of the fourth GiB
    and eax, 0xFFE00000
    or eax, UNCACHED_DATA
    bts rax, 63
    mov [rdx * 8 + HIGH_PD], rax

    mov r12d, [rip + io_apic]
    mov dword ptr [r12 + IO_APIC_INDEX], IO_APIC_VERSION
    lea rsi, [rip + io_apic_text]
    call print
    mov eax, [r12 + IO_APIC_WINDOW]
    shr eax, 16
    and eax, 0xFF
    inc eax
    call print_dec
    lea rsi, [rip + pins_text]
    call print
    mov eax, [rip + timer_pin]
    call print_dec
    mov al, '\n'
    call putc

    mov ecx, [rip + timer_pin]
    mov eax, TIMER_VECTOR
    call io_apic_set
    mov ecx, IRQ_COM1
    mov eax, COM1_VECTOR

; ECX = pin, EAX = vector: an edge, active high, fixed, to the processor with APIC id 0, not masked
io_apic_set:
    lea edx, [rcx * 2 + IO_APIC_PINS + 1]
    mov [r12 + IO_APIC_INDEX], edx
    mov dword ptr [r12 + IO_APIC_WINDOW], 0 ; the upper half first: 31:24 is the destination
    dec edx
    mov [r12 + IO_APIC_INDEX], edx
    mov [r12 + IO_APIC_WINDOW], eax         ; from this store on the pin is live
    ret

; ---- the 16550: it says when it wants more, and nobody has to look ----------------------------------------------

send_by_interrupts:
    mov dx, COM1_MCR
    mov al, 0x0B                ; DTR, RTS, OUT2
    out dx, al
    mov dx, COM1_IER
    mov al, 2                   ; the transmitter is empty now, so the first interrupt comes at once
    out dx, al
.wait:
    cli
    mov eax, [rip + next_byte]
    cmp eax, TEXT_SIZE
    jae .sent
    sti                         ; the instruction after STI is still shielded: no interrupt between the two
    hlt
    jmp .wait
.sent:
    mov dx, COM1_IER
    xor eax, eax
    out dx, al
    lea rsi, [rip + sent_text]
    call print
    mov eax, [rip + com1_count]
    call print_dec
    lea rsi, [rip + of_com1_text]
    jmp print

on_com1:
    push rax
    push rcx
    push rdx
    push rsi
    inc dword ptr [rip + com1_count]
    mov dx, COM1_IIR
    in al, dx                   ; the line falls, so that the next cause is an edge again
    mov ecx, FIFO
    mov esi, [rip + next_byte]
    mov dx, COM1
.byte:
    cmp esi, TEXT_SIZE
    jae .done
    mov al, [rsi + text]
    out dx, al
    inc esi
    dec ecx
    jnz .byte
.done:
    mov [rip + next_byte], esi
    mov edx, APIC
    mov dword ptr [rdx + APIC_EOI], 0
    pop rsi
    pop rdx
    pop rcx
    pop rax
    iretq

; ---- two clocks: how long is the interval timer's 10 ms for the PM timer? ---------------------------------------

compare_clocks:
    mov al, 0x30                ; counter 0, low byte then high byte, mode 0: its output rises at the end
    out PIT_MODE, al
    mov edx, [rip + pm_timer]
    in eax, dx
    mov ebx, eax
    mov al, PIT_10_MS & 0xFF
    out PIT_COUNTER_0, al
    mov al, PIT_10_MS >> 8
    out PIT_COUNTER_0, al       ; from here on it counts
.wait:
    cli
    cmp dword ptr [rip + timer_count], 0
    jne .over
    sti
    hlt
    jmp .wait
.over:
    in eax, dx
    sub eax, ebx                ; it counts at 3 579 545 Hz, three times as fast: nobody has to set it, nothing stops it
    lea rsi, [rip + clocks_text]
    call print
    call print_dec
    lea rsi, [rip + ticks_text]
    jmp print

on_timer:
    push rdx
    inc dword ptr [rip + timer_count]
    mov edx, APIC
    mov dword ptr [rdx + APIC_EOI], 0
    pop rdx
    iretq

; ---- off, by what was read: SLP_TYP in bits 12:10, SLP_EN is bit 13 ----------------------------------------------

acpi_off:
    mov eax, [rip + sleep_type]
    shl eax, 10
    or eax, 1 << 13
    mov edx, [rip + pm1a_control]
    out dx, ax
.stop:
    cli
    hlt
    jmp .stop

; EDX's lowest ECX digits; all registers are preserved
hex:
    push rax
    push rcx
    push rdx
    shl ecx, 2
    ror rdx, cl                 ; the highest of them to the top
.digit:
    rol rdx, 4
    mov al, dl
    and al, 0x0F
    add al, '0'
    cmp al, '9'
    jbe .put
    add al, 'a' - '9' - 1
.put:
    call putc
    sub ecx, 4
    jnz .digit
    pop rdx
    pop rcx
    pop rax
    ret

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/pci64.inc"
.include "lib/acpi64.inc"

pci_text:       .asciz "PCI 00:"
class_text:     .asciz ", class "
time_text:      .asciz "the clock says "
no_acpi_text:   .asciz "there are no tables of ACPI: this guest needs a PC board (hv run pc_devices --pc)\n"
pm_text:        .asciz "ACPI: the PM timer is port 0x"
off_text:       .asciz ", the switch is port 0x"
io_apic_text:   .asciz "I/O APIC: "
pins_text:      .asciz " pins, the interval timer is on pin "
sent_text:      .asciz "that took "
of_com1_text:   .asciz " interrupts of the 16550\n"
clocks_text:    .asciz "10 ms of the interval timer are "
ticks_text:     .asciz " ticks of the PM timer\n"
time_fields:    .byte 0x32, 0, 9, '-', 8, '-', 7, ' ', 4, ':', 2, ':', 0, '\n'  ; century, year ... seconds
text:           .ascii "this text goes out sixteen bytes at a time\n"
text_end:
TEXT_SIZE       = text_end - text

.align 4
pm_timer:       .long 0
pm1a_control:   .long 0
sleep_type:     .long 0
io_apic:        .long 0
timer_pin:      .long IRQ_TIMER
next_byte:      .long 0
com1_count:     .long 0
timer_count:    .long 0

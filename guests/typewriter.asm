; typewriter: what is typed at the serial port comes back, and Ctrl-D ends it. Run it with --pc --interactive.
;
; Shows: a receiver's interrupt on its way: UART, line 4, 8259, processor; HLT until it comes, so nobody polls.
; Read:  National Semiconductor "PC16550D", "Interrupts"; Intel "8259A", "Initialization Command Words".

.include "lib/machine.inc"

VECTOR  = 0x24                  ; line 4 of a master whose vectors begin at 0x20
CTRL_C  = 3
CTRL_D  = 4

.bits 64
.org 0x10000
.entry start

start:
    mov edi, VECTOR
    mov eax, offset on_key
    call idt_set
    call idt_load
    call start_pic
    call start_uart
    lea rsi, [rip + text]
    call print
.wait:
    sti                         ; the instruction after STI is still shielded: no interrupt between the two
    hlt
    jmp .wait

; The 8259 in four words: begin, first vector, where the slave is, 8086 mode; then every line but 4 is masked.
start_pic:
    mov al, 0x11
    out 0x20, al
    mov al, 0x20
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0xEF
    out 0x21, al
    ret

; 115200 baud, eight bits, FIFOs; an interrupt for what is received. OUT2 lets it out of the UART.
start_uart:
    mov dx, COM1 + 3
    mov al, 0x83                ; bit 7: the next two ports are the divisor
    out dx, al
    mov dx, COM1
    mov al, 1
    out dx, al
    inc edx
    mov al, 0
    out dx, al
    mov dx, COM1 + 3
    mov al, 3
    out dx, al
    dec edx
    mov al, 1                   ; FIFOs on
    out dx, al
    mov dx, COM1 + 4
    mov al, 8                   ; OUT2
    out dx, al
    mov dx, COM1 + 1
    mov al, 1                   ; received data
    out dx, al
    ret

on_key:
    push rax
    push rdx
    push rsi
.more:
    mov dx, COM1 + 5
    in al, dx
    test al, 1                  ; data ready
    jz .none
    mov dx, COM1
    in al, dx
    cmp al, CTRL_D
    je power_off
    cmp al, CTRL_C
    je .interrupt
    call putc
    cmp al, '\r'                ; Enter sends a carriage return only
    jne .more
    mov al, '\n'
    call putc
    jmp .more
.interrupt:
    lea rsi, [rip + interrupt]
    call print
    jmp .more
.none:
    mov al, 0x20
    out 0x20, al                ; end of interrupt, at the 8259
    pop rsi
    pop rdx
    pop rax
    iretq

.include "lib/serial64.inc"
.include "lib/idt64.inc"

text:
    .asciz "type; Ctrl-D ends\r\n"
interrupt:
    .asciz "^C\r\n"

; hello: the smallest guest that can be seen.
;
; Shows: a partition's first instruction in real mode; every OUT is a VM exit (reason 30) that travels to the parent
; partition, where the emulated 16550 UART prints it.
; Read:  SDM volume 1, "Input/Output"; SDM volume 3, "Instructions That Cause VM Exits Conditionally".

.bits 16
.org 0x7C00                     ; where a boot sector is loaded; CS = DS = SS = 0
.entry start

start:
    cld
    mov si, greeting
.next:
    lodsb                       ; AL = [DS:SI], SI + 1
    test al, al
    jz .done
    mov ah, al
    mov dx, 0x3FD               ; line status register
.busy:
    in al, dx
    test al, 0x20               ; bit 5: transmitter holding register empty
    jz .busy
    mov al, ah
    mov dx, 0x3F8               ; COM1 data register
    out dx, al
    jmp .next
.done:
    mov dx, 0x604               ; the power port of this platform
    mov ax, 0x2000
    out dx, ax
.stop:
    cli                         ; HLT with interrupts off: nothing will ever wake this VP
    hlt
    jmp .stop

greeting:
    .asciz "hello from a partition\n"

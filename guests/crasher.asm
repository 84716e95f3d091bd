; crasher: three faults on top of each other.
;
; Shows: #UD with no IDT -> #GP while delivering it -> #DF while delivering that -> triple fault. A real machine
; resets; a partition causes VM exit 2, and its parent gets the message HvMessageTypeUnrecoverableException.
; Read:  SDM volume 3, "Interrupt 8 - Double Fault Exception (#DF)"; TLFS "HvMessageTypeUnrecoverableException".

.bits 64
.org 0x10000
.entry start

start:
    lidt [rip + nothing]        ; limit 0: no gate at all
    ud2                         ; #UD: vector 6 is outside the table
    hlt                         ; never reached

nothing:
    .word 0
    .quad 0

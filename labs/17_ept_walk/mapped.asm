; A guest whose memory is mapped in every way this hypervisor uses: pages of 2 MiB, and pages of 4 KiB where it had to
; split one. The hypercall page does that: it is laid over a page of the guest, and the guest may not write to it.

.include "lib/machine.inc"

.bits 64
.org 0x10000
.entry start

start:
    call hypercall_init         ; the hypercall page now covers a page of ours
    mov qword ptr [rip + touched], 1
    hlt

.include "lib/hypercall64.inc"

.org 0x200000
touched: .quad 0
.org 0x400123
odd: .byte 1

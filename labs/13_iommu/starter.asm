; The IOMMU.
;
; A device copies memory for you, twice. The second copy reaches further than your memory does: see who stops it, where,
; and what the device says about it.
;
; `hv lab check` says how far you are; `hv lab hint` helps; docs/guests.md has the language.

.include "lib/machine.inc"
.include "lib/dma_engine.inc"   ; REG_SOURCE, REG_DESTINATION, REG_LENGTH, REG_COMMAND, REG_STATUS, REG_ACK

REG_ABORTED = 0x20              ; the address that was refused, 8 bytes
LAST_PAGE   = 0xFFF000          ; of this partition's memory, 16 MiB

.bits 64
.org 0x10000
.entry start

start:
    mov rbx, [INFO]             ; where the device's registers are
    ; 1. let the device copy the 32 bytes of `text` to `copy`, and wait until it is done

    ; 2. let it copy 8192 bytes from `text` to LAST_PAGE, and wait again;
    ;    then store REG_STATUS at `status` (4 bytes) and REG_ABORTED at `aborted` (8 bytes)

    hlt

.org 0x200000
status:  .quad 0
aborted: .quad 0
copy:
    .ascii "................................"

.org 0x300000
text:
    .ascii "A device knows no page tables.  "
    .skip 8160, 0x2E

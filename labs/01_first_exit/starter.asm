; The first VM exit.
;
; Ask the hypervisor for its signature: CPUID leaf 0x40000000. It answers with twelve letters, four in each of EBX, ECX
; and EDX, in this order. Store them at `signature`, then end with HLT.
;
; `hv lab check` says how far you are; `hv lab hint` helps; docs/guests.md has the language.

.bits 64                        ; the machine starts this program in 64-bit mode
.org 0x10000                    ; where code goes
.entry start

start:
    ; your instructions go here
    hlt                         ; nothing more to do: wait for an interrupt, which never comes

.org 0x200000                   ; where data goes
signature:
    .skip 12                    ; twelve bytes of zeros: put the letters here

; Wrong: the I is written by hand, and the interrupt comes behind D.
;
; Send an interrupt to yourself while interrupts are off, then let it in at one exact place. The letters say where it
; came: at the end `log` must hold "ABCID".
;
; `hv lab check` says how far you are; `hv lab hint` helps; docs/guests.md has the language.

.include "lib/machine.inc"

VECTOR = 0x40

.bits 64
.org 0x10000
.entry start

start:
    call prepare                ; IDT, APIC and letters; interrupts stay off
    mov ebx, APIC               ; [rbx + APIC_ICR_LOW] is a register of the APIC
    movsb                       ; A
    mov dword ptr [rbx + APIC_ICR_LOW], 0x40000 | VECTOR    ; to myself: it is pending, and must wait
    movsb                       ; B: RFLAGS.IF is still 0
    movsb                       ; C: in the shadow of STI
    mov al, 'I'
    stosb
    movsb                       ; D
    sti
    nop
    cli
    hlt

; ---- given: nothing to change from here on ----------------------------------------------------------------------

on_interrupt:                   ; appends an I, and tells the APIC that it is done
    mov al, 'I'
    stosb
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    iretq

prepare:
    mov edi, VECTOR
    mov eax, offset on_interrupt
    call idt_set
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF               ; software enable: an APIC that is off takes no interrupt
    mov ecx, HV_SINT0 + 3       ; a SINT with auto-EOI, which nobody uses: README.md says why
    mov eax, 0x20000 | 0x50
    xor edx, edx
    wrmsr
    lea rsi, [rip + letters]    ; MOVSB takes a letter from here ...
    lea rdi, [rip + log]        ; ... and appends it here; both go one byte further
    cld
    ret

.include "lib/idt64.inc"

letters: .ascii "ABCD"

.org 0x200000
log:
    .ascii "........"

; hypercalls32: the calling convention of 32-bit code, without paging.
;
; Shows: control word in EDX:EAX, input in EBX:ECX, output in EDI:ESI, result in EDX:EAX; a long list, whose rep start
; the hypervisor writes into EDX while timer interrupts come; what 32-bit code cannot have.
; Read:  TLFS "Hypercall Inputs", "Hypercall Outputs"; hypercalls.asm, which tries much more.

.include "lib/machine.inc"

NOTIFY_SPIN     = 0x08          ; call codes
SIGNAL          = 0x5D
FIND_VP         = 0x9A
FAST            = 1 << 16
NO_CONNECTION   = 0x12
MANY            = 1000          ; elements of the long list
PAGE32          = 0x61000       ; the hypercall page
VECTOR          = 0x30
PERIOD          = 8000          ; timer counts: 40 us

.bits 32
.org 0x10000
.entry start

start:
    mov ecx, HV_GUEST_OS_ID
    mov edx, 0x81000000
    mov eax, 0x00010000
    wrmsr
    mov ecx, HV_HYPERCALL
    xor edx, edx
    mov eax, PAGE32 | 1
    wrmsr

    mov edi, INPUT_PAGE         ; our own partition, then MANY times APIC id 0
    xor eax, eax
    mov ecx, 1024
    cld
    rep stosd
    mov dword ptr [INPUT_PAGE], -1
    mov dword ptr [INPUT_PAGE + 4], -1
    mov edi, OUTPUT_PAGE        ; answers that nobody gave
    mov ecx, 1024
    dec eax
    rep stosd

    mov dword ptr [control], FAST | NOTIFY_SPIN
    mov dword ptr [input], 100
    mov ebp, offset fast_text
    call try_call
    mov dword ptr [control], FAST | SIGNAL
    mov dword ptr [input], 77
    mov dword ptr [status], NO_CONNECTION
    mov ebp, offset signal_text
    call try_call
    mov dword ptr [control], FAST | NOTIFY_SPIN
    mov dword ptr [control + 4], 1              ; the rep count is in EDX
    mov dword ptr [status], 3
    mov ebp, offset count_text
    call try_call
    mov dword ptr [control], FAST | FIND_VP     ; 20 bytes; only 64-bit code has the XMM registers for it
    mov ebp, offset xmm_text
    call try_call
    mov dword ptr [control], FIND_VP
    mov dword ptr [input], INPUT_PAGE
    mov dword ptr [output], OUTPUT_PAGE
    mov dword ptr [output + 4], 0x1000          ; EDI counts: beyond the GPA space
    mov dword ptr [status], 4
    mov ebp, offset beyond_text
    call try_call

    ; The long list, with the timer running.
    mov dword ptr [output + 4], 0
    mov dword ptr [control + 4], MANY
    mov dword ptr [status], 0
    mov dword ptr [reps], MANY
    mov eax, offset on_timer
    mov [IDT + VECTOR * 8], ax
    mov dword ptr [IDT + VECTOR * 8 + 2], 0x18  ; code segment; offset 31:16 and the type follow
    mov byte ptr [IDT + VECTOR * 8 + 5], 0x8E
    shr eax, 16
    mov [IDT + VECTOR * 8 + 6], ax
    lidt [idt_pointer]
    mov ebx, APIC
    mov dword ptr [ebx + APIC_SVR], 0x1FF
    mov dword ptr [ebx + APIC_DIVIDE], 0x0B
    mov dword ptr [ebx + APIC_LVT_TIMER], 0x20000 | VECTOR
    mov dword ptr [ebx + APIC_INITIAL], PERIOD
    sti
    mov ebp, offset long_text
    call try_call
    cli
    mov dword ptr [APIC + APIC_INITIAL], 0

    mov edi, OUTPUT_PAGE
    mov ecx, MANY
    xor eax, eax
    repe scasd                                  ; all zeros?
    setne al
    cmp dword ptr [edi], -1                     ; and nothing behind them
    setne ah
    mov edx, eax
    mov eax, 0
    mov ebp, offset answers_text
    call say
    xor edx, edx
    cmp dword ptr [inside], 2
    adc edx, 0
    mov ebp, offset cut_text
    call say

    mov eax, [good]
    call print_digit
    mov ebp, offset of_text
    call print32
    mov eax, [all]
    call print_digit
    mov ebp, offset end_text
    call print32
    mov dx, POWER_PORT
    mov ax, POWER_OFF
    out dx, ax
.stop:
    cli
    hlt
    jmp .stop

try_call:                       ; EBP = text; what comes must be [status] and [reps]
    push ebp
    mov eax, [control]
    mov edx, [control + 4]
    mov ecx, [input]
    xor ebx, ebx
    mov esi, [output]
    mov edi, [output + 4]
    mov ebp, PAGE32
    call ebp                    ; VMCALL and RET
    pop ebp
    sub eax, [status]
    sub edx, [reps]
    or edx, eax
say:                            ; EDX = 0 when it is right, EBP = text
    inc dword ptr [all]
    push ebp
    mov ebp, offset wrong_text
    test edx, edx
    jnz .mark
    inc dword ptr [good]
    mov ebp, offset ok_text
.mark:
    call print32
    pop ebp
    call print32
    mov ebp, offset line_text
print32:                        ; EBP = text
    mov dx, COM1
.next:
    mov al, [ebp]
    test al, al
    jz .end
    out dx, al
    inc ebp
    jmp .next
.end:
    ret

print_digit:
    add al, '0'
    mov dx, COM1
    out dx, al
    ret

on_timer:                       ; [esp] = EIP. At VMCALL, with reps done, means in the middle of the list.
    push eax
    mov eax, edx                ; the upper half of the control word
    shr eax, 16
    cmp dword ptr [esp + 4], PAGE32
    jne .end
    cmp eax, [last_start]
    jbe .end
    mov [last_start], eax
    inc dword ptr [inside]
.end:
    mov dword ptr [APIC + APIC_EOI], 0
    pop eax
    iret

ok_text:        .asciz "ok     "
wrong_text:     .asciz "WRONG  "
line_text:      .asciz "\n"
of_text:        .asciz " of "
end_text:       .asciz " as the TLFS says\n"
fast_text:      .asciz "fast HvCallNotifyLongSpinWait"
signal_text:    .asciz "fast HvCallSignalEvent: there is no connection 77"
count_text:     .asciz "a rep count for a simple call: status 3"
xmm_text:       .asciz "more than 16 bytes do not fit the registers of 32-bit code"
beyond_text:    .asciz "output beyond the GPA space: status 4"
long_text:      .asciz "1000 elements: reps completed 1000"
answers_text:   .asciz "1000 answers are there, and no more"
cut_text:       .asciz "timer interrupts came in the middle, with the rep start in EDX"

.align 8
control: .quad 0
input:   .quad 0
output:  .quad 0
status:  .long 0
reps:    .long 0
all:     .long 0
good:    .long 0
inside:  .long 0
last_start: .long 0
idt_pointer:
    .word 0x7FF
    .long IDT

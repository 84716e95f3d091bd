; hypercalls32: the calling convention of 32-bit code, without paging.
;
; Shows: control word in EDX:EAX, input in EBX:ECX, output in EDI:ESI, result in EDX:EAX; a long list, whose rep start
; the hypervisor writes into EDX while timer interrupts come; input of up to 112 bytes that goes on in XMM0 to XMM5; what
; 32-bit code cannot have.
; Read:  TLFS "Hypercall Inputs", "XMM Fast Hypercall Input", "Hypercall Outputs"; hypercalls.asm, which tries much more.

.include "lib/machine.inc"

FLUSH_LIST      = 0x03          ; call codes
NOTIFY_SPIN     = 0x08
SEND_IPI_EX     = 0x15
SIGNAL          = 0x5D
FIND_VP         = 0x9A
FAST            = 1 << 16
ONE_UNIT        = 1 << 17       ; the variable header is 8 bytes long
EVERYWHERE      = 3             ; HV_FLUSH_FLAGS: all processors, all address spaces
NO_CONNECTION   = 0x12
MANY            = 1000          ; elements of the long list
PAGE32          = 0x61000       ; the hypercall page
VECTOR          = 0x30
IPI_VECTOR      = 0x31
UD              = 6             ; exception: no such instruction
FAULTED         = 0xFFFF        ; what try_call finds as status after it
OSFXSR          = 1 << 9        ; CR4: the operating system knows of the XMM registers
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
    mov dword ptr [control], FAST | FIND_VP     ; its answer would stand in XMM1
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
    mov ebx, IDT + VECTOR * 8
    call set_gate
    mov eax, offset on_ipi
    mov ebx, IDT + IPI_VECTOR * 8
    call set_gate
    mov eax, offset on_invalid_opcode
    mov ebx, IDT + UD * 8
    call set_gate
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
    call registers

    mov eax, [good]
    call print_number
    mov ebp, offset of_text
    call print32
    mov eax, [all]
    call print_number
    mov ebp, offset end_text
    call print32
    mov dx, POWER_PORT
    mov ax, POWER_OFF
    out dx, ax
.stop:
    cli
    hlt
    jmp .stop

; An interrupt for the VPs of a set: 24 bytes, the vector in EBX:ECX, the format of the set in EDI:ESI, the mask of its
; banks in the lower half of XMM0; then the one bank, a variable header, in the upper half.
registers:
    mov dword ptr [control], FAST | ONE_UNIT | SEND_IPI_EX
    mov dword ptr [control + 4], 0
    mov dword ptr [input], IPI_VECTOR
    mov dword ptr [output], 0
    mov dword ptr [reps], 0
    mov dword ptr [status], FAULTED             ; CR4 does not offer XMM yet
    mov ebp, offset no_xmm_text
    call try_call
    mov eax, cr4
    or eax, OSFXSR
    mov cr4, eax
    movdqu xmm0, [vp_0]
    mov dword ptr [status], 0
    mov ebp, offset ipi_text
    call try_call
    sti
    nop
    cli
    mov edx, [ipis]
    dec edx
    mov ebp, offset came_text
    call say

    ; A list of addresses to be flushed: 24 bytes of header, so that 11 of 8 bytes fill the registers.
    mov dword ptr [control], FAST | FLUSH_LIST
    mov dword ptr [control + 4], 11
    mov dword ptr [input], 0
    mov dword ptr [output], EVERYWHERE
    mov dword ptr [reps], 11
    pxor xmm5, xmm5
    mov ebp, offset eleven_text
    call try_call
    pcmpeqd xmm0, [vp_0]                        ; all ones when it is as it was
    pmovmskb edx, xmm0
    sub edx, 0xFFFF
    mov ebp, offset kept_text
    call say
    mov dword ptr [control + 4], 12
    mov dword ptr [status], 3
    mov dword ptr [reps], 0
    mov ebp, offset twelve_text                 ; try_call follows

try_call:                       ; EBP = text; what comes must be [status] and [reps]
    push ebp
    mov eax, [control]
    mov edx, [control + 4]
    mov ecx, [input]
    mov ebx, [input + 4]
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

print_number:                   ; EAX, below 100
    mov cl, 10
    div cl                      ; AL = tens, AH = ones
    test al, al
    jz .ones
    call .digit
.ones:
    mov al, ah
.digit:
    add al, '0'
    mov dx, COM1
    out dx, al
    ret

set_gate:                       ; EAX = handler, EBX = its place in the IDT
    mov [ebx], ax
    mov dword ptr [ebx + 2], 0x18               ; code segment; offset 31:16 and the type follow
    mov byte ptr [ebx + 5], 0x8E
    shr eax, 16
    mov [ebx + 6], ax
    ret

on_invalid_opcode:              ; at VMCALL, which is left out
    mov eax, FAULTED
    add dword ptr [esp], 3
    iret

on_ipi:
    inc dword ptr [ipis]
    mov dword ptr [APIC + APIC_EOI], 0
    iret

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
xmm_text:       .asciz "answers in registers are for 64-bit code only: status 3"
no_xmm_text:    .asciz "input in XMM0 while CR4 says that there is none: #UD"
ipi_text:       .asciz "fast HvCallSendSyntheticClusterIpiEx, its VP set in XMM0"
came_text:      .asciz "the interrupt came"
eleven_text:    .asciz "11 addresses to flush: 112 bytes fill the registers"
kept_text:      .asciz "the registers with input are as they were"
twelve_text:    .asciz "12 do not fit: status 3"
beyond_text:    .asciz "output beyond the GPA space: status 4"
long_text:      .asciz "1000 elements: reps completed 1000"
answers_text:   .asciz "1000 answers are there, and no more"
cut_text:       .asciz "timer interrupts came in the middle, with the rep start in EDX"

.align 16
vp_0:    .quad 1, 1             ; of the banks there is the first, and in it VP 0
control: .quad 0
input:   .quad 0
output:  .quad 0
status:  .long 0
reps:    .long 0
all:     .long 0
good:    .long 0
inside:  .long 0
ipis:    .long 0
last_start: .long 0
idt_pointer:
    .word 0x7FF
    .long IDT

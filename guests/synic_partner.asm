; synic_partner: does what the guest `synic` asks for. Event n of SINT2 is request n:
;
;   0..3  post as many messages as it says below through connection 2..5
;   4     signal events 0, 5, 5 and 9 through connection 6
;   5     signal event 5 again
;   6     signal event 3: the answer to a trigger of the monitor page
;   7     switch off
;
; Shows: the receiver's side of event flags: find a set bit, clear it with a locked instruction, then do its work.
; Read:  guests/synic.asm; TLFS "SynIC Event Flags".

.include "lib/machine.inc"

VECTOR  = 0x42
FLAGS   = SIEFP_PAGE + 2 * 256          ; SINT2's 2048 flags
POST    = 0x5C
SIGNAL  = 0x1005D                       ; HvCallSignalEvent, fast: parameters in registers

.bits 64
.org 0x10000
.entry start

start:
    mov edi, VECTOR
    mov eax, offset on_event
    mov ecx, HV_SINT2
    call synic_on
.wait:                                  ; requests are served with interrupts off, one after the other
    cli
    xor r12d, r12d
.look:
    lock btr dword ptr [FLAGS], r12d    ; take it: clear the flag first, then do the work
    jnc .next
    mov eax, r12d
    call serve
.next:
    inc r12d
    cmp r12d, 16
    jb .look
    cmp dword ptr [FLAGS], 0            ; one that came meanwhile has been told of already
    jne .wait
    sti                                 ; shields the HLT: an interrupt cannot slip in between
    hlt
    jmp .wait

serve:                                  ; EAX = request
    cmp eax, 7
    je power_off
    cmp eax, 6
    je .answer
    cmp eax, 5
    je .again
    cmp eax, 4
    je .events
    ja .done
    mov r13d, eax                       ; 0..3
    add r13d, 2                         ; its connection
    lea rsi, [rip + counts]
    movzx r14d, byte ptr [rsi + rax]
    xor r15d, r15d
.post:
    inc r15d
    call clear_input
    mov edi, INPUT_PAGE
    mov [rdi], r13d                     ; connection
    mov dword ptr [rdi + 8], 1          ; message type: ours to choose, without bit 31
    mov dword ptr [rdi + 12], 8         ; bytes of payload
    mov [rdi + 16], r15                 ; which is the message's number
    mov ecx, POST
    call hypercall
    cmp r15d, r14d
    jb .post
.done:
    ret
.events:
    xor eax, eax
    call signal
    mov eax, 5
    call signal
    mov eax, 5                          ; it is set already: no second interrupt
    call signal
    mov eax, 9
    jmp signal
.again:
    mov eax, 5
    jmp signal
.answer:
    mov eax, 3

signal:                                 ; EAX = flag
    mov edx, eax
    shl rdx, 32
    or rdx, 6                           ; connection
    xor r8d, r8d
    mov ecx, SIGNAL
    mov eax, HYPERCALL_PAGE
    jmp rax

on_event:                               ; the work is done above: here it is only heard of
    push rbx
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rbx
    iretq

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/hypercall64.inc"
.include "lib/synic64.inc"

counts: .byte 3, 2, 2, 2

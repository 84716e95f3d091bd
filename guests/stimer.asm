; stimer: the synthetic timers, in every mode that an operating system uses.
;
; Shows: a one-shot timer's count is a moment of the reference counter, a periodic one's is a period; a message in a slot
; of the message page, or an interrupt without one (direct mode); a count that enables by itself; a message that waits
; because the slot is taken; ticks that nobody took. Expiry is never early, and on an idle processor never late.
; Read:  TLFS "Synthetic Timers", "SynIC Message Delivery".

.include "lib/machine.inc"

SINT     = 2                    ; timers send their messages here
HV_SINT  = 0x40000090 + SINT
SLOT     = SIMP_PAGE + SINT * 256
CONFIG0  = 0x400000B0           ; configuration of timer 0; its count is the next MSR, timer 1 follows
COUNT0   = 0x400000B1
CONFIG1  = 0x400000B2
COUNT1   = 0x400000B3

ENABLE   = 1
PERIODIC = 2
LAZY     = 4
AUTO     = 8
DIRECT   = 0x1000               ; the vector stands in bits 11:4
TO_SINT  = SINT * 0x10000

MESSAGE_VECTOR = 0x40
DIRECT_VECTOR  = 0x41
TICKS    = 10
PERIOD   = 1000                 ; 100 us
LONG_PERIOD = 10000

.bits 64
.org 0x10000
.entry start

start:
    mov edi, MESSAGE_VECTOR
    mov eax, offset on_message
    call idt_set
    mov edi, DIRECT_VECTOR
    mov eax, offset on_tick
    call idt_set
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    mov ecx, HV_SIMP
    mov eax, SIMP_PAGE | 1
    call write_msr
    mov ecx, HV_SINT
    mov eax, MESSAGE_VECTOR
    call write_msr
    mov ecx, HV_SCONTROL
    mov eax, 1
    call write_msr

; 1. One-shot: a moment, one message, and the timer has switched itself off.
    call now
    lea r12, [rax + 5000]       ; in 500 us
    mov ecx, COUNT0
    mov rax, r12
    call write_msr
    mov ecx, CONFIG0
    mov eax, ENABLE | TO_SINT
    call write_msr
    call next_message           ; RAX = when it should expire, RDX = when it was delivered
    cmp rax, r12
    jne failed
    sub rdx, rax
    push rdx                    ; how late
    call now
    cmp rax, r12
    jb failed                   ; early
    mov ecx, CONFIG0
    call read_msr
    test eax, ENABLE
    jnz failed
    lea rsi, [rip + one_shot_text]
    call print
    pop rax
    call say_late

; 2. Auto-enable: the configuration is written once, each count starts the timer. A moment that is past expires at once.
    mov ecx, CONFIG0
    mov eax, AUTO | TO_SINT
    call write_msr
    call now
    lea r12, [rax + 2000]
    mov rax, r12
    mov ecx, COUNT0
    call write_msr
    mov ecx, CONFIG0
    call read_msr
    test eax, ENABLE            ; the count has set it
    jz failed
    call next_message
    cmp rax, r12
    jne failed
    mov eax, 1                  ; 100 ns after the partition was made: long past
    mov ecx, COUNT0
    call write_msr
    cmp dword ptr [SLOT], 0     ; the message is there already: no need to wait
    je failed
    call next_message
    cmp rax, 1
    jne failed
    lea rsi, [rip + auto_text]
    call print

; 3. Periodic: ten messages, exactly a period apart. First off, or the count would start the one-shot timer once more.
    mov ecx, CONFIG0
    xor eax, eax
    call write_msr
    mov ecx, COUNT0
    mov eax, PERIOD
    call write_msr
    mov ecx, CONFIG0
    mov eax, ENABLE | PERIODIC | TO_SINT
    call write_msr
    call ten_messages
    lea rsi, [rip + periodic_text]
    call print
    call say_late

; 4. Lazy: the same, and the hypervisor need not hurry if the processor does something else. Ours does not.
    mov ecx, CONFIG0
    mov eax, ENABLE | PERIODIC | LAZY | TO_SINT
    call write_msr
    call ten_messages
    lea rsi, [rip + lazy_text]
    call print
    call say_late

; 5. Direct: an interrupt of the timer's own vector; no SINT, no message, no EOM.
    mov ecx, CONFIG1
    mov eax, ENABLE | PERIODIC | DIRECT | DIRECT_VECTOR * 16
    call write_msr
    call now
    mov [rip + started], rax    ; the period begins when the count is written, which is an exit later
    mov ecx, COUNT1
    mov eax, PERIOD
    call write_msr
.more_ticks:
    cli
    cmp dword ptr [rip + ticks], TICKS
    jae .enough
    sti
    hlt
    jmp .more_ticks
.enough:
    mov ecx, COUNT1
    xor eax, eax                ; a count of 0 stops the timer
    call write_msr
    mov rax, [rip + last_tick]
    sub rax, [rip + started]
    cmp rax, TICKS * PERIOD
    jb failed
    cmp rax, TICKS * PERIOD + 50    ; a few exits: WRMSR, the interrupt, RDMSR
    ja failed
    cmp dword ptr [SLOT], 0     ; no message came
    jne failed
    lea rsi, [rip + direct_text]
    call print

; 6. Two timers, one slot: the second message waits in its timer until we free the slot and say so by EOM.
    call now
    lea r12, [rax + 1000]
    lea r13, [rax + 1500]
    mov ecx, COUNT0
    mov rax, r12
    call write_msr
    mov ecx, CONFIG0
    mov eax, ENABLE | TO_SINT
    call write_msr
    mov ecx, COUNT1
    mov rax, r13
    call write_msr
    mov ecx, CONFIG1
    mov eax, ENABLE | TO_SINT
    call write_msr
    mov r14d, 3000
    call spin                   ; interrupts are off: both expire
    test byte ptr [SLOT + 5], 1     ; MessagePending
    jz failed
    mov ecx, CONFIG1
    call read_msr
    test eax, ENABLE            ; not delivered, so still enabled
    jz failed
    call next_message           ; frees the slot, and writes EOM because another one waits
    cmp rax, r12
    jne failed
    call next_message
    cmp rax, r13
    jne failed
    sub rdx, rax
    cmp rdx, 1000
    jb failed                   ; delivered long after it expired, and it says so
    mov ecx, CONFIG1
    call read_msr
    test eax, ENABLE
    jnz failed
    lea rsi, [rip + busy_text]
    call print

; 7. Missed ticks: we look away for seven periods and a half. One message is in the slot and one in the timer; the others
;    are coalesced, and the ticks go on where they would have been.
    mov ecx, COUNT0
    mov eax, LONG_PERIOD
    call write_msr
    mov ecx, CONFIG0
    mov eax, ENABLE | PERIODIC | TO_SINT
    call write_msr
    mov r14d, LONG_PERIOD * 15 / 2
    call spin
    call next_message
    mov r12, rax                ; tick 1
    call next_message
    sub rax, r12                ; tick 2, which expired in time and was delivered late
    cmp rax, LONG_PERIOD
    jne failed
    call next_message
    sub rax, r12
    cmp rax, LONG_PERIOD * 7    ; tick 8: 3 to 7 nobody took
    jne failed
    lea rsi, [rip + missed_text]
    call print

; 8. Reset values again: all timers off, and no message comes.
    xor eax, eax
    mov ecx, CONFIG0
    call write_msr
    mov ecx, CONFIG1
    call write_msr
    mov r14d, LONG_PERIOD * 2
    call spin
    cmp dword ptr [SLOT], 0
    jne failed
    lea rsi, [rip + off_text]
    call print
    jmp power_off

failed:
    lea rsi, [rip + failed_text]
    call print
    jmp power_off

; Ten messages of timer 0, which is periodic; then it is stopped. RAX = the most that one was late, in 100 ns.
ten_messages:
    xor r15d, r15d
    call next_message
    mov r12, rax
    mov r13d, TICKS - 1
.more:
    call next_message
    lea rcx, [r12 + PERIOD]
    cmp rax, rcx
    jne failed
    mov r12, rax
    sub rdx, rax
    cmp rdx, r15
    cmova r15, rdx
    dec r13d
    jnz .more
    mov ecx, CONFIG0
    xor eax, eax
    call write_msr
    mov rax, r15
    ret

; The next timer message: RAX = its expiration time, RDX = its delivery time. Frees the slot.
next_message:
    cli
    cmp dword ptr [SLOT], 0
    jne .take
    sti                         ; the instruction after STI is still shielded: no interrupt between the two
    hlt
    jmp next_message
.take:
    cmp dword ptr [SLOT], 0x80000010    ; HvMessageTimerExpired
    jne failed
    cmp byte ptr [SLOT + 4], 24         ; bytes of payload
    jne failed
    mov rax, [SLOT + 16 + 8]
    mov rdx, [SLOT + 16 + 16]
    mov dword ptr [SLOT], 0             ; the slot is free ...
    mfence
    test byte ptr [SLOT + 5], 1         ; ... and only now look whether another message waits
    jz .done
    push rax
    mov ecx, HV_EOM
    xor eax, eax
    call write_msr
    pop rax
.done:
    ret

; Spin for R14 units of 100 ns.
spin:
    call now
    add r14, rax
.again:
    call now
    cmp rax, r14
    jb .again
    ret

say_late:                       ; RAX = how late, in 100 ns
    call print_dec
    lea rsi, [rip + late_text]
    call print
    ret

on_message:
    push rbx
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rbx
    iretq

on_tick:
    push rax
    push rbx
    call now
    mov [rip + last_tick], rax
    inc dword ptr [rip + ticks]
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rbx
    pop rax
    iretq

.include "lib/time64.inc"
.include "lib/serial64.inc"
.include "lib/idt64.inc"

one_shot_text: .asciz "one-shot: one message, "
auto_text:     .asciz "auto-enable: each count starts it, one that is past expires at once\n"
periodic_text: .asciz "periodic: ten messages, "
lazy_text:     .asciz "lazy: ten messages, "
direct_text:   .asciz "direct: ten interrupts and no message\n"
busy_text:     .asciz "busy slot: the second message came after EOM\n"
missed_text:   .asciz "missed ticks: 1, 2 and 8 of eight were told\n"
off_text:      .asciz "off: nothing comes\n"
late_text:     .asciz " x 100 ns late at most\n"
failed_text:   .asciz "a timer did what it should not\n"
.align 8
last_tick: .quad 0
started:   .quad 0
ticks:     .long 0

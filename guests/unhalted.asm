; unhalted: the timer that counts while its processor executes.
;
; Shows: a processor that works gets an interrupt each millisecond of its own work; one that sleeps gets none, and goes on
; in its period where it was when it wakes; as an NMI the timer comes through CLI, which is how an operating system finds
; a processor that is stuck. A byte of the VP assist page tells the handler that it was this timer.
; Read:  TLFS "Synthetic Time-Unhalted Timer", "Virtual VP Assist Page".

.include "lib/machine.inc"

HV_VP_RUNTIME = 0x40000010      ; 100 ns that we have executed
HV_VP_ASSIST  = 0x40000073
STIMER0_CONFIG = 0x400000B0
STIMER0_COUNT = 0x400000B1
UNHALTED_CONFIG = 0x40000114    ; vector, and bit 8 = on
UNHALTED_COUNT = 0x40000115     ; period in 100 ns
FEATURES  = 0x40000003          ; CPUID leaf; EDX bit 23 offers the timer

ASSIST_PAGE = 0x204000
EXPIRED   = ASSIST_PAGE + 56
ON        = 0x100
TICK_VECTOR = 0x40
WAKE_VECTOR = 0x41
NMI       = 2
ONE_SHOT_DIRECT = 0x1001 | WAKE_VECTOR * 16
PERIOD    = 10000               ; 1 ms
LONG_SLEEP = 200000             ; 20 ms

.bits 64
.org 0x10000
.entry start

start:
    mov eax, FEATURES
    cpuid
    bt edx, 23
    jnc failed
    mov edi, NMI
    mov eax, offset on_nmi
    call idt_set
    mov edi, TICK_VECTOR
    mov eax, offset on_tick
    call idt_set
    mov edi, WAKE_VECTOR
    mov eax, offset on_wake
    call idt_set
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    mov ecx, HV_VP_ASSIST
    mov eax, ASSIST_PAGE | 1
    call write_msr

; 1. We work for ten periods: ten ticks.
    mov ecx, UNHALTED_CONFIG
    mov eax, TICK_VECTOR | ON
    call write_msr
    call start_timer
    sti
    mov r14d, PERIOD * 10 + PERIOD / 2
    call work
    call say_ticks
    lea rsi, [rip + worked_text]
    call print

; 2. We sleep for twenty: none. Now a period is half over when we go to sleep: its tick comes after the other half.
    call start_timer
    mov r14d, PERIOD / 2
    call work
    call now
    mov r12, rax
    call sleep
    call now
    sub rax, r12
    cmp rax, LONG_SLEEP
    jb failed
    call say_ticks
    lea rsi, [rip + slept_text]
    call print
    mov r14d, PERIOD / 4
    call work
    cmp dword ptr [rip + ticks], 0
    jne failed
    mov r14d, PERIOD / 2
    call work
    call say_ticks
    lea rsi, [rip + half_text]
    call print

; 3. Interrupts are off, and we do not look: the tick waits. As an NMI it comes.
    cli
    call start_timer
    mov r14d, PERIOD * 3 / 2
    call work
    cmp dword ptr [rip + ticks], 0
    jne failed
    cmp byte ptr [EXPIRED], 1   ; but the page says so
    jne failed
    sti
    nop                         ; STI shields this one
    nop
    cmp dword ptr [rip + ticks], 1
    jne failed
    cli
    mov ecx, UNHALTED_CONFIG
    mov eax, NMI | ON
    call write_msr
    call start_timer
    mov r14d, PERIOD * 2 + PERIOD / 2
    call work
    call say_ticks
    lea rsi, [rip + nmi_text]
    call print

; 4. A period of 0 stops it.
    xor eax, eax
    mov ecx, UNHALTED_COUNT
    call write_msr
    mov dword ptr [rip + ticks], 0
    mov r14d, PERIOD * 2
    call work
    call say_ticks
    lea rsi, [rip + off_text]
    call print
    jmp power_off

failed:
    lea rsi, [rip + failed_text]
    call print
    jmp power_off

; A period begins now, and nothing is counted yet.
start_timer:
    mov dword ptr [rip + ticks], 0
    mov ecx, UNHALTED_COUNT
    mov eax, PERIOD
    jmp write_msr

; Execute for R14 units of 100 ns, by the clock of our own work.
work:
    mov ecx, HV_VP_RUNTIME
    call read_msr
    add r14, rax
.again:
    call read_msr
    cmp rax, r14
    jb .again
    ret

; Halt until a synthetic timer, which does count while we sleep, wakes us.
sleep:
    cli
    mov dword ptr [rip + woken], 0
    mov ecx, STIMER0_CONFIG
    mov eax, ONE_SHOT_DIRECT
    call write_msr
    call now
    add rax, LONG_SLEEP
    mov ecx, STIMER0_COUNT
    call write_msr
    mov ecx, STIMER0_CONFIG
    mov eax, ONE_SHOT_DIRECT
    call write_msr
.again:
    sti
    hlt
    cli
    cmp dword ptr [rip + woken], 0
    je .again
    sti
    ret

say_ticks:
    mov eax, [rip + ticks]
    call print_dec
    ret

on_tick:
    push rbx
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rbx
on_nmi:
    cmp byte ptr [EXPIRED], 1
    jne failed
    mov byte ptr [EXPIRED], 0
    inc dword ptr [rip + ticks]
    iretq

on_wake:
    push rbx
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rbx
    inc dword ptr [rip + woken]
    iretq

.include "lib/time64.inc"
.include "lib/serial64.inc"
.include "lib/idt64.inc"

worked_text: .asciz " ticks in ten periods of work\n"
slept_text:  .asciz " ticks in twenty periods of sleep\n"
half_text:   .asciz " tick after the rest of the period that the sleep had cut in two\n"
nmi_text:    .asciz " NMIs in two periods with interrupts off\n"
off_text:    .asciz " ticks while it is off\n"
failed_text: .asciz "the timer did what it should not\n"
.align 8
ticks: .long 0
woken: .long 0

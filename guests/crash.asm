; crash: how an operating system says that it panics, and begins again.
;
; Shows: the five crash parameters and a text, which reach the root partition; HV_X64_MSR_RESET, after which the parent
; starts us from the beginning with every register and every synthetic MSR as it was then, but for the crash
; parameters, which are still there to be looked at. `hv run crash` shows the report, and ends with 3: it was a crash.
; Read:  TLFS "Guest Crash Enlightenment Interface", "Partition Reset".

.include "lib/machine.inc"

HV_RESET     = 0x40000003
HV_TSC_PAGE  = 0x40000021
HV_CRASH_P0  = 0x40000100       ; to P4 = 0x40000104
HV_CRASH_CTL = 0x40000105
CAN_NOTIFY   = 63               ; bits of HV_CRASH_CTL, which reads what is supported
CAN_MESSAGE  = 62
PANIC        = 0xDEAD           ; our own number for what happened
TEXT_AT      = 0x204000

.bits 64
.org 0x10000
.entry start

start:
    mov ecx, HV_CRASH_P0
    call read_msr
    cmp rax, PANIC
    je again

    call hypercall_init         ; things that a reset has to undo
    mov ecx, HV_SCONTROL
    mov eax, 1
    call write_msr
    mov ecx, HV_TSC_PAGE
    mov eax, 0x205001
    call write_msr
    mov edi, 6                  ; #UD is where our "kernel" gives up
    mov eax, offset panic
    call idt_set
    call idt_load
    lea rsi, [rip + first_text]
    call print
the_bug:
    ud2

panic:                          ; [rsp] = RIP of the culprit, [rsp + 24] = its RSP
    mov ecx, HV_CRASH_CTL
    call read_msr
    bt rax, CAN_NOTIFY
    jnc failed
    bt rax, CAN_MESSAGE
    jnc failed
    mov ecx, HV_CRASH_P0
    mov eax, PANIC
    call write_msr
    inc ecx
    mov rax, [rsp]
    call write_msr
    inc ecx
    mov rax, [rsp + 24]
    call write_msr
    lea rsi, [rip + panic_text]
    mov edi, TEXT_AT
    mov r8d, panic_text_end - panic_text
    push rcx
    mov ecx, r8d
    cld
    rep movsb
    pop rcx
    inc ecx                     ; P3: where the text is, P4: how long
    mov eax, TEXT_AT
    call write_msr
    inc ecx
    mov eax, r8d
    call write_msr
    inc ecx
    mov rax, 0xC000000000000000 ; CrashNotify and CrashMessage
    call write_msr

    mov ecx, HV_RESET           ; nothing is left to do
    mov eax, 1
    call write_msr
    jmp failed                  ; never reached

again:                          ; the second life
    lea rsi, [rip + again_text]
    call print
    mov ecx, HV_CRASH_P0 + 1
    call read_msr
    call print_hex
    cmp rax, the_bug
    jne failed
    mov al, '\n'
    call putc
    mov ecx, HV_GUEST_OS_ID     ; all of these were not 0 before
    call read_msr
    test rax, rax
    jnz failed
    mov ecx, HV_HYPERCALL
    call read_msr
    test rax, rax
    jnz failed
    mov ecx, HV_SCONTROL
    call read_msr
    test rax, rax
    jnz failed
    mov ecx, HV_TSC_PAGE
    call read_msr
    test rax, rax
    jnz failed
    mov ecx, HV_TIME            ; time goes on
    call read_msr
    test rax, rax
    jz failed
    lea rsi, [rip + reset_text]
    call print
    jmp power_off

failed:
    lea rsi, [rip + failed_text]
    call print
    jmp power_off

.include "lib/time64.inc"
.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/hypercall64.inc"

first_text:  .asciz "running\n"
again_text:  .asciz "running again, after a crash at "
reset_text:  .asciz "the synthetic MSRs are reset, and the time is not\n"
failed_text: .asciz "that did not work\n"
panic_text:  .ascii "panic: an instruction that does not exist"
panic_text_end:

; synic: everything the synthetic interrupt controller does, with a partner in another partition that sends on request.
;
; Run:   hv run guests/synic.toml
; Shows: messages, one slot for each interrupt source (SINT): what does not fit waits, MessagePending says so, EOM asks for
; it. Sources that are polled, masked, or end their interrupts themselves (AutoEOI). Event flags: one interrupt however
; often they are signalled, until somebody clears them. A monitor page: a bit in memory that becomes an event.
; Read:  TLFS "Virtual Interrupt Controller", "Inter-Partition Communication"; guests/synic_partner.asm.

.include "lib/machine.inc"

MESSAGE_VECTOR  = 0x42          ; SINT2
POLLED_VECTOR   = 0x43          ; SINT3, which never raises it
MASKED_VECTOR   = 0x44          ; SINT4, likewise
AUTO_VECTOR     = 0x45          ; SINT5
EVENT_VECTOR    = 0x46          ; SINT6
MASKED          = 1 << 16
AUTO_EOI        = 1 << 17
POLLING         = 1 << 18

SLOT            = SIMP_PAGE     ; + 256 for each SINT: type u32, size u8, flags u8, reserved u16, sender u64, payload
PENDING         = 5             ; its flags; bit 0 = MessagePending
FLAGS           = SIEFP_PAGE + 6 * 256          ; SINT6's 2048 event flags
MONITOR         = 0x300000                      ; the monitor page: synic.toml puts it there
TRIGGER         = 40                            ; we use one of its 128 triggers: bit 8 of group 1
LATENCY         = 2000                          ; 200 us
REQUESTS        = 1                             ; our connection to the partner
SIGNAL          = 0x1005D                       ; HvCallSignalEvent, fast: parameters in registers
NOT_READY       = 0x18                          ; HV_STATUS_INVALID_SYNIC_STATE

.bits 64
.org 0x10000
.entry start

start:
    call find_synic
    call handlers_init
    call hypercall_init
    call synic_init
    call wait_for_partner
    call ordinary
    mov edi, SLOT + 3 * 256
    mov eax, 1                  ; request 1: two messages to SINT3
    lea rsi, [rip + polled_text]
    call quiet
    mov edi, SLOT + 4 * 256
    mov eax, 2                  ; request 2: two messages to SINT4
    lea rsi, [rip + masked_text]
    call quiet
    call automatic
    call events
    call monitored
    mov eax, 7                  ; the partner may go
    call request
    jmp power_off

; ---- a guest looks before it uses anything ----------------------------------------------------------------------

find_synic:
    mov eax, 0x40000001
    cpuid
    cmp eax, 0x31237648         ; "Hv#1": the interface is the one we know
    jne .none
    mov eax, 0x40000003
    cpuid
    test eax, 1 << 2            ; AccessSynicRegs
    jz .none
    test ebx, 1 << 5            ; SignalEvents
    jz .none
    mov ecx, 0x40000081         ; SVERSION
    rdmsr
    lea rsi, [rip + found_text]
    call print
    call print_dec
    mov al, '\n'
    jmp putc
.none:
    lea rsi, [rip + none_text]
    call print
    jmp power_off

handlers_init:
    mov edi, MESSAGE_VECTOR
    mov eax, offset on_message
    call idt_set
    mov edi, POLLED_VECTOR
    mov eax, offset on_quiet
    call idt_set
    mov edi, MASKED_VECTOR
    mov eax, offset on_quiet
    call idt_set
    mov edi, AUTO_VECTOR
    mov eax, offset on_auto
    call idt_set
    mov edi, EVENT_VECTOR
    mov eax, offset on_event
    call idt_set
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF       ; a disabled APIC takes no interrupt
    ret

synic_init:
    xor edx, edx
    mov ecx, HV_SIMP            ; the message page: GPFN and enable
    mov eax, SIMP_PAGE | 1
    wrmsr
    mov ecx, HV_SIEFP           ; the event-flag page
    mov eax, SIEFP_PAGE | 1
    wrmsr
    mov ecx, HV_SINT0 + 2
    mov eax, MESSAGE_VECTOR
    wrmsr
    inc ecx
    mov eax, POLLED_VECTOR | POLLING
    wrmsr
    inc ecx
    mov eax, MASKED_VECTOR | MASKED
    wrmsr
    inc ecx
    mov eax, AUTO_VECTOR | AUTO_EOI
    wrmsr
    inc ecx
    mov eax, EVENT_VECTOR
    wrmsr
    mov ecx, HV_SCONTROL        ; last: now something may come
    mov eax, 1
    wrmsr
    ret

; ---- asking the partner -----------------------------------------------------------------------------------------

request:                        ; EAX = event to signal; back comes AX = status
    mov edx, eax
    shl rdx, 32
    or rdx, REQUESTS            ; connection, flag number
    xor r8d, r8d
    mov ecx, SIGNAL
    mov eax, HYPERCALL_PAGE
    jmp rax

wait_for_partner:               ; its SynIC may not be on yet
    mov r12d, 10000
.again:
    mov eax, 15                 ; a request that it knows nothing of
    call request
    test ax, ax
    jz .ready
    cmp ax, NOT_READY
    jne .alone
    pause
    dec r12d
    jnz .again
.alone:
    lea rsi, [rip + alone_text]
    call print
    jmp power_off
.ready:
    ret

; ---- messages with an interrupt ---------------------------------------------------------------------------------

ordinary:                       ; three come while we take no interrupts: one is in the slot, two wait
    cli
    xor eax, eax
    call request
    mov edi, SLOT + 2 * 256
.wait:
    pause
    test byte ptr [rdi + PENDING], 1
    jz .wait
    lea rsi, [rip + waits_text]
    call print
.take:
    cli
    cmp dword ptr [rip + taken], 3
    jae .done
    sti                         ; shields the HLT: an interrupt cannot slip in between
    hlt
    jmp .take
.done:
    lea rsi, [rip + message_text]
    call print_counts
    jmp forget

on_message:
    push rax
    push rbx
    push rcx
    push rdx
    push rdi
    inc dword ptr [rip + interrupts]
    mov edi, SLOT + 2 * 256
    call take
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rdi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    iretq

; The protocol. RDI = slot. Empty it, and only then look whether more waits: the other order loses messages.
; A spurious interrupt finds nothing. RAX, RCX, RDX change.
take:
    cmp dword ptr [rdi], 0
    je .empty
    mov eax, [rdi + 16]         ; the payload: its number
    inc dword ptr [rip + taken]
    cmp eax, [rip + taken]
    je .right
    inc dword ptr [rip + wrong]
.right:
    mov dword ptr [rdi], 0      ; empty
    mfence
    test byte ptr [rdi + PENDING], 1
    jz .empty
    inc dword ptr [rip + pending]
    mov ecx, HV_EOM             ; any value
    xor eax, eax
    xor edx, edx
    wrmsr
.empty:
    ret

; ---- messages without one ---------------------------------------------------------------------------------------

quiet:                          ; EAX = request, RDI = slot, RSI = text: two messages, which we must look for
    push rdi
    call request
    pop rdi
    sti
.poll:
    pause
    call take
    cmp dword ptr [rip + taken], 2
    jb .poll
    call print_counts
    jmp forget

on_quiet:                       ; nobody comes here
    inc dword ptr [rip + interrupts]
    iretq

; ---- AutoEOI ----------------------------------------------------------------------------------------------------

automatic:
    mov eax, 3
    call request
.wait:
    cli
    cmp dword ptr [rip + taken], 2
    jae .done
    sti
    hlt
    jmp .wait
.done:
    mov ebx, APIC
    mov eax, [rbx + 0x120]      ; ISR, vectors 0x40..0x5F: is 0x45 still in service?
    shr eax, AUTO_VECTOR - 0x40
    and eax, 1
    mov [rip + wrong], eax
    lea rsi, [rip + auto_text]
    call print_counts
    jmp forget

on_auto:                        ; no EOI
    push rax
    push rcx
    push rdx
    push rdi
    inc dword ptr [rip + interrupts]
    mov edi, SLOT + 5 * 256
    call take
    pop rdi
    pop rdx
    pop rcx
    pop rax
    iretq

; ---- events -----------------------------------------------------------------------------------------------------

events:                         ; 0, 5, 5 and 9 while we take no interrupts: flags are all that is kept
    cli
    mov eax, 4
    call request
.wait:
    pause
    bt dword ptr [FLAGS], 9
    jnc .wait
    mov ecx, 3
    call wait_for_flags
    lea rsi, [rip + flags_text]
    call print_events
    mov eax, 5                  ; 5 again: it was cleared, so there is an interrupt again
    call request
    mov ecx, 1
    call wait_for_flags
    lea rsi, [rip + again_text]
    jmp print_events

wait_for_flags:                 ; ECX = how many must have come
.wait:
    cli
    cmp [rip + taken], ecx
    jae .done
    sti
    hlt
    jmp .wait
.done:
    ret

on_event:                       ; every flag that is set: clear it, with LOCK since others set theirs beside it
    push rax
    push rbx
    push rcx
    inc dword ptr [rip + interrupts]
    xor ecx, ecx
.look:
    lock btr dword ptr [FLAGS], ecx
    jnc .next
    inc dword ptr [rip + taken]
    bts dword ptr [rip + seen], ecx
.next:
    inc ecx
    cmp ecx, 16
    jb .look
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rcx
    pop rbx
    pop rax
    iretq

; ---- a monitor page ---------------------------------------------------------------------------------------------

monitored:                      ; one store instead of a hypercall: the hypervisor looks at the page every now and then
    mov edi, MONITOR
    mov word ptr [rdi + 0x240 + 2 * TRIGGER], LATENCY
    mov dword ptr [rdi + 0x440 + 8 * TRIGGER], REQUESTS         ; the event it means: connection,
    mov dword ptr [rdi + 0x444 + 8 * TRIGGER], 6                ; and flag number
    mov dword ptr [rdi], 1 << 1                                 ; group 1 is enabled
    mov ecx, HV_TIME
    rdmsr
    mov r12d, eax
    lock btr dword ptr [rdi + 20], 8                            ; armed: not seen yet,
    lock bts dword ptr [rdi + 16], 8                            ; pending
    mov ecx, 1
    call wait_for_flags                                         ; the partner answers with event 3
    mov ecx, HV_TIME
    rdmsr
    sub eax, r12d
    lea rsi, [rip + early_text]
    cmp eax, LATENCY
    jb .say
    lea rsi, [rip + late_text]
    cmp eax, 10 * LATENCY
    ja .say
    lea rsi, [rip + monitor_text]
.say:
    jmp print_events

; ---- printing ---------------------------------------------------------------------------------------------------

print_counts:                   ; RSI = text; then what `take` counted
    push rsi
    call print
    mov eax, [rip + taken]
    call print_dec
    lea rsi, [rip + interrupts_text]
    call print
    mov eax, [rip + interrupts]
    call print_dec
    lea rsi, [rip + pending_text]
    call print
    mov eax, [rip + pending]
    call print_dec
    lea rsi, [rip + right_text]
    cmp dword ptr [rip + wrong], 0
    je .end
    lea rsi, [rip + wrong_text]
.end:
    call print
    pop rsi
    ret

print_events:                   ; RSI = text; then the flags that came and the interrupts they took
    call print
    xor ecx, ecx
.flag:
    bt dword ptr [rip + seen], ecx
    jnc .next
    mov al, ' '
    call putc
    mov eax, ecx
    call print_dec
.next:
    inc ecx
    cmp ecx, 16
    jb .flag
    lea rsi, [rip + interrupts_text]
    call print
    mov eax, [rip + interrupts]
    call print_dec
    mov al, '\n'
    call putc

forget:
    xor eax, eax
    mov [rip + taken], eax
    mov [rip + interrupts], eax
    mov [rip + pending], eax
    mov [rip + wrong], eax
    mov [rip + seen], eax
    ret

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/hypercall64.inc"

found_text:      .asciz "SynIC version "
none_text:       .asciz "there is no SynIC here\n"
alone_text:      .asciz "no partner answers: this guest is half of guests/synic.toml\n"
waits_text:      .asciz "a message is in the slot and another one waits\n"
message_text:    .asciz "ordinary: messages "
polled_text:     .asciz "polled:   messages "
masked_text:     .asciz "masked:   messages "
auto_text:       .asciz "AutoEOI:  messages "
interrupts_text: .asciz ", interrupts "
pending_text:    .asciz ", pending "
right_text:      .asciz ", in order\n"
wrong_text:      .asciz ", and something is wrong\n"
flags_text:      .asciz "events:"
again_text:      .asciz "cleared, signalled again:"
monitor_text:    .asciz "monitor page, after its latency:"
early_text:      .asciz "monitor page, too early:"
late_text:       .asciz "monitor page, too late:"
.align 4
taken:      .long 0
interrupts: .long 0
pending:    .long 0
wrong:      .long 0
seen:       .long 0

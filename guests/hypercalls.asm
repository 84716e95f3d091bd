; hypercalls: the calling convention, tried as an operating system's self-test would try it.
;
; Shows: parameters in memory, in two registers and in XMM registers, with answers there too; a list of 1000 elements
; that timer interrupts cut into pieces, without the caller knowing; every mistake of the control word and of the
; addresses, each with its status; what is no status but a fault.
; Read:  TLFS "Hypercall Interface". A line is `ok`, or says what came instead.

.include "lib/machine.inc"

; call codes
NOTIFY_SPIN     = 0x08          ; takes 8 bytes, gives nothing, always succeeds
CREATE          = 0x40          ; needs a privilege that no child has
POST            = 0x5C          ; takes 256 bytes
SIGNAL          = 0x5D          ; takes 8 bytes
EXTENSIONS      = 0x8001        ; HvExtCallQueryCapabilities: takes nothing, gives 8 bytes
FIND_VP         = 0x9A          ; HvCallGetVpIndexFromApicId: 16 bytes and a list of u32, gives a list of u32

; the control word
FAST            = 1 << 16
VARIABLE        = 1 << 17       ; one unit of 8 bytes
NESTED          = 1 << 31
REPS            = 1 << 32       ; times the rep count
START           = 1 << 48       ; times the rep start

; status codes
BAD_CODE        = 2
BAD_INPUT       = 3
BAD_ALIGNMENT   = 4
BAD_PARAMETER   = 5
DENIED          = 6
NO_CONNECTION   = 0x12
FAULT           = 1 << 63       ; ours: not a result, but the vector of a fault
UD              = FAULT | 6
GP              = FAULT | 13

MESSAGE         = 0x203000      ; the input of HvCallPostMessage: a connection that nobody made
NOWHERE         = 1 << 45       ; beyond every GPA space
MANY            = 1000          ; elements of the long list
VECTOR          = 0x30
PERIOD          = 8000          ; counts of the timer between two interrupts: 40 us
USER_STACK      = 0x50000
USER_CODE       = 0x3B          ; selectors of our own GDT
USER_DATA       = 0x33
CR0_TS          = 3             ; bit numbers
CR4_OSFXSR      = 9

.bits 64
.org 0x10000
.entry start

start:
    call catch_init
    call before_the_page
    call hypercall_init
    mov dword ptr [MESSAGE], 77
    mov dword ptr [MESSAGE + 8], 1
    call fill_list
    call simple_cases
    call lists
    call registers
    call long_list
    call faults
    call locked_page

    mov eax, [rip + good]
    call print_dec
    lea rsi, [rip + of_text]
    call print
    mov eax, [rip + all]
    call print_dec
    lea rsi, [rip + end_text]
    call print
    jmp power_off

; ---- what is asked, and what must come --------------------------------------------------------------------------

; RAX = routine to try, RCX = what must come (a number, or FAULT and a vector), RSI = text
expect:
    push rbx
    push rcx
    push rsi
    call try
    pop rsi
    pop rcx
    cmp edx, NO_FAULT
    je compare.value
    mov edx, edx
    mov rax, FAULT
    or rax, rdx
    jmp compare.value
compare:                        ; RAX = what came, the others as for `expect`
    push rbx
.value:
    mov rbx, rax
    inc dword ptr [rip + all]
    cmp rbx, rcx
    jne .wrong
    inc dword ptr [rip + good]
    push rsi
    lea rsi, [rip + ok_text]
    call print
    pop rsi
    call print
    jmp .end
.wrong:
    push rsi
    lea rsi, [rip + wrong_text]
    call print
    pop rsi
    call print
    lea rsi, [rip + came_text]
    call print
    mov rax, rbx
    call print_hex
    lea rsi, [rip + not_text]
    call print
    mov rax, rcx
    call print_hex
.end:
    mov al, '\n'
    call putc
    pop rbx
    ret

; RCX, RDX, R8 from memory, so that `try` has a routine without parameters
one_call:
    mov rcx, [rip + control]
    mov rdx, [rip + input]
    mov r8, [rip + output]
    mov eax, HYPERCALL_PAGE
    jmp rax                     ; VMCALL and RET

set_call:                       ; RCX = control word, input and output in their usual places
    mov [rip + control], rcx
    mov qword ptr [rip + input], INPUT_PAGE
    mov qword ptr [rip + output], OUTPUT_PAGE
    ret

; ---- the page ---------------------------------------------------------------------------------------------------

before_the_page:
    mov eax, offset own_vmcall
    mov rcx, UD
    lea rsi, [rip + early_text]
    call expect
    mov eax, offset enable_unnamed      ; "Establishing the Hypercall Interface": first say who you are
    mov ecx, 0
    lea rsi, [rip + unnamed_text]
    jmp expect

own_vmcall:                     ; the instruction alone, wherever this stands, is no way in
    mov ecx, FAST | NOTIFY_SPIN
    vmcall
    ret

enable_unnamed:
    mov ecx, HV_HYPERCALL
    xor edx, edx
    mov eax, HYPERCALL_PAGE | 1
    wrmsr
    rdmsr
    and eax, 1
    ret

; ---- one call after the other -----------------------------------------------------------------------------------

simple_cases:
    lea rbx, [rip + cases]
.next:
    cmp qword ptr [rbx], 0
    je .done
    mov rax, [rbx]
    mov [rip + control], rax
    mov rax, [rbx + 8]
    mov [rip + input], rax
    mov rax, [rbx + 16]
    mov [rip + output], rax
    mov rcx, [rbx + 24]
    lea rsi, [rbx + 32]
    mov eax, offset one_call
    call expect
    add rbx, 32
.skip:                          ; to the next case: behind the zero byte of the text
    inc rbx
    cmp byte ptr [rbx - 1], 0
    jne .skip
    jmp .next
.done:
    ret

fill_list:                      ; header: our own partition; then MANY times APIC id 0, which is our VP's
    push rcx
    push rdi
    mov edi, INPUT_PAGE
    mov qword ptr [rdi], -1
    mov qword ptr [rdi + 8], 0
    add edi, 16
    mov ecx, MANY
    xor eax, eax
    rep stosd
    mov edi, OUTPUT_PAGE        ; and answers that nobody gave
    mov ecx, 1024
    dec eax
    rep stosd
    pop rdi
    pop rcx
    ret

; ---- lists ------------------------------------------------------------------------------------------------------

lists:
    call fill_list
    mov dword ptr [INPUT_PAGE + 16 + 5 * 4], 9      ; the sixth id: no VP of ours has it
    mov rcx, 8 * REPS | FIND_VP
    call set_call
    mov eax, offset one_call
    mov rcx, 5 * REPS | BAD_PARAMETER               ; five are done, in spite of the status
    lea rsi, [rip + sixth_text]
    call expect
    mov ecx, 5
    lea rsi, [rip + written_text]
    call answers

    call fill_list
    mov rcx, 6 * START | 8 * REPS | FIND_VP
    call set_call
    mov eax, offset one_call
    mov rcx, 8 * REPS                               ; the count is absolute
    lea rsi, [rip + middle_text]
    call expect
    mov eax, [OUTPUT_PAGE + 5 * 4]
    add eax, [OUTPUT_PAGE + 6 * 4]
    add eax, [OUTPUT_PAGE + 7 * 4]
    add eax, [OUTPUT_PAGE + 8 * 4]
    mov ecx, -2                                     ; two of the four have their answer, which is 0
    lea rsi, [rip + middle_written_text]
    jmp compare

answers:                        ; ECX = how many there must be, RSI = text: zeros, and then what was there before
    mov edi, OUTPUT_PAGE
    xor eax, eax
.more:
    cmp dword ptr [rdi + rax * 4], 0
    jne .end
    inc eax
    cmp eax, 1024
    jb .more
.end:
    jmp compare

; ---- XMM registers ----------------------------------------------------------------------------------------------

registers:
    ; Eight elements: RDX and R8 hold the header, XMM0 and XMM1 the list, XMM2 and XMM3 get the answers.
    mov rcx, 8 * REPS | FAST | FIND_VP
    mov eax, offset xmm_call
    call expect_xmm
    lea rsi, [rip + xmm2_text]
    movdqa xmm0, xmm2
    por xmm0, xmm3
    call xmm_is_zero
    lea rsi, [rip + xmm4_text]
    pcmpeqd xmm5, xmm5                              ; all ones, as before the call
    pcmpeqd xmm5, xmm4
    pmovmskb eax, xmm5
    mov ecx, 0xFFFF
    call compare

    ; Three: 28 bytes of input, so that the answers begin at byte 32, in XMM1. Its last four bytes are nobody's.
    mov rcx, 3 * REPS | FAST | FIND_VP
    mov eax, offset xmm_call_ones
    mov r9, 3 * REPS
    lea rsi, [rip + three_text]
    call expect_result
    pcmpeqd xmm5, xmm5
    pcmpeqd xmm5, xmm1
    pmovmskb eax, xmm5
    mov ecx, 0xF000
    lea rsi, [rip + part_text]
    call compare

    mov rcx, 12 * REPS | FAST | FIND_VP             ; 64 bytes of list, 48 of answers: together 112, which just fits
    mov r9, 12 * REPS
    lea rsi, [rip + twelve_text]
    mov eax, offset xmm_call_twelve
    call expect_result
    mov rcx, 13 * REPS | FAST | FIND_VP
    mov r9, BAD_INPUT
    lea rsi, [rip + thirteen_text]
    mov eax, offset xmm_call
    call expect_result

    ; An operating system that has not switched XMM on has nothing there that it could mean.
    mov rcx, 8 * REPS | FAST | FIND_VP
    mov r9, UD
    lea rsi, [rip + osfxsr_text]
    mov eax, offset call_without_osfxsr
    call expect_result
    mov rax, cr4
    bts rax, CR4_OSFXSR
    mov cr4, rax
    mov rcx, 8 * REPS | FAST | FIND_VP
    mov r9, UD
    lea rsi, [rip + ts_text]
    mov eax, offset call_with_ts
    call expect_result
    mov rcx, FAST | NOTIFY_SPIN                     ; ... which does not matter to a call without them
    xor r9d, r9d
    lea rsi, [rip + plain_text]
    mov eax, offset call_with_ts
    call expect_result
    clts
    ret

expect_xmm:                     ; all eight are found
    mov r9, 8 * REPS
    lea rsi, [rip + xmm_text]
expect_result:                  ; RCX = control word, RAX = routine, R9 = what must come, RSI = text
    mov [rip + control], rcx
    mov rcx, r9
    jmp expect

xmm_call_ones:                  ; XMM1 is no list, but ones
    call load_xmm
    pcmpeqd xmm1, xmm1
    jmp fast_list
xmm_call_twelve:                ; XMM2 is a list too
    call load_xmm
    pxor xmm2, xmm2
    jmp fast_list
xmm_call:
    call load_xmm
fast_list:
    mov rdx, -1                 ; the header: partition, then trust level and padding
    xor r8d, r8d
    mov rcx, [rip + control]
    mov eax, HYPERCALL_PAGE
    jmp rax

load_xmm:
    pxor xmm0, xmm0             ; APIC ids: all 0
    pxor xmm1, xmm1
    pcmpeqd xmm2, xmm2
    pcmpeqd xmm3, xmm3
    pcmpeqd xmm4, xmm4
    ret

xmm_is_zero:                    ; XMM0
    pxor xmm5, xmm5
    pcmpeqd xmm5, xmm0
    pmovmskb eax, xmm5
    mov ecx, 0xFFFF
    jmp compare

call_without_osfxsr:
    mov rax, cr4
    btr rax, CR4_OSFXSR
    mov cr4, rax
    jmp fast_list
call_with_ts:
    mov rax, cr0
    bts rax, CR0_TS
    mov cr0, rax
    jmp fast_list

; ---- a long list, and interrupts --------------------------------------------------------------------------------

long_list:
    call fill_list
    mov edi, VECTOR
    mov eax, offset on_timer
    call idt_set
    mov rcx, MANY * REPS | FIND_VP
    call set_call
    call read_time
    mov r12, rax
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    mov dword ptr [rbx + APIC_DIVIDE], 0x0B             ; divide by 1
    mov dword ptr [rbx + APIC_LVT_TIMER], 0x20000 | VECTOR      ; periodic
    mov dword ptr [rbx + APIC_INITIAL], PERIOD
    sti
    call one_call
    cli
    mov dword ptr [rbx + APIC_INITIAL], 0
    mov rcx, MANY * REPS
    lea rsi, [rip + long_text]
    call compare
    mov ecx, MANY
    lea rsi, [rip + long_written_text]
    call answers
    call read_time
    sub rax, r12
    cmp rax, MANY               ; a rep that takes no time would let a guest stop the clock
    setae al
    movzx eax, al
    mov ecx, 1
    lea rsi, [rip + time_text]
    call compare
    mov eax, [rip + inside]
    cmp eax, 2
    setae al
    movzx eax, al
    mov ecx, 1
    lea rsi, [rip + cut_text]
    jmp compare

on_timer:                       ; [rsp] = RIP. At VMCALL, with reps done, means in the middle of the list.
    push rax
    push rbx
    mov rax, rcx                ; the control word, as the hypervisor has left it for us
    shr rax, 48
    cmp qword ptr [rsp + 16], HYPERCALL_PAGE
    jne .end
    cmp eax, [rip + last_start]
    jbe .end
    mov [rip + last_start], eax
    inc dword ptr [rip + inside]
.end:
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rbx
    pop rax
    iretq

read_time:
    mov ecx, HV_TIME
    rdmsr
    shl rdx, 32
    or rax, rdx
    ret

; ---- faults -----------------------------------------------------------------------------------------------------

faults:
    mov eax, offset own_vmcall
    mov rcx, UD
    lea rsi, [rip + elsewhere_text]
    call expect
    mov eax, offset write_page
    mov rcx, GP
    lea rsi, [rip + write_text]
    call expect
    call allow_user
    mov eax, offset user_call
    mov rcx, UD
    lea rsi, [rip + user_text]
    jmp expect

write_page:
    mov dword ptr [HYPERCALL_PAGE], 0
    ret

allow_user:                     ; our GDT is the loader's and two descriptors; the first 2 MiB are the user's too
    mov esi, 0x70000
    lea rdi, [rip + gdt]
    mov ecx, 0x30 / 8
    rep movsq
    lgdt [rip + gdt_pointer]
    or qword ptr [START_PD - 0x2000], 4         ; PML4, PDPT, page directory: U/S
    or qword ptr [START_PD - 0x1000], 4
    or qword ptr [START_PD], 4
    mov rax, cr3
    mov cr3, rax
    ret

user_call:                      ; IRETQ to VMCALL at CPL 3
    mov ecx, FAST | NOTIFY_SPIN
    push USER_DATA
    push USER_STACK
    push 2
    push USER_CODE
    push HYPERCALL_PAGE
    iretq

; ---- the page goes, comes again, and stays for ever -------------------------------------------------------------

locked_page:
    mov eax, offset forget_name
    mov ecx, 0
    lea rsi, [rip + forgotten_text]
    call expect
    mov eax, offset own_vmcall
    mov rcx, UD
    lea rsi, [rip + early_text]
    call expect
    call hypercall_init
    mov ecx, HV_HYPERCALL
    rdmsr
    or eax, 2                   ; Locked
    wrmsr
    mov eax, offset enable_unnamed
    mov rcx, GP
    lea rsi, [rip + locked_text]
    call expect
    mov rcx, FAST | NOTIFY_SPIN
    call set_call
    mov eax, offset one_call
    xor ecx, ecx
    lea rsi, [rip + still_text]
    jmp expect

forget_name:                    ; writing 0 to the guest's identity takes the page away
    mov ecx, HV_GUEST_OS_ID
    xor eax, eax
    xor edx, edx
    wrmsr
    mov ecx, HV_HYPERCALL
    rdmsr
    and eax, 1
    ret

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/catch64.inc"
.include "lib/hypercall64.inc"

ok_text:        .asciz "ok     "
wrong_text:     .asciz "WRONG  "
came_text:      .asciz ": "
not_text:       .asciz " and not "
of_text:        .asciz " of "
end_text:       .asciz " as the TLFS says\n"
early_text:     .asciz "VMCALL without a hypercall page: #UD"
unnamed_text:   .asciz "the page is not enabled for a guest without a name"
sixth_text:     .asciz "the sixth of eight elements is wrong: status 5, reps completed 5"
written_text:   .asciz "the answers of the five are there, and no more"
middle_text:    .asciz "begin at rep 6 of 8: reps completed 8"
middle_written_text: .asciz "the answers of reps 6 and 7 are there, and no more"
xmm_text:       .asciz "eight elements in XMM0 and XMM1"
xmm2_text:      .asciz "their answers in XMM2 and XMM3"
xmm4_text:      .asciz "XMM4 as it was"
three_text:     .asciz "three elements in XMM0"
part_text:      .asciz "their answers in 12 bytes of XMM1, the last 4 as they were"
twelve_text:    .asciz "64 bytes of input and 48 of output fit"
thirteen_text:  .asciz "one element more does not: status 3"
osfxsr_text:    .asciz "XMM without CR4.OSFXSR: #UD"
ts_text:        .asciz "XMM with CR0.TS: #UD"
plain_text:     .asciz "a fast call without XMM, with CR0.TS"
long_text:      .asciz "1000 elements: reps completed 1000"
long_written_text: .asciz "1000 answers are there"
time_text:      .asciz "they took their time"
cut_text:       .asciz "timer interrupts came in the middle, with the rep start in RCX"
elsewhere_text: .asciz "VMCALL outside the hypercall page: #UD"
write_text:     .asciz "a write to the hypercall page: #GP"
user_text:      .asciz "VMCALL in the page at CPL 3: #UD"
forgotten_text: .asciz "without a name the page is disabled again"
locked_text:    .asciz "a write to the locked HV_X64_MSR_HYPERCALL: #GP"
still_text:     .asciz "and the page goes on to work"

.align 8
control: .quad 0
input:   .quad 0
output:  .quad 0
all:     .long 0
good:    .long 0
inside:  .long 0                ; interrupts that came in the middle of the long list
last_start: .long 0
gdt:     .skip 0x30
         .quad 0x00CFF2000000FFFF       ; 30: data, DPL 3
         .quad 0x00AFFA000000FFFF       ; 38: 64-bit code, DPL 3
gdt_pointer:
    .word 0x3F
    .quad gdt

cases:                          ; control word, input, output, result value, text; a zero ends it
    .quad FAST | NOTIFY_SPIN, 100, 0, 0
    .asciz "fast HvCallNotifyLongSpinWait"
    .quad FAST | SIGNAL, 77, 0, NO_CONNECTION
    .asciz "fast HvCallSignalEvent: there is no connection 77"
    .quad POST, MESSAGE, 0, NO_CONNECTION
    .asciz "HvCallPostMessage from memory: no connection either"
    .quad POST, MESSAGE, 3, NO_CONNECTION
    .asciz "an address is ignored where nothing goes that way"
    .quad 8 * REPS | FIND_VP, INPUT_PAGE, OUTPUT_PAGE, 8 * REPS
    .asciz "HvCallGetVpIndexFromApicId for eight: reps completed 8"
    .quad 0x7FFF, 0, 0, BAD_CODE
    .asciz "no such call: status 2"
    .quad EXTENSIONS, 0, OUTPUT_PAGE, 0
    .asciz "HvExtCallQueryCapabilities"
    .quad FAST | EXTENSIONS, 0, 0, 0
    .asciz "its answer in RDX"
    .quad 0xFFFF, 0, 0, BAD_CODE
    .asciz "no such extended call"
    .quad FAST | NOTIFY_SPIN | 1 << 27, 0, 0, BAD_INPUT
    .asciz "reserved bit 27: status 3"
    .quad FAST | NOTIFY_SPIN | 1 << 30, 0, 0, BAD_INPUT
    .asciz "reserved bit 30"
    .quad FAST | NOTIFY_SPIN | 1 << 44, 0, 0, BAD_INPUT
    .asciz "reserved bit 44"
    .quad FAST | NOTIFY_SPIN | 1 << 47, 0, 0, BAD_INPUT
    .asciz "reserved bit 47"
    .quad FAST | NOTIFY_SPIN | 1 << 60, 0, 0, BAD_INPUT
    .asciz "reserved bit 60"
    .quad FAST | NOTIFY_SPIN | 1 << 63, 0, 0, BAD_INPUT
    .asciz "reserved bit 63"
    .quad FAST | NOTIFY_SPIN | NESTED, 0, 0, BAD_INPUT
    .asciz "a nested call, where nothing is nested"
    .quad FAST | NOTIFY_SPIN | REPS, 0, 0, BAD_INPUT
    .asciz "a rep count for a simple call"
    .quad FAST | NOTIFY_SPIN | START, 0, 0, BAD_INPUT
    .asciz "a rep start for a simple call"
    .quad FIND_VP, INPUT_PAGE, OUTPUT_PAGE, BAD_INPUT
    .asciz "a list of none"
    .quad 2 * START | 2 * REPS | FIND_VP, INPUT_PAGE, OUTPUT_PAGE, BAD_INPUT
    .asciz "a rep start that is the rep count"
    .quad VARIABLE | POST, MESSAGE, 0, BAD_INPUT
    .asciz "a variable header for a call that has none"
    .quad FAST | POST, 0, 0, BAD_INPUT
    .asciz "256 bytes do not fit registers"
    .quad POST, MESSAGE + 4, 0, BAD_ALIGNMENT
    .asciz "input at no multiple of 8: status 4"
    .quad POST, MESSAGE + 0xF08, 0, BAD_ALIGNMENT
    .asciz "input across the end of a page"
    .quad POST, NOWHERE, 0, BAD_ALIGNMENT
    .asciz "input beyond the GPA space"
    .quad REPS | FIND_VP, INPUT_PAGE, OUTPUT_PAGE + 4, BAD_ALIGNMENT
    .asciz "output at no multiple of 8"
    .quad 3 * REPS | FIND_VP, INPUT_PAGE, OUTPUT_PAGE + 0xFF8, BAD_ALIGNMENT
    .asciz "output across the end of a page"
    .quad REPS | FIND_VP, INPUT_PAGE, NOWHERE, BAD_ALIGNMENT
    .asciz "output beyond the GPA space"
    .quad 1021 * REPS | FIND_VP, INPUT_PAGE, OUTPUT_PAGE, BAD_ALIGNMENT
    .asciz "a list that is longer than its page"
    .quad FAST | SIGNAL, 77 | 1 << 48, 0, BAD_PARAMETER
    .asciz "a reserved field of the input: status 5"
    .quad 4 * REPS | FIND_VP, INPUT_PAGE, INPUT_PAGE + 16, BAD_PARAMETER
    .asciz "output over input"
    .quad CREATE, INPUT_PAGE, OUTPUT_PAGE, DENIED
    .asciz "no privilege: status 6"
    .quad 0

; root_child: the root partition. It makes a child by hypercalls alone, does for it what it cannot do itself, and takes
; it apart again. Run it with --root: as a child it may create nothing.
;
; Shows: what a management stack is made of. Create, deposit, initialize, map, create a VP, set its registers, install
; intercepts, let it run; then one message for each thing that stops the child, on SINT0, answered by SetVpRegisters.
; Read:  TLFS "Partition Management", "HvCallDepositMemory", "Intercepts", "HvCallSetVpRegisters".

.include "lib/machine.inc"

VECTOR       = 0x30
SLOT         = SIMP_PAGE                ; SINT0's slot: type u32, size u8, flags u8, reserved u16, sender u64, payload
DEPOSIT_PAGE = 0x203000                 ; input of deposits, so that the call that needs one keeps its own
FIRST_FREE   = 0x400                    ; page 4 MiB: from here on, memory that nobody uses
BATCH        = 4                        ; pages of a deposit
SELF         = -1                       ; HV_PARTITION_ID_SELF

CREATE_PARTITION     = 0x40             ; call codes
INITIALIZE_PARTITION = 0x41
FINALIZE_PARTITION   = 0x42
DELETE_PARTITION     = 0x43
GET_PARTITION_ID     = 0x46
DEPOSIT_MEMORY       = 0x48
WITHDRAW_MEMORY      = 0x49
GET_MEMORY_BALANCE   = 0x4A
MAP_GPA_PAGES        = 0x4B
INSTALL_INTERCEPT    = 0x4D
CREATE_VP            = 0x4E
DELETE_VP            = 0x4F
SET_VP_REGISTERS     = 0x51
ONE_REP              = 1 << 32          ; in the control word

ACCESS_DENIED        = 0x06             ; HV_STATUS
INSUFFICIENT_MEMORY  = 0x0B
NO_RESOURCES         = 0x1D

ALL_RIGHTS           = 0xF              ; map flags: read, write, execute in kernel and user mode
READ_WRITE           = 3                ; of an intercept
EXECUTE              = 4
IO_PORT              = 0                ; intercept types
MSR                  = 1
CPUID_LEAF           = 2

EXPLICIT_SUSPEND     = 0                ; register names
INTERCEPT_SUSPEND    = 1
RAX_NAME             = 0x20000
RCX_NAME             = 0x20001
RDX_NAME             = 0x20002
RBX_NAME             = 0x20003
RSP_NAME             = 0x20004
RIP_NAME             = 0x20010
CS_NAME              = 0x60001

UNMAPPED_GPA         = 0x80000000       ; message types
PORT_MESSAGE         = 0x80010000
MSR_MESSAGE          = 0x80010001
CPUID_MESSAGE        = 0x80010002
PAYLOAD              = 16               ; of a message. Every intercept begins with: vp u32, length u8, access u8 ...
LENGTH               = PAYLOAD + 4      ; of the instruction, bits 3:0
ACCESS               = PAYLOAD + 5      ; 0 read, 1 write, 2 execute
AT                   = PAYLOAD + 24     ; RIP
BODY                 = PAYLOAD + 40     ; what is of this kind of message only

CHILD_MSR            = 0x1234           ; an MSR that no processor has
KEYBOARD             = 0x60

.bits 64
.org 0x10000
.entry start

start:
    mov edi, VECTOR
    mov eax, offset on_message
    mov ecx, HV_SINT0                   ; intercept messages come here, whatever we do
    call synic_on

    mov ecx, GET_PARTITION_ID
    call must
    lea rsi, [rip + root_text]
    mov rax, [OUTPUT_PAGE]
    call print_line
    call get_balance
    mov rax, [OUTPUT_PAGE]
    mov [rip + available], rax
    mov rax, [OUTPUT_PAGE + 8]
    mov [rip + in_use], rax

; --- the child comes into being ----------------------------------------------------------------------------------------

    call clear_input                    ; no flags, no features taken away
    mov rbx, SELF                       ; we pay for its name and place
    mov ecx, CREATE_PARTITION
    call paid
    mov rax, [OUTPUT_PAGE]
    mov [rip + child], rax
    lea rsi, [rip + child_text]
    call print_line

    call clear_input
    mov rbx, [rip + child]              ; all the rest is paid from its own pool
    mov [INPUT_PAGE], rbx
    mov ecx, INITIALIZE_PARTITION
    call paid

    mov eax, offset child_code >> 12    ; its program is in our page 8, and stands at its page 8: one page, two owners
    mov edx, eax
    call map_page

    call clear_input
    mov rbx, [rip + child]
    mov [INPUT_PAGE], rbx
    mov ecx, CREATE_VP                  ; number 0; a processor after reset
    call paid

    call registers                      ; it shall start in real mode at its page 8, not at the reset vector
    mov eax, CS_NAME
    xor edx, edx                        ; base 0
    mov r8, 0x009B00000000FFFF          ; limit 64 KiB, selector 0, attributes: present, code, readable
    call add_segment
    mov eax, RIP_NAME
    mov edx, offset child_code
    call add_register
    mov eax, RSP_NAME
    mov edx, offset child_code + 0x1000
    call add_register
    call set_registers

    mov eax, IO_PORT
    mov ecx, READ_WRITE
    mov edx, COM1
    call intercept
    mov edx, KEYBOARD
    call intercept
    mov edx, POWER_PORT
    call intercept
    mov eax, MSR
    mov edx, CHILD_MSR
    call intercept
    mov eax, CPUID_LEAF
    mov ecx, EXECUTE
    xor edx, edx                        ; leaf 0: who made the processor
    call intercept

    lea rsi, [rip + paid_text]
    mov rax, [rip + deposited]
    call print_line
    call registers                      ; now it may run: whenever we sleep
    mov eax, EXPLICIT_SUSPEND
    xor edx, edx
    call add_register
    call set_registers

.wait:
    cli
    cmp byte ptr [rip + over], 0
    jne .over
    sti                                 ; shields the HLT: an interrupt cannot slip in between
    hlt
    jmp .wait

; --- and ends ----------------------------------------------------------------------------------------------------------

.over:
    lea rsi, [rip + messages_text]
    mov rax, [rip + messages]
    call print_line
    call name_child
    mov ecx, FINALIZE_PARTITION         ; no memory, no ports, no way back
    call must
    call name_child
    mov ecx, DELETE_VP
    call must
    call withdraw_all
    call name_child
    mov ecx, DELETE_PARTITION
    call must
    lea rsi, [rip + back_text]
    mov rax, [rip + withdrawn]
    call print_line

    mov rax, [rip + withdrawn]          ; every page is back, the very same ones, and the hypervisor uses what it did
    cmp rax, [rip + deposited]
    jne .lost
    cmp qword ptr [rip + pages], 0
    jne .lost
    call get_balance
    mov rax, [OUTPUT_PAGE]
    cmp rax, [rip + available]
    jne .lost
    mov rax, [OUTPUT_PAGE + 8]
    cmp rax, [rip + in_use]
    jne .lost
    lea rsi, [rip + balance_text]
    call print
    jmp power_off
.lost:
    lea rsi, [rip + lost_text]
    call print
    jmp power_off

; --- what the child cannot do itself -----------------------------------------------------------------------------------

on_message:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    mov esi, SLOT
    mov eax, [rsi]
    test eax, eax
    jz .end                             ; a spurious interrupt
    inc qword ptr [rip + messages]
    call answer
    mov dword ptr [rsi], 0              ; empty the slot,
    mfence                              ; and only then look whether another message waits
    test byte ptr [rsi + 5], 1          ; MessagePending
    jz .end
    mov ecx, HV_EOM
    xor eax, eax
    xor edx, edx
    wrmsr
.end:
    mov ecx, HV_EOI
    xor eax, eax
    xor edx, edx
    wrmsr
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    iretq

answer:                                 ; RSI = message, EAX = its type
    cmp eax, PORT_MESSAGE
    je .port
    cmp eax, MSR_MESSAGE
    je .msr
    cmp eax, CPUID_MESSAGE
    je .cpuid
    cmp eax, UNMAPPED_GPA
    je .memory
    mov eax, eax
    push rax
    lea rsi, [rip + unknown_text]
    call print
    pop rax
    call print_hex
    jmp power_off

.port:                                  ; body: port u16, size u8, count u8, reserved u32, rax u64 ...
    movzx edx, word ptr [rsi + BODY]
    cmp edx, POWER_PORT
    je .power
    mov rax, [rsi + BODY + 8]
    cmp byte ptr [rsi + ACCESS], 1
    je .out
    mov al, 'k'                         ; what our keyboard has for it
    mov r9, rax
    call registers
    mov eax, RAX_NAME
    mov rdx, r9
    call add_register
    jmp complete
.out:
    call putc                           ; the machine's serial port is ours: here it is sent
    call registers
    jmp complete
.power:                                 ; it wants to be off: leave it suspended
    mov byte ptr [rip + over], 1
    ret

.msr:                                   ; body: number u32, reserved u32, rdx u64, rax u64
    cmp byte ptr [rsi + ACCESS], 1
    je .write
    call registers                      ; it reads what it wrote, plus one
    mov eax, RAX_NAME
    mov edx, [rip + child_msr]
    inc edx
    call add_register
    mov eax, RDX_NAME
    xor edx, edx
    call add_register
    jmp complete
.write:
    mov eax, [rsi + BODY + 16]
    mov [rip + child_msr], eax
    call registers
    jmp complete

.cpuid:                                 ; another vendor than the hypervisor would have said; EAX as it would have
    call registers
    mov eax, RAX_NAME
    mov rdx, [rsi + BODY + 32]          ; body: rax, rcx, rdx, rbx, then the defaults of the same
    call add_register
    mov eax, RBX_NAME
    mov edx, 0x746F6F52                 ; "Root"
    call add_register
    mov eax, RDX_NAME
    mov edx, 0x6564614D                 ; "Made"
    call add_register
    mov eax, RCX_NAME
    mov edx, 0x73696854                 ; "This"
    call add_register
    jmp complete

.memory:                                ; body: cache type u32, ... u32, gva u64, gpa u64. A page is put there, and
    push rsi                            ; the instruction done again: RIP stays
    mov rdx, [rsi + BODY + 16]
    shr rdx, 12
    lea rsi, [rip + memory_text]
    mov rax, rdx
    call print_line
    mov rax, [rip + next_page]
    inc qword ptr [rip + next_page]
    call map_page
    pop rsi
    call registers
    jmp resume

complete:                               ; the instruction is done: RIP goes past it
    mov eax, RIP_NAME
    movzx edx, byte ptr [rsi + LENGTH]
    and edx, 0xF
    add rdx, [rsi + AT]
    call add_register
resume:
    mov eax, INTERCEPT_SUSPEND          ; the last one: from here on it may run
    xor edx, edx
    call add_register
    jmp set_registers

; --- hypercalls --------------------------------------------------------------------------------------------------------

must:                                   ; RCX = control word; a status other than SUCCESS ends us
    call hypercall
check:
    test ax, ax
    jz .right
    movzx eax, ax
    push rax
    lea rsi, [rip + failed_text]
    call print
    pop rax
    call print_hex
    cmp eax, ACCESS_DENIED
    lea rsi, [rip + child_here_text]
    je .say
    lea rsi, [rip + line_text]
.say:
    call print
    jmp power_off
.right:
    ret

paid:                                   ; the same, RBX = the partition whose pool pays: until that is enough
    push rcx
.again:
    mov rcx, [rsp]
    call hypercall
    cmp ax, INSUFFICIENT_MEMORY
    jne .enough
    shr rax, 32                         ; reps completed: where a rep call goes on
    shl rax, 48
    mov rcx, 0xF000FFFFFFFFFFFF
    and [rsp], rcx
    or [rsp], rax
    call deposit
    jmp .again
.enough:
    pop rcx
    jmp check

deposit:                                ; BATCH free pages of ours go into the pool of partition RBX
    mov edi, DEPOSIT_PAGE
    mov [rdi], rbx
    xor ecx, ecx
.page:
    mov rax, [rip + next_page]
    mov [rdi + 8 + rcx * 8], rax
    xor [rip + pages], rax              ; all of them together: 0 again when each came back
    inc qword ptr [rip + next_page]
    inc ecx
    cmp ecx, BATCH
    jb .page
    add qword ptr [rip + deposited], BATCH
    mov rcx, DEPOSIT_MEMORY | BATCH * ONE_REP
    mov edx, DEPOSIT_PAGE
    xor r8d, r8d
    mov eax, HYPERCALL_PAGE
    call rax
    jmp check

withdraw_all:                           ; page by page, until the pool says that there is no more
    call name_child
    mov qword ptr [INPUT_PAGE + 8], 0   ; any node
    mov rcx, WITHDRAW_MEMORY | ONE_REP
    call hypercall
    cmp ax, NO_RESOURCES
    je .empty
    call check
    mov rax, [OUTPUT_PAGE]
    xor [rip + pages], rax
    inc qword ptr [rip + withdrawn]
    jmp withdraw_all
.empty:
    ret

get_balance:                            ; of our own pool: available, in use
    call clear_input
    mov qword ptr [INPUT_PAGE], SELF
    mov ecx, GET_MEMORY_BALANCE
    jmp must

name_child:
    call clear_input
    mov rax, [rip + child]
    mov [INPUT_PAGE], rax
    ret

map_page:                               ; our page RAX stands at the child's page RDX
    mov r9, rax
    call name_child
    mov rbx, rax
    mov [INPUT_PAGE + 8], rdx
    mov dword ptr [INPUT_PAGE + 16], ALL_RIGHTS
    mov [INPUT_PAGE + 24], r9
    mov rcx, MAP_GPA_PAGES | ONE_REP
    jmp paid

intercept:                              ; EAX = type, ECX = accesses, RDX = port, MSR or leaf; all are kept
    push rax
    push rcx
    push rdx
    mov r9d, eax
    call name_child
    mov [INPUT_PAGE + 8], ecx
    mov [INPUT_PAGE + 12], r9d
    mov [INPUT_PAGE + 16], rdx
    mov rbx, rax
    mov ecx, INSTALL_INTERCEPT
    call paid
    pop rdx
    pop rcx
    pop rax
    ret

registers:                              ; begin a list of register values, of VP 0
    call name_child
    mov dword ptr [rip + count], 0
    ret

add_register:                           ; EAX = name, RDX = value
    xor r8d, r8d
add_segment:                            ; and R8, the upper half of a value of 16 bytes
    mov ecx, [rip + count]
    shl ecx, 5
    mov [rcx + INPUT_PAGE + 16], eax
    mov [rcx + INPUT_PAGE + 32], rdx
    mov [rcx + INPUT_PAGE + 40], r8
    inc dword ptr [rip + count]
    ret

set_registers:
    mov ecx, [rip + count]
    shl rcx, 32
    or rcx, SET_VP_REGISTERS
    jmp must

print_line:                             ; text RSI, number RAX, end of the line
    call print
    call print_dec
    push rax
    mov al, '\n'
    call putc
    pop rax
    ret

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/hypercall64.inc"
.include "lib/synic64.inc"

root_text:     .asciz "we are partition "
child_text:    .asciz "made partition "
paid_text:     .asciz "pages deposited for it: "
memory_text:   .asciz "the child touches its page "
messages_text: .asciz "the child is off; messages answered: "
back_text:     .asciz "taken apart; pages that came back: "
balance_text:  .asciz "the memory balance is what it was\n"
lost_text:     .asciz "memory is missing\n"
failed_text:   .asciz "a hypercall failed, status "
child_here_text: .ascii ": only root may do that (hv run root_child --root)"
line_text:     .asciz "\n"
unknown_text:  .asciz "a message nobody expected: "

.align 8
child:     .quad 0
available: .quad 0
in_use:    .quad 0
next_page: .quad FIRST_FREE
deposited: .quad 0
withdrawn: .quad 0
pages:     .quad 0                      ; exclusive or of the numbers of all pages deposited and not yet back
messages:  .quad 0
count:     .long 0
child_msr: .long 0
over:      .byte 0

; --- the child's program: real mode, alone in a partition with one page of memory ----------------------------------------

.org 0x8000
.bits 16
child_code:
    xor ax, ax
    mov ds, ax
    cld
    mov si, offset .hello
    call .print

    xor eax, eax                        ; CPUID leaf 0: the vendor is in EBX, EDX, ECX
    cpuid
    mov [.vendor], ebx
    mov [.vendor + 4], edx
    mov [.vendor + 8], ecx
    mov si, offset .made_by
    call .print

    mov ecx, CHILD_MSR
    mov eax, 6
    xor edx, edx
    wrmsr
    xor eax, eax
    rdmsr
    add al, '0'
    mov [.digit], al
    mov si, offset .msr
    call .print

    in al, KEYBOARD
    mov [.key], al
    mov si, offset .typed
    call .print

    mov bx, 0xB800                      ; a screen would be there; what is, is for root to say
    mov es, bx
    mov byte ptr es:[0], '!'
    mov al, es:[0]
    mov [.mark], al
    mov si, offset .memory
    call .print

    mov dx, POWER_PORT
    mov ax, POWER_OFF
    out dx, ax
    hlt

.print:
    mov dx, COM1
.letter:
    lodsb
    test al, al
    jz .printed
    out dx, al
    jmp .letter
.printed:
    ret

.hello:   .asciz "child: hello from a partition made by hypercalls\n"
.made_by: .ascii "child: my processor was made by "
.vendor:  .asciz "GenuineIntel\n"
.msr:     .ascii "child: an MSR that does not exist reads "
.digit:   .asciz "?\n"
.typed:   .ascii "child: somebody typed "
.key:     .asciz "?\n"
.memory:  .ascii "child: memory that was not there keeps "
.mark:    .asciz "?\n"

; hypercaller: five messages to the other partition, and a call it has no privilege for.
;
; Shows: guest OS id and hypercall page; VMCALL (VM exit 18) with input in memory; HvCallPostMessage on connection 1;
; what a status looks like when the hypervisor says no. `receiver` is the other side.
; Read:  TLFS "Hypercall Interface", "HvCallPostMessage", "HvCallCreatePartition".

.include "lib/machine.inc"

MESSAGES    = 5
CONNECTION  = 1                 ; made by the root partition, to the other child's port
POST        = 0x5C              ; call codes
CREATE      = 0x40
NO_BUFFERS  = 0x13              ; HV_STATUS_INSUFFICIENT_BUFFERS
NO_SYNIC    = 0x18              ; HV_STATUS_INVALID_SYNIC_STATE: the receiver is not ready yet

.bits 64
.org 0x10000
.entry start

start:
    call hypercall_init
    xor r12d, r12d              ; messages sent
    mov r13d, 1000              ; attempts left, so that a lonely sender ends
.next:
    call clear_input
    mov edi, INPUT_PAGE
    mov dword ptr [rdi], CONNECTION
    mov dword ptr [rdi + 8], 1          ; message type: bit 31 clear, that half belongs to the hypervisor
    mov dword ptr [rdi + 12], 16        ; payload size in bytes, at most 240
    lea eax, [r12 + 1]
    mov [rdi + 16], rax                 ; payload: a sequence number ...
    mov rax, 0x21562D7265707948
    mov [rdi + 24], rax                 ; ... and eight letters: "Hyper-V!"
    mov ecx, POST
    call hypercall
    movzx eax, ax                       ; bits 15:0 are the status
    cmp eax, NO_SYNIC
    je .later
    cmp eax, NO_BUFFERS
    je .later
    lea rsi, [rip + post_text]
    call print
    push rax
    lea eax, [r12 + 1]
    call print_dec
    lea rsi, [rip + status_text]
    call print
    pop rax
    call print_hex
    mov al, '\n'
    call putc
    inc r12d
    cmp r12d, MESSAGES
    jb .next
    jmp .create
.later:
    call wait_a_little
    dec r13d
    jnz .next
    lea rsi, [rip + nobody_text]
    call print

.create:                                ; a child may not create partitions: status 6, ACCESS_DENIED
    call clear_input
    mov ecx, CREATE
    call hypercall
    movzx eax, ax
    lea rsi, [rip + create_text]
    call print
    call print_hex
    mov al, '\n'
    call putc
    jmp power_off

wait_a_little:                          ; 100 us by the reference counter, whose unit is 100 ns
    push rbx
    mov ecx, HV_TIME
    rdmsr
    shl rdx, 32
    or rax, rdx
    lea rbx, [rax + 1000]
.spin:
    pause
    mov ecx, HV_TIME
    rdmsr
    shl rdx, 32
    or rax, rdx
    cmp rax, rbx
    jb .spin
    pop rbx
    ret

.include "lib/serial64.inc"
.include "lib/hypercall64.inc"

post_text:   .asciz "message "
status_text: .asciz " posted, status "
nobody_text: .asciz "nobody takes our messages\n"
create_text: .asciz "HvCallCreatePartition: status "

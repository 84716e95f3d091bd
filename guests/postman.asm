; postman: its own device copies each letter, the interrupt says when, a hypercall posts it to the other partition.
;
; Shows: one letter's whole way: DMA through the IOMMU, MSI through interrupt remapping, HvCallPostMessage, and on the other
; side `receiver`. Before the last letter it sleeps 50 ms by the APIC timer. `hv demo` runs it as partition A.
; Read:  guests/dma.asm and guests/hypercaller.asm, which show the parts one by one.

.include "lib/machine.inc"
.include "lib/dma_engine.inc"

LETTERS     = 5
DEVICE      = 0x50              ; docs/guests.md: the vector of the device's interrupt
TIMER       = 0x31
SLEEP       = 10000000          ; timer counts of 5 ns: 50 ms
DESK        = 0x300000          ; where a letter is written
BAG         = 0x301000          ; where the device copies it to, and where it is posted from
LENGTH      = 16
CONNECTION  = 1
POST        = 0x5C
NO_BUFFERS  = 0x13

.bits 64
.org 0x10000
.entry start

start:
    mov rbx, [INFO]             ; the BAR; 0 = this partition has no device
    lea rsi, [rip + none_text]
    test rbx, rbx
    jz .say
    call interrupts_init
    call hypercall_init
    call who_is_there
    call device_init
    xor r12d, r12d              ; letters posted
.next:
    inc r12d
    cmp r12d, LETTERS
    jne .awake
    call sleep                  ; the last one is posted after a rest
.awake:
    call write_letter
    call copy_letter
    call post_letter
    lea rsi, [rip + letter_text]
    call print
    mov eax, r12d
    call print_dec
    lea rsi, [rip + posted_text]
    call print
    movzx eax, r13w
    call print_hex
    mov al, '\n'
    call putc
    cmp r12d, LETTERS
    jb .next
    lea rsi, [rip + done_text]
.say:
    call print
    jmp power_off

; ---- the hypervisor says its name -------------------------------------------------------------------------------

who_is_there:
    mov eax, 0x40000000         ; CPUID: signature in EBX, ECX, EDX; TLFS "Hypervisor Discovery"
    cpuid
    mov [rip + signature], ebx
    mov [rip + signature + 4], ecx
    mov [rip + signature + 8], edx
    lea rsi, [rip + name_text]
    call print
    mov ecx, HV_VP_INDEX
    rdmsr
    call print_dec
    mov al, '\n'
    jmp putc

; ---- interrupts -------------------------------------------------------------------------------------------------

interrupts_init:
    push rbx
    mov edi, DEVICE
    mov eax, offset on_device
    call idt_set
    mov edi, TIMER
    mov eax, offset on_timer
    call idt_set
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF               ; enabled, spurious vector 0xFF
    mov dword ptr [rbx + APIC_DIVIDE], 0x0B             ; divide by 1
    mov dword ptr [rbx + APIC_LVT_TIMER], TIMER         ; one shot
    pop rbx
    ret

sleep:
    mov edx, APIC
    mov dword ptr [rdx + APIC_INITIAL], SLEEP
.wait:
    cli
    cmp dword ptr [rip + rested], 0
    jne .done
    sti                         ; shields the HLT: an interrupt cannot slip in between
    hlt
    jmp .wait
.done:
    ret

on_timer:
    push rbx
    inc dword ptr [rip + rested]
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rbx
    iretq

on_device:
    push rax
    push rbx
    mov rbx, [INFO]
    mov eax, [rbx + REG_STATUS]
    mov [rip + status], eax
    mov dword ptr [rbx + REG_ACK], 0
    inc dword ptr [rip + copies]
    mov ebx, APIC
    mov dword ptr [rbx + APIC_EOI], 0
    pop rbx
    pop rax
    iretq

; ---- letters ----------------------------------------------------------------------------------------------------

device_init:
    mov rbx, [INFO]             ; CPUID took RBX
    mov rax, [INFO + 8]         ; the remappable MSI address and data the hypervisor chose
    mov [rbx + REG_MSI_ADDRESS], eax
    shr rax, 32
    mov [rbx + REG_MSI_ADDRESS + 4], eax
    mov eax, [INFO + 16]
    mov [rbx + REG_MSI_DATA], eax
    mov dword ptr [rbx + REG_MSI_ENABLE], 1
    mov dword ptr [rbx + REG_SOURCE], DESK              ; guest-physical: the IOMMU translates them
    mov dword ptr [rbx + REG_SOURCE + 4], 0
    mov dword ptr [rbx + REG_DESTINATION], BAG
    mov dword ptr [rbx + REG_DESTINATION + 4], 0
    mov dword ptr [rbx + REG_LENGTH], LENGTH
    ret

write_letter:                   ; a number and eight letters
    mov edi, DESK
    mov eax, r12d
    mov [rdi], rax
    mov rax, 0x41206D6F7266203E     ; "> from A", the first letter lowest
    mov [rdi + 8], rax
    ret

copy_letter:
    mov rbx, [INFO]
    mov dword ptr [rbx + REG_COMMAND], 1                ; go
.wait:
    cli
    cmp [rip + copies], r12d
    jae .done
    sti
    hlt
    jmp .wait
.done:
    ret

post_letter:                    ; -> R13 = result value
    mov r14d, 1000              ; attempts: the other side may be busy
.again:
    call clear_input
    mov edi, INPUT_PAGE
    mov dword ptr [rdi], CONNECTION
    mov dword ptr [rdi + 8], 1          ; message type
    mov dword ptr [rdi + 12], LENGTH
    mov esi, BAG
    mov rax, [rsi]
    mov [rdi + 16], rax
    mov rax, [rsi + 8]
    mov [rdi + 24], rax
    mov ecx, POST
    call hypercall
    mov r13, rax
    cmp r13w, NO_BUFFERS
    jne .done
    dec r14d
    jnz .again
.done:
    ret

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/hypercall64.inc"

none_text:   .asciz "this partition has no device\n"
letter_text: .asciz "letter "
posted_text: .asciz " copied and posted, status "
done_text:   .asciz "all letters are on their way\n"
name_text:   .ascii "the hypervisor says it is "
signature:   .asciz "............, and I am VP "
.align 4
status: .long 0
copies: .long 0
rested: .long 0

; msr_reader: model-specific registers, the hypervisor's and the processor's.
;
; Shows: RDMSR is a VM exit (reason 31) unless the MSR bitmap lets it pass; the synthetic MSRs are answered by the
; hypervisor alone; an MSR that does not exist gives #GP, which this guest catches with its own IDT.
; Read:  TLFS "Synthetic MSRs"; SDM volume 3, "MSR-Bitmap Address".

.include "lib/machine.inc"

.bits 64
.org 0x10000
.entry start

start:
    call catch_init
    call hypercall_init         ; some synthetic MSRs say more once the guest has a name
    lea rbx, [rip + table]
.next:
    mov ecx, [rbx]
    test ecx, ecx
    jz .writes
    lea rsi, [rbx + 4]
    call print
    mov [rip + number], ecx
    mov eax, offset read_msr
    call try
    call say
.skip:                          ; to the next entry: behind the zero byte of the name
    cmp byte ptr [rbx + 4], 0
    lea rbx, [rbx + 1]
    jne .skip
    add rbx, 4
    jmp .next
.writes:
    lea rsi, [rip + write_text] ; VP_INDEX is read-only
    call print
    mov eax, offset write_vp_index
    call try
    call say
    jmp power_off

read_msr:
    mov ecx, [rip + number]
    rdmsr
    shl rdx, 32                 ; EDX:EAX -> RAX; the upper halves are zero
    or rax, rdx
    ret

write_vp_index:
    mov ecx, HV_VP_INDEX
    mov eax, 7
    xor edx, edx
    wrmsr
    mov eax, 7
    ret

say:                            ; the outcome of `try`: RDX and RAX
    push rsi
    lea rsi, [rip + fault_text]
    cmp edx, 13
    je .text
    lea rsi, [rip + other_text]
    cmp edx, NO_FAULT
    jne .text
    call print_hex
    lea rsi, [rip + line_text]
.text:
    call print
    pop rsi
    ret

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/catch64.inc"
.include "lib/hypercall64.inc"

fault_text: .asciz "#GP\n"
other_text: .asciz "a fault that is not #GP\n"
line_text:  .asciz "\n"
write_text: .asciz "write VP_INDEX         "

number: .long 0
table:                          ; number, name; a zero ends it
    .long 0x40000000
    .asciz "HV_GUEST_OS_ID         "
    .long 0x40000001
    .asciz "HV_HYPERCALL           "
    .long 0x40000002
    .asciz "HV_VP_INDEX            "
    .long 0x40000020
    .asciz "HV_TIME_REF_COUNT      "
    .long 0x40000022
    .asciz "HV_TSC_FREQUENCY       "
    .long 0x40000023
    .asciz "HV_APIC_FREQUENCY      "
    .long 0x40000080
    .asciz "HV_SCONTROL            "
    .long 0x40000081
    .asciz "HV_SVERSION            "
    .long 0x40000092
    .asciz "HV_SINT2               "
    .long 0x1B
    .asciz "IA32_APIC_BASE         "
    .long 0x277
    .asciz "IA32_PAT               "
    .long 0xC0000080
    .asciz "IA32_EFER              "
    .long 0xC0000082
    .asciz "IA32_LSTAR             "
    .long 0xC0000100
    .asciz "IA32_FS_BASE           "
    .long 0x12345
    .asciz "0x12345 (no such MSR)  "
    .long 0x40000FFF
    .asciz "0x40000FFF (no such)   "
    .long 0

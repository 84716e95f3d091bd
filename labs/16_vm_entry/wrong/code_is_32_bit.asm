; Wrong: the guest's code segment is still a 32-bit one.
;
; A hypervisor of its own, without ours, which enters a guest. The table below is what it writes into the VMCS, and the
; processor refuses it: for six reasons, one after the other. A seventh mistake it does not even notice.
;
; `hv explain vmentry --bare vm_entry.asm` says which rule is broken; `hv lab check` how far you are; `hv lab hint` helps.

.include "lib/machine.inc"
.include "lib/vmcs.inc"                 ; the encodings of the fields

.bits 64
.org 0x10000
.entry start

start:
    call vmx_on                         ; root operation, with an empty VMCS
    lea rsi, [rip + fields]
    call vmx_fields                     ; VMWRITE of each
    jbe failed
    vmlaunch                            ; VM entry; what stands behind it is reached when it fails
failed:
    mov ecx, VM_INSTRUCTION_ERROR
    vmread rax, rcx
    mov [error], rax
    hlt

on_exit:                                ; HOST_RIP: whatever leaves the guest, or an entry that fails
    mov ecx, EXIT_REASON
    vmread rax, rcx
    mov [reason], rax
    mov ecx, EXIT_QUALIFICATION
    vmread rax, rcx
    mov [qualification], rax
    hlt

guest:                                  ; GUEST_RIP
    mov rax, 0x4D56206F6C6C6548         ; "Hello VM": eight letters, which only 64-bit code moves at once
    mov [greeting], rax
    cpuid                               ; leaves it, unconditionally
    hlt

.include "lib/vmx64.inc"

.align 8
fields:
    .quad (fields.end - fields - 8) / 16
    ; what makes it exit, and how it is left and entered
    .quad PIN_BASED_CONTROLS,         0x16
    .quad PRIMARY_PROC_CONTROLS,      0x040061F2
    .quad VM_EXIT_CONTROLS,           0x00036FFB
    .quad VM_ENTRY_CONTROLS,          0x000013FB
    .quad VM_ENTRY_INTERRUPTION_INFO, 0
    .quad VMCS_LINK_POINTER,          -1
    ; where a VM exit leads: to us
    .quad HOST_CR0,                   0x80010033
    .quad HOST_CR3,                   0x71000
    .quad HOST_CR4,                   0x2620
    .quad HOST_CS_SELECTOR,           0x08
    .quad HOST_SS_SELECTOR,           0x10
    .quad HOST_DS_SELECTOR,           0x10
    .quad HOST_ES_SELECTOR,           0x10
    .quad HOST_TR_SELECTOR,           0x20
    .quad HOST_TR_BASE,               0x70100
    .quad HOST_GDTR_BASE,             0x70000
    .quad HOST_RSP,                   0x90000
    .quad HOST_RIP,                   on_exit
    ; where the guest begins: 64-bit code, in our own page tables
    .quad GUEST_CR0,                  0x80010033
    .quad GUEST_CR3,                  0x71000
    .quad GUEST_CR4,                  0x2620
    .quad GUEST_DR7,                  0x400
    .quad GUEST_RSP,                  0x88000
    .quad GUEST_RIP,                  guest
    .quad GUEST_RFLAGS,               0x2
    .quad GUEST_CS_SELECTOR,          0x08
    .quad GUEST_CS_LIMIT,             0xFFFFFFFF
    .quad GUEST_CS_ACCESS_RIGHTS,     0xC09B
    .quad GUEST_SS_SELECTOR,          0x10
    .quad GUEST_SS_LIMIT,             0xFFFFFFFF
    .quad GUEST_SS_ACCESS_RIGHTS,     0xC093
    .quad GUEST_DS_SELECTOR,          0x10
    .quad GUEST_DS_LIMIT,             0xFFFFFFFF
    .quad GUEST_DS_ACCESS_RIGHTS,     0xC093
    .quad GUEST_ES_ACCESS_RIGHTS,     0x10000
    .quad GUEST_FS_ACCESS_RIGHTS,     0x10000
    .quad GUEST_GS_ACCESS_RIGHTS,     0x10000
    .quad GUEST_LDTR_ACCESS_RIGHTS,   0x10000
    .quad GUEST_TR_SELECTOR,          0x20
    .quad GUEST_TR_BASE,              0x70100
    .quad GUEST_TR_LIMIT,             0x67
    .quad GUEST_TR_ACCESS_RIGHTS,     0x8B
    .quad GUEST_GDTR_BASE,            0x70000
    .quad GUEST_GDTR_LIMIT,           0x2F
.end:

.org 0x210000
greeting:      .quad 0                  ; written by the guest
reason:        .quad 0                  ; of the exit
qualification: .quad 0
error:         .quad 0                  ; the VM-instruction error

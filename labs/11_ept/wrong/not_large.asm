; Wrong: the first 2 MiB are no large page.
;
; Your hypervisor gives its guest memory: it writes the second-level tables, launches, and is told of each access that
; they do not allow. One it grants, then it takes a right away again, and finds who misses it.
;
; `hv lab check` says how far you are; `hv lab hint` helps; `hv explain vmentry --bare ept.asm` says why an entry fails.

.include "lib/machine.inc"
.include "lib/vmcs.inc"                 ; the encodings of the fields

EPT_PML4  = 0x300000                    ; your tables, one page each, all zeros now
EPT_PDPT  = 0x301000
EPT_PD    = 0x302000
EPT_PT    = 0x303000                    ; of gpa 0x400000 .. 0x5FFFFF
SHOWN     = 0x500000                    ; spa of a page that the guest shall see at gpa 0x400000, and only read
SPARE     = 0x501000                    ; spa of the page that it gets at gpa 0x401000 when it needs one

READ      = 1                           ; bits of an entry
WRITE     = 2
EXECUTE   = 4
WB        = 6 << 3                      ; memory type, in the entry of a page
LARGE     = 1 << 7

.bits 64
.org 0x10000
.entry start

start:
    ; 1. the tables: gpa 0 .. 0x1FFFFF as one page of 2 MiB, at the same spa; gpa 0x400000 to SHOWN, read only
    mov qword ptr [EPT_PML4], EPT_PDPT | READ | WRITE | EXECUTE
    mov qword ptr [EPT_PDPT], EPT_PD | READ | WRITE | EXECUTE
    mov qword ptr [EPT_PD], 0 | READ | WRITE | EXECUTE | WB
    mov qword ptr [EPT_PD + 2 * 8], EPT_PT | READ | WRITE | EXECUTE
    mov qword ptr [EPT_PT], SHOWN | READ | WB

    call vmx_on
    lea rsi, [rip + fields]
    call vmx_fields
    jbe failed
    mov ecx, EPT_POINTER                ; 2. where the tables are: write-back, four levels (minus 1, in bits 5:3)
    mov rax, [rip + pointer]
    vmwrite rcx, rax
    vmlaunch
failed:
    hlt

on_exit:                                ; HOST_RIP; the guest's registers, but RIP, RSP and RFLAGS, are still in ours
    push rax
    push rcx
    push rdx
    mov ecx, EXIT_REASON
    vmread rax, rcx
    cmp eax, 48
    je violation
    cmp eax, 18
    je protect
    hlt                                 ; whatever else it is, the guest is at its end
resume:
    pop rdx
    pop rcx
    pop rax
    vmresume
    hlt

violation:                              ; reason 48, EPT violation
    ; 3. note it in `seen`: 8 bytes of qualification, 8 of guest-physical address; and count it
    mov rdx, [count]
    shl edx, 4
    mov ecx, EXIT_QUALIFICATION
    vmread rax, rcx
    mov [rdx + seen], rax
    mov ecx, GUEST_PHYSICAL_ADDRESS
    vmread rcx, rcx
    mov [rdx + seen + 8], rcx
    inc qword ptr [count]
    ; 4. if nothing is mapped there, map gpa 0x401000 to SPARE, to be read and written, and resume; else it is the end
    test eax, 7 << 3                    ; what the tables would have allowed: nothing?
    jnz .end
    shr ecx, 12
    cmp ecx, 0x401
    jne .end
    mov qword ptr [EPT_PT + 8], SPARE | READ | WRITE | WB
    jmp resume                          ; the instruction is tried again
.end:
    hlt

protect:                                ; reason 18, VMCALL: the guest asks that gpa 0x401000 be read only from now on
    ; 5. change the entry, and let the processor forget what it remembers of it
    mov qword ptr [EPT_PT + 8], SPARE | READ | WB
    mov ecx, 1                          ; single-context
    invept rcx, xmmword ptr [rip + pointer]
    ; 6. the guest goes on behind its VMCALL
    mov ecx, VM_EXIT_INSTRUCTION_LENGTH
    vmread rax, rcx
    mov ecx, GUEST_RIP
    vmread rdx, rcx
    add rax, rdx
    vmwrite rcx, rax
    jmp resume

guest:                                  ; GUEST_RIP; given
    mov rax, [0x400000]                 ; what it is shown
    mov [0x401008], rax                 ; nothing is mapped there
    vmcall                              ; "protect it"
    mov [0x401010], rax                 ; and now it may not
    cpuid                               ; not reached

.align 8
pointer: .quad EPT_PML4 | 3 << 3 | 6, 0 ; the EPT pointer, and the descriptor of INVEPT

.include "lib/vmx64.inc"

.align 8
fields:
    .quad (fields.end - fields - 8) / 16
    .quad PIN_BASED_CONTROLS,         0x16
    .quad PRIMARY_PROC_CONTROLS,      0x840061F2    ; with secondary controls
    .quad VM_EXIT_CONTROLS,           0x00036FFB
    .quad VM_ENTRY_CONTROLS,          0x000013FB
    .quad SECONDARY_PROC_CONTROLS,    2             ; enable EPT
    .quad VMCS_LINK_POINTER,          -1
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
    .quad GUEST_CR0,                  0x80010033
    .quad GUEST_CR3,                  0x71000       ; our page tables are the guest's too; they lie in the first 2 MiB
    .quad GUEST_CR4,                  0x2620
    .quad GUEST_DR7,                  0x400
    .quad GUEST_RSP,                  0x88000
    .quad GUEST_RIP,                  guest
    .quad GUEST_RFLAGS,               0x2
    .quad GUEST_CS_SELECTOR,          0x08
    .quad GUEST_CS_LIMIT,             0xFFFFFFFF
    .quad GUEST_CS_ACCESS_RIGHTS,     0xA09B
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
count: .quad 0                          ; EPT violations
seen:  .skip 16 * 16                    ; of each: qualification, guest-physical address

.org 0x500000
    .ascii "shown only"                 ; at SHOWN
    .skip 22

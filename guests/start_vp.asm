; start_vp: VP 1 begins in 64-bit code at once, by one hypercall instead of INIT, SIPI and a trampoline.
;
; Run:   hv run guests/start_vp.asm --smp 2
; Shows: HvCallGetVpIndexFromApicId, a rep call with one element; HvCallStartVirtualProcessor with all registers of the
; new VP in its input; a context that no processor could enter, which is refused; a VP that was started already.
; Read:  TLFS "HvCallStartVirtualProcessor", "HV_INITIAL_VP_CONTEXT"; compare two_vps.asm, which needs 60 lines for it.

.include "lib/machine.inc"

START_VP    = 0x99              ; call codes
FIND_VP     = 0x9A
ONE_REP     = 1                 ; bits 43:32 of the control word
CONTEXT     = INPUT_PAGE + 16   ; behind partition, VP and trust level
C_RIP       = CONTEXT           ; fields of HV_INITIAL_VP_CONTEXT
C_RSP       = CONTEXT + 8
C_RFLAGS    = CONTEXT + 16
C_CS        = CONTEXT + 24      ; segments of 16 bytes: base, limit u32, selector u16, attributes u16
C_DS        = CONTEXT + 40
C_SS        = CONTEXT + 104
C_TR        = CONTEXT + 120
C_IDTR      = CONTEXT + 152     ; tables of 16 bytes: 6 of padding, limit u16, base
C_GDTR      = CONTEXT + 168
C_EFER      = CONTEXT + 184
C_CR0       = CONTEXT + 192
C_CR3       = CONTEXT + 200
C_CR4       = CONTEXT + 208
C_PAT       = CONTEXT + 216
EFER        = 0xC0000080
PAT         = 0x277
SEEN        = 0x210000          ; what VP 1 tells us: its index, its EFER, then that it is done
DONE        = 0x210010

.bits 64
.org 0x10000
.entry start

start:
    call hypercall_init

    ; Which VP is it that has APIC id 1?
    call clear_input
    mov edi, INPUT_PAGE
    mov qword ptr [rdi], -1             ; the partition: our own
    mov dword ptr [rdi + 16], 1         ; the list: one APIC id
    mov rcx, ONE_REP << 32 | FIND_VP
    call hypercall
    lea rsi, [rip + find_text]
    call status                         ; status 0, and one rep completed
    mov eax, [OUTPUT_PAGE]
    mov r12d, eax                       ; its index
    lea rsi, [rip + index_text]
    call number

    ; A context with EFER.LMA but without paging: no processor can be in that state.
    call fill_context
    mov dword ptr [C_CR0], 0x33
    lea rsi, [rip + wrong_text]
    call start_it

    ; Our own registers, but for RIP and RSP.
    call fill_context
    lea rsi, [rip + right_text]
    call start_it
    mov ecx, 100000
.wait:                                  ; for VP 1, but not for ever
    cmp dword ptr [DONE], 1
    je .alive
    pause
    dec ecx
    jnz .wait
    lea rsi, [rip + silent_text]
    call print
    jmp power_off
.alive:
    lea rsi, [rip + vp_text]
    mov rax, [SEEN]
    call number
    lea rsi, [rip + efer_text]
    call print
    mov rax, [SEEN + 8]
    call print_hex
    mov al, '\n'
    call putc

    call fill_context
    lea rsi, [rip + again_text]
    call start_it
    jmp power_off

; The input page with a legal context: this VP's own state, another stack, and `hello` to begin at.
fill_context:
    call clear_input
    mov qword ptr [INPUT_PAGE], -1
    mov [INPUT_PAGE + 8], r12d
    mov qword ptr [C_RFLAGS], 2
    lea rax, [rip + hello]
    mov [C_RIP], rax
    mov qword ptr [C_RSP], 0x96000
    mov edi, C_CS
    mov eax, 0xA09B0008                 ; 64-bit code, selector 8 of the loader's GDT
    call segment
    mov edi, C_DS
    mov ebx, 4                          ; DS ES FS GS lie together
.data:
    mov eax, 0xC0930010
    call segment
    add edi, 16
    dec ebx
    jnz .data
    mov edi, C_SS
    call segment
    mov edi, C_TR
    mov eax, 0x008B0020                 ; a busy TSS: VM entry wants one even if nobody looks at it
    call segment
    mov dword ptr [rdi + 8], 0x67
    sidt [C_IDTR + 6]                   ; limit and base stand as SIDT stores them
    sgdt [C_GDTR + 6]
    mov rax, cr0
    mov [C_CR0], rax
    mov rax, cr3
    mov [C_CR3], rax
    mov rax, cr4
    mov [C_CR4], rax
    mov ecx, EFER
    call read_msr
    mov [C_EFER], rax
    mov ecx, PAT
    call read_msr
    mov [C_PAT], rax
    ret

segment:                                ; EAX = attributes and selector, to [RDI]: base 0, all of memory
    mov qword ptr [rdi], 0
    mov dword ptr [rdi + 8], -1
    mov [rdi + 12], eax
    ret

read_msr:                               ; ECX = which; the value in RAX
    rdmsr
    shl rdx, 32
    or rax, rdx
    ret

start_it:                               ; with the input page as it is; RSI = what to say before the status
    mov ecx, START_VP
    call hypercall

status:                                 ; RSI = text; RAX = result value
    call print
    call print_hex
    mov al, '\n'
    jmp putc

number:                                 ; RSI = text; RAX = a number
    call print
    call print_dec
    mov al, '\n'
    jmp putc

; ---- VP 1 begins here: 64-bit mode, paging, a stack --------------------------------------------------------------
hello:
    mov ecx, HV_VP_INDEX
    call read_msr
    mov [SEEN], rax
    mov ecx, EFER
    call read_msr
    mov [SEEN + 8], rax
    mov dword ptr [DONE], 1
.stop:
    cli
    hlt
    jmp .stop

.include "lib/serial64.inc"
.include "lib/hypercall64.inc"

find_text:   .asciz "HvCallGetVpIndexFromApicId: result "
index_text:  .asciz "the VP with APIC id 1 has index "
wrong_text:  .asciz "start in long mode without paging: status "
right_text:  .asciz "start with our own registers: status "
silent_text: .asciz "VP 1 says nothing: this partition needs two VPs (hv run start_vp --smp 2)\n"
vp_text:     .asciz "hello from VP "
efer_text:   .asciz "its EFER is "
again_text:  .asciz "start it again: status "

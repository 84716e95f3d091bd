; ref_tsc: the time without an exit, from the reference TSC page.
;
; Shows: HV_X64_MSR_REFERENCE_TSC lays a page of the hypervisor over one of ours; what we compute from it and RDTSC, what
; the reference counter's MSR says, and what we compute after that never go backwards. Then we set our own TSC: the page
; says that it is of no use any more (sequence 0), and the MSR is what is left.
; Read:  TLFS "Partition Reference TSC Page".

.include "lib/machine.inc"

HV_REFERENCE_TSC = 0x40000021
TSC              = 0x10
CLOCK_PAGE       = 0x203000
SEQUENCE = CLOCK_PAGE           ; u32; 0: use the MSR
SCALE    = CLOCK_PAGE + 8       ; u64
OFFSET   = CLOCK_PAGE + 16      ; i64, in 100 ns
SAMPLES  = 10000
MARK     = 0x1234567890ABCDEF

.bits 64
.org 0x10000
.entry start

start:
    mov rax, MARK
    mov [CLOCK_PAGE], rax       ; what the overlay will hide
    mov ecx, HV_REFERENCE_TSC
    mov eax, CLOCK_PAGE | 1
    call write_msr
    cmp dword ptr [SEQUENCE], 0
    je failed

    mov r12d, SAMPLES
    xor r13d, r13d              ; the most that the MSR is ahead of the page before it
    xor r14d, r14d              ; the most that the page is ahead of the MSR before it
.sample:
    call page_time
    mov rbx, rax
    call now
    mov rdx, rax
    sub rax, rbx
    jb failed                   ; the counter went backwards
    cmp rax, r13
    cmova r13, rax
    call page_time
    sub rax, rdx
    jb failed
    cmp rax, r14
    cmova r14, rax
    mov ecx, r12d
    and ecx, 127                ; the next sample at another place within its 100 ns
.delay:
    nop
    dec ecx
    jns .delay
    dec r12d
    jnz .sample
    lea rsi, [rip + agree_text]
    call print
    mov rax, r13
    call print_dec
    lea rsi, [rip + then_text]
    call print
    mov rax, r14
    call print_dec
    lea rsi, [rip + units_text]
    call print

    mov ecx, TSC                ; our TSC is another one than the machine's now
    mov eax, 1000001
    call write_msr
    cmp dword ptr [SEQUENCE], 0
    jne failed
    call now
    mov rbx, rax
    call page_time              ; asks the MSR by itself
    cmp rax, rbx
    jb failed
    lea rsi, [rip + msr_text]
    call print

    mov ecx, HV_REFERENCE_TSC   ; switched off, our own page is there again
    mov eax, CLOCK_PAGE
    call write_msr
    mov rax, MARK
    cmp [CLOCK_PAGE], rax
    jne failed
    lea rsi, [rip + off_text]
    call print
    jmp power_off

failed:
    lea rsi, [rip + failed_text]
    call print
    jmp power_off

; RAX = the reference time by the page, or by the MSR when the page says so. Changes RCX; keeps RDX.
page_time:
    push rdx
    push rdi
.again:
    mov edi, [SEQUENCE]
    test edi, edi
    jz .msr
    rdtsc
    shl rdx, 32
    or rax, rdx
    mul qword ptr [SCALE]       ; RDX = the upper half of the 128-bit product
    mov rax, rdx
    add rax, [OFFSET]
    cmp edi, [SEQUENCE]         ; changed meanwhile: scale and offset may not belong together
    jne .again
    pop rdi
    pop rdx
    ret
.msr:
    pop rdi
    pop rdx
    jmp now

.include "lib/time64.inc"
.include "lib/serial64.inc"

agree_text:  .asciz "page and MSR agree in 10000 samples: at most "
then_text:   .asciz " and "
units_text:  .asciz " x 100 ns from one to the other\n"
msr_text:    .asciz "our own TSC: the sequence is 0, and the MSR goes on\n"
off_text:    .asciz "off: our page is as it was\n"
failed_text: .asciz "the clock did what it should not\n"

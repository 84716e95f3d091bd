; attacker: everything a hostile partition can think of, one line for each attempt.
;
; Shows: where each attack ends: a hypercall status, a fault, or nothing there. A line says "reached" only when the
; guest really read or wrote something that is not its own; no line should.
; Read:  TLFS "Partition Privilege Flags", "Guest Physical Address Spaces"; VT-d "DMA Remapping".

.include "lib/machine.inc"
.include "lib/dma_engine.inc"

SELF_ID     = 0xFFFFFFFFFFFFFFFF
WINDOW      = 0x8000000         ; 128 MiB: our own page directory entry 64 will point wherever we like
WINDOW_PDE  = START_PD + 64 * 8
DMA_SOURCE  = 0x300000
MARK        = 0x5C5C5C5C

.bits 64
.org 0x10000
.entry start

start:
    mov [rip + memory_size], rsi        ; docs/guests.md: RSI = size of our memory in bytes
    call catch_init
    call hypercall_init
    mov rax, [INFO + 32]                ; the other partition, if the loader named it
    test rax, rax
    jz .attempts
    mov [rip + victim], rax
.attempts:
    lea rbx, [rip + table]
.next:
    mov rax, [rbx]
    test rax, rax
    jz .done
    lea rsi, [rbx + 8]
    call print
    lea rsi, [rip + colon_text]
    call print
    call try                            ; the attempt answers RSI = what to say, RAX = a number
    mov rsi, [rip + verdict]
    cmp edx, NO_FAULT
    jne .fault
    call print
    call print_hex
    jmp .line
.fault:
    lea rsi, [rip + fault_text]
    call print
    mov eax, edx
    call print_dec
    lea rsi, [rip + code_text]
    call print
    mov rax, rcx
    call print_hex
.line:
    mov al, '\n'
    call putc
.skip:                                  ; to the next entry: behind the zero byte of the name
    cmp byte ptr [rbx + 8], 0
    lea rbx, [rbx + 1]
    jne .skip
    add rbx, 8
    jmp .next
.done:
    lea rsi, [rip + done_text]
    call print
    jmp power_off

; ---- answers: the verdict's text is left in memory, since `try` keeps RSI ---------------------------------------

say_status:                             ; RAX = result of a hypercall
    movzx eax, ax
    lea rsi, [rip + refused_text]
    test eax, eax
    jnz .keep
    lea rsi, [rip + reached_text]
.keep:
    mov [rip + verdict], rsi
    ret

say_read:                               ; RAX = what was read; all ones is what an empty bus gives
    lea rsi, [rip + nothing_text]
    cmp eax, 0xFFFFFFFF
    je .keep
    lea rsi, [rip + reached_text]
.keep:
    mov [rip + verdict], rsi
    ret

; ---- hypercalls a child has no privilege for --------------------------------------------------------------------

create_partition:
    call clear_input
    mov ecx, 0x40
    call hypercall
    jmp say_status

delete_victim:
    call clear_input
    mov rax, [rip + victim]
    mov [INPUT_PAGE], rax
    mov ecx, 0x43
    call hypercall
    jmp say_status

map_into_root:                          ; our page, into the root partition's memory
    mov eax, 1
    jmp map_pages
map_into_victim:
    mov rax, [rip + victim]
map_pages:
    call clear_input
    mov edi, INPUT_PAGE
    mov [rdi], rax                      ; target partition
    mov qword ptr [rdi + 8], 0x100      ; target GPA page
    mov dword ptr [rdi + 16], 3         ; readable, writable
    mov qword ptr [rdi + 24], 0x300     ; source GPA page
    mov rcx, 0x4B | 1 << 32             ; a rep call: one element
    call hypercall
    jmp say_status

root_registers:
    mov eax, 1
    jmp get_registers
victim_registers:
    mov rax, [rip + victim]
get_registers:
    call clear_input
    mov edi, INPUT_PAGE
    mov [rdi], rax
    mov dword ptr [rdi + 16], 0x20010   ; HvX64RegisterRip
    mov rcx, 0x50 | 1 << 32
    call hypercall
    jmp say_status

set_victim_rip:
    call clear_input
    mov edi, INPUT_PAGE
    mov rax, [rip + victim]
    mov [rdi], rax
    mov dword ptr [rdi + 16], 0x20010
    mov rcx, 0x51 | 1 << 32
    call hypercall
    jmp say_status

interrupt_victim:                       ; HvCallAssertVirtualInterrupt
    call clear_input
    mov edi, INPUT_PAGE
    mov rax, [rip + victim]
    mov [rdi], rax
    mov dword ptr [rdi + 24], 0x40
    mov ecx, 0x94
    call hypercall
    jmp say_status

take_memory:                            ; HvCallWithdrawMemory: pages of the other partition's pool
    call clear_input
    mov rax, [rip + victim]
    mov [INPUT_PAGE], rax
    mov rcx, 0x49 | 1 << 32
    call hypercall
    jmp say_status

unknown_call:
    mov ecx, 0x3FFF
    call hypercall
    jmp say_status

vmcall_outside_page:                    ; a VMCALL of our own, not the hypercall page's
    mov ecx, 0x40
    mov edx, INPUT_PAGE
    mov r8d, OUTPUT_PAGE
    vmcall
    jmp say_status

; ---- memory that is not ours ------------------------------------------------------------------------------------
; A guest may write any address into its own page tables. The EPT decides what is behind it.

read_beyond:
    mov rax, [rip + memory_size]
    jmp read_gpa
write_beyond:
    mov rax, [rip + memory_size]
    jmp write_gpa
read_4g:
    mov rax, 0x100000000
    jmp read_gpa
read_1t:
    mov rax, 0x10000000000
    jmp read_gpa
read_iommu:
    mov eax, 0xFED90000                 ; where a machine has its DMA remapping registers
    jmp read_gpa
read_device:
    cmp qword ptr [INFO], 0
    jne own_device
    mov eax, 0xF0000000
read_gpa:
    call open_window
    mov eax, [rax]
    jmp say_read
write_gpa:
    call open_window
    mov rdi, rax
    mov dword ptr [rdi], MARK
    mov eax, [rdi]
    cmp eax, MARK
    mov eax, 0xFFFFFFFF
    jne say_read                        ; the write went nowhere
    mov eax, MARK
    jmp say_read

own_device:
    lea rsi, [rip + own_text]
    mov [rip + verdict], rsi
    ret

open_window:                            ; RAX = a guest-physical address -> RAX = a linear one that leads there
    mov rdx, rax
    and rdx, -0x200000
    or rdx, 0x83                        ; present, writable, large
    bts rdx, 63                         ; no-execute
    mov [WINDOW_PDE], rdx
    and eax, 0x1FFFFF
    add eax, WINDOW
    invlpg [rax]
    ret

overwrite_hypercall_page:               ; an overlay of the hypervisor in our own memory, for reading and executing only
    mov edi, HYPERCALL_PAGE
    mov byte ptr [rdi], 0xC3
    cmp byte ptr [rdi], 0xC3
    mov eax, 0xFFFFFFFF
    jne say_read
    mov eax, 0xC3
    jmp say_read

; ---- the device, outside its domain -----------------------------------------------------------------------------

dma_beyond:
    mov rax, [rip + memory_size]
    jmp dma_to
dma_low:                                ; where the hypervisor or the root could be in real memory
    mov rax, 0x40000000
dma_to:
    mov rdi, [INFO]
    test rdi, rdi
    jz .none
    mov dword ptr [rdi + REG_ACK], 0       ; acknowledge what was before
    mov dword ptr [rdi + REG_SOURCE], DMA_SOURCE
    mov dword ptr [rdi + REG_SOURCE + 4], 0
    mov [rdi + REG_DESTINATION], eax
    shr rax, 32
    mov [rdi + REG_DESTINATION + 4], eax
    mov dword ptr [rdi + REG_LENGTH], 64
    mov dword ptr [rdi + REG_COMMAND], 1
    mov ecx, 1000000
.busy:
    pause
    mov eax, [rdi + REG_STATUS]
    test eax, 1
    jz .ended
    dec ecx
    jnz .busy
.ended:
    mov dword ptr [rdi + REG_ACK], 0
    lea rsi, [rip + refused_text]
    test eax, 2                         ; done without error: the bytes went somewhere
    jz .keep
    lea rsi, [rip + reached_text]
    jmp .keep
.none:
    xor eax, eax
    lea rsi, [rip + no_device_text]
.keep:
    mov [rip + verdict], rsi
    ret

; ---- model-specific registers and ports -------------------------------------------------------------------------

read_unknown_msr:
    mov ecx, 0x12345
    rdmsr
    jmp say_read
write_apic_base:                        ; reserved bits
    mov ecx, 0x1B
    mov eax, 0xFFFFFFFF
    mov edx, 0xFFFFFFFF
    wrmsr
    xor eax, eax
    jmp say_read
write_svm:                              ; the other vendor's host save area
    mov ecx, 0xC0010117
    mov eax, 0x100000
    xor edx, edx
    wrmsr
    xor eax, eax
    jmp say_read
write_feature_control:                  ; would allow VMXON
    mov ecx, 0x3A
    mov eax, 5
    xor edx, edx
    wrmsr
    xor eax, eax
    jmp say_read
read_pci:                               ; PCI configuration space of the machine
    mov dx, 0xCF8
    mov eax, 0x80000000
    out dx, eax
    mov dx, 0xCFC
    in eax, dx
    jmp say_read
read_disk:                              ; status of the first ATA disk
    mov dx, 0x1F7
    in al, dx
    movzx eax, al
    cmp al, 0xFF
    jne say_read
    mov eax, 0xFFFFFFFF
    jmp say_read
reset_machine:                          ; the reset control register of a PC
    mov dx, 0xCF9
    mov al, 6
    out dx, al
    in al, dx
    movzx eax, al
    cmp al, 0xFF
    jne say_read
    mov eax, 0xFFFFFFFF
    jmp say_read

; ---- virtualization instructions --------------------------------------------------------------------------------

vmxon_here:
    mov edi, 0x302000
    vmxon [rdi]
    xor eax, eax
    jmp say_read
vmlaunch_here:
    vmlaunch
    xor eax, eax
    jmp say_read
vmrun_here:
    mov eax, 0x302000
    vmrun
    xor eax, eax
    jmp say_read

vmload_here:
    mov eax, 0x302000
    vmload
    xor eax, eax
    jmp say_read
vmsave_here:
    mov eax, 0x302000
    vmsave
    xor eax, eax
    jmp say_read
clgi_here:                              ; would hold back every interrupt of the machine
    clgi
    xor eax, eax
    jmp say_read

.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/catch64.inc"
.include "lib/hypercall64.inc"

colon_text:     .asciz ": "
refused_text:   .asciz "refused, status "
nothing_text:   .asciz "nothing there, "
reached_text:   .asciz "reached! "
no_device_text: .asciz "no device to try with, "
own_text:       .asciz "the device is ours, "
fault_text:     .asciz "fault, vector "
code_text:      .asciz ", error code "
done_text:      .asciz "attacker has tried everything\n"

.align 8
verdict:        .quad nothing_text
memory_size:    .quad 0
victim:         .quad 3

table:                                  ; routine, name; a zero ends it
    .quad create_partition
    .asciz "create a partition"
    .quad delete_victim
    .asciz "delete the other partition"
    .quad map_into_root
    .asciz "map a page into the root partition"
    .quad map_into_victim
    .asciz "map a page into the other partition"
    .quad root_registers
    .asciz "read the root partition's registers"
    .quad victim_registers
    .asciz "read the other partition's registers"
    .quad set_victim_rip
    .asciz "write the other partition's RIP"
    .quad interrupt_victim
    .asciz "interrupt the other partition"
    .quad take_memory
    .asciz "take the other partition's memory"
    .quad unknown_call
    .asciz "call an unknown hypercall"
    .quad vmcall_outside_page
    .asciz "VMCALL outside the hypercall page"
    .quad overwrite_hypercall_page
    .asciz "overwrite the hypercall page"
    .quad read_beyond
    .asciz "read behind our memory"
    .quad write_beyond
    .asciz "write behind our memory"
    .quad read_4g
    .asciz "read at 4 GiB"
    .quad read_1t
    .asciz "read at 1 TiB"
    .quad read_iommu
    .asciz "read the IOMMU's registers"
    .quad read_device
    .asciz "read another partition's device"
    .quad dma_beyond
    .asciz "DMA behind our memory"
    .quad dma_low
    .asciz "DMA to 1 GiB"
    .quad read_unknown_msr
    .asciz "read an unknown MSR"
    .quad write_apic_base
    .asciz "write reserved bits of IA32_APIC_BASE"
    .quad write_svm
    .asciz "write VM_HSAVE_PA"
    .quad write_feature_control
    .asciz "write IA32_FEATURE_CONTROL"
    .quad read_pci
    .asciz "read PCI configuration space"
    .quad read_disk
    .asciz "read the disk's status"
    .quad reset_machine
    .asciz "reset the machine"
    .quad vmxon_here
    .asciz "VMXON"
    .quad vmlaunch_here
    .asciz "VMLAUNCH"
    .quad vmrun_here
    .asciz "VMRUN"
    .quad vmload_here
    .asciz "VMLOAD"
    .quad vmsave_here
    .asciz "VMSAVE"
    .quad clgi_here
    .asciz "CLGI"
    .quad 0

; A guest that asks CPUID twice: once for the last leaf of the hypervisor, once for twelve letters, which it stores at
; `letters`. There is nothing wrong with it: on a sound machine it ends by HLT, and the letters are there.

LETTERS = {{leaf.number:#x}}    ; the leaf that answers with letters

.bits 64
.org 0x10000
.entry start

start:
    mov eax, 0x40000000
    cpuid
    cld                         ; the way that STOSD goes
    mov edi, offset last
    stosd
    mov r12d, offset letters
    call store_letters
    mov byte ptr [done], 1
    hlt

store_letters:                  ; R12 = where to
    mov eax, LETTERS
    xor ecx, ecx
    cpuid
    mov [r12], ebx
    mov [r12 + {{leaf.second}}], edx
    mov [r12 + {{leaf.third}}], ecx
    ret

.org {{place:#x}}
letters: .skip 12
.align 8, 0
last:    .long 0                ; the last leaf
done:    .byte 0

"""The guest programs that `hv bench` runs: loops around the one thing that is measured."""

from __future__ import annotations

from hv.image.assembler import assemble
from hv.image.library import guests_folder
from hv.image.load import image_of
from hv.image.model import Image

CODE = 0x10000
DATA = 0x400000                 # above 2 MiB, so mapped no-execute
DATA_BYTES = 1 << 20

# Twelve instructions in one block, as compilers make them; RCX counts.
INTEGER_LOOP = """
.loop:
    add rax, rcx
    xor rdx, rax
    lea rbx, [rax + rdx*4 + 17]
    shl rdx, 3
    sub rbx, rdx
    imul rax, rbx
    mov rsi, rax
    shr rsi, 7
    and rsi, rbx
    or rdx, rsi
    dec rcx
    jnz .loop
"""

# Stores of 8 bytes through 1 MiB of data, over and over; RCX counts passes.
STORE_LOOP = f"""
.pass:
    mov rdi, {DATA}
    mov rsi, {DATA_BYTES // 64}
.store:
    mov [rdi], rax
    mov [rdi + 8], rcx
    mov [rdi + 16], rdx
    mov [rdi + 24], rsi
    mov [rdi + 32], rax
    mov [rdi + 40], rcx
    mov [rdi + 48], rdx
    mov [rdi + 56], rsi
    add rdi, 64
    dec rsi
    jnz .store
    dec rcx
    jnz .pass
"""

CPUID_LOOP = """
    mov r12, rcx
.loop:
    mov eax, 0x40000000
    cpuid
    dec r12
    jnz .loop
"""

MSR_LOOP = """
    mov r12, rcx
    mov ecx, 0x40000002         ; VP index
.loop:
    rdmsr
    dec r12
    jnz .loop
"""

# HvCallNotifyLongSpinWait, fast: the call with the least to do. Control word in RCX, how often we tried in RDX.
HYPERCALL_LOOP = """
    mov r12, rcx
    call hypercall_init
.loop:
    mov ecx, 0x10008
    mov edx, 1
    xor r8d, r8d
    mov eax, HYPERCALL_PAGE
    call rax
    test ax, ax
    jnz failed
    dec r12
    jnz .loop
"""
HYPERCALL_TAIL = """
failed:
    ud2                         ; no IDT: a triple fault, which the bench reports

.include "lib/hypercall64.inc"
"""

# The device copies 4 bytes and interrupts; the handler's first instruction is RDMSR, which is seen from outside.
DEVICE_LOOP = """
    mov r12, rcx
    mov edi, 0x50
    mov eax, offset on_device
    call idt_set
    call idt_load
    mov edx, APIC
    mov dword ptr [rdx + APIC_SVR], 0x1FF
    mov rbx, [INFO]
    mov rax, [INFO + 8]
    mov [rbx + REG_MSI_ADDRESS], eax
    shr rax, 32
    mov [rbx + REG_MSI_ADDRESS + 4], eax
    mov eax, [INFO + 16]
    mov [rbx + REG_MSI_DATA], eax
    mov dword ptr [rbx + REG_MSI_ENABLE], 1
    mov dword ptr [rbx + REG_SOURCE], 0x300000
    mov dword ptr [rbx + REG_SOURCE + 4], 0
    mov dword ptr [rbx + REG_DESTINATION], 0x301000
    mov dword ptr [rbx + REG_DESTINATION + 4], 0
    mov dword ptr [rbx + REG_LENGTH], 4
    mov ecx, HV_VP_INDEX
.loop:
    mov dword ptr [rbx + REG_COMMAND], 1
    sti
    hlt
    cli
    dec r12
    jnz .loop
"""
DEVICE_TAIL = """
on_device:
    rdmsr                       ; RCX is HV_VP_INDEX since the start of the loop
    mov dword ptr [rbx + REG_ACK], 0
    mov edx, APIC
    mov dword ptr [rdx + APIC_EOI], 0
    iretq

.include "lib/dma_engine.inc"
.include "lib/idt64.inc"
"""

# The timer interrupts a guest that sleeps; the handler does what kernels do: task priority up, EOI, down again.
TIMER_LOOP = """
    mov r12, rcx
    mov edi, 0x50
    mov eax, offset on_timer
    call idt_set
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    mov dword ptr [rbx + APIC_DIVIDE], 0x0B
    mov dword ptr [rbx + APIC_LVT_TIMER], 0x20050
    mov dword ptr [rbx + APIC_INITIAL], 10000
.loop:
    sti
    hlt
    cli
    dec r12
    jnz .loop
    mov dword ptr [rbx + APIC_INITIAL], 0
"""
TIMER_TAIL = """
on_timer:
    push rax
    mov eax, 5
    mov cr8, rax
    mov dword ptr [rbx + APIC_EOI], 0
    xor eax, eax
    mov cr8, rax
    pop rax
    iretq

.include "lib/idt64.inc"
"""


def guest(loop: str, count: int, tail: str = "") -> Image:
    """A 64-bit guest that runs *loop* with RCX = *count*, and switches itself off."""
    source = f"""
.include "lib/machine.inc"
.bits 64
.org {CODE}
start:
    mov rcx, {count}
{loop}
    mov dx, POWER_PORT
    mov ax, POWER_OFF
    out dx, ax
    hlt
{tail}
"""
    folder = guests_folder()
    return image_of(assemble(source, "bench", folders=(folder,) if folder else ()))


def bare(loop: str) -> bytes:
    """The machine code of *loop* alone, for the engine without us."""
    return assemble(f".bits 64\n.org {CODE}\nstart:\n{loop}\n    hlt\n", "bench").segments[0][1]

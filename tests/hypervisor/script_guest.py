"""A guest in machine code that does what a script in its memory says: hypercalls, RDMSR, WRMSR, CPUID, one by one.

What faults is passed over and noted; interrupts are ended and forgotten. The host writes a script while the guest waits
in a PAUSE loop, says how long it is, and lets the machine run until the guest has done it (or cannot any more: a script
may ask for the guest's own end).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

from hv.image.assembler import assemble
from hv.image.library import guests_folder
from hv.image.load import image_of
from hv.image.model import Image

SCRIPT, LENGTH, POSITION = 0x40000, 0x3F000, 0x3F008
BLOCKS, OUTPUTS, ROOM = 0x100000, 0x140000, 64      # a page of input and a page of output for each of 64 commands
MEMORY_MIB = 2
XMM_COUNT = 6
FAULTED = 1 << 63                       # in the note of a command: it ended by the exception in the low byte
_COMMAND = struct.Struct("<8Q96sQ24x")
_NOTE = _COMMAND.size - 32


class Do(IntEnum):
    """What one command is."""

    HYPERCALL = 0                       # CALL to the hypercall page
    WRMSR = 1
    RDMSR = 2
    CPUID = 3
    VMCALL = 4                          # by the guest's own instruction, which is not how it is done
    LISTEN = 5                          # interrupts on, for a moment


@dataclass(frozen=True)
class Command:
    """One step, with the registers it begins with; *block* is written to its input page."""

    do: Do
    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    r8: int = 0
    xmm: bytes = bytes(16 * XMM_COUNT)
    block: bytes = b""

    def pack(self) -> bytes:
        """As it stands in the script."""
        return _COMMAND.pack(self.do, self.rax, self.rbx, self.rcx, self.rdx, self.rsi, self.rdi, self.r8, self.xmm,
                             (1 << 64) - 1)


def packed(script: Sequence[Command]) -> dict[int, bytes]:
    """What the host writes for *script*: gpa -> bytes. The length comes last: it lets the guest go."""
    assert len(script) <= ROOM, f"{len(script)} commands; there is room for {ROOM}"
    blocks = {BLOCKS + (n << 12): command.block for n, command in enumerate(script) if command.block}
    return blocks | {SCRIPT: b"".join(command.pack() for command in script), POSITION: bytes(8),
                     LENGTH: len(script).to_bytes(8, "little")}


def notes_of(script: bytes) -> list[int]:
    """What the guest noted for each command: RAX when it was done, FAULTED | vector, all ones if it was not reached."""
    return [struct.unpack_from("<Q", script, at + _NOTE)[0] for at in range(0, len(script), _COMMAND.size)]


SIZE = _COMMAND.size


@cache
def image() -> Image:
    """The program."""
    folder = guests_folder()
    assert folder is not None, "the guests are in the tree"
    return image_of(assemble(_SOURCE, "script_guest", folders=(folder,)))


_SOURCE = f"""
.include "lib/machine.inc"
.bits 64
.org 0x10000
.entry start

STACK = 0x90000

start:
    xor edi, edi                        ; one gate for each vector: a stub of 16 bytes
.gate:
    mov eax, offset stubs
    mov edx, edi
    shl edx, 4
    add eax, edx
    call idt_set
    inc edi
    cmp edi, 256
    jb .gate
    call idt_load
    mov eax, APIC
    mov dword ptr [rax + APIC_SVR], 0x1FF
    mov al, 0xC3                        ; where the hypercall page is not, a call comes back
    mov edi, HYPERCALL_PAGE
    mov ecx, 4096
    cld
    rep stosb
    call hypercall_init

wait:
    mov esp, STACK
    pause
    mov rax, [POSITION_AT]
    cmp rax, [LENGTH_AT]
    jae wait

    imul rbp, rax, {SIZE}
    add rbp, {SCRIPT}
    movups xmm0, [rbp + 64]
    movups xmm1, [rbp + 80]
    movups xmm2, [rbp + 96]
    movups xmm3, [rbp + 112]
    movups xmm4, [rbp + 128]
    movups xmm5, [rbp + 144]
    mov r9, [rbp]
    mov rax, [rbp + 8]
    mov rbx, [rbp + 16]
    mov rcx, [rbp + 24]
    mov rdx, [rbp + 32]
    mov rsi, [rbp + 40]
    mov rdi, [rbp + 48]
    mov r8, [rbp + 56]
    cmp r9d, {Do.HYPERCALL}
    je .hypercall
    cmp r9d, {Do.WRMSR}
    je .wrmsr
    cmp r9d, {Do.RDMSR}
    je .rdmsr
    cmp r9d, {Do.CPUID}
    je .cpuid
    cmp r9d, {Do.VMCALL}
    je .vmcall
    sti
    nop
    nop
    cli
    jmp done
.hypercall:
    mov r10d, HYPERCALL_PAGE
    call r10
    jmp done
.wrmsr:
    wrmsr
    jmp done
.rdmsr:
    rdmsr
    jmp done
.cpuid:
    cpuid
    jmp done
.vmcall:
    vmcall

done:
    mov r9, [POSITION_AT]               ; no register is sure to be what it was
    imul rbp, r9, {SIZE}
    mov [rbp + {SCRIPT + _NOTE}], rax
    inc r9
    mov [POSITION_AT], r9
    jmp wait

fault:                                  ; AL = vector
    movzx eax, al
    bts rax, 63
    mov esp, STACK
    jmp done

interrupt:
    push rax
    mov eax, APIC
    mov dword ptr [rax + APIC_EOI], 0
    pop rax
    iretq

POSITION_AT = {POSITION}
LENGTH_AT = {LENGTH}

.include "lib/idt64.inc"
.include "lib/hypercall64.inc"

.align 16
stubs:
"""
_EXCEPTIONS, _NMI = 32, 2


def _stub(vector: int) -> str:
    """What the gate of *vector* leads to, at most 16 bytes."""
    if vector == _NMI:
        return "iretq"
    return "jmp interrupt" if vector >= _EXCEPTIONS else f"mov al, {vector}\n    jmp fault"


_SOURCE += "".join(f"stub{vector}:\n    {_stub(vector)}\n    .align 16\n" for vector in range(256))

"""A guest in machine code whose VPs do what scripts in its memory say: hypercalls, RDMSR, WRMSR, CPUID, one by one.

What faults is passed over and noted; interrupts are ended and forgotten. The host writes a script for each VP while all
wait in a PAUSE loop, says how long it is, and lets the machine run until they have done it (or cannot any more: a
script may ask for the guest's own end). VP 0 starts the others by INIT and SIPI.
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

VPS = 3
LINT0, EXT_INT = 0x350, 7               # of the APIC: a register, and what its delivery mode is
SCRIPTS, STRIDE = 0x40000, 0x4000       # the script of VP 0, and how far it is to the next one's
LENGTH, POSITION = 0x3000, 0x3008       # in a script's pages: number of commands, and of those done
BLOCKS, OUTPUTS, ROOM = 0x100000, 0x140000, 64      # a page of input and a page of output for each of 64 commands
IDLE = 60                               # turns of a loop between two looks at the script
SYNIC_PAGES, SYNIC_STRIDE = 0x58000, 0x2000     # of VP 0, and how far it is to the next one's: messages, then events
MEMORY_MIB = 4
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
    TAKE = 6                            # the message in the slot at RDI is read: the next one may come


@dataclass(frozen=True)
class Command:
    """One step, with the registers it begins with; *block* is written to *gpa* before."""

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
    gpa: int = BLOCKS

    def pack(self) -> bytes:
        """As it stands in the script."""
        return _COMMAND.pack(self.do, self.rax, self.rbx, self.rcx, self.rdx, self.rsi, self.rdi, self.r8, self.xmm,
                             (1 << 64) - 1)


def packed(script: Sequence[Command], vp: int = 0) -> dict[int, bytes]:
    """What the host writes for *script* of a VP: gpa -> bytes. The length comes last: it lets the VP go."""
    assert len(script) <= ROOM, f"{len(script)} commands; there is room for {ROOM}"
    at = SCRIPTS + vp * STRIDE
    blocks = {command.gpa: command.block for command in script if command.block}
    return blocks | {at: b"".join(command.pack() for command in script), at + POSITION: bytes(8),
                     at + LENGTH: len(script).to_bytes(8, "little")}


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


def _own(register: str, shift: int) -> str:
    """*register* becomes the VP's index << *shift*. CPUID tells the index whatever the APIC has become."""
    return f"""
    mov eax, 1
    cpuid
    shr ebx, 24
    and ebx, 3
    shl ebx, {shift}
    mov {register}, rbx"""


assert (STRIDE, SYNIC_STRIDE) == (1 << 14, 1 << 13)
_SOURCE = f"""
.include "lib/machine.inc"
.bits 64
.org 0x10000
.entry start

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
    mov al, 0xC3                        ; where the hypercall page is not, a call comes back
    mov edi, HYPERCALL_PAGE
    mov ecx, 4096
    cld
    rep stosb
    call hypercall_init
    call smp_start

ap_main:
    mov rax, cr4
    or eax, 0x600                       ; SSE, for all of us
    mov cr4, rax
    mov eax, APIC
    mov dword ptr [rax + {LINT0}], {EXT_INT << 8}   ; as firmware leaves it: INTR comes through
{_own("rsi", 13)}
    lea eax, [rsi + {SYNIC_PAGES} + 1]
    mov ecx, HV_SIMP
    call set_msr
    add eax, 0x1000
    mov ecx, HV_SIEFP
    call set_msr
    mov ecx, HV_SINT2
    mov eax, 0x52
    call set_msr
    mov ecx, HV_SCONTROL
    mov eax, 1
    call set_msr

wait:                                   ; no register is sure to be what it was, nor that the stack is there
{_own("rsp", 12)}
    add rsp, SMP_STACKS + 0x1000
{_own("rbp", 14)}
    add rbp, {SCRIPTS}
    mov r14d, 200
.spin:
    pause
    mov r15d, {IDLE}
.idle:                                  ; PAUSE is an exit: here time passes at no cost
    dec r15d
    jnz .idle
    mov rax, [rbp + {POSITION}]
    cmp rax, [rbp + {LENGTH}]
    jb .go
    dec r14d
    jnz .spin
    jmp wait
.go:
    imul rax, rax, {SIZE}
    add rbp, rax
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
    cmp r9d, {Do.TAKE}
    je .take
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
.take:
    mov dword ptr [rdi], 0
    mov ecx, HV_EOM
    xor eax, eax
    call set_msr
    jmp done
.vmcall:
    vmcall

done:
    mov r10, rax
{_own("rbp", 14)}
    add rbp, {SCRIPTS}
    mov r9, [rbp + {POSITION}]
    imul rax, r9, {SIZE}
    mov [rbp + rax + {_NOTE}], r10
    inc r9
    mov [rbp + {POSITION}], r9
    jmp wait

set_msr:                                ; ECX = EAX
    xor edx, edx
    wrmsr
    ret

fault:                                  ; AL = vector
    movzx eax, al
    bts rax, 63
    jmp done

interrupt:
    push rax
    mov eax, APIC
    mov dword ptr [rax + APIC_EOI], 0
    pop rax
    iretq

.include "lib/idt64.inc"
.include "lib/hypercall64.inc"
.include "lib/smp64.inc"

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

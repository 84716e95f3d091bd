"""Small kernels for tests: ELF files, and bzImages around them that no build of Linux has seen."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Sequence
from typing import Any

from hv.image.elf import Elf64Header, Elf64ProgramHeader, ElfIdent
from hv.spec.linux_boot import SETUP_HEADER, SetupHeader
from tests.guest_runner import assemble

LOAD_GPA = 0x1000000
SETUP_SECTORS = 2

# Says hello, and what it was given: the command line, then the first letters of the initrd. RSI is the zero page.
GREETER = """
mov dx, 0x3f8
lea rbx, [rip + text]
call print
mov ebx, [rsi + 0x228]
call print
mov al, 124
out dx, al
mov ebx, [rsi + 0x218]
test ebx, ebx
jz done
call print
done:
mov dx, 0x604
mov ax, 0x2000
out dx, ax
hlt
print:
mov al, [rbx]
test al, al
jz printed
out dx, al
inc rbx
jmp print
printed:
ret
text:
.asciz "hello "
"""


def elf64(segments: Sequence[tuple[int, bytes, int, int]], entry: int, kind: int = 2) -> bytes:
    """An ELF64 with *segments* (physical address, content, size in memory, rights); virtual addresses are others."""
    ident = ElfIdent(magic=0x464C457F, file_class=2, data=1, version=1)
    offset = Elf64Header.SIZE + Elf64ProgramHeader.SIZE * len(segments)
    header = Elf64Header(ident=ident, type=kind, machine=62, version=1, entry=entry, phoff=Elf64Header.SIZE,
                         ehsize=Elf64Header.SIZE, phentsize=Elf64ProgramHeader.SIZE, phnum=len(segments))
    table, contents = b"", b""
    for gpa, content, size, rights in segments:
        table += Elf64ProgramHeader(type=1, flags=rights, offset=offset + len(contents), filesz=len(content),
                                    memsz=size, paddr=gpa, vaddr=gpa + 0xFFFFFFFF80000000 & (1 << 64) - 1).pack()
        contents += content
    return header.pack() + table + contents


def code(source: str = GREETER, origin: int = LOAD_GPA, bits: int = 64) -> bytes:
    """*source*, assembled for *origin*."""
    ((_, made),) = assemble(source, bits, origin)
    return made


def vmlinux(source: str = GREETER, relocations: bytes = b"") -> bytes:
    """A kernel as the build packs it: an ELF, and behind it what moves it elsewhere."""
    made = code(source)
    return elf64([(LOAD_GPA, made, len(made), 5), (LOAD_GPA + 0x200000, b"data", 0x3000, 6)], LOAD_GPA) + relocations


def packed(content: bytes, compress: Callable[[bytes], bytes] = gzip.compress) -> bytes:
    """The payload of a bzImage: gzip's trailer has the length, others get it appended."""
    made = compress(content)
    return made if compress is gzip.compress else made + struct.pack("<I", len(content))


def bzimage(payload: bytes = b"", kernel: bytes | None = None, **fields: Any) -> bytes:
    """A bzImage of protocol 2.15 with *payload* behind *kernel*, its protected-mode code; *fields* of its header."""
    kernel = bytes(0x400) if kernel is None else kernel
    whole = kernel + payload
    whole += bytes(-len(whole) % 16)
    values: dict[str, Any] = {
        "setup_sects": SETUP_SECTORS, "syssize": len(whole) // 16, "boot_flag": 0xAA55, "jump": 0x6AEB,
        "header": int.from_bytes(b"HdrS", "little"), "version": 0x20F, "loadflags": 1, "code32_start": 0x100000,
        "initrd_addr_max": 0x7FFFFFFF, "kernel_alignment": 0x200000, "relocatable_kernel": 1, "min_alignment": 21,
        "xloadflags": 1, "cmdline_size": 0x7FF, "payload_offset": len(kernel) if payload else 0,
        "payload_length": len(payload), "pref_address": LOAD_GPA, "init_size": 0x400000}
    header = SetupHeader(**values | fields).pack()
    return (bytes(SETUP_HEADER) + header).ljust(512 * (1 + SETUP_SECTORS), b"\0") + whole

"""Small kernels for tests: ELF files, and bzImages around them that no build of Linux has seen."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Sequence
from typing import Any

from hv.image.elf import Elf32Header, Elf32ProgramHeader, Elf64Header, Elf64ProgramHeader, ElfIdent
from hv.spec.linux_boot import SETUP_HEADER, SetupHeader
from hv.spec.multiboot import HEADER_MAGIC, MultibootHeader
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


MULTIBOOT_GPA = 0x100000
_CODE_AT = 0x40                 # of a Multiboot kernel: behind its header

# Says its command line, then each module's text and content, if EAX has the magic number. EBX is the information.
MULTIBOOT_GREETER = """
cmp eax, 0x2badb002
jne done
mov dx, 0x3f8
mov esi, [ebx + 16]
call print
mov ecx, [ebx + 20]
mov edi, [ebx + 24]
next:
test ecx, ecx
jz done
mov al, 124
out dx, al
mov esi, [edi + 8]
call print
mov al, 61
out dx, al
mov esi, [edi]
content:
mov al, [esi]
out dx, al
inc esi
cmp esi, [edi + 4]
jb content
add edi, 16
dec ecx
jmp next
done:
mov dx, 0x604
mov ax, 0x2000
out dx, ax
hlt
print:
mov al, [esi]
test al, al
jz printed
out dx, al
inc esi
jmp print
printed:
ret
"""


def multiboot_header(flags: int = 3, **addresses: int) -> bytes:
    """A Multiboot 1 header, with its addresses where flag 16 is set."""
    made = MultibootHeader(magic=HEADER_MAGIC, flags=flags, checksum=-(HEADER_MAGIC + flags) & 0xFFFFFFFF, **addresses)
    return made.pack() if flags >> 16 else made.pack()[:12]


def multiboot_flat(source: str = MULTIBOOT_GREETER, flags: int = 0x10003, **addresses: int) -> bytes:
    """A Multiboot kernel that is no ELF: its header says where everything goes."""
    places = {"header_addr": MULTIBOOT_GPA, "load_addr": MULTIBOOT_GPA, "bss_end_addr": MULTIBOOT_GPA + 0x2000,
              "entry_addr": MULTIBOOT_GPA + _CODE_AT}
    header = multiboot_header(flags, **places | addresses)
    return header.ljust(_CODE_AT, b"\0") + code(source, MULTIBOOT_GPA + _CODE_AT, 32)


def multiboot_elf(source: str = MULTIBOOT_GREETER, bits: int = 32, flags: int = 3) -> bytes:
    """The same as ELF file."""
    whole = multiboot_header(flags).ljust(_CODE_AT, b"\0") + code(source, MULTIBOOT_GPA + _CODE_AT, 32)
    if bits == 64:
        return elf64([(MULTIBOOT_GPA, whole, len(whole) + 64, 7)], MULTIBOOT_GPA + _CODE_AT)
    ident = ElfIdent(magic=0x464C457F, file_class=1, data=1, version=1)
    header = Elf32Header(ident=ident, type=2, machine=3, version=1, entry=MULTIBOOT_GPA + _CODE_AT,
                         phoff=Elf32Header.SIZE, phentsize=Elf32ProgramHeader.SIZE, phnum=1)
    program = Elf32ProgramHeader(type=1, offset=Elf32Header.SIZE + Elf32ProgramHeader.SIZE, vaddr=MULTIBOOT_GPA,
                                 paddr=MULTIBOOT_GPA, filesz=len(whole), memsz=len(whole) + 64, flags=7)
    return header.pack() + program.pack() + whole


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

"""An encoder of ACPI Machine Language: each function gives the bytes of one term.

    scope("\\_SB", device("RTC", name("_HID", eisa_id("PNP0B00"))))

is what a compiler makes of `Scope (\\_SB) { Device (RTC) { Name (_HID, EisaId ("PNP0B00")) } }`. Integers and lengths
take the shortest form, as there. ACPI "ACPI Machine Language (AML) Specification".
"""

from __future__ import annotations

from hv.spec.aml import DUAL_NAME, MOST_PACKAGE_LENGTH, MULTI_NAME, NULL_NAME, SEGMENT_SIZE, Opcode

_PREFIXES = ((Opcode.BYTE, 1), (Opcode.WORD, 2), (Opcode.DWORD, 4), (Opcode.QWORD, 8))


def name_string(path: str) -> bytes:
    """A path such as `\\_SB.PCI0`: names of up to four characters, filled up with `_`; "Name Objects Encoding"."""
    names = path.lstrip("\\^")
    prefix = path[: len(path) - len(names)].encode("ascii")
    segments = [part.ljust(SEGMENT_SIZE, "_").encode("ascii") for part in names.split(".")] if names else []
    assert all(len(segment) == SEGMENT_SIZE for segment in segments), f"{path} has a name of more than 4 characters"
    counts = {0: bytes([NULL_NAME]), 1: b"", 2: bytes([DUAL_NAME])}
    return prefix + counts.get(len(segments), bytes([MULTI_NAME, len(segments)])) + b"".join(segments)


def integer(value: int) -> bytes:
    """The shortest constant for 0..2^64-1; "Data Objects Encoding"."""
    if value in (0, 1):
        return bytes([value])
    prefix, size = next((prefix, size) for prefix, size in _PREFIXES if value >> 8 * size == 0)
    return bytes([prefix]) + value.to_bytes(size, "little")


def string(text: str) -> bytes:
    """ASCII, with a zero byte at its end."""
    return bytes([Opcode.STRING]) + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """The integer for an id such as PNP0A08; ACPI "EISAID (EISA ID String To Integer Conversion Macro)"."""
    letters, number = text[:3], int(text[3:], 16)
    first = (ord(letters[0]) - 64) << 10 | (ord(letters[1]) - 64) << 5 | ord(letters[2]) - 64
    return integer(int.from_bytes((first << 16 | number).to_bytes(4, "big"), "little"))


def _with_length(content: bytes) -> bytes:
    """*content* behind its length, which counts itself; "Package Length Encoding"."""
    for more in range(4):
        length = len(content) + 1 + more
        if length <= (0x3F if more == 0 else (1 << 4 + 8 * more) - 1):
            break
    assert length <= MOST_PACKAGE_LENGTH, "a term of 256 MiB"
    if more == 0:
        return bytes([length]) + content
    return bytes([more << 6 | length & 0xF]) + (length >> 4).to_bytes(more, "little") + content


def package(*items: bytes) -> bytes:
    """Package () { items }; up to 255 of them."""
    return bytes([Opcode.PACKAGE]) + _with_length(bytes([len(items)]) + b"".join(items))


def buffer(content: bytes) -> bytes:
    """Buffer () { content }."""
    return bytes([Opcode.BUFFER]) + _with_length(integer(len(content)) + content)


def name(path: str, value: bytes) -> bytes:
    """Name (path, value)."""
    return bytes([Opcode.NAME]) + name_string(path) + value


def scope(path: str, *terms: bytes) -> bytes:
    """Scope (path) { terms }."""
    return bytes([Opcode.SCOPE]) + _with_length(name_string(path) + b"".join(terms))


def device(path: str, *terms: bytes) -> bytes:
    """Device (path) { terms }."""
    return Opcode.DEVICE.to_bytes(2, "big") + _with_length(name_string(path) + b"".join(terms))

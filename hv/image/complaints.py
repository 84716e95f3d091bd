"""What the assembler says when it refuses: Keystone's complaint in our words, and what to write instead."""

from __future__ import annotations

from collections.abc import Sequence

from hv.image.errors import ImageError

WRITE_INSTEAD = {
    "iret": "write iretq (iretd pops 4-byte values)", "sysret": "write sysretq, or sysretl to return to 32-bit code",
    "pushad": "push the registers one by one", "pusha": "push the registers one by one",
    "popad": "pop the registers one by one", "popa": "pop the registers one by one",
    "pushfd": "write pushfq", "popfd": "write popfq",
}
FOREIGN = {    # other assemblers' words
    "db": "write .byte", "dw": "write .word", "dd": "write .long", "dq": "write .quad", "resb": "write .skip",
    "times": "write .skip COUNT, VALUE", "equ": "write .equ NAME, value", "org": "write .org ADDRESS",
    "bits": "write .bits 16, 32 or 64", "use16": "write .bits 16", "use32": "write .bits 32", "use64": "write .bits 64",
    "section": "write .org ADDRESS", "segment": "write .org ADDRESS", "align": "write .align N",
    "include": 'write .include "file"', "incbin": "write the bytes with .byte",
    "global": "every label is visible: leave it out",
    "extern": "there is no linker: write .include", "lretq": "write retfq", "lret": "write retf",
    "ljmp": "write jmp 0x8:label", "lcall": "write call 0x8:label", "movl": "write Intel syntax: mov",
    "movb": "write Intel syntax: mov", "movabsq": "write mov", "retq": "write ret",
    "callq": "write call", "jmpq": "write jmp",
}


def write_instead(mnemonic: str) -> str:
    """What to write for *mnemonic*, or ""."""
    return WRITE_INSTEAD.get(mnemonic) or FOREIGN.get(mnemonic, "")


def refused(mnemonic: str, bits: int, numbers: Sequence[int], complaint: str) -> ImageError:
    """The error for an instruction Keystone refused with *complaint*; *numbers* are its immediate operands."""
    if "MNEMONICFAIL" in complaint or mnemonic in WRITE_INSTEAD:
        return ImageError(f"`{mnemonic}` is no instruction of {bits}-bit code that is known here",
                          write_instead(mnemonic) or "check the spelling; a label needs a colon")
    wide = [number for number in numbers if not -(1 << 31) <= number < 1 << 31]
    if wide and bits == 64:
        return ImageError(f"{mnemonic} has no form with the immediate {wide[0]:#x}",
                          "only mov to a register takes 64 bits: load it there first")
    if "MISSINGFEATURE" in complaint:
        return ImageError(f"this form of {mnemonic} does not exist in {bits}-bit code", "check .bits")
    return ImageError(f"these operands do not go with {mnemonic}",
                      "check their sizes and order: destination first, both of one size")


def crashed(operands: Sequence[str], late: bool) -> tuple[str, str]:
    """Message and hint for the instruction with *operands* that ended the child process, or kept it too long."""
    high = sorted({"ah", "bh", "ch", "dh"} & {operand.lower() for operand in operands})
    hint = f"{high[0]} cannot go with r8-r15: use al, bl, cl or dl" if high else "write it another way, or as .byte"
    return f"the assembler {'took too long over' if late else 'crashed on'} this", hint

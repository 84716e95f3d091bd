"""What an instruction's operands need of a processor: its registers by name, and where its segments begin.

The processor's own state satisfies this, and so does the set of registers that a worker was told by the hypervisor.
"""

from __future__ import annotations

from typing import Protocol


class SegmentPart(Protocol):
    """What an address, and the size of an instruction's operands, take from a segment register."""

    @property
    def base(self) -> int: ...
    @property
    def long(self) -> bool: ...     # L = 1: 64-bit code (when EFER.LMA = 1)
    @property
    def big(self) -> bool: ...      # D/B = 1: 32-bit code or stack


class InstructionRegisters(Protocol):
    """The registers that instructions name; integers hold the unsigned value."""

    rax: int
    rcx: int
    rdx: int
    rbx: int
    rsp: int
    rbp: int
    rsi: int
    rdi: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    rip: int
    rflags: int
    @property
    def efer(self) -> int: ...
    @property
    def es(self) -> SegmentPart: ...
    @property
    def cs(self) -> SegmentPart: ...
    @property
    def ss(self) -> SegmentPart: ...
    @property
    def ds(self) -> SegmentPart: ...
    @property
    def fs(self) -> SegmentPart: ...
    @property
    def gs(self) -> SegmentPart: ...

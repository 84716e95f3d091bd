"""Many small attempts in one guest: what each one raised, with its error code, return address, RFLAGS and CR2.

    raised = attempt(["ud2", "xor eax, eax"])
    assert (raised[0].vector, raised[1]) == (6, None)

An attempt that raises goes on behind itself. R11..R14 are ours; R13 is where the next record of the log goes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hv.spec.x86 import PUSHES_ERROR_CODE
from tests.guest_runner import GuestRun, run_guest
from tests.guests.test_modes import LOAD, OFF, handlers

LOG = 0x200000
RECORD = struct.Struct("<II4Q")
_TELL = ("mov [r13], r12d; mov dword ptr [r13 + 4], {vector}; {error}mov r11, [rsp]; mov [r13 + 8], r11; "
         "mov r11, [rsp + 16]; mov [r13 + 24], r11; mov r11, cr2; mov [r13 + 32], r11; add r13, 40; "
         "mov [rsp], r14; iretq")
_ERROR = "pop r11; mov [r13 + 16], r11; "


@dataclass(frozen=True)
class Raised:
    """One exception: *offset* is the saved RIP, counted from the attempt's first byte."""

    vector: int
    error_code: int
    offset: int
    rflags: int
    cr2: int


def tellers() -> dict[int, bytes]:
    """An IDT whose handlers write down what they got, and return to R14."""
    sources = {f"v{n}": _TELL.format(vector=n, error=_ERROR if n in PUSHES_ERROR_CODE else "") for n in range(32)}
    return handlers(64, **sources)


def attempt(sources: Sequence[str], *, before: str = "", data: Mapping[int, bytes] | None = None, vps: int = 1,
            budget: int = 20_000_000) -> Attempts:
    """Try each of *sources* in 64-bit code at CPL 0, after *before*."""
    parts = [f"{LOAD}; mov r13d, {LOG}; {before}" if before else f"{LOAD}; mov r13d, {LOG}"]
    for n, source in enumerate(sources):
        parts.append(f"mov r12d, {n}; mov r14d, behind_{n}; try_{n}: {source}; behind_{n}: nop")
    table = {LOG + 0x8000: b""}
    ends = "; ".join(f"mov eax, try_{n}; mov [{LOG + 0x8000 + 4 * n}], eax" for n in range(len(sources)))
    result = run_guest("; ".join([*parts, ends, OFF]), data={**tellers(), **table, **(data or {})}, memory_mib=4,
                       budget=budget, vps=vps)
    assert result.ended == "shutdown", (result.ended, result.why)
    return Attempts(result, len(sources))


class Attempts:
    """What became of them, by number; None for one that raised nothing. *all* has every record in order."""

    def __init__(self, result: GuestRun, count: int) -> None:
        self.result, memory = result, result.memory
        places = struct.unpack_from(f"<{count}I", memory, LOG + 0x8000)
        self.all: list[tuple[int, Raised]] = []
        for at in range(LOG, result.r13, RECORD.size):
            number, vector, rip, code, rflags, cr2 = RECORD.unpack_from(memory, at)
            self.all.append((number, Raised(vector, code, rip - places[number], rflags, cr2)))
        self._first = dict(reversed(self.all))

    def __getitem__(self, number: int) -> Raised | None:
        return self._first.get(number)

    def vector(self, number: int) -> int | None:
        """The exception of attempt *number*."""
        raised = self[number]
        return None if raised is None else raised.vector

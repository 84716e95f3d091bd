"""Whatever bytes a guest executes on a device: they are carried out, or refused in a way that is typed."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from hv.instructions.decode import Decoded, Undecodable, decode
from hv.instructions.execute import execute
from hv.instructions.faults import InstructionFault
from hv.instructions.port_strings import transfer

GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
# Bytes that begin most of what touches memory, prefixes among them.
BEGINNINGS = bytes.fromhex("f6f70f66f2f36c6e69fffec8c9c2e8d7506a8fa4abaec06748260f0fa2668b89")
ROUNDS = 4000


class Registers:
    """Values from the edges of their ranges."""

    def __init__(self, random_: random.Random, bits: int) -> None:
        self._random = random_
        for name in GENERAL:
            setattr(self, name, random_.choice((0, 1, 1 << 63, (1 << 64) - 1, random_.getrandbits(64))))
        self.rip, self.rflags, self.efer = 0x1000, random_.getrandbits(12) | 2, 0x400 if bits == 64 else 0
        for name in ("es", "cs", "ss", "ds", "fs", "gs"):
            setattr(self, name, SimpleNamespace(base=random_.getrandbits(32), long=bits == 64, big=bits != 16))

    def read_xmm(self, number: int) -> bytes:
        assert number < 16
        return self._random.randbytes(16)

    def write_xmm(self, number: int, value: bytes) -> None:
        assert (number < 16, len(value)) == (True, 16)

    def read_mmx(self, number: int) -> int:
        assert number < 8
        return self._random.getrandbits(64)

    def write_mmx(self, number: int, value: int) -> None:
        assert (number < 8, value >> 64) == (True, 0)

    def enter_mmx(self) -> None:
        pass


class Memory:
    """Gives anything, and takes what fits."""

    def __init__(self, random_: random.Random) -> None:
        self._random = random_

    def read(self, gva: int, size: int) -> int:
        return self._random.choice((0, (1 << 8 * size) - 1, self._random.getrandbits(8 * size)))

    def write(self, gva: int, size: int, value: int) -> None:
        assert (size > 0, value >> 8 * size) == (True, 0)

    def check_write(self, gva: int, size: int) -> None:
        assert size > 0


def carry_out(registers: Any, decoded: Decoded, memory: Memory) -> None:
    if decoded.port is not None:
        transfer(registers, decoded, memory, memory)
    else:
        execute(registers, decoded, memory)


def test_any_bytes_are_an_instruction_that_is_done_or_refused():
    random_, done = random.Random(6), set()
    for _ in range(ROUNDS):
        bits = random_.choice((16, 32, 64))
        code = bytes(random_.choices(BEGINNINGS, k=random_.randrange(1, 4))) + random_.randbytes(12)
        try:
            decoded = decode(code[:15], bits)
            registers = Registers(random_, bits)
            carry_out(registers, decoded, Memory(random_))
        except (Undecodable, InstructionFault):
            continue
        done.add(decoded.mnemonic)
        assert all(0 <= getattr(registers, name) < 1 << 64 for name in (*GENERAL, "rip", "rflags"))
    assert {"mul", "idiv", "shld", "imul", "push", "call", "insb", "rol"} <= done

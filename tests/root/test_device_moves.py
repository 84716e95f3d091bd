"""Moves to and from a device of a PC: answered at once by the worker's thread, they leave what its emulator leaves."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing

import pytest

from hv.platform import Machine
from hv.spec.synic import HvMessageHeader, MemoryIntercept
from hv.spec.vp_state import HvRegisterPage
from hv.trace.events import InterceptSent
from tests.guest_runner import image_of, registers_of
from tests.root.emulation_box import BUDGET, DEVICE, SIZE, Scratch

WORDS = {64: (("byte", ("al", "dh", "r8b")), ("word", ("ax", "r9w")), ("dword", ("eax", "edx", "r10d")),
              ("qword", ("rax", "r11"))),
         32: (("byte", ("al", "dh")), ("word", ("ax", "dx")), ("dword", ("eax", "edx", "esi")))}
MESSAGE = HvMessageHeader.SIZE + MemoryIntercept.SIZE
EDGES = (0, 1, 0x10, 0xFF8, 0xFFC, 0xFFD, 0xFFF, 0x1000, 0x1004)


class Watched(Scratch):
    """Notes what its VP's two pages show at each access."""

    def __init__(self, show: Callable[[], bytes]) -> None:
        super().__init__()
        self.shown: list[bytes] = []
        self._show = show

    def _note(self, kind: str, offset: int, size: int) -> None:
        super()._note(kind, offset, size)
        self.shown.append(self._show())


def some_program(source: random.Random, bits: int = 64) -> str:
    """A loop of moves of all sizes, over the edge of a page too, and of a few instructions that are no moves."""
    lines = []
    for _ in range(16):
        word, names = source.choice(WORDS[bits])
        offset = source.choice((*EDGES, source.randrange(0x3000)))
        place = source.choice((f"[{'rbx' if bits == 64 else 'ebx'} + {offset:#x}]", f"[ebx + ecx * 8 + {offset:#x}]"))
        lines.append(source.choice((
            f"mov {source.choice(names)}, {word} ptr {place}", f"mov {word} ptr {place}, {source.choice(names)}",
            f"mov {word} ptr {place}, {source.getrandbits(7)}", f"mov {source.choice(names)}, {word} ptr {place}",
            f"movsx edi, {'byte' if word == 'byte' else 'word'} ptr {place}", f"xor {word} ptr {place}, 5")))
    return f"mov ebx, {DEVICE:#x}; mov ebp, 5; xor ecx, ecx; .loop: ;" + ";".join(lines) + \
        "; inc ecx; dec ebp; jnz .loop; hlt"


def run(program: str, known: bool, bits: int = 64, listens: bool = False) -> tuple[object, ...]:
    """Registers, what the device saw and has, what root was shown, and how many accesses took the short way."""
    short, sent = 0, []
    with closing(Machine(memory_mib=12)) as machine:
        vm = machine.create_vm("guest", image_of(program, bits), memory_mib=4, pc=True)
        device = Watched(lambda: machine.memory.read(vp.message_page.spa, MESSAGE)
                         + machine.memory.read(vp.register_page.spa, HvRegisterPage.SIZE))
        vm.worker.motherboard.add_memory("scratch", range(DEVICE, DEVICE + SIZE), device)
        vp = vm.partition.vps[0]
        again = vp.vcpu.accesses.again

        def noted(gpa: int, code: int) -> bool | None:
            nonlocal short
            answer = again(gpa, code) if known else None
            short += answer is not None
            return answer

        vp.vcpu.accesses.again = noted
        if listens:
            machine.trace.listen(lambda record: sent.append(record.event) if isinstance(record.event, InterceptSent)
                                 else None)
        machine.run(until_tsc=machine.clock.tsc + BUDGET)
        assert vp.halted, vm.why
        return registers_of(vp.guest_regs), device.accesses, bytes(device.data), device.shown, short, len(sent)


@pytest.mark.parametrize("bits", [32, 64])
def test_random_moves_leave_the_same_both_ways(bits):
    source, taken = random.Random(11), 0
    for _ in range(2):
        program = some_program(source, bits)
        quick, slow = run(program, True, bits), run(program, False, bits)
        for mine, other in zip(quick[:4], slow[:4], strict=True):
            assert mine == other, program
        taken += quick[4]
    assert taken > 60


def test_who_listens_hears_of_each_of_them():
    program = some_program(random.Random(11))
    assert run(program, True, listens=True)[5] == run(program, False, listens=True)[5] > 60

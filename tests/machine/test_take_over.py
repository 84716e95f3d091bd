"""One state follows another inside a run: flags, registers and translations stay whose they are."""

from __future__ import annotations

import pytest

from hv.machine.engine import Trap
from tests.machine.engine_box import CODE, DATA, PML4, TABLE

SECOND, COPY = CODE + 0x400, 0x8000


class Pair:
    """Two states with code of their own; each PAUSE hands over to the other one, each HLT ends the run."""

    def __init__(self, box, first, second):
        self.box = box
        box.put(first)
        box.put(second, at=SECOND)
        self.states = [box.state(), box.state(rip=SECOND)]
        box.answer = self.answer

    def answer(self, trap, detail):
        engine = self.box.engine
        if trap is not Trap.PAUSE:
            return False
        engine.current.rip += 2
        other = self.states[engine.current is self.states[0]]
        engine.adopt(other)
        engine.go_on(self.box.counter.done + 100_000, False)
        return True

    def run(self):
        assert self.box.run(self.states[0])
        return self.states


def test_registers_and_flags_stay_whose_they_are(box):
    """Also flags that the engine keeps in a form of its own: DF, and a carry that an ADD left behind."""
    first, second = Pair(box, "std; mov eax, -1; add eax, 1; pause; setc bl; pushfq; pop rsi; hlt",
                         "mov eax, 1; sub eax, 1; pause; hlt").run()
    assert (first.rbx, first.rax, second.rax) == (1, 0, 0)
    assert first.rsi & 0x400
    assert not second.rflags & 0x401


def test_who_was_stopped_by_its_budget_goes_on_with_its_flags(box):
    """Behind a run the engine leaves all flags in RFLAGS, where inside one only some are."""
    pair = Pair(box, "pause; hlt", "stc; std; .again: jmp .again")
    second = pair.states[1]
    box.run(second, 1000)
    assert second.rflags & 0x401 == 0x401
    box.put("clc; cld; pushfq; pop rsi; hlt", at=second.rip)
    pair.run()
    assert not second.rsi & 0x401
    assert second.rflags & 0x401 == 0


def test_the_budget_counts_for_who_took_over(box):
    pair = Pair(box, "pause; hlt", ".again: inc rcx; jmp .again")
    assert not box.run(pair.states[0])              # no trap ended it
    assert box.engine.current is pair.states[1]
    assert pair.states[1].rcx > 10_000
    assert (pair.states[0].rip, box.engine.handed_over) == (CODE + 2, 1)


def test_each_has_the_interrupt_flag_and_the_window_of_its_own(box):
    pair = Pair(box, "cli; pause; hlt", "sti; nop; nop; hlt")
    first, second = pair.run()
    assert not first.interrupts_enabled
    assert second.interrupts_enabled


@pytest.mark.parametrize("same", [True, False], ids=["the-same-tables", "other-tables"])
def test_what_one_has_cached_serves_the_other_if_they_translate_alike(box, same):
    """SDM "Caching Translation Information": nothing stale is in there that either has flushed."""
    pair = Pair(box, f"mov rax, [{DATA}]; mov qword ptr [{TABLE + 8 * (DATA >> 12)}], {DATA + 0x1067}; pause; hlt",
                f"mov rax, [{DATA}]; hlt")
    box.memory.write_u64(DATA, 1)
    box.memory.write_u64(DATA + 0x1000, 2)
    if not same:
        box.memory.write(COPY, box.memory.read(PML4, 4096))
        pair.states[1].cr3 = COPY
    pair.run()
    assert pair.states[1].rax == (1 if same else 2)


def test_a_flush_by_one_is_seen_by_the_other(box):
    pair = Pair(box, f"mov rax, [{DATA}]; pause; mov rbx, [{DATA}]; hlt",
                f"mov qword ptr [{TABLE + 8 * (DATA >> 12)}], {DATA + 0x1067}; invlpg [{DATA}]; pause; hlt")
    box.memory.write_u64(DATA, 1)
    box.memory.write_u64(DATA + 0x1000, 2)
    first, _ = pair.run()
    assert (first.rax, first.rbx) == (1, 2)


def test_code_that_one_patches_is_seen_by_the_other(box):
    """The engine has the code of both translated already."""
    pair = Pair(box, f"call {SECOND + 0x80}; pause; call {SECOND + 0x80}; hlt",
                f"mov byte ptr [{SECOND + 0x81}], 7; pause; hlt")
    box.put("mov al, 3; add bl, al; ret", at=SECOND + 0x80)
    first, _ = pair.run()
    assert first.rbx & 0xFF == 10

"""Code that changes after it was run: whoever wrote it, and by whichever address, the new code is what runs next.

SDM "Handling Self- and Cross-Modifying Code". The engine keeps translations of code; each test runs a function, has it
rewritten, and runs it again.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hv.machine.state import ProcessorState
from hv.machine.traps import Trap
from tests.guest_runner import assemble
from tests.machine.engine_box import CODE, LEGACY, LEGACY_TABLE, TABLE, EngineBox

FUNCTION = 0x14000
ALIAS = 0x50000                             # a second linear or guest-physical address of FUNCTION
BITS = pytest.mark.parametrize("bits", [16, 32, 64])
NO_EXECUTE = 1 << 63


def a_function(box: EngineBox, bits: int, at: int = FUNCTION) -> None:
    """MOV EAX, 1; RET. Its second byte is what it returns."""
    box.put("mov ax, 1; ret" if bits == 16 else "mov eax, 1; ret", bits, at)


def store(bits: int, value: int, at: int = FUNCTION) -> str:
    """What makes the function at *at* return *value*."""
    return f"mov byte ptr {f'cs:[{at + 1 - CODE}]' if bits == 16 else f'[{at + 1}]'}, {value}"


def call(bits: int, at: int = FUNCTION) -> str:
    return f"mov si, {at - CODE}; call si" if bits == 16 else f"mov esi, {at}; call {'rsi' if bits == 64 else 'esi'}"


def code_of(bits: int, between: str, at: int = FUNCTION) -> str:
    """Call the function, do *between*, call it again: what it returned is in BX and AX."""
    return f"{call(bits, at)}; mov bx, ax; {between}; {call(bits, at)}; hlt"


def returned(box: EngineBox, state: ProcessorState) -> tuple[int, int]:
    assert box.traps[-1][0] is Trap.HLT
    return state.rbx & 0xFFFF, state.rax & 0xFFFF


def at_cpuid(box: EngineBox, action: Callable[[], None]) -> None:
    """The guest's CPUID does *action*, as a hypercall would."""
    def answer(trap: Trap, detail: int) -> bool:
        if trap is Trap.CPUID:
            action()
            state = box.engine.current
            assert state is not None
            state.rip += 2
        return trap is Trap.CPUID
    box.answer = answer


# --- the guest's own stores --------------------------------------------------------------------------------

@BITS
@pytest.mark.parametrize("at", [FUNCTION, FUNCTION + 0xFFF], ids=["in-a-page", "across-pages"])
def test_a_store_to_a_function_is_seen_by_its_next_call(box, bits, at):
    a_function(box, bits, at)
    assert returned(box, box.run_code(code_of(bits, store(bits, 2, at), at), bits)) == (1, 2)


@BITS
@pytest.mark.parametrize("before", [0, 0xFF0], ids=["in-a-page", "across-pages"])
def test_a_store_to_the_next_instruction_is_seen_at_once(box, bits, before):
    """Both are of one block; in the second case the rewritten byte is the first of the next page."""
    length = sum(len(part) for _, part in assemble(store(bits, 2), bits))
    room = 0xFFF - length if before else 0
    source = f"{store(bits, 2, CODE + room + length)}; mov {'ax' if bits == 16 else 'eax'}, 1; hlt"
    box.put(source, bits, CODE + room)
    state = box.state(bits)
    state.rip += room
    box.run(state)
    assert state.rax & 0xFFFF == 2


@pytest.mark.parametrize("flags", [0, NO_EXECUTE], ids=["executable", "not-executable"])
def test_a_store_by_another_linear_address_is_seen(box, flags):
    """Also a second time: the engine takes a page that is not executable for data once it was written to."""
    a_function(box, 64)
    box.memory.write_u64(TABLE + (ALIAS >> 12) * 8, FUNCTION | 0x67 | flags)
    between = f"{store(64, 2, ALIAS)}; {call(64)}; mov ecx, eax; {store(64, 3, ALIAS)}"
    state = box.run_code(code_of(64, between), 64)
    assert (returned(box, state), state.rcx) == ((1, 3), 2)


def test_a_store_by_another_linear_address_is_seen_with_32_bit_paging(box):
    a_function(box, 32)
    box.memory.write_u32(LEGACY_TABLE + (ALIAS >> 12) * 4, FUNCTION | 0x67)
    source = f"mov eax, {LEGACY}; mov cr3, eax; {code_of(32, store(32, 2, ALIAS))}"
    box.put(source, 32)
    state = box.state(32)
    state.cr3, state.cr0 = LEGACY, 0x80000031
    box.run(state)
    assert returned(box, state) == (1, 2)


@pytest.mark.parametrize("executable", [True, False])
def test_a_store_by_another_guest_physical_address_is_seen(box, executable):
    """Also one that the second level lets nobody fetch from."""
    a_function(box, 32)
    box.mapping[ALIAS >> 12] = (FUNCTION >> 12, True, executable)
    between = f"{store(32, 2, ALIAS)}; {call(32)}; mov ecx, eax; mov edx, [{ALIAS}]; {store(32, 3, ALIAS)}"
    state = box.run_code(code_of(32, between), 32)
    assert (returned(box, state), state.rcx, state.rdx & 0xFFFF) == ((1, 3), 2, 0x02B8)


def test_code_that_rewrites_its_own_page_by_an_address_without_execute_goes_on(box):
    """Each store and each fetch need another translation of the one page; neither waits for the other for ever."""
    box.mapping[ALIAS >> 12] = (CODE >> 12, True, False)
    state = box.run_code(f"mov ecx, 20; again: mov [{ALIAS + 0x800}], ecx; dec ecx; jnz again; hlt", 32)
    assert (box.traps[-1][0], state.rcx, box.memory.read_u32(CODE + 0x800)) == (Trap.HLT, 0, 1)


def test_what_one_vp_stores_another_runs(box):
    a_function(box, 64)
    box.put(f"{call(64)}; hlt", 64)
    box.put(f"{store(64, 2)}; hlt", 64, CODE + 0x100)
    caller, writer = box.state(64), box.state(64, rip=CODE + 0x100)
    found = []
    for _ in range(2):
        caller.rip = CODE
        box.run(caller)
        found.append(caller.rax)
        box.run(writer)
    assert found == [1, 2]


# --- stores from outside, and what is known when translations are dropped ----------------------------------------

@BITS
def test_a_write_from_outside_is_seen(box, bits):
    a_function(box, bits)
    at_cpuid(box, lambda: box.memory.write(FUNCTION + 1, b"\2"))
    assert returned(box, box.run_code(code_of(bits, "cpuid"), bits)) == (1, 2)


@BITS
def test_a_store_after_invept_is_seen(box, bits):
    """The mirror of the second level is empty then, but it is still known of which pages there is code."""
    a_function(box, bits)
    at_cpuid(box, box.engine.invept)
    assert returned(box, box.run_code(code_of(bits, f"cpuid; {store(bits, 2)}"), bits)) == (1, 2)


def test_a_write_from_outside_after_invept_is_seen(box):
    def action() -> None:
        box.engine.invept()
        box.memory.write(FUNCTION + 1, b"\2")

    a_function(box, 64)
    at_cpuid(box, action)
    assert returned(box, box.run_code(code_of(64, "cpuid"), 64)) == (1, 2)


def test_a_store_after_the_mirror_started_over_is_seen(box):
    """A guest that touches more memory than the mirror has room for makes it drop everything."""
    a_function(box, 32)
    for region in range(2, 700):
        box.mapping[region << 9] = (0x40, True, True)
    box.mapping[ALIAS >> 12] = (FUNCTION >> 12, True, True)
    between = ("mov ecx, 600; mov edi, 0x400000; again: mov edx, [edi]; add edi, 0x200000; dec ecx; jnz again;"
               f"{store(32, 2, ALIAS)}")
    assert returned(box, box.run_code(code_of(32, between), 32)) == (1, 2)


def test_a_page_that_is_no_longer_executable_is_not_executed(box):
    def action() -> None:
        box.mapping[FUNCTION >> 12] = (FUNCTION >> 12, True, False)
        box.engine.invept()

    a_function(box, 64)
    at_cpuid(box, action)
    state = box.run_code(code_of(64, "cpuid"), 64)
    assert (box.traps[-1][0], state.rip, box.engine.nested_fault()) == (Trap.NESTED_FAULT, FUNCTION, (FUNCTION, 4))


def test_a_page_that_became_executable_again_runs_what_was_stored_meanwhile(box):
    steps = iter((False, True))

    def action() -> None:
        box.mapping[FUNCTION >> 12] = (FUNCTION >> 12, True, next(steps))
        box.engine.invept()

    a_function(box, 64)
    at_cpuid(box, action)
    assert returned(box, box.run_code(code_of(64, f"cpuid; {store(64, 2)}; cpuid"), 64)) == (1, 2)


# --- a page in the hands of two engines ------------------------------------------------------------------------------

@pytest.fixture
def other(box):
    """A second engine over the same RAM, with the same addresses."""
    second = EngineBox(box.memory)
    yield second
    second.engine.close()


@pytest.mark.parametrize("large", [False, True], ids=["4-KiB", "2-MiB"])
def test_what_one_engine_stores_another_runs(box, other, large):
    """Each time: the engine that stores is refused again once the other one has translated the new code."""
    box.large = other.large = large
    a_function(box, 64)
    box.put(f"{call(64)}; hlt", 64)
    box.put(f"mov [{FUNCTION + 1}], bl; hlt", 64, CODE + 0x1000)
    caller, writer = box.state(64), other.state(64, rip=CODE + 0x1000)
    found = []
    for value in (2, 3, 4):
        caller.rip, writer.rip, writer.rbx = CODE, CODE + 0x1000, value
        box.run(caller)
        found.append(caller.rax)
        other.run(writer)
    assert found == [1, 2, 3]


def test_a_page_that_both_engines_run_is_rewritten_by_either(box, other):
    a_function(box, 64)
    box.put(f"{call(64)}; mov ecx, eax; mov [{FUNCTION + 1}], bl; {call(64)}; hlt", 64)
    states, seen = (box.state(64), other.state(64)), []
    for n, (which, state) in enumerate([(box, states[0]), (other, states[1])] * 3):
        state.rip, state.rbx = CODE, n + 2
        which.run(state)
        seen.append((state.rcx, state.rax))
    assert seen == [(n + 1, n + 2) for n in range(6)]


def test_reading_a_page_that_another_engine_runs_takes_nothing_from_it(box, other):
    a_function(box, 64)
    box.put(f"{call(64)}; hlt", 64)
    box.put(f"mov eax, [{FUNCTION}]; hlt", 64, CODE + 0x1000)
    caller, reader = box.state(64), other.state(64, rip=CODE + 0x1000)
    box.run(caller)
    other.run(reader)
    assert FUNCTION >> 12 in box.engine.nested.executable
    assert reader.rax & 0xFFFF == 0x01B8

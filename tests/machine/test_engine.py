"""The engine: what traps, where it stops, whose code it runs, and that nothing a guest or a handler does harms it."""

from __future__ import annotations

import pytest

from hv.machine.engine import LARGE, Trap
from hv.machine.registers import Table
from hv.spec.x86 import Rflags
from tests.machine.engine_box import CODE, DATA, PML4, SIZE, STACK, TABLE, EngineBox

NX = 1 << 63
ALL_MODES = (16, 32, 64)


def engine_of(box: EngineBox) -> tuple[Trap, int]:
    return box.traps[-1][:2]


# --- traps ---------------------------------------------------------------------------------------------

TRAPS = {
    "cpuid": (Trap.CPUID, 0), "hlt": (Trap.HLT, 0), "rdmsr": (Trap.RDMSR, 0), "wrmsr": (Trap.WRMSR, 0),
    "rdtsc": (Trap.RDTSC, 0), "rdpmc": (Trap.RDPMC, 0), "pause": (Trap.PAUSE, 0), "wbinvd": (Trap.WBINVD, 0),
    "invd": (Trap.WBINVD, 0), "clts": (Trap.CR_WRITE, 0), "lmsw ax": (Trap.CR_WRITE, 0),
    "mov eax, dr0": (Trap.DR_READ, 0), "mov dr0, eax": (Trap.DR_WRITE, 0),
    "mov dr7, eax": (Trap.DR_WRITE, 7), "int 0x20": (Trap.SOFTWARE_INTERRUPT, 0),
    "int3": (Trap.SOFTWARE_INTERRUPT, 0), "ud2": (Trap.EXCEPTION, 6), "in al, dx": (Trap.IN, 0),
    "in al, 0x60": (Trap.IN, 0),
    "out dx, ax": (Trap.OUT, 0), "out 0x80, al": (Trap.OUT, 0), "vmcall": (Trap.EXCEPTION, 6),
    "div ecx": (Trap.EXCEPTION, 0),
}


def widened(source: str, bits: int) -> str:
    """MOV to a debug or control register takes a 64-bit register in 64-bit code."""
    return source.replace("eax", "rax") if bits == 64 and ("dr" in source or "cr" in source) else source


@pytest.mark.parametrize("bits", ALL_MODES)
@pytest.mark.parametrize("source", TRAPS)
def test_an_instruction_traps_with_rip_on_it_and_nothing_behind_it_has_run(box, source, bits):
    state = box.run_code(f"nop; nop; {widened(source, bits)}; mov ebx, 0x1234", bits, rcx=0)
    trap, detail, rip, code = box.traps[0]
    assert (trap, detail) == TRAPS[source]
    assert rip == (0 if bits == 16 else CODE) + 2
    assert code == (b"" if source == "div ecx" else box.memory.read(CODE + 2, 15))
    assert state.rip == rip
    assert state.rbx == 0


@pytest.mark.parametrize("bits", ALL_MODES)
@pytest.mark.parametrize("register", [0, 4])
def test_a_write_of_a_control_register_traps_with_its_number(box, register, bits):
    box.run_code(widened(f"mov cr{register}, eax", bits), bits)
    assert engine_of(box) == (Trap.CR_WRITE, register)


@pytest.mark.parametrize("source", ["mov rax, cr8", "mov cr8, rax"])
def test_the_task_priority_traps_in_long_mode(box, source):
    box.run_code(source)
    assert engine_of(box) == (Trap.CR_READ if source.endswith("cr8") else Trap.CR_WRITE, 8)


@pytest.mark.parametrize("source", ["mov rax, cr0", "mov rax, cr2", "mov rax, cr3", "mov cr3, rax", "invlpg [rax]",
                                    "lgdt [rbx]", "swapgs"])
def test_what_needs_no_watching_does_not_trap(box, source):
    box.run_code(f"{source}; cpuid", rax=PML4, rbx=DATA)
    assert engine_of(box) == (Trap.CPUID, 0)


@pytest.mark.parametrize(("source", "bits"), [("syscall", 64), ("sysenter", 32)])
def test_fast_system_calls_trap_with_every_register_unharmed(box, source, bits):
    """RCX above all: the way the engine is left passes through a register read that uses it."""
    state = box.run_code(f"mov esi, 5; {source}; mov ebx, 0x1234", bits, rcx=0xC0FFEE, rdx=0xD0D0, rax=0xA0A0)
    wanted = Trap.SYSCALL if source == "syscall" else Trap.SYSENTER
    assert engine_of(box) == (wanted, 0)
    assert state.rip == CODE + 5
    assert (state.rcx, state.rdx, state.rax, state.rbx, state.rsi) == (0xC0FFEE, 0xD0D0, 0xA0A0, 0, 5)


@pytest.mark.parametrize("bits", ALL_MODES)
@pytest.mark.parametrize(("source", "port", "size"), [
    ("in al, 0x60", 0x60, 1), ("in ax, 0x61", 0x61, 2), ("in eax, 0x62", 0x62, 4), ("in al, dx", 0x3F8, 1),
    ("in ax, dx", 0x3F8, 2), ("in eax, dx", 0x3F8, 4), ("out 0x60, al", 0x60, 1), ("out 0x61, ax", 0x61, 2),
    ("out 0x62, eax", 0x62, 4), ("out dx, al", 0x3F8, 1), ("out dx, ax", 0x3F8, 2), ("out dx, eax", 0x3F8, 4)])
def test_a_port_access_says_port_size_and_value(box, source, port, size, bits):
    state = box.run_code(f"mov eax, 0xA1B2C3D4; mov edx, 0x3F8; mov ecx, 0x11223344; {source}", bits)
    found = box.engine.port()
    assert found[:2] == (port, size)
    if source.startswith("out"):
        assert found[2] == 0xA1B2C3D4 & (1 << 8 * size) - 1
    assert (state.rax, state.rcx) == (0xA1B2C3D4, 0x11223344)


@pytest.mark.parametrize("source", ["in al, dx", "out dx, al", "syscall"])
def test_an_instruction_that_was_trapped_goes_on_behind_it(box, source):
    """A hundred times, so that nothing of one survives to the next."""
    def answer(trap: Trap, detail: int) -> bool:
        if trap is Trap.CPUID:
            return False
        state = box.engine.current
        state.complete_instruction(1 if "dx" in source else 2)
        return True

    box.answer = answer
    state = box.run_code(f"mov ecx, 100; again: {source}; dec ecx; jnz again; cpuid", rdx=0x99)
    assert engine_of(box) == (Trap.CPUID, 0)
    assert (len(box.traps), state.rcx, state.rdx) == (101, 0, 0x99)


@pytest.mark.parametrize("source", ["vmrun", "vmload", "vmsave", "stgi", "clgi", "skinit", "invlpga", "vmmcall"])
def test_instructions_of_the_engines_own_guest_mode_are_undefined(box, source):
    code = {"vmrun": "0f01d8", "vmmcall": "0f01d9", "vmload": "0f01da", "vmsave": "0f01db", "stgi": "0f01dc",
            "clgi": "0f01dd", "skinit": "0f01de", "invlpga": "0f01df"}[source]
    box.run_code(bytes.fromhex(code))
    assert engine_of(box) == (Trap.UNDEFINED, 0)


@pytest.mark.parametrize("bits", [32, 64])
def test_a_load_of_the_task_register_traps(box, bits):
    """Whatever the engine would make of it: over a null TSS it ends the process."""
    box.run_code("ltr ax", bits)
    assert engine_of(box) == (Trap.LTR, 0)


@pytest.mark.parametrize(("source", "vector", "code"), [
    ("mov ax, 0x123; mov ds, ax", 13, 0x120), ("mov rax, 0x8000000000000000; mov rbx, [rax]", 13, 0),
    ("mov eax, 0x40; lldt ax", 13, 0x40)])
def test_an_exception_has_its_error_code(box, source, vector, code):
    box.run_code(f"xor eax, eax; {source}; cpuid")
    assert engine_of(box) == (Trap.EXCEPTION, vector)
    assert box.engine.error_code() & 0xFFFF == code


@pytest.mark.parametrize(("entry", "source", "code"), [
    (0, "mov rax, [rbx]", 0), (0, "mov [rbx], rax", 2), (5, "mov [rbx], rax", 3), (NX | 7, "jmp rbx", 0x11),
    (0, "jmp rbx", 0x10)])
def test_a_page_fault_has_its_address_and_code_and_leaves_cr2_alone(box, entry, source, code):
    """SDM "Page-Fault Exceptions": P, W/R, U/S, RSVD, I/D. Writing CR2 is the business of the delivery."""
    box.memory.write_u64(TABLE + 8 * (DATA >> 12), entry and entry | DATA)
    state = box.run_code(f"nop; {source}", rbx=DATA + 0x10, cr2=0x77)
    assert engine_of(box) == (Trap.EXCEPTION, 14)
    assert box.engine.error_code() == code
    assert box.engine.fault_address() == DATA + 0x10
    assert state.cr2 == 0x77
    assert state.rip == (DATA + 0x10 if source == "jmp rbx" else CODE + 1)


@pytest.mark.parametrize("source", ["div ecx", "ud2", "mov rax, [rbx]", "mov ds, cx", "int3"])
def test_exceptions_in_a_row_are_the_same_each_time(box, source):
    """The engine must not add them up to a double fault."""
    count = 0

    def answer(trap: Trap, detail: int) -> bool:
        nonlocal count
        count += 1
        box.engine.clear_in_flight(box.engine.current)
        return count < 6

    box.answer = answer
    box.memory.write_u64(TABLE + 8 * (DATA >> 12), 0)
    box.run_code(source, rbx=DATA, rcx=0 if "div" in source else 0x1000)
    assert len({trap[:3] for trap in box.traps}) == 1
    assert len(box.traps) == 6


# --- stopping ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bits", ALL_MODES)
def test_a_loop_without_end_stops_at_the_budget(box, bits):
    state = box.run_code("again: inc eax; jmp again", bits)
    assert box.traps == []
    assert 0 <= 100_000 - box.counter.done < 10
    assert state.rax > 10_000


def test_the_clock_says_the_bytes_of_code_that_ran(box):
    """A block counts whole when it is entered."""
    box.run_code("mov ecx, 10; again: dec ecx; jnz again; hlt")
    body = 2 + 2        # dec ecx, jnz
    assert box.counter.done == 5 + body + 9 * body + 1


def test_a_run_that_was_stopped_by_its_budget_goes_on_where_it_was(box):
    box.put("again: inc eax; jmp again")
    state = box.state()
    for _ in range(5):
        before = state.rax
        assert box.run(state, 1000) is False
        assert before < state.rax <= before + 1000


def test_an_instruction_limit_stops_behind_each_instruction(box):
    box.put("inc eax; inc eax; add eax, 5; cpuid")
    state = box.state()
    seen = []
    for _ in range(3):
        box.run(state, instructions=1)
        seen.append((state.rip - CODE, state.rax))
    assert seen == [(2, 1), (4, 2), (7, 7)]


def test_a_handler_that_says_no_stops_the_run_with_what_it_wrote(box):
    def answer(trap: Trap, detail: int) -> bool:
        box.engine.current.rip, box.engine.current.rbx = 0x777, 5
        return False

    box.answer = answer
    state = box.run_code("cpuid; mov ebx, 9")
    assert (state.rip, state.rbx) == (0x777, 5)


@pytest.mark.parametrize(("source", "where"), [("sti", 1), ("popfq", 1), ("iretq", None)])
def test_a_window_stops_as_soon_as_interrupts_are_enabled(box, source, where):
    stack = 0x2F000
    words = {"popfq": [0x202], "iretq": [CODE + 0x40, 0x08, 0x202, STACK, 0x10]}.get(source, [])
    for n, word in enumerate(words):
        box.memory.write_u64(stack + 8 * n, word)
    box.put("nop; nop; inc ebx; hlt", at=CODE + 0x40)
    box.put(f"{source}; inc ebx; inc ebx; hlt")
    state = box.state()
    state.rsp = stack
    assert box.run(state, window=True) is False
    assert state.interrupts_enabled
    assert state.rbx == 0
    assert state.rip == (CODE + 0x40 if where is None else CODE + where)
    assert state.interrupt_shadow is (source == "sti")


def test_a_window_that_is_open_already_stops_at_once(box):
    box.put("inc ebx; hlt")
    state = box.state()
    state.rflags = 0x202
    assert box.run(state, window=True) is False
    assert state.rip == CODE


def test_the_shadow_of_sti_passes_with_one_instruction(box):
    box.put("sti; inc ebx; inc ebx; hlt")
    state = box.state()
    box.run(state, window=True)
    box.engine.pass_one_block()
    box.run(state, window=True)
    assert (state.rbx, state.interrupt_shadow, state.rip - CODE) == (1, False, 3)


def test_a_window_may_be_asked_for_inside_a_trap(box):
    def answer(trap: Trap, detail: int) -> bool:
        box.engine.watch_interrupt_flag(True)
        box.engine.current.complete_instruction(2)
        return trap is Trap.CPUID

    box.answer = answer
    state = box.run_code("cpuid; sti; inc ebx; hlt")
    assert (state.rbx, state.rip - CODE) == (0, 3)


# --- code that changes ---------------------------------------------------------------------------------

RETURN_1, RETURN_2 = b"\xb8\1\0\0\0\x0f\xa2", b"\xb8\2\0\0\0\x0f\xa2"       # mov eax, n; cpuid


@pytest.mark.parametrize("large", [False, True], ids=["4-KiB", "2-MiB"])
@pytest.mark.parametrize("bits", ALL_MODES)
@pytest.mark.parametrize("offset", [1, 0], ids=["part", "whole"])
def test_code_written_from_outside_is_executed_new(box, bits, large, offset):
    box.large = large
    code = RETURN_1 if bits != 16 else b"\xb8\1\0\x90\x90\x0f\xa2"
    box.put(code)
    state = box.state(bits)
    start = state.rip
    box.run(state)
    assert state.eax & 0xFFFF == 1
    box.memory.write(CODE + offset, b"\2" if offset else code[:1] + b"\2" + code[2:])
    state.rip = start
    box.run(state)
    assert state.eax & 0xFFFF == 2


@pytest.mark.parametrize("gap", [0, 0xFFC, 0xFFF])
def test_code_over_a_page_boundary_is_executed_new_when_either_page_is_written(box, gap):
    where = CODE + gap
    for at in (where + 1, where + 4, where + 6):
        box.memory.write(where, RETURN_1)
        state = box.state(rip=where)
        box.run(state)
        assert state.rax == 1
        new = bytearray(RETURN_1)
        new[1:5] = b"\7\0\0\1"
        box.memory.write(at, bytes(new)[at - where:])
        state.rip = where
        box.run(state)
        assert state.rax == {1: 0x01000007, 4: 0x01000001, 6: 1}[at - where]


def test_code_written_from_outside_through_two_linear_addresses_is_new_at_both(box):
    box.memory.write_u64(TABLE + 8 * (DATA >> 12), CODE | 0x67)
    box.put(RETURN_1)
    for value in (1, 2, 3):
        box.memory.write(CODE + 1, bytes((value,)))
        for rip in (CODE, DATA):
            state = box.state(rip=rip)
            box.run(state)
            assert state.rax == value


def test_code_written_inside_a_trap_is_executed_new(box):
    """The page that runs, behind the instruction that trapped."""
    def answer(trap: Trap, detail: int) -> bool:
        if trap is Trap.CPUID:
            box.memory.write(CODE + 3, b"\x09")
            box.engine.current.complete_instruction(2)
            return True
        return False

    box.answer = answer
    state = box.run_code(b"\x0f\xa2\xb8\1\0\0\0\xf4")
    assert state.rax == 9


def test_code_written_inside_a_trap_that_stops_is_executed_new(box):
    def answer(trap: Trap, detail: int) -> bool:
        box.memory.write(CODE + 3, b"\x09")
        box.engine.current.complete_instruction(2)
        return False

    box.answer = answer
    box.put(b"\xb8\1\0\0\0\xf4")
    state = box.run_code(b"\x0f\xa2\xb8\1\0\0\0\xf4")
    box.answer = lambda trap, detail: False
    box.run(state)
    assert state.rax == 9


def test_code_that_another_state_executed_is_new_for_it_too(box):
    box.put(RETURN_1)
    first, second = box.state(), box.state()
    box.run(first)
    box.memory.write(CODE + 1, b"\5")
    box.run(second)
    first.rip = CODE
    box.run(first)
    assert (first.rax, second.rax) == (5, 5)


@pytest.mark.parametrize("bits", ALL_MODES)
@pytest.mark.parametrize("size", ["byte", "dword"])
def test_a_guest_that_writes_its_own_code_executes_what_it_wrote(box, bits, size):
    target = CODE + 0x100
    box.memory.write(target, (b"\x66" if bits == 16 else b"") + RETURN_1)
    at = target + (2 if bits == 16 else 1)
    if bits == 16:
        source = f"mov bx, {at - CODE}; mov {size} ptr cs:[bx], 5; jmp {target - CODE}"
    else:
        source = f"mov ebx, {at}; mov {size} ptr [{'r' if bits == 64 else 'e'}bx], 5; jmp {target}"
    box.put(source, bits)
    state = box.state(bits)
    start = state.rip
    for _ in range(2):
        state.rip = start
        box.run(state)
        assert engine_of(box) == (Trap.CPUID, 0)
        assert state.rax == 5


def test_a_guest_that_writes_behind_its_own_instruction_executes_what_it_wrote(box):
    """In the same block; SDM "Self-Modifying Code"."""
    state = box.run_code("mov byte ptr [rip + here + 1], 7; here: mov al, 1; hlt")
    assert state.rax == 7


@pytest.mark.parametrize("first", ["data", "code"])
def test_a_page_may_be_data_and_then_code_and_data_again(box, first):
    """It changes sides in the engine's nested tables each time."""
    box.memory.write(DATA, RETURN_1)
    if first == "data":
        box.put("mov byte ptr [rbx + 1], 3; jmp rbx")
        state = box.state()
        state.rbx = DATA
        box.run(state)
        assert state.rax == 3
    for value in (4, 5, 6):
        box.put(f"mov byte ptr [rbx + 1], {value}; jmp rbx")
        state = box.state()
        state.rbx = DATA
        box.run(state)
        assert state.rax == value


def test_code_in_a_page_that_the_second_level_maps_twice_is_new_at_both(box):
    """Two guest-physical pages, one page of RAM: a write through one is seen at the other."""
    box.mapping[DATA >> 12] = (CODE + 0x1000 >> 12, True, True)
    box.mapping[CODE + 0x1000 >> 12] = (CODE + 0x1000 >> 12, True, True)
    box.memory.write(CODE + 0x1000, RETURN_1)
    for value in (4, 5, 6):
        box.put(f"mov rcx, rbx; mov byte ptr [rdx + 1], {value}; jmp rcx")
        for here, there in ((DATA, CODE + 0x1000), (CODE + 0x1000, DATA)):
            state = box.state()
            state.rbx, state.rdx = here, there
            box.run(state)
            assert state.rax == value


# --- second level --------------------------------------------------------------------------------------

@pytest.mark.parametrize(("source", "access"), [("mov rax, [rbx]", 1), ("mov [rbx], rax", 2), ("add [rbx], rax", 1),
                                                ("push qword ptr [rbx]", 1), ("jmp rbx", 4), ("call rbx", 4)])
@pytest.mark.parametrize("offset", [0, 0x123, 0xFFF])
def test_an_access_to_an_unmapped_page_is_a_nested_fault(box, source, access, offset):
    box.mapping[DATA >> 12] = (-1, False, False)
    box.run_code(source, rbx=DATA + offset)
    assert engine_of(box) == (Trap.NESTED_FAULT, 0)
    gpa, found = box.engine.nested_fault()
    assert gpa & ~0xFFF == DATA
    assert found == access


@pytest.mark.parametrize("large", [False, True], ids=["4-KiB", "2-MiB"])
@pytest.mark.parametrize("touched", [False, True], ids=["fresh", "touched"])
@pytest.mark.parametrize("offset", [0, 0x234])
def test_a_fetch_from_a_page_that_is_not_executable_is_a_nested_fault(box, large, touched, offset):
    """SDM "Exit Qualification for EPT Violations", bit 2; the guest is at the instruction it cannot fetch."""
    box.large = large
    box.mapping[DATA >> 12] = (DATA >> 12, True, False)
    box.memory.write(DATA + offset, RETURN_1)
    state = box.run_code(("mov rax, [rbx];" if touched else "") + "jmp rbx", rbx=DATA + offset)
    assert engine_of(box) == (Trap.NESTED_FAULT, 0)
    assert box.engine.nested_fault() == (DATA + offset, 4)
    assert state.rip == DATA + offset
    box.mapping[DATA >> 12] = (DATA >> 12, True, True)
    box.engine.invept()
    box.run(state)
    assert state.rax == 1


def test_a_fetch_that_runs_into_a_page_that_is_not_executable_is_a_nested_fault_there(box):
    box.mapping[DATA + 0x1000 >> 12] = (DATA + 0x1000 >> 12, True, False)
    box.memory.write(DATA + 0xFFE, RETURN_1)
    box.memory.write(DATA + 0xFFD, b"\x90")
    state = box.run_code("jmp rbx", rbx=DATA + 0xFFD)
    assert engine_of(box) == (Trap.NESTED_FAULT, 0)
    gpa, access = box.engine.nested_fault()
    assert (gpa & ~0xFFF, access) == (DATA + 0x1000, 4)
    assert (state.rip, state.interrupt_shadow) == (DATA + 0xFFE, False)


def test_a_write_to_a_read_only_page_is_a_nested_fault_and_a_read_is_not(box):
    box.mapping[DATA >> 12] = (DATA >> 12, False, True)
    box.memory.write_u64(DATA, 0x55)
    state = box.run_code("mov rax, [rbx]; mov [rbx], rcx", rbx=DATA, rcx=1)
    assert engine_of(box) == (Trap.NESTED_FAULT, 0)
    assert box.engine.nested_fault() == (DATA, 2)
    assert (state.rax, box.memory.read_u64(DATA)) == (0x55, 0)[:1] + (0x55,)


@pytest.mark.parametrize("table", [PML4, TABLE])
def test_page_tables_in_pages_that_are_not_executable_work(box, table):
    """The engine would dereference a null pointer if its own tables said so (hv/machine/nested.py)."""
    box.mapping[table >> 12] = (table >> 12, True, False)
    box.run_code("mov rax, [rbx]; cpuid", rbx=DATA)
    assert engine_of(box) == (Trap.CPUID, 0)


def test_page_tables_in_unmapped_pages_are_a_nested_fault(box):
    box.mapping[TABLE >> 12] = (-1, False, False)
    box.run_code("mov rax, [rbx]; cpuid", rbx=DATA)
    assert engine_of(box) == (Trap.NESTED_FAULT, 0)
    assert box.engine.nested_fault()[0] & ~0xFFF == TABLE


def test_a_translation_stays_until_invept(box):
    box.memory.write_u64(DATA, 1)
    box.memory.write_u64(STACK + 0x1000, 2)
    box.put("mov rax, [rbx]; cpuid")
    seen = []
    for step in range(3):
        state = box.state()
        state.rbx = DATA
        if step == 1:
            box.mapping[DATA >> 12] = (STACK + 0x1000 >> 12, True, True)
        if step == 2:
            box.engine.invept()
        box.run(state)
        seen.append(state.rax)
    assert seen == [1, 1, 2]


def test_the_second_level_is_asked_once_for_a_page(box):
    box.put("mov rax, [rbx]; mov rax, [rbx + 8]; mov [rbx], rax; cpuid")
    for _ in range(3):
        state = box.state()
        state.rbx = DATA
        box.run(state)
    assert [gpa >> 12 for gpa, _ in box.second_level_calls].count(DATA >> 12) == 1


# --- several states ------------------------------------------------------------------------------------

def test_two_states_take_turns_on_one_engine_with_their_own_registers(box):
    box.put("again: add rax, rbx; jmp again")
    first, second = box.state(), box.state()
    first.rbx, second.rbx = 1, 0x1_0000_0000
    for _ in range(10):
        box.run(first, 500)
        box.run(second, 700)
    assert 0 < first.rax < 0x1_0000_0000
    assert second.rax
    assert not second.rax & 0xFFFF_FFFF


def test_two_states_with_different_page_tables_see_their_own_memory(box):
    other = 0x9000
    box.memory.write(other, box.memory.read(TABLE, 4096))
    box.memory.write_u64(other + 8 * (DATA >> 12), DATA + 0x1000 | 0x67)
    box.memory.write_u64(0xA000, 0xB000 | 7), box.memory.write_u64(0xB000, 0xC000 | 7), box.memory.write_u64(0xC000,
                                                                                                             other | 7)
    box.memory.write_u64(DATA, 1), box.memory.write_u64(DATA + 0x1000, 2)
    box.put("again: mov rax, [rbx]; cpuid")
    first, second = box.state(), box.state()
    first.rbx = second.rbx = DATA
    second.cr3 = 0xA000
    for _ in range(3):
        first.rip = second.rip = CODE
        box.run(first), box.run(second)
        assert (first.rax, second.rax) == (1, 2)


def test_states_of_different_modes_share_an_engine(box):
    box.memory.write(CODE,
                     b"\x66\xb8\1\0\0\0\x0f\xa2\xf4\xf4")   # real mode: mov eax, 1; else: mov ax, 1; add [rax], al ..
    states = [box.state(bits) for bits in ALL_MODES]
    for _ in range(3):
        for state in states:
            state.rip = 0 if state.bits == 16 else CODE
            box.run(state)
    assert [trap[0] for trap in box.traps[::3]] == [Trap.CPUID] * 3


def test_an_image_of_a_state_can_be_put_back(box):
    box.put("again: inc rax; jmp again")
    state = box.state()
    box.run(state, 1000)
    image, count = box.engine.save_image(state), state.rax
    box.run(state, 1000)
    assert state.rax > count
    box.engine.load_image(state, image)
    assert state.rax == count
    box.run(state, 1000)


# --- devices -------------------------------------------------------------------------------------------

def a_device(box: EngineBox) -> list[tuple[str, int, int, int]]:
    seen: list[tuple[str, int, int, int]] = []
    box.mapping[DATA >> 12] = (0xF0000, True, True)

    def read(offset: int, size: int) -> int:
        seen.append(("read", offset, size, 0))
        return 0xA1B2C3D4E5F60718 >> 8 * (offset & 7) & (1 << 8 * size) - 1

    box.engine.map_mmio(0xF0000000, 0x1000, read, lambda offset, size, value: seen.append(("write", offset, size,
                                                                                           value)))
    return seen


@pytest.mark.parametrize(("register", "size"), [("al", 1), ("ax", 2), ("eax", 4), ("rax", 8)])
def test_a_device_hears_of_reads_and_writes(box, register, size):
    seen = a_device(box)
    state = box.run_code(f"mov {register}, [rbx + 0x18]; mov [rbx + 0x20], {register}; cpuid", rbx=DATA)
    value = 0xA1B2C3D4E5F60718 & (1 << 8 * size) - 1
    assert state.rax == value
    assert sum(size for kind, _, size, _ in seen if kind == "read") == size
    assert seen[0][:2] == ("read", 0x18)
    writes = [event for event in seen if event[0] == "write"]
    assert writes[0][1] == 0x20
    assert sum(value << 8 * (offset - 0x20) for _, offset, _, value in writes) == value


@pytest.mark.parametrize("access", ["read", "write"])
def test_an_exception_in_a_device_comes_out_of_the_run(box, access):
    def fail(*_: int) -> int:
        raise ValueError("broken device")

    box.mapping[DATA >> 12] = (0xF0000, True, True)
    box.engine.map_mmio(0xF0000000, 0x1000, fail, fail)
    with pytest.raises(ValueError, match="broken device"):
        box.run_code("mov [rbx], eax" if access == "write" else "mov eax, [rbx]", rbx=DATA)
    assert box.run_code("mov eax, 7; cpuid").rax == 7


@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize("offset", [0, 0x123, 0xFFF])
def test_a_fetch_from_a_device_is_a_nested_fault(box, offset, touched):
    """# Simplified: silicon would execute what the device answers."""
    a_device(box)
    box.run_code(("mov al, [rbx];" if touched else "") + "jmp rbx", rbx=DATA + offset)
    assert engine_of(box) == (Trap.NESTED_FAULT, 0)
    assert box.engine.nested_fault() == (DATA + offset, 4)
    assert box.run_code("mov eax, 7; cpuid").rax == 7


# --- our own mistakes ----------------------------------------------------------------------------------

@pytest.mark.parametrize("source", ["cpuid", "ud2", "in al, dx", "syscall", "mov rax, [rbx]"])
def test_an_exception_in_a_handler_comes_out_of_the_run_and_leaves_the_engine_usable(box, source):
    def answer(trap: Trap, detail: int) -> bool:
        raise RuntimeError("broken handler")

    box.answer = answer
    box.mapping[DATA >> 12] = (-1, False, False)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="broken handler"):
            box.run_code(source, rbx=DATA)
    box.answer = lambda trap, detail: False
    state = box.run_code("mov eax, 7; cpuid")
    assert (state.rax, engine_of(box)) == (7, (Trap.CPUID, 0))


def test_an_exception_in_the_second_level_comes_out_of_the_run(box):
    good = box.engine.second_level

    def broken(gpa: int, access: int) -> None:
        if gpa & ~0xFFF == DATA:
            raise RuntimeError("broken tables")
        return good(gpa, access)

    box.engine.second_level = broken
    with pytest.raises(RuntimeError, match="broken tables"):
        box.run_code("mov rax, [rbx]", rbx=DATA)
    box.engine.second_level = good
    assert box.run_code("mov eax, 7; cpuid").rax == 7


def test_the_registers_of_an_engine_that_was_closed_are_gone():
    """Their memory is the host's again: whoever still asks gets an error, not what stands there now."""
    other = EngineBox()
    state = other.run_code("cpuid")
    other.close()
    for read in (lambda: state.rip, lambda: state.gpr[0], lambda: state.cs, lambda: state.cr0, lambda: state.cpl,
                 lambda: state.rflags, lambda: state.msrs[0xC0000081]):
        with pytest.raises(ValueError, match="released"):
            read()


def test_an_engine_that_was_closed_is_told_of_no_write():
    other = EngineBox()
    other.run_code("cpuid")
    other.engine.close()
    other.memory.write(CODE, b"\x90")
    assert not other.engine._stale
    other.memory.close()


@pytest.mark.parametrize("value", [0x80010033, 0x80000011, 0x80010031])
def test_a_control_register_is_written_with_all_that_the_engine_keeps_beside_it(box, value):
    """Paging goes on in the middle of a run."""
    def answer(trap: Trap, detail: int) -> bool:
        if trap is not Trap.CR_WRITE:
            return False
        box.engine.write_control_register(box.engine.current, 0, value)
        box.engine.current.complete_instruction(3)
        return True

    box.answer = answer
    box.put("mov cr0, eax; mov ecx, [ebx]; cpuid", 32)
    box.memory.write_u32(DATA, 0x99)
    state = box.state(32)
    state.cr3, state.rax, state.rbx = 0x5000, value, DATA
    box.run(state)
    assert engine_of(box) == (Trap.CPUID, 0)
    assert (state.cr0, state.rcx) == (value, 0x99)


def test_flags_are_read_right_inside_a_trap_and_outside(box):
    seen = []
    box.answer = lambda trap, detail: bool(seen.append(box.engine.current.rflags))
    state = box.run_code("mov eax, 0x7FFFFFFF; add eax, 1; cpuid")
    assert seen == [state.rflags]
    assert seen[0] == Rflags.FIXED | Rflags.SF | Rflags.OF | Rflags.AF | Rflags.PF


@pytest.mark.parametrize("source", [
    "mov rax, [rbx]", "mov [rbx], rax", "push rax", "call [rbx]", "movsb", "rep movsb", "lock inc qword ptr [rbx]",
    "vmovaps", "jmp next; .org 0x15000; next: nop"])
def test_a_single_step_is_done_though_the_engine_must_first_be_told_where_memory_is(box, source):
    """Each instruction is the first to touch its page, or pages."""
    box.put(source.replace("vmovaps", "movdqu xmm0, [rbx + 0xFF8]"))
    box.memory.write_u64(DATA, CODE + 0x100)
    state = box.state()
    state.rbx = state.rsi = DATA
    state.rdi, state.rcx = DATA + 0x3000, 2
    assert not box.run(state, instructions=1)
    assert state.rip == CODE and state.rcx == 1 if source.startswith("rep") else state.rip != CODE


def test_flags_of_a_state_that_the_engine_has_left_are_still_its_own(box):
    box.put("sub eax, ebx; cpuid")
    first, second = box.state(), box.state()
    first.rax, first.rbx = 1, 2                 # borrows
    second.rax, second.rbx = 2, 2               # is zero
    box.run(first)
    box.run(second)
    assert first.rflags & 0x8D5 == Rflags.CF | Rflags.PF | Rflags.AF | Rflags.SF
    assert second.rflags & 0x8D5 == Rflags.ZF | Rflags.PF


def test_flags_of_an_image_put_back_are_those_of_the_image(box):
    """Both images hold the operation, not its flags; the engine itself still has the second one."""
    box.put("sub eax, ebx; cpuid")
    state, images = box.state(), []
    for value in (1, 2):
        state.rax, state.rbx, state.rip = value, 2, CODE
        box.run(state)
        images.append(box.engine.save_image(state))
    box.engine.load_image(state, images[0])
    assert state.rflags & Rflags.CF
    box.engine.load_image(state, images[1])
    assert state.rflags & Rflags.ZF


ARITHMETIC = (0x8D7, 0x2, 0x3, 0x6, 0x12, 0x42, 0x82, 0x802, 0xC02, 0x402)


@pytest.mark.parametrize("flags", ARITHMETIC)
@pytest.mark.parametrize("between", ["cpuid", "in al, dx", "ud2", "nop"])
def test_flags_survive_a_stop(box, flags, between):
    """The guest compares, its exit waits for somebody, and then it jumps by what it compared."""
    box.put(f"{between}; pushfq; pop rcx; hlt")
    state = box.state()
    state.rflags = flags
    box.run(state)
    assert state.rflags == flags
    state.rip = CODE + {"nop": 1, "in al, dx": 1}.get(between, 2)
    box.run(state)
    assert (state.rcx, state.rflags) == (flags, flags)


@pytest.mark.parametrize("operation", ["sub eax, ebx", "add eax, ebx", "cmp eax, ebx", "shl eax, 1", "inc eax",
                                       "xor eax, eax"])
def test_flags_of_an_operation_survive_a_stop(box, operation):
    results = []
    for between in ("nop; nop", "cpuid"):
        box.put(f"{operation}; {between}; pushfq; pop rcx; hlt")
        state = box.state()
        state.rax, state.rbx = 0x80000000, 0x80000001
        box.run(state)
        if between == "cpuid":
            state.complete_instruction(2)
            box.run(state)
        results.append(state.rcx)
    assert results[0] == results[1]


def test_flags_survive_the_end_of_a_budget(box):
    """A loop whose carry goes round is stopped after every few blocks."""
    box.put("stc; again: mov ecx, 1; adc rax, 0; cmp rcx, rdx; jmp again")
    state = box.state()
    state.rdx = 5
    for _ in range(50):
        box.run(state, 20)
        rounds = state.rax
    assert rounds > 40


def test_a_table_register_that_a_guest_loaded_is_seen(box):
    box.memory.write(DATA, b"\x34\x12" + (0x5678).to_bytes(8, "little"))
    state = box.run_code("lidt [rbx]; lgdt [rbx]; cpuid", rbx=DATA)
    assert state.idtr == state.gdtr == Table(0x5678, 0x1234)


def test_a_full_cache_of_translations_starts_over(box):
    assert SIZE // LARGE == 2
    state = box.run_code("cpuid")
    for _ in range(3):
        box.engine.invept()
        state.rip = CODE
        box.run(state)
    assert engine_of(box) == (Trap.CPUID, 0)

"""Descriptor-table instructions that a kernel keeps from its programs; HV_X64_MSR_NPIEP_CONFIG, from inside."""

import pytest

from hv.hypervisor.hypervisor import Hypervisor
from hv.spec.exits import ExitReason
from hv.trace import events
from tests.guest_runner import assemble, exits_of, run_guest
from tests.guests.test_modes import LET_USERS_IN, LOAD, OFF, USER, handlers

GP = 13
STORES = {"sgdt": 1, "sidt": 2, "sldt": 4, "str": 8}           # and the bit of each
PLACE = 0x61000
READ = f"sgdt [{PLACE}]; sidt [{PLACE} + 16]; sldt word ptr [{PLACE} + 32]; str word ptr [{PLACE} + 48]"
OPERANDS = {"sgdt": f"sgdt [{PLACE}]", "sidt": f"sidt [{PLACE}]", "sldt": "sldt eax", "str": f"str word ptr [{PLACE}]"}
USERS = ("mov rax, 0x00AFFB000000FFFF; mov [0x70030], rax; mov rax, 0x00CFF3000000FFFF; mov [0x70038], rax;"
         "sub rsp, 16; mov word ptr [rsp], 0x3F; mov qword ptr [rsp + 2], 0x70000; lgdt [rsp];")


@pytest.fixture(autouse=True, params=[pytest.param(True, id="virtualized"), pytest.param(False, id="by-exits")])
def virtualized(request, monkeypatch):
    monkeypatch.setattr(Hypervisor, "apic_virtualization", request.param)


def configure(value):
    return f"mov ecx, 0x40000040; mov eax, {value}; xor edx, edx; wrmsr;"


def program(code, config, **special):
    """*code* at CPL 3 of a kernel that has configured *config*; INT 0x21 ends it."""
    user = assemble(code, 64, 0x30000)[0][1]
    data = handlers(64, v33=OFF, **special) | {0x30000: user}
    return run_guest(f"{LOAD}; {LET_USERS_IN} {USERS} {configure(config)} {USER.format(rip=0x30000)}", 64, data=data)


def watched(result):
    return [exit.reason for exit in exits_of(result)
            if exit.reason in (ExitReason.GDTR_IDTR_ACCESS, ExitReason.LDTR_TR_ACCESS)]


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("config", range(16))
def test_a_program_is_refused_what_its_bit_says_and_nothing_else(name, config):
    result = program(f"mov r12d, 1; {OPERANDS[name]}; mov r12d, 2; int 0x21", config)
    refused = bool(config & STORES[name])
    assert (result.ended, result.r12) == ("shutdown", 1 if refused else 2)
    assert [fault.vector for fault in result.of(events.Fault)] == [GP] * refused
    assert len(watched(result)) == (1 if config else 0)


@pytest.mark.parametrize("config", [1, 2, 4, 8, 15])
def test_a_kernel_reads_and_loads_its_tables_as_ever(config):
    """With and without, the same bytes and registers; and LGDT, LIDT, LLDT, LTR work."""
    load = "mov rsi, [0x61002]; lgdt [0x61000]; lidt [0x61010]; xor eax, eax; lldt ax"
    code = f"{READ}; {load}; {READ}; sldt r8; str r9; {configure(0)} {READ}; cli; hlt"
    with_it, without = run_guest(configure(config) + code), run_guest(configure(0) + code)
    assert with_it.ended == without.ended == "halt"
    assert with_it.memory[PLACE : PLACE + 64] == without.memory[PLACE : PLACE + 64]
    assert any(with_it.memory[PLACE : PLACE + 10])
    for name in ("rsi", "r8", "r9", "gdtr", "idtr", "ldtr", "tr", "rsp", "rip"):
        assert getattr(with_it, name) == getattr(without, name)
    assert len(watched(with_it)) == 13
    assert not watched(without)


def test_a_fault_of_what_may_go_on_is_the_guests_own():
    """The operand is not there: #PF, with nothing left behind that would let the next one through."""
    result = program(f"sidt [0x400000]; sgdt [{PLACE}]; int 0x21", 1,
                     v14="add rsp, 8; add qword ptr [rsp], 8; inc r13; iretq")
    assert [fault.vector for fault in result.of(events.Fault)] == [GP]
    assert result.r13 == 1


def test_single_stepping_goes_instruction_by_instruction():
    result = program("pushfq; or qword ptr [rsp], 0x100; popfq; nop; sidt [0x62000]; nop; int 0x21", 1,
                     v1="inc r13; mov rax, [rsp]; mov [0x61000 + r13 * 8], rax; iretq")
    assert (result.ended, result.r13) == ("shutdown", 3)
    steps = [int.from_bytes(result.memory[0x61000 + 8 * n : 0x61008 + 8 * n], "little") for n in (1, 2, 3)]
    assert [later - steps[0] for later in steps] == [0, 8, 9]


@pytest.mark.parametrize("count", range(1000, 1060, 14))
def test_an_interrupt_that_comes_first_lets_no_second_instruction_through(count):
    """The timer of the APIC hits anywhere, also between the exit and the instruction: each program sees the same."""
    timer = ("mov ecx, 0x1B; rdmsr; or eax, 0xC00; wrmsr; mov ecx, 0x80F; mov eax, 0x1FF; xor edx, edx; wrmsr;"
             "mov ecx, 0x83E; mov eax, 0xB; wrmsr; mov ecx, 0x832; mov eax, 0x20020; wrmsr;"
             f"mov ecx, 0x838; mov eax, {count}; wrmsr;")
    code = "mov r12d, 200; again:; sidt [0x61000]; dec r12d; jnz again; sgdt [0x61000]; int 0x21"
    handler = "push rax; push rcx; push rdx; mov ecx, 0x80B; xor eax, eax; xor edx, edx; wrmsr; inc r13; " \
              "pop rdx; pop rcx; pop rax; iretq"
    data = handlers(64, v33=OFF, v32=handler) | {0x30000: assemble(code, 64, 0x30000)[0][1]}
    result = run_guest(f"{LOAD}; {LET_USERS_IN} {USERS} {configure(1)} {timer} {USER.format(rip=0x30000)}", 64,
                       data=data, budget=20_000_000)
    assert (result.ended, result.r12) == ("shutdown", 0)
    assert [fault.vector for fault in result.of(events.Fault)] == [GP]
    assert result.r13 > 10
    assert len(watched(result)) >= 201          # what an interrupt came before exits once more

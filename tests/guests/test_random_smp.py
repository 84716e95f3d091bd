"""Random guests of four VPs that lock, interrupt each other and sleep: all get to the end, the same way in each run.

Every VP sends every other one each of its vectors once, so no interrupt may be merged with another, and at the end it
sleeps until it has had all that it is due: a wake-up that is lost leaves it asleep, and the VM does not switch off.
"""

import random

import pytest

from tests.guests.test_smp import LIBRARIES, PRELUDE, Run

VPS, EACH = 4, 6                # EACH vectors from every sender
FIRST = 0x40                    # vector n of sender s is FIRST + 16 s + n
FLAGS, LOCK, COUNTER, DONE, LOCKED = 0x221000, 0x220000, 0x220040, 0x220080, 0x2200C0


def guest(chance):
    """The source of a guest whose VPs do what *chance* says."""
    work = [operations(chance, vp) for vp in range(VPS)]
    vectors = [FIRST + 16 * sender + n for sender in range(VPS) for n in range(EACH)]
    dispatch = "".join(f" cmp edi, {vp}\n je vp{vp}\n" for vp in range(1, VPS))
    source = PRELUDE + "start:\n call hypercall_init\n" + "".join(
        f" mov edi, {vector}\n lea rax, [rip + on_{vector}]\n call idt_set\n" for vector in vectors
    ) + " call idt_load\n call smp_start\n xor edi, edi\n"
    source += BEGIN + dispatch + "".join(
        f"vp{vp}:\n{''.join(code)}{sleep(vp)}" for vp, code in enumerate(work)
    ) + "".join(f"on_{vector}:\n push rax\n mov eax, {vector}\n jmp taken\n" for vector in vectors)
    return source + TAIL + LIBRARIES


# An APIC that is not switched on drops what it is sent, so they wait for each other.
BEGIN = f"""
ap_main:
    mov r15d, edi
    shl r15d, 8
    add r15d, {FLAGS}
.meet:
    pause
    cmp dword ptr [SMP_ARRIVED], {VPS - 1}
    jne .meet
    sti
"""
TAIL = f"""
taken:                              ; each vector has a byte for each VP; R15 = our own bytes
    inc byte ptr [r15 + rax]
    mov eax, APIC
    mov dword ptr [rax + APIC_EOI], 0
    pop rax
    iretq
locked:
    mov eax, 1
    lock xadd [{LOCK}], eax
.look:
    cmp [{LOCK} + 0x20], eax
    je .mine
    pause
    jmp .look
.mine:
    inc dword ptr [{COUNTER}]
    inc dword ptr [{LOCK} + 0x20]
    ret
spun:                               ; the same with a lock that knows no PAUSE
    lock bts dword ptr [{LOCKED}], 0
    jc spun
    inc dword ptr [{COUNTER}]
    mov dword ptr [{LOCKED}], 0
    ret
"""


def operations(chance, vp):
    todo = [ipi(chance, target, FIRST + 16 * vp + n)
            for target in range(VPS) if target != vp for n in range(EACH)]
    for n in range(chance.randrange(5, 25)):
        work = f" mov ecx, {chance.randrange(1, 20_000)}\n.w{vp}_{n}: dec ecx\n jnz .w{vp}_{n}\n"
        todo.append(chance.choice((" call locked\n", " call spun\n", work, " pause\n", " cli\n nop\n sti\n")))
    chance.shuffle(todo)
    return todo


def ipi(chance, target, vector):
    """By ICR with interrupts off, since it is two writes; or by hypercall, alone."""
    if chance.random() < 0.5:
        return (f" cli\n mov ebx, APIC\n mov dword ptr [rbx + APIC_ICR_HIGH], {target << 24}\n"
                f" mov dword ptr [rbx + APIC_ICR_LOW], {vector}\n sti\n")
    return f" mov ecx, 0x1000B\n mov edx, {vector}\n mov r8d, {1 << target}\n mov eax, HYPERCALL_PAGE\n call rax\n"


def sleep(vp):
    """Until every vector of every other VP has been taken once. VP 0 then waits for the others and switches off."""
    others = [FIRST + 16 * sender + n for sender in range(VPS) if sender != vp for n in range(EACH)]
    checks = "".join(f" cmp byte ptr [r15 + {vector}], 1\n jne .asleep{vp}\n" for vector in others)
    end = f".wait: pause\n cmp dword ptr [{DONE}], {VPS - 1}\n jne .wait\n jmp power_off\n" if not vp else (
        f" lock inc dword ptr [{DONE}]\n.stop{vp}: cli\n hlt\n jmp .stop{vp}\n")
    return f".look{vp}: cli\n{checks} sti\n{end}.asleep{vp}: sti\n hlt\n jmp .look{vp}\n"


@pytest.mark.parametrize("seed", range(8))
def test_no_wake_up_is_lost_and_two_runs_are_the_same(seed):
    chance = random.Random(seed)
    source = guest(chance)
    slice_ticks = chance.choice((2_000, 20_000, 100_000))
    first, second = (Run(source, VPS, slice_ticks, until=400_000_000, trace=True) for _ in range(2))
    assert first.ended == "shutdown"
    assert first.fingerprint == second.fingerprint

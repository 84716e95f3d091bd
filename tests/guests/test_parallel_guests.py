"""The guests in guests/, several at the same time and each in a thread of its own, print what they print alone.

And random guests: four partitions that compute, exit, fault, sleep, patch themselves and write to each other.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hv.image.library import guest_names, guests_folder
from hv.image.load import load
from hv.image.model import Image
from hv.platform import Machine, VirtualMachine
from hv.spec.hv_registers import HvRegisterName
from tests.guest_runner import image_of
from tests.guests import garbage

MS = 2_000_000
WITH_DEVICE, WITH_TWO_VPS = ("attacker", "dma", "postman"), ("two_vps", "start_vp")
PAIRS = [("hypercaller", "receiver"), ("receiver", "hypercaller")]
CROWDS = [("timer", "two_vps", "hello", "long_mode"), ("dma", "timer", "dma", "two_vps"),
          ("receiver", "dma", "crasher"), ("hypercalls", "stimer", "start_vp", "long_mode")]

Outcome = list[tuple[str | None, str, str]]
Play = Callable[..., Outcome]


def add(machine: Machine, name: str) -> VirtualMachine:
    return machine.create_vm(f"{name}{len(machine.vms)}", load(str(guests_folder() / f"{name}.asm")), memory_mib=4,
                             vps=2 if name in WITH_TWO_VPS else 1, dma_device=name in WITH_DEVICE,
                             other=machine.vms[0] if machine.vms else None)


@pytest.fixture
def play() -> Iterator[Play]:
    """How guests end that run together, and what they print."""
    machines: list[Machine] = []

    def run(*names: str, parallel: bool = True) -> Outcome:
        machine = Machine(memory_mib=20 + 4 * len(names), parallel=parallel)
        machines.append(machine)
        for name in names:
            add(machine, name)
        if len(names) == 2:
            machine.connect(machine.vms[0], 1, machine.vms[1])
            machine.connect(machine.vms[1], 1, machine.vms[0])
        machine.run(300 * MS)
        return [(vm.ended, vm.why, vm.serial) for vm in machine.vms]

    yield run
    for machine in machines:
        machine.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("partition ")]


@pytest.mark.parametrize("name", guest_names())
def test_a_guest_in_a_thread_of_its_own_prints_the_same(play, name):
    if name.startswith("root_"):
        pytest.skip("a program for the root partition")
    assert play(name) == play(name, parallel=False)


@pytest.mark.parametrize("names", CROWDS, ids="+".join)
def test_guests_that_run_at_the_same_time_print_what_each_prints_alone(play, names):
    """Each has a processor and a clock of its own, so even its timers are as exact."""
    assert play(*names) == [play(name, parallel=False)[0] for name in names]


@pytest.mark.parametrize("names", PAIRS, ids="+".join)
def test_messages_between_partitions_that_run_at_the_same_time_all_arrive(play, names):
    """TLFS "SynIC Message Processing": the receiver empties its slot while the sender fills it."""
    assert play(*names) == play(*names, parallel=False)


# Each of two partitions sends COUNT messages to the other, and adds up those that it takes out of its own slot. The
# queue behind the slot is short, so both are refused and try again, and none is lost.
COUNT = 150
CHATTER = f"""
.include "lib/machine.inc"
COUNT = {COUNT}
.bits 64
.org 0x10000
start:
    call hypercall_init
    mov ecx, HV_SIMP
    mov eax, 0x200001
    xor edx, edx
    wrmsr
    mov ecx, HV_SINT2
    mov eax, 0x10050
    wrmsr
    mov ecx, HV_SCONTROL
    mov eax, 1
    wrmsr
    xor r12d, r12d              ; sent
    xor r13d, r13d              ; received
    xor r14d, r14d              ; sum of what was received
.again:
    mov rbx, 0x200200           ; slot 2
    cmp dword ptr [rbx], 0
    je .send
    inc r13d
    add r14d, [rbx + 16]
    mov dword ptr [rbx], 0
    test byte ptr [rbx + 5], 1
    jz .send
    mov ecx, HV_EOM
    xor eax, eax
    xor edx, edx
    wrmsr
.send:
    cmp r12d, COUNT
    je .done
    mov rdi, 0x300000
    mov dword ptr [rdi], 1      ; connection
    mov dword ptr [rdi + 4], 0
    mov dword ptr [rdi + 8], 1  ; message type
    mov dword ptr [rdi + 12], 8
    mov [rdi + 16], r12d
    mov dword ptr [rdi + 20], 0
    mov ecx, 0x5C
    mov rdx, rdi
    xor r8d, r8d
    mov eax, HYPERCALL_PAGE
    call rax
    test ax, ax
    jnz .done
    inc r12d
.done:
    cmp r13d, COUNT
    jb .again
    cmp r12d, COUNT
    jb .again
    mov eax, r14d
    call print_dec
    jmp power_off
.include "lib/serial64.inc"
.include "lib/hypercall64.inc"
"""


def test_no_message_is_lost_when_two_partitions_write_to_each_other(tmp_path):
    place = tmp_path / "chatter.asm"
    place.write_text(CHATTER)
    image = load(str(place))
    for _ in range(3):
        machine = Machine(memory_mib=32, parallel=True)
        try:
            a, b = (machine.create_vm(name, image, memory_mib=4) for name in "ab")
            machine.connect(a, 1, b)
            machine.connect(b, 1, a)
            machine.run(2000 * MS)
            assert [(vm.ended, vm.serial) for vm in (a, b)] == [("shutdown", str(COUNT * (COUNT - 1) // 2))] * 2
        finally:
            machine.close()


# --- random guests -----------------------------------------------------------------------------------

PIECES = (
    "mov ecx, {n}; c{i}: imul rax, rcx; add rax, rbx; loop c{i}",
    "mov eax, {n}; cpuid",
    "mov ecx, 0x40000020; rdmsr",
    "mov ecx, 0x40000002; rdmsr",
    "mov dx, 0x3F8; mov eax, {n}; out dx, al",
    "mov eax, {n}; mov dword ptr [rip + p{i} + 1], eax; p{i}: mov eax, 1",
    "push rax; pop rbx; pause",
    "mov qword ptr [0x100000 + {n}], rax; mov rbx, [0x100000 + {n}]",
    "mov ecx, 0x40000070; xor eax, eax; xor edx, edx; wrmsr",
)


def random_guest(seed: int) -> str:
    chance = random.Random(seed)
    lines = [f"mov r15d, {chance.randrange(3, 30)}; again: nop"]
    lines += [chance.choice(PIECES).format(n=chance.randrange(1, 250), i=i) for i in range(chance.randrange(3, 12))]
    lines += ["dec r15d; jnz again", chance.choice(("cli; hlt", "mov ax, 0x2000; mov dx, 0x604; out dx, ax", "ud2"))]
    return "; ".join(lines)


def outcomes(images: list[Image], parallel: bool, meddle: random.Random | None = None) -> list[tuple[object, ...]]:
    machine = Machine(memory_mib=12 + 2 * len(images), parallel=parallel)
    winhv = machine.root.winhv

    def paused() -> bool:
        """Root's management looks at a VM, and stops it for a moment; it notices nothing of that."""
        if meddle is not None and meddle.random() < 0.3:
            vm = meddle.choice(machine.vms)
            if vm.ended is None:
                winhv.get_vp_register(vm.partition_id, 0, HvRegisterName.RIP)
                for value in (1, 0):
                    winhv.set_vp_registers(vm.partition_id, 0, {HvRegisterName.EXPLICIT_SUSPEND: value})
        return False

    try:
        for n, image in enumerate(images):
            machine.create_vm(f"vm{n}", image, memory_mib=2)
        machine.run(machine.clock.tsc + 40 * MS, paused)
        machine.end_budget()
        return [(vm.ended, vm.why, vm.serial, vm.partition.vps[0].regs.rip, vm.partition.vps[0].regs.r15)
                for vm in machine.vms]
    finally:
        machine.close()


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1 << 32))
def test_random_guests_in_four_partitions_end_as_they_do_one_after_the_other(seed):
    images = [image_of(random_guest(seed + n)) for n in range(4)]
    assert outcomes(images, parallel=True, meddle=random.Random(seed)) == outcomes(images, parallel=False)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1 << 32))
def test_garbage_in_four_partitions_raises_no_error_and_leaves_no_thread(seed):
    """Whatever the bytes do, the machine ends, and each VM says how."""
    machine = Machine(memory_mib=20, parallel=True)
    try:
        for n in range(4):
            guest = garbage.make(seed + n)
            vm = machine.create_vm(f"vm{n}", guest.image, memory_mib=garbage.MEMORY_MIB, vps=guest.vps)
            garbage.prepare(guest, machine, vm)
        machine.run(machine.clock.tsc + garbage.BUDGET)
        machine.end_budget()
        assert {vm.ended for vm in machine.vms} <= garbage.ENDS
    finally:
        machine.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("partition ")]

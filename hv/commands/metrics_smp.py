"""The numbers of `hv bench` about partitions with several VPs: locks, interrupts between VPs, idle VPs, flushes.

A hand-off of a lock: one VP releases it, and another one is the next to have it. The guest counts them, under a ticket
lock for which both VPs always want to queue, so that nearly every release is one. Its baseline is what the same host
does of PAUSE exits alone, of which each hand-off has one: the floor under it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from statistics import median
from typing import Any

from hv.commands import workloads
from hv.commands.metrics import TURNS, Round, metric, run_time, run_to_end, watch_exits
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.image.model import Image
from hv.platform import Machine
from hv.spec.exits import ExitReason

COUNT = 5000
HANDOFFS = 0x220088             # of the guest: where it counts them

_PAUSE_LOOP = ".loop:\n pause\n dec ecx\n jnz .loop\n"
_LOCK_LOOP = """
    mov ebp, ecx
    call smp_start
    xor edi, edi
    call count
.wait:
    pause
    cmp dword ptr [0x220140], 2
    jne .wait
"""
_LOCK_TAIL = f"""
ap_main:
    mov edi, 1
    mov ebp, {COUNT}
    call count
.stop:
    hlt
    jmp .stop
count:
    lock inc dword ptr [0x2200C0]       ; both are here before the first one begins
.meet:
    pause
    cmp dword ptr [0x2200C0], 2
    jb .meet
    inc edi
.again:
    mov eax, 1
    lock xadd [0x220000], eax
.look:
    cmp [0x220040], eax
    je .mine
    pause
    jmp .look
.mine:
    cmp [0x220084], edi
    je .same
    mov [0x220084], edi
    inc dword ptr [{HANDOFFS}]
.same:
    inc dword ptr [0x220040]
    dec ebp
    jnz .again
    lock inc dword ptr [0x220140]
    ret
.include "lib/smp64.inc"
"""

# VP 0 writes ICR and waits for the handler on VP 1, whose first instruction is RDMSR. VP 1 sleeps.
_IPI_LOOP = """
    mov r12, rcx
    mov edi, 0x41
    mov eax, offset on_ipi
    call idt_set
    call idt_load
    call smp_start
    mov ebx, APIC
    mov dword ptr [rbx + APIC_ICR_HIGH], 1 << 24
    xor r13d, r13d
.loop:
    mov dword ptr [rbx + APIC_ICR_LOW], 0x41
    inc r13d
.wait:
    pause
    cmp [0x220000], r13d
    jne .wait
    dec r12
    jnz .loop
"""
_IPI_TAIL = """
ap_main:
    mov ecx, HV_VP_INDEX
    sti
.sleep:
    hlt
    jmp .sleep
on_ipi:
    rdmsr
    inc dword ptr [0x220000]
    mov eax, APIC
    mov dword ptr [rax + APIC_EOI], 0
    iretq
.include "lib/idt64.inc"
.include "lib/smp64.inc"
"""

_FLUSH_LOOP = """
    mov r12, rcx
    call hypercall_init
    mov rax, cr3
    mov [INPUT_PAGE], rax
    mov qword ptr [INPUT_PAGE + 8], 0
    mov qword ptr [INPUT_PAGE + 16], 1
.loop:
    mov ecx, 2                  ; HvCallFlushVirtualAddressSpace
    mov edx, INPUT_PAGE
    mov eax, HYPERCALL_PAGE
    call rax
    test ax, ax
    jnz failed
    dec r12
    jnz .loop
"""

_WORK_LOOP = """
    mov r12, rcx
    call smp_start
.loop:
    xor eax, eax
    cpuid
    mov ecx, 500
.work:
    add rbx, rcx
    dec ecx
    jnz .work
    dec r12
    jnz .loop
"""
_WORK_TAIL = """
ap_main:
    hlt
    jmp ap_main
.include "lib/smp64.inc"
"""


def run_smp(image: Image, vps: int, prepare: Callable[[list[VirtualProcessor]], None] = lambda vps: None,
            look: Callable[[Any], int] = lambda worker: 0) -> tuple[float, int]:
    """CPU seconds of a run of *image* with *vps* VPs, and what *look* finds in its memory at the end."""
    with closing(Machine(memory_mib=48)) as machine:
        vm = machine.create_vm("bench", image, vps=vps)
        prepare([vm.partition.vps[n] for n in range(vps)])
        return run_to_end(machine), look(vm.worker)


@metric("smp_lock_handoffs_per_s", "/s", 100_000, "a ticket lock from VP to VP; baseline: PAUSE exits of one VP alone")
def _lock() -> Round:
    image = workloads.guest(_LOCK_LOOP, COUNT, _LOCK_TAIL)

    def handoffs(worker: Any) -> int:
        return int.from_bytes(worker.read(HANDOFFS, 4), "little")
    runs = [run_smp(image, 2, look=handoffs) for _ in range(TURNS)]
    pauses = min(run_time(workloads.guest(_PAUSE_LOOP, COUNT)) for _ in range(TURNS))
    return max(count / elapsed for elapsed, count in runs), COUNT / pauses


@metric("ipi_us", "us", 40, "from the write of ICR to the handler's first instruction on the other VP, which sleeps")
def _ipi() -> Round:
    """The clock is read at the exit of the write, and at that of the handler's first instruction, RDMSR."""
    sent: list[float] = []
    taken: list[float] = []

    def watch(vps: list[VirtualProcessor]) -> None:
        watch_exits(vps[0], sent, ExitReason.APIC_WRITE)
        watch_exits(vps[1], taken)
    run_smp(workloads.guest(_IPI_LOOP, 300, _IPI_TAIL), 2, watch)
    assert len(taken) >= 300, f"{len(taken)} of 300 interrupts were taken"
    return median(after - before for before, after in zip(sent[-300:], taken[-300:], strict=True)) * 1e6, None


@metric("idle_vps_ratio", "ratio", 0.95, "speed of a VP with 63 halted siblings against the same VP alone")
def _idle() -> Round:
    """The difference of a long and a short run, so that starting the VPs is not in it."""
    short, long = (workloads.guest(_WORK_LOOP, count, _WORK_TAIL) for count in (2000, 12_000))

    def work(vps: int) -> float:
        return min(run_smp(long, vps)[0] for _ in range(TURNS)) - min(run_smp(short, vps)[0] for _ in range(TURNS))
    return work(1) / work(64), 1.0


@metric("flush_hypercall_us", "us", 10, "HvCallFlushVirtualAddressSpace with its input in memory, there and back")
def _flush() -> Round:
    image = workloads.guest(_FLUSH_LOOP, COUNT, workloads.HYPERCALL_TAIL)
    return min(run_time(image) for _ in range(TURNS)) / COUNT * 1e6, None

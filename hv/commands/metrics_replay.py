"""The numbers of `hv bench` about time travel: what a recording costs, and how long the way to a place is.

The guest executes 100 million instructions, with an exit after each few thousand, and changes a few pages.
"""

from __future__ import annotations

from contextlib import closing
from time import perf_counter

from hv.commands import workloads
from hv.commands.metrics import TURNS, Round, metric, run_time, run_to_end
from hv.platform import Machine
from hv.replay.position import Position
from hv.replay.timeline import Timeline

EXITS = 20_000
PLACES = 12

_LOOP = f"""
    mov r12, rcx
.loop:
    xor eax, eax
    cpuid
    mov ecx, 1000
    mov edi, {workloads.DATA}
.work:
    add rax, rcx
    imul rdx, rax, 7
    mov [rdi + rcx*8], rdx
    dec ecx
    jnz .work
    dec r12
    jnz .loop
"""


def _recorded(machine: Machine) -> Timeline:
    machine.create_vm("bench", workloads.guest(_LOOP, EXITS))
    return Timeline(machine)


def _record_time() -> float:
    with closing(Machine(memory_mib=48)) as machine:
        timeline = _recorded(machine)
        return run_to_end(machine, run=timeline.record)


@metric("replay_record_ratio", "ratio", 0.83, "speed of a recorded run of 100 million instructions against a plain one")
def _record() -> Round:
    plain = min(run_time(workloads.guest(_LOOP, EXITS)) for _ in range(TURNS))
    return plain / min(_record_time() for _ in range(TURNS)), 1.0


@metric("replay_go_ms", "ms", 150, "to any place of that run, the slowest of 12")
def _go() -> Round:
    with closing(Machine(memory_mib=48)) as machine:
        timeline = _recorded(machine)
        end = timeline.record().exits
        slowest = 0.0
        for number in range(PLACES):
            start = perf_counter()
            timeline.go(Position(1 + (end - 2) * number // (PLACES - 1), number % 2))
            slowest = max(slowest, perf_counter() - start)
        return slowest * 1e3, None

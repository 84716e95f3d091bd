"""The numbers of `hv bench` about timers."""

from __future__ import annotations

from contextlib import closing

from hv.commands import workloads
from hv.commands.metrics import Round, metric, run_to_end
from hv.platform import Machine

TICKS = 200                     # half of them while the guest sleeps, half while it computes
WORST = workloads.DATA          # where the guest keeps the most that a message was late

STIMER_LOOP = f"""
    mov r12, rcx
    mov edi, 0x50
    mov eax, offset on_timer
    mov ecx, HV_SINT2
    call synic_on
    mov ecx, 0x400000B1         ; a tick every 100 us ...
    mov eax, 1000
    wrmsr
    mov ecx, 0x400000B0
    mov eax, 0x20003            ; ... with a message on SINT2
    wrmsr
.sleep:
    sti
    hlt
    cli
    cmp r12, {TICKS // 2}
    ja .sleep
    sti
.compute:
    add rax, r12
    lea rdi, [rax + rax*2 + 7]
    test r12, r12
    jnz .compute
"""
STIMER_TAIL = f"""
on_timer:
    push rax
    mov rax, [SIMP_PAGE + 512 + 32]     ; delivery time
    sub rax, [SIMP_PAGE + 512 + 24]     ; expiration time
    cmp rax, [{WORST}]
    jbe .free
    mov [{WORST}], rax
.free:
    mov dword ptr [SIMP_PAGE + 512], 0
    mov dword ptr [rbx + APIC_EOI], 0
    dec r12
    pop rax
    iretq

.include "lib/idt64.inc"
.include "lib/hypercall64.inc"
.include "lib/synic64.inc"
"""


@metric("stimer_jitter", "x 100 ns", 0, "virtual time: the most that one of 200 ticks of a synthetic timer came late")
def _stimer_jitter() -> Round:
    with closing(Machine(memory_mib=48)) as machine:
        vm = machine.create_vm("bench", workloads.guest(STIMER_LOOP, TICKS, STIMER_TAIL))
        run_to_end(machine)
        return float(int.from_bytes(vm.worker.read(WORST, 8), "little")), None

"""The numbers of `hv bench` about devices: what an access that leaves the guest costs, and a timer's interrupt.

Three ways out of a guest, each there and back: a port of a device in the worker, a register of the local APIC that is
no memory (the hypervisor answers it), and the memory of a device in the worker, whose instruction is carried out there.
"""

from __future__ import annotations

from contextlib import closing
from statistics import median
from time import perf_counter

from hv.commands import workloads
from hv.commands.metrics import TURNS, Round, metric, run_time, run_to_end, watch_exits
from hv.image.model import Image
from hv.platform import Machine, VirtualMachine
from hv.spec.pc import IO_APIC_GPA

ACCESSES, INTERRUPTS = 4000, 300

# The scratch register of the UART: OUT, then IN.
PORT_LOOP = """
    mov r12, rcx
    mov edx, 0x3FF
.loop:
    out dx, al
    in al, dx
    dec r12
    jnz .loop
"""

# The timer's current count is computed when it is read, so APIC virtualization does not help.
APIC_LOOP = """
    mov r12, rcx
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    mov dword ptr [rbx + APIC_DIVIDE], 0x0B
    mov dword ptr [rbx + APIC_LVT_TIMER], 0x10050
    mov dword ptr [rbx + APIC_INITIAL], 0x7FFFFFFF
.loop:
    mov eax, [rbx + 0x390]
    dec r12
    jnz .loop
"""

# The loader's page tables leave the I/O APIC out; 2 MiB from 0xFEC00000 are entry 0x1F6 of the fourth directory.
IO_APIC_LOOP = f"""
    mov r12, rcx
    mov ebx, {IO_APIC_GPA:#x}
    lea rax, [rbx + 0xFB]
    mov [0x74FB0], rax
    mov dword ptr [rbx], 1
.loop:
    mov eax, [rbx + 0x10]
    dec r12
    jnz .loop
"""

# workloads.TIMER_LOOP, with RDMSR as the handler's first instruction, which is seen from outside.
TIMER_TAIL = """
on_timer:
    mov ecx, HV_VP_INDEX
    rdmsr
    mov dword ptr [rbx + APIC_EOI], 0
    iretq

.include "lib/idt64.inc"
"""


@metric("io_exit_us", "us", 12, "OUT or IN to an emulated device in the worker, there and back")
def _port() -> Round:
    """On a PC board, whose worker dispatches its VPs."""
    image = workloads.guest(PORT_LOOP, ACCESSES)
    return min(_pc_time(image) for _ in range(TURNS)) / (2 * ACCESSES) * 1e6, None


@metric("mmio_exit_us", "us", 6, "a read of the APIC timer's current count, answered by the hypervisor, there and back")
def _apic() -> Round:
    image = workloads.guest(APIC_LOOP, ACCESSES)
    return min(run_time(image) for _ in range(TURNS)) / ACCESSES * 1e6, None


@metric("device_mmio_us", "us", 25, "a read of the I/O APIC's data register, carried out by the worker, there and back")
def _device() -> Round:
    """The goal: twice a port access, since the instruction has to be decoded, translated and done in software."""
    image = workloads.guest(IO_APIC_LOOP, ACCESSES)
    return min(_pc_time(image) for _ in range(TURNS)) / ACCESSES * 1e6, None


def _pc_time(image: Image) -> float:
    """CPU seconds of a VM with a PC board."""
    with closing(Machine(memory_mib=48)) as machine:
        machine.create_vm("bench", image, pc=True)
        return run_to_end(machine)


@metric("timer_interrupt_us", "us", 25, "from the expiry of the APIC timer to the handler's first instruction")
def _timer() -> Round:
    """The guest sleeps. The clock is read when the timer fires, and at the exit of the handler's RDMSR."""
    fired: list[float] = []
    taken: list[float] = []

    def watch(machine: Machine, vm: VirtualMachine) -> None:
        vp = vm.partition.vps[0]
        timer, fire = vp.apic.timer, vp.apic.timer.fire

        def noted() -> None:
            fired.append(perf_counter())
            fire()

        timer.fire = noted
        watch_exits(vp, taken)

    run_time(workloads.guest(workloads.TIMER_LOOP, INTERRUPTS, TIMER_TAIL), watch)
    assert len(fired) == len(taken) == INTERRUPTS, f"the timer fired {len(fired)} times, {len(taken)} were taken"
    return median(after - before for before, after in zip(fired, taken, strict=True)) * 1e6, None

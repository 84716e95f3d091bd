"""The numbers of `hv bench` about messages and events between partitions.

One guest is woken by its timer, sends, and halts; the other one sleeps until that comes, and the first instruction of
its handler is RDMSR, whose exit is seen from outside. The clock is read at the VMCALL and at that RDMSR.
"""

from __future__ import annotations

from contextlib import closing
from statistics import median

from hv.commands import workloads
from hv.commands.metrics import Round, metric, run_to_end, watch_exits
from hv.platform import Machine, VirtualMachine
from hv.spec.exits import ExitReason

COUNT = 300

_BEGIN = """
    mov r12, rcx
    mov edi, 0x50
    mov eax, offset on_interrupt
    mov ecx, HV_SINT2
    call synic_on
"""
_SENDER = _BEGIN + """
    mov edi, INPUT_PAGE
    mov dword ptr [rdi], 1          ; connection
    mov dword ptr [rdi + 8], 1      ; message type
    mov dword ptr [rdi + 12], 16    ; bytes of payload
    mov dword ptr [rbx + APIC_DIVIDE], 0x0B
    mov dword ptr [rbx + APIC_LVT_TIMER], 0x20050
    mov dword ptr [rbx + APIC_INITIAL], 40000       ; 200 us: the other one sleeps again
.loop:
    sti
    hlt
    cli
    mov edx, {input}
    xor r8d, r8d
    mov ecx, {control}
    mov eax, HYPERCALL_PAGE
    call rax
    test ax, ax
    jnz failed
    dec r12
    jnz .loop
"""
_RECEIVER = _BEGIN + """
    mov ecx, HV_VP_INDEX
.loop:
    sti
    hlt
    cli
    dec r12
    jnz .loop
"""
_TAIL = """
failed:
    ud2                             ; no gate: a triple fault, which the bench reports
on_interrupt:
    {first}
    mov dword ptr [SIMP_PAGE + 512], 0
    mov dword ptr [SIEFP_PAGE + 512], 0
    mov dword ptr [rbx + APIC_EOI], 0
    iretq

.include "lib/idt64.inc"
.include "lib/hypercall64.inc"
.include "lib/synic64.inc"
"""
POST, SIGNAL = ("INPUT_PAGE", "0x5C"), ("2", "0x1005D")        # what is in RDX and RCX


def pair_of_guests(machine: Machine, call: tuple[str, str], count: int) -> tuple[VirtualMachine, VirtualMachine]:
    """The one that makes *call* so many times, and the one that it reaches."""
    loop = _SENDER.replace("{input}", call[0]).replace("{control}", call[1])
    receiver = machine.create_vm("receiver", workloads.guest(_RECEIVER, count, _TAIL.replace("{first}", "rdmsr")))
    sender = machine.create_vm("sender", workloads.guest(loop, count, _TAIL.replace("{first}", "nop")))
    machine.connect(sender, 1, receiver)
    machine.connect_events(sender, 2, receiver)
    return sender, receiver


def between_partitions(call: tuple[str, str], count: int = COUNT) -> float:
    """Microseconds from *call* of one guest to the first instruction of the other one's handler; the median."""
    with closing(Machine(memory_mib=80)) as machine:
        sender, receiver = pair_of_guests(machine, call, count)
        sent: list[float] = []
        taken: list[float] = []
        watch_exits(sender.partition.vps[0], sent, ExitReason.VMCALL)
        watch_exits(receiver.partition.vps[0], taken)
        run_to_end(machine)
        assert len(sent) == len(taken) == count, f"{len(sent)} were sent, {len(taken)} taken"
        return median(after - before for before, after in zip(sent, taken, strict=True)) * 1e6


@metric("post_message_us", "us", 60, "from HvPostMessage to the handler's first instruction in the other partition")
def _post_message() -> Round:
    return between_partitions(POST), None


@metric("signal_event_us", "us", 50, "from HvSignalEvent to the handler's first instruction in the other partition")
def _signal_event() -> Round:
    return between_partitions(SIGNAL), None

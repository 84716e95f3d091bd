"""The numbers of `hv bench` about messages and events between partitions.

Two guests take turns: one sends and halts, the other's handler begins with RDMSR, whose exit is seen from outside, and
answers with an event. The clock is read at the sender's VMCALL and at that RDMSR; what the handler does is not counted.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

from hv.commands import workloads
from hv.commands.metrics import Round, metric, watch_exits
from hv.hypervisor.vp import VirtualProcessor
from hv.platform import Machine
from hv.spec.exits import ExitReason

COUNT = 300

_BEGIN = """
    mov r12, rcx
    mov edi, 0x50
    mov eax, offset on_interrupt
    call idt_set
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    call hypercall_init
    xor edx, edx
    mov ecx, HV_SIMP
    mov eax, SIMP_PAGE | 1
    wrmsr
    mov ecx, HV_SIEFP
    mov eax, SIEFP_PAGE | 1
    wrmsr
    mov ecx, HV_SINT2
    mov eax, 0x50
    wrmsr
    mov ecx, HV_SCONTROL
    mov eax, 1
    wrmsr
"""
_SENDER = _BEGIN + """
    mov edi, INPUT_PAGE
    mov dword ptr [rdi], 1          ; connection
    mov dword ptr [rdi + 8], 1      ; message type
    mov dword ptr [rdi + 12], 16    ; bytes of payload
.loop:
    sti
    hlt                             ; until the other one is ready
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
.ready:
    call answer
    pause
    test ax, ax
    jnz .ready                      ; the sender's SynIC is not on yet
.loop:
    mov ecx, HV_VP_INDEX
    sti
    hlt
    cli
    call answer
    dec r12
    jnz .loop
"""
_TAIL = """
answer:
    mov edx, 2                      ; connection; flag 0
    xor r8d, r8d
    mov ecx, 0x1005D
    mov eax, HYPERCALL_PAGE
    jmp rax
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
"""
POST, SIGNAL = ("INPUT_PAGE", "0x5C"), ("3", "0x1005D")        # what is in RDX and RCX


def note_calls(vp: VirtualProcessor, sent: list[float]) -> None:
    """Note the time of each VMCALL exit of *vp*."""
    handle = vp.vcpu.on_exit

    def on_exit(exit: Any) -> bool:
        if exit.reason is ExitReason.VMCALL:
            sent.append(perf_counter())
        return handle(exit)

    vp.vcpu.on_exit = on_exit


def between_partitions(call: tuple[str, str], count: int = COUNT) -> float:
    """Microseconds from *call* of one guest to the first instruction of the other one's handler; the median."""
    loop = _SENDER.replace("{input}", call[0]).replace("{control}", call[1])
    machine = Machine(memory_mib=80)
    try:
        receiver = machine.create_vm("receiver", workloads.guest(_RECEIVER, count, _TAIL.replace("{first}", "rdmsr")))
        sender = machine.create_vm("sender", workloads.guest(loop, count, _TAIL.replace("{first}", "nop")))
        machine.connect(sender, 1, receiver)
        machine.connect_events(receiver, 2, sender)
        machine.connect_events(sender, 3, receiver)
        sent: list[float] = []
        taken: list[float] = []
        note_calls(sender.partition.vps[0], sent)
        watch_exits(receiver.partition.vps[0], taken)
        machine.run()
        for vm in machine.vms:
            assert vm.ended == "shutdown", f"{vm.name} ended by {vm.ended}: {vm.why}"
        assert len(sent) == len(taken) == count, f"{len(sent)} were sent, {len(taken)} taken"
        return median(after - before for before, after in zip(sent, taken, strict=True)) * 1e6
    finally:
        machine.close()


@metric("post_message_us", "us", 60, "from HvPostMessage to the handler's first instruction in the other partition")
def _post_message() -> Round:
    return between_partitions(POST), None


@metric("signal_event_us", "us", 50, "from HvSignalEvent to the handler's first instruction in the other partition")
def _signal_event() -> Round:
    return between_partitions(SIGNAL), None

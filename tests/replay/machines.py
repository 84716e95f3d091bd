"""Small guests, and machines that run them under a recording."""

from hv.image.assembler import assemble
from hv.image.library import guests_folder
from hv.image.load import image_of
from hv.platform import Machine
from hv.replay.timeline import Timeline

STRAIGHT = """
    .include "lib/machine.inc"
    .bits 64
    .org 0x10000
    .entry start
start:
    mov ecx, 3
again:
    xor eax, eax
    cpuid
    mov esi, 1
    add esi, 2
    mov ecx, 5
    nop
    hlt
"""
TWO_AT_WORK = """
    .include "lib/machine.inc"
    .bits 64
    .org 0x10000
    .entry start
start:
    call smp_start
    call work
    hlt
ap_main:
    call work
    hlt
work:
    mov ebp, 120
.more:
    mov ecx, 40
.spin:
    lock inc dword ptr [0x220000]
    pause
    dec ecx
    jnz .spin
    xor eax, eax
    cpuid
    dec ebp
    jnz .more
    ret
    .include "lib/smp64.inc"
"""


def machine_with(source, vps=1):
    """A machine whose VM `a` is about to run *source*."""
    machine = Machine(memory_mib=24)
    machine.create_vm("a", image_of(assemble(source, "test", folders=(guests_folder(),))), 4, vps)
    return machine


def recorded(source, vps=1, spacing=500):
    """Such a machine and its timeline, recorded to the end."""
    machine = machine_with(source, vps)
    timeline = Timeline(machine, spacing)
    timeline.record()
    return machine, timeline

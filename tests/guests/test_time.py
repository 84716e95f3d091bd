"""A guest whose time its parent stops: it runs on without having noticed."""

from hv.machine.clock import TICKS_PER_100NS
from hv.platform import Machine
from hv.spec.partition import HvPartitionProperty as P
from tests.guest_runner import image_of

# R11: the longest step that its time-stamp counter made; R12: the reference counter.
COUNTING = """
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov r10, rax
    mov r8, 50000
again:
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov r9, rax
    sub r9, r10
    mov r10, rax
    cmp r9, r11
    cmova r11, r9
    mov ecx, 0x40000020
    rdmsr
    shl rdx, 32
    or rax, rdx
    mov r12, rax
    dec r8
    jnz again
    hlt
"""
APART = 400_000_000                     # ticks


def run_with(what):
    """How it ended, and the guest's registers at its end; root does *what* to it once, in its midst."""
    machine = Machine(memory_mib=12)
    vm = machine.create_vm("guest", image_of(COUNTING), memory_mib=2)
    set_property = machine.root.winhv.set_partition_property
    machine.run(until_tsc=machine.clock.tsc + 5_000_000)
    before = vm.partition.vps[0].runtime
    if what is not None:
        set_property(vm.partition_id, what, 1)
        machine.clock.advance(APART)
        machine.run(until_tsc=machine.clock.tsc + 5_000_000)
        assert vm.partition.vps[0].runtime == before
        set_property(vm.partition_id, what, 0)
    machine.run()
    regs = vm.partition.vps[0].regs
    found = vm.ended, regs.r11, regs.r12
    machine.close()
    return found


def test_frozen_time_leaves_no_gap_and_suspension_does():
    ended, longest, reference = run_with(None)
    frozen_ended, frozen_longest, frozen_reference = run_with(P.TIME_FREEZE)
    assert ended == frozen_ended == "halt"
    assert frozen_longest < 2 * longest
    assert abs(frozen_reference - reference) < 100
    _, suspended_longest, suspended_reference = run_with(P.SUSPEND)
    assert suspended_longest > APART
    assert abs(suspended_reference - reference - APART // TICKS_PER_100NS) < 100

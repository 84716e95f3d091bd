"""Counters that a running guest reads, and that root reads of it, are those of what it did."""

from hv.image.load import load
from hv.platform import Machine
from hv.spec.exits import ExitReason
from hv.spec.hypercalls.statistics import HvStatsObjectType, VpCounter

COUNTS = """
.include "lib/machine.inc"
.bits 64
.org 0x10000
.entry start
STATS_VP_RETAIL = 0x400000E2
COUNTERS = 0x205000
start:
    mov ecx, STATS_VP_RETAIL
    mov eax, COUNTERS | 1
    xor edx, edx
    wrmsr
    mov r12d, 100
.again:
    mov eax, 1
    cpuid
    dec r12d
    jnz .again
    mov ecx, 30000000               ; a slice ends meanwhile, and the next one begins
.wait:
    dec ecx
    jnz .wait
    mov rax, [COUNTERS + 8 * 19]    ; CPUID instructions
    call print_dec
    mov al, ' '
    call putc
    mov rax, [COUNTERS + 8 * 21]    ; MSR accesses
    call print_dec
    mov al, ' '
    call putc
    mov rax, [COUNTERS + 8 * 1]     ; run time
    test rax, rax
    setnz al
    movzx eax, al
    call print_dec
    jmp power_off
.include "lib/serial64.inc"
"""


def test_a_guest_and_root_see_the_same_counters(tmp_path):
    source = tmp_path / "counts.asm"
    source.write_text(COUNTS)
    machine = Machine(memory_mib=24)
    try:
        vm = machine.create_vm("counts", load(str(source)), memory_mib=4)
        winhv = machine.root.winhv
        page = winhv.map_stats_page(HvStatsObjectType.VP, vm.partition_id, 0)
        machine.run()
        assert vm.serial == "100 1 1"
        vp, counters = vm.partition.vps[0], VpCounter

        def counter(place):
            return int.from_bytes(machine.root.memory.read(page + 8 * place, 8), "little")
        machine.hypervisor.before_run()
        assert counter(counters.CPUID_INSTRUCTIONS_COUNT) == vp.vcpu.exits[ExitReason.CPUID] == 100
        assert counter(counters.IO_INSTRUCTIONS_COUNT) == vp.vcpu.exits[ExitReason.IO_INSTRUCTION] > 10
        assert counter(counters.TOTAL_RUN_TIME) == vp.runtime_100ns
        winhv.unmap_stats_page(HvStatsObjectType.VP, vm.partition_id, 0)
    finally:
        machine.close()

"""What the hypervisor does for a move to or from the APIC that is known is what it does for any instruction."""

from __future__ import annotations

import random

import pytest

from hv.spec.msrs import Msr
from tests.guest_runner import run_guest


def some_program(source: random.Random) -> str:
    """Registers of the APIC read and written in a loop, by all sizes; interrupts stay away, for IF is 0."""
    lines = []
    for _ in range(14):
        offset = source.choice((0x20, 0x80, 0xB0, 0xD0, 0x300, 0x310, 0x320, 0x380, 0x390, 0x3E0, 0xA0, 0x84, 0x381))
        place = f"[rbx + rcx * 8 + {offset:#x}]"
        lines.append(source.choice((
            f"mov eax, {place}", f"mov {place}, eax", f"mov {place}, r9w",
            f"mov dword ptr {place}, {source.getrandbits(6)}",
            f"movzx edx, byte ptr {place}", f"movsx r8, word ptr {place}", f"mov dh, byte ptr {place}",
            f"and dword ptr {place}, 0x7F")))
    return "mov ebx, 0xFEE00000; mov dword ptr [rbx + 0xF0], 0x1FF; mov ebp, 6; xor ecx, ecx; .loop: ;" \
        + ";".join(lines) + "; mov rsi, rbp; and esi, 1; shl esi, 1; mov ecx, esi; dec ebp; jnz .loop; hlt"


@pytest.mark.parametrize("kind", ["virtualized", "in software", "elsewhere"])
def test_random_accesses_to_the_apic_end_the_same_both_ways(kind):
    """SDM "Accessing the Local APIC Registers": whoever carries the move out, registers, APIC, exits and time agree."""
    source, taken = random.Random(7), 0
    for _ in range(2):
        program, ends = some_program(source), []
        if kind == "elsewhere":
            program = program.replace("0xFEE00000", "0x00600000")
        for known in (True, False):
            apics = []

            def prepare(machine, vm, known=known, apics=apics):
                vp = vm.partition.vps[0]
                apics.append(vp.apic)
                if kind == "elsewhere":
                    vp.apic.write_msr(Msr.APIC_BASE, 0x600900)
                again = vp.vcpu.accesses.again
                apics.append(0)

                def noted(gpa, code):
                    answer = again(gpa, code) if known else None
                    apics[1] += answer is not None
                    return answer

                vp.vcpu.accesses.again = noted

            run = run_guest(program, prepare=prepare, trace=False, apic_virtualization=kind != "in software")
            assert run.ended == "halt"
            ends.append((run.fingerprint(), apics[0].inspect()))
            taken += apics[1]
        assert ends[0] == ends[1], program
    assert taken > 60

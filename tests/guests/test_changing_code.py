"""Guests whose code is changed while they run, by everybody who can: what was run before is not run again.

The engine's part of it, address by address, is in `tests/machine/test_stale_code.py`.
"""

from __future__ import annotations

import pytest

from hv.platform import Machine
from tests.guest_runner import assemble, image_of, run_guest

OFF = "mov dx, 0x604; mov ax, 0x2000; out dx, ax"
FUNCTION, NEW_CODE, INFO = 0x14000, 0x15000, 0x500
ONE, TWO = assemble("mov eax, 1; ret", 64, FUNCTION)[0][1], assemble("mov eax, 2; ret", 64, FUNCTION)[0][1]
CALL = f"mov esi, {FUNCTION}; call rsi"


def test_a_device_changes_the_code():
    """The device copies another function over it; the guest waits for it."""
    source = (f"{CALL}; mov ebp, eax; mov rbx, [{INFO}]; mov dword ptr [rbx + 0x08], {NEW_CODE};"
              f"mov dword ptr [rbx + 0x10], {FUNCTION}; mov dword ptr [rbx + 0x18], 6; mov dword ptr [rbx + 0x1C], 1;"
              f"mov ecx, 100; wait: pause; dec ecx; jnz wait; {CALL}; mov ebx, eax; {OFF}")
    machine = Machine(memory_mib=12)
    try:
        vm = machine.create_vm("a", image_of(source, 64, {FUNCTION: ONE, NEW_CODE: TWO}), memory_mib=2, dma_device=True)
        machine.run(until_tsc=machine.clock.tsc + 5_000_000)
        assert (vm.ended, vm.partition.vps[0].regs.rbp, vm.partition.vps[0].regs.rbx) == ("shutdown", 1, 2)
    finally:
        machine.close()


@pytest.mark.parametrize("bits", [16, 64])
def test_root_changes_the_code(bits):
    """HvCallWriteGpa, while the guest calls the function for ever."""
    function = assemble("mov ax, 1; ret" if bits == 16 else "mov eax, 1; ret", bits, 0)[0][1]
    gpa = 0x7E00 if bits == 16 else FUNCTION
    register = "si" if bits == 16 else "rsi"
    machine = Machine(memory_mib=12)
    try:
        vm = machine.create_vm("a", image_of(f"mov {register}, {gpa}; again: call {register}; jmp again", bits,
                                             {gpa: function}), memory_mib=2)
        found = []
        for value in (None, 2, 3):
            if value is not None:
                machine.root.winhv.write_gpa(vm.partition_id, 0, gpa + 1, bytes([value]))
            machine.run(until_tsc=machine.clock.tsc + 50_000)
            found.append(vm.partition.vps[0].regs.rax & 0xFFFF)
        assert found == [1, 2, 3]
    finally:
        machine.close()


def test_an_overlay_comes_and_goes_over_the_code():
    """The hypercall page lies over the function; RAX = 0x1000 in RCX is no hypercall: status 2."""
    def hypercall_page(enabled: int) -> str:
        return f"mov ecx, 0x40000001; mov eax, {FUNCTION | enabled}; xor edx, edx; wrmsr"

    source = (f"mov ecx, 0x40000000; mov eax, 1; xor edx, edx; wrmsr; {CALL}; mov ebp, eax; {hypercall_page(1)};"
              f"mov ecx, 0x1000; {CALL}; mov edi, eax; {hypercall_page(0)}; mov byte ptr [{FUNCTION + 1}], 3; {CALL};"
              f"mov ebx, eax; {OFF}")
    result = run_guest(source, 64, data={FUNCTION: ONE})
    assert (result.ended, result.rbp, result.rdi, result.rbx) == ("shutdown", 1, 2, 3)


def test_the_processor_itself_changes_the_code():
    """An OUT that is a page-table entry too: its accessed flag makes it a MOVSXD, which the engine does not notice.

    SDM "Accessed and Dirty Flags". The entry's bytes are REX.XB OUT DX, AL; SUB AL, 0; ADD [RAX], AL; ADD [RAX], AL.
    """
    table, page = 0x16000, bytes.fromhex("43ee2c0000000000")
    source = (f"mov qword ptr [0x73010], {table | 3}; mov rax, cr3; mov cr3, rax; mov edx, 0x80; mov eax, 0x80000;"
              f"mov byte ptr [rax], 0; mov esi, 0x1234; mov ebx, {table}; call rbx; mov edi, [0x400000]; call rbx;"
              f"{OFF}")
    result = run_guest(source, 64, memory_mib=4, data={table: page + b"\xC3"})
    assert (result.ended, result.rbp & 0xFFFF) == ("shutdown", 0x1234)

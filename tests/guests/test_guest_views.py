"""What a guest of the hypervisor sees of its processor: CR0 and CR4 as it wrote them, and no more than CPUID offers."""

from __future__ import annotations

import pytest

from hv.platform import Machine
from hv.root.winhv import HvError
from hv.spec.exits import ExitReason
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hv_status import HvStatus
from tests.guest_runner import image_of, run_guest
from tests.proves import proves

NE, TS, PG, VMXE = 0x20, 8, 1 << 31, 0x2000
OFF = "mov dx, 0x604; mov ax, 0x2000; out dx, ax"
AT = 0x8000


def words(result, count: int, size: int = 4) -> list[int]:
    return [int.from_bytes(result.memory[AT + size * n : AT + size * (n + 1)], "little") for n in range(count)]


@pytest.mark.parametrize("bits", [16, 32])
def test_a_guest_reads_ne_as_it_wrote_it(bits):
    """The reset value has it clear; each change of it is one exit, and no other write is."""
    result = run_guest(f"""
        mov eax, cr0; mov [{AT}], eax
        and eax, 0xFFFFFFDF; mov cr0, eax; mov ebx, cr0; mov [{AT + 4}], ebx
        or eax, {NE | TS}; mov cr0, eax; mov ebx, cr0; mov [{AT + 8}], ebx
        and eax, 0xFFFFFFF7; mov cr0, eax; smsw bx; mov [{AT + 12}], ebx
        mov eax, cr4; mov [{AT + 16}], eax
        {OFF}""", bits)
    pe = int(bits == 32)
    first = 0x10 if bits == 16 else 0x31
    assert words(result, 5) == [first, 0x10 | pe, 0x38 | pe, 0x30 | pe, 0]
    assert result.exits[str(int(ExitReason.CR_ACCESS))] == (1 if bits == 16 else 2)
    assert (result.cr0, result.cr4) == (0x30 | pe, 0)


def test_paging_and_ne_are_turned_on_by_one_write():
    """As kernels do. IA-32e mode becomes active with the write that exits."""
    tables = {0x20000: (0x21003).to_bytes(8, "little"), 0x21000: (0x22003).to_bytes(8, "little"),
              0x22000: (0x83).to_bytes(8, "little")}
    result = run_guest(f"""
        mov eax, cr0; and eax, 0xFFFFFFDF; mov cr0, eax
        mov eax, 0x20; mov cr4, eax; mov eax, 0x20000; mov cr3, eax
        mov ecx, 0xC0000080; rdmsr; or eax, 0x100; wrmsr
        mov eax, {0x80000031 - (1 << 32)}; mov cr0, eax
        mov ebx, cr0; mov esi, cr4; {OFF}""", 32, data=tables)
    assert (result.ended, result.rbx, result.rsi, result.efer) == ("shutdown", 0x80000031, 0x20, 0x500)


@proves("cr4/VMXE")
@pytest.mark.parametrize(("register", "bit"), [("cr4", VMXE), ("cr0", 1 << 29)])
def test_what_is_not_offered_is_general_protection_as_without_a_hypervisor(register, bit):
    """CR4.VMXE is reserved for guests that have no VMX; an illegal CR0 is refused in the write that changes NE too."""
    handler = {13 * 4: (0x5000).to_bytes(4, "little"), 0x5000: bytes.fromhex("bb0d00 ba0406 b80020 ef")}
    result = run_guest(f"mov eax, {register}; xor eax, {NE if register == 'cr0' else 0}; or eax, {bit};"
                       f"mov {register}, eax; {OFF}", 16, data=handler)
    assert result.rbx & 0xFFFF == 13
    assert (result.cr0, result.cr4) == (0x10, 0)


def test_root_reads_and_writes_what_the_guest_believes():
    """TLFS "HvCallGetVpRegisters": a VP after reset has CR0 = 60000010H; the processor's own has NE beside it."""
    machine = Machine(memory_mib=12)
    try:
        vm = machine.create_vm("guest", image_of("hlt", 64, None), memory_mib=2, vps=2)
        winhv, vp = machine.root.winhv, vm.partition.vps[1]
        read = [winhv.get_vp_register(vm.partition_id, 1, name) for name in (N.CR0, N.CR4)]
        assert read == [0x6000_0010, 0]
        assert (vp.regs.cr0, vp.regs.cr4) == (0x6000_0030, VMXE)
        winhv.set_vp_registers(vm.partition_id, 1, {N.CR0: 0x31, N.CR4: 0x20})
        assert [winhv.get_vp_register(vm.partition_id, 1, name) for name in (N.CR0, N.CR4)] == [0x31, 0x20]
        assert (vp.regs.cr0, vp.regs.cr4) == (0x31, VMXE | 0x20)
        with pytest.raises(HvError) as caught:
            winhv.set_vp_registers(vm.partition_id, 1, {N.CR4: VMXE})
        assert caught.value.status is HvStatus.INVALID_REGISTER_VALUE
    finally:
        machine.close()


def test_the_view_of_a_vps_registers_reads_and_writes_the_others_through():
    machine = Machine(memory_mib=12)
    try:
        vp = machine.create_vm("guest", image_of("hlt", 64, None), memory_mib=2).partition.vps[0]
        vp.guest_regs.rbx = 7
        vp.guest_regs.cr0 = 0x11
        assert (vp.regs.rbx, vp.guest_regs.rbx, vp.guest_regs.cr0, vp.regs.cr0) == (7, 7, 0x11, 0x31)
    finally:
        machine.close()


@pytest.mark.parametrize("code", ["0f01c8", "0f01c9", "660f388200"], ids=["monitor", "mwait", "invpcid"])
def test_what_cpuid_does_not_offer_is_undefined_to_a_guest(code):
    """The processor has them; the hypervisor keeps them from guests by its controls, and its CPUID says so."""
    handler = {6 * 4: (0x5000).to_bytes(4, "little"), 0x5000: bytes.fromhex("bb0600 ba0406 b80020 ef")}
    assert run_guest(bytes.fromhex(code) + b"\xf4", 16, data=handler).rbx & 0xFFFF == 6

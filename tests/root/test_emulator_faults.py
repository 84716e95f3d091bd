"""An instruction on a device that cannot be carried out as it stands: whose fault it is, and what is left untouched."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from hv.platform import Machine
from hv.root import boot
from hv.root.emulator import ELEMENTS_OF_A_TURN
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.synic import HvSegmentRegister, HvTableRegister
from hv.spec.x86 import LARGE_PAGE_SIZE, Vector
from tests.guest_runner import assemble, image_of
from tests.root.emulation_box import BUDGET, DEVICE, SIZE, Scratch

HANDLER, IDT, FRAME = 0x1_8000, 0x5000, 0x6000
NOTHING = 0x300_0000        # 48 MiB: mapped in the guest's tables, and nothing of the VM is there
ABSENT = 0x400_0000         # 64 MiB: not mapped in the guest's tables
KEPT = ("rsi", "rdi", "rcx", "rax", "rbp")
END = "mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt"
LEAVE = "; ".join([f"mov rbp, {FRAME}", "pop r8", "mov [rbp], r8", "mov r8, cr2", "mov [rbp + 8], r8", "pop r8",
                   "mov [rbp + 16], r8", "mov r8, dr6", "mov [rbp + 24], r8",
                   *(f"mov [rbp + {32 + 8 * n}], {name}" for n, name in enumerate(KEPT)), END])
LEAVE_WITHOUT_CODE = "push 0; " + LEAVE


class Fault(NamedTuple):
    """What the handler saw."""

    code: int
    cr2: int
    rip: int
    dr6: int
    rsi: int
    rdi: int
    rcx: int
    rax: int


class Guest:
    """64-bit code in a VM with a PC board, a device at DEVICE, and a handler for one vector."""

    def __init__(self, code: str, vector: int = Vector.PF) -> None:
        self.machine = Machine(memory_mib=24)
        handler = assemble(LEAVE if vector in (Vector.PF, Vector.GP) else LEAVE_WITHOUT_CODE, origin=HANDLER)
        source = f"mov rbx, {DEVICE}; {code}; {END}"
        self.vm = self.machine.create_vm("guest", image_of(source, data=dict(handler)), memory_mib=8, pc=True)
        self.worker, self.device = self.vm.worker, Scratch()
        self.worker.motherboard.add_memory("scratch", range(DEVICE, DEVICE + SIZE), self.device)
        gate = HANDLER & 0xFFFF | 8 << 16 | 0x8E00 << 32 | (HANDLER >> 16) << 48
        self.worker.write(IDT + 16 * vector, gate.to_bytes(16, "little"))
        self.set({N.IDTR: HvTableRegister(limit=0xFFF, base=IDT)})

    def set(self, registers) -> None:
        self.worker.winhv.set_vp_registers(self.vm.partition_id, 0, registers)

    def map(self, gva: int, entry: int) -> None:
        """The 2 MiB page at *gva*, below 1 GiB, has this entry from now on."""
        self.worker.write(boot.LOW_DIRECTORY + gva // LARGE_PAGE_SIZE * 8, entry.to_bytes(8, "little"))

    def allow_users(self, *gvas: int) -> None:
        """Privilege 3 may use the 2 MiB pages of *gvas*."""
        for table in (boot.PML4, boot.PDPT, *(boot.LOW_DIRECTORY + gva // LARGE_PAGE_SIZE * 8 for gva in gvas)):
            self.worker.write(table, bytes([self.worker.read(table, 1)[0] | 4]))

    def run(self) -> Fault:
        machine, vm = self.machine, self.vm
        try:
            machine.run(until_tsc=machine.clock.tsc + BUDGET)
            assert (vm.ended, vm.why) == ("shutdown", "")
            raw = self.worker.read(FRAME, 64)
            return Fault(*(int.from_bytes(raw[n : n + 8], "little") for n in range(0, 64, 8)))
        finally:
            machine.close()


def test_a_fault_of_the_other_operand_comes_before_the_device_is_read():
    guest = Guest(f"mov rsi, rbx; mov rdi, {ABSENT + 5}; movsq")
    fault = guest.run()
    assert (fault.code, fault.cr2, fault.rsi, fault.rdi) == (2, ABSENT + 5, DEVICE, ABSENT + 5)
    assert guest.device.accesses == []


def test_a_rep_stops_at_the_element_that_faults_and_keeps_what_was_done():
    guest = Guest(f"mov rsi, {ABSENT - 16}; mov rdi, rbx; mov rcx, 10; rep movsq")
    fault = guest.run()
    assert (fault.code, fault.cr2, fault.rsi, fault.rdi, fault.rcx) == (0, ABSENT, ABSENT, DEVICE + 16, 8)
    assert guest.device.accesses == [("write", 0, 8), ("write", 8, 8)]


def test_an_access_that_begins_on_a_device_and_ends_in_an_absent_page_touches_nothing():
    guest = Guest(f"mov rdi, {ABSENT - 4}; mov [rdi], rdi")
    guest.worker.motherboard.add_memory("last", range(ABSENT - 0x1000, ABSENT), last := Scratch())
    fault = guest.run()
    assert (fault.code, fault.cr2) == (2, ABSENT)
    assert last.accesses == []


def test_privilege_3_reaches_a_device_and_faults_as_a_user_elsewhere():
    guest = Guest("mov al, [rbx]; mov rsi, rbx; mov rdi, 0x200000; movsb")
    guest.allow_users(0, DEVICE)
    guest.set({N.CS: HvSegmentRegister(limit=0xFFFFFFFF, selector=0x33, attributes=0xA0FB),
               N.SS: HvSegmentRegister(limit=0xFFFFFFFF, selector=0x2B, attributes=0xC0F3)})
    fault = guest.run()
    assert (fault.code, fault.cr2, fault.rax & 0xFF) == (7, 0x200000, 0x81)
    assert guest.device.accesses == [("read", 0, 1)]


def test_a_reserved_bit_in_the_other_operands_tables_is_told():
    guest = Guest("mov rdi, rbx; mov rsi, 0x400000; movsb")
    guest.map(0x40_0000, 0x40_2083)             # bits 20..13 of a 2 MiB entry
    assert guest.run()[:2] == (9, 0x40_0000)


def test_an_address_that_is_not_canonical_is_a_general_protection_fault():
    guest = Guest("mov rsi, rbx; mov rdi, 0x800000000000; movsb", Vector.GP)
    assert guest.run().code == 0
    assert guest.device.accesses == []


def test_where_nothing_is_reads_give_all_ones_and_writes_vanish():
    guest = Guest(f"mov rdi, {NOTHING}; mov qword ptr [rdi], 5; mov rax, [rdi]; ud2", Vector.UD)
    assert guest.run().rax == (1 << 64) - 1


def test_all_ones_that_are_executed_are_no_instruction():
    guest = Guest(f"mov rdi, {NOTHING}; jmp rdi", Vector.UD)
    guest.map(NOTHING, NOTHING | 0xE3)
    assert guest.run().rip == NOTHING


def test_the_stack_of_an_event_is_no_devices_affair():
    """A frame that cannot be pushed: #GP in delivering #UD, which then is #DF."""
    guest = Guest(f"mov rsp, {NOTHING}; ud2", Vector.UD)
    machine, vm = guest.machine, guest.vm
    machine.run(until_tsc=machine.clock.tsc + BUDGET)
    assert vm.ended == "triple-fault"
    machine.close()


def test_elements_are_stepped_one_by_one():
    """SDM "Single-Step Exception Condition": behind each iteration; RIP is still at the instruction."""
    guest = Guest("mov rdi, rbx; mov rcx, 5; pushfq; or dword ptr [rsp], 0x100; lea rax, [rip + there]; popfq; "
                  "there: rep stosb", Vector.DB)
    fault = guest.run()
    assert (fault.rcx, fault.rdi, fault.rip, fault.dr6 & 1 << 14) == (4, DEVICE + 1, fault.rax, 1 << 14)


def test_a_whole_instruction_is_stepped_behind_it():
    guest = Guest("pushfq; or dword ptr [rsp], 0x100; lea rax, [rip + there]; popfq; mov [rbx], cl; there: nop",
                  Vector.DB)
    fault = guest.run()
    assert (fault.rip, fault.dr6 & 1 << 14) == (fault.rax, 1 << 14)


def test_a_count_of_2_to_the_64_is_done_in_turns_that_interrupts_come_between():
    guest = Guest("mov rdi, rbx; mov rcx, -1; std; rep stosb")
    guest.worker.motherboard.add_memory("below", range(0x80_0000, DEVICE), below := Scratch(bytes(DEVICE)))
    machine = guest.machine
    machine.run(until_tsc=machine.clock.tsc + 300_000)
    done = len(guest.device.accesses) + len(below.accesses)
    assert done > 2 * ELEMENTS_OF_A_TURN
    assert done % ELEMENTS_OF_A_TURN == 0
    assert guest.vm.ended is None
    machine.close()


def test_from_device_to_device_an_element_is_one_read_and_one_write():
    guest = Guest(f"mov rsi, rbx; lea rdi, [rbx + 0x20]; mov rcx, 3; rep movsd; {END}")
    guest.run()
    assert guest.device.accesses == [
        (kind, 4 * n + base, 4) for n in range(3) for kind, base in (("read", 0), ("write", 32))]


@pytest.mark.parametrize(("code", "text"), [
    ("fld qword ptr [rbx]", "fld qword ptr [rbx]"), ("addps xmm0, [rbx]", "addps xmm0, xmmword ptr [rbx]"),
], ids=["x87", "sse-arithmetic"])
def test_what_nobody_carries_out_ends_the_vm_by_its_name_and_place(code, text):
    guest = Guest(code)
    machine, vm = guest.machine, guest.vm
    machine.run(until_tsc=machine.clock.tsc + BUDGET)
    assert vm.ended == "error"
    assert vm.why == (f"vp 0 at rip 0x10007: the worker cannot do this at {DEVICE:#x}: {text} is not one we carry out "
                      "on memory")
    assert guest.device.accesses == []
    machine.close()


def test_tables_that_changed_under_the_access_are_those_that_count():
    """The processor still has the other operand's page in its TLB; the tables have it no more."""
    guest = Guest(f"mov rsi, 0x400000; mov rdi, rbx; mov al, [rsi]; "
                  f"mov qword ptr [{boot.LOW_DIRECTORY + 16}], 0; movsb")
    fault = guest.run()
    assert (fault.code, fault.cr2, fault.rsi) == (0, 0x40_0000, 0x40_0000)
    assert guest.device.accesses == []


@pytest.mark.parametrize("code", ["xor edx, edx; mov [rbx], rdx; div qword ptr [rbx]",
                                  "mov edx, 2; mov dword ptr [rbx], 1; div dword ptr [rbx]",
                                  "mov eax, 0x8000; mov byte ptr [rbx], -1; idiv byte ptr [rbx]",
                                  "mov eax, 0x80000000; cdq; mov dword ptr [rbx], -1; idiv dword ptr [rbx]"],
                         ids=["by-0", "too-large", "signed-8", "signed-32"])
def test_a_quotient_that_there_is_not_is_a_divide_error(code):
    """SDM "DIV", "IDIV": by 0, or larger than its register; the registers stay."""
    fault = Guest(f"mov ecx, 7; {code}", Vector.DE).run()
    assert fault.rcx == 7
    assert fault.rax == (0x8000 if "0x8000;" in code else 0x80000000 if "cdq" in code else fault.rax)


def test_a_wide_exchange_off_its_boundary_is_a_general_protection_fault():
    """SDM "CMPXCHG8B/CMPXCHG16B": 16 bytes must be aligned, 8 need not be."""
    guest = Guest("lock cmpxchg8b [rbx + 4]; lock cmpxchg16b [rbx + 8]", Vector.GP)
    assert guest.run().code == 0
    assert {size for _, _, size in guest.device.accesses} == {4}


@pytest.mark.parametrize("code", ["movaps [rbx + 8], xmm0", "movdqa xmm0, [rbx + 1]", "pxor xmm0, [rbx + 4]"])
def test_a_vector_off_its_boundary_is_a_general_protection_fault(code):
    """SDM "Data Alignment": of the instructions that ask for it."""
    guest = Guest(f"movups [rbx + 8], xmm0; {code}", Vector.GP)
    assert guest.run().code == 0
    assert [kind for kind, _, _ in guest.device.accesses] == ["write"] * 2


@pytest.mark.parametrize("code", ["jmp qword ptr [rbx]", "call qword ptr [rbx]"])
def test_a_jump_out_of_the_canonical_addresses_is_refused_before_it_is_done(code):
    """SDM "JMP", "CALL": #GP(0) at the jump itself, and nothing is pushed."""
    before = "mov rax, 0x800000000000; mov [rbx], rax"
    ((origin, prefix),) = assemble(f"mov rbx, {DEVICE}; {before}")
    fault = Guest(f"{before}; {code}; hlt", Vector.GP).run()
    assert (fault.code, fault.rip) == (0, origin + len(prefix))

"""Forms of instructions, each run on RAM by the engine and on a device by the worker: what both leave behind."""

from __future__ import annotations

from typing import NamedTuple

from hv.platform import Machine
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.synic import HvSegmentRegister
from tests.guest_runner import image_of

RAM, DEVICE, RESULTS, SIZE = 0x20_0000, 0x200_0000, 0x30_0000, 0x8000
SLOT, RECORD = 64, 128
FLAGS = (0x2, 0x8D7)
BUDGET = 50_000_000
PATTERN = bytes((n * 37 + n // 256 * 11 + 0x81) & 0xFF for n in range(SIZE))
SAVED = {64: ("rax", "rcx", "rdx", "rbx", "rsi", "rdi", "rbp", "r8", "r9"),
         32: ("eax", "ecx", "edx", "ebx", "esi", "edi", "ebp")}


class Scratch:
    """A device that is memory, and sees to it that it is asked for aligned pieces only."""

    def __init__(self, data: bytes = PATTERN) -> None:
        self.data = bytearray(data)
        self.accesses: list[tuple[str, int, int]] = []

    def read_memory(self, offset: int, size: int) -> int:
        self._note("read", offset, size)
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write_memory(self, offset: int, size: int, value: int) -> None:
        self._note("write", offset, size)
        self.data[offset : offset + size] = value.to_bytes(size, "little")

    def _note(self, kind: str, offset: int, size: int) -> None:
        assert size in (1, 2, 4, 8)
        assert offset % size == 0
        self.accesses.append((kind, offset, size))

    def inspect(self) -> dict[str, int]:
        return {"accesses": len(self.accesses)}


class Left(NamedTuple):
    """After one form: registers by name, RFLAGS, XMM0."""

    registers: dict[str, int]
    flags: int
    xmm: int


def left_behind(raw: bytes, names: tuple[str, ...], base: int) -> Left:
    """What a record says; addresses in the memory at *base* are relative to it."""
    words = [int.from_bytes(raw[8 * n : 8 * n + 8], "little") for n in range(len(names))]
    found = {name: ("base", word - base) if base <= word < base + SIZE else word
             for name, word in zip(names, words, strict=True)}
    return Left(found, int.from_bytes(raw[104:112], "little"), int.from_bytes(raw[112:128], "little"))


def long_program(forms: list[str]) -> str:
    """All *forms* on the memory at R14, with the flags of R12: first RAM, then the device."""
    lines = [f"mov r15, {RESULTS}", f"mov r12, {FLAGS[0]}", "next_flags:", f"mov r14, {RAM}", "next_base:",
             "mov r13, r14"]
    for form in forms:
        lines += ["call init", form, "call save"]
    return "\n".join([*lines, f"cmp r14, {DEVICE}", f"mov r14, {DEVICE}", "jne next_base", f"cmp r12, {FLAGS[1]}",
                      f"mov r12, {FLAGS[1]}", "jne next_flags", "mov dx, 0x604", "mov ax, 0x2000", "out dx, ax", "hlt",
                      "init:", "mov rbx, r13", f"add r13, {SLOT}", "mov rax, 0x8877665544332281",
                      "mov rcx, 3", "mov rdx, 0x1122334455667788", "lea rsi, [rbx + 8]", "lea rdi, [rbx + 40]",
                      "mov rbp, 0x9abcdef01234fedc", "mov r8, 0x0f1e2d3c4b5a6978", "mov r9, -1", "movq xmm0, rdx",
                      "movq xmm1, rbp", "punpcklqdq xmm0, xmm1", "push r12", "popfq", "ret",
                      "save:", "pushfq", "pop qword ptr [r15 + 104]", "movdqu [r15 + 112], xmm0",
                      *(f"mov [r15 + {8 * n}], {name}" for n, name in enumerate(SAVED[64])), "cld",
                      f"add r15, {RECORD}", "ret"])


def protected_program(forms: list[str]) -> str:
    """The same for 32-bit code, paging off; its memory is at EBP."""
    slots = "\n".join(f"lea ebx, [ebp + {SLOT * n}]\ncall init\n{form}\ncall save" for n, form in enumerate(forms))
    return "\n".join([f"mov dword ptr [results], {RESULTS}", f"mov ebp, {RAM}", "next_base:", slots,
                      f"cmp ebp, {DEVICE}", f"mov ebp, {DEVICE}", "jne next_base", "mov dx, 0x604", "mov ax, 0x2000",
                      "out dx, ax", "hlt", "init:", "mov eax, 0x44332281", "mov ecx, 3", "mov edx, 0x55667788",
                      "lea esi, [ebx + 8]", "lea edi, [ebx + 40]", "push 0x8d7", "popfd", "ret",
                      "save:", "pushfd", "push eax", "mov eax, [results]", "pop dword ptr [eax]",
                      "pop dword ptr [eax + 104]",
                      *(f"mov [eax + {8 * n}], {name}" for n, name in enumerate(SAVED[32]) if n), "cld",
                      f"add eax, {RECORD}", "mov [results], eax", "ret", "results:", ".long 0"])


class Compared(NamedTuple):
    """What was left of each form, by (number of the form, on the device), and the memory at the end."""

    left: dict[tuple[int, int, bool], Left]
    ram: bytes
    device: Scratch


def compare(forms: list[str], bits: int) -> Compared:
    """Run all *forms* on both memories."""
    machine = Machine(memory_mib=24)
    try:
        source = long_program(forms) if bits == 64 else protected_program(forms)
        vm = machine.create_vm("forms", image_of(source, bits, {RAM: PATTERN}), memory_mib=8, pc=True)
        device = Scratch()
        vm.worker.motherboard.add_memory("scratch", range(DEVICE, DEVICE + SIZE), device)
        machine.run(until_tsc=machine.clock.tsc + BUDGET)
        assert (vm.ended, vm.why) == ("shutdown", "")
        left, passes = {}, len(FLAGS) if bits == 64 else 1
        for number in range(passes * 2 * len(forms)):
            which, form = divmod(number, len(forms))
            raw = vm.worker.read(RESULTS + RECORD * number, RECORD)
            left[form, which // 2, bool(which & 1)] = left_behind(raw, SAVED[bits], (RAM, DEVICE)[which & 1])
        return Compared(left, vm.worker.read(RAM, SIZE), device)
    finally:
        machine.close()


def real_mode(code: str, base: int, device: Scratch) -> tuple[bytes, bytes]:
    """16-bit code whose DS and ES begin at *base*, above what a selector reaches; memory at 0x8000, and at RAM."""
    machine = Machine(memory_mib=24)
    try:
        vm = machine.create_vm("real", image_of(code, 16), memory_mib=8, pc=True)
        vm.worker.motherboard.add_memory("scratch", range(DEVICE, DEVICE + SIZE), device)
        vm.worker.write(RAM, PATTERN)
        segment = HvSegmentRegister(base=base, limit=0xFFFF, selector=0, attributes=0x93)
        vm.worker.winhv.set_vp_registers(vm.partition_id, 0, {N.DS: segment, N.ES: segment})
        machine.run(until_tsc=machine.clock.tsc + BUDGET)
        assert (vm.ended, vm.why) == ("shutdown", "")
        return vm.worker.read(0x8000, 64), vm.worker.read(RAM, SIZE)
    finally:
        machine.close()

"""A move to or from a device that is known does what the long way does, whatever changed since the last one."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from hv.instructions.memory_operations import perform
from hv.machine.faults import Access
from hv.spec.exits import ExitReason
from hv.spec.vmcs import PrimaryControls, SecondaryControls, VmcsField
from hv.spec.x86 import Rflags
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.operands import access_at
from tests.machine.engine_box import CODE, PML4, STACK, TABLE
from tests.vmx.apic_box import ACCESS_GPA, ACCESS_SPA, DELIVERY, XAPIC, ApicBox
from tests.vmx.vcpu_box import ALL, VcpuBox

DEVICE = 0x90000                # nothing is mapped there
OTHER_CODE, OTHER_TABLES = CODE + 0x3000, 0xA0000      # pages of HLT, and of page tables
NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
SOURCES = (
    "mov eax, [rbx + 0x390]",                       # has to be computed: an exit
    "mov dword ptr [rbx + 0x380], 0x1000",          # done, and then an exit
    "mov ecx, [rbx + 0x80]", "mov dword ptr [rbx + 0xB0], 0", "mov dword ptr [rbx + 0x300], 0x00044041",
    "mov edx, [rsi + 0x10]", "mov [rsi + 0x20], cx", "movzx edi, byte ptr [rsi + rax * 2 + 0x30]")
PLACES = tuple(CODE + 0x40 * n for n in range(len(SOURCES)))
_RF = Rflags.RF.value


class Box:
    """*vcpu* has an APIC that the processor virtualizes and a device at DEVICE; with *known* False it goes the long way
    each time. `short` counts the accesses that were known."""

    def __init__(self, known: bool, bits: int = 64) -> None:
        self.box, self.base, self.place = VcpuBox(), ACCESS_GPA, CODE
        self.apic = ApicBox(self.box)
        self.vcpu = self.apic.vcpu(XAPIC | DELIVERY | int(SecondaryControls.ENABLE_VPID), bits=bits, VPID=1)
        self.box.ept.unmap(DEVICE)
        self.box.ept.invept()
        self.box.handle = self._handle
        self.short, self.written, self.all_exits = 0, [], []
        again = self.vcpu.accesses.again
        self.vcpu.accesses.again = lambda gpa, code: self._note(again(gpa, code)) if known else None

    def _note(self, answer: bool | None) -> bool | None:
        self.short += answer is not None
        return answer

    def _handle(self, exit: VmExit) -> bool:
        """Carry the access out as a hypervisor does; a read gives what says where it was."""
        self.all_exits.append((repr(exit), self.vcpu.state.rip, self.vcpu.state.rflags))
        if exit.reason not in (ExitReason.APIC_ACCESS, ExitReason.EPT_VIOLATION):
            return exit.reason in (ExitReason.APIC_WRITE, ExitReason.VIRTUALIZED_EOI)
        if exit.qualification & Access.EXECUTE and exit.reason is ExitReason.EPT_VIOLATION:
            return False
        state = self.vcpu.state
        decoded, access = access_at(self.vcpu)
        place = exit.guest_physical_address or exit.qualification
        perform(state, access, lambda: place * 0x0101_0101_0101_01 & (1 << 8 * access.size) - 1, self.written.append)
        state.rflags &= ~_RF
        state.complete_instruction(decoded.length)
        return True

    def again(self) -> None:
        """From `place` to HLT."""
        state = self.vcpu.state
        state.rip, state.rsp, state.rax, state.rbx, state.rsi = self.place, STACK, 2, self.base, DEVICE
        self.box.go(self.vcpu)

    def result(self) -> tuple[object, ...]:
        """Registers, exits, what reached the device, the clock, and all memory."""
        state = self.vcpu.state
        apic = self.vcpu.apic.status
        return (self.all_exits, self.written, [hex(getattr(state, name)) for name in NAMES], state.rip, state.rflags,
                state.cr2, state.interrupt_shadow, apic.rvi, apic.svi, self.box.clock.tsc, self.vcpu.exits,
                self.box.memory.read(0, self.box.memory.size))

    def map(self, gpa: int, spa: int, rights: Access = ALL) -> None:
        self.box.ept.map(gpa, spa, rights)
        self.box.ept.invept()

    def put(self, source: str) -> None:
        self.box.put(source + "; hlt", at=self.place)


def other_cr3(box: Box) -> None:
    """Tables of the same content elsewhere, which lead ACCESS_GPA to RAM."""
    memory = box.box.memory
    for n, page in enumerate((PML4, 0x2000, 0x3000, TABLE)):
        memory.write(OTHER_TABLES + 0x1000 * n, memory.read(page, 4096))
    for n in range(3):
        memory.write_u64(OTHER_TABLES + 0x1000 * n, OTHER_TABLES + 0x1000 * (n + 1) | 7)
    memory.write_u64(OTHER_TABLES + 0x3000 + 8 * (ACCESS_GPA >> 12), 0x20067)
    box.vcpu.state.cr3 = OTHER_TABLES


def set_flag(flag: Rflags) -> Callable[[Box], None]:
    def change(box: Box) -> None:
        box.vcpu.state.rflags |= flag.value
    return change


def pte(gva: int, entry: int) -> Callable[[Box], None]:
    def change(box: Box) -> None:
        box.box.memory.write_u64(TABLE + 8 * (gva >> 12), entry)
        box.box.engine.flush_tlb()
    return change


CHANGES: dict[str, Callable[[Box], None]] = {
    "nothing": lambda box: None,
    "another-instruction": lambda box: box.put("mov edx, [rbx + 0x20]"),
    "another-length": lambda box: box.put("add dword ptr [rbx + 0x80], 0x10"),
    "another-register-of-the-page": lambda box: setattr(box, "base", ACCESS_GPA + 0x10),
    "not-aligned": lambda box: setattr(box, "base", ACCESS_GPA + 2),
    "behind-the-page": lambda box: setattr(box, "base", ACCESS_GPA + 0xF80),
    "another-page": lambda box: setattr(box, "base", 0x20000),
    "not-canonical": lambda box: setattr(box, "base", 1 << 60),
    "page-is-another": pte(ACCESS_GPA, 0x20067),
    "page-not-present": pte(ACCESS_GPA, 0),
    "page-read-only": pte(ACCESS_GPA, ACCESS_GPA | 0x65),
    "page-not-dirty": pte(ACCESS_GPA, ACCESS_GPA | 0x27),
    "page-not-accessed": pte(ACCESS_GPA, ACCESS_GPA | 0x07),
    "device-is-another": pte(DEVICE, 0x20067),
    "device-not-present": pte(DEVICE, 0),
    "code-is-another": pte(CODE, OTHER_CODE | 0x67),
    "code-not-present": pte(CODE, 0),
    "code-not-accessed": pte(CODE, CODE | 0x47),
    "another-cr3": other_cr3,
    "single-step": set_flag(Rflags.TF),
    "resume-flag": set_flag(Rflags.RF),
    "in-a-shadow": lambda box: setattr(box.vcpu.state, "interrupt_shadow", True),
    "a-breakpoint": lambda box: (setattr(box.vcpu.state, "dr0", ACCESS_GPA + 0x80),
                                 setattr(box.vcpu.state, "dr7", 0x000F_0003), box.vcpu.look()),
    "a-monitor-trap": lambda box: box.vcpu.vmcs.write(
        VmcsField.PRIMARY_PROC_CONTROLS,
        box.vcpu.controls.primary | PrimaryControls.MONITOR_TRAP_FLAG),
    "no-tpr-shadow": lambda box: (
        box.vcpu.vmcs.write(VmcsField.PRIMARY_PROC_CONTROLS,
                            box.vcpu.controls.primary & ~PrimaryControls.USE_TPR_SHADOW),
        box.vcpu.vmcs.write(VmcsField.SECONDARY_PROC_CONTROLS, box.vcpu.controls.secondary & ~DELIVERY)),
    "no-access-page": lambda box: box.vcpu.vmcs.write(
        VmcsField.SECONDARY_PROC_CONTROLS, box.vcpu.controls.secondary & ~XAPIC),
    "no-vpid": lambda box: box.vcpu.vmcs.write(
        VmcsField.SECONDARY_PROC_CONTROLS, box.vcpu.controls.secondary & ~SecondaryControls.ENABLE_VPID),
    "access-page-read-only-in-the-ept": lambda box: box.map(ACCESS_GPA, ACCESS_SPA, Access.READ),
    "access-page-is-ram": lambda box: box.map(ACCESS_GPA, 0x20000),
    "device-is-ram": lambda box: box.map(DEVICE, 0x20000),
    "device-is-ram-without-invept": lambda box: box.box.ept.map(DEVICE, 0x20000, ALL),
    "device-read-only": lambda box: box.map(DEVICE, 0x20000, Access.READ),
    "code-not-in-the-ept": lambda box: (box.box.ept.unmap(CODE), box.box.ept.invept()),
    "an-interrupt-waits": lambda box: (setattr(box.vcpu.apic.status, "rvi", 0x41), set_flag(Rflags.IF)(box)),
    "eoi-exits": lambda box: (box.vcpu.vmcs.write(VmcsField.EOI_EXIT_BITMAP1, 2),
                              setattr(box.vcpu.apic.status, "svi", 0x41)),
    "user": lambda box: setattr(box.vcpu.state, "cpl", 3),
}
# What keeps an access from being known is none of these.
UNCHANGED = {"nothing", "another-register-of-the-page", "not-aligned", "code-not-accessed",
             "no-tpr-shadow", "eoi-exits"}
TWICE = len(SOURCES)


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_is_noticed_at_the_next_access(name):
    """Registers, memory, exits and clock are those of the long way, for loads and stores, virtualized ones and others.
    """
    boxes = [Box(True), Box(False)]
    for box in boxes:
        box.box.memory.write(OTHER_CODE, b"\xf4" * 4096)
        for box.place, source in zip(PLACES, SOURCES, strict=True):
            box.put(source)
            box.again(), box.again()
        assert box.short in (TWICE, 0)
        for box.place in PLACES:
            CHANGES[name](box)
            box.again()
    for mine, other in zip(*(box.result() for box in boxes), strict=True):
        assert mine == other
    assert boxes[1].short == 0
    assert (boxes[0].short == 2 * TWICE) is (name in UNCHANGED)
    for box in boxes:
        box.box.close()


def some_moves(source: random.Random, bits: int) -> str:
    """A loop of moves of all sizes; RBX is the APIC page, RSI the device, RCX the index, RDI RAM, RBP counts."""
    index, counter = ("ecx", "ebp") if bits == 32 else ("rcx", "rbp")
    names = {1: ("al", "dh", "dl"), 2: ("ax", "dx"), 4: ("eax", "edx"), 8: ("rax", "rdx", "r9")}
    lines = []
    for _ in range(12):
        size = source.choice((1, 2, 4, 8) if bits == 64 else (1, 2, 4))
        offset = source.choice((0x80, 0x82, 0x20, 0x30, 0x100, 0x380, 0x390, 0xFFC, 0xFFE, source.randrange(4096)))
        base = source.choice(("ebx", "esi") if bits == 32 else ("rbx", "rsi", "rsi", "ebx"))
        scaled = "ecx" if base[0] == "e" else index
        place = source.choice((f"[{base} + {offset:#x}]", f"[{base} + {scaled} * 4 + {offset & ~15:#x}]"))
        word = {1: "byte", 2: "word", 4: "dword", 8: "qword"}[size]
        lines.append(source.choice((
            f"mov {source.choice(names[size])}, {word} ptr {place}",
            f"mov {word} ptr {place}, {source.choice(names[size])}",
            f"mov {word} ptr {place}, {source.getrandbits(7)}",
            f"{source.choice(('movzx', 'movsx'))} eax, {'byte' if size == 1 else 'word'} ptr {place}",
            f"add {source.choice(names[4])}, dword ptr {place}", f"or dword ptr {place}, 1",
            f"mov {source.choice(names[4])}, dword ptr [{'edi' if bits == 32 else 'rdi'}]")))
    return ".loop:\n" + "\n".join(lines) + f"\nadd {index}, 1\ndec {counter}\njnz .loop\nhlt"


@pytest.mark.parametrize("bits", [32, 64])
def test_random_moves_give_the_same_both_ways(bits):
    source = random.Random(bits)
    known = 0
    for _ in range(3):
        code = some_moves(source, bits)
        boxes = [Box(True, bits), Box(False, bits)]
        for box in boxes:
            box.box.put(code, bits)
            state = box.vcpu.state
            state.rbp, state.rcx, state.rdi = 4, 0, 0x20000
            box.again()
            assert state.rbp == 0, "the loop came to its end"
        for mine, other in zip(*(box.result() for box in boxes), strict=True):
            assert mine == other, code
        known += boxes[0].short
        for box in boxes:
            box.box.close()
    assert known > 40

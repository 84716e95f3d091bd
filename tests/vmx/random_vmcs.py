"""A guest whose VMCS, bitmaps, second-level tables, APIC pages and lists nobody meant: random, and changed as it runs.

`python -m tests.vmx.random_vmcs --first 0 --count 1000` plays seeds, each twice. No seed may raise a Python error,
hang, or be played otherwise the second time.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from hashlib import sha256

from hv.machine.registers import Table
from hv.spec.exits import ENTRY_FAILURES
from hv.spec.vmcs import (
    PIN_DEFAULT1,
    TRUE_PRIMARY_DEFAULT1,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)
from hv.spec.x86 import PAGE_SIZE
from hv.vmx.capabilities import PROCESSOR, REVISION_ID
from hv.vmx.exit import VmExit
from hv.vmx.fields import existing_fields
from hv.vmx.root_operation.operation import VmxOperation
from hv.vmx.vmcs import DEFAULT_CONTROLS
from tests.machine.engine_box import SIZE
from tests.played_twice import main
from tests.vmx.event_box import HANDLERS, MODES, vcpu_in
from tests.vmx.vcpu_box import VcpuBox

F = VmcsField
PAGES = tuple(range(0x70000, 0x80000, PAGE_SIZE))       # of whatever a field points to
MOST_EXITS = 80
_WRITABLE = sorted(field for field in existing_fields(PROCESSOR) if not field.read_only)
_ADDRESSES = [field for field in _WRITABLE if "ADDR" in field.name or "BITMAP_" in field.name
              or field in (F.MSR_BITMAP, F.VMREAD_BITMAP, F.VMWRITE_BITMAP, F.VMCS_LINK_POINTER, F.EPT_POINTER)]
_CONTROLS = {F.PIN_BASED_CONTROLS: list(PinControls), F.PRIMARY_PROC_CONTROLS: list(PrimaryControls),
             F.SECONDARY_PROC_CONTROLS: list(SecondaryControls)}
_PIN = (PinControls.ACTIVATE_PREEMPTION_TIMER, PinControls.PROCESS_POSTED_INTERRUPTS)
_EDGES = (0, 1, 2, 0xF, 0x80, 0xFF, 0xFFF, 0x1000, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 47, 1 << 63, (1 << 64) - 1,
          SIZE, SIZE - PAGE_SIZE, SIZE - 8)
# Operand bytes of [rbx], [rsi + 0x80], [rip + 0], a register.
_MODRM = (b"\x03", b"\x46\x80", b"\x05\x00\x00\x00\x00", b"\xc3", b"\x43\x0e")
_WITH_OPERAND = tuple(bytes.fromhex(code) for code in (
    "0f01", "0f00", "0fc7", "660fc7", "f30fc7", "0f78", "0f79", "660f3880", "660f3881", "660f3882", "0fae", "0fb1",
    "f00fb1", "0fc1", "86", "87", "88", "89", "8a", "8b", "c6", "ff", "8f", "8e", "8c", "d1", "0fab", "0fba", "0fb6",
    "0f11", "0f10", "dd", "d9", "63", "f6", "f7", "80", "81", "0fc3", "0f6f", "0f7f", "c4", "c5", "0f02", "0f03"))
_PLAIN = tuple(bytes.fromhex(code) for code in (
    "0f01c1", "0f01c2", "0f01c3", "0f01c4", "0f01d4", "0f01c8", "0f01c9", "0f01f9", "0f01d0", "0f01d1", "0fa2", "0f30",
    "0f32", "0f31", "0f33", "0f09", "0f08", "0f06", "f390", "f4", "fb", "fa", "fbf4", "8ed0", "17", "16", "9c", "9d",
    "cf", "48cf", "66cf", "cc", "cd21", "cd02", "f1", "ce", "0f0b", "a4", "a5", "48a5", "f3a4", "f348a5", "aa", "ab",
    "f3ab", "ac", "a6", "ae", "6c", "6d", "6e", "6f", "f36c", "f36d", "f36e", "f36f", "e480", "e680", "ec", "ee", "ed",
    "0f20c0", "0f22c0", "0f20d8", "0f22d8", "0f20e0", "0f22e0", "440f20c0", "440f22c0", "0f21f8", "0f23f8", "0f23c0",
    "0f05", "0f34", "0f07", "0f35", "ebfe", "90", "50", "53", "5b", "c3", "ff13", "ff23", "e800000000", "0f01f8"))
_LOADS = (0x802, 0x808, 0x80B, 0x83F, 0x830, 0x838, 0x1B, 0x10, 0x3A, 0x480, 0x48B, 0xC0000080, 0xC0000082, 0x6E0,
          0x277)
_WORDS = (0, 1, 0x20, 0x41, 0xFF, 0x4402, 0x681E, 0x4820, 0x2400, 0x401E, 0x10033, 0x620, 0x80010033, 0x40041,
          0xFFFFFFFF)


def _operand(rng: random.Random) -> bytes:
    modrm = bytearray(rng.choice(_MODRM))
    modrm[0] |= rng.randrange(8) << 3
    return bytes(modrm)


def _instruction(rng: random.Random) -> bytes:
    kind = rng.random()
    prefix = rng.choice((b"", b"", b"", b"", b"\x66", b"\x67", b"\xf3", b"\xf2", b"\xf0", b"\x48", b"\x65"))
    if kind < 0.4:
        return prefix + rng.choice(_WITH_OPERAND) + _operand(rng) + rng.choice((b"", b"", b"\x07", bytes(4)))
    if kind < 0.75:
        return (prefix if kind > 0.7 else b"") + rng.choice(_PLAIN)
    register = rng.choice((0, 1, 2, 3, 3, 6, 7))
    value = rng.choice((*_LOADS, *_WORDS)) if register < 3 else _pointer(rng) & 0xFFFF_FFFF
    return bytes((0xB8 + register,)) + value.to_bytes(4, "little")


def code(rng: random.Random, count: int) -> bytes:
    """Instructions that VMX has to do with, with operands that lead somewhere."""
    return b"".join(_instruction(rng) for _ in range(count))


def _pointer(rng: random.Random) -> int:
    """Where an operand lies: mostly in pages that mean something."""
    offset = rng.choice((0, 8, 0x80, 0xB0, 0xB2, 0xB3, 0x300, 0x310, 0x320, 0x3F0, 0xFF8, 0xFFC, 0xFFE, 0xFFF,
                         rng.getrandbits(12)))
    return rng.choice((*PAGES, 0x20000, 0x2F000, 0x1000, SIZE, 0xFEE00000, 0x3FF000)) + offset


def entry(rng: random.Random) -> int:
    """An EPT entry: a table, itself perhaps, a page of some size, or nothing."""
    rights = rng.choice((7, 7, 7, 7, 1, 3, 5, 4, 2, 6, 0))
    place = rng.choice((*PAGES, 0x300000, 0x301000, 0x302000, SIZE, 0, 0x200000, 1 << 30, 1 << 38, rng.getrandbits(52)))
    return place & ~0xFFF | rights | rng.choice((0, 0, 0x30, 0x80, 0xB0)) | rng.choice((0, 0, 0x100, 1 << 63, 0x40))


class Scene:
    """One play: `run` gives what was seen."""

    def __init__(self, box: VcpuBox, seed: int) -> None:
        self.box, self.rng, self.seed = box, random.Random(seed), seed
        rng = self.rng
        self.vcpu = vcpu_in(box, rng.choice(MODES))
        self.vcpu.on_vmfail = self._mend
        self.vcpu.vmx = VmxOperation(box.memory, cached=box.cached) if rng.random() < 0.7 else None
        for page in PAGES:
            box.memory.write(page, self._page())
        box.put(code(rng, 40), 64)
        for vector in range(32):
            box.memory.write(HANDLERS + 16 * vector, (code(rng, 2)[:13] + b"\x48\xcf").ljust(16, b"\x90")[:16])
        self._registers()
        self.waiting = [rng.randrange(16, 256) for _ in range(rng.randrange(4))]
        self.vcpu.interrupt_waits = lambda: bool(self.waiting)
        self.vcpu.external_interrupt = lambda: self.waiting.pop() if self.waiting else None
        self.seen: list[object] = []
        box.handle = self._on_exit

    def _page(self) -> bytes:
        rng = self.rng
        kind = rng.randrange(5)
        if kind == 0:
            return bytes(PAGE_SIZE)
        if kind == 1:
            return b"\xff" * PAGE_SIZE
        if kind == 2:
            return rng.randbytes(PAGE_SIZE)
        if kind == 3:
            return b"".join(rng.choice(_LOADS).to_bytes(8, "little") + rng.getrandbits(64).to_bytes(8, "little")
                            for _ in range(256))
        return b"".join(entry(rng).to_bytes(8, "little") for _ in range(512))

    def _registers(self) -> None:
        rng, state = self.rng, self.vcpu.state
        state.rflags |= rng.choice((0, 0x200, 0x100, 0x300, 0x3000, 0x400))
        for name in ("rax", "rcx", "rdx"):
            setattr(state, name, rng.choice((*_LOADS, *_WORDS)))
        for name in ("rbx", "rsi", "rdi"):
            setattr(state, name, _pointer(rng) if rng.random() < 0.95 else rng.getrandbits(64))
        if rng.random() < 0.1:
            state.rsp = _pointer(rng)
        if rng.random() < 0.1:
            state.idtr = Table(state.idtr.base, rng.choice((0, 0x6F, 0xFFF)))

    # --- what a hypervisor does ----------------------------------------------------------------------------

    def _value(self, field: VmcsField) -> int:
        rng = self.rng
        if field is F.EPT_POINTER and rng.random() < 0.9:
            return rng.choice((self.box.ept.eptp.raw, *(page | 0x1E for page in PAGES), PAGES[0] | 0x5E, SIZE | 0x1E,
                               self.box.ept.eptp.raw | 0x40))
        if field in _ADDRESSES and rng.random() < 0.9:
            offset = rng.choice((0, 0, 0, 0, 0x40, 0xFC0, 0xFF8, 1))
            return rng.choice((*PAGES, SIZE, SIZE - PAGE_SIZE, 1 << 38)) + offset
        if field in _CONTROLS:
            old = self.vcpu.vmcs.read(field)
            for _ in range(rng.choice((1, 2, 5))):
                old ^= int(rng.choice(_CONTROLS[field]))
            return old & OFFERED[field] if rng.random() < 0.9 else old
        kind = rng.random()
        if kind < 0.4:
            return rng.choice(_EDGES)
        return self.vcpu.vmcs.read(field) ^ 1 << rng.randrange(64) if kind < 0.7 else rng.getrandbits(64)

    def _write(self, count: int) -> None:
        rng, write = self.rng, self.vcpu.vmcs.write
        for _ in range(count):
            kind = rng.random()
            if kind < 0.4:
                field = rng.choice(list(_CONTROLS))
            elif kind < 0.6:
                field = rng.choice(_ADDRESSES)
            else:
                field = rng.choice(_WRITABLE)
                if field.name.startswith(("HOST", "VM_EXIT", "VM_ENTRY")) and rng.random() < 0.9:
                    continue
            write(field, self._value(field))
        if rng.random() < 0.3:
            write(F.VM_ENTRY_INTERRUPTION_INFO, rng.choice((1 << 31, 0)) | rng.randrange(8) << 8 | rng.randrange(256)
                  | rng.choice((0, 1 << 11)))

    def _sane(self) -> None:
        """Controls that VM entry takes, with everything that APIC virtualization, EPT and the lists have."""
        rng, write, read = self.rng, self.vcpu.vmcs.write, self.vcpu.vmcs.read
        secondary = DEFAULT_SECONDARY | _some(rng, PROCESSOR_SECONDARY, 0.4)
        primary = DEFAULT_PRIMARY | _some(rng, PROCESSOR_PRIMARY, 0.3)
        pin = DEFAULT_PIN | _some(rng, _PIN, 0.3)
        if secondary & (S.VIRTUALIZE_X2APIC_MODE | S.APIC_REGISTER_VIRTUALIZATION | S.VIRTUAL_INTERRUPT_DELIVERY):
            primary |= PrimaryControls.USE_TPR_SHADOW
        if secondary & S.VIRTUALIZE_X2APIC_MODE:
            secondary &= ~S.VIRTUALIZE_APIC_ACCESSES
        if not secondary & S.VIRTUAL_INTERRUPT_DELIVERY:
            pin &= ~PinControls.PROCESS_POSTED_INTERRUPTS
        write(F.PIN_BASED_CONTROLS, pin), write(F.PRIMARY_PROC_CONTROLS, primary)
        write(F.SECONDARY_PROC_CONTROLS, secondary)
        for field in _ADDRESSES:
            if field is not F.EPT_POINTER:
                write(field, rng.choice(PAGES))
        for field in (F.VM_EXIT_MSR_STORE_COUNT, F.VM_EXIT_MSR_LOAD_COUNT, F.VM_ENTRY_MSR_LOAD_COUNT):
            write(field, rng.choice((0, 0, 1)))
        write(F.EPT_POINTER, self.box.ept.eptp.raw | rng.choice((0, 0x40)))
        write(F.VMCS_LINK_POINTER, (1 << 64) - 1)
        write(F.TPR_THRESHOLD, 0), write(F.VPID, rng.choice((1, 2))), write(F.TSC_MULTIPLIER, 1 << 47)
        write(F.VM_FUNCTION_CONTROLS, 1), write(F.PML_INDEX, rng.choice((511, 1, 0, 0xFFFF)))
        write(F.POSTED_INTR_NOTIFICATION_VECTOR, rng.choice((0x51, 0xFF)))
        write(F.VMX_PREEMPTION_TIMER_VALUE, rng.choice((1, 100, 10_000)))
        write(F.GUEST_INTERRUPT_STATUS, rng.getrandbits(16))
        write(F.EXCEPTION_BITMAP, rng.choice((0, 0, 0xFFFFFFFF, rng.getrandbits(32))))
        write(F.VM_ENTRY_INTERRUPTION_INFO, 0)
        if secondary & S.VMCS_SHADOWING and rng.random() < 0.7:
            self.box.memory.write_u32(PAGES[1], REVISION_ID | 1 << 31)
            write(F.VMCS_LINK_POINTER, PAGES[1])
        if rng.random() < 0.6:
            access = read(F.APIC_ACCESS_ADDR) & ~0xFFF
            self.vcpu.state.rbx = access + rng.choice((0x80, 0xB0, 0x300, 0x30, 0x82, 0xFFE, 0x7F, rng.getrandbits(12)))
        if rng.random() < 0.3:      # the list has the pointer that is used, and others
            for n in (0, 1, 0x20):
                self.box.memory.write_u64(read(F.EPTP_LIST_ADDRESS) + 8 * n, self._value(F.EPT_POINTER))

    def _mend(self) -> None:
        """VMfail: controls of which nothing is wrong."""
        self.seen.append(("vmfail", str(self.vcpu.entry_result.failure)))
        for field, value in DEFAULT_CONTROLS.items():
            self.vcpu.vmcs.write(field, value)
        self.vcpu.vmcs.write(F.CR3_TARGET_COUNT, 0)
        self._sane()

    def _on_exit(self, exit: VmExit) -> bool:
        rng, vcpu = self.rng, self.vcpu
        vcpu.vmcs.inspect(), repr(exit)
        self.seen.append((exit.reason, exit.qualification, exit.instruction_length, exit.instruction_info,
                          exit.interruption_info, exit.idt_vectoring_info, exit.guest_linear_address,
                          exit.guest_physical_address, vcpu.state.rip))
        if exit.reason in ENTRY_FAILURES:
            return self._start_again()
        if exit.instruction_length and rng.random() < 0.9:
            vcpu.state.complete_instruction(exit.instruction_length)
        elif rng.random() < 0.5:
            vcpu.state.rip += rng.randrange(1, 4)
        if rng.random() < 0.3:
            self._write(rng.choice((1, 1, 3)))
        if rng.random() < 0.2:
            self._change_memory()
        self._signal()
        return rng.random() < 0.9 and len(self.seen) < MOST_EXITS

    def _start_again(self) -> bool:
        """The guest state is a new one, of another mode."""
        vcpu = self.vcpu
        fresh = vcpu_in(self.box, self.rng.choice(MODES))
        for field in (F.VM_ENTRY_INTERRUPTION_INFO, F.GUEST_INTERRUPTIBILITY_STATE, F.GUEST_ACTIVITY_STATE,
                      F.GUEST_PENDING_DEBUG_EXCEPTIONS):
            vcpu.vmcs.write(field, 0)
        vcpu.vmcs.write(F.VMCS_LINK_POINTER, (1 << 64) - 1)
        self.box.engine.load_image(vcpu.state, self.box.engine.save_image(fresh.state))
        vcpu.state_written = True
        self._registers()
        return len(self.seen) < MOST_EXITS and self.rng.random() < 0.9

    def _change_memory(self) -> None:
        rng, memory = self.rng, self.box.memory
        page = rng.choice(PAGES)
        if rng.random() < 0.5:
            memory.write(page, self._page())
        else:
            memory.write_u64(page + 8 * rng.randrange(512), entry(rng))
        if rng.random() < 0.5:
            self.box.cached.invept(rng.randrange(4), rng.choice((self.box.ept.eptp.raw, PAGES[0] | 0x1E)))
        if rng.random() < 0.3:
            self.box.cached.invvpid(rng.randrange(5), rng.choice((0, 1, 1 << 16)), rng.getrandbits(64))

    def _signal(self) -> None:
        rng, vcpu = self.rng, self.vcpu
        if rng.random() < 0.05:
            vcpu.signal_nmi()
        if rng.random() < 0.02:
            vcpu.signal_init()
        if rng.random() < 0.02:
            vcpu.signal_sipi(rng.getrandbits(9))
        if rng.random() < 0.1:
            self.waiting.append(rng.randrange(16, 256))

    def run(self) -> list[object]:
        rng = self.rng
        if rng.random() < 0.7:
            self._sane()
        self._write(rng.choice((0, 1, 2, 5)))
        for _ in range(4):
            if rng.random() < 0.2:
                self.vcpu.step()
            else:
                self.box.go(self.vcpu, 20_000)
            self.box.clock.run_due()
            self._signal()
            self._write(rng.choice((0, 1)))
        memory = sha256(self.box.memory.read(0, self.box.memory.size)).hexdigest()
        return [*self.seen, self.box.clock.tsc, self.vcpu.state.rip, self.vcpu.state.rflags, memory]


S = SecondaryControls
DEFAULT_PIN, DEFAULT_PRIMARY, DEFAULT_SECONDARY = (int(DEFAULT_CONTROLS[field]) for field in _CONTROLS)


def _some(rng: random.Random, bits: Iterable[int], share: float) -> int:
    return sum(int(bit) for bit in bits if rng.random() < share)


PROCESSOR_SECONDARY = [bit for bit in SecondaryControls if int(bit) & PROCESSOR.secondary]
PROCESSOR_PRIMARY = [bit for bit in PrimaryControls if int(bit) & PROCESSOR.primary]


OFFERED = {F.PIN_BASED_CONTROLS: PROCESSOR.pin | PIN_DEFAULT1, F.SECONDARY_PROC_CONTROLS: PROCESSOR.secondary,
           F.PRIMARY_PROC_CONTROLS: PROCESSOR.primary | TRUE_PRIMARY_DEFAULT1}


def play(seed: int) -> list[object]:
    """What is seen in the play of *seed*."""
    return Scene(VcpuBox(), seed).run()


if __name__ == "__main__":
    sys.exit(main(play, __doc__))

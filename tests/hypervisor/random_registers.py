"""Root as an attacker: a child's registers, pending events and states set to anything by hypercalls, and the child run.

`python -m tests.hypervisor.random_registers --first 0 --count 1000` plays seeds, each twice. Whatever root says is
answered by a status, whatever the child becomes has an end, and at the end root has every page that it gave.
"""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from hashlib import sha256

from hv.hypervisor.registers.table import REGISTERS
from hv.platform import Machine
from hv.root.winhv import HvError
from hv.spec.hv_registers import (
    HvRegisterName,
    InterruptStateRegister,
    PendingExceptionEvent,
    PendingInterruptionRegister,
)
from hv.spec.msrs import HvSynicSint
from hv.spec.partition import HvMapGpaFlags
from hv.spec.synic import HvSegmentRegister
from hv.spec.vp_state import HvGetSetVpStateType
from hv.spec.x86 import PAGE_SIZE
from tests.played_twice import main
from tests.vmx.random_vmcs import code

N = HvRegisterName
PAGES_OF_CHILD, CODE, APIC_PAGE, TIMER_VECTOR = 32, 0x4000, 0xFEE00, 0x41
ALL_RIGHTS = HvMapGpaFlags.READABLE | HvMapGpaFlags.WRITABLE | HvMapGpaFlags.EXECUTABLE
_SETTABLE = [name for name in HvRegisterName if (ways := REGISTERS.get(int(name))) and ways[1] is not None]
_SEGMENTS = [N(number) for number in range(N.ES, N.TR + 1)]
_DEEP = [N.CR0, N.CR4, N.CR3, N.EFER, N.RFLAGS, N.RIP, N.RSP, N.PENDING_INTERRUPTION, N.INTERRUPT_STATE,
         N.INTERNAL_ACTIVITY_STATE, N.APIC_BASE, N.CR8, N.TPR, N.EOI, N.ICR, N.DR7, N.GDTR, N.IDTR, N.SINT0, N.SINT1,
         N.PENDING_EVENT0, N.TSC, N.FP_CONTROL_STATUS, N.XMM_CONTROL_STATUS, N.APIC_ICR, N.APIC_SPURIOUS,
         N.APIC_LVT_TIMER, N.APIC_INIT_COUNT]
_CR0 = (0x30, 0x31, 0x10, 0x80000031, 0x80010033, 0x60000010, 0x80000001, 0xE0050033, 0x20, 0x50033)
_CR4 = (0, 0x20, 0x620, 0x6F0, 0x10, 0x2000, 0x20020, 0x10620, 0x8, 0x7FF)
_EFER = (0, 0x100, 0x400, 0x500, 0x501, 0xD00, 0xD01, 0x1000, 0x1500, 0x800)
_RIGHTS = (0x9B, 0x93, 0xA09B, 0xC09B, 0xC093, 0xF3, 0xFB, 0x8B, 0x89, 0x82, 0x10000, 0x83, 0x97, 0xC097, 0xE09B, 0)
_X2APIC, _OFF = 0xFEE00D00, 0xFEE00100


class Play:
    """Two children of two VPs each, and root, which sets what it likes."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.machine = Machine(4, apic_virtualization=self.rng.random() < 0.8)
        self.winhv, self.memory = self.machine.root.winhv, self.machine.root.memory
        self.free = self.memory.free_count
        self.seen: list[object] = []
        self.children: dict[int, tuple[list[int], set[int]]] = {}

    def run(self) -> list[object]:
        rng = self.rng
        for _ in range(rng.choice((1, 1, 2))):
            self._make()
        for _ in range(rng.randrange(4, 14)):
            rng.choice((self._set, self._set, self._set, self._go, self._go, self._delete_vp, self._unmap, self._page,
                        self._state))()
        for partition in list(self.children):
            self._end(partition)
        assert self.memory.free_count == self.free, f"{self.free - self.memory.free_count} pages are lost"
        assert self.machine.hypervisor.owners.inspect()["lent"] == 0
        memory = sha256(self.machine.memory.read(0, self.machine.memory.size)).hexdigest()
        return [*self.seen, self.machine.clock.tsc, memory]

    # --- acts ----------------------------------------------------------------------------------------------

    def _make(self) -> None:
        winhv, rng = self.winhv, self.rng
        partition = winhv.create_partition()
        winhv.initialize_partition(partition)
        pages = self.memory.allocate(PAGES_OF_CHILD)
        winhv.map_gpa_pages(partition, 0, pages)
        self.children[partition] = pages, set()
        for page in pages:
            self.memory.write(page * PAGE_SIZE, rng.choice((bytes(PAGE_SIZE), rng.randbytes(PAGE_SIZE))))
        for page, entry in ((1, 0x2007), (2, 0x3007), (3, 0x87)):      # long mode and PAE: identity; 0xFEE00000 too
            self.memory.write(pages[page] * PAGE_SIZE, entry.to_bytes(8, "little"))
        self.memory.write(pages[2] * PAGE_SIZE + 24, 0x3007 .to_bytes(8, "little"))
        self.memory.write(pages[3] * PAGE_SIZE + 8 * 0x1F7, 0xFEE00087 .to_bytes(8, "little"))
        self.memory.write(pages[CODE >> 12] * PAGE_SIZE, code(rng, 300)[:PAGE_SIZE])
        for index in range(rng.choice((1, 2))):
            winhv.create_vp(partition, index)
            self.children[partition][1].add(index)
            self._start_values(partition, index)

    def _start_values(self, partition: int, index: int) -> None:
        """A mode, with segments that go with it: what is set later is wrong against something right."""
        rng = self.rng
        values: dict[HvRegisterName, int] = {N.RIP: rng.randrange(0, 0x100), N.RSP: 0x8000, N.RBX: 0xFEE00080,
                                             N.RSI: 0x6000, N.RDI: rng.choice((0x7000, 0xFEE00300)), N.RCX: 0x80B,
                                             N.RFLAGS: rng.choice((2, 0x202, 0x302))}
        for name in _SEGMENTS:
            rights = {N.CS: 0x9B, N.LDTR: 0x82, N.TR: 0x8B}.get(name, 0x93)
            flat = rng.random() < 0.5 and name not in (N.LDTR, N.TR)
            values[name] = _segment(0, CODE if name == N.CS and not flat else 0, 0xFFFFFFFF if flat else 0xFFFF,
                                    rights | (0xC000 if flat else 0))
        if rng.random() < 0.6:
            values |= {N.CR3: 0x1000, N.CR4: 0x620, N.EFER: 0xD00, N.CR0: 0x80010033, N.RIP: CODE + values[N.RIP],
                       N.CS: _segment(8, 0, 0xFFFFFFFF, 0xA09B)}
            values |= {name: _segment(0x10, 0, 0xFFFFFFFF, 0xC093) for name in (N.SS, N.DS, N.ES, N.FS, N.GS)}
        self._say("set_vp_registers", partition, index, values)
        source = HvSynicSint(vector=0x52, auto_eoi=rng.randrange(2)).raw
        self._say("set_vp_registers", partition, index, {N.SINT1: source, N.SCONTROL: 1})
        self._say("set_vp_registers", partition, index, {N.APIC_BASE: rng.choice((_X2APIC, 0xFEE00900))})
        if rng.random() < 0.5:
            self._timer(partition, index)
        self._say("set_vp_registers", partition, index, {N.EXPLICIT_SUSPEND: 0})

    def _timer(self, partition: int, index: int) -> None:
        """Arm the APIC's timer as the child would, from outside."""
        apic = self.machine.hypervisor.partitions[partition].vps[index].apic
        if not apic.is_present or apic.is_x2apic:
            return
        for offset, value in ((0xF0, 0x1FF), (0x320, TIMER_VECTOR | self.rng.choice((0, 1 << 17))),
                              (0x3E0, 0xB), (0x380, self.rng.choice((100, 5000, 1 << 31)))):
            apic.write(offset, value)

    def _say(self, what: str, *values: object) -> object:
        try:
            answer = getattr(self.winhv, what)(*values)
        except HvError as error:
            answer = str(error)
        self.seen.append((what, answer))
        return answer

    def _someone(self) -> tuple[int, int]:
        partition = self.rng.choice(list(self.children))
        return partition, self.rng.choice((*sorted(self.children[partition][1]), 0, 1))

    def _set(self) -> None:
        partition, index = self._someone()
        for _ in range(self.rng.choice((1, 1, 2, 4))):
            name = self.rng.choice(self.rng.choice((_DEEP, _DEEP, _DEEP, _SEGMENTS, _SETTABLE)))
            self._say("set_vp_registers", partition, index, {name: self._value(name)})
            self._say("get_vp_register", partition, index, name)
        if self.rng.random() < 0.5:
            self._say("set_vp_registers", partition, index, {N.EXPLICIT_SUSPEND: 0, N.INTERCEPT_SUSPEND: 0})
        if self.rng.random() < 0.3:
            self._say("assert_virtual_interrupt", partition, self.rng.choice((0x41, 0x10, 0xFF, 2)))

    def _value(self, name: HvRegisterName) -> int:
        rng = self.rng
        chosen = {N.CR0: _CR0, N.CR4: _CR4, N.EFER: _EFER, N.CR3: (0x1000, 0, 1 << 40, 0x7000, 0x1018),
                  N.RFLAGS: (2, 0x202, 0x302, 0x20002, 0x20202, 0x4002, 0), N.APIC_BASE: (_X2APIC, _OFF, 0xFEE00900,
                  0x5900, 0xFEE00400), N.INTERNAL_ACTIVITY_STATE: range(8), N.INTERRUPT_STATE: range(4),
                  N.DR7: (0x400, 0x7FF, 0x2400, 0)}
        kind = rng.random()
        if name in _SEGMENTS and kind < 0.9:
            return _segment(rng.choice((0, 8, 0x10, 3, 0x2B, 4)), rng.choice((0, CODE, 1 << 47, 0xFFFF0000)),
                            rng.choice((0xFFFF, 0xFFFFFFFF, 0xFFFFF, 0x67, 0)), rng.choice(_RIGHTS))
        if name is N.PENDING_INTERRUPTION and kind < 0.95:
            vector = rng.randrange(256 if kind < 0.5 else 32)
            return PendingInterruptionRegister(
                interruption_pending=1, interruption_type=rng.randrange(8), interruption_vector=vector,
                deliver_error_code=rng.randrange(2), instruction_length=rng.choice((0, 1, 2, 15)),
                error_code=rng.choice((0, 0xFFFF, 1 << 31))).raw
        if name is N.PENDING_EVENT0 and kind < 0.95:
            return PendingExceptionEvent(
                event_pending=1, vector=rng.randrange(32), deliver_error_code=rng.randrange(2),
                error_code=rng.choice((0, 2, 1 << 31)), exception_parameter=rng.choice((0, 0x6000, 1 << 63))).raw
        if name is N.INTERRUPT_STATE and kind < 0.9:
            return InterruptStateRegister(interrupt_shadow=rng.randrange(2), nmi_masked=rng.randrange(2)).raw
        if name in chosen and kind < 0.85:
            return rng.choice(list(chosen[name]))
        return rng.choice((0, 1, rng.getrandbits(64), rng.getrandbits(32), (1 << 64) - 1, 1 << 63, 0x6000, 0x52,
                           rng.getrandbits(128)))

    def _go(self) -> None:
        self.machine.run(until_tsc=self.machine.clock.tsc + self.rng.choice((2_000, 30_000, 60_000)))
        for partition in self.children:
            for vp in self.machine.hypervisor.partitions[partition].vps.values():
                self.seen.append((partition, vp.index, vp.regs.rip, vp.stopped_because, vp.halted))
                vp.inspect()

    def _delete_vp(self) -> None:
        if self.rng.random() < 0.3:
            partition, index = self._someone()
            self._say("delete_vp", partition, index)
            if not isinstance(self.seen[-1][1], str):
                self.children[partition][1].discard(index)

    def _page(self) -> None:
        """The register page comes, goes, or is written over while the VP runs or waits."""
        partition, index = self._someone()
        if self.rng.random() < 0.3:
            self._say("unmap_register_page", partition, index)
        place = self._say("map_register_page", partition, index)
        if isinstance(place, int):
            for at in self.rng.sample((0, 2, 4, 8, 136, 144, 160, 256, 300, 400), 4):
                self.memory.write(place * PAGE_SIZE + at, self.rng.choice((b"\1", b"\x1F", self.rng.randbytes(8))))

    def _state(self) -> None:
        """A state is read, and written back with some bytes changed, or not."""
        partition, index = self._someone()
        kind = self.rng.choice(list(HvGetSetVpStateType))
        data = self._say("get_vp_state", partition, index, kind)
        if isinstance(data, bytes):
            changed = bytearray(data)
            for _ in range(self.rng.choice((0, 0, 1, 3))):
                changed[self.rng.randrange(min(len(changed), 200))] = self.rng.randrange(256)
            self._say("set_vp_state", partition, index, kind, bytes(changed))

    def _unmap(self) -> None:
        if self.rng.random() < 0.3:
            partition = self._someone()[0]
            self._say("unmap_gpa_pages", partition, self.rng.randrange(PAGES_OF_CHILD), 1)

    def _end(self, partition: int) -> None:
        pages, vps = self.children.pop(partition)
        self._say("finalize_partition", partition)
        for index in sorted(vps):
            self._say("delete_vp", partition, index)
        if self.rng.random() < 0.5:
            self.machine.run(until_tsc=self.machine.clock.tsc + 10_000)
        self._say("withdraw_memory", partition)
        self._say("delete_partition", partition)
        assert partition not in self.machine.hypervisor.partitions, self.seen[-1]
        self.memory.free(pages)


def _segment(selector: int, base: int, limit: int, rights: int) -> int:
    raw = HvSegmentRegister(base=base, limit=limit, selector=selector, attributes=rights & 0xFFFF).pack()
    return int.from_bytes(raw, "little")


def play(seed: int) -> list[object]:
    """What is seen in the play of *seed*."""
    made = Play(seed)
    try:
        return made.run()
    finally:
        with suppress(BufferError):
            made.machine.close()


if __name__ == "__main__":
    sys.exit(main(play, __doc__))

"""Any event, state and control, sensible or not: nothing raises an error, nothing hangs, and each run is the same."""

import random

import pytest

from hv.machine.registers import Table
from hv.spec.vmcs import PinControls, PrimaryControls
from hv.vmx.checks import Entry, entry_result
from hv.vmx.vmcs import DEFAULT_CONTROLS
from tests.vmx.event_box import HANDLERS, IDT, MODES, STACK, VALID, F, R, again, put, reasons, vcpu_in
from tests.vmx.vcpu_box import VcpuBox

_PIECES = (b"\x90", b"\xfb", b"\xfa", b"\x8e\xd0", b"\xcd\x21", b"\xcc", b"\xf1", b"\x0f\x0b", b"\x0f\xa2", b"\xf4",
           b"\xf3\xa4", b"\x9d", b"\x9c", b"\xcf", b"\x48\xcf", b"\x0f\x31", b"\xeb\xfe", b"\xcd\x02", b"\xce",
           b"\xff\x03", b"\x17", b"\x16", b"\xf7\xf1", b"\xe4\x80", b"\x0f\x20\xc0\x0f\x22\xc0",
           b"\xea\x00\x00\x38\x00")
_PIN = int(PinControls.EXTERNAL_INTERRUPT_EXITING | PinControls.NMI_EXITING | PinControls.VIRTUAL_NMIS
           | PinControls.ACTIVATE_PREEMPTION_TIMER)
_PRIMARY = int(PrimaryControls.INTERRUPT_WINDOW_EXITING | PrimaryControls.NMI_WINDOW_EXITING
               | PrimaryControls.MONITOR_TRAP_FLAG | PrimaryControls.HLT_EXITING)


class Scene:
    """A guest and a hypervisor of random habits. What VM entry refuses is mended."""

    def __init__(self, box: VcpuBox, seed: int) -> None:
        self.box, self.rng = box, random.Random(seed)
        rng = self.rng
        self.vcpu = vcpu_in(box, rng.choice(MODES))
        self.vcpu.on_vmfail = self.mend
        state = self.vcpu.state
        box.put(b"".join(rng.choices(_PIECES, k=30)), 64)
        for vector in (1, 2, 3, 6, 13, 14, 0x21, 0x51):
            code = b"".join(rng.choices(_PIECES, k=2)) + (b"\x48\xcf" if rng.random() < 0.5 else b"\xcf")
            box.memory.write(HANDLERS + 16 * vector, code[:16])
        state.rflags |= rng.choice((0, 0x200, 0x100, 0x300, 0x3000))
        state.rcx, state.rax = rng.choice((0, 3, 0x10)), rng.choice((0x10, 0xFFF8))
        state.rsi = state.rdi = state.rbx = 0x20000
        if rng.random() < 0.1:
            state.idtr = Table(state.idtr.base, rng.choice((0, 0x6F, 0xFFF)))
        self.waiting = [0x51] * rng.randrange(3)
        self.vcpu.interrupt_waits = lambda: bool(self.waiting)
        self.vcpu.external_interrupt = lambda: self.waiting.pop() if self.waiting else None
        self.removed: set[int] = set()
        box.handle = self.on_exit

    def event(self) -> int:
        rng = self.rng
        if rng.random() < 0.1:
            return rng.getrandbits(32)
        kind = rng.choice((0, 0, 2, 3, 3, 4, 5, 6, 7))
        vector = {0: 0x51, 2: 2, 3: rng.choice((0, 1, 6, 8, 13, 14, 17)), 4: 0x21, 5: 1, 6: 3, 7: 0}[kind]
        return VALID | kind << 8 | vector | (rng.random() < 0.3) << 11

    def write(self) -> None:
        """Some fields, as a hypervisor would, or as none would."""
        rng, vcpu = self.rng, self.vcpu
        read = vcpu.vmcs.read
        if rng.random() < 0.5:
            put(vcpu, VM_ENTRY_INTERRUPTION_INFO=self.event(), VM_ENTRY_EXCEPTION_ERROR_CODE=rng.getrandbits(16),
                VM_ENTRY_INSTRUCTION_LENGTH=rng.randrange(16))
        if rng.random() < 0.4:
            put(vcpu, GUEST_INTERRUPTIBILITY_STATE=rng.choice((0, 1, 2, 3, 8, 9, 10, rng.getrandbits(32))))
        if rng.random() < 0.2:
            put(vcpu, GUEST_ACTIVITY_STATE=rng.choice((0, 0, 1, 2, 3, rng.getrandbits(32))))
        if rng.random() < 0.3:
            put(vcpu, GUEST_PENDING_DEBUG_EXCEPTIONS=rng.choice((0, 1 << 14, 0x1001, rng.getrandbits(64))))
        if rng.random() < 0.4:
            put(vcpu, PIN_BASED_CONTROLS=read(F.PIN_BASED_CONTROLS) ^ rng.getrandbits(32) & _PIN,
                PRIMARY_PROC_CONTROLS=read(F.PRIMARY_PROC_CONTROLS) ^ rng.getrandbits(32) & _PRIMARY,
                VM_EXIT_CONTROLS=read(F.VM_EXIT_CONTROLS) ^ rng.choice((0, 1 << 15, 1 << 22)),
                VMX_PREEMPTION_TIMER_VALUE=rng.choice((0, 1, 50, rng.getrandbits(32))),
                EXCEPTION_BITMAP=rng.choice((0, 0, 1 << 14, 0xFFFFFFFF)))
        for signal in (vcpu.signal_nmi, vcpu.signal_init, lambda: vcpu.signal_sipi(rng.getrandbits(9))):
            if rng.random() < 0.1:
                signal()
        self.move_pages()

    def mend(self) -> None:
        """Fields of which nothing can be wrong."""
        read = self.vcpu.vmcs.read
        put(self.vcpu, VM_ENTRY_INTERRUPTION_INFO=0, GUEST_INTERRUPTIBILITY_STATE=0, GUEST_ACTIVITY_STATE=0,
            GUEST_PENDING_DEBUG_EXCEPTIONS=0, PIN_BASED_CONTROLS=DEFAULT_CONTROLS[F.PIN_BASED_CONTROLS],
            VM_EXIT_CONTROLS=DEFAULT_CONTROLS[F.VM_EXIT_CONTROLS],
            PRIMARY_PROC_CONTROLS=read(F.PRIMARY_PROC_CONTROLS) & ~_PRIMARY)

    def move_pages(self) -> None:
        page = self.rng.choice((IDT, STACK - 0x1000, 0x8000))
        if self.rng.random() < 0.3 and page not in self.removed:
            self.removed.add(page)
            self.box.ept.unmap(page)
            self.box.ept.invept()

    def on_exit(self, exit) -> bool:
        rng, vcpu = self.rng, self.vcpu
        repr(exit)
        if exit.reason is R.ENTRY_FAILURE_GUEST_STATE:
            self.mend()
            return len(self.box.exits) < 60
        if exit.guest_physical_address is not None:
            for page in self.removed:
                self.box.ept.map(page, page, 7)
            self.removed.clear()
            self.box.ept.invept()
        if exit.idt_vectoring_info and rng.random() < 0.8:
            again(vcpu, exit)
        elif exit.instruction_length and rng.random() < 0.8:
            vcpu.state.complete_instruction(exit.instruction_length)
        if rng.random() < 0.3:
            self.write()
        vcpu.vmcs.inspect()
        return rng.random() < 0.8 and len(self.box.exits) < 60

    def run(self) -> list[tuple[R, int, int, int]]:
        self.write()
        for _ in range(4):
            if self.rng.random() < 0.2:
                self.vcpu.step()
            else:
                self.box.go(self.vcpu, 20_000)
            self.box.clock.run_due()
            self.write()
        return [(exit.reason, exit.qualification, exit.interruption_info, exit.idt_vectoring_info)
                for exit in self.box.exits]


@pytest.mark.parametrize("seed", range(50))
def test_no_event_raises_an_error_and_a_scene_is_played_twice_alike(box, seed):
    ends = []
    for again_box in (box, VcpuBox()):
        found = Scene(again_box, seed).run()
        assert len(found) < 400
        ends.append((found, again_box.clock.tsc))
    assert ends[0] == ends[1]


def accepted(vcpu) -> bool:
    """No rule of VM entry is broken."""
    return entry_result(Entry(vcpu.vmcs.snapshot(), memory=vcpu.second_level.memory)).entered


def test_what_vm_entry_accepts_runs(box):
    """An injected event that the rules accept is delivered, or exits on the way; either way the field is done with."""
    rng, runs = random.Random(7), 0
    for seed in range(150):
        scene = Scene(box, seed)
        vcpu = scene.vcpu
        put(vcpu, VM_ENTRY_INTERRUPTION_INFO=scene.event(), VM_ENTRY_INSTRUCTION_LENGTH=rng.randrange(1, 16),
            GUEST_INTERRUPTIBILITY_STATE=rng.choice((0, 0, 1, 2, 8)))
        box.handle = lambda exit: False
        box.exits.clear()
        if accepted(vcpu):
            runs += 1
            time = box.clock.tsc
            box.go(vcpu, 5000)
            assert box.clock.tsc > time
            assert not vcpu.vmcs.read(F.VM_ENTRY_INTERRUPTION_INFO) & VALID
            assert R.ENTRY_FAILURE_GUEST_STATE not in reasons(box)
    assert runs > 30

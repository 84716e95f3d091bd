"""An interrupt through a gate that is known does what the long way does, whatever changed since the last one."""

import pytest

from hv.machine.idt import Event, EventKind
from hv.machine.registers import Segment, Table
from hv.spec.x86 import PAGE_SIZE, Rflags
from hv.vmx.events.delivery import deliver
from tests.machine.engine_box import CODE, GDT, STACK, TABLE
from tests.vmx.vcpu_box import HANDLERS, IDT, VcpuBox

VECTOR = 0x51
GATE = IDT + 16 * VECTOR
ELSEWHERE = 0x70000             # a page with nothing in it


class Box(VcpuBox):
    """A vcpu in a 64-bit kernel that has taken VECTOR twice; with *known* False the long way each time."""

    def __init__(self, known: bool) -> None:
        super().__init__()
        self.guest = self.vcpu()
        self.entered = []
        enter = self.guest.gates.enter
        self.guest.gates.enter = lambda vector: known and self._note(enter(vector))
        for _ in range(2):
            self.again()

    def _note(self, entered):
        self.entered.append(entered)
        return entered

    def again(self):
        """VECTOR once more, from CODE; what was delivered, or what it became."""
        state = self.guest.state
        state.rip, state.rsp = CODE, getattr(self, "stack", STACK)
        state.rflags |= Rflags.IF.value | Rflags.CF.value | Rflags.ZF.value
        self.exit = deliver(self.guest, Event(VECTOR, EventKind.EXTERNAL))
        return self.exit

    def result(self):
        """Registers, and all memory."""
        state = self.guest.state
        return (repr(self.exit), state.rip, state.rsp, state.rflags, state.cs, state.ss, state.cpl, state.cr2,
                state.interrupt_shadow, self.memory.read(0, self.memory.size))


def move_table(box, name, source, size):
    box.memory.write(ELSEWHERE, box.memory.read(source, size))
    setattr(box.guest.state, name, Table(ELSEWHERE, size - 1))




CHANGES = {
    "nothing": lambda box: None,
    "another-handler": lambda box: box.gate(VECTOR, 64, offset=HANDLERS),
    "a-trap-gate": lambda box: box.gate(VECTOR, 64, kind=0xEF),
    "another-stack-by-ist": lambda box: box.gate(VECTOR, 64, ist=1),
    "gate-not-present": lambda box: box.gate(VECTOR, 64, kind=0x6E),
    "handler-not-canonical": lambda box: box.memory.write_u32(GATE + 8, 1 << 28),
    "code-not-present": lambda box: box.memory.write(GDT + 8 + 5, b"\x1b"),
    "code-is-data": lambda box: box.memory.write(GDT + 8 + 5, b"\x93"),
    "short-idt": lambda box: setattr(box.guest.state, "idtr", Table(IDT, 16 * VECTOR + 14)),
    "short-gdt": lambda box: setattr(box.guest.state, "gdtr", Table(GDT, 14)),
    "idt-elsewhere": lambda box: move_table(box, "idtr", IDT, PAGE_SIZE),
    "gdt-elsewhere": lambda box: move_table(box, "gdtr", GDT, 64),
    "idt-unmapped": lambda box: box.memory.write_u64(TABLE + 8 * (IDT >> 12), 0),
    "idt-page-is-another": lambda box: box.memory.write_u64(TABLE + 8 * (IDT >> 12), ELSEWHERE | 0x67),
    "gdt-unmapped": lambda box: box.memory.write_u64(TABLE + 8 * (GDT >> 12), 0),
    "stack-unmapped": lambda box: box.memory.write_u64(TABLE + 8 * (STACK - 1 >> 12), 0),
    "stack-read-only": lambda box: box.memory.write_u64(TABLE + 8 * (STACK - 1 >> 12), STACK - PAGE_SIZE | 0x65),
    "stack-elsewhere": lambda box: setattr(box, "stack", ELSEWHERE + 0x800),
    "stack-across-pages": lambda box: setattr(box, "stack", ELSEWHERE + 0x10),
    "stack-not-aligned": lambda box: setattr(box, "stack", STACK - 0x123),
    "stack-not-canonical": lambda box: setattr(box, "stack", 1 << 60),
    "stack-at-0": lambda box: setattr(box, "stack", 8),
    "single-step": lambda box: setattr(box.guest.state, "rflags", box.guest.state.rflags | Rflags.TF.value),
    "in-a-shadow": lambda box: setattr(box.guest.state, "interrupt_shadow", True),
    "down": lambda box: setattr(box.guest.state, "rflags", box.guest.state.rflags | Rflags.DF.value),
    "another-code-segment": lambda box: setattr(box.guest.state, "cs", Segment(0x88, 0, 0xFFFFFFFF, 0xA09B)),
    "stack-not-in-the-ept": lambda box: (box.ept.unmap(STACK - 1 & -PAGE_SIZE), box.ept.invept()),
    "idt-not-in-the-ept": lambda box: (box.ept.unmap(IDT), box.ept.invept()),
    "user": lambda box: setattr(box.guest.state, "ss", Segment(0x33, 0, 0xFFFFFFFF, 0xC0F3)),
}
UNCHANGED = {"nothing", "stack-elsewhere", "stack-not-aligned", "single-step", "in-a-shadow", "down"}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_is_noticed_at_the_next_interrupt(name):
    """SDM "Exception and Interrupt Handling in 64-bit Mode": each delivery goes by the tables as they are then."""
    boxes = [Box(known=True), Box(known=False)]
    for box in boxes:
        CHANGES[name](box)
        box.again()
    assert boxes[0].result() == boxes[1].result()
    assert boxes[0].entered == [False, True, name in UNCHANGED]


def test_a_gate_is_known_again_after_a_change():
    box = Box(known=True)
    box.gate(VECTOR, 64, offset=HANDLERS)
    box.again(), box.again()
    assert box.entered == [False, True, False, True]
    assert box.guest.state.rip == HANDLERS


def test_a_page_that_moved_under_a_refused_access_is_not_known_any_more():
    """A read-only page becomes a writable one elsewhere, without INVEPT: the store that was refused finds it there."""
    box = Box(known=True)
    before = box.cached.generation
    box.ept.map(IDT, ELSEWHERE, 1)
    box.ept.invept()
    box.again()
    box.ept.map(IDT, IDT, 7)
    box.guest.second_level.store(GATE, 0, 2)
    assert box.cached.generation > before + 1
    box.memory.write(ELSEWHERE, box.memory.read(IDT, PAGE_SIZE))
    box.again()
    assert box.entered[-1] is False

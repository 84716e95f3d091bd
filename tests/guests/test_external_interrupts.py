"""Interrupts that a parent raises as the 8259s, the LINT pins and the I/O APIC of a PC would, and what a guest sees."""

import pytest

from hv.hypervisor.hypervisor import Hypervisor
from hv.platform import Machine
from hv.root.winhv import HvError
from hv.spec.hv_status import HvStatus as S
from hv.spec.hypercalls.interrupts import INTERRUPT_VECTOR_NONE as NONE
from hv.spec.hypercalls.interrupts import HvInterruptType as T
from tests.guest_runner import image_of
from tests.guests.test_interrupts import EOI, LOG, XAPIC_ON, guest, mark

LINT0, LINT1 = "mov dword ptr [rbx+0x350]", "mov dword ptr [rbx+0x360]"
EXTINT, NMI, MASKED = 0x700, 0x400, 0x10000
APIC_OFF = "mov ecx, 0x1B; rdmsr; and eax, 0xFFFFF7FF; wrmsr"
WAIT = "wait:; sti; hlt; cmp r15, 0; je wait"
TICKS = 200_000


@pytest.fixture(autouse=True, params=[pytest.param(True, id="virtualized"), pytest.param(False, id="by-exits")])
def virtualized(request, monkeypatch):
    monkeypatch.setattr(Hypervisor, "apic_virtualization", request.param)


class Pc:
    """A guest, and its parent that has the wires in its hand."""

    def __init__(self, source, vps=1):
        self.machine = Machine(memory_mib=24)
        self.vm = self.machine.create_vm("pc", image_of(source), memory_mib=4, vps=vps)
        self.id = self.vm.partition_id
        self.go()

    def go(self):
        self.machine.scheduler.run(self.machine.clock.tsc + TICKS)      # it may sleep: more may come

    def raised(self, vector, kind=T.EXT_INT, **more):
        self.machine.root.winhv.assert_virtual_interrupt(self.id, vector, kind=kind, **more)

    def cleared(self):
        self.machine.root.winhv.clear_virtual_interrupt(self.id)

    @property
    def log(self):
        first = self.vm.worker.pages[LOG >> 12] << 12
        return self.machine.memory.read(first, 64).split(b"\0")[0].decode()


@pytest.fixture
def pc():
    made = []

    def start(*arguments):
        made.append(Pc(*arguments))
        return made[-1]
    yield start
    for each in made:
        each.machine.close()


HANDLERS = {0x08: mark("8"), 0x41: f"{mark('A')}; {EOI}"}
ON_LINT0 = f"{XAPIC_ON}; {LINT0}, {EXTINT}"


def refused(status):
    return pytest.raises(HvError, match=status.name)


@pytest.mark.parametrize("apic", [ON_LINT0, f"{ON_LINT0}; mov eax, 15; mov cr8, rax", APIC_OFF],
                         ids=["lint0", "whatever-the-task-priority", "apic-off"])
def test_what_stands_on_the_line_is_taken_once(pc, apic):
    """SDM "Local Interrupts": ExtINT passes the APIC by, so it has no EOI and no priority."""
    pc = pc(guest(WAIT, HANDLERS, apic))
    pc.raised(8)
    pc.go()
    assert pc.log == "8"
    pc.go()
    assert pc.log == "8"


def test_the_next_one_waits_until_the_last_is_cleared(pc):
    """TLFS "HvCallAssertVirtualInterrupt": ACKNOWLEDGED; "HvCallClearVirtualInterrupt": NOT_ACKNOWLEDGED."""
    pc = pc(guest(WAIT, HANDLERS, ON_LINT0))
    with refused(S.NOT_ACKNOWLEDGED):
        pc.cleared()
    pc.raised(8)
    with refused(S.NOT_ACKNOWLEDGED):
        pc.cleared()
    pc.go()
    for vector in (8, NONE):
        with refused(S.ACKNOWLEDGED):
            pc.raised(vector)
    pc.cleared()
    pc.raised(8)
    pc.go()
    assert pc.log == "88"


@pytest.mark.parametrize(("level", "log"), [(True, ""), (False, "8")])
def test_only_a_level_is_withdrawn(pc, level, log):
    pc = pc(guest(f"spin:; cmp dword ptr [0x{LOG + 0x800:x}], 0; je spin; {WAIT}", HANDLERS, ON_LINT0))
    pc.raised(8, level=level)
    pc.raised(NONE)
    pc.machine.memory.write((pc.vm.worker.pages[LOG >> 12] << 12) + 0x800, b"\1")
    pc.go()
    assert pc.log == log


@pytest.mark.parametrize("masked", [f"{XAPIC_ON}; {LINT0}, {EXTINT | MASKED}", XAPIC_ON], ids=["masked", "after-reset"])
def test_it_waits_for_lint0(pc, masked):
    """With interrupts on: then the guest lets it in."""
    spin = f"sti; spin:; pause; cmp dword ptr [0x{LOG + 0x800:x}], 0; je spin"
    pc = pc(guest(f"{spin}; {mark('1')}; {LINT0}, {EXTINT}; nop; {mark('2')}; {WAIT}", HANDLERS, masked))
    pc.raised(8)
    pc.go()
    assert pc.log == ""
    pc.machine.memory.write((pc.vm.worker.pages[LOG >> 12] << 12) + 0x800, b"\1")
    pc.go()
    assert pc.log == "182"


def test_it_waits_for_sti_and_lets_the_apics_come_behind(pc):
    spin = f"spin:; pause; cmp dword ptr [0x{LOG + 0x800:x}], 0; je spin"
    pc = pc(guest(f"{spin}; {mark('1')}; sti; nop; nop; {mark('2')}; {WAIT}", HANDLERS, ON_LINT0))
    pc.raised(0x41, T.FIXED)
    pc.raised(8)
    pc.go()
    assert pc.log == ""
    pc.machine.memory.write((pc.vm.worker.pages[LOG >> 12] << 12) + 0x800, b"\1")
    pc.go()
    assert pc.log == "18A2"


def test_masked_again_it_does_not_come_and_the_guest_goes_on(pc):
    body = f"spin:; pause; cmp dword ptr [0x{LOG + 0x800:x}], 0; je spin; {LINT0}, {EXTINT | MASKED}; {mark('1')}; " \
           f"sti; nop; nop; {mark('2')}; {WAIT}"
    pc = pc(guest(body, HANDLERS, ON_LINT0))
    pc.raised(8)
    pc.go()
    pc.machine.memory.write((pc.vm.worker.pages[LOG >> 12] << 12) + 0x800, b"\1")
    pc.go()
    assert pc.log == "12"
    before = sum(pc.vm.partition.vps[0].vcpu.exits)
    pc.go()
    assert sum(pc.vm.partition.vps[0].vcpu.exits) == before         # it sleeps
    pc.raised(0x41, T.FIXED)
    pc.go()
    assert pc.log == "12A"


@pytest.mark.parametrize(("entry", "kind", "log"), [
    (f"{LINT1}, {NMI}", T.LOCAL_INT1, "N"), (f"{LINT0}, 0x41", T.LOCAL_INT0, "A"), (f"{LINT0}, 0x41", T.LOCAL_INT1, ""),
    (f"{LINT1}, {NMI | MASKED}", T.LOCAL_INT1, ""), (f"{LINT0}, {EXTINT}", T.LOCAL_INT0, ""),
])
def test_a_pin_means_what_the_local_vector_table_says(pc, entry, kind, log):
    pc = pc(guest(WAIT, {**HANDLERS, 2: mark("N")}, f"{XAPIC_ON}; {entry}"))
    pc.raised(0, kind)
    pc.go()
    assert pc.log == log


def test_the_line_is_as_new_behind_a_reset(pc):
    pc = pc(guest(WAIT, HANDLERS, XAPIC_ON))
    pc.raised(8)
    line = pc.vm.partition.external
    assert line.inspect() == {"vector": 8, "level": False, "acknowledged": False}
    line.acknowledge()
    pc.raised(0x41, T.FIXED)
    line.reset()
    assert line.inspect() == {"vector": None, "level": False, "acknowledged": False}
    pc.go()
    assert pc.log == "A"

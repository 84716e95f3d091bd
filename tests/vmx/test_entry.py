"""VM entry's checks of the guest state: each rule alone, and whatever passes them all runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.machine.idt import Event, EventKind
from hv.machine.registers import Segment, Table
from hv.machine.state import ProcessorState
from hv.spec.exits import ExitReason
from hv.vmx.entry import GUEST_STATE_RULES, broken_rules, event_of, info_of
from tests.vmx.vcpu_box import VcpuBox


def change(**registers: object) -> Callable[[ProcessorState], None]:
    def apply(state: ProcessorState) -> None:
        for name, value in registers.items():
            setattr(state, name, value)
    return apply


def part(segment: str, **parts: int) -> Callable[[ProcessorState], None]:
    def apply(state: ProcessorState) -> None:
        old: Segment = getattr(state, segment)
        whole = {"selector": old.selector, "base": old.base, "limit": old.limit, "rights": old.rights} | parts
        setattr(state, segment, Segment(**whole))
    return apply


# Rule -> (mode it is broken in, what breaks it and no other rule).
BREAKS: dict[str, list[tuple[int, Callable[[ProcessorState], None]]]] = {
    "CR0.PG needs CR0.PE": [(16, change(cr0=0x80000010))],
    "CR0 bits 63:32 are 0": [(32, change(cr0=0x1_0000_0031))],
    "CR4 has no reserved bit": [(32, change(cr4=1 << 11)), (32, change(cr4=1 << 22)), (32, change(cr4=1 << 63))],
    "IA-32e mode needs CR0.PG": [(64, change(cr0=0x33))],
    "IA-32e mode needs CR4.PAE": [(64, change(cr4=0x600))],
    "EFER.LMA equals EFER.LME while CR0.PG": [(64, change(efer=0x400)), (32, change(cr0=0x80000031, efer=0x100))],
    "EFER has no reserved bit": [(32, change(efer=2)), (64, change(efer=0x1500 | 1 << 14))],
    "CR3 is within the physical address width": [(64, change(cr3=1 << 46)), (64, change(cr3=1 << 63))],
    "CS is a present code segment": [(64, part("cs", rights=0xA01B)), (64, part("cs", rights=0xA097)),
                                     (32, part("cs", rights=0xC08B))],
    "CS.L and CS.D are not both 1 in IA-32e mode": [(64, part("cs", rights=0xE09B))],
    "segment limits agree with G": [(32, part("ds", limit=0xFFFFFFFE)), (32, part("ds", limit=0x1FFFFF,
                                                                                  rights=0x4093))],
    "TR is usable": [(64, change(tr=Segment.null()))],
    "TR is a busy TSS": [(64, part("tr", rights=0x82)), (32, part("tr", rights=0x8F)), (64, part("tr", rights=0x83)),
                         (32, part("tr", rights=0x9B))],
    "RFLAGS bit 1 is 1 and reserved bits are 0": [(64, change(rflags=0x8002))],
    "RFLAGS.VM is 0 in IA-32e mode or without CR0.PE": [(64, change(rflags=0x2_0002)), (16, change(rflags=0x2_0002))],
    "RIP fits the mode": [(64, change(rip=1 << 47)), (32, change(rip=1 << 32)), (16, change(rip=1 << 32))],
    "GDTR and IDTR bases are canonical": [(64, change(gdtr=Table(1 << 47, 0))), (64, change(idtr=Table(1 << 63, 0)))],
    "GDTR and IDTR limits have 16 bits": [(64, change(gdtr=Table(0, 0x10000))), (64, change(idtr=Table(0, 0x10000)))],
}
# The state cannot hold what these would refuse: it drops the bits when they are written.
UNREACHABLE = {"RFLAGS bit 1 is 1 and reserved bits are 0"}


def test_every_rule_is_broken_here():
    assert set(BREAKS) == set(GUEST_STATE_RULES)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_the_usual_state_of_each_mode_breaks_no_rule(box, bits):
    assert broken_rules(box.vcpu(bits).state) == []


@pytest.mark.parametrize(("rule", "number"), [(rule, n) for rule, rows in BREAKS.items() for n in range(len(rows))])
def test_a_broken_rule_is_named_and_the_entry_fails(box, rule, number):
    """SDM "VM-Entry Failures During or After Loading Guest State"; nothing of the guest runs."""
    bits, breaks = BREAKS[rule][number]
    vcpu = box.vcpu(bits)
    breaks(vcpu.state)
    box.put("mov ebx, 1; cpuid", bits)
    if rule in UNREACHABLE:
        assert broken_rules(vcpu.state) == []
        return
    assert rule in broken_rules(vcpu.state)
    box.go(vcpu)
    assert [exit.reason for exit in box.exits] == [ExitReason.ENTRY_FAILURE_GUEST_STATE]
    assert rule in vcpu.broken_rules
    assert vcpu.state.rbx == 0


def test_the_rules_are_looked_at_only_after_software_wrote_the_state(box):
    vcpu = box.vcpu()
    box.put("nop; nop; nop; jmp $ - 3")
    box.go(vcpu, 100)
    vcpu.state.cr3 = 1 << 60
    box.go(vcpu, 100)
    assert all(exit.reason is not ExitReason.ENTRY_FAILURE_GUEST_STATE for exit in box.exits)
    vcpu.state_written = True
    box.go(vcpu, 100)
    assert box.exits[-1].reason is ExitReason.ENTRY_FAILURE_GUEST_STATE


@st.composite
def states(draw: st.DrawFn) -> dict[str, object]:
    """Anything at all, near what is allowed."""
    registers: dict[str, object] = {
        "cr0": draw(st.sampled_from((0x10, 0x11, 0x31, 0x80000011, 0x80010033, 0xE0000011, 0x60000010, 0x8005003B))),
        "cr4": draw(st.integers(0, 0x7FF)) & draw(st.sampled_from((0x7FF, 0x620, 0x20, 0))),
        "cr3": draw(st.sampled_from((0, 0x1000, 0x5000, 0x1018, 1 << 39, 0x3FF000))),
        "efer": draw(st.sampled_from((0, 1, 0x100, 0x500, 0xD00, 0xD01, 0x400))),
        "rflags": 2 | draw(st.integers(0, 0x3F_FFFF)) & 0x3F_7FD5 & draw(st.sampled_from((0x3F_FFFF, 0xED5, 0x2_0ED5))),
        "rip": draw(st.sampled_from((0x10000, 0, 0xFFF0, 0xFFFFFFFF, 0x7FFFFFFFFFFF, 0xFFFF800000000000))),
        "rsp": draw(st.sampled_from((0, 3, 0x30000, 0xFFFFFFFF, (1 << 64) - 1))),
        "idtr": Table(draw(st.sampled_from((0, 0x50000, 0x7FFFFFFFF000))), draw(st.sampled_from((0, 0x3FF, 0xFFF,
                                                                                                 0xFFFF)))),
        "tr": Segment(0x20, draw(st.sampled_from((0, 0x8000, 0xFFFFFFFFFFFF0000))), draw(st.sampled_from((0, 0x67,
                                                                                                          0xFFFF))),
                      draw(st.sampled_from((0x8B, 0x83, 0x8B, 0x81, 0x82, 0x0B)))),
    }
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        rights = draw(st.sampled_from((0x9B, 0x93, 0xC09B, 0xC093, 0xA09B, 0xC0FB, 0xC0F3, 0xA0FB, 0x97, 0x10000, 0xF3,
                                       0x9F)))
        limit = draw(st.sampled_from((0xFFFF, 0xFFFFFFFF, 0, 0xFFF)))
        registers[name] = Segment(draw(st.sampled_from((0, 8, 0x2B, 0xFFFF))), draw(st.sampled_from((0, 0, 0x10000,
                                                                                                     0xFFFF0000))),
                                  limit, rights)
    return registers


@pytest.fixture(scope="module")
def shared():
    box = VcpuBox()
    yield box
    box.close()


@settings(max_examples=300)
@given(registers=states(), code=st.binary(min_size=1, max_size=12))
def test_whatever_passes_the_rules_runs(shared, registers, code):
    """To its budget, an exit, or a triple fault; never to an error of ours or of the engine."""
    vcpu = shared.vcpu()
    for name, value in registers.items():
        setattr(vcpu.state, name, value)
    shared.put(code)
    shared.exits.clear()
    shared.go(vcpu, 5000)
    failed = [exit for exit in shared.exits if exit.reason is ExitReason.ENTRY_FAILURE_GUEST_STATE]
    assert bool(failed) is bool(vcpu.broken_rules)


@pytest.mark.parametrize("event", [
    Event(14, EventKind.EXCEPTION, 5), Event(6, EventKind.EXCEPTION), Event(0x20, EventKind.EXTERNAL), Event(2,
                                                                                                             EventKind.NMI),
    Event(0x80, EventKind.SOFTWARE_INTERRUPT, None, 2), Event(3, EventKind.SOFTWARE_EXCEPTION, None, 1)])
def test_an_event_is_the_same_after_going_through_its_field(event):
    assert event_of(info_of(event), event.error_code or 0, event.instruction_length) == event

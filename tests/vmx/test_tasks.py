"""Task switches, which always exit, and what is like one and is none: call gates and IRET.

SDM "Task Switching", "Treatment of Task Switches", "Call Gates", "IRET/IRETD/IRETQ - Interrupt Return".
"""

from __future__ import annotations

import random

import pytest

from hv.machine import context as at
from hv.machine.registers import Segment, Table
from hv.machine.svm import Intercept
from hv.machine.traps import Trap
from hv.spec.exits import ExitReason as R
from hv.spec.exits import TaskSwitchQualification, TaskSwitchSource
from hv.vmx.vcpu import Vcpu
from tests.machine.engine_box import CODE, GDT, USER_CODE_32, USER_DATA
from tests.proves import proves
from tests.vmx.vcpu_box import VcpuBox, vector_at

TSS, OTHER, GATE, CONFORMING = 0x40, 0x48, 0x50, 0x58       # selectors; the descriptors are made by `a_vcpu`
NEW_TSS, POINTER, STACK, NT, VM, IF = 0x9000, 0x22000, 0x30000, 1 << 14, 1 << 17, 1 << 9
AVAILABLE, BUSY, AVAILABLE_16, TASK_GATE, CALL_GATE, CALL_GATE_16 = 0x89, 0x8B, 0x81, 0x85, 0x8C, 0x84


def descriptor(rights: int, base: int = NEW_TSS, limit: int = 0x67) -> int:
    return limit & 0xFFFF | (base & 0xFFFFFF) << 16 | rights << 40 | (base >> 24) << 56


def gate(rights: int, selector: int, offset: int = 0, count: int = 0) -> int:
    return offset & 0xFFFF | selector << 16 | count << 32 | rights << 40 | (offset >> 16) << 48


def a_vcpu(box: VcpuBox, bits: int = 32, user: bool = False, **descriptors: int) -> Vcpu:
    """A vcpu with an available TSS at TSS; *descriptors* are put at the selectors of these names."""
    vcpu = box.vcpu(bits, user)
    entries = {TSS: descriptor(AVAILABLE), CONFORMING: 0x00CF9F000000FFFF}
    entries |= {globals()[name]: raw for name, raw in descriptors.items()}
    for selector, raw in entries.items():
        box.memory.write_u64(GDT + selector, raw)
    vcpu.state.gdtr = Table(GDT, 0x5F)
    return vcpu


def far(source: TaskSwitchSource, selector: int, indirect: bool = False) -> bytes:
    """JMP or CALL *selector*:0x1234, by 32-bit code."""
    jump = source is TaskSwitchSource.JMP
    if indirect:
        return (b"\xff\x2d" if jump else b"\xff\x1d") + POINTER.to_bytes(4, "little")
    return (b"\xea" if jump else b"\x9a") + (0x1234).to_bytes(4, "little") + selector.to_bytes(2, "little")


def go(box: VcpuBox, vcpu: Vcpu, code: bytes) -> None:
    box.memory.write(POINTER, (0x1234).to_bytes(4, "little") + code[-2:])
    box.put(code, 32)
    box.go(vcpu)


# --- what exits ------------------------------------------------------------------------------------------

@proves("instruction/FAR_JMP", "instruction/FAR_CALL", "exit/TASK_SWITCH")
@pytest.mark.parametrize("source", [TaskSwitchSource.JMP, TaskSwitchSource.CALL])
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("selector", [TSS, GATE], ids=["tss", "task-gate"])
def test_a_far_jump_or_call_to_a_task_exits_and_changes_nothing(box, source, indirect, selector):
    vcpu = a_vcpu(box, GATE=gate(TASK_GATE, TSS))
    box.memory.write(POINTER, (0x1234).to_bytes(4, "little") + selector.to_bytes(2, "little"))
    box.put(far(source, selector, indirect), 32)
    before = box.memory.read(0x7000, 0x3000)
    box.go(vcpu)
    exit = box.exits[0]
    assert (exit.reason, exit.instruction_length) == (R.TASK_SWITCH, 6 if indirect else 7)
    assert TaskSwitchQualification(exit.qualification) == TaskSwitchQualification(selector=TSS, source=int(source))
    assert (vcpu.state.rip, vcpu.state.tr.selector, vcpu.state.cr0 & 8) == (CODE, 0x20, 0)
    assert box.memory.read(0x7000, 0x3000) == before


@proves("instruction/IRET", "exit/TASK_SWITCH")
def test_iret_with_nested_task_exits(box):
    """The back link of the current TSS leads to a busy one."""
    vcpu = a_vcpu(box, OTHER=descriptor(BUSY))
    box.memory.write(0x8000, OTHER.to_bytes(2, "little"))
    vcpu.state.rflags |= NT
    go(box, vcpu, b"\xcf")
    assert (box.exits[0].reason, box.exits[0].instruction_length) == (R.TASK_SWITCH, 1)
    assert box.exits[0].qualification == OTHER | TaskSwitchSource.IRET << 30


def test_a_16_bit_tss_is_one_too(box):
    go(box, a_vcpu(box, TSS=descriptor(AVAILABLE_16, limit=0x2B)), far(TaskSwitchSource.JMP, TSS))
    assert box.exits[0].reason is R.TASK_SWITCH


def test_the_hypervisor_ends_a_guest_that_asks_for_one():
    from tests.guest_runner import run_guest

    result = run_guest("mov dword ptr [0x70030], 0x90000067; mov dword ptr [0x70034], 0x8900; sub esp, 8;"
                       "mov word ptr [esp], 0x37; mov dword ptr [esp + 2], 0x70000; lgdt [esp]; jmp 0x30:0", 32)
    assert (result.ended, result.why) == (
        "error", "vp 0: the guest asks for a task switch to selector 0x30, which is not supported")


@pytest.mark.parametrize(("bits", "efer"), [(32, 0), (64, 0xD00)])
def test_a_guest_does_not_see_how_the_engine_is_kept_from_it(box, bits, efer):
    vcpu = a_vcpu(box, bits)
    assert (vcpu.state.efer, vcpu.state.in_long_mode) == (efer, bits == 64)
    vcpu.state.efer = 0x501
    assert (vcpu.state.efer, vcpu.state.in_long_mode) == (0x501, True)


# --- what is checked before ----------------------------------------------------------------------------------

CALL = TaskSwitchSource.CALL
CHECKS = {
    "busy": (TSS, {"TSS": descriptor(BUSY)}, False, (13, TSS)),
    "not-present": (TSS, {"TSS": descriptor(AVAILABLE & 0x7F)}, False, (11, TSS)),
    "limit": (TSS, {"TSS": descriptor(AVAILABLE, limit=0x66)}, False, (10, TSS)),
    "limit-16": (TSS, {"TSS": descriptor(AVAILABLE_16, limit=0x2A)}, False, (10, TSS)),
    "tss-privilege": (TSS, {}, True, (13, TSS)),
    "tss-requested-privilege": (TSS | 3, {}, False, (13, TSS)),
    "gate-privilege": (GATE, {"GATE": gate(TASK_GATE, TSS)}, True, (13, GATE)),
    "gate-not-present": (GATE, {"GATE": gate(TASK_GATE & 0x7F, TSS)}, False, (11, GATE)),
    "gate-to-the-ldt": (GATE, {"GATE": gate(TASK_GATE, TSS | 4)}, False, (13, TSS | 4)),
    "gate-beyond-the-limit": (GATE, {"GATE": gate(TASK_GATE, 0x60)}, False, (13, 0x60)),
    "gate-to-a-busy-one": (GATE, {"GATE": gate(TASK_GATE, 0x20)}, False, (13, 0x20)),
    "gate-to-code": (GATE, {"GATE": gate(TASK_GATE, 0x18)}, False, (13, 0x18)),
    "an-ldt": (GATE, {"GATE": descriptor(0x82)}, False, (13, GATE)),
    "an-interrupt-gate": (GATE, {"GATE": gate(0x8E, 0x18)}, False, (13, GATE)),
}


def fault(box: VcpuBox, vcpu: Vcpu) -> tuple[int | None, int]:
    """The vector whose handler it halted in, and the error code on the stack."""
    return vector_at(vcpu), box.memory.read_u32(vcpu.state.rsp)


@pytest.mark.parametrize("rule", CHECKS)
def test_what_may_not_be_switched_to_faults_instead(box, rule):
    selector, descriptors, user, expected = CHECKS[rule]
    vcpu = a_vcpu(box, user=user, **descriptors)
    go(box, vcpu, far(CALL, selector))
    assert (box.exits[0].reason, *fault(box, vcpu)) == (R.HLT, *expected)


@pytest.mark.parametrize("rights", [AVAILABLE, BUSY & 0x7F, 0x9B], ids=["not-busy", "not-present", "code"])
def test_iret_checks_the_task_it_returns_to(box, rights):
    vcpu = a_vcpu(box, OTHER=descriptor(rights))
    box.memory.write(0x8000, OTHER.to_bytes(2, "little"))
    vcpu.state.rflags |= NT
    go(box, vcpu, b"\xcf")
    assert fault(box, vcpu) == (11 if rights == BUSY & 0x7F else 10, OTHER)


def test_an_event_checks_the_task_of_its_gate_with_ext_set(box):
    vcpu = a_vcpu(box)
    box.memory.write_u64(0x50000 + 6 * 8, gate(0xE5, 0x20))
    go(box, vcpu, b"\x0f\x0b")
    assert fault(box, vcpu) == (13, 0x21)


@pytest.mark.parametrize(("code", "expected"), [(b"\xff\x2c\x25" + POINTER.to_bytes(4, "little"), (13, TSS)),
                                                (b"\x48\xcf", (13, 0))], ids=["jmp", "iret"])
def test_in_ia_32e_mode_there_are_no_tasks(box, code, expected):
    vcpu = a_vcpu(box, 64)
    vcpu.state.rflags |= NT
    box.memory.write(POINTER, (0x1234).to_bytes(4, "little") + TSS.to_bytes(2, "little"))
    box.put(code)
    box.go(vcpu)
    assert fault(box, vcpu) == expected


# --- call gates --------------------------------------------------------------------------------------------

def test_a_jump_through_a_call_gate(box):
    vcpu = a_vcpu(box, GATE=gate(CALL_GATE, 0x18, CODE + 0x100))
    box.put(b"\xf4", 32, CODE + 0x100)
    go(box, vcpu, far(TaskSwitchSource.JMP, GATE))
    assert (vcpu.state.rip, vcpu.state.cs.selector, vcpu.state.rsp) == (CODE + 0x100, 0x18, STACK)


@pytest.mark.parametrize(("rights", "width"), [(CALL_GATE, 4), (CALL_GATE_16, 2)])
def test_a_call_through_a_call_gate_pushes_words_of_the_gate(box, rights, width):
    offset = 0x8100 if width == 2 else CODE + 0x100
    vcpu = a_vcpu(box, GATE=gate(rights, 0x18, offset))
    box.put(b"\xf4", 32, offset)
    go(box, vcpu, far(CALL, GATE))
    assert (vcpu.state.rip, vcpu.state.rsp) == (offset, STACK - 2 * width)
    assert box.memory.read(STACK - 2 * width, width) == (CODE + 7 & (1 << 8 * width) - 1).to_bytes(width, "little")
    assert box.memory.read(STACK - width, width) == (0x18).to_bytes(width, "little")


def test_a_call_to_an_inner_level_takes_the_stack_of_the_tss_and_the_parameters(box):
    """Selector, pointer and words of the caller's stack are pushed, then the return address."""
    vcpu = a_vcpu(box, user=True, GATE=gate(CALL_GATE | 0x60, 0x18, CODE + 0x100, count=2))
    box.memory.write(STACK, bytes.fromhex("11111111 22222222"))
    box.put(b"\xf4", 32, CODE + 0x100)
    go(box, vcpu, far(CALL, GATE | 3))
    pushed = [int.from_bytes(box.memory.read(vcpu.state.rsp + 4 * n, 4), "little") for n in range(6)]
    assert pushed == [CODE + 7, 0x2B, 0x11111111, 0x22222222, STACK, 0x33]
    assert (vcpu.state.cpl, vcpu.state.cs.selector, vcpu.state.ss.selector, vcpu.state.rsp) == (0, 0x18, 0x10,
                                                                                                0x40000 - 24)


def test_a_conforming_segment_keeps_the_level(box):
    vcpu = a_vcpu(box, user=True, GATE=gate(CALL_GATE | 0x60, CONFORMING, CODE + 0x100))
    box.put(b"\x0f\x0b", 32, CODE + 0x100)
    go(box, vcpu, far(CALL, GATE))
    assert vector_at(vcpu) == 6
    assert box.memory.read_u32(vcpu.state.rsp + 4) == CONFORMING | 3


GATES = {
    "gate-privilege": (gate(CALL_GATE, 0x18), True, (13, GATE)),
    "gate-not-present": (gate(CALL_GATE & 0x7F, 0x18), False, (11, GATE)),
    "null-code": (gate(CALL_GATE, 0), False, (13, 0)),
    "beyond-the-limit": (gate(CALL_GATE, 0x60), False, (13, 0x60)),
    "data": (gate(CALL_GATE, 0x10), False, (13, 0x10)),
    "outer-code": (gate(CALL_GATE, 0x38), False, (13, 0x38)),
    "code-not-present": (gate(CALL_GATE, OTHER), False, (11, OTHER)),
    "beyond-the-code": (gate(CALL_GATE, TSS, 0x1000), False, (13, 0)),
}


@pytest.mark.parametrize("rule", GATES)
def test_a_call_gate_is_checked(box, rule):
    raw, user, expected = GATES[rule]
    vcpu = a_vcpu(box, user=user, GATE=raw, OTHER=0x00CF1B000000FFFF, TSS=0x00409B0000000FFF)
    box.memory.write_u64(GDT + 0x38, 0x00CFFB000000FFFF)
    go(box, vcpu, far(CALL, GATE))
    assert fault(box, vcpu) == expected


# --- IRET --------------------------------------------------------------------------------------------------

def test_a_kernel_returns_to_virtual_8086_mode(box):
    vcpu = a_vcpu(box)
    frame = (0x10, 0x1200, VM | IF | 2, 0x7000, 0x1300, 0x1400, 0x1500, 0x1600, 0x1700)
    box.memory.write(STACK, b"".join(word.to_bytes(4, "little") for word in frame))
    box.put(b"\x0f\x0b", 16, 0x12010)
    go(box, vcpu, b"\xcf")
    assert vector_at(vcpu) == 6
    saved = [int.from_bytes(box.memory.read(vcpu.state.rsp + 4 * n, 4), "little") for n in range(9)]
    assert saved == [0x10, 0x1200, VM | IF | 1 << 16 | 2, 0x7000, 0x1300, 0x1400, 0x1500, 0x1600, 0x1700]


def test_a_user_does_not_return_to_virtual_8086_mode(box):
    """VM in the image is ignored at CPL 3: it would come with an IOPL of the user's choice."""
    vcpu = a_vcpu(box, user=True)
    frame = (CODE + 0x100, 0x2B, VM | 0x3000 | 2, 0x7000, 0x1300, 0, 0, 0, 0)
    box.memory.write(STACK, b"".join(word.to_bytes(4, "little") for word in frame))
    box.put(b"\x0f\x0b", 32, CODE + 0x100)
    go(box, vcpu, b"\xcf")
    assert (vector_at(vcpu), box.memory.read_u32(vcpu.state.rsp + 8) & (VM | 0x3000)) == (6, 0)


SELECTORS = (0x18,) * 6 + (0x2B,) * 6 + (CONFORMING | 3, 0, 0x10, 0x1B, OTHER, 0x60, 0x29)
STACKS = (0x33,) * 8 + (0x10, 0, 0x30, 0x2B, 0x60)


def returned(box: VcpuBox, vcpu: Vcpu) -> tuple[object, ...]:
    """One IRET, to HLT at CPL 0 or its #GP at CPL 3: the registers after it, or the fault."""
    found: list[object] = []

    def on_trap(trap: Trap, detail: int) -> bool:
        if trap is Trap.IRET:
            return vcpu._on_trap(trap, detail)
        found.extend((trap, detail, box.engine.error_code()) if trap is Trap.EXCEPTION else (trap,))
        return False

    box.exits.clear()
    inject = vcpu.take
    vcpu.take = lambda event: found.extend((Trap.EXCEPTION, event.vector, event.error_code)) or False
    box.engine.on_trap = on_trap
    box.run(vcpu.state)
    vcpu.take = inject
    state = vcpu.state
    return (*found, state.rip, state.rsp, state.rflags, state.cpl, state.cs, state.ss, state.ds.usable)


@pytest.mark.parametrize("seed", range(30))
def test_iret_returns_as_the_engine_does(box, seed):
    """Without NT; VIF and VIP are left out, which the engine never loads."""
    rng = random.Random(seed)
    for _ in range(10):
        user, width = rng.random() < 0.3, rng.choice((2, 4, 4))
        words = (rng.choice((0x100, CODE + 0x100)), rng.choice(SELECTORS), rng.getrandbits(22) & 0x24_7CD5 | 2,
                 rng.choice((0x2F000, 0x2F123)), rng.choice(STACKS))
        flags = 2 | rng.choice((0, 0x3000)) | rng.getrandbits(12) & 0xCD5
        outcomes = []
        for software in (False, True):
            vcpu = a_vcpu(box, user=user, OTHER=0x00CF1B000000FFFF)
            state = vcpu.state
            state.cs, state.ds = USER_CODE_32 if user else state.cs, USER_DATA if user else Segment(
                0x10, 0, 0xFFFFFFFF, 0xC093)
            state.rflags = flags
            box.memory.write(STACK, b"".join(word.to_bytes(4, "little")[:width] for word in words))
            for target in (0x100, CODE + 0x100):
                box.put(b"\xf4", 32, target)
            box.put((b"\x66" if width == 2 else b"") + b"\xcf", 32)
            if not software:
                state.words[at.INTERCEPT // 8] &= ~Intercept.IRET.value
            outcomes.append(returned(box, vcpu))
        assert outcomes[0] == outcomes[1], (user, width, [hex(word) for word in words], hex(flags))

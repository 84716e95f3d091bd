"""Delivery of external interrupts, ours against the engine's own (its event injection, written in C).

The engine sets no EXT bit and counts 16 bytes per vector in long-mode error codes, so of a fault the vector and the
selector are compared. With an IST at the same level it nulls SS, which the manual leaves; SS is not compared there.
A stack segment that is not present is #TS to the engine and #SS to the manual, and is left out.
"""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import UC_ARCH_X86, UC_HOOK_INTR, UC_MODE_64, Uc, UcError
from unicorn import x86_const as ux
from unicorn.unicorn_py3.unicorn import uclib

from hv.machine import context
from hv.machine.faults import GuestFault
from hv.machine.idt import Event, EventKind, deliver
from hv.machine.registers import Segment, Table
from hv.machine.state import ProcessorState
from hv.spec.x86 import SystemType, Tss32, Tss64
from tests.machine.fakes import FakeState
from tests.machine.test_idt import (
    ABSENT_CS,
    CONFORMING_CS,
    GATE,
    GATE_16,
    IDT,
    KERNEL_CS,
    KERNEL_SS,
    READ_ONLY_SS,
    SS_16,
    TRAP,
    TSS,
    USER_CS,
    USER_SS,
    Box,
)

VMCB, PERMISSIONS, STUB, HANDLER, VECTOR = 0x20000, 0x22000, 0x24000, 0x1234, 0x41
CODE = (KERNEL_CS,) * 6 + (CONFORMING_CS,) * 3 + (USER_CS | 3, ABSENT_CS, KERNEL_SS, 0, 0x60)
STACKS = (KERNEL_SS,) * 4 + (SS_16,) * 3 + (USER_SS, READ_ONLY_SS, KERNEL_SS | 3, 0)
EXTERNAL_INJECTION = 1 << 31
SAVED_SEGMENTS = {"es": 0x400, "cs": 0x410, "ss": 0x420, "ds": 0x430, "fs": 0x440, "gs": 0x450, "ldtr": 0x470,
                  "tr": 0x490}


def control_block(state: FakeState) -> bytes:
    """What VMLOAD and VMRUN read: *state*, one event, every exception and CPUID intercepted."""
    block = bytearray(0x1000)
    for offset, form, value in (
        (0x08, "<I", 0xFFFFFFFF), (0x0C, "<I", 1 << 18), (0x10, "<I", 1), (0x48, "<Q", PERMISSIONS), (0x58, "<I", 1),
        (0xA8, "<I", EXTERNAL_INJECTION | VECTOR), (0x4CB, "<B", state.cpl), (0x4D0, "<Q", state.efer | 1 << 12),
        (0x548, "<Q", state.cr4), (0x550, "<Q", state.cr3), (0x558, "<Q", state.cr0), (0x560, "<Q", state.dr7),
        (0x568, "<Q", state.dr6), (0x570, "<Q", state.rflags), (0x578, "<Q", state.rip), (0x5D8, "<Q", state.rsp),
        (0x464, "<I", state.gdtr.limit), (0x468, "<Q", state.gdtr.base), (0x484, "<I", state.idtr.limit),
        (0x488, "<Q", state.idtr.base),
    ):
        struct.pack_into(form, block, offset, value)
    for name, offset in SAVED_SEGMENTS.items():
        segment: Segment = getattr(state, name)
        attributes = segment.rights & 0xFF | segment.rights >> 4 & 0xF00
        if name == "tr":
            attributes &= ~2        # the engine keeps its TR not busy, and aborts the process otherwise
        struct.pack_into("<HHIQ", block, offset, segment.selector, attributes, segment.limit, segment.base)
    return bytes(block)


class Oracle:
    """An engine that takes one injected interrupt and stops in the handler, or at the fault."""

    def __init__(self) -> None:
        self.uc = Uc(UC_ARCH_X86, UC_MODE_64)
        self.uc.ctl_set_cpu_model(context.CPU_MODEL)
        self.uc.ctl_set_tcg_buffer_size(4 << 20)
        self.uc.mem_map(0, 0x40000)
        self.uc.ctl_exits_enabled(True)         # no `until` address to probe
        self.uc.hook_add(UC_HOOK_INTR, self._on_intercept)
        self.uc.msr_write(0xC0000080, self.uc.msr_read(0xC0000080) | 1 << 12)
        self.uc.msr_write(0xC0010117, 0x26000)
        self.start, self.end = context.allocate(self.uc), context.allocate(self.uc)
        uclib.uc_context_save(self.uc._uch, self.start)
        self.number = 0

    def _on_intercept(self, uc: Uc, number: int, _: object) -> None:
        self.number = number
        uclib.uc_context_save(uc._uch, self.end)
        uc.emu_stop()

    def run(self, state: FakeState, ram: bytes) -> tuple[int, int] | ProcessorState:
        uclib.uc_context_restore(self.uc._uch, self.start)
        self.uc.mem_write(0, ram)
        self.uc.mem_write(VMCB, control_block(state))
        self.uc.mem_write(PERMISSIONS, b"\xff" * 0x2000)
        self.uc.mem_write(STUB, b"\x0f\x01\xda\x0f\x01\xd8")     # VMLOAD, VMRUN
        self.uc.reg_write(ux.UC_X86_REG_CR4, state.cr4)
        self.uc.reg_write(ux.UC_X86_REG_RAX, VMCB)
        self.number = 0
        with contextlib.suppress(UcError):
            self.uc.emu_start(STUB, 0x3F000)
        if self.number == 0x172:
            return ProcessorState(self.end, lambda _: 2, lambda: None)
        view = context.view(self.end)
        code = int.from_bytes(view[context.ERROR_CODE : context.ERROR_CODE + 4], "little")
        return self.number - 0x140, code


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """A processor of either mode, some stack, some gate for VECTOR to some code, some TSS."""
    long = draw(st.booleans())
    box = Box(long, draw(st.sampled_from((0, 3))))
    state = box.state
    state.rsp -= draw(st.integers(0, 40))
    state.rflags |= draw(st.integers(0, 0xFFF)) & 0x4D5 | draw(st.sampled_from((0, 1 << 18, 1 << 14, 1 << 12)))
    types = (GATE, GATE, GATE, TRAP, TRAP, *(() if long else (GATE_16, SystemType.TRAP_GATE16)), SystemType.LDT)
    present = draw(st.integers(0, 19)) != 7
    ist = draw(st.sampled_from((0, 0, 1))) if long else 0
    box.gate(VECTOR, draw(st.sampled_from(types)), draw(st.sampled_from(CODE)), HANDLER, ist=ist, present=int(present))
    esp0 = 0x8000 - draw(st.integers(0, 40))
    if long:
        box.put(TSS, Tss64(rsp0=esp0, ist1=0x9008).pack())
    elif draw(st.booleans()):
        box.put(TSS, Tss32(esp0=esp0, ss0=draw(st.sampled_from(STACKS))).pack())
    else:
        box.put(TSS, struct.pack("<HHH", 0, esp0, draw(st.sampled_from(STACKS))))
        state.tr = Segment(0x60, TSS, 0x2B, 0x83)
    limits = ((VECTOR + 1) * (16 if long else 8) - 1,) * 12 + (VECTOR * (16 if long else 8) + 3,)
    state.idtr = Table(IDT, draw(st.sampled_from(limits)))
    box.put(HANDLER, b"\x0f\xa2")        # CPUID, which any level may try
    return box


@settings(max_examples=400)
@given(box=boxes())
def test_random_gates_and_stacks_deliver_as_the_engine_delivers(oracle, box):
    state, before = box.state, bytes(box.memory.data)
    old_cpl, ist = state.cpl, box.memory.load(IDT + 16 * VECTOR + 4, 1) & 7 if box.long else 0
    answer = oracle.run(state, before)
    try:
        deliver(state, box.memory.linear(state), Event(VECTOR, EventKind.EXTERNAL))
    except GuestFault as fault:
        compared = (fault.vector, (fault.error_code or 0) & ~1)
    else:
        compared = None
    if isinstance(answer, tuple):
        vector, code = answer
        assert compared == (vector, VECTOR * 8 + 2 if code == VECTOR * 16 + 2 else code)
        return
    assert compared is None
    assert (state.rip, state.rsp, state.cpl, state.rflags) == (answer.rip, answer.rsp, answer.cpl, answer.rflags)
    assert state.cs.selector == answer.cs.selector
    if not (ist and state.cpl == old_cpl):
        assert state.ss.selector == answer.ss.selector
    stack = slice(0x7000, 0xB000)
    assert box.memory.data[stack] == oracle.uc.mem_read(0x7000, 0x4000)

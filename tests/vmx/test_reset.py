"""The registers after INIT and SIPI; SDM "Processor State After Reset"."""

from __future__ import annotations

import pytest

from hv.machine.registers import Segment, Table
from hv.vmx.reset import init_registers, startup_registers


@pytest.mark.parametrize("before", [16, 32, 64])
def test_init_leaves_the_same_registers_whatever_was_before(box, before):
    state = box.state(before, user=before != 16)
    state.rax, state.rflags, state.interrupt_shadow, state.dr0 = 7, 0xED7, True, 9
    init_registers(state)
    assert (state.rip, state.rflags, state.rax, state.cpl, state.bits) == (0xFFF0, 2, 0, 0, 16)
    assert (state.cr0, state.cr3, state.cr4, state.efer) == (0x60000010, 0, 0, 0)
    assert state.cs == Segment(0xF000, 0xFFFF0000, 0xFFFF, 0x9B)
    assert state.ss == state.ds == state.gs == Segment(0, 0, 0xFFFF, 0x93)
    assert state.idtr == state.gdtr == Table(0, 0xFFFF)
    assert (state.dr0, state.dr6, state.dr7) == (0, 0xFFFF0FF0, 0x400)
    assert state.rdx >> 8 & 0xF == 6
    assert not state.interrupt_shadow


@pytest.mark.parametrize("vector", [0, 8, 0x9F, 0xFF])
def test_sipi_starts_at_the_page_of_its_vector(box, vector):
    state = box.state(16)
    startup_registers(state, vector)
    assert (state.cs.selector, state.cs.base, state.rip) == (vector << 8, vector << 12, 0)


def test_a_processor_that_was_started_runs_there(box):
    vcpu = box.vcpu(16)
    init_registers(vcpu.state)
    startup_registers(vcpu.state, 0x10)
    box.fix(vcpu)
    box.put("mov ax, cs; hlt", 16)
    box.go(vcpu)
    assert vcpu.state.rax == 0x1000

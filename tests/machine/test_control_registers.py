"""#GP(0) of MOV to CR0 and CR4; SDM "MOV - Move to/from Control Registers"."""

from __future__ import annotations

import pytest

from hv.machine.control_registers import CR4_SUPPORTED, check_cr0, check_cr4
from hv.machine.faults import GuestFault
from hv.machine.registers import Segment
from hv.spec.x86 import Cr4
from tests.machine.fakes import FLAT_CODE_32, FLAT_CODE_64, FakeState
from tests.proves import proves

PE, NW, CD, PG, ET = 1, 1 << 29, 1 << 30, 1 << 31, 0x10
PAE, LME, LMA = 0x20, 0x100, 0x400


def refused(check, state: FakeState, value: int) -> bool:
    try:
        check(state, value)
    except GuestFault as fault:
        return (fault.vector, fault.error_code) == (13, 0)
    return False


LONG = {"cr0": PG | PE | ET, "cr4": PAE, "efer": LME | LMA, "cs": FLAT_CODE_64}
COMPATIBILITY = LONG | {"cs": FLAT_CODE_32}
PROTECTED = {"cr0": PE | ET, "cs": FLAT_CODE_32}

CR0_RULES = {
    "bits 63:32": (PROTECTED, PE | 1 << 32), "pg-without-pe": ({}, PG), "nw-without-cd": (PROTECTED, PE | NW),
    "lme-without-pae": (PROTECTED | {"efer": LME}, PE | PG),
    "lme-with-64-bit-cs": (PROTECTED | {"efer": LME, "cr4": PAE, "cs": FLAT_CODE_64}, PE | PG),
    "pg-off-in-64-bit-code": (LONG, PE), "pe-off-with-pg": (COMPATIBILITY, PG),
}
CR0_ALLOWED = {
    "pe-on": ({}, PE), "pe-off": (PROTECTED, ET), "pg-on": (PROTECTED, PE | PG), "cd-alone": (PROTECTED, PE | CD),
    "cd-and-nw": (PROTECTED, PE | CD | NW), "long-mode-on": (PROTECTED | {"efer": LME, "cr4": PAE}, PE | PG),
    "pg-off-in-compatibility-mode": (COMPATIBILITY, PE), "unchanged": (LONG, PG | PE | ET),
    "reserved-low-bits": (PROTECTED, PE | 0x1000),
}


@pytest.mark.parametrize("name", CR0_RULES)
def test_cr0_refuses(name):
    registers, value = CR0_RULES[name]
    assert refused(check_cr0, FakeState(**registers), value)


@pytest.mark.parametrize("name", CR0_ALLOWED)
def test_cr0_takes(name):
    registers, value = CR0_ALLOWED[name]
    assert not refused(check_cr0, FakeState(**registers), value)


def _offered(bit: int) -> object:
    """The bit, with the row of `docs/fidelity.md` that it stands for, unless that has a better test."""
    known = 1 << bit in (Cr4.VME, Cr4.PVI, Cr4.MCE, Cr4.PGE, Cr4.OSFXSR, Cr4.OSXMMEXCPT)
    return pytest.param(bit, marks=proves(f"cr4/{Cr4(1 << bit).name}")) if known else bit


@pytest.mark.parametrize("bit", [_offered(bit) for bit in range(64)])
def test_cr4_takes_the_bits_that_the_processor_has(bit):
    assert refused(check_cr4, FakeState(cs=Segment(0, 0, 0xFFFF, 0x9B)), 1 << bit) is not bool(CR4_SUPPORTED >> bit & 1)


def test_cr4_keeps_pae_in_long_mode():
    assert refused(check_cr4, FakeState(**LONG), 0)
    assert not refused(check_cr4, FakeState(**LONG), PAE | 0x600)

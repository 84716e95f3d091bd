"""The time-stamp counter of a guest: scaled, then offset, whichever way it is read."""

from __future__ import annotations

import pytest

from hv.spec.msrs import Msr
from hv.spec.vmcs import PrimaryControls, SecondaryControls, VmcsField
from tests.machine.engine_box import DATA
from tests.proves import proves
from tests.vmx.vcpu_box import MSR_BITMAP

F, P, S = VmcsField, PrimaryControls, SecondaryControls
STORE = f"mov [{DATA}], eax; mov [{DATA + 4}], edx; hlt"
READ = {"rdtsc": "rdtsc; ", "rdtscp": "rdtscp; ", "rdmsr": f"mov ecx, {int(Msr.TSC)}; rdmsr; "}
OFFSETS, SCALES, DOUBLE, HALF = P.USE_TSC_OFFSETTING, S.USE_TSC_SCALING, 2 << 48, 1 << 47
MINUS = (1 << 64) - 0x1_0000_0000


def counters(box, way: str, offset: int, multiplier: int, primary: int, secondary: int) -> tuple[int, int]:
    """What the guest read, and the machine's counter when it halted."""
    vcpu = box.vcpu()
    primary |= vcpu.controls.primary & ~P.RDTSC_EXITING | P.USE_MSR_BITMAPS
    secondary |= vcpu.controls.secondary | S.ENABLE_RDTSCP
    for field, value in ((F.PRIMARY_PROC_CONTROLS, primary), (F.SECONDARY_PROC_CONTROLS, secondary),
                         (F.TSC_OFFSET, offset), (F.TSC_MULTIPLIER, multiplier), (F.MSR_BITMAP, MSR_BITMAP)):
        vcpu.vmcs.write(field, value)
    box.clock.advance(1_000_000)
    box.put(READ[way] + STORE)
    box.go(vcpu)
    return box.memory.read_u64(DATA), box.clock.tsc


@proves("control/PrimaryControls.USE_TSC_OFFSETTING", "control/SecondaryControls.USE_TSC_SCALING", "instruction/RDTSC",
        "instruction/RDTSCP", "instruction/RDMSR")
@pytest.mark.parametrize("way", READ)
@pytest.mark.parametrize(("offset", "multiplier", "primary", "secondary", "expected"), [
    (0, 0, 0, 0, lambda tsc: tsc),
    (5 << 40, 0, OFFSETS, 0, lambda tsc: tsc + (5 << 40)),
    (5 << 40, DOUBLE, 0, SCALES, lambda tsc: tsc),                      # without offsetting neither counts
    (5 << 40, DOUBLE, OFFSETS, 0, lambda tsc: tsc + (5 << 40)),
    (0, DOUBLE, OFFSETS, SCALES, lambda tsc: 2 * tsc),
    (7 << 40, HALF, OFFSETS, SCALES, lambda tsc: tsc // 2 + (7 << 40)),
    (0, (1 << 64) - 1, OFFSETS, SCALES, lambda tsc: (tsc * ((1 << 64) - 1) >> 48) % (1 << 64)),
    (MINUS, 0, OFFSETS, 0, lambda tsc: tsc - 0x1_0000_0000 & (1 << 64) - 1),
], ids=["plain", "offset", "scaling alone", "multiplier alone", "scaled", "both", "largest", "below zero"])
def test_the_counter_is_scaled_and_then_offset(box, way, offset, multiplier, primary, secondary, expected):
    """SDM "Time-Stamp Counter Offset and Multiplier": (TSC * multiplier) >> 48, plus the offset."""
    read, after = counters(box, way, offset, multiplier, primary, secondary)
    candidates = range(after - 3000, after + 1)
    assert any(expected(tsc) == read for tsc in candidates)


@proves("control/SecondaryControls.USE_TSC_SCALING")
def test_the_secondary_controls_count_only_when_they_are_activated(box):
    vcpu = box.vcpu()
    vcpu.vmcs.write(F.TSC_MULTIPLIER, DOUBLE)
    vcpu.vmcs.write(F.SECONDARY_PROC_CONTROLS, SCALES)
    vcpu.vmcs.write(F.PRIMARY_PROC_CONTROLS, (vcpu.controls.primary | OFFSETS) & ~P.ACTIVATE_SECONDARY_CONTROLS)
    box.clock.advance(1_000_000)
    assert vcpu.tsc == box.clock.tsc


@pytest.mark.parametrize("multiplier", [HALF, DOUBLE])
def test_setting_the_counter_takes_the_multiplier_into_account(box, multiplier):
    vcpu = box.vcpu()
    vcpu.vmcs.write(F.TSC_MULTIPLIER, multiplier)
    vcpu.vmcs.write(F.SECONDARY_PROC_CONTROLS, vcpu.controls.secondary | SCALES)
    vcpu.vmcs.write(F.PRIMARY_PROC_CONTROLS, vcpu.controls.primary | OFFSETS)
    box.clock.advance(1_000_000)
    vcpu.set_tsc(77)
    assert vcpu.tsc == 77


def test_wrmsr_of_the_counter_exits_whatever_the_bitmap_says(box):
    _, exit = box.exit_of(f"mov ecx, {int(Msr.TSC)}; wrmsr", fields={
        F.PRIMARY_PROC_CONTROLS: box.vcpu().controls.primary | P.USE_MSR_BITMAPS, F.MSR_BITMAP: MSR_BITMAP})
    assert exit is not None
    assert exit.reason.name == "WRMSR"


@pytest.mark.parametrize(("index", "value"), [(Msr.LSTAR, 1 << 63), (Msr.PAT, 3), (Msr.EFER, 1 << 13)])
def test_an_msr_that_the_bitmap_passes_keeps_its_rules(box, index, value):
    """SDM "WRMSR": #GP(0), through the guest's own IDT."""
    source = f"mov ecx, {int(index)}; mov eax, {value & 0xFFFFFFFF}; mov edx, {value >> 32}; wrmsr"
    vcpu, exit = box.exit_of(source, fields={
        F.PRIMARY_PROC_CONTROLS: box.vcpu().controls.primary | P.USE_MSR_BITMAPS, F.MSR_BITMAP: MSR_BITMAP})
    assert exit is not None
    assert exit.reason.name == "HLT"
    assert vcpu.state.msrs[Msr.LSTAR] == 0


def test_a_bitmap_where_there_is_no_ram_makes_every_access_exit(box):
    _, exit = box.exit_of(f"mov ecx, {int(Msr.STAR)}; rdmsr", fields={
        F.PRIMARY_PROC_CONTROLS: box.vcpu().controls.primary | P.USE_MSR_BITMAPS, F.MSR_BITMAP: 1 << 40})
    assert exit is not None
    assert exit.reason.name == "RDMSR"

"""Registers by name: every name of the manual is provided or absent for a reason, and each value has its form."""

import pytest

from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.hypervisor.registers.absent import REASONS, absent
from hv.hypervisor.registers.table import REGISTERS
from hv.machine.idt import Event, EventKind
from hv.root.winhv import HvError
from hv.spec.fxsave import X87Register
from hv.spec.hv_registers import (
    FpControlStatusRegister,
    FpRegister,
    InterruptStateRegister,
    PendingExceptionEvent,
    PendingInterruptionRegister,
    XmmControlStatusRegister,
)
from hv.spec.hv_registers import (
    HvRegisterName as N,
)
from hv.spec.hv_status import HvStatus
from hv.spec.synic import HvSegmentRegister
from hv.spec.x86 import PAT_RESET
from tests.hypervisor.registers_bench import Bench

WRONG = HvStatus.INVALID_REGISTER_VALUE


@pytest.fixture(scope="module")
def bench():
    made = Bench()
    yield made
    made.close()


def refused(status):
    return pytest.raises(HvError, match=rf": {status.name}$")


# --- which there are ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", list(N), ids=lambda name: name.name)
def test_every_name_of_the_manual_is_provided_or_absent_for_a_reason(bench, name):
    """One that can be read is 16 bytes; one that is absent is INVALID_PARAMETER, as an unknown one."""
    why = absent().get(name)
    assert why is None or len(why) > 10, f"{name.name} is neither provided nor named as absent"
    get, put = REGISTERS.get(int(name), (None, None))
    assert (get is None and put is None) == (why is not None)
    if why is not None:
        with refused(HvStatus.INVALID_PARAMETER):
            bench.get(name)
    elif get is not None:
        assert len(bench.get(name)) == 16
    if put is None:
        with refused(HvStatus.INVALID_PARAMETER):
            bench.set(name, 0)


def test_no_name_is_both_provided_and_absent():
    assert not REGISTERS.keys() & {int(name) for name in REASONS}


@pytest.mark.parametrize("name", [name for name in N if all(REGISTERS.get(int(name), (None, None)))
                                  and name not in (N.TSC, N.ICR, N.APIC_ICR, N.SVERSION)], ids=lambda name: name.name)
def test_a_register_takes_back_what_it_gave(name):
    """What a save reads, a restore writes."""
    made = Bench()
    try:
        before = made.get(name)
        made.set(name, before)
        assert made.get(name) == before
    finally:
        made.close()


def test_an_unknown_name_ends_the_list_and_tells_where(bench):
    """The elements before it are answered; TLFS "HvCallGetVpRegisters"."""
    status, reps = bench.list(N.RAX, 0x7777, N.RBX)
    assert (status, reps) == (HvStatus.INVALID_PARAMETER, 1)


# --- their values -------------------------------------------------------------------------------------------------

ANY = bytes(range(1, 17))


@pytest.mark.parametrize("name", [N.XMM0, N.XMM7, N.XMM8, N.XMM15], ids=lambda name: name.name)
def test_an_xmm_register_is_all_16_bytes(bench, name):
    bench.set(name, ANY)
    assert bench.get(name) == ANY


def test_x87_registers_are_st_0_to_7(bench):
    for n in range(8):
        bench.set(N.FP_MMX0 + n, FpRegister(mantissa=n << 60, biased_exponent=0x8000 | n).pack())
    assert bench.vp.regs.fp.st(5) == X87Register(mantissa=5 << 60, sign_exponent=0x8005).pack()[:10]
    assert bench.get(N.FP_MMX7) == FpRegister(mantissa=7 << 60, biased_exponent=0x8007).pack()


def test_the_control_and_status_of_the_x87_have_the_abridged_tag(bench):
    value = FpControlStatusRegister(fp_control=0x37F, fp_status=0x2841, fp_tag=0x81, last_fp_op=0x123,
                                    last_fp_rip=0x1234_5678_9ABC).pack()
    bench.set(N.FP_CONTROL_STATUS, value)
    assert bench.get(N.FP_CONTROL_STATUS) == value
    assert value[4] == 0x81
    assert (bench.vp.regs.fp.status, bench.vp.regs.fp.tag) == (0x2841, 0x81)


def test_mxcsr_stands_in_bytes_8_to_11_and_the_mask_behind_it(bench):
    bench.set(N.XMM_CONTROL_STATUS, XmmControlStatusRegister(last_fp_rdp=0x55, xmm_status_control=0x1FA0).pack())
    assert bench.get(N.XMM_CONTROL_STATUS) == bytes((0x55, 0, 0, 0, 0, 0, 0, 0, 0xA0, 0x1F, 0, 0, 0xFF, 0xFF, 0, 0))


ILLEGAL = [
    (N.CR0, 1 << 32), (N.CR4, 1 << 13), (N.CR4, 1 << 31), (N.CR3, 1 << 63), (N.CR8, 16), (N.EFER, 2), (N.EFER, 1 << 12),
    (N.RFLAGS, 1 << 22), (N.RFLAGS, 1 << 3), (N.DR6, 1 << 32), (N.DR7, 1 << 32), (N.PAT, 2), (N.PAT, 3 << 56),
    (N.SFMASK, 1 << 32), (N.LSTAR, 1 << 47), (N.CSTAR, 1 << 63), (N.KERNEL_GS_BASE, 1 << 48), (N.SYSENTER_EIP, 1 << 50),
    (N.SYSENTER_ESP, 1 << 50), (N.TSC_AUX, 1 << 32), (N.DEBUG_CTL, 1 << 20), (N.APIC_BASE, 1 << 60),
    (N.INTERMEDIATE_CR0, 1 << 40), (N.INTERMEDIATE_CR3, 1 << 63), (N.INTERMEDIATE_CR4, 1 << 13),
    (N.INTERMEDIATE_CR8, 16), (N.SINT2, 0x0F), (N.EOI, 1 << 32), (N.APIC_TPR, 0x100), (N.APIC_SPURIOUS, 1 << 13),
    (N.APIC_EOI, 1), (N.APIC_LVT_TIMER, 1 << 20), (N.APIC_DIVIDE, 0x10), (N.APIC_ICR, 1 << 20),
    (N.APIC_LVT_LINT0, 1 << 32), (N.APIC_SELF_IPI, 0x41),
    (N.XMM_CONTROL_STATUS, XmmControlStatusRegister(xmm_status_control=1 << 16).pack()),
    (N.DS, HvSegmentRegister(attributes=0x193).pack()), (N.TR, HvSegmentRegister(attributes=0x88B).pack()),
    (N.INTERRUPT_STATE, 4), (N.INTERNAL_ACTIVITY_STATE, 8), (N.EXPLICIT_SUSPEND, 2), (N.INTERCEPT_SUSPEND, 2),
    (N.PENDING_EVENT0, PendingExceptionEvent(event_pending=1, event_type=5, vector=0x30).raw),
    (N.PENDING_EVENT0, PendingExceptionEvent(event_pending=1, vector=0x130).raw),
    (N.PENDING_EVENT0, PendingExceptionEvent(event_pending=1, vector=6).raw | 1 << 12),
    (N.PENDING_EVENT0, PendingExceptionEvent(event_pending=1, vector=6, deliver_error_code=1).raw),
]


@pytest.mark.parametrize(("name", "value"), ILLEGAL, ids=[f"{row[0].name}-{n}" for n, row in enumerate(ILLEGAL)])
def test_an_illegal_value_is_refused_and_changes_nothing(bench, name, value):
    readable = REGISTERS[int(name)][0] is not None
    before = bench.get(name) if readable else b""
    with refused(WRONG):
        bench.set(name, value)
    assert (bench.get(name) if readable else b"") == before


def test_intermediate_control_registers_are_the_guests(bench):
    """Nobody above the guest intercepts its writes to control registers."""
    for name, value in ((N.CR0, 0x11), (N.CR3, 0x5000), (N.CR4, 0x20), (N.CR8, 3)):
        bench.set(N.INTERMEDIATE_CR0 + (name - N.CR0), value)
        assert bench.number(name) == bench.number(N.INTERMEDIATE_CR0 + (name - N.CR0)) == value


# --- the APIC -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("base", [0xFEE00900, 0xFEE00D00], ids=["xapic", "x2apic"])
def test_apic_registers_are_read_and_written_in_both_modes(base):
    made = Bench()
    try:
        made.set(N.APIC_BASE, base)
        values = {N.APIC_SPURIOUS: 0x1FF, N.APIC_TPR: 0x30, N.APIC_LVT_TIMER: 0x20041, N.APIC_LVT_LINT0: 0x10700,
                  N.APIC_DIVIDE: 0xB, N.APIC_INIT_COUNT: 0}
        for name, value in values.items():
            made.set(name, value)
        assert {name: made.number(name) for name in values} == values
        made.set(N.APIC_INIT_COUNT, 1000)
        assert 900 < made.number(N.APIC_CURRENT_COUNT) <= 1000      # a hypercall takes its time
        assert made.number(N.APIC_VERSION) & 0xFF >= 0x10
        made.vp.apic.accept(0x85)
        assert [made.number(N.APIC_IRR0 + n) for n in range(8)] == [0, 0, 0, 0, 1 << 5, 0, 0, 0]
        assert (made.number(N.APIC_TPR), made.number(N.CR8), made.number(N.APIC_PPR)) == (0x30, 3, 0x30)
    finally:
        made.close()


def test_an_icr_that_is_written_is_an_ipi():
    made = Bench()
    try:
        made.set(N.APIC_SPURIOUS, 0x1FF)
        made.set(N.APIC_ICR, 0x4_4051)                 # to itself
        assert made.vp.apic.irr == 1 << 0x51
        made.set(N.APIC_BASE, 0xFEE00D00)
        made.set(N.APIC_SELF_IPI, 0x52)
        assert made.vp.apic.irr == 1 << 0x51 | 1 << 0x52
    finally:
        made.close()


def test_an_apic_that_is_off_takes_no_writes():
    made = Bench()
    try:
        made.set(N.APIC_BASE, 0xFEE00100)
        with refused(WRONG):
            made.set(N.APIC_TPR, 0x20)
        assert made.number(N.APIC_TPR) == 0
    finally:
        made.close()


def test_the_time_stamp_counter_is_set_by_its_offset():
    made = Bench()
    try:
        made.set(N.TSC, 5_000_000)
        clock = made.machine.clock.tsc
        assert made.number(N.TSC) - 5_000_000 < 100_000
        made.set(N.TSC_VIRTUAL_OFFSET, (1 << 64) - 1000)
        assert (made.number(N.TSC_VIRTUAL_OFFSET), made.vp.tsc_offset) == ((1 << 64) - 1000, -1000)
        assert made.number(N.TSC) - (clock - 1000) & (1 << 64) - 1 < 100_000
    finally:
        made.close()


# --- what waits ---------------------------------------------------------------------------------------------------

def test_a_pending_exception_has_a_parameter_and_is_one_event_with_the_pending_interruption(bench):
    """TLFS "HV_X64_PENDING_EXCEPTION_EVENT": the parameter of a page fault is CR2."""
    wanted = PendingExceptionEvent(event_pending=1, deliver_error_code=1, vector=14, error_code=2,
                                   exception_parameter=0x1234_5678_9ABC)
    bench.set(N.CR0, 0x11)
    bench.set(N.PENDING_EVENT0, wanted.raw)
    assert bench.get(N.PENDING_EVENT0) == wanted.raw.to_bytes(16, "little")
    assert bench.vp.pending_event == Event(14, EventKind.EXCEPTION, 2, address=0x1234_5678_9ABC)
    assert bench.number(N.PENDING_INTERRUPTION) == 0
    bench.set(N.PENDING_INTERRUPTION, 0)               # takes back only what it shows itself
    assert bench.get(N.PENDING_EVENT0) == wanted.raw.to_bytes(16, "little")
    nmi = PendingInterruptionRegister(interruption_pending=1, interruption_type=2, interruption_vector=2).raw
    bench.set(N.PENDING_INTERRUPTION, nmi)
    assert (bench.number(N.PENDING_EVENT0), bench.number(N.PENDING_INTERRUPTION)) == (0, nmi)
    bench.set(N.PENDING_EVENT0, 0)
    assert bench.number(N.PENDING_INTERRUPTION) == nmi
    bench.set(N.PENDING_INTERRUPTION, 0)
    assert bench.vp.pending_event is None


def test_the_interrupt_state_is_shadow_and_nmi_mask(bench):
    for state in (1, 2, 3, 0):
        bench.set(N.INTERRUPT_STATE, state)
        assert bench.number(N.INTERRUPT_STATE) == state
        assert InterruptStateRegister(state).nmi_masked == bench.vp.nmi_masked


@pytest.mark.parametrize(("state", "halted", "idles", "waits"), [
    (1, False, False, True), (2, True, False, False), (4, True, True, False), (0, False, False, False)])
def test_the_activity_state_tells_waiting_halted_and_idle(bench, state, halted, idles, waits):
    """TLFS "HV_INTERNAL_ACTIVITY_REGISTER"."""
    bench.set(N.INTERNAL_ACTIVITY_STATE, state)
    assert (bench.vp.halted, bench.vp.idles, bench.vp.wait_for_sipi) == (halted, idles, waits)
    assert bench.number(N.INTERNAL_ACTIVITY_STATE) == state


def test_a_reset_vp_has_its_power_up_values():
    made = Bench()
    try:
        assert made.number(N.PAT) == PAT_RESET
        assert made.get(N.FP_CONTROL_STATUS)[:5] == bytes((0x40, 0, 0, 0, 0xFF))
        assert made.number(N.EXPLICIT_SUSPEND) == 1
    finally:
        made.close()


def test_get_and_set_are_declared_with_their_elements():
    assert {HYPERCALLS[code].rep_input.SIZE for code in (0x50, 0x51)} == {4, 32}

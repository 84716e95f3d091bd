"""VM entry of a vcpu: what is checked and when, what a failure is, and whatever passes the checks runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.machine.idt import Event, EventKind
from hv.spec.exits import EntryFailure, ExitReason
from hv.spec.vmcs import PrimaryControls, VmcsField
from hv.vmx.checks import RULES, Broken
from hv.vmx.events.injection import event_of, info_of, is_injectable
from hv.vmx.vcpu import Vcpu
from tests.proves import proves
from tests.vmx.vcpu_box import VcpuBox

F = VmcsField
FAILED = ExitReason.ENTRY_FAILURE_GUEST_STATE


def broken(vcpu: Vcpu) -> set[str]:
    entry = vcpu.entry()
    return {rule.id for rule in RULES if isinstance(rule.check(entry), Broken)}


@pytest.mark.parametrize(("bits", "user"), [(16, False), (32, False), (32, True), (64, False), (64, True)])
def test_the_usual_state_of_each_mode_breaks_no_rule(box, bits, user):
    """Neither the guest's state nor the controls and the host state that a vcpu begins with."""
    assert broken(box.vcpu(bits, user)) == set()


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_a_snapshot_is_what_reading_each_field_gives(box, bits):
    vmcs = box.vcpu(bits).vmcs
    vmcs.write(F.TSC_OFFSET, 5)
    vmcs.write(F.GUEST_RFLAGS, 1 << 40)         # which no register holds
    values = vmcs.snapshot()
    assert {field: values[field] for field in VmcsField if not field.read_only} == {
        field: vmcs.read(field) for field in VmcsField if not field.read_only}
    assert values[F.GUEST_RFLAGS] == 1 << 40


# What is written, in which mode, the rule that it breaks.
GUEST_BREAKS = [
    (16, {F.GUEST_CR0: 0x80000030}, "guest-cr0-pg-needs-pe"), (32, {F.GUEST_CR4: 0x402000}, "guest-cr4-fixed-bits"),
    (64, {F.GUEST_CR0: 0x33}, "guest-ia32e-mode-needs-paging"), (64, {F.GUEST_CR3: 1 << 46}, "guest-cr3-width"),
    (32, {F.GUEST_IA32_EFER: 2}, "guest-efer-reserved-bits"), (64, {F.GUEST_CS_ACCESS_RIGHTS: 0xE09B},
                                                               "guest-cs-l-excludes-d"),
    (64, {F.GUEST_TR_ACCESS_RIGHTS: 0x10000}, "guest-tr-usable"), (32, {F.GUEST_DS_LIMIT: 0xFFFFFFFE},
                                                                  "guest-ds-granularity"),
    (64, {F.GUEST_RIP: 1 << 48}, "guest-rip-bits-beyond-linear-width"), (16, {F.GUEST_RIP: 1 << 32},
                                                                        "guest-rip-high-half"),
    (64, {F.GUEST_RFLAGS: 0x20002}, "guest-rflags-vm"), (64, {F.GUEST_IDTR_BASE: 1 << 47},
                                                        "guest-idtr-base-canonical"),
    (64, {F.GUEST_GDTR_LIMIT: 0x10000}, "guest-gdtr-limit-high-half"),
    (64, {F.VMCS_LINK_POINTER: 8}, "vmcs-link-pointer-address"), (64, {F.GUEST_ACTIVITY_STATE: 4},
                                                                 "guest-activity-state-supported"),
    (64, {F.GUEST_INTERRUPTIBILITY_STATE: 1}, "guest-blocking-by-sti-needs-if"),
]


@proves("exit/ENTRY_FAILURE_GUEST_STATE", *(f"rule/{rule}" for _, _, rule in GUEST_BREAKS))
@pytest.mark.parametrize(("bits", "changes", "rule"), GUEST_BREAKS, ids=[rule for _, _, rule in GUEST_BREAKS])
def test_a_wrong_guest_state_is_a_vm_exit_and_nothing_of_the_guest_runs(box, bits, changes, rule):
    """SDM "VM-Entry Failures During or After Loading Guest State"."""
    vcpu = box.vcpu(bits)
    box.put("mov ebx, 1; cpuid", bits)
    for field, value in changes.items():
        vcpu.vmcs.write(field, value)
    box.go(vcpu)
    assert [exit.reason for exit in box.exits] == [FAILED]
    wanted = EntryFailure.VMCS_LINK_POINTER if "link" in rule else EntryFailure.GUEST_STATE
    assert box.exits[0].qualification == wanted
    assert vcpu.entry_result.failure is not None
    assert vcpu.entry_result.failure.rule.id in broken(vcpu)
    assert rule in broken(vcpu)
    assert vcpu.state.rbx == 0


@proves("exit/ENTRY_FAILURE_GUEST_STATE")
def test_a_pdpte_with_reserved_bits_is_a_vm_exit_with_its_own_qualification(box):
    vcpu = box.vcpu(32)
    for field, value in {F.GUEST_CR4: 0x2020, F.GUEST_CR0: 0x80000031, F.GUEST_PDPTE2: 3}.items():
        vcpu.vmcs.write(field, value)
    box.go(vcpu)
    assert (box.exits[0].reason, box.exits[0].qualification) == (FAILED, EntryFailure.PDPTE)


@pytest.mark.parametrize(("field", "value", "error"), [
    (F.PIN_BASED_CONTROLS, 0, 7), (F.VM_EXIT_CONTROLS, 0, 7), (F.EPT_POINTER, 7, 7), (F.HOST_CR0, 0, 8),
    (F.HOST_RIP, 1 << 47, 8), (F.HOST_TR_SELECTOR, 0, 8)])
def test_a_wrong_control_or_host_field_is_vmfail_and_no_vm_exit(box, field, value, error):
    """SDM "VM-Instruction Error Numbers": the number stands in the VMCS, and the guest did not run."""
    vcpu = box.vcpu()
    box.put("mov ebx, 1; cpuid")
    told = []
    vcpu.on_vmfail = lambda: told.append(vcpu.entry_result.error)
    vcpu.vmcs.write(field, value)
    box.go(vcpu)
    assert box.exits == []
    assert told == [error]
    assert vcpu.vmcs.read(F.VM_INSTRUCTION_ERROR) == error
    assert vcpu.state.rbx == 0


def test_an_entry_that_failed_is_checked_again_when_it_is_tried_again(box):
    vcpu = box.vcpu()
    box.put("cpuid")
    vcpu.vmcs.write(F.HOST_CR0, 0)
    box.go(vcpu)
    box.go(vcpu)
    assert box.exits == []
    vcpu.vmcs.write(F.HOST_CR0, 0x80000031)
    box.go(vcpu)
    assert [exit.reason for exit in box.exits] == [ExitReason.CPUID]


def test_a_handler_may_mend_the_state_and_enter_at_once(box):
    vcpu = box.vcpu()
    box.put("cpuid")

    def mend(exit) -> bool:
        vcpu.vmcs.write(F.GUEST_CR3, 0x1000)
        return exit.reason is FAILED

    box.handle = mend
    vcpu.vmcs.write(F.GUEST_CR3, 1 << 50)
    box.go(vcpu)
    assert [exit.reason for exit in box.exits] == [FAILED, ExitReason.CPUID]


def test_a_handler_that_mends_nothing_does_not_hang(box):
    vcpu = box.vcpu()
    box.handle = lambda exit: True
    vcpu.vmcs.write(F.GUEST_CR3, 1 << 50)
    box.go(vcpu)
    assert [exit.reason for exit in box.exits] == [FAILED]


def test_nothing_is_checked_while_nothing_was_written(box):
    """The guest cannot bring itself into a state that entry refuses, and software says when it wrote registers."""
    vcpu = box.vcpu()
    box.put("nop; nop; nop; jmp $ - 3")
    box.go(vcpu, 100)
    assert vcpu.checks.count == len(RULES)
    for _ in range(3):
        box.go(vcpu, 100)
    vcpu.vmcs.write(F.TSC_OFFSET, 9)
    vcpu.vmcs.write(F.EXCEPTION_BITMAP, 9)
    box.go(vcpu, 100)
    assert vcpu.checks.count == len(RULES)
    vcpu.vmcs.write(F.HOST_CR3, 0x2000)
    box.go(vcpu, 100)
    assert vcpu.checks.count == len(RULES) + 1
    vcpu.state.cr3 = 1 << 60
    box.go(vcpu, 100)
    assert all(exit.reason is not FAILED for exit in box.exits)
    vcpu.state_written = True
    box.go(vcpu, 100)
    assert box.exits[-1].reason is FAILED


def test_a_step_checks_too(box):
    vcpu = box.vcpu()
    box.put("nop")
    vcpu.state.cr3 = 1 << 60
    assert vcpu.step()
    assert box.exits[-1].reason is FAILED


def test_another_processor_has_other_rules(box):
    vcpu = box.vcpu()
    vcpu.processor = replace(vcpu.processor, primary=vcpu.processor.primary & ~int(PrimaryControls.HLT_EXITING))
    box.go(vcpu)
    assert vcpu.entry_result.error == 7


# --- Whatever passes runs ----------------------------------------------------------------------------------------

INTERESTING = {
    F.GUEST_CR0: (0x30, 0x31, 0x80000031, 0x80010033, 0xE0000031, 0x60000030, 0x8005003B),
    F.GUEST_CR3: (0, 0x1000, 0x5000, 0x1018, 1 << 39, 0x3FF000), F.GUEST_IA32_EFER: (0, 1, 0x100, 0x500, 0xD00, 0xD01),
    F.GUEST_CR4: (0x2000, 0x2020, 0x2620, 0x2030, 0x27FF), F.GUEST_RFLAGS: (2, 0x202, 0x102, 0x302, 0x20002, 0x30202,
                                                                         0x3F7FD7, 0x4002, 0x3002),
    F.GUEST_RIP: (0x10000, 0, 0xFFF0, 0xFFFFFFFF, 0x7FFFFFFFFFFF, 0x800000000000, 0xFFFF800000000000,
                  0xFFFF000000000000, 0xFFFFFFFFFFFFFFFF),
    F.GUEST_RSP: (0, 3, 0x30000, 0xFFFFFFFF, (1 << 64) - 1, 1 << 47), F.GUEST_DR7: (0x400, 0, 0x2400, 0xFFFFFFFF),
    F.GUEST_IDTR_BASE: (0, 0x50000, 0x7FFFFFFFF000), F.GUEST_IDTR_LIMIT: (0, 0x3FF, 0xFFF, 0xFFFF),
    F.GUEST_TR_ACCESS_RIGHTS: (0x8B, 0x83, 0x81), F.GUEST_LDTR_ACCESS_RIGHTS: (0x10000, 0x82),
    F.GUEST_ACTIVITY_STATE: (0, 1, 2, 3), F.GUEST_INTERRUPTIBILITY_STATE: (0, 1, 2, 8),
    F.GUEST_PENDING_DEBUG_EXCEPTIONS: (0, 0x4000, 0x1001, 0x5000),
    F.VM_ENTRY_INTERRUPTION_INFO: (0x80000000 | 0x40, 0x80000202, 0x80000B0E, 0x80000306, 0x80000480, 0x80000603,
                                   0x80000501, 0x80000700, 0x80000B08),
    F.VM_ENTRY_INSTRUCTION_LENGTH: (0, 1, 2, 15), F.PIN_BASED_CONTROLS: (0x16, 0x1F, 0x3F, 0x5F, 0x1E),
    F.PRIMARY_PROC_CONTROLS: (0x84006172, 0xB5986DF2, 0x86006172, 0x94006172, 0x8C006172, 0x84406176, 0xFFF9FFFE),
    F.SECONDARY_PROC_CONTROLS: (0x82, 0x2, 0, 0xA2, 0x82 | 1 << 2, 0x82 | 1 << 13),
    F.VPID: (1,), F.IO_BITMAP_A: (0x60000, 0x3000000000), F.IO_BITMAP_B: (0x61000, 0x3000000000),
    F.MSR_BITMAP: (0x62000, 0x3000000000), F.EXCEPTION_BITMAP: (0, 0xFFFFFFFF, 0x4000),
    F.CR0_GUEST_HOST_MASK: (0, 0xFFFFFFFF, 1), F.CR4_GUEST_HOST_MASK: (0, 0xFFFFFFFF), F.VMX_PREEMPTION_TIMER_VALUE: (
        0, 1, 100), F.TSC_OFFSET: ((1 << 64) - 1,), F.EPT_POINTER: (0x3FFFFFFFF01E,),
}
for _name in ("CS", "SS", "DS", "ES", "FS", "GS"):
    INTERESTING[F[f"GUEST_{_name}_SELECTOR"]] = (0, 8, 0x1000, 0xFFFF, 0x2B)
    INTERESTING[F[f"GUEST_{_name}_BASE"]] = (0, 0x10000, 0x80, 0xFFFF0000, 0x7FFFFFFFFFFF)
    INTERESTING[F[f"GUEST_{_name}_LIMIT"]] = (0xFFFF, 0xFFFFFFFF, 0, 0xFFF)
    INTERESTING[F[f"GUEST_{_name}_ACCESS_RIGHTS"]] = (
        0x9B, 0x93, 0xC09B, 0xC093, 0xA09B, 0xC0FB, 0xC0F3, 0xA0FB, 0x97, 0x10000, 0xF3, 0x9F, 0x1C0F3, 0xE09B)
ANY = st.sampled_from([field for field in VmcsField if not field.read_only])
NUMBERS = st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0, 63).map(lambda n: 1 << n), st.integers(0, 255))
ONE = st.one_of(
    st.sampled_from(list(INTERESTING)).flatmap(lambda field: st.tuples(st.just(field),
                                                                      st.sampled_from(INTERESTING[field]))),
    st.tuples(ANY, NUMBERS))


V86 = {F.GUEST_RFLAGS: 0x20002, **{F[f"GUEST_{name}_{part}"]: value for name in ("CS", "SS", "DS", "ES", "FS", "GS")
                                   for part, value in (("SELECTOR", 0x1000), ("BASE", 0x10000), ("LIMIT", 0xFFFF),
                                                       ("ACCESS_RIGHTS", 0xF3))}}
PAE = {F.GUEST_CR4: 0x2020, F.GUEST_CR3: 0x1000, F.GUEST_CR0: 0x80000031}
STARTS = [(16, {}), (32, {}), (64, {}), (32, V86), (32, PAE)]


@pytest.fixture(scope="module")
def shared():
    box = VcpuBox()
    yield box
    box.close()


def goes_on(vcpu: Vcpu, exits: list) -> bool:
    """A handler that steps over a few exits, and then stops."""
    vcpu.state.complete_instruction(exits[-1].instruction_length)
    return len(exits) < 8 and exits[-1].reason is not FAILED


@settings(max_examples=500)
@given(start=st.sampled_from(STARTS), changes=st.lists(ONE, min_size=1, max_size=8),
       code=st.binary(min_size=1, max_size=12))
def test_whatever_passes_the_checks_runs(shared, start, changes, code):
    """Some ticks, or to an exit: no error of ours or of the engine, no hang, no end of the process."""
    bits, mode = start
    vcpu = shared.vcpu(bits)
    for field, value in mode.items():
        vcpu.vmcs.write(field, value)
    shared.put(code, bits)
    shared.exits.clear()
    shared.handle = lambda exit: goes_on(vcpu, shared.exits)
    failed = []
    vcpu.on_vmfail = lambda: failed.append(vcpu.entry_result.error)
    for field, value in changes:
        vcpu.vmcs.write(field, value)
    wrong = broken(vcpu)
    shared.go(vcpu, 20000)
    if wrong:
        assert failed or shared.exits[0].reason is FAILED
    else:
        assert not failed
        assert all(exit.reason is not FAILED for exit in shared.exits)


def test_virtual_8086_mode_is_entered(box):
    """All six segments as the mode wants them: real-mode code at CPL 3."""
    vcpu = box.vcpu(32)
    box.put("mov ax, cs; mov bx, 0x1234; ud2", 16)
    for field, value in (V86 | {F.GUEST_RIP: 0, F.EXCEPTION_BITMAP: 0xFFFFFFFF}).items():
        vcpu.vmcs.write(field, value)
    box.go(vcpu)
    assert box.exits[0].reason is ExitReason.EXCEPTION_OR_NMI
    assert (vcpu.state.rax, vcpu.state.rbx, vcpu.state.cpl, vcpu.state.bits) == (0x1000, 0x1234, 3, 16)


@pytest.mark.parametrize("rip", [0x800000000000, 0xFFFF000000000000])
def test_rip_need_not_be_canonical_and_the_first_fetch_faults(box, rip):
    """SDM "Checks on Guest RIP, RFLAGS, and SSP": only the bits beyond the linear-address width are checked."""
    vcpu = box.vcpu()
    vcpu.vmcs.write(F.GUEST_RIP, rip)
    vcpu.vmcs.write(F.EXCEPTION_BITMAP, 1 << 13)
    box.go(vcpu)
    assert vcpu.entry_result.entered
    assert box.exits[0].reason is ExitReason.EXCEPTION_OR_NMI
    assert box.exits[0].interruption_info == 0x80000B0D
    assert vcpu.state.rip == rip


def test_a_pdpte_in_memory_with_reserved_bits_is_a_page_fault(box):
    """The engine reads PDPTEs at each walk, and does not look at these bits: a fetch through such a one faults."""
    vcpu = box.vcpu(32)
    for field, value in (PAE | {F.GUEST_RIP: 0, F.EXCEPTION_BITMAP: 1 << 14}).items():
        vcpu.vmcs.write(field, value)
    box.go(vcpu)
    assert vcpu.entry_result.entered
    assert (box.exits[0].reason, box.exits[0].qualification) == (ExitReason.EXCEPTION_OR_NMI, 0)
    assert box.exits[0].interruption_info == 0x80000B0E
    assert box.exits[0].interruption_error_code & 9 == 9


# --- Events ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("event", [
    Event(14, EventKind.EXCEPTION, 5), Event(6, EventKind.EXCEPTION), Event(0x20, EventKind.EXTERNAL),
    Event(2, EventKind.NMI), Event(0x80, EventKind.SOFTWARE_INTERRUPT, None, 2),
    Event(3, EventKind.SOFTWARE_EXCEPTION, None, 1)])
def test_an_event_is_the_same_after_going_through_its_field(event):
    assert event_of(info_of(event), event.error_code or 0, event.instruction_length) == event
    assert is_injectable(event)


@pytest.mark.parametrize("event", [
    Event(3, EventKind.NMI), Event(32, EventKind.EXCEPTION), Event(6, EventKind.EXCEPTION, 0),
    Event(14, EventKind.EXCEPTION), Event(14, EventKind.EXCEPTION, 0x10000), Event(0x20, EventKind.EXTERNAL, 0),
    Event(0x80, EventKind.SOFTWARE_INTERRUPT, None, 16)])
def test_an_event_that_the_rules_refuse_is_not_injectable(event):
    """SDM "VM-Entry Control Fields"."""
    assert not is_injectable(event)


def test_in_real_mode_no_exception_has_an_error_code():
    assert is_injectable(Event(13, EventKind.EXCEPTION), protected=False)
    assert not is_injectable(Event(13, EventKind.EXCEPTION, 0), protected=False)

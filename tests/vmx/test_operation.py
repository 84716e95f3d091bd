"""VMX operation: what each VMX instruction does to the VMCSs of a processor, and each way in which it can fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.machine.faults import GuestFault
from hv.machine.ram import PhysicalMemory
from hv.spec.exits import VmInstructionError
from hv.spec.msrs import Msr
from hv.spec.vmcs import NO_VMCS, SecondaryControls, VmcsField, VmxAbort, VmxMisc
from hv.vmx.capabilities import PROCESSOR, REVISION_ID
from hv.vmx.root_operation.operation import MOST_ACTIVE, VmFail, VmxMode, VmxOperation
from hv.vmx.translation.cached import CachedMappings
from hv.vmx.vmcs import LaunchState
from tests.proves import proves
from tests.vmx.vcpu_box import NoDevices

F, E = VmcsField, VmInstructionError
VMXON, A, B, C, END = 0x1000, 0x2000, 0x3000, 0x4000, 0x80000
CF, ZF = 1, 0x40


def an_operation(processor=PROCESSOR) -> VmxOperation:
    """Off, with the revision identifier in every page but the last one before `END`."""
    memory = PhysicalMemory(END)
    for page in range(0, END - 0x1000, 0x1000):
        memory.write_u32(page, REVISION_ID)
    return VmxOperation(memory, processor)


@pytest.fixture
def op() -> VmxOperation:
    """In root operation."""
    op = an_operation()
    op.vmxon(VMXON)
    return op


def error_of(call, *operands) -> VmInstructionError | None:
    with pytest.raises(VmFail) as failure:
        call(*operands)
    return failure.value.error


# --- VMXON and VMXOFF -------------------------------------------------------------------------------------------

@proves("instruction/VMXON")
def test_vmxon_enters_root_operation_without_a_current_vmcs(op):
    assert (op.mode, op.vmxon_pointer, op.vmptrst()) == (VmxMode.ROOT, VMXON, NO_VMCS)


@proves("instruction/VMXON", "capability/VmxBasic.revision_id")
@pytest.mark.parametrize("address", [0x1001, 0x1800, 1 << 46, 1 << 63 | 0x1000, END - 0x1000, END, (1 << 46) - 0x1000])
def test_vmxon_of_a_bad_region_is_vmfail_invalid(address):
    """Not page aligned, wider than MAXPHYADDR, or without the revision identifier."""
    op = an_operation()
    assert error_of(op.vmxon, address) is None
    assert op.mode is VmxMode.OFF


def test_vmxon_of_a_shadow_vmcs_is_vmfail_invalid():
    op = an_operation()
    op.memory.write_u32(A, 1 << 31 | REVISION_ID)
    assert error_of(op.vmxon, A) is None


@proves("instruction/VMXON")
def test_vmxon_in_root_operation_fails_with_15(op):
    assert error_of(op.vmxon, A) is E.VMXON_IN_ROOT
    assert op.vmxon_pointer == VMXON


@proves("instruction/VMXOFF")
def test_vmxoff_leaves_vmx_operation(op):
    op.vmptrld(A)
    op.vmxoff()
    assert (op.mode, op.vmxon_pointer, op.vmptrst(), op.active(A)) == (VmxMode.OFF, NO_VMCS, NO_VMCS, None)


@proves("instruction/VMXOFF", "instruction/VMRESUME")
def test_a_vmcs_that_was_not_cleared_before_vmxoff_cannot_be_resumed(op):
    """SDM "VM Instruction Error Numbers", 6; VMCLEAR heals it."""
    op.vmclear(A)
    op.vmptrld(A).entered()
    op.vmxoff()
    op.vmxon(VMXON)
    op.vmptrld(A)
    assert error_of(op.vmresume) is E.VMRESUME_AFTER_VMXOFF
    assert error_of(op.vmlaunch) is E.VMLAUNCH_NOT_CLEAR
    op.vmclear(A)
    op.vmptrld(A)
    assert op.vmlaunch().launch_state is LaunchState.CLEAR


@proves("instruction/VMCALL")
def test_vmcall_in_root_operation_fails_with_1(op):
    assert error_of(op.vmcall) is E.VMCALL_IN_ROOT


# --- pointers ---------------------------------------------------------------------------------------------------

@proves("instruction/VMPTRLD", "instruction/VMPTRST")
def test_vmptrld_makes_current_and_the_one_before_stays_active(op):
    op.vmptrld(A)
    op.vmwrite(F.GUEST_RIP, 0xA)
    op.vmptrld(B)
    op.vmwrite(F.GUEST_RIP, 0xB)
    assert op.vmptrst() == B
    op.vmptrld(A)
    assert (op.vmptrst(), op.vmread(F.GUEST_RIP)) == (A, 0xA)


@proves("instruction/VMPTRLD")
@pytest.mark.parametrize(("address", "error"), [
    (0x2008, E.VMPTRLD_BAD_ADDRESS), (1 << 46, E.VMPTRLD_BAD_ADDRESS), (VMXON, E.VMPTRLD_VMXON_POINTER),
    (END - 0x1000, E.VMPTRLD_WRONG_REVISION), (END, E.VMPTRLD_WRONG_REVISION)])
def test_a_failed_vmptrld_leaves_the_old_vmcs_current(op, address, error):
    op.vmptrld(A)
    assert error_of(op.vmptrld, address) is error
    assert op.vmptrst() == A


@pytest.mark.parametrize("shadowing", [False, True])
@proves("instruction/VMPTRLD")
def test_a_shadow_vmcs_can_be_loaded_where_there_is_shadowing(shadowing):
    """SDM "VMPTRLD": bit 31 of the first dword."""
    bit = int(SecondaryControls.VMCS_SHADOWING)
    op = an_operation(replace(PROCESSOR, secondary=PROCESSOR.secondary & ~bit | bit * shadowing))
    op.vmxon(VMXON)
    op.memory.write_u32(A, 1 << 31 | REVISION_ID)
    if not shadowing:
        assert error_of(op.vmptrld, A) is E.VMPTRLD_WRONG_REVISION
        return
    op.vmptrld(A)
    assert error_of(op.vmlaunch) is None
    assert error_of(op.vmresume) is None


@proves("instruction/VMCLEAR")
@pytest.mark.parametrize(("address", "error"), [
    (0x2010, E.VMCLEAR_BAD_ADDRESS), (1 << 46, E.VMCLEAR_BAD_ADDRESS), (VMXON, E.VMCLEAR_VMXON_POINTER)])
def test_vmclear_refuses_bad_pointers(op, address, error):
    assert error_of(op.vmclear, address) is error


@proves("instruction/VMCLEAR")
def test_vmclear_asks_for_no_revision_identifier_and_no_ram(op):
    op.vmclear(END - 0x1000)
    op.vmclear(END)


@proves("instruction/VMCLEAR")
def test_vmclear_of_the_current_vmcs_leaves_none(op):
    op.vmptrld(B)
    op.vmptrld(A)
    op.vmclear(B)
    assert op.vmptrst() == A
    op.vmclear(A)
    assert op.vmptrst() == NO_VMCS
    assert error_of(op.vmread, F.VPID) is None


@proves("instruction/VMCLEAR")
def test_a_copy_of_a_cleared_region_is_a_clone(op):
    """SDM "Initializing a VMCS": data reaches memory at VMCLEAR."""
    op.vmclear(A)
    op.vmptrld(A).entered()
    op.vmwrite(F.GUEST_RIP, 0x1234)
    op.vmwrite(F.VM_EXIT_CONTROLS, 0x36DFF)
    op.vmclear(A)
    op.memory.write(B, op.memory.read(A, 4096))
    op.vmptrld(B)
    assert (op.vmread(F.GUEST_RIP), op.vmread(F.VM_EXIT_CONTROLS)) == (0x1234, 0x36DFF)
    assert op.vmlaunch().address == B


def test_a_vmcs_that_went_back_to_memory_unasked_is_the_same_when_it_returns(op):
    """A processor may write an active VMCS to its region at any time; launched stays launched."""
    for number in range(MOST_ACTIVE + 20):
        page = A + 0x1000 * number
        op.vmptrld(page).entered()
        op.vmwrite(F.GUEST_RIP, number)
    assert len(op.inspect()["active"]) <= MOST_ACTIVE + 1
    assert op.active(A) is None
    for number in range(MOST_ACTIVE + 20):
        op.vmptrld(A + 0x1000 * number)
        assert op.vmread(F.GUEST_RIP) == number
        op.vmresume()


def test_a_vmcs_that_a_vcpu_works_with_never_goes_back_unasked(op, box):
    vmcs = op.vmptrld(A)
    vmcs.attach(box.state())
    for number in range(1, MOST_ACTIVE + 20):
        op.vmptrld(A + 0x1000 * number)
    assert op.active(A) is vmcs
    vmcs.state.rip = 0x4321
    op.vmclear(A)
    assert vmcs.state is None
    assert op.vmptrld(A).read(F.GUEST_RIP) == 0x4321


# --- fields -----------------------------------------------------------------------------------------------------

@proves("instruction/VMREAD", "instruction/VMWRITE")
def test_without_a_current_vmcs_fields_are_vmfail_invalid(op):
    assert error_of(op.vmread, F.GUEST_RIP) is None
    assert error_of(op.vmwrite, F.GUEST_RIP, 0) is None
    assert error_of(op.vmread, 0xFFFF_FFFF) is None


@proves("instruction/VMREAD", "instruction/VMWRITE")
@pytest.mark.parametrize("encoding", [F.GUEST_RIP | 1, F.VPID | 1, F.PIN_BASED_CONTROLS | 1, F.GUEST_RIP | 1 << 12,
                                      F.GUEST_RIP | 1 << 15, F.GUEST_RIP | 1 << 32, 0x482C, 1 << 63, F.GUEST_S_CET,
                                      F.TERTIARY_PROC_CONTROLS | 1, F.SHARED_EPT_POINTER])
def test_an_encoding_of_nothing_fails_with_12(op, encoding):
    """HIGH access is of 64-bit fields only; reserved bits; fields this processor does not have."""
    op.vmptrld(A)
    assert error_of(op.vmread, encoding) is E.UNSUPPORTED_COMPONENT
    assert error_of(op.vmwrite, encoding, 0) is E.UNSUPPORTED_COMPONENT


@proves("instruction/VMREAD", "instruction/VMWRITE")
def test_high_access_is_bits_63_to_32(op):
    op.vmptrld(A)
    op.vmwrite(F.TSC_OFFSET, 0x1111_2222_3333_4444)
    assert op.vmread(F.TSC_OFFSET.high_half) == 0x1111_2222
    op.vmwrite(F.TSC_OFFSET.high_half, 0x99_8765_4321)
    assert op.vmread(F.TSC_OFFSET) == 0x8765_4321_3333_4444
    op.vmwrite(F.TSC_OFFSET, 0x55)
    assert op.vmread(F.TSC_OFFSET.high_half) == 0


@proves("instruction/VMWRITE")
@pytest.mark.parametrize(("field", "width"), [(F.VPID, 16), (F.EXCEPTION_BITMAP, 32), (F.TSC_OFFSET, 64),
                                              (F.HOST_RIP, 64)])
def test_what_does_not_fit_a_field_is_cut_off(op, field, width):
    op.vmptrld(A)
    op.vmwrite(field, (1 << 80) - 1)
    assert op.vmread(field) == (1 << width) - 1


@proves("event/READ_ONLY_COMPONENT")
@proves("instruction/VMWRITE", "capability/VmxMisc.write_any_field")
@pytest.mark.parametrize("field", [F.EXIT_REASON, F.VM_INSTRUCTION_ERROR, F.EXIT_QUALIFICATION,
                                   F.GUEST_PHYSICAL_ADDRESS, F.GUEST_PHYSICAL_ADDRESS | 1])
def test_read_only_data_can_be_written_where_the_processor_says_so(op, field):
    """SDM "VMWRITE": error 13 unless IA32_VMX_MISC bit 29."""
    op.vmptrld(A)
    op.vmwrite(field, 0x77)
    assert op.vmread(field) == 0x77
    strict = an_operation(replace(PROCESSOR, misc=VmxMisc(PROCESSOR.misc.raw, write_any_field=0)))
    strict.vmxon(VMXON)
    strict.vmptrld(A)
    assert error_of(strict.vmwrite, field, 0x77) is E.READ_ONLY_COMPONENT
    assert strict.vmread(field) == 0


# --- launch state -----------------------------------------------------------------------------------------------

@proves("instruction/VMLAUNCH", "instruction/VMRESUME")
def test_launch_and_resume_want_the_launch_state_that_is_theirs(op):
    assert error_of(op.vmlaunch) is None
    assert error_of(op.vmresume) is None
    op.vmclear(A)
    vmcs = op.vmptrld(A)
    assert error_of(op.vmresume) is E.VMRESUME_NOT_LAUNCHED
    assert op.vmlaunch() is vmcs
    assert op.vmlaunch() is vmcs            # it is launched when the entry has succeeded, not before
    vmcs.entered()
    assert op.vmresume() is vmcs
    assert error_of(op.vmlaunch) is E.VMLAUNCH_NOT_CLEAR


@proves("event/ENTRY_BLOCKED_BY_MOV_SS")
@proves("instruction/VMLAUNCH", "event/BLOCKING_BY_MOV_SS")
def test_blocking_by_mov_ss_comes_before_the_launch_state(op):
    """SDM "VMLAUNCH/VMRESUME", operation."""
    assert error_of(op.vmlaunch, True) is None
    op.vmptrld(A)
    assert error_of(op.vmlaunch, True) is E.ENTRY_BLOCKED_BY_MOV_SS
    assert error_of(op.vmresume, True) is E.ENTRY_BLOCKED_BY_MOV_SS


# --- invalidation -----------------------------------------------------------------------------------------------

EPTP = 0x5000 | 3 << 3 | 6


class Told(CachedMappings):
    """Keeps the operands of what was done."""

    def __init__(self, op: VmxOperation) -> None:
        super().__init__(op.memory, NoDevices())
        self.done: list[tuple[int, ...]] = []

    def invept(self, *operands: int) -> bool:
        return super().invept(*operands) and self.done.append(operands) is None

    def invvpid(self, *operands: int) -> bool:
        return super().invvpid(*operands) and self.done.append(operands) is None


@proves("instruction/INVEPT")
@pytest.mark.parametrize(("kind", "eptp", "good"), [
    (1, EPTP, True), (1, EPTP | 1 << 6, True), (2, 0xFFFF, True), (0, EPTP, False), (3, EPTP, False),
    (1 << 32 | 1, EPTP, False), (1, EPTP & ~7 | 1, False), (1, EPTP & ~0x38 | 4 << 3, False),
    (1, EPTP | 1 << 46, False), (1, EPTP | 0x100, False), (1, EPTP | 1 << 7, False)])
def test_invept_wants_a_type_it_knows_and_a_pointer_that_entry_would_take(op, kind, eptp, good):
    op.cached = told = Told(op)
    descriptor = eptp.to_bytes(8, "little") + b"\xff" * 8
    if good:
        op.invept(kind, descriptor)
        assert told.done == [(kind, eptp)]
    else:
        assert error_of(op.invept, kind, descriptor) is E.INVALID_OPERAND
        assert told.done == []


@proves("instruction/INVVPID")
@pytest.mark.parametrize(("kind", "vpid", "linear", "good"), [
    (0, 1, 0x1000, True), (0, 1, 0xFFFF_8000_0000_0000, True), (0, 1, 0x8000_0000_0000, False), (0, 0, 0x1000, False),
    (1, 5, 1 << 60, True), (1, 0, 0, False), (2, 0, 0, True), (3, 7, 0, True), (3, 0, 0, False), (4, 1, 0, False),
    (2, 1 << 16, 0, False), (1, 1 << 63 | 1, 0, False), ((1 << 64) - 1, 1, 0, False)])
def test_invvpid_wants_a_type_it_knows_and_operands_that_it_needs(op, kind, vpid, linear, good):
    op.cached = told = Told(op)
    descriptor = vpid.to_bytes(8, "little") + linear.to_bytes(8, "little")
    if good:
        op.invvpid(kind, descriptor)
        assert told.done == [(kind, vpid, linear)]
    else:
        assert error_of(op.invvpid, kind, descriptor) is E.INVALID_OPERAND
        assert told.done == []


# --- outcomes ---------------------------------------------------------------------------------------------------

def test_the_error_number_goes_into_the_current_vmcs(op):
    op.vmptrld(A)
    assert op.fail(VmFail(E.VMXON_IN_ROOT)) == ZF
    assert op.vmread(F.VM_INSTRUCTION_ERROR) == 15
    assert op.vmread(F.VM_INSTRUCTION_ERROR) == 15      # reading does not reset it
    assert op.fail(VmFail()) == CF
    assert op.vmread(F.VM_INSTRUCTION_ERROR) == 15


def test_without_a_current_vmcs_there_is_nowhere_for_the_number(op):
    assert op.fail(VmFail(E.VMPTRLD_BAD_ADDRESS)) == CF


@proves("event/LOADING_HOST_MSRS")
def test_an_abort_is_told_in_the_region(op):
    """SDM "VMX Aborts": the second dword; the processor stops."""
    op.vmptrld(A)
    op.abort(VmxAbort.LOADING_HOST_MSRS)
    assert op.memory.read_u32(A + 4) == 4
    assert op.mode is VmxMode.ABORTED


# --- MSRs -------------------------------------------------------------------------------------------------------

def test_capability_msrs_are_read_only(op):
    for index, value in PROCESSOR.msrs.items():
        assert op.read_msr(index) == value
        with pytest.raises(GuestFault) as fault:
            op.write_msr(index, value)
        assert (fault.value.vector, fault.value.error_code) == (13, 0)
    assert op.read_msr(Msr.STAR) is None
    assert not op.write_msr(Msr.STAR, 0)


@pytest.mark.parametrize("value", [1 << 1, 1 << 8, 1 << 20, 1 << 63])
def test_feature_control_refuses_features_that_are_not_there(op, value):
    with pytest.raises(GuestFault):
        op.write_msr(Msr.FEATURE_CONTROL, value)


def test_feature_control_is_locked_by_its_lock_bit(op):
    """SDM "IA32_FEATURE_CONTROL": once bit 0 is set, WRMSR is #GP."""
    assert op.write_msr(Msr.FEATURE_CONTROL, 4)
    assert op.write_msr(Msr.FEATURE_CONTROL, 5)
    with pytest.raises(GuestFault):
        op.write_msr(Msr.FEATURE_CONTROL, 4)
    assert op.read_msr(Msr.FEATURE_CONTROL) == 5


# --- against a model --------------------------------------------------------------------------------------------

class Model:
    """SDM figure "State of VMCS X", written down once more: what is current, launched, and in memory."""

    def __init__(self) -> None:
        self.on, self.current = False, None
        self.launch = dict.fromkeys((A, B, C), "clear")
        self.value = dict.fromkeys((A, B, C), 0)
        self.error = dict.fromkeys((A, B, C), 0)

    def do(self, name, operand):
        """The outcome: "ok", "invalid" or an error number, and what was read."""
        outcome = getattr(self, name)(operand)
        if isinstance(outcome, int) and not isinstance(outcome, bool):
            if self.current is None:
                return "invalid"
            self.error[self.current] = outcome
        return outcome

    def vmxon(self, page):
        if self.on:
            return 15
        self.on, self.current = True, None
        return "ok"

    def vmxoff(self, page):
        self.on, self.current = False, None
        self.launch = {p: "orphaned" if state == "launched" else state for p, state in self.launch.items()}
        return "ok"

    def vmclear(self, page):
        if page == VMXON:
            return 3
        if page & 0xFFF:
            return 2
        self.launch[page] = "clear"
        self.current = None if self.current == page else self.current
        return "ok"

    def vmptrld(self, page):
        if page == VMXON:
            return 10
        if page & 0xFFF:
            return 9
        self.current = page
        return "ok"

    def enter(self, launch):
        if self.current is None:
            return "invalid"
        state = self.launch[self.current]
        if launch and state != "clear":
            return 4
        if not launch and state != "launched":
            return 6 if state == "orphaned" else 5
        self.launch[self.current] = "launched"
        return "ok"

    def vmlaunch(self, page):
        return self.enter(True)

    def vmresume(self, page):
        return self.enter(False)

    def vmwrite(self, value):
        if self.current is None:
            return "invalid"
        self.value[self.current] = value
        return "ok"

    def vmcall(self, page):
        return 1


def outcome_of(op, name, operand):
    """The same of the real one."""
    try:
        if name in ("vmlaunch", "vmresume"):
            getattr(op, name)().entered()
        elif name == "vmwrite":
            op.vmwrite(F.GUEST_RIP, operand)
        elif name in ("vmxoff", "vmcall"):
            getattr(op, name)()
        else:
            getattr(op, name)(VMXON if name == "vmxon" else operand)
    except VmFail as failure:
        return "invalid" if op.fail(failure) == CF else int(failure.error)
    return "ok"


PAGES = st.sampled_from((A, B, C, VMXON, A + 8))
STEPS = st.one_of(
    st.tuples(st.sampled_from(("vmptrld", "vmclear")), PAGES),
    st.tuples(st.sampled_from(("vmlaunch", "vmresume", "vmcall", "vmxon", "vmxoff")), st.just(0)),
    st.tuples(st.just("vmwrite"), st.integers(0, 1000)))


@given(st.lists(STEPS, max_size=40))
def test_any_sequence_of_vmx_instructions_follows_the_state_machine(steps):
    op, model = an_operation(), Model()
    op.vmxon(VMXON)
    model.vmxon(0)
    for page in (A, B, C):
        op.vmclear(page)
    for name, operand in steps:
        if not model.on and name != "vmxon":
            continue            # #UD, before the instruction does anything
        assert outcome_of(op, name, operand) == model.do(name, operand), name
        assert op.vmptrst() == (NO_VMCS if model.current is None else model.current)
    if not model.on:
        op.vmxon(VMXON)
    for page in (A, B, C):
        op.vmptrld(page)
        assert (op.vmread(F.GUEST_RIP), op.vmread(F.VM_INSTRUCTION_ERROR)) == (model.value[page], model.error[page])
    op.memory.close()

"""Each handler reads state, decides, and answers a verdict; no engine runs here."""

import importlib

import pytest

import hv.hypervisor.exits  # noqa: F401
from hv.hypervisor.hypercalls.registry import ATTEMPT_TICKS, REP_TICKS
from hv.hypervisor.run import EXIT_HANDLERS, obey, on_exit
from hv.hypervisor.verdicts import ADVANCE, ASK_PARENT, RETRY, YIELD, Halt, Inject
from hv.machine.faults import Access, GuestFault
from hv.spec.apic import ApicRegister
from hv.spec.exits import CrQualification, ExitReason, InterruptionInfo, InterruptionType, IoQualification
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.control import HypercallControl
from hv.spec.hypercalls.memory import UnmapGpaPagesInput
from hv.spec.intercepts import HvInterceptType
from hv.spec.msrs import HvHypercallMsr, Msr
from hv.spec.synic import HvMessageType
from hv.spec.vmcs import VmcsField
from hv.trace.events import Cpuid, InterceptSent, MmioAccess, MsrRead, MsrWrite, PortIo
from hv.vmx.checks import Entry, entry_result
from hv.vmx.checks.example import valid_guest
from hv.vmx.exit import VmExit
from tests.hypervisor.exit_fakes import a_vp

APIC_PAGE = 0xFEE0_0000
ALL = (1 << 64) - 1


def handle(vp, reason, qualification=0, length=2, **fields):
    exit = VmExit(reason, qualification, length)
    for name, value in fields.items():
        setattr(exit, name, value)
    return EXIT_HANDLERS[reason](vp, exit), exit


def sent(vp):
    """The intercept messages this VP's partition sent, by type."""
    return [event.message_type for event in vp.machine.events(InterceptSent)]


def refused(vp, reason, **registers):
    """The (vector, error code) that *reason* raises."""
    for name, value in registers.items():
        setattr(vp.regs, name, value)
    with pytest.raises(GuestFault) as caught:
        handle(vp, reason)
    return caught.value.vector, caught.value.error_code


# --- registration ------------------------------------------------------------------------------------------------

def test_two_handlers_for_one_reason_are_an_error_that_names_both():
    with pytest.raises(TypeError, match=r"^CPUID is handled by handle_cpuid and .*another$"):
        @on_exit(ExitReason.CPUID)
        def another(vp, exit):
            """Never called."""
    assert EXIT_HANDLERS[ExitReason.CPUID].__qualname__ == "handle_cpuid"


def test_every_file_of_exits_is_in_the_inventory():
    package = importlib.import_module("hv.hypervisor.exits")
    named = {handler.__module__ for handler in EXIT_HANDLERS.values()}
    assert {f"{package.__name__}.{name}" for name in (
        "apic", "control_registers", "cpuid", "descriptor_tables", "exceptions", "failures", "idle", "interrupts", "io",
        "memory", "msr", "vmcall",
    )} == named


# --- CPUID -------------------------------------------------------------------------------------------------------

def test_cpuid_answers_from_the_partitions_table():
    vp = a_vp()
    vp.regs.rax, vp.regs.rcx = 0xFFFF_FFFF_4000_0000, 0
    verdict, _ = handle(vp, ExitReason.CPUID)
    assert verdict is ADVANCE
    assert vp.regs.rbx.to_bytes(4, "little") + vp.regs.rcx.to_bytes(4, "little") \
        + vp.regs.rdx.to_bytes(4, "little") == b"Microsoft Hv"
    assert vp.machine.events(Cpuid)[0].leaf == 0x4000_0000


def test_cpuid_clears_the_upper_halves():
    """SDM "CPUID": all four registers are written as 32-bit ones, also in 64-bit mode."""
    vp = a_vp()
    vp.regs.rax = vp.regs.rbx = vp.regs.rcx = vp.regs.rdx = ALL & ~0xFFFF_FFFF
    handle(vp, ExitReason.CPUID)
    assert not (vp.regs.rax | vp.regs.rbx | vp.regs.rcx | vp.regs.rdx) >> 32


def test_cpuid_of_a_leaf_the_parent_wants_asks_it():
    vp = a_vp()
    vp.partition.intercepts.install(HvInterceptType.CPUID, 7, 4)
    vp.regs.rax = 7
    assert handle(vp, ExitReason.CPUID)[0] is ASK_PARENT
    assert sent(vp) == [HvMessageType.X64_CPUID_INTERCEPT]
    assert vp.intercept_suspend
    vp.regs.rax = 1
    assert handle(vp, ExitReason.CPUID)[0] is ADVANCE


# --- MSRs --------------------------------------------------------------------------------------------------------

def write_msr(vp, index, value):
    vp.regs.rcx, vp.regs.rax, vp.regs.rdx = index, value & 0xFFFF_FFFF, value >> 32
    return handle(vp, ExitReason.WRMSR)[0]


def read_msr(vp, index):
    vp.regs.rcx = index
    assert handle(vp, ExitReason.RDMSR)[0] is ADVANCE
    return vp.regs.rdx << 32 | vp.regs.rax


@pytest.mark.parametrize(("index", "value"), [
    pytest.param(Msr.STAR, 0x0023_0010_0000_0000, id="star"),
    pytest.param(Msr.LSTAR, 0xFFFF_8000_0000_1000, id="lstar-canonical"),
    pytest.param(Msr.PAT, 0x0007_0406_0007_0406, id="pat"),
    pytest.param(Msr.SFMASK, 0xFFFF_FFFF, id="sfmask-32-bits"),
    pytest.param(Msr.HV_GUEST_OS_ID, 0x8100_0000_0001_0000, id="synthetic"),
])
def test_an_msr_written_is_read_back(index, value):
    vp = a_vp()
    assert write_msr(vp, index, value) is ADVANCE
    assert read_msr(vp, index) == value
    assert vp.machine.events(MsrWrite) == [MsrWrite(index, value)]
    assert vp.machine.events(MsrRead) == [MsrRead(index, value)]


@pytest.mark.parametrize(("index", "value"), [
    pytest.param(Msr.EFER, 1 << 1, id="efer-reserved-bit"),
    pytest.param(Msr.EFER, 1 << 12, id="efer-svme"),
    pytest.param(Msr.LSTAR, 1 << 47, id="lstar-not-canonical"),
    pytest.param(Msr.KERNEL_GS_BASE, 0x0000_8000_0000_0000, id="gs-base-not-canonical"),
    pytest.param(Msr.SYSENTER_EIP, 0x7FFF << 48, id="sysenter-eip-not-canonical"),
    pytest.param(Msr.PAT, 0x02, id="pat-type-2"),
    pytest.param(Msr.PAT, 0x03 << 56, id="pat-type-3"),
    pytest.param(Msr.PAT, 0x08 << 8, id="pat-reserved-bits"),
    pytest.param(Msr.SFMASK, 1 << 32, id="sfmask-upper-half"),
    pytest.param(Msr.HV_VP_INDEX, 1, id="synthetic-read-only"),
    pytest.param(0x12345, 0, id="unknown"),
    pytest.param(Msr.PLATFORM_ID, 0, id="platform-id-read-only"),
])
def test_a_write_that_the_manual_refuses_is_gp_and_changes_nothing(index, value):
    vp = a_vp()
    before = dict(vp.regs.msrs), vp.regs.efer
    with pytest.raises(GuestFault) as caught:
        write_msr(vp, index, value)
    assert (caught.value.vector, caught.value.error_code) == (13, 0)
    assert (dict(vp.regs.msrs), vp.regs.efer) == before
    assert not vp.machine.events(MsrWrite)          # the event says what was stored


def test_efer_lme_may_not_change_under_paging():
    """SDM "IA-32e Mode Operation": LME changes only while CR0.PG is 0."""
    vp = a_vp()
    vp.regs.cr0 |= 1 << 31
    assert refused(vp, ExitReason.WRMSR, rcx=Msr.EFER, rax=0, rdx=0) == (13, 0)
    vp.regs.cr0 &= ~(1 << 31)
    assert write_msr(vp, Msr.EFER, 0x801) is ADVANCE


def test_efer_lma_follows_the_processor_not_the_write():
    vp = a_vp()
    write_msr(vp, Msr.EFER, 0x900)
    assert vp.regs.efer == 0xD00
    vp.regs.efer = 0
    write_msr(vp, Msr.EFER, 0x500)
    assert vp.regs.efer == 0x100


def test_a_write_of_the_tsc_sets_the_guests_counter():
    vp = a_vp()
    assert write_msr(vp, Msr.TSC, 5 << 40) is ADVANCE
    assert vp.vcpu.tsc == 5 << 40
    assert read_msr(vp, Msr.TSC) == 5 << 40


def test_only_ecx_names_the_register():
    vp = a_vp()
    vp.regs.rcx = 0xDEAD_BEEF << 32 | Msr.HV_VP_INDEX
    assert handle(vp, ExitReason.RDMSR)[0] is ADVANCE


@pytest.mark.parametrize("reason", [ExitReason.RDMSR, ExitReason.WRMSR])
def test_an_msr_the_parent_wants_is_asked_for(reason):
    vp = a_vp()
    vp.partition.intercepts.install(HvInterceptType.MSR, 0x12345, 3)
    vp.regs.rcx = 0x12345
    assert handle(vp, reason)[0] is ASK_PARENT
    assert sent(vp) == [HvMessageType.X64_MSR_INTERCEPT]


def test_a_partition_may_ignore_unknown_msrs():
    """Partition property UnimplementedMsrAction = 1: reads give 0, writes do nothing."""
    vp = a_vp()
    vp.partition.unimplemented_msr_action = 1
    assert write_msr(vp, 0x12345, 7) is ADVANCE
    assert read_msr(vp, 0x12345) == 0


# --- ports -------------------------------------------------------------------------------------------------------

def io(port, size, *, read):
    return IoQualification(size_minus_1=size - 1, in_=int(read), port=port).raw


@pytest.mark.parametrize(("size", "expected"), [
    (1, 0x1122_3344_5566_77FF), (2, 0x1122_3344_5566_FFFF), (4, 0xFFFF_FFFF)])
def test_in_from_an_empty_bus_gives_ones_and_keeps_what_the_size_leaves(size, expected):
    vp = a_vp()
    vp.regs.rax = 0x1122_3344_5566_7788
    assert handle(vp, ExitReason.IO_INSTRUCTION, io(0x70, size, read=True))[0] is ADVANCE
    assert vp.regs.rax == expected


def test_out_to_an_empty_bus_is_dropped():
    vp = a_vp()
    vp.regs.rax = 0xABCD
    assert handle(vp, ExitReason.IO_INSTRUCTION, io(0x70, 1, read=False))[0] is ADVANCE
    assert vp.machine.events(PortIo) == [PortIo(0x70, 1, True, 0xCD)]
    assert not sent(vp)


@pytest.mark.parametrize(("access", "read", "asked"), [
    (1, True, True), (1, False, False), (2, True, False), (2, False, True), (3, True, True)])
def test_a_port_is_asked_for_when_its_access_is_intercepted(access, read, asked):
    vp = a_vp()
    vp.partition.intercepts.install(HvInterceptType.IO_PORT, 0x3F8, access)
    verdict, _ = handle(vp, ExitReason.IO_INSTRUCTION, io(0x3F8, 1, read=read))
    assert verdict is (ASK_PARENT if asked else ADVANCE)
    assert sent(vp) == ([HvMessageType.X64_IO_PORT_INTERCEPT] if asked else [])


# --- HLT, PAUSE, interrupts --------------------------------------------------------------------------------------

def test_hlt_sleeps_and_yields():
    vp = a_vp()
    assert handle(vp, ExitReason.HLT)[0] is YIELD
    assert vp.halted


def test_hlt_goes_on_when_only_time_had_to_pass():
    vp = a_vp()

    def wait(who):
        assert (who, vp.halted) == (vp, True)
        vp.partition.clock.advance(700)
        return True
    vp.machine.hypervisor.on_halt = wait
    assert handle(vp, ExitReason.HLT)[0] is ADVANCE
    assert (vp.halted, vp.event_pending, vp.slept) == (False, True, 700)


@pytest.mark.parametrize("change", [("asleep_for_good", True), ("rflags", 0x302)])
def test_hlt_does_not_wait_when_nothing_wakes_it_or_its_single_step_is_due(change):
    vp = a_vp()
    vp.machine.hypervisor.on_halt = lambda who: pytest.fail("asked")
    setattr(vp if hasattr(vp, change[0]) else vp.regs, *change)
    assert handle(vp, ExitReason.HLT)[0] is YIELD


def test_pause_yields_and_does_not_sleep():
    vp = a_vp()
    assert handle(vp, ExitReason.PAUSE)[0] is YIELD
    assert not vp.halted


def test_a_physical_interrupt_goes_to_the_owner_not_to_who_was_interrupted():
    vp = a_vp()
    owner = vp.machine.child().vps[0]
    vp.hypervisor.interrupts.allocate(8, owner.partition, [owner], 0x51)
    info = InterruptionInfo(vector=0x30, type=InterruptionType.EXTERNAL_INTERRUPT, valid=1).raw
    assert handle(vp, ExitReason.EXTERNAL_INTERRUPT, interruption_info=info)[0] is YIELD
    assert owner.apic.deliverable() == 0x51
    assert vp.apic.deliverable() is None


def test_the_owner_itself_goes_on_at_once():
    vp = a_vp()
    vp.hypervisor.interrupts.allocate(8, vp.partition, [vp], 0x51)
    info = InterruptionInfo(vector=0x30, valid=1).raw
    assert handle(vp, ExitReason.EXTERNAL_INTERRUPT, interruption_info=info)[0] is RETRY
    assert vp.apic.deliverable() == 0x51


def test_a_physical_interrupt_of_nobody_is_counted_and_dropped():
    vp = a_vp()
    info = InterruptionInfo(vector=0x77, valid=1).raw
    assert handle(vp, ExitReason.EXTERNAL_INTERRUPT, interruption_info=info)[0] is RETRY
    assert vp.hypervisor.interrupts.spurious == 1
    assert vp.apic.irr == 0


def test_an_interrupt_window_is_a_retry():
    assert handle(a_vp(), ExitReason.INTERRUPT_WINDOW)[0] is RETRY


# --- control registers -------------------------------------------------------------------------------------------

def test_cr8_is_the_task_priority_of_the_virtual_apic():
    vp = a_vp()
    vp.regs.rbx = 9
    assert handle(vp, ExitReason.CR_ACCESS, CrQualification(number=8, access=0, register=3).raw)[0] is ADVANCE
    assert vp.apic.tpr == 0x90
    handle(vp, ExitReason.CR_ACCESS, CrQualification(number=8, access=1, register=15).raw)
    assert vp.regs.r15 == 9


@pytest.mark.parametrize(("number", "value"), [
    pytest.param(8, 16, id="cr8-has-four-bits"), pytest.param(4, 0x2020, id="vmxe-is-not-offered")])
def test_a_control_register_write_that_is_refused_is_gp(number, value):
    vp = a_vp()
    vp.regs.rax = value
    with pytest.raises(GuestFault) as caught:
        handle(vp, ExitReason.CR_ACCESS, CrQualification(number=number).raw)
    assert (caught.value.vector, caught.value.error_code) == (13, 0)


# --- exceptions and ends -----------------------------------------------------------------------------------------

def exception(vector, error_code=None, kind=InterruptionType.HARDWARE_EXCEPTION):
    return {"interruption_info": InterruptionInfo(vector=vector, type=kind, valid=1,
                                                  error_code_valid=int(error_code is not None)).raw,
            "interruption_error_code": error_code or 0}


def test_an_exception_the_parent_wants_is_asked_for():
    vp = a_vp()
    vp.partition.intercepts.install(HvInterceptType.EXCEPTION, 6, 4)
    assert handle(vp, ExitReason.EXCEPTION_OR_NMI, **exception(6))[0] is ASK_PARENT
    assert sent(vp) == [HvMessageType.X64_EXCEPTION_INTERCEPT]


def test_an_exception_nobody_wants_goes_back_to_the_guest():
    verdict, _ = handle(a_vp(), ExitReason.EXCEPTION_OR_NMI, 0x1234, **exception(14, 2))
    assert verdict == Inject(14, 2, 0x1234)
    verdict, _ = handle(a_vp(), ExitReason.EXCEPTION_OR_NMI, 0x1234, **exception(6))
    assert verdict == Inject(6, None, None)


def test_a_triple_fault_is_the_parents_to_answer():
    vp = a_vp()
    assert handle(vp, ExitReason.TRIPLE_FAULT)[0] is ASK_PARENT
    assert sent(vp) == [HvMessageType.UNRECOVERABLE_EXCEPTION]


def test_a_failed_entry_is_the_parents_to_mend():
    """TLFS "Invalid VP Register Value": the VP waits, and the message says which one it is."""
    vp = a_vp()
    assert handle(vp, ExitReason.ENTRY_FAILURE_GUEST_STATE)[0] is ASK_PARENT
    assert sent(vp) == [HvMessageType.INVALID_VP_REGISTER_VALUE]
    assert vp.intercept_suspend


def test_a_failed_entry_of_root_names_the_rule():
    vp = a_vp()
    vp.partition.parent = None
    vp.vcpu.entry_result = entry_result(Entry(valid_guest() | {VmcsField.GUEST_RFLAGS: 0}))
    assert handle(vp, ExitReason.ENTRY_FAILURE_GUEST_STATE)[0] == Halt(
        "VM entry failed: VM exit 33, qualification 0: guest-rflags-bit-1: bit 1 is 0; required: it is 1")


def test_a_task_switch_stops_with_its_selector():
    verdict, _ = handle(a_vp(), ExitReason.TASK_SWITCH, 0xC000_0028)
    assert verdict == Halt("the guest asks for a task switch to selector 0x28, which is not supported")


@pytest.mark.parametrize("reason", [
    ExitReason.VMCLEAR, ExitReason.VMLAUNCH, ExitReason.VMPTRLD, ExitReason.VMPTRST, ExitReason.VMREAD,
    ExitReason.VMRESUME, ExitReason.VMWRITE, ExitReason.VMXOFF, ExitReason.VMXON, ExitReason.INVEPT,
    ExitReason.INVVPID])
def test_vmx_is_not_offered(reason):
    assert refused(a_vp(), reason) == (6, None)


def test_a_guest_may_not_drop_caches():
    assert refused(a_vp(), ExitReason.INVD) == (13, 0)


# --- VMCALL ------------------------------------------------------------------------------------------------------

PAGE = 5                                            # where the hypercall page is


def a_caller():
    vp = a_vp()
    vp.partition.hypercall_msr = HvHypercallMsr(enable=1, gpfn=PAGE)
    vp.regs.rip = PAGE << 12
    return vp


def signal(connection):
    return HypercallControl(call_code=HypercallCode.SIGNAL_EVENT, fast=1).raw, connection


def test_a_hypercall_takes_rcx_rdx_r8_and_answers_in_rax():
    vp = a_caller()
    vp.regs.rcx, vp.regs.rdx = signal(77)
    assert handle(vp, ExitReason.VMCALL, length=3)[0] is ADVANCE
    assert vp.regs.rax == 0x12                      # INVALID_CONNECTION_ID
    assert (vp.regs.rcx, vp.regs.rdx) == signal(77)


def test_32_bit_code_passes_pairs_of_registers():
    """TLFS "Hypercall Inputs": EDX:EAX control, EBX:ECX input, EDI:ESI output; the result in EDX:EAX."""
    vp = a_caller()
    vp.regs.bits, vp.regs.efer = 32, 0
    control, connection = signal(77)
    vp.regs.rdx, vp.regs.rax, vp.regs.rbx, vp.regs.rcx = control >> 32, control & 0xFFFF_FFFF, 0, connection
    assert handle(vp, ExitReason.VMCALL, length=3)[0] is ADVANCE
    assert (vp.regs.rdx, vp.regs.rax) == (0, 0x12)


def long_call(vp, reps):
    """It unmaps pages of a partition that is made its child for this; nothing stood there."""
    child = vp.machine.child()
    child.parent = vp.partition
    vp.partition.space.write(0x2000, UnmapGpaPagesInput(target_partition_id=child.id, target_gpa_base=0x100).pack())
    return HypercallControl(call_code=HypercallCode.UNMAP_GPA_PAGES, rep_count=reps)


@pytest.mark.parametrize("bits", [64, 32])
def test_a_long_call_is_retried_with_a_new_rep_start_in_its_control_word(bits):
    """TLFS "Hypercall Continuation": RIP stays; interrupts have their turn; the guest sees the end only."""
    vp = a_caller()
    control, starts, reps = long_call(vp, 700).raw, [], ATTEMPT_TICKS // REP_TICKS
    vp.regs.bits = bits
    if bits == 64:
        vp.regs.rcx, vp.regs.rdx, vp.regs.r8 = control, 0x2000, 0
    else:
        vp.regs.efer, vp.regs.rdx, vp.regs.rax = 0, control >> 32, control & 0xFFFF_FFFF
        vp.regs.rbx, vp.regs.rcx = 0, 0x2000
    while (verdict := handle(vp, ExitReason.VMCALL, length=3)[0]) is RETRY:
        word = vp.regs.rcx if bits == 64 else vp.regs.rdx << 32 | vp.regs.rax
        starts.append(HypercallControl(word).rep_start)
        assert word & ~HypercallControl(rep_start=0xFFF).raw == control
    assert verdict is ADVANCE
    assert starts == [reps, 2 * reps]
    result = vp.regs.rax if bits == 64 else vp.regs.rdx << 32 | vp.regs.rax
    assert result == 700 << 32
    assert vp.regs.rip == PAGE << 12


def user(vp):
    vp.regs.cpl = 3


def real(vp):
    vp.regs.cr0, vp.regs.efer, vp.regs.bits = 0x10, 0, 16


def disabled(vp):
    vp.partition.hypercall_msr = HvHypercallMsr(gpfn=PAGE)


def elsewhere(vp):
    vp.regs.rip = PAGE + 1 << 12


def moved(vp):
    assert handle(vp, ExitReason.VMCALL)[0] is ADVANCE
    vp.partition.hypercall_msr = HvHypercallMsr(enable=1, gpfn=PAGE + 1)


@pytest.mark.parametrize("break_rule", [user, real, disabled, elsewhere, moved], ids=lambda rule: rule.__name__)
def test_vmcall_is_undefined_unless(break_rule):
    """TLFS "Hypercall Interface": CPL 0, protected mode, the page enabled, and from that page."""
    vp = a_caller()
    vp.regs.rcx, vp.regs.rdx = signal(77)
    break_rule(vp)
    assert refused(vp, ExitReason.VMCALL) == (6, None)


def test_parameters_where_the_caller_has_no_memory_are_an_intercept():
    vp = a_caller()
    vp.regs.rcx, vp.regs.rdx = HypercallCode.POST_MESSAGE, 0x40_0000
    assert obey(vp, VmExit(ExitReason.VMCALL, 0, 3)) is False
    assert sent(vp) == [HvMessageType.UNMAPPED_GPA]


def test_parameters_on_the_apic_page_are_an_intercept_too():
    """The page is emulated for instructions, it is no memory; the VP goes on to live."""
    vp = a_caller()
    vp.regs.rcx, vp.regs.rdx = HypercallCode.POST_MESSAGE, APIC_PAGE
    assert obey(vp, VmExit(ExitReason.VMCALL, 0, 3)) is False
    assert sent(vp) == [HvMessageType.UNMAPPED_GPA]
    assert not vp.stopped_because


# --- memory ------------------------------------------------------------------------------------------------------

def touch(vp, code, gpa, access=Access.READ):
    """The exit of *code* (hexadecimal, at RIP 0x1000) that touches *gpa*."""
    vp.regs.rip = 0x1000
    data = bytes.fromhex(code)
    vp.vcpu.guest.data[0x1000 : 0x1000 + len(data)] = data
    return handle(vp, ExitReason.EPT_VIOLATION, int(access), 0, guest_physical_address=gpa)


FORMS = [
    pytest.param("89 08", {"rax": APIC_PAGE + 0x80, "rcx": 0x20}, 0x20, 2, id="mov [rax], ecx"),
    pytest.param("c7 00 30 00 00 00", {"rax": APIC_PAGE + 0x80}, 0x30, 6, id="mov dword ptr [rax], 30h"),
    pytest.param("44 89 42 10", {"rdx": APIC_PAGE + 0x70, "r8": 0x40}, 0x40, 4, id="mov [rdx + 10h], r8d"),
    pytest.param("ab", {"rdi": APIC_PAGE + 0x80, "rax": 0x50}, 0x50, 1, id="stosd"),
    pytest.param("09 08", {"rax": APIC_PAGE + 0x80, "rcx": 0x60}, 0x60, 2, id="or [rax], ecx"),
    pytest.param("87 08", {"rax": APIC_PAGE + 0x80, "rcx": 0x70}, 0x70, 2, id="xchg [rax], ecx"),
]


@pytest.mark.parametrize(("code", "registers", "tpr", "length"), FORMS)
def test_a_store_to_the_apic_page_reaches_the_virtual_apic(code, registers, tpr, length):
    vp = a_vp()
    for name, value in registers.items():
        setattr(vp.regs, name, value)
    verdict, exit = touch(vp, code, APIC_PAGE + ApicRegister.TPR, Access.WRITE)
    assert (verdict, exit.instruction_length) == (ADVANCE, length)
    assert vp.apic.tpr == tpr
    assert vp.machine.events(MmioAccess)[-1] == MmioAccess(APIC_PAGE + 0x80, 4, True, tpr)


@pytest.mark.parametrize(("code", "registers", "target", "expected"), [
    pytest.param("8b 08", {"rax": APIC_PAGE + 0x80}, "rcx", 0x45, id="mov ecx, [rax]"),
    pytest.param("48 8b 08", {"rax": APIC_PAGE + 0x80}, "rcx", 0x45, id="mov rcx, [rax]"),
    pytest.param("0f b6 08", {"rax": APIC_PAGE + 0x80}, "rcx", 0x45, id="movzx ecx, byte [rax]"),
    pytest.param("ad", {"rsi": APIC_PAGE + 0x80}, "rax", 0x45, id="lodsd"),
    pytest.param("a1 80 00 e0 fe 00 00 00 00", {}, "rax", 0x45, id="mov eax, [moffs]"),
])
def test_a_load_from_the_apic_page_reads_the_virtual_apic(code, registers, target, expected):
    vp = a_vp()
    vp.apic.set_tpr(0x45)
    for name, value in registers.items():
        setattr(vp.regs, name, value)
    assert touch(vp, code, APIC_PAGE + ApicRegister.TPR)[0] is ADVANCE
    assert getattr(vp.regs, target) == expected


def test_an_instruction_nobody_emulates_stops_the_vp_with_its_text():
    verdict, _ = touch(a_vp(), "0f 28 00", APIC_PAGE + 0x80)        # movaps xmm0, [rax]
    assert isinstance(verdict, Halt)
    assert verdict.why.startswith("an instruction that cannot be emulated touches the local APIC: movaps xmm0")


def test_code_that_cannot_be_fetched_any_more_is_an_intercept():
    """The page of the instruction was taken away between the access and the look at it."""
    vp = a_vp()
    vp.vcpu.guest.refused.add(1)
    vp.regs.rip = 0x1000
    exit = VmExit(ExitReason.EPT_VIOLATION, int(Access.READ))
    exit.guest_physical_address = APIC_PAGE + 0x80
    assert obey(vp, exit) is False
    assert sent(vp) == [HvMessageType.GPA_INTERCEPT]


def test_the_apic_page_follows_its_base_register():
    vp = a_vp()
    vp.apic.write_msr(Msr.APIC_BASE, 0x1234_5900)
    vp.regs.rax, vp.regs.rcx = 0x1234_5080, 0x20
    assert touch(vp, "89 08", 0x1234_5080, Access.WRITE)[0] is ADVANCE
    assert vp.apic.tpr == 0x20
    assert touch(vp, "89 08", APIC_PAGE + 0x80, Access.WRITE)[0] is ASK_PARENT


@pytest.mark.parametrize("base", [pytest.param(0xFEE0_0D00, id="x2apic"), pytest.param(0xFEE0_0100, id="disabled")])
def test_without_an_xapic_there_is_nothing_at_its_page(base):
    vp = a_vp()
    vp.apic.write_msr(Msr.APIC_BASE, base)
    assert touch(vp, "89 08", APIC_PAGE + 0x80, Access.WRITE)[0] is ASK_PARENT


def test_an_unmapped_page_is_the_parents_affair():
    vp = a_vp()
    assert touch(vp, "8b 08", 0x8000_0000)[0] is ASK_PARENT
    assert sent(vp) == [HvMessageType.UNMAPPED_GPA]
    assert vp.intercept_suspend


def test_a_page_whose_rights_forbid_it_is_an_intercept_of_its_own_kind():
    vp = a_vp()
    vp.partition.space.map(3, vp.machine.fresh_page(), Access.READ)
    assert touch(vp, "89 08", 3 << 12, Access.WRITE)[0] is ASK_PARENT
    assert sent(vp) == [HvMessageType.GPA_INTERCEPT]


def write_to_the_hypercall_page(vp, **more):
    vp.partition.set_hypercall_page(HvHypercallMsr(enable=1, gpfn=PAGE))
    exit = VmExit(ExitReason.EPT_VIOLATION, int(Access.WRITE))
    exit.guest_physical_address = PAGE << 12 | 8
    for name, value in more.items():
        setattr(exit, name, value)
    assert obey(vp, exit)
    return [(event.vector, event.error_code) for event in vp.vcpu.injected]


def test_a_write_to_the_hypercall_page_is_a_general_protection_fault():
    """TLFS "Establishing the Hypercall Interface"; the parent hears nothing of it."""
    vp = a_vp()
    assert write_to_the_hypercall_page(vp) == [(13, 0)]
    assert sent(vp) == []


@pytest.mark.parametrize(("vector", "type", "injected"), [
    (0x30, 0, 13), (6, 3, 13), (14, 3, 8), (13, 3, 8), (3, 6, 13)])
def test_an_event_delivered_to_a_stack_in_the_hypercall_page_is_combined_with_that_fault(vector, type, injected):
    """SDM "Interrupt 8 - Double Fault Exception"."""
    vp = a_vp()
    info = InterruptionInfo(vector=vector, type=type, valid=1, error_code_valid=int(vector in (13, 14))).raw
    assert write_to_the_hypercall_page(vp, idt_vectoring_info=info) == [(injected, 0)]


def test_a_double_fault_delivered_to_the_hypercall_page_ends_the_guest():
    vp = a_vp()
    vp.partition.set_hypercall_page(HvHypercallMsr(enable=1, gpfn=PAGE))
    info = InterruptionInfo(vector=8, type=3, valid=1, error_code_valid=1).raw
    assert handle(vp, ExitReason.EPT_VIOLATION, int(Access.WRITE), 0, guest_physical_address=PAGE << 12,
                  idt_vectoring_info=info)[0] is ASK_PARENT
    assert sent(vp) == [HvMessageType.UNRECOVERABLE_EXCEPTION]


def test_an_access_while_an_event_is_delivered_is_not_taken_for_an_instruction():
    """IDT-vectoring information is valid: what touched the page was the processor, not the code at RIP."""
    vp = a_vp()
    vp.regs.rip = 0x1000
    verdict, _ = handle(vp, ExitReason.EPT_VIOLATION, int(Access.READ), 0, guest_physical_address=APIC_PAGE,
                        idt_vectoring_info=InterruptionInfo(vector=6, type=3, valid=1).raw)
    assert verdict is ASK_PARENT
    assert (vp.pending_event.vector, vp.pending_event.kind) == (6, InterruptionType.HARDWARE_EXCEPTION)

"""Instructions that exit by a control of their own: with it the exit, without it what the instruction does."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hv.machine.registers import Segment
from hv.spec.exits import CrAccess, CrQualification, DrQualification, ExitReason, MwaitQualification
from hv.spec.msrs import Msr
from hv.spec.vmcs import PrimaryControls, SecondaryControls, VmcsField
from hv.vmx.vmcs import DEFAULT_CONTROLS
from tests.machine.engine_box import PML4
from tests.proves import proves
from tests.vmx.vcpu_box import CODE, vector_at

R, F, P, S = ExitReason, VmcsField, PrimaryControls, SecondaryControls
UD, GP, PF = 6, 13, 14
PRIMARY, SECONDARY = DEFAULT_CONTROLS[F.PRIMARY_PROC_CONTROLS], DEFAULT_CONTROLS[F.SECONDARY_PROC_CONTROLS]
DATA, FAR = 0x20000, 0x1234567000       # mapped for the 64-bit guest, and not


def controls(*on, off=()) -> dict[VmcsField, int]:
    """The box's controls with those of *on* set and those of *off* clear."""
    primary, secondary = PRIMARY, SECONDARY
    for bit in on:
        primary, secondary = (primary | bit, secondary) if isinstance(bit, P) else (primary, secondary | bit)
    for bit in off:
        primary, secondary = (primary & ~bit, secondary) if isinstance(bit, P) else (primary, secondary & ~bit)
    return {F.PRIMARY_PROC_CONTROLS: int(primary), F.SECONDARY_PROC_CONTROLS: int(secondary)}


def faulted(vcpu, exit) -> int | None:
    """The vector that the guest's own handler got; it ends in a HLT of the box's IDT."""
    assert exit.reason is R.HLT
    return vector_at(vcpu)


# Source -> control, reason. Without the control each of them lets the program go on to its CPUID.
BY_CONTROL = {
    "rdtsc": (P.RDTSC_EXITING, R.RDTSC, 2), "wbinvd": (S.WBINVD_EXITING, R.WBINVD, 2),
    "pause": (P.PAUSE_EXITING, R.PAUSE, 2), "wbnoinvd": (S.WBINVD_EXITING, R.WBINVD, 3),
    "monitor": (P.MONITOR_EXITING, R.MONITOR, 3), "mwait": (P.MWAIT_EXITING, R.MWAIT, 3),
}
CODES = {"rdtsc": "0f31", "wbinvd": "0f09", "wbnoinvd": "f30f09", "monitor": "0f01c8", "mwait": "0f01c9",
         "pause": "f390", "rdtscp": "0f01f9", "cpuid": "0fa2"}


@proves("control/PrimaryControls.RDTSC_EXITING", "exit/RDTSC", "instruction/RDTSC",
        "control/SecondaryControls.WBINVD_EXITING", "exit/WBINVD", "instruction/WBINVD", "instruction/WBNOINVD",
        "control/PrimaryControls.MONITOR_EXITING", "exit/MONITOR", "instruction/MONITOR",
        "control/PrimaryControls.MWAIT_EXITING", "exit/MWAIT", "instruction/MWAIT",
        "control/PrimaryControls.PAUSE_EXITING", "exit/PAUSE", "instruction/PAUSE")
@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("name", BY_CONTROL)
def test_a_control_decides_whether_it_exits(box, name, bits):
    control, reason, length = BY_CONTROL[name]
    code = bytes.fromhex("90" + CODES[name] + CODES["cpuid"])
    vcpu, exit = box.exit_of(code, bits, fields=controls(control), rax=0x5000, rcx=0, rdx=0)
    start = 0 if bits == 16 else CODE
    assert (exit.reason, exit.qualification, exit.instruction_length) == (reason, 0, length)
    assert (vcpu.state.rip, exit.instruction_info, exit.interruption_info) == (start + 1, 0, 0)
    vcpu, exit = box.exit_of(code, bits, fields=controls(off=[control]), rax=0x5000, rcx=0, rdx=0)
    assert (exit.reason, vcpu.state.rip) == (R.CPUID, start + 1 + length)


@proves("exit/CPUID", "instruction/CPUID", "exit/INVD", "instruction/INVD")
@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize(("source", "reason"), [("cpuid", R.CPUID), ("invd", R.INVD)])
def test_some_exit_whatever_the_controls_say(box, source, reason, bits):
    """SDM "Instructions That Cause VM Exits Unconditionally"."""
    # Without "unrestricted guest", a secondary control, only a guest with paging is entered.
    off = int(P.ACTIVATE_SECONDARY_CONTROLS) if bits == 64 else 0
    _, exit = box.exit_of(source, bits, fields={F.PRIMARY_PROC_CONTROLS: PRIMARY & ~off})
    assert (exit.reason, exit.qualification, exit.instruction_length) == (reason, 0, 2)


@proves("control/PrimaryControls.ACTIVATE_SECONDARY_CONTROLS")
@pytest.mark.parametrize(("active", "reason"), [(True, R.WBINVD), (False, R.HLT)])
def test_secondary_controls_count_only_while_they_are_active(box, active, reason):
    """SDM "Processor-Based VM-Execution Controls": as if all of them were 0."""
    fields = controls(S.WBINVD_EXITING, off=() if active else (P.ACTIVATE_SECONDARY_CONTROLS,))
    _, exit = box.exit_of("wbinvd; hlt", fields=fields)
    assert exit.reason is reason


# --- what this processor does not have -------------------------------------------------------------------

ABSENT = {
    "getsec": "0f37", "xsetbv": "0f01d1", "xgetbv": "0f01d0", "xsaves": "0fc72f", "rsm": "0faa", "rdrand": "0fc7f0",
    "rdseed": "0fc7f8", "rdpid": "f30fc7f8", "encls": "0f01cf", "enclv": "0f01c0", "pconfig": "0f01c5",
    "vmfunc": "0f01d4", "invpcid": "660f388200", "rdtscp": "0f01f9", "loadiwkey": "f30f38dcc1", "serialize": "0f01e8",
    "xrstors": "0fc71f", "enqcmd": "f20f38f800", "enqcmds": "f30f38f800", "urdmsr": "f20f38f8c1",
    "uwrmsr": "f30f38f8c1",
    "wrmsrns": "0f01c6", "rdmsrlist": "f20f01c6", "wrmsrlist": "f30f01c6", "seamcall": "660f01cf", "tdcall": "660f01cc",
}


@proves("instruction/GETSEC", "instruction/XSETBV", "instruction/RSM", "instruction/RDRAND", "instruction/RDSEED",
        "instruction/XSAVES", "instruction/ENCLS", "instruction/ENCLV", "instruction/PCONFIG", "instruction/RDPID",
        "instruction/LOADIWKEY", "instruction/VMFUNC", "instruction/INVPCID", "instruction/RDTSCP",
        "instruction/XRSTORS",
        "instruction/ENQCMD", "instruction/ENQCMDS", "instruction/URDMSR", "instruction/UWRMSR",
        "instruction/RDMSRLIST",
        "instruction/WRMSRLIST", "instruction/SEAMCALL", "instruction/TDCALL")
@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("name", ABSENT)
def test_what_the_processor_does_not_have_is_an_invalid_opcode(box, name, bits):
    """Or what its secondary controls do not enable. It neither exits nor does anything."""
    vcpu, exit = box.exit_of(bytes.fromhex(ABSENT[name]), bits, rax=0x5000)
    assert faulted(vcpu, exit) == UD


# --- VMX instructions ------------------------------------------------------------------------------------

VMX = {"vmclear": "660fc733", "vmlaunch": "0f01c2", "vmptrld": "0fc733", "vmptrst": "0fc73b", "vmread": "0f7803",
       "vmresume": "0f01c3", "vmwrite": "0f7903", "vmxoff": "0f01c4", "vmxon": "f30fc733", "invept": "660f388003",
       "invvpid": "660f388103"}
VMX_ROWS = [row for name in (*VMX, "vmcall") for row in (f"exit/{name.upper()}", f"instruction/{name.upper()}")]
PROTECTED = ["32", "64", "16-protected", "user-32", "user-64"]
UNDEFINED = ["real", "virtual-8086", "compatibility"]


def in_mode(box, mode, code):
    """A vcpu at *code* in one of the modes, which has not run."""
    bits, user = 16 if mode == "real" else 64 if "64" in mode or mode == "compatibility" else 32, "user" in mode
    vcpu = box.vcpu(bits, user)
    state = vcpu.state
    if mode == "compatibility":
        state.cs = Segment(0x18, 0, 0xFFFFFFFF, 0xC09B)
    elif mode == "16-protected":
        state.cs = Segment(0x18, 0, 0xFFFFFFFF, 0x809B)
    elif mode == "virtual-8086":
        state.rflags = 0x20002
        state.cs = Segment(CODE >> 4, CODE, 0xFFFF, 0xF3)
        state.ss = state.ds = state.es = state.fs = state.gs = Segment(0, 0, 0xFFFF, 0xF3)
        state.rip, state.rsp = 0, 0x9000
    state.rbx = FAR
    box.put(bytes.fromhex(code))
    return vcpu


@proves(*VMX_ROWS)
@pytest.mark.parametrize("mode", PROTECTED)
@pytest.mark.parametrize("name", VMX)
def test_a_vmx_instruction_exits_at_any_privilege_level_before_its_operand_faults(box, name, mode):
    """RBX points nowhere. SDM "Relative Priority of Faults and VM Exits"."""
    vcpu = in_mode(box, mode, VMX[name])
    rip = vcpu.state.rip
    box.go(vcpu)
    exit = box.exits[0]
    assert (exit.reason, exit.instruction_length) == (R[name.upper()], len(VMX[name]) // 2)
    assert (exit.qualification, vcpu.state.rip) == (0, rip)


@proves(*VMX_ROWS)
@pytest.mark.parametrize("mode", UNDEFINED)
@pytest.mark.parametrize("name", VMX)
def test_a_vmx_instruction_is_undefined_where_vmx_is_not(box, name, mode):
    """Real, virtual-8086 and compatibility mode; SDM "VMX Instruction Reference"."""
    vcpu = in_mode(box, mode, VMX[name])
    box.go(vcpu)
    assert faulted(vcpu, box.exits[0]) == UD


@proves("exit/VMCALL", "instruction/VMCALL")
@pytest.mark.parametrize("mode", [*PROTECTED, *UNDEFINED])
def test_vmcall_exits_in_every_mode(box, mode):
    vcpu = in_mode(box, mode, "0f01c1")
    box.go(vcpu)
    assert (box.exits[0].reason, box.exits[0].instruction_length) == (R.VMCALL, 3)


@pytest.mark.parametrize("code", ["f00f01c2", "f0660fc733", "f30f7803", "660fc73b", "f20fc733", "0f388003"])
def test_a_prefix_that_the_encoding_forbids_makes_it_undefined(box, code):
    vcpu, exit = box.exit_of(bytes.fromhex(code), rbx=DATA)
    assert faulted(vcpu, exit) == UD


def test_a_vmx_instruction_that_crosses_a_page_exits(box):
    """Its bytes come from two pages, of which the engine shows the first."""
    vcpu = box.vcpu()
    box.put(bytes.fromhex("660fc7748b10"), at=CODE + 0xFFD)
    vcpu.state.rip = CODE + 0xFFD
    box.go(vcpu)
    assert (box.exits[0].reason, box.exits[0].qualification, box.exits[0].instruction_length) == (R.VMCLEAR, 0x10, 6)


def test_an_invalid_opcode_at_the_end_of_the_last_page_is_that_and_no_page_fault(box):
    box.memory.write_u64(0x4000 + 8 * ((CODE >> 12) + 1), 0)
    vcpu = box.vcpu()
    box.put(b"\x0f\x04", at=CODE + 0xFFE)
    vcpu.state.rip = CODE + 0xFFE
    box.go(vcpu)
    assert faulted(vcpu, box.exits[0]) == UD


# --- VMFUNC ----------------------------------------------------------------------------------------------

@proves("control/SecondaryControls.ENABLE_VM_FUNCTIONS", "exit/VMFUNC", "instruction/VMFUNC")
@pytest.mark.parametrize(("enabled", "number", "outcome"), [(False, 1, UD), (True, 64, UD), (True, 1, R.VMFUNC),
                                                           (True, 63, R.VMFUNC), (True, 0, R.VMFUNC)])
@pytest.mark.parametrize("user", [False, True])
def test_vmfunc_of_a_function_that_is_not_enabled_exits(box, enabled, number, outcome, user):
    """SDM "General Operation of the VMFUNC Instruction": #UD without the control or beyond 63, at any privilege."""
    fields = controls(S.ENABLE_VM_FUNCTIONS) if enabled else {}
    vcpu, exit = box.exit_of(b"\x0f\x01\xd4", user=user, fields=fields, rax=number)
    if outcome == UD:
        assert faulted(vcpu, exit) == UD
    else:
        assert (exit.reason, exit.qualification, exit.instruction_length) == (outcome, 0, 3)


# --- CR3 -------------------------------------------------------------------------------------------------

@proves("control/PrimaryControls.CR3_STORE_EXITING", "exit/CR_ACCESS", "instruction/MOV_FROM_CR")
@pytest.mark.parametrize("exits", [False, True])
def test_reading_cr3(box, exits):
    vcpu, exit = box.exit_of("mov r10, cr3; cpuid", fields=controls(*[P.CR3_STORE_EXITING] * exits))
    if exits:
        assert (exit.reason, exit.instruction_length) == (R.CR_ACCESS, 4)
        assert CrQualification(exit.qualification) == CrQualification(number=3, access=CrAccess.MOV_FROM_CR,
                                                                      register=10)
    else:
        assert (exit.reason, vcpu.state.r10) == (R.CPUID, PML4)


TARGETS = (0x9000, PML4, 0x9000 << 28, 0xA000)


@proves("control/PrimaryControls.CR3_LOAD_EXITING", "exit/CR_ACCESS", "instruction/MOV_TO_CR",
        "capability/VmxMisc.cr3_target_count")
@pytest.mark.parametrize(("count", "value", "outcome"), [
    (0, PML4, "exit"), (1, PML4, "exit"), (2, PML4, "load"), (4, PML4, "load"), (2, 0x8000, "exit"),
    (3, 0x9000 << 28, "fault"), (2, 0x9000 << 28, "exit"), (None, PML4, "load")])
def test_writing_cr3(box, count, value, outcome):
    """SDM "CR3-Target Controls": a value among the first CR3_TARGET_COUNT does not exit, but may fault."""
    fields = {} if count is None else {**controls(P.CR3_LOAD_EXITING), F.CR3_TARGET_COUNT: count}
    fields |= {VmcsField(F.CR3_TARGET_VALUE0 + 2 * n): target for n, target in enumerate(TARGETS)}
    vcpu, exit = box.exit_of("mov cr3, rsi; mov rdi, cr3; cpuid", fields=fields, rsi=value)
    if outcome == "exit":
        assert (exit.reason, exit.instruction_length, vcpu.state.cr3) == (R.CR_ACCESS, 3, PML4)
        assert CrQualification(exit.qualification) == CrQualification(number=3, access=CrAccess.MOV_TO_CR, register=6)
    elif outcome == "load":
        assert (exit.reason, vcpu.state.rdi) == (R.CPUID, value)
    else:
        assert faulted(vcpu, exit) == GP


# --- MOV DR ----------------------------------------------------------------------------------------------

@proves("control/PrimaryControls.MOV_DR_EXITING", "exit/MOV_DR", "instruction/MOV_DR")
@pytest.mark.parametrize("case", ["kernel", "user", "dr4-with-de", "general-detect", "32-bit", "user-32"])
def test_mov_dr_exits_before_every_fault(box, case):
    """Before the CPL check and before CR4.DE; SDM "Relative Priority of Faults and VM Exits"."""
    bits, number = 32 if "32" in case else 64, 4 if case == "dr4-with-de" else 3
    registers = {"cr4": 0x628} if case == "dr4-with-de" else {"dr7": 0x2400} if case == "general-detect" else {}
    for source, from_dr in ((f"mov dr{number}, {'r' if bits == 64 else 'e'}si", 0),
                            (f"mov {'r' if bits == 64 else 'e'}si, dr{number}", 1)):
        vcpu, exit = box.exit_of(source, bits, user="user" in case, fields=controls(P.MOV_DR_EXITING), **registers)
        assert (exit.reason, exit.instruction_length, vcpu.state.rip) == (R.MOV_DR, 3, CODE)
        assert DrQualification(exit.qualification) == DrQualification(number=number, from_dr=from_dr, register=6)


def test_mov_dr_of_a_user_without_the_control_is_general_protection(box):
    vcpu, exit = box.exit_of("mov dr3, rsi", user=True, fields=controls(P.RDPMC_EXITING))
    assert faulted(vcpu, exit) == GP


@proves("instruction/MOV_DR")
def test_a_debug_register_that_does_not_exist_is_undefined_and_does_not_exit(box):
    vcpu, exit = box.exit_of(b"\x44\x0f\x21\xc0", fields=controls(P.MOV_DR_EXITING))
    assert faulted(vcpu, exit) == UD


# --- counters --------------------------------------------------------------------------------------------

@proves("control/PrimaryControls.RDPMC_EXITING", "exit/RDPMC", "instruction/RDPMC", "cr4/PCE")
@pytest.mark.parametrize(("user", "pce", "control", "outcome"), [
    (False, False, True, R.RDPMC), (False, True, True, R.RDPMC), (True, True, True, R.RDPMC), (True, False, True, GP),
    (False, True, False, GP), (True, True, False, GP)])
def test_rdpmc(box, user, pce, control, outcome):
    """#GP of a user without CR4.PCE comes first; without the control there is no counter to read."""
    vcpu, exit = box.exit_of("rdpmc", user=user, cr4=0x620 | 0x100 * pce,
                             fields=controls(P.RDPMC_EXITING) if control else {})
    if outcome == GP:
        assert faulted(vcpu, exit) == GP
    else:
        assert (exit.reason, exit.qualification, exit.instruction_length) == (R.RDPMC, 0, 2)


RDTSCP = {      # enabled, RDTSC exiting, CR4.TSD, user -> outcome
    "not-enabled": (False, True, False, False, UD), "runs": (True, False, False, False, None),
    "exits": (True, True, False, False, R.RDTSCP), "user": (True, False, False, True, None),
    "user-exits": (True, True, False, True, R.RDTSCP), "user-with-tsd": (True, True, True, True, GP),
}


@proves("control/SecondaryControls.ENABLE_RDTSCP", "exit/RDTSCP", "instruction/RDTSCP")
@pytest.mark.parametrize("case", RDTSCP)
def test_rdtscp(box, case):
    """It reads the counter with its offset, and TSC_AUX into ECX."""
    enabled, exiting, tsd, user, outcome = RDTSCP[case]
    on = [S.ENABLE_RDTSCP] * enabled + [P.RDTSC_EXITING] * exiting + [P.USE_TSC_OFFSETTING]
    vcpu = box.vcpu(64, user)
    vcpu.state.cr4 |= 4 * tsd
    vcpu.state.msrs[Msr.TSC_AUX] = 0x9_1234_5678
    vcpu.state.rax = vcpu.state.rcx = vcpu.state.rdx = (1 << 64) - 1
    for field, value in {**controls(*on), F.TSC_OFFSET: 5 << 40}.items():
        vcpu.vmcs.write(field, value)
    box.put(bytes.fromhex(CODES["rdtscp"] + CODES["cpuid"]))
    box.go(vcpu)
    exit, state = box.exits[0], vcpu.state
    if outcome in (UD, GP):
        assert faulted(vcpu, exit) == outcome
    elif outcome is None:
        assert (exit.reason, state.rcx, state.rdx) == (R.CPUID, 0x1234_5678, 5 << 8)
        assert 0 < state.rax <= box.clock.tsc
    else:
        assert (exit.reason, exit.instruction_length, state.rcx) == (outcome, 3, (1 << 64) - 1)


# --- INVLPG and INVPCID ----------------------------------------------------------------------------------

@proves("control/PrimaryControls.INVLPG_EXITING", "exit/INVLPG", "instruction/INVLPG")
@pytest.mark.parametrize(("source", "bits", "linear"), [
    ("invlpg [rbx + 8]", 64, FAR + 8), (b"\x0f\x01\x3d\x10\0\0\0", 64, CODE + 7 + 0x10),
    ("invlpg gs:[rbx]", 64, 0x7000 + FAR), ("invlpg [ebx]", 64, FAR & 0xFFFFFFFF), ("invlpg [ebx-1]", 32, 0x3456_6FFF),
    ("invlpg gs:[4]", 32, 0x7004), ("invlpg [bx+2]", 16, 0x7002), ("invlpg gs:[2]", 16, 0x7002)])
def test_invlpg_exits_with_its_linear_address(box, source, bits, linear):
    """Of an address that is not mapped too: the instruction asks for nothing."""
    vcpu = box.vcpu(bits)
    vcpu.state.gs = vcpu.state.gs._replace(base=0x7000)
    vcpu.state.rbx = FAR if bits == 64 else 0x3456_7000
    for field, value in controls(P.INVLPG_EXITING).items():
        vcpu.vmcs.write(field, value)
    length = box.put(source, bits)
    box.go(vcpu)
    exit = box.exits[0]
    assert (exit.reason, exit.qualification, exit.instruction_length) == (R.INVLPG, linear, length)


@proves("instruction/INVLPG")
def test_invlpg_without_the_control_drops_the_translation(box):
    """The guest changes a page-table entry and reads the new page behind its INVLPG."""
    entry = 0x4000 + 8 * (DATA >> 12)
    box.memory.write_u64(DATA, 1)
    box.memory.write_u64(0x21000, 2)
    vcpu, exit = box.exit_of(f"mov rax, [rbx]; mov qword ptr [{entry}], {0x21067}; invlpg [rbx]; mov rcx, [rbx]; cpuid",
                             rbx=DATA)
    assert (exit.reason, vcpu.state.rax, vcpu.state.rcx) == (R.CPUID, 1, 2)


INVPCID = {     # type, descriptor (PCID word, linear address) -> whether it faults
    "individual-address": (0, 0, FAR, False), "single-context": (1, 0, 1 << 63, False),
    "all-with-globals": (2, 0xFFF, 0, False), "all": (3, 0, 0, False), "type-4": (4, 0, 0, True),
    "type-above-32-bits": (1 << 32, 0, 0, True), "reserved-bits": (2, 0x1000, 0, True),
    "pcid-without-pcide": (0, 1, 0, True), "context-without-pcide": (1, 1, 0, True),
    "address-not-canonical": (0, 0, 1 << 62, True),
}


@proves("control/SecondaryControls.ENABLE_INVPCID", "instruction/INVPCID")
@pytest.mark.parametrize("case", INVPCID)
def test_invpcid(box, case):
    """SDM "INVPCID - Invalidate Process-Context Identifier"."""
    kind, pcid, linear, faults = INVPCID[case]
    box.memory.write_u64(DATA, pcid)
    box.memory.write_u64(DATA + 8, linear)
    vcpu, exit = box.exit_of("invpcid rcx, [rbx]; cpuid", fields=controls(S.ENABLE_INVPCID), rcx=kind, rbx=DATA)
    if faults:
        assert (faulted(vcpu, exit), box.memory.read_u64(vcpu.state.rsp)) == (GP, 0)
    else:
        assert exit.reason is R.CPUID


@proves("control/SecondaryControls.ENABLE_INVPCID", "exit/INVPCID", "instruction/INVPCID")
@pytest.mark.parametrize(("on", "user", "address", "outcome"), [
    ((), False, DATA, UD), ((S.ENABLE_INVPCID, P.INVLPG_EXITING), False, FAR, R.INVPCID),
    ((S.ENABLE_INVPCID, P.INVLPG_EXITING), True, FAR, GP), ((S.ENABLE_INVPCID,), False, FAR, PF)])
def test_invpcid_exits_behind_its_privilege_and_before_its_operand(box, on, user, address, outcome):
    vcpu, exit = box.exit_of("invpcid rcx, [rbx]; cpuid", user=user, fields=controls(*on), rcx=0, rbx=address)
    if outcome is R.INVPCID:
        assert (exit.reason, exit.instruction_length, exit.instruction_info >> 28) == (R.INVPCID, 5, 1)
    else:
        assert faulted(vcpu, exit) == outcome


def test_invpcid_drops_translations(box):
    entry = 0x4000 + 8 * (DATA >> 12)
    box.memory.write(DATA, (1).to_bytes(8, "little") + bytes(0x30))
    box.memory.write_u64(0x21000, 2)
    vcpu, exit = box.exit_of(f"mov rax, [rbx]; mov qword ptr [{entry}], {0x21067}; invpcid rdx, [rsi]; mov rcx, [rbx];"
                             "cpuid", fields=controls(S.ENABLE_INVPCID), rbx=DATA, rdx=2, rsi=0x22000)
    assert (exit.reason, vcpu.state.rax, vcpu.state.rcx) == (R.CPUID, 1, 2)


# --- waiting ---------------------------------------------------------------------------------------------

@proves("control/PrimaryControls.MWAIT_EXITING", "exit/MWAIT", "instruction/MWAIT", "instruction/MONITOR")
@pytest.mark.parametrize(("before", "armed"), [("", 0), ("0f01c8", 1), ("0f01c80fa2", 0)])
def test_mwait_tells_whether_the_monitor_is_armed(box, before, armed):
    """SDM "Exit Qualification for MWAIT". A VM exit ends address-range monitoring."""
    vcpu = box.vcpu()
    for field, value in controls(P.MWAIT_EXITING, off=[P.MONITOR_EXITING]).items():
        vcpu.vmcs.write(field, value)
    vcpu.state.rax, vcpu.state.rcx, vcpu.state.rdx = DATA, 0, 0
    box.handle = lambda exit: exit.reason is R.CPUID and bool(vcpu.state.complete_instruction(2)) is False
    box.put(bytes.fromhex(before + CODES["mwait"]))
    box.go(vcpu)
    assert (box.exits[-1].reason, box.exits[-1].instruction_length) == (R.MWAIT, 3)
    assert MwaitQualification(box.exits[-1].qualification).armed == armed


@proves("instruction/MONITOR", "instruction/MWAIT")
@pytest.mark.parametrize("name", ["monitor", "mwait"])
@pytest.mark.parametrize(("user", "exiting", "rcx", "rax", "outcome"), [
    (True, True, 0, DATA, UD), (False, True, 1, FAR, None), (False, False, 2, DATA, GP),
    (False, False, 1 << 32, DATA, GP), (False, False, 0, FAR, PF), (False, False, 0, DATA, R.CPUID)])
def test_the_faults_of_monitor_and_mwait(box, name, user, exiting, rcx, rax, outcome):
    """#UD at CPL 3, the exit, #GP of an extension in ECX, and the fault of reading what is monitored."""
    control = {"monitor": P.MONITOR_EXITING, "mwait": P.MWAIT_EXITING}[name]
    vcpu, exit = box.exit_of(bytes.fromhex(CODES[name] + CODES["cpuid"]), user=user, rcx=rcx, rax=rax,
                             fields=controls(control) if exiting else controls(off=[control]))
    if outcome is None:
        assert exit.reason is R[name.upper()]
    elif outcome is R.CPUID or (name == "mwait" and outcome == PF):
        assert exit.reason is R.CPUID
    else:
        assert faulted(vcpu, exit) == outcome
    assert outcome != PF or name == "mwait" or vcpu.state.cr2 == FAR


@proves("instruction/MONITOR")
@pytest.mark.parametrize(("prefixes", "base"), [("", 0), ("65", 0x5000), ("2665", 0x5000), ("67", 0)])
def test_monitor_takes_a_segment_override(box, prefixes, base):
    """DS:RAX, or another segment: the page fault tells where."""
    vcpu = box.vcpu()
    vcpu.state.gs = vcpu.state.gs._replace(base=0x5000)
    for field, value in controls(off=[P.MONITOR_EXITING]).items():
        vcpu.vmcs.write(field, value)
    vcpu.state.rax, vcpu.state.rcx = FAR, 0
    box.put(bytes.fromhex(prefixes + CODES["monitor"]))
    box.go(vcpu)
    assert faulted(vcpu, box.exits[0]) == PF
    assert vcpu.state.cr2 == (FAR & 0xFFFFFFFF if prefixes == "67" else FAR + base)


PLE = controls(S.PAUSE_LOOP_EXITING, off=[P.PAUSE_EXITING])


@proves("control/SecondaryControls.PAUSE_LOOP_EXITING", "exit/PAUSE", "instruction/PAUSE")
@pytest.mark.parametrize(("gap", "window", "body", "user", "exits"), [
    (1000, 200, "", False, True),                       # a tight loop that lasts longer than the window
    (1000, 1 << 31, "", False, False),                  # not so long
    (3, 200, "nop; nop; nop; nop; nop; nop", False, False),     # each PAUSE is the first of a new loop
    (1000, 200, "", True, False)])                      # a user's loop is none
def test_a_loop_of_pauses_exits_when_it_lasts(box, gap, window, body, user, exits):
    """SDM "Controls for PAUSE-Loop Exiting": ticks of the TSC, at CPL 0 only."""
    fields = {**PLE, F.PLE_GAP: gap, F.PLE_WINDOW: window}
    vcpu, exit = box.exit_of(f"again: pause; {body or 'nop'}; dec ecx; jnz again; {'int3' if user else 'cpuid'}",
                             user=user, fields=fields, rcx=500)
    if exits:
        assert (exit.reason, exit.instruction_length) == (R.PAUSE, 2)
        assert 0 < 500 - vcpu.state.rcx < 200
    else:
        assert exit.reason is (R.HLT if user else R.CPUID)
        assert vcpu.state.rcx == 0


def test_a_loop_of_pauses_begins_anew_with_each_entry(box):
    """The first PAUSE behind a VM entry is the first of a loop, so exits are a window apart."""
    vcpu = box.vcpu()
    for field, value in {**PLE, F.PLE_GAP: 1000, F.PLE_WINDOW: 500}.items():
        vcpu.vmcs.write(field, value)
    at = []
    box.handle = lambda exit: at.append(vcpu.tsc) or vcpu.state.complete_instruction(2) == 0
    box.put("again: pause; jmp again")
    box.go(vcpu, 60_000)
    assert len(at) > 3
    assert all(later - earlier > 500 for earlier, later in pairwise(at))


@proves("control/SecondaryControls.PAUSE_LOOP_EXITING", "control/PrimaryControls.PAUSE_EXITING")
def test_pause_exiting_makes_the_loop_control_nothing(box):
    fields = {**controls(S.PAUSE_LOOP_EXITING, P.PAUSE_EXITING), F.PLE_GAP: 1, F.PLE_WINDOW: 1 << 31}
    _, exit = box.exit_of("pause", user=True, fields=fields)
    assert exit.reason is R.PAUSE


# --- descriptor tables -----------------------------------------------------------------------------------

TABLES = {"sgdt": R.GDTR_IDTR_ACCESS, "sidt": R.GDTR_IDTR_ACCESS, "lgdt": R.GDTR_IDTR_ACCESS,
          "lidt": R.GDTR_IDTR_ACCESS, "sldt": R.LDTR_TR_ACCESS, "str": R.LDTR_TR_ACCESS, "lldt": R.LDTR_TR_ACCESS,
          "ltr": R.LDTR_TR_ACCESS}
TABLE_ROWS = [f"instruction/{name.upper()}" for name in TABLES]


@proves("control/SecondaryControls.DESCRIPTOR_TABLE_EXITING", "exit/GDTR_IDTR_ACCESS", "exit/LDTR_TR_ACCESS",
        *TABLE_ROWS)
@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("name", TABLES)
def test_an_access_to_a_descriptor_table_register_exits(box, name, bits):
    """Before its operand is read. LLDT and its kin do not exist in real mode."""
    base = {16: "bx", 32: "ebx", 64: "rbx"}[bits]
    vcpu, exit = box.exit_of(f"{name} [{base}+4]", bits, fields=controls(S.DESCRIPTOR_TABLE_EXITING), rbx=FAR)
    if bits == 16 and TABLES[name] is R.LDTR_TR_ACCESS:
        assert faulted(vcpu, exit) == UD
    else:
        assert (exit.reason, exit.qualification, exit.instruction_length) == (TABLES[name], 4, 4)


@proves("control/SecondaryControls.DESCRIPTOR_TABLE_EXITING", *TABLE_ROWS)
@pytest.mark.parametrize("name", TABLES)
def test_a_user_may_store_them_and_not_load_them(box, name):
    """The #GP of a user comes before the exit."""
    vcpu, exit = box.exit_of(f"{name} [rbx]", user=True, fields=controls(S.DESCRIPTOR_TABLE_EXITING), rbx=FAR)
    if name[0] == "l":
        assert faulted(vcpu, exit) == GP
    else:
        assert exit.reason is TABLES[name]


def test_without_the_control_the_guest_reads_and_loads_its_own_tables(box):
    """The program stores all four registers, loads two of them anew, and stores those again."""
    box.memory.write(DATA, (0x3F).to_bytes(2, "little") + (0x7000).to_bytes(8, "little"))
    vcpu, exit = box.exit_of("sgdt [rbx+0x10]; sidt [rbx+0x20]; str [rbx+0x30]; sldt [rbx+0x32]; lgdt [rbx];"
                             "lidt [rbx]; sgdt [rbx+0x40]; sidt [rbx+0x50]; cpuid", rbx=DATA)
    stored = {at: box.memory.read(DATA + at, 10) for at in (0x10, 0x20, 0x40, 0x50)}
    table = (0x3F).to_bytes(2, "little") + (0x7000).to_bytes(8, "little")
    assert exit.reason is R.CPUID
    assert stored == {0x10: table, 0x20: b"\xff\x0f" + (0x50000).to_bytes(8, "little"), 0x40: table, 0x50: table}
    assert box.memory.read(DATA + 0x30, 4) == b"\x20\0\0\0"
    assert vcpu.state.idtr.limit == 0x3F

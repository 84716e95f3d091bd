"""VM entry and VM exit of a hypervisor in machine code: what each side finds in its registers, and in the VMCS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hv.machine.registers import Segment, Table
from hv.spec.exits import ExitReason, InterruptionInfo, InterruptionType, VmInstructionError
from hv.spec.msrs import Msr
from hv.spec.vmcs import EntryControls, ExitControls, PrimaryControls, SecondaryControls, VmcsField, VmxAbort
from hv.vmx.root_operation.loading import VmxAborted, load_host_state
from hv.vmx.root_operation.operation import VmxMode
from hv.vmx.vmcs import LaunchState, Vmcs
from tests.machine.engine_box import LEGACY, PML4
from tests.proves import proves
from tests.vmx.root_box import GUEST, HOST, HOST_STACK, LAUNCH, MSR_AREA, RESULTS, VMCS, RootBox
from tests.vmx.vcpu_box import HANDLERS, MSR_BITMAP, vector_at

F, R, E = VmcsField, ExitReason, VmInstructionError
X, N, P, S = ExitControls, EntryControls, PrimaryControls, SecondaryControls
PAT = 0x0606_0606_0606_0606
DONE = "hlt"                    # a handler that looks at nothing


@pytest.fixture
def root() -> Iterator[RootBox]:
    box = RootBox()
    yield box
    box.close()


def saved(root: RootBox, field: VmcsField) -> int:
    return root.operation.vmread(field)


def entry_list(root: RootBox, *entries: tuple[int, int, int], area: int = MSR_AREA) -> tuple[int, int]:
    """Address and count of an MSR area of (index, reserved, data)."""
    for number, (index, reserved, data) in enumerate(entries):
        root.memory.write_u64(area + 16 * number, reserved << 32 | index)
        root.memory.write_u64(area + 16 * number + 8, data)
    return area, len(entries)


# --- the host after an exit -------------------------------------------------------------------------------------

@proves("control/ExitControls.HOST_ADDRESS_SPACE_SIZE")
def test_the_host_finds_exactly_what_the_manual_says(root):
    """SDM "Loading Host State": not what the host had before."""
    root.fields |= {F.HOST_FS_SELECTOR: 0x10, F.HOST_FS_BASE: 0x1111_0000, F.HOST_GS_BASE: 0x2222_0000,
                    F.HOST_SYSENTER_CS: 0x8, F.HOST_SYSENTER_ESP: 0x3333, F.HOST_SYSENTER_EIP: 0x4444,
                    F.HOST_DS_SELECTOR: 0}
    handler = f"""
        pushfq
        pop qword ptr [{RESULTS}]
        sgdt [{RESULTS + 16}]
        sidt [{RESULTS + 32}]
        mov rax, dr7
        mov [{RESULTS + 48}], rax
        str eax
        mov [{RESULTS + 56}], rax
        mov [{RESULTS + 64}], rsp
        hlt
    """
    root.start(LAUNCH, "std; stc; mov eax, 0x401; mov dr7, rax; cpuid", handler)
    assert root.result(RESULTS) == 2
    assert root.memory.read(RESULTS + 16, 2) == root.memory.read(RESULTS + 32, 2) == b"\xff\xff"
    assert [root.result(RESULTS + offset) for offset in (48, 56, 64)] == [0x400, 0x20, HOST_STACK]
    state = root.cpu.state
    assert (state.cr0, state.cr3, state.cr4) == (0x80010033, PML4, 0x2620)
    assert state.cs == Segment(0x08, 0, 0xFFFF_FFFF, 0xA09B)
    assert state.ss == state.es == Segment(0x10, 0, 0xFFFF_FFFF, 0xC093)
    assert state.fs == Segment(0x10, 0x1111_0000, 0xFFFF_FFFF, 0xC093)
    assert not state.ds.usable
    assert not state.gs.usable
    assert state.gs.base == 0x2222_0000
    assert state.tr == Segment(0x20, 0x8000, 0x67, 0x8B)
    assert not state.ldtr.usable
    assert [state.msrs[index] for index in (Msr.SYSENTER_CS, Msr.SYSENTER_ESP, Msr.SYSENTER_EIP)] == [8, 0x3333, 0x4444]
    assert (state.cpl, state.debugctl, state.interrupt_shadow) == (0, 0, False)


def test_what_vmx_does_not_switch_goes_from_one_side_to_the_other(root):
    """General registers, CR2, DR0..DR3, and the MSRs of SYSCALL."""
    root.start("mov r15, 0x77; mov dr1, r15; " + LAUNCH, "mov rax, dr1; mov r14, rax; mov cr2, r14; cpuid",
               "mov r13, cr2; mov r12, dr1; hlt")
    state = root.cpu.state
    assert (state.r12, state.r13, state.r14, state.r15) == (0x77, 0x77, 0x77, 0x77)


@pytest.mark.parametrize("cache_bits", [0, 0x6000_0000])
def test_cr0_keeps_the_bits_that_transitions_never_change(root, cache_bits):
    """SDM "Loading Guest Control Registers": ET, CD, NW and the reserved bits are those the processor had."""
    root.cpu.state.cr0 |= 0x10 | cache_bits
    root.fields |= {F.GUEST_CR0: 0x8001_0023 | 0x6000_0000, F.HOST_CR0: 0x8001_0023}
    root.start(LAUNCH, f"mov rax, cr0; mov [{RESULTS}], rax; cpuid", f"mov rax, cr0; mov [{RESULTS + 8}], rax; hlt")
    assert root.result(RESULTS) == root.result(RESULTS + 8) == 0x8001_0033 | cache_bits


# --- what is saved ----------------------------------------------------------------------------------------------

def test_the_guest_state_area_is_what_the_guest_left(root):
    """SDM "Saving Guest State"."""
    root.start(LAUNCH, """
        mov eax, 0x10
        mov fs, eax
        xor eax, eax
        mov gs, eax
        mov rsp, 0x2d000
        mov rdx, cr4
        or edx, 4
        mov cr4, rdx
        stc
        std
        cpuid
    """, DONE)
    assert saved(root, F.GUEST_RSP) == 0x2D000
    assert root.memory.read(saved(root, F.GUEST_RIP), 2) == b"\x0f\xa2"     # of CPUID itself
    assert saved(root, F.GUEST_RFLAGS) & 0x401 == 0x401
    assert saved(root, F.GUEST_CR4) == 0x2624
    assert saved(root, F.GUEST_GS_ACCESS_RIGHTS) >> 16 & 1
    assert saved(root, F.GUEST_FS_SELECTOR) == 0x10
    assert saved(root, F.GUEST_CS_ACCESS_RIGHTS) == 0xA09B
    assert saved(root, F.GUEST_TR_ACCESS_RIGHTS) == 0x8B
    assert saved(root, F.GUEST_GDTR_LIMIT) == 0x3F
    assert saved(root, F.GUEST_ACTIVITY_STATE) == 0


@proves("control/ExitControls.SAVE_DEBUG_CONTROLS")
@pytest.mark.parametrize("saves", [False, True])
def test_debug_controls_are_saved_when_asked(root, saves):
    root.fields[F.VM_EXIT_CONTROLS] |= X.SAVE_DEBUG_CONTROLS * saves
    root.start(LAUNCH, "mov eax, 0x455; mov dr7, rax; cpuid", DONE)
    assert saved(root, F.GUEST_DR7) == (0x455 if saves else 0x400)


@proves("control/EntryControls.LOAD_DEBUG_CONTROLS")
@pytest.mark.parametrize("loads", [False, True])
def test_debug_controls_are_loaded_when_asked(root, loads):
    """Bits 12, 14 and 15 of DR7 are cleared, bit 10 is set; IA32_DEBUGCTL is 0 for the host again."""
    root.cpu.state.dr7 = 0x401
    root.fields |= {F.GUEST_DR7: 0xD055, F.GUEST_IA32_DEBUGCTL: 1,
                    F.VM_ENTRY_CONTROLS: root.fields[F.VM_ENTRY_CONTROLS] | N.LOAD_DEBUG_CONTROLS * loads,
                    F.VM_EXIT_CONTROLS: root.fields[F.VM_EXIT_CONTROLS] | X.SAVE_DEBUG_CONTROLS}
    root.start(LAUNCH, f"mov rax, dr7; mov [{RESULTS}], rax; cpuid",
               f"mov ecx, 0x1D9; rdmsr; mov [{RESULTS + 8}], eax; hlt")
    assert root.result(RESULTS) == (0x455 if loads else 0x401)
    assert root.result(RESULTS + 8) == 0
    assert saved(root, F.GUEST_IA32_DEBUGCTL) == int(loads)


def with_msr_bitmap(root: RootBox) -> None:
    """All MSRs of the bitmap are the guest's own."""
    root.fields[F.PRIMARY_PROC_CONTROLS] |= P.USE_MSR_BITMAPS
    root.fields[F.MSR_BITMAP] = MSR_BITMAP


WRITE_PAT = f"mov ecx, 0x277; mov eax, {PAT & 0xFFFFFFFF}; mov edx, eax; wrmsr; cpuid"


@proves("control/ExitControls.SAVE_PAT")
@pytest.mark.parametrize("saves", [False, True])
def test_the_pat_is_saved_when_asked(root, saves):
    with_msr_bitmap(root)
    root.fields[F.VM_EXIT_CONTROLS] |= X.SAVE_PAT * saves
    root.start(LAUNCH, WRITE_PAT, DONE)
    assert saved(root, F.GUEST_IA32_PAT) == PAT * saves


@proves("control/EntryControls.LOAD_PAT", "control/ExitControls.LOAD_PAT")
@pytest.mark.parametrize("loads", [False, True])
def test_the_pat_is_loaded_when_asked(root, loads):
    with_msr_bitmap(root)
    before = root.cpu.state.msrs[Msr.PAT]
    root.fields |= {F.GUEST_IA32_PAT: PAT, F.HOST_IA32_PAT: PAT >> 8 | 4 << 56,
                    F.VM_ENTRY_CONTROLS: root.fields[F.VM_ENTRY_CONTROLS] | N.LOAD_PAT * loads,
                    F.VM_EXIT_CONTROLS: root.fields[F.VM_EXIT_CONTROLS] | X.LOAD_PAT * loads}
    look = "mov ecx, 0x277; rdmsr; mov [{0}], eax; mov [{0} + 4], edx"
    root.start(LAUNCH, look.format(RESULTS) + "; cpuid", look.format(RESULTS + 8) + "; hlt")
    assert root.result(RESULTS) == (PAT if loads else before)
    assert root.result(RESULTS + 8) == (PAT >> 8 | 4 << 56 if loads else before)


@proves("control/EntryControls.LOAD_EFER", "control/ExitControls.SAVE_EFER")
@pytest.mark.parametrize("loads", [False, True])
@pytest.mark.parametrize("saves", [False, True])
def test_without_load_efer_the_rest_of_efer_leaks_from_the_host(root, loads, saves):
    """SDM "Loading Guest Control Registers, Debug Registers, and MSRs": only LMA and LME are set."""
    root.cpu.state.efer = 0xD01
    root.fields |= {F.GUEST_IA32_EFER: 0x500,
                    F.VM_ENTRY_CONTROLS: root.fields[F.VM_ENTRY_CONTROLS] | N.LOAD_EFER * loads,
                    F.VM_EXIT_CONTROLS: root.fields[F.VM_EXIT_CONTROLS] | X.SAVE_EFER * saves}
    root.start(LAUNCH, "cpuid", f"mov ecx, 0xC0000080; rdmsr; mov [{RESULTS}], eax; hlt")
    assert saved(root, F.GUEST_IA32_EFER) == (0x500 if loads or not saves else 0xD01)
    assert root.result(RESULTS) == (0x500 if loads else 0xD01)


@proves("control/ExitControls.LOAD_EFER")
def test_the_host_gets_the_efer_of_its_own_when_asked(root):
    root.fields |= {F.HOST_IA32_EFER: 0xD01, F.VM_EXIT_CONTROLS: root.fields[F.VM_EXIT_CONTROLS] | X.LOAD_EFER}
    root.start(LAUNCH, "cpuid", f"mov ecx, 0xC0000080; rdmsr; mov [{RESULTS}], eax; hlt")
    assert root.result(RESULTS) == 0xD01


# --- guests of other modes --------------------------------------------------------------------------------------

def legacy_guest(root: RootBox) -> None:
    """A 32-bit guest with 32-bit paging."""
    root.fields |= {F.GUEST_CR0: 0x80010033, F.GUEST_CR4: 0x2600, F.GUEST_CR3: LEGACY, F.GUEST_CS_SELECTOR: 0x18,
                    F.GUEST_CS_ACCESS_RIGHTS: 0xC09B,
                    F.VM_ENTRY_CONTROLS: root.fields[F.VM_ENTRY_CONTROLS] & ~N.IA32E_MODE_GUEST}


@proves("control/EntryControls.IA32E_MODE_GUEST", "capability/VmxMisc.saves_lma")
def test_a_64_bit_host_has_a_32_bit_guest(root):
    """LMA and LME are 0 for the guest, and 1 for the host again."""
    legacy_guest(root)
    root.fields[F.VM_EXIT_CONTROLS] |= X.SAVE_EFER
    guest = f"mov eax, 0x12345678; dec eax; mov [{RESULTS}], eax; cpuid"
    root.start(LAUNCH, guest, f"mov ecx, 0xC0000080; rdmsr; mov [{RESULTS + 8}], rax; hlt", bits=32)
    assert root.result(RESULTS) == 0x12345677       # 48 would be a prefix in 64-bit code
    assert not saved(root, F.GUEST_IA32_EFER) & 0x500
    assert root.result(RESULTS + 8) & 0x500 == 0x500
    assert not saved(root, F.VM_ENTRY_CONTROLS) & N.IA32E_MODE_GUEST


@proves("control/EntryControls.IA32E_MODE_GUEST")
def test_a_guest_in_compatibility_mode_keeps_lma(root):
    root.fields |= {F.GUEST_CS_SELECTOR: 0x18, F.GUEST_CS_ACCESS_RIGHTS: 0xC09B}
    root.start(LAUNCH, f"mov eax, 0x12345678; dec eax; mov [{RESULTS}], eax; cpuid", DONE, bits=32)
    assert root.result(RESULTS) == 0x12345677
    assert saved(root, F.VM_ENTRY_CONTROLS) & N.IA32E_MODE_GUEST


@proves("control/SecondaryControls.UNRESTRICTED_GUEST", "control/SecondaryControls.ENABLE_EPT")
def test_an_unrestricted_guest_starts_in_real_mode(root):
    """SDM "Unrestricted Guests": CR0.PE and CR0.PG are 0."""
    root.fields |= {
        F.PRIMARY_PROC_CONTROLS: root.fields[F.PRIMARY_PROC_CONTROLS] | P.ACTIVATE_SECONDARY_CONTROLS,
        F.SECONDARY_PROC_CONTROLS: S.ENABLE_EPT | S.UNRESTRICTED_GUEST, F.EPT_POINTER: root.ept.eptp.raw,
        F.GUEST_CR0: 0x30, F.GUEST_CR4: 0x2000, F.GUEST_CS_SELECTOR: GUEST >> 4, F.GUEST_CS_BASE: GUEST,
        F.GUEST_CS_LIMIT: 0xFFFF, F.GUEST_CS_ACCESS_RIGHTS: 0x9B, F.GUEST_RIP: 0,
        F.VM_ENTRY_CONTROLS: root.fields[F.VM_ENTRY_CONTROLS] & ~N.IA32E_MODE_GUEST}
    for name in ("SS", "DS", "ES", "FS", "GS"):
        root.fields |= {F[f"GUEST_{name}_SELECTOR"]: 0, F[f"GUEST_{name}_LIMIT"]: 0xFFFF,
                        F[f"GUEST_{name}_ACCESS_RIGHTS"]: 0x93}
    root.start(LAUNCH, "mov ax, cs; mov bx, 0x2000; mov ds, bx; mov [0], ax; cpuid", DONE, bits=16)
    assert root.memory.read(RESULTS, 2) == (GUEST >> 4).to_bytes(2, "little")
    assert saved(root, F.GUEST_DS_BASE) == 0x20000
    assert saved(root, F.GUEST_CR0) == 0x30
    assert root.cpu.state.cr0 == 0x80010033


def pae_tables(root: RootBox) -> int:
    """PAE tables at 40000 over the directory of 2 MiB pages at 41000; CR3."""
    for number in range(4):
        root.memory.write_u64(0x40000 + 8 * number, 0x41001)
    for number in range(512):
        root.memory.write_u64(0x41000 + 8 * number, number << 21 & 0x3F_FFFF | 0xE7)
    return 0x40000


@proves("control/SecondaryControls.ENABLE_EPT")
def test_with_ept_the_pdptes_of_a_pae_guest_are_saved(root):
    legacy_guest(root)
    root.fields |= {
        F.PRIMARY_PROC_CONTROLS: root.fields[F.PRIMARY_PROC_CONTROLS] | P.ACTIVATE_SECONDARY_CONTROLS,
        F.SECONDARY_PROC_CONTROLS: S.ENABLE_EPT, F.EPT_POINTER: root.ept.eptp.raw, F.GUEST_CR4: 0x2620,
        F.GUEST_CR3: pae_tables(root)}
    root.start(LAUNCH, "cpuid", DONE, bits=32)
    assert [saved(root, F[f"GUEST_PDPTE{number}"]) for number in range(4)] == [0x41001] * 4


# --- unusable segments ------------------------------------------------------------------------------------------

def test_an_unusable_segment_keeps_its_selector_and_the_base_of_fs_and_gs(root):
    """SDM "Loading Guest Segment Registers and Descriptor-Table Registers"."""
    root.fields |= {F.GUEST_ES_SELECTOR: 0x33, F.GUEST_ES_BASE: 0x5000, F.GUEST_ES_ACCESS_RIGHTS: 0x1C093,
                    F.GUEST_GS_SELECTOR: 0x33, F.GUEST_GS_BASE: 0x7000, F.GUEST_GS_ACCESS_RIGHTS: 0x10000,
                    F.GUEST_SS_SELECTOR: 0, F.GUEST_SS_ACCESS_RIGHTS: 0x10000}
    guest = f"mov eax, es; mov [{RESULTS}], rax; mov rax, gs:[0x1A000]; mov [{RESULTS + 8}], rax; cpuid"
    root.memory.write_u64(0x1A000 + 0x7000, 0xABCD)
    root.start(LAUNCH, guest, DONE)
    assert (root.result(RESULTS), root.result(RESULTS + 8)) == (0x33, 0xABCD)
    assert saved(root, F.GUEST_ES_ACCESS_RIGHTS) >> 16 == saved(root, F.GUEST_SS_ACCESS_RIGHTS) >> 16 == 1
    assert saved(root, F.GUEST_GS_BASE) == 0x7000


# --- entries that fail ------------------------------------------------------------------------------------------

@proves("event/ENTRY_INVALID_CONTROLS", "event/ENTRY_INVALID_HOST_STATE")
@proves("instruction/VMLAUNCH")
@pytest.mark.parametrize(("field", "value", "error"), [
    (F.PIN_BASED_CONTROLS, 0, E.ENTRY_INVALID_CONTROLS), (F.VM_EXIT_CONTROLS, 1 << 31, E.ENTRY_INVALID_CONTROLS),
    (F.HOST_CR4, 0x620, E.ENTRY_INVALID_HOST_STATE), (F.HOST_CR0, 0x80010013, E.ENTRY_INVALID_HOST_STATE)])
def test_bad_controls_and_host_state_are_vmfails(root, field, value, error):
    """SDM "VM Instruction Error Numbers", 7 and 8: the host goes on behind VMLAUNCH, and the VMCS is still clear."""
    root.fields[field] = value
    root.start(LAUNCH)
    assert root.result(RESULTS + 0x808) == error
    assert root.result(RESULTS + 0x800) & 0x8D5 == 0x40
    assert root.exits == []
    assert root.operation.current.launch_state is LaunchState.CLEAR


@proves("control/SecondaryControls.USE_TSC_SCALING")
@pytest.mark.parametrize("multiplier", [0, 1 << 48])
def test_a_multiplier_of_0_is_refused(root, multiplier):
    root.fields |= {
        F.PRIMARY_PROC_CONTROLS: root.fields[F.PRIMARY_PROC_CONTROLS] | P.ACTIVATE_SECONDARY_CONTROLS,
        F.SECONDARY_PROC_CONTROLS: S.USE_TSC_SCALING, F.TSC_MULTIPLIER: multiplier}
    root.start(LAUNCH)
    assert root.log == ([R.HLT] if multiplier else [])
    assert root.result(RESULTS + 0x808) == (0 if multiplier else E.ENTRY_INVALID_CONTROLS)


@proves("exit/ENTRY_FAILURE_GUEST_STATE", "event/GUEST_STATE")
def test_a_bad_guest_state_is_a_vm_exit_of_its_own_kind(root):
    """SDM "VM-Entry Failures During or After Loading Guest State": host state, bit 31, nothing saved, not launched."""
    root.fields |= {F.GUEST_CR4: 0x620, F.VM_ENTRY_INTERRUPTION_INFO: 0x8000_0021, F.GUEST_RFLAGS: 0x202}
    handler = f"""
        pushfq
        pop qword ptr [{RESULTS}]
        mov eax, 0x4402
        vmread qword ptr [{RESULTS + 8}], rax
        mov eax, 0x6400
        vmread qword ptr [{RESULTS + 16}], rax
        mov eax, 0x4016
        vmread qword ptr [{RESULTS + 24}], rax
        hlt
    """
    root.start(LAUNCH, handler=handler)
    assert [root.result(RESULTS + 8 * n) for n in range(4)] == [2, 0x8000_0021, 0, 0x8000_0021]
    assert root.cpu.state.rsp == HOST_STACK
    assert root.operation.current.launch_state is LaunchState.CLEAR
    assert saved(root, F.GUEST_CR4) == 0x620


def test_a_failed_resume_leaves_the_other_exit_fields_alone(root):
    """Only exit reason and qualification are written."""
    handler = f"""
        cmp qword ptr [{RESULTS}], 1
        je done
        inc qword ptr [{RESULTS}]
        mov eax, 0x6804
        mov ecx, 0x620
        vmwrite rax, rcx
        vmresume
    done:
        hlt
    """
    root.start(LAUNCH, "cpuid", handler)
    assert saved(root, F.EXIT_REASON) == 0x8000_0021
    assert saved(root, F.EXIT_INSTRUCTION_LENGTH) == 2


# --- MSR areas --------------------------------------------------------------------------------------------------

def test_msr_areas_are_loaded_and_stored_in_order(root):
    """SDM "Loading MSRs", "Saving MSRs"."""
    with_msr_bitmap(root)
    address, count = entry_list(root, (Msr.LSTAR, 0, 0x1111), (Msr.SYSENTER_EIP, 0, 0x2222), (Msr.LSTAR, 0, 0x3333))
    root.fields |= {F.VM_ENTRY_MSR_LOAD_ADDR: address, F.VM_ENTRY_MSR_LOAD_COUNT: count,
                    F.GUEST_SYSENTER_EIP: 0x9999}
    address, count = entry_list(root, (Msr.LSTAR, 0, 0), (Msr.TSC, 0, 0), (Msr.VMX_BASIC, 0, 0), area=MSR_AREA + 0x100)
    root.fields |= {F.VM_EXIT_MSR_STORE_ADDR: address, F.VM_EXIT_MSR_STORE_COUNT: count}
    address, count = entry_list(root, (Msr.LSTAR, 0, 0x5555), (Msr.STAR, 0, 0x77), area=MSR_AREA + 0x200)
    root.fields |= {F.VM_EXIT_MSR_LOAD_ADDR: address, F.VM_EXIT_MSR_LOAD_COUNT: count}
    look = "mov ecx, {1}; rdmsr; mov [{0}], eax"
    guest = look.format(RESULTS, int(Msr.LSTAR)) + "; " + look.format(RESULTS + 8, int(Msr.SYSENTER_EIP))
    guest += f"; mov ecx, {int(Msr.LSTAR)}; mov eax, 0x4444; xor edx, edx; wrmsr; cpuid"
    root.start(LAUNCH, guest, look.format(RESULTS + 16, int(Msr.LSTAR)) + "; hlt")
    assert [root.result(RESULTS + 8 * n) for n in range(3)] == [0x3333, 0x2222, 0x5555]
    stored = [root.result(MSR_AREA + 0x108 + 16 * n) for n in range(3)]
    assert stored[0] == 0x4444
    assert 0 < stored[1] <= root.clock.tsc
    assert stored[2] == root.operation.processor.basic.raw
    assert root.cpu.state.msrs[Msr.STAR] == 0x77


BAD_LOADS = [
    (Msr.STAR, 1, 0), (Msr.FS_BASE, 0, 0), (Msr.GS_BASE, 0, 0), (0x808, 0, 0), (0x8FF, 0, 0), (0x79, 0, 0),
    (Msr.LSTAR, 0, 0x8000_0000_0000), (Msr.PAT, 0, 2), (Msr.EFER, 0, 0x2000), (Msr.EFER, 0, 0), (Msr.VMX_BASIC, 0, 0),
    (Msr.FEATURE_CONTROL, 0, 5), (0x1234_5678, 0, 0), (Msr.SFMASK, 0, 1 << 32), (Msr.DEBUGCTL, 0, 1 << 63)]


@proves("exit/ENTRY_FAILURE_MSR_LOADING")
@pytest.mark.parametrize("bad", BAD_LOADS, ids=lambda bad: f"{int(bad[0]):#x}-{bad[1]}-{bad[2]:#x}")
@pytest.mark.parametrize("place", [1, 3])
def test_a_bad_entry_of_the_load_area_fails_the_entry_with_its_number(root, bad, place):
    """SDM "Loading MSRs": exit 34 with bit 31; what was loaded before it stays loaded."""
    entries = [(Msr.LSTAR, 0, 0x1111)] * (place - 1) + [bad]
    address, count = entry_list(root, *entries)
    root.fields |= {F.VM_ENTRY_MSR_LOAD_ADDR: address, F.VM_ENTRY_MSR_LOAD_COUNT: count}
    root.start(LAUNCH, f"mov dword ptr [{RESULTS}], 1; cpuid", DONE)
    assert (saved(root, F.EXIT_REASON), saved(root, F.EXIT_QUALIFICATION)) == (0x8000_0022, place)
    assert root.result(RESULTS) == 0
    assert root.operation.mode is VmxMode.ROOT
    assert root.operation.current.launch_state is LaunchState.CLEAR
    assert saved(root, F.GUEST_RIP) == GUEST
    assert (root.cpu.state.rip & -16, root.cpu.state.rflags) == (HOST, 2)
    assert root.cpu.state.msrs[Msr.LSTAR] == (0x1111 if place > 1 else 0)


@proves("event/SAVING_GUEST_MSRS")
@pytest.mark.parametrize("bad", [(Msr.STAR, 1, 0), (0x802, 0, 0), (0x9E, 0, 0), (0x1234_5678, 0, 0)],
                         ids=lambda bad: f"{int(bad[0]):#x}")
def test_a_bad_entry_of_the_store_area_aborts(root, bad):
    """SDM "VMX Aborts", 1."""
    address, count = entry_list(root, (Msr.STAR, 0, 0), bad)
    root.fields |= {F.VM_EXIT_MSR_STORE_ADDR: address, F.VM_EXIT_MSR_STORE_COUNT: count}
    root.start(LAUNCH, "cpuid", DONE)
    assert root.operation.mode is VmxMode.ABORTED
    assert root.memory.read_u32(VMCS + 4) == VmxAbort.SAVING_GUEST_MSRS


@proves("event/LOADING_HOST_MSRS")
@pytest.mark.parametrize("entered", [True, False])
def test_a_bad_entry_of_the_exits_load_area_aborts(root, entered):
    """SDM "VMX Aborts", 4; also at the exit of an entry that failed."""
    address, count = entry_list(root, (Msr.STAR, 0, 0), (Msr.LSTAR, 0, 1 << 63))
    root.fields |= {F.VM_EXIT_MSR_LOAD_ADDR: address, F.VM_EXIT_MSR_LOAD_COUNT: count}
    if not entered:
        root.fields[F.GUEST_CR4] = 0x620
    root.start(LAUNCH, "cpuid", DONE)
    assert root.operation.mode is VmxMode.ABORTED
    assert root.memory.read_u32(VMCS + 4) == VmxAbort.LOADING_HOST_MSRS


def test_a_list_without_end_ends(root):
    """# Simplified: more than 512 entries fail at the 513th; beyond RAM all ones are read, which fail at once."""
    address, _ = entry_list(root, *[(Msr.STAR, 0, 0)] * 600, area=0x78000)
    root.fields |= {F.VM_ENTRY_MSR_LOAD_ADDR: address, F.VM_ENTRY_MSR_LOAD_COUNT: 0x1000_0000}
    root.start(LAUNCH, "cpuid", DONE)
    assert saved(root, F.EXIT_QUALIFICATION) == 513


# --- aborts -----------------------------------------------------------------------------------------------------

@pytest.fixture
def legacy() -> Iterator[RootBox]:
    """A 32-bit hypervisor with PAE paging, its VMCS written."""
    box = RootBox(32)
    box.cpu.state.cr3, box.cpu.state.cr4 = pae_tables(box), 0x2620
    box.cpu.state.cr0 = 0x80010033
    legacy_guest(box)
    box.fields |= {F.VM_EXIT_CONTROLS: box.fields[F.VM_EXIT_CONTROLS] & ~X.HOST_ADDRESS_SPACE_SIZE,
                   F.HOST_CR3: 0x40000, F.HOST_CR4: 0x2620, F.HOST_CS_SELECTOR: 0x18}
    box.in_root()
    yield box
    box.close()


@proves("control/ExitControls.HOST_ADDRESS_SPACE_SIZE")
def test_a_32_bit_host_is_loaded_with_a_32_bit_code_segment(legacy):
    legacy.start("vmlaunch; ud2", "cpuid", f"mov eax, 0x12345678; dec eax; mov [{RESULTS}], eax; hlt", bits=32)
    assert legacy.result(RESULTS) == 0x12345677
    assert legacy.cpu.state.cs == Segment(0x18, 0, 0xFFFF_FFFF, 0xC09B)
    assert not legacy.cpu.state.efer & 0x500
    assert legacy.cpu.state.idtr == Table(0x50000, 0xFFFF)


@proves("event/HOST_PDPTE")
def test_a_bad_pdpte_of_the_host_aborts(legacy):
    """SDM "VMX Aborts", 2: the guest has set a reserved bit in it."""
    legacy.start("vmlaunch", "or dword ptr [0x40008], 0x20; cpuid", bits=32)
    assert legacy.operation.mode is VmxMode.ABORTED
    assert legacy.memory.read_u32(VMCS + 4) == VmxAbort.HOST_PDPTE


@proves("event/HOST_NOT_64_BIT")
def test_a_guest_in_64_bit_mode_cannot_exit_to_a_32_bit_host(root):
    """SDM "VMX Aborts", 6."""
    with pytest.raises(VmxAborted) as abort:
        load_host_state(Vmcs(fields={}), root.cpu.state, root.memory)
    assert abort.value.why is VmxAbort.HOST_NOT_64_BIT


# --- events, by the hypervisor's own VMWRITE --------------------------------------------------------------------

def test_an_event_is_injected_and_its_valid_bit_cleared(root):
    """SDM "Event Injection"."""
    info = InterruptionInfo(vector=0x33, type=InterruptionType.EXTERNAL_INTERRUPT, valid=1).raw
    root.fields |= {F.VM_ENTRY_INTERRUPTION_INFO: info, F.GUEST_RFLAGS: 0x202}
    root.start(LAUNCH, "nop", DONE)
    assert saved(root, F.GUEST_RIP) == HANDLERS + 16 * 0x33
    assert saved(root, F.EXIT_REASON) == R.HLT
    assert saved(root, F.VM_ENTRY_INTERRUPTION_INFO) == info & ~(1 << 31)


def test_an_exception_that_exits_is_the_hosts_to_see(root):
    root.fields[F.EXCEPTION_BITMAP] = 1 << 6
    root.start(LAUNCH, "ud2")
    assert root.log == [R.EXCEPTION_OR_NMI]
    assert saved(root, F.EXIT_INTERRUPTION_INFO) == 0x8000_0306


def test_an_exception_that_does_not_is_the_guests(root):
    root.start(LAUNCH, "ud2")
    assert root.log == [R.HLT]
    assert saved(root, F.GUEST_RIP) == HANDLERS + 16 * 6
    assert vector_at(root.cpu) is None


@proves("exit/VMCALL", "exit/VMLAUNCH", "exit/VMREAD", "exit/VMXOFF")
@pytest.mark.parametrize(("source", "reason"), [("vmcall", R.VMCALL), ("vmlaunch", R.VMLAUNCH), ("vmxoff", R.VMXOFF),
                                                ("vmread rax, rax", R.VMREAD)])
def test_the_vmx_instructions_of_a_guest_are_exits(root, source, reason):
    root.start(LAUNCH, source)
    assert root.log == [reason]


# --- the guest's memory -----------------------------------------------------------------------------------------

def with_ept(root: RootBox) -> None:
    """The guest has the second level of the box."""
    root.fields |= {
        F.PRIMARY_PROC_CONTROLS: root.fields[F.PRIMARY_PROC_CONTROLS] | P.ACTIVATE_SECONDARY_CONTROLS,
        F.SECONDARY_PROC_CONTROLS: S.ENABLE_EPT | S.ENABLE_VPID, F.VPID: 1, F.EPT_POINTER: root.ept.eptp.raw}


@proves("exit/EPT_VIOLATION", "control/SecondaryControls.ENABLE_EPT")
def test_a_guest_is_confined_by_ept_and_its_host_is_not(root):
    """The host writes the page that its guest may not touch."""
    with_ept(root)
    root.ept.unmap(0x60000)
    handler = f"""
        mov eax, 0x2400
        vmread qword ptr [{RESULTS}], rax
        mov qword ptr [0x60000], 0x55
        mov eax, 0x4402
        vmread rbx, rax
        hlt
    """
    root.start(LAUNCH, "mov rax, [0x60000]; cpuid", handler)
    assert root.result(RESULTS) == 0x60000
    assert root.cpu.state.rbx == R.EPT_VIOLATION
    assert root.memory.read_u64(0x60000) == 0x55


@proves("instruction/INVEPT", "capability/EptVpidCap.invept_single_context")
@pytest.mark.parametrize("invalidates", [False, True])
def test_the_hosts_invept_makes_a_changed_table_count(root, invalidates):
    """SDM "INVEPT": until then the guest may go on by the old translation, and here it does."""
    with_ept(root)
    entry = root.ept.walk(0x60000).entries[-1].spa
    root.memory.write_u64(0x60000, 0x1111)
    root.memory.write_u64(0x61000, 0x2222)
    root.memory.write_u64(0x75000, root.ept.eptp.raw)
    handler = f"""
        mov qword ptr [{entry}], {0x61000 | 0x37}
        mov ecx, 1
        mov ebx, 0x75000
        {"invept rcx, xmmword ptr [rbx]" if invalidates else "nop"}
        mov eax, 0x681E
        vmread rcx, rax
        cmp r9, 0
        jne done
        inc r9
        add rcx, 2
        vmwrite rax, rcx
        vmresume
    done:
        hlt
    """
    root.start(LAUNCH, "xor r9d, r9d; mov r10, [0x60000]; cpuid; mov r11, [0x60000]; hlt", handler)
    assert root.cpu.state.r10 == 0x1111
    assert root.cpu.state.r11 == (0x2222 if invalidates else 0x1111)


def test_a_guest_that_is_single_stepped_over_mov_ss_is_entered_again(root: RootBox):
    """The step that MOV SS holds back is in the VMCS, where VM entry wants it, and comes behind the CPUID that the
    hypervisor did. SDM "Saving Non-Register State", "Checks on Guest Non-Register State"."""
    root.fields[F.EXCEPTION_BITMAP] = 1 << 1
    guest = "mov eax, 0x10; pushfq; or qword ptr [rsp], 0x100; popfq; mov ss, ax; cpuid; nop; hlt"
    root.start(LAUNCH, guest)
    assert root.log == [ExitReason.CPUID, ExitReason.EXCEPTION_OR_NMI]
    assert root.exits[-1].qualification == 1 << 14
    assert root.operation.vmread(F.GUEST_PENDING_DEBUG_EXCEPTIONS) == 0

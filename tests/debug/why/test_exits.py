"""Why a guest was left: each reason down to its control, by guests that are left for it."""

import pytest

from hv.debug.data import plain_data
from hv.replay.fingerprint import fingerprint
from hv.spec.cpuid import HvPrivilege
from hv.spec.vmcs import PinControls, PrimaryControls, SecondaryControls, VmcsField
from tests.debug.why.guests import refused, said, session_over_code, session_over_root, with_control

PRIMARY, SECONDARY, PIN = (VmcsField.PRIMARY_PROC_CONTROLS, VmcsField.SECONDARY_PROC_CONTROLS,
                           VmcsField.PIN_BASED_CONTROLS)
P, S = PrimaryControls, SecondaryControls
BITMAP = 0x8000                 # a page of root's own: the first MiB is nobody's else


def bits_of(field, bits, byte):
    """Bitmaps that are all 0 but for *byte*, which is given as (offset, value)."""
    def prepare(vm):
        vm.machine.memory.write(BITMAP, bytes(0x2000))
        vm.machine.memory.write(BITMAP + byte[0], bytes((byte[1],)))
        with_control(PRIMARY, bits, field)(vm)
    return prepare


IO_BITMAPS = {"IO_BITMAP_A": BITMAP, "IO_BITMAP_B": BITMAP + 0x1000}
# The guest's tables map its own memory only: here a large page more, where nothing is.
BEYOND = "mov eax, START_PD + 8 * 64; mov dword ptr [rax], 0x8000083; "
ROWS = {
    "cpuid": ("CPUID", "cpuid", None, "CPUID exits unconditionally"),
    "vmcall": ("VMCALL", "vmcall", None, "VMCALL exits unconditionally"),
    "hlt": ("HLT", "hlt", None, "HLT EXITING (bit 7 of PRIMARY_PROC_CONTROLS) is 1"),
    "pause": ("PAUSE", "pause", None, "PAUSE EXITING (bit 30 of PRIMARY_PROC_CONTROLS) is 1"),
    "pause-loop": ("PAUSE", "again: pause; jmp again", lambda vm: pause_loops(vm),
                   "PAUSE LOOP EXITING (bit 10 of SECONDARY_PROC_CONTROLS) is 1"),
    "rdtsc": ("RDTSC", "rdtsc", with_control(PRIMARY, P.RDTSC_EXITING),
              "RDTSC EXITING (bit 12 of PRIMARY_PROC_CONTROLS) is 1"),
    "rdpmc": ("RDPMC", "rdpmc", with_control(PRIMARY, P.RDPMC_EXITING),
              "RDPMC EXITING (bit 11 of PRIMARY_PROC_CONTROLS) is 1"),
    "invlpg": ("INVLPG", "invlpg [rsp]", with_control(PRIMARY, P.INVLPG_EXITING), "INVLPG EXITING (bit 9 of"),
    "mov-dr": ("MOV_DR", "mov rax, dr7", with_control(PRIMARY, P.MOV_DR_EXITING), "MOV DR EXITING (bit 23 of"),
    "monitor": ("MONITOR", "xor ecx, ecx; xor edx, edx; mov rax, rsp; monitor", None, "MONITOR EXITING (bit 29 of"),
    "mwait": ("MWAIT", "mwait", None, "MWAIT EXITING (bit 10 of"),
    "wbinvd": ("WBINVD", "wbinvd", with_control(SECONDARY, S.WBINVD_EXITING),
               "WBINVD EXITING (bit 6 of SECONDARY_PROC_CONTROLS"),
    "mtf": ("MONITOR_TRAP_FLAG", "nop; nop", with_control(PRIMARY, P.MONITOR_TRAP_FLAG), "MONITOR TRAP FLAG (bit 27"),
    "preemption-timer": (
        "PREEMPTION_TIMER_EXPIRED", "again: jmp again", with_control(PIN, PinControls.ACTIVATE_PREEMPTION_TIMER,
        {"VMX_PREEMPTION_TIMER_VALUE": 100}), "ACTIVATE PREEMPTION TIMER (bit 6 of PIN_BASED_CONTROLS) is 1"),
    "port": ("IO_INSTRUCTION", "in al, 0x60", None, "UNCONDITIONAL IO EXITING (bit 24 of PRIMARY_PROC_CONTROLS) is 1"),
    "port-bitmap-a": ("IO_INSTRUCTION", "in al, 0x60", bits_of(IO_BITMAPS, P.USE_IO_BITMAPS, (0x60 >> 3, 1)),
                      f"bit 0x60 of I/O bitmap A, that of port 0x60, is 1 (bit 0 of spa {BITMAP + 12:#x})"),
    "port-bitmap-b": ("IO_INSTRUCTION", "mov dx, 0x8009; out dx, al",
                      bits_of(IO_BITMAPS, P.USE_IO_BITMAPS, (0x1001, 2)),
                      f"bit 0x9 of I/O bitmap B, that of port 0x8009, is 1 (bit 1 of spa {BITMAP + 0x1001:#x})"),
    "rdmsr": ("RDMSR", "mov ecx, 0x10; rdmsr", None, "every access does while there are no MSR bitmaps"),
    "rdmsr-bitmap": ("RDMSR", "mov ecx, 0x10; rdmsr", bits_of({"MSR_BITMAP": BITMAP}, P.USE_MSR_BITMAPS, (2, 1)),
                     f"bit 0x10 of the read bitmap for low MSRs is 1 (bit 0 of spa {BITMAP + 2:#x}"),
    "wrmsr-bitmap": ("WRMSR", "mov ecx, 0xC0000081; wrmsr",
                     bits_of({"MSR_BITMAP": BITMAP}, P.USE_MSR_BITMAPS, (0xC10, 2)),
                     "bit 0x81 of the write bitmap for high MSRs is 1"),
    "rdmsr-beyond": ("RDMSR", "mov ecx, 0x40000002; rdmsr",
                     bits_of({"MSR_BITMAP": BITMAP}, P.USE_MSR_BITMAPS, (0, 0)),
                     "the bitmaps cover 0..0x1fff and 0xc0000000..0xc0001fff only"),
    "cr8": ("CR_ACCESS", "mov rax, 3; mov cr8, rax", None, "CR8 LOAD EXITING (bit 19 of PRIMARY_PROC_CONTROLS) is 1"),
    "cr3": ("CR_ACCESS", "mov rax, cr3; mov cr3, rax", with_control(PRIMARY, P.CR3_LOAD_EXITING),
            "CR3 LOAD EXITING (bit 15 of"),
    "cr4": ("CR_ACCESS", "mov rax, cr4; or rax, 0x2000; mov cr4, rax", None, "bits 0x2000 of the mask differ"),
    "tables": ("GDTR_IDTR_ACCESS", "sgdt [rsp - 16]", with_control(SECONDARY, S.DESCRIPTOR_TABLE_EXITING),
               "DESCRIPTOR TABLE EXITING (bit 2 of SECONDARY_PROC_CONTROLS) is 1"),
    "exception": ("EXCEPTION_OR_NMI", "ud2", with_control(VmcsField.EXCEPTION_BITMAP, 1 << 6),
                  "bit 6 of EXCEPTION_BITMAP is 1"),
    "triple-fault": ("TRIPLE_FAULT", "lidt [rip + none]; ud2; none: .word 0; .quad 0", None,
                     "while #DF was being delivered"),
    "ept-violation": ("EPT_VIOLATION", BEYOND + "mov eax, 0x8000000; mov [rax], al", None,
                      "EPT violation: write of gpa 0x8000000 (linear address 0x8000000)"),
    "apic": ("EPT_VIOLATION", "mov eax, 0xFEE00020; mov ecx, [rax]", None, "carried it out on the virtual APIC"),
}


def pause_loops(vm):
    for vp in vm.partition.vps.values():
        vp.vmcs.write(PRIMARY, vp.vmcs.read(PRIMARY) & ~int(P.PAUSE_EXITING))
        vp.vmcs.write(SECONDARY, vp.vmcs.read(SECONDARY) | S.PAUSE_LOOP_EXITING)
        vp.vmcs.write(VmcsField.PLE_GAP, 1000)
        vp.vmcs.write(VmcsField.PLE_WINDOW, 100)


@pytest.mark.parametrize(("reason", "source", "prepare", "wanted"), ROWS.values(), ids=ROWS)
def test_an_exit_is_led_back_to_what_made_it_one(reason, source, prepare, wanted):
    """SDM "Instructions That Cause VM Exits", "Other Causes of VM Exits"."""
    session = session_over_code(source + "; cli; hlt", prepare, apic_virtualization=False, budget="20us")
    assert wanted in said(session, f"why last reason == {reason}")


def test_an_unmapped_page_is_said_to_have_never_been_mapped():
    session = session_over_code(BEYOND + "mov eax, 0x8000000; mov [rax], al; hlt")
    answer = said(session, "why last reason == EPT_VIOLATION")
    assert "which is 0x0: not present\n      set: never mapped" in answer
    assert "root was asked (UNMAPPED_GPA), and the VP waited" in answer


def test_a_write_to_the_hypercall_page_is_led_back_to_who_laid_it_there():
    """TLFS "Establishing the Hypercall Interface"."""
    session = session_over_code("""
        mov ecx, HV_GUEST_OS_ID; mov eax, 1; xor edx, edx; wrmsr
        mov ecx, HV_HYPERCALL; mov eax, HYPERCALL_PAGE + 1; wrmsr
        mov byte ptr [HYPERCALL_PAGE], 0""")
    answer = said(session, "why last reason == EPT_VIOLATION")
    assert "allows read and fetch only\n      set: E2+1 by WRMSR HV_HYPERCALL (0x40000001) of a.0" in answer
    assert "the hypercall page lies over the page" in answer
    assert "the guest got #GP at the instruction" in answer


def test_an_intercept_is_led_back_to_the_hypercall_of_who_installed_it():
    """TLFS "HvCallInstallIntercept"; root is a program of machine code here."""
    session = session_over_root()
    answer = session.do("why last reason == CPUID")
    assert "exit CPUID of partition 2.0" in answer
    assert "root was asked (X64_CPUID_INTERCEPT), and the VP waited: answered at E404+1" in answer
    assert "set: E72+1 by HvCallInstallIntercept of root.0 (InterceptInstalled partition=2 kind=CPUID" in answer
    for question, call in (("IO_INSTRUCTION and port == 0x604 and in_partition == 2", "E70+1"),
                           ("RDMSR and msr == 0x1234", "E71+1")):
        assert f"set: {call} by HvCallInstallIntercept of root.0" in session.do(f"why last reason == {question}")
    session.machine.close()


def test_what_was_so_before_the_recording_is_told_by_what_was_heard_while_the_vm_was_made():
    answer = said(session_over_code("in al, 0x60; cli; hlt"), "why E1")
    assert "set: #" in answer
    assert ", before the recording, by HvCallCreateVp of root.0 (VpCreated partition=2 vp=0)" in answer
    assert "no intercept of port 0x60 is installed: IN gives all ones" in answer


def test_the_place_of_the_user_is_not_changed_by_a_question():
    session = session_over_root()
    session.do("goto E700:5")
    before = [session.do(line) for line in ("regs", "events 100", "vp")], fingerprint(session.machine)
    session.do("why last reason == CPUID")
    assert ([session.do(line) for line in ("regs", "events 100", "vp")], fingerprint(session.machine)) == before
    session.do("goto end")
    before = fingerprint(session.machine)
    session.do("why E400")
    assert fingerprint(session.machine) == before
    session.machine.close()


def test_without_a_recording_the_events_that_are_kept_are_asked():
    session = session_over_code("in al, 0x60; cpuid; cli; hlt", recorded=False)
    assert "CPUID exits unconditionally" in session.do("why last reason == CPUID")
    answer = session.do("why last port == 0x60")
    assert "is looked at as it is now" in answer
    assert "by HvCallCreateVp of root.0" in answer
    assert "nothing is recorded" in refused(session, "why E1")
    session.machine.close()


REFUSED = {
    "no-privilege": ("mov ecx, 0x40000083; rdmsr",
                     "the partition lacks the privilege AccessSynicRegs (CPUID 0x40000003"),
    "read-only": ("mov ecx, HV_VP_INDEX; wrmsr", "HV_VP_INDEX (0x40000002) is read only"),
    "reserved-bits": ("mov ecx, 0x40000040; mov eax, 0x13; xor edx, edx; wrmsr",
                      "bits 0x10 of HV_NPIEP_CONFIG (0x40000040) must be zero"),
    "value": ("mov ecx, HV_SINT0; mov eax, 5; xor edx, edx; wrmsr", "HV_SINT0 (0x40000090) does not take 0x5"),
    "not-here": ("mov ecx, 0x40001080; rdmsr", "is not here: it reaches the SynIC of the hypervisor below"),
    "nobody's": ("mov ecx, 0x1234; rdmsr", "nobody has an MSR 0x1234"),
    "the-processor's": ("mov ecx, 0xC0000080; mov eax, -1; mov edx, eax; wrmsr",
                        "the processor's own rules refuse 0xffffffffffffffff in EFER (0xc0000080)"),
    "no-hypercall-page": ("vmcall", "the guest has not established the hypercall page"),
    "no-vmx": ("vmxoff", "CPUID does not offer VMX"),
}


def without_synic(vm):
    vm.partition.set_privileges(vm.partition.privileges & ~int(HvPrivilege.ACCESS_SYNIC_REGS))


@pytest.mark.parametrize(("source", "wanted"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_names_the_privilege_or_the_rule(source, wanted):
    """TLFS "Synthetic MSRs", "Establishing the Hypercall Interface"; SDM volume 4."""
    prepare = without_synic if wanted.startswith("the partition lacks") else None
    answer = said(session_over_code(source, prepare), "why E1")
    assert "the guest got #" in answer
    assert wanted in answer


@pytest.mark.parametrize(("line", "part"), [
    ("why E0", "is before the first VM exit"), ("why E99999", "is not recorded"), ("why E1x", "is no position"),
    ("why not", "`not` is nothing that `why` knows"), ("why last reason == INVD", "no VM exit before here is of"),
    ("why last nonsense ==", "")])
def test_a_question_that_cannot_be_answered_says_why(line, part):
    session = session_over_code("cpuid; cli; hlt")
    assert part in refused(session, line)
    session.machine.close()


def test_an_answer_is_data_too():
    session = session_over_code("in al, 0x60; cli; hlt")
    data = plain_data(session.value("why E1"))
    assert (data["position"], data["subject"]) == ("E1", "exit IO_INSTRUCTION of a.0 at start (test:7)")
    first = data["chain"][0]["causes"][0]
    assert first["text"] == "UNCONDITIONAL IO EXITING (bit 24 of PRIMARY_PROC_CONTROLS) is 1"
    assert first["set_by"]["who"] == "root.0"
    session.machine.close()


def test_ctrl_c_ends_a_question_and_leaves_the_place():
    session = session_over_code("cpuid; cpuid; cli; hlt")
    session.do("goto E2")
    before = session.do("regs")
    session.interrupted = lambda: True
    assert "interrupted" in refused(session, "why last reason == VMCALL")
    session.interrupted = lambda: False
    assert (session.do("regs"), str(session.timeline.position)) == (before, "E2")
    session.machine.close()

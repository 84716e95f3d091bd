"""What single commands answer, where a whole session of `test_session.py` would not show it."""

from types import SimpleNamespace

import pytest

from hv.debug import stops
from hv.debug.commands.control import GROUPS, chosen, shown
from hv.debug.commands.memory import ept_lines, rights_text
from hv.debug.commands.registers import condition, flags
from hv.debug.session import in_words
from hv.hypervisor.errors import HypercallError
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.spec.ept import EptEntry
from hv.spec.hv_status import HvStatus
from hv.spec.vmcs import FieldEncoding, FieldKind, VmcsField
from hv.vmx.translation.ept_walk import EptWalk, EptWalkEntry
from tests.debug.sessions import refused, session_over


@pytest.fixture(scope="module")
def hello():
    session = session_over(("hello", "hello", 1))
    yield session
    session.machine.close()


@pytest.mark.parametrize(("error", "words"), [
    (GuestFault(14, 2, 0x5000), "exception 14 at 0x5000, error code 0x2: nothing is mapped"),
    (GuestFault(6), "exception 6: nothing is mapped"),
    (NestedFault(0x7000, Access.READ), "guest-physical 0x7000 is not mapped for that access"),
    (HypercallError(HvStatus.INVALID_PARAMETER, "no"), "no"),
])
def test_a_fault_met_by_looking_is_told_in_words(error, words):
    assert words in in_words(error)


@pytest.mark.parametrize(("value", "names"), [
    (0x2, ""), (0x1, "CF"), (0x246, "PF ZF IF"), (0xFD5, "CF PF AF ZF SF TF IF DF OF"), (0x3000, ""),
])
def test_flags_are_told_by_name(value, names):
    assert flags(value) == names


@pytest.mark.parametrize(("rights", "text"), [
    (Access(0), "---"), (Access.READ, "r--"), (Access.READ | Access.WRITE, "rw-"),
    (Access.READ | Access.EXECUTE, "r-x"),
])
def test_rights_are_three_letters(rights, text):
    assert rights_text(rights) == text


@pytest.mark.parametrize(("spa", "misconfigured", "last"), [
    (None, "write without read", "EPT misconfiguration: write without read"),
    (None, "", "gpa 0x5123 is not mapped: an access is an EPT violation"),
    (0x9123, "", "gpa 0x5123 -> spa 0x9123, page of 0x1000: r--"),
])
def test_an_ept_walk_tells_each_entry_and_what_came_of_it(spa, misconfigured, last):
    steps = tuple(EptWalkEntry(level, 0x1000 * level, EptEntry(level)) for level in (4, 3, 2, 1))
    assert ept_lines(EptWalk(0x5123, spa, Access.READ, steps, misconfigured, 0x1000)) == [
        "PML4E  at spa 0x0000004000  0x0000000000000004  --x", "PDPTE  at spa 0x0000003000  0x0000000000000003  rw-",
        "PDE    at spa 0x0000002000  0x0000000000000002  -w-",
        "PTE    at spa 0x0000001000  0x0000000000000001  r--", last]


@pytest.mark.parametrize(("which", "some", "none"), [
    ("", "GUEST_RIP", None), ("GUEST", "GUEST_RIP", "HOST_RIP"), ("host", "HOST_RIP", "GUEST_RIP"),
    ("exit", "EXIT_REASON", "GUEST_RIP"), ("controls", "PIN_BASED_CONTROLS", "EXIT_REASON"),
    ("cs_", "GUEST_CS_SELECTOR", "GUEST_SS_SELECTOR"), ("exit_reason", "EXIT_REASON", "GUEST_RIP"),
])
def test_vmcs_fields_are_chosen_by_group_or_by_part_of_a_name(which, some, none):
    names = {field.name for field in chosen(which)}
    assert some in names
    assert none not in names


def test_a_name_that_is_whole_chooses_itself_alone():
    for field in VmcsField:
        assert chosen(field.name.lower()) == [field]


def test_few_fields_are_shown_though_they_are_0(timer):
    assert timer.do("vmcs exit_reason") == "EXIT_REASON (0x4402)  0x0"
    assert timer.do("vmcs guest_cr").count("\n") == 2
    assert timer.do("vmcs exit").endswith(" fields are 0")
    assert "(0x4402)" not in timer.do("vmcs")


def test_vmcs_says_what_the_bits_mean(timer):
    assert timer.do("vmcs guest_cr4") == "GUEST_CR4 (0x6804)  0x2620   PAE OSFXSR OSXMMEXCPT VMXE"
    assert "memory type 6 (WB), 4 levels, root " in timer.do("vmcs ept_pointer")
    assert shown(VmcsField.EXIT_REASON, 0x80000021) == "0x80000021   ENTRY_FAILURE_GUEST_STATE entry_failure"
    assert shown(VmcsField.IDT_VECTORING_INFO, 0x80000B0E) == \
        "0x80000b0e   type 3 (hardware exception), vector 14 (#PF), with an error code"
    assert shown(VmcsField.EXIT_INTERRUPTION_INFO, 0x300) == "0x300   not valid"


def test_vmcs_does_not_write_and_says_who_does(timer):
    assert refused(timer, "vmcs guest_cr4=3").startswith("vmcs writes nothing; `vmentry GUEST_CR4=3` tells what")


def test_vmcs_events_shows_what_may_come_next_and_what_blocks_it(timer):
    text = timer.do("vmcs events")
    assert "GUEST_ACTIVITY_STATE (0x4826)            0x0   ACTIVE\n" in text
    assert "GUEST_INTERRUPTIBILITY_STATE (0x4824)    0x0\n" in text
    assert "GUEST_INTERRUPT_STATUS (0x0810)" in text


def test_apic_shows_what_the_processor_has_of_it(timer):
    text = timer.do("apic")
    assert "virtual/rvi " in text
    assert f"virtual/page          {timer.vp.vcpu.vmcs.read(VmcsField.VIRTUAL_APIC_PAGE_ADDR):#x}\n" in text


def test_a_vp_does_what_it_says():
    def vp(**fields):
        return SimpleNamespace(**{"stopped_because": "", "wait_for_sipi": False, "intercept_suspend": False,
                                  "explicit_suspend": False, "runnable": False, **fields})

    running = SimpleNamespace(ended=None)
    assert condition(SimpleNamespace(ended="halt"), vp(runnable=True)) == "ended: halt"
    assert condition(running, vp(stopped_because="error", runnable=True)) == "stopped"
    assert condition(running, vp(wait_for_sipi=True)) == "waits for SIPI"
    assert condition(running, vp(intercept_suspend=True)) == "waits for its parent"
    assert condition(running, vp(explicit_suspend=True, runnable=True)) == "suspended"
    assert condition(running, vp(runnable=True)) == "runs"
    assert condition(running, vp()) == "halted"


def test_x87_and_sse_registers_are_shown_when_asked_for(hello):
    fp = hello.vp.regs.fp
    fp.set_st(0, bytes.fromhex("0000000000000080ff3f"))
    fp.set_xmm(15, (0x1234).to_bytes(16, "little"))
    lines = hello.do("regs fp").splitlines()
    assert lines[0] == "fcw 0040  fsw 0000  tag ff  mxcsr 00001f80"
    assert (lines[1], lines[-1]) == ("st0 3fff8000000000000000", "xmm15 00000000000000000000000000001234")
    assert "say `regs` or `regs fp`" in refused(hello, "regs mmx")


def test_a_guest_in_real_mode_has_no_page_tables(hello):
    assert "16 bit" in hello.do("regs")
    lines = hello.do("pagewalk 0x7c00").split("\n")
    assert lines[0] == "paging is off"
    assert lines[1].startswith("gva 0x7c00 -> gpa 0x7c00")
    assert hello.do("disasm").startswith("start:\n=> 00007c00 ")


@pytest.mark.parametrize(("line", "part"), [
    ("mem gpa 0 4097", "4097 bytes are out of range 1..4096"),
    ("disasm start 0", "0 instructions are out of range 1..200"),
    ("disasm start 201", "201 instructions are out of range"), ("exits 201", "201 is out of range 1..200"),
    ("step 100001", "100001 steps are out of range 1..100000"), ("delete 1", "there is no breakpoint 1"),
    ("delete -1", "there is no breakpoint -1"), ("ept 1<<48", "guest-physical 0x1000000000000 is out of range"),
    ("inspect vm/hello/id/x", "vm/hello/id has no parts"), ("inspect nothing", "there is no `nothing` in the machine"),
    ("inspect vm/other", "`other` is no VM"), ("vp 0.0", "`0` is no VM"), ("vp 3.0", "`3` is no VM"),
    ("vp hello.1", "it has 0"),
])
def test_what_is_out_of_range_is_refused(hello, line, part):
    assert part in refused(hello, line)


@pytest.mark.parametrize(("line", "count"), [("mem gpa 0xfff000 4096", 201), ("mem gpa 0 1", 1), ("disasm start 1", 2)])
def test_what_is_just_in_range_is_shown(hello, line, count):
    assert len(hello.do(line).split("\n")) == count


def test_instructions_are_shown_below_their_labels_with_an_arrow_where_the_vp_is(timer):
    timer.do("step")
    lines = timer.do("disasm start 3").split("\n")
    assert [line[:11] for line in lines] == ["start:", "   00010000", "=> 00010005", "   0001000a"]
    assert timer.do("disasm start.wait 1").split("\n")[0] == "start.wait:"
    assert timer.do("disasm") == timer.do("disasm rip 8")


def test_objects_are_found_below_their_vm_and_their_first_vp(timer):
    assert timer.do("inspect vm/timer/id") == timer.do("inspect vm/1/id") == "2"
    assert timer.do("inspect vm/timer/vp/0/synic") == timer.do("inspect /vm/timer/synic/")
    assert timer.do("inspect root/id") == "1"
    assert "timer" in timer.do("inspect vm")
    assert timer.do("inspect vm/timer/vps/0") == "0"
    assert "there is no `1` in vm/timer/vps; there are 0" in refused(timer, "inspect vm/timer/vps/1")


def test_interrupts_in_use_are_shown_and_others_not():
    session = session_over(("receiver", "receiver", 1))
    assert "sint" not in session.do("synic")
    session.do("until 1ms")
    used = {line.split("/")[0] for line in session.do("synic").split("\n") if line.startswith("sint")}
    assert used == {"sint2"}
    session.machine.close()


def test_runs_of_pages_end_where_addresses_or_rights_part(timer):
    """Read-only pages, one of them where another was, and a hole."""
    space = timer.vm.partition.space
    base = space.translate(0, Access.READ) >> 12
    for page, spa_page in ((1, base + 1), (2, base + 2), (3, base + 9)):
        space.unmap(spa_page - base)
        space.unmap(page)
        space.map(page, spa_page, Access.READ)
    space.unmap(5)
    assert [f"{line.split()[1]} {line[-3:]}" for line in timer.do("map").split("\n")[:-1]] == [
        "0x0000000000..0x0000000fff rwx", "0x0000001000..0x0000002fff r--", "0x0000003000..0x0000003fff r--",
        "0x0000004000..0x0000004fff rwx", "0x0000006000..0x0000008fff rwx", "0x000000a000..0x0000ffffff rwx"]
    assert "APIC-access page" in timer.do("map").split("\n")[-1]


def test_until_leaves_no_breakpoint_behind(timer):
    assert timer.do("until start.wait").startswith("reached")
    assert timer.do("continue").startswith("every VM has ended")


def test_a_breakpoint_that_is_removed_stops_nothing(timer):
    timer.do("break start.wait")
    timer.do("break on_timer")
    assert timer.do("delete") == "2 removed"
    assert timer.do("continue").startswith("every VM has ended")


def test_ctrl_c_is_heard_though_a_breakpoint_of_another_vp_is_met_as_well():
    """`until` goes on by itself behind one that is not its own, and was not to be stopped while it met them."""
    machine = SimpleNamespace(run=lambda until_tsc, paused: paused())
    session = SimpleNamespace(machine=machine, vms=[], stops=[], interrupted=lambda: True)
    assert stops.stretch(session, SimpleNamespace(met=True), None) == "interrupted"


def test_a_run_and_steps_are_interrupted_from_outside(timer):
    answers = iter([False, True] + [False] * 9)
    timer.interrupted = lambda: next(answers)
    assert timer.do("step 5").startswith("interrupted after 2 steps\n=> 0001000a")
    timer.interrupted = lambda: True
    assert timer.do("continue").startswith("interrupted\n=> ")
    timer.interrupted = lambda: False
    assert timer.do("continue").startswith("every VM has ended")


def test_a_vp_that_is_gone_is_told(timer):
    timer.vp_index = 5
    assert timer.prompt == "timer.5 gone> "
    assert "timer has no vp 5 any more" in refused(timer, "regs")
    assert timer.do("!vp") == ""
    assert timer.do("!regs is None") == "True"


@pytest.mark.parametrize(("line", "answer"), [
    ("", ""), ("   ", ""), ("# regs", ""), ("!'#'", "#"), ("n = 5", ""), ("regs.bits", "0x10"), ("vp.index", "0"),
    ("1", "1"),
    ("[1, 2][1]", "2"), ("vms[0].name", "hello"), ("partition.id", "2"), ("serial() # all of it", "nothing yet"),
    ("!serial", None), ("n", "5"), ("n + 1", "6"), ("q()", ""),
])
def test_a_line_is_a_command_or_python(hello, line, answer):
    hello.variables["n"] = 5
    if answer is None:
        assert "NameError" in refused(hello, line)
    else:
        assert hello.do(line) == answer
    assert "__builtins__" not in hello.variables


def test_vmentry_says_that_the_vp_would_be_entered(timer):
    assert timer.do("vmentry").startswith("VM entry succeeds: all ")


def test_vmentry_says_what_would_fail_if_a_field_were_another(timer):
    text = timer.do("vmentry guest_cr4=0x620 GUEST_RFLAGS=rip*0")
    assert text.startswith("VM entry fails: VM exit 33, qualification 0")
    assert "   found     bit 13 (VMXE) is 0\n" in text
    assert "guest-rflags-bit-1" in text
    assert timer.do("vmentry").startswith("VM entry succeeds")      # nothing was written


@pytest.mark.parametrize(("line", "message"), [
    ("vmentry GUEST_CR4", "`GUEST_CR4` changes nothing; write FIELD=VALUE, such as GUEST_CR0=0x30"),
    ("vmentry GUEST_CR9=1", "GUEST_CR9: it is no VMCS field; did you mean GUEST_CR"),
    ("vmentry GUEST_ES_SELECTOR=0x10000", "GUEST_ES_SELECTOR: 0x10000 does not fit its 16 bits"),
])
def test_vmentry_refuses_what_is_no_field_or_does_not_fit(timer, line, message):
    assert refused(timer, line).startswith(message)


def test_a_vp_whose_controls_are_wrong_stops_and_says_which_rule(timer):
    timer.do("vp.vcpu.vmcs.write(0x6C00, 0)")
    vp = timer.vp
    timer.do("continue")
    assert vp.stopped_because.startswith("VM entry failed: VMfail 8: host-cr0-fixed-bits: bit 0 (PE), bit 5 (NE)")


@pytest.mark.parametrize(("group", "has", "count"), [
    ("guest", "GUEST_CR0", FieldKind.GUEST_STATE), ("host", "HOST_CR0", FieldKind.HOST_STATE),
    ("execution", "EXCEPTION_BITMAP", None), ("exit-controls", "VM_EXIT_CONTROLS", None),
    ("entry", "VM_ENTRY_CONTROLS", None), ("exit", "EXIT_REASON", FieldKind.READ_ONLY_DATA),
])
def test_the_groups_are_those_of_the_manual(group, has, count):
    """SDM "Organization of VMCS Data": each field is in one of six."""
    assert VmcsField[has] in GROUPS[group]
    if count is not None:
        assert len(GROUPS[group]) == sum(FieldEncoding(field).kind == count for field in VmcsField)
    six = [field for name in ("guest", "host", "execution", "exit-controls", "entry", "exit") for field in GROUPS[name]]
    assert sorted(six) == sorted(VmcsField)

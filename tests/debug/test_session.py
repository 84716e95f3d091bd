"""A debugging session over real guests: what each command answers."""

import pytest

import hv.debug.commands  # noqa: F401      registers them, for the list of their names below
from hv.commands.description import ConnectionDescription
from hv.debug.errors import DebugError
from hv.debug.registry import COMMANDS
from tests.debug.sessions import refused, session_over


@pytest.fixture
def pair():
    session = session_over(("receiver", "receiver", 1), ("two", "two_vps", 2))
    yield session
    session.machine.close()


def test_the_machine_stands_before_the_first_instruction(timer):
    assert timer.prompt == "timer.0 start> "
    assert timer.do("disasm rip 1").startswith("start:\n=> 00010000  bf 30 00 00 00 ")
    assert "timer.asm:17" in timer.do("disasm rip 1")


def test_a_step_is_one_instruction_and_the_registers_show_it(timer):
    assert "mov eax, 0x10072" in timer.do("step")
    assert "rdi 0000000000000030" in timer.do("regs")
    assert "rip 0000000000010005" in timer.do("regs")
    assert timer.prompt == "timer.0 start+0x5> "


def test_steps_go_on_to_the_end_of_what_can_run(timer):
    assert "waits, after" in refused(timer, "step 5000")
    assert "(waits)" in timer.do("until 0.1ms")


def test_a_machine_closed_by_hand_ends_the_session(timer):
    assert timer.do("machine.close()") == "the machine is closed; so is the session"
    assert timer.finished


def test_a_step_out_of_range_is_refused(timer):
    assert "0 steps are out of range" in refused(timer, "step 0")


def test_continue_runs_to_the_end_and_says_how_each_vm_ended(timer):
    assert timer.do("continue").startswith("every VM has ended: timer shutdown")
    assert timer.do("serial") == "timer interrupts: 10"
    assert "timer shutdown, after 0 steps" in refused(timer, "step")
    assert "ended: shutdown" in timer.do("vp")


def test_a_breakpoint_stops_before_its_instruction(timer):
    assert timer.do("break on_timer").startswith("breakpoint 1 at 0x10072, on_timer")
    for n in range(2):
        assert timer.do("continue").startswith("breakpoint at 0x10072")
        assert timer.vm.partition.vps[0].regs.rip == 0x10072
        assert timer.do(f"mem gva count 4 ; {n}".split(" ;")[0]).split()[1] == f"{n:02x}"
    assert timer.do("break") == "1  timer  0x10072  on_timer"
    assert timer.do("delete 1") == "1 removed"
    assert timer.do("break") == "no breakpoints"
    assert "there is no breakpoint 3" in refused(timer, "delete 3")


def test_until_an_address_and_until_a_time(timer):
    assert timer.do("until start.wait").startswith("reached 0x10041")
    began = timer.machine.clock.tsc
    timer.do("until 1ms")
    assert 2_000_000 <= timer.machine.clock.tsc - began < 2_100_000


def test_memory_by_its_three_addresses_is_the_same_memory(timer):
    gva, gpa = timer.do("mem gva rip 16"), timer.do("mem gpa 0x10000 16")
    assert gva == gpa
    assert gva.split()[1:3] == ["bf", "30"]
    spa = timer.vm.partition.space.translate(0x10000, 1)
    assert timer.do(f"mem spa {spa:#x} 16").split()[1:] == gva.split()[1:]


def test_memory_that_is_not_there_says_why(timer):
    assert "exception 14 at 0x5000000" in refused(timer, "mem gva 0x5000000")
    assert "guest-physical 0x2000000 is not mapped" in refused(timer, "mem gpa 0x2000000")
    assert "is no RAM" in refused(timer, "mem spa 0xF0000000")
    assert "`foo` is no kind of address" in refused(timer, "mem foo 0")
    assert "out of range" in refused(timer, "mem gva 0 0")


def test_a_dump_ends_where_memory_ends(timer):
    lines = timer.do("mem gpa 0xFFFFF0 64").split("\n")
    assert len(lines) == 1


def test_a_page_walk_goes_through_both_kinds_of_tables(timer):
    lines = timer.do("pagewalk 0x200000").split("\n")
    assert [line.split()[0] for line in lines[:3]] == ["PML4E", "PDPTE", "PDE"]
    assert lines[3] == "gva 0x200000 -> gpa 0x200000, page of 0x200000: writable supervisor no-execute"
    assert lines[4].startswith("PML4E  at spa")
    assert "gpa 0x200000 -> spa" in lines[-1]
    assert "#PF(0x0)" in timer.do("pagewalk 0x40000000")


def test_the_ept_says_what_is_not_mapped(timer):
    assert timer.do("ept 0xFEC00000").endswith("is not mapped: an access is an EPT violation")
    assert timer.do("map").split("\n")[0].startswith("gpa 0x0000000000..0x0000ffffff  spa ")


def test_the_vmcs_is_read_by_name_part_and_group(timer):
    assert timer.do("vmcs guest_rip") == "GUEST_RIP (0x681e)  0x10000"
    assert "GUEST_CS_SELECTOR" in timer.do("vmcs guest")
    assert "PIN_BASED_CONTROLS" in timer.do("vmcs controls")
    assert "EXIT_REASON" not in timer.do("vmcs controls")
    assert "no VMCS field is called `frob`" in refused(timer, "vmcs frob")


def test_exits_and_events_tell_what_happened(timer):
    assert (timer.do("exits"), timer.do("events")) == ("no exit yet", "no event yet")[0:1] + (timer.do("events"),)
    timer.do("until 1ms")
    assert "exit HLT" in timer.do("exits 50")
    assert "VpHalted" in timer.do("events 200")
    assert "out of range 1..200" in refused(timer, "exits 0")


def test_interrupt_controllers_are_shown(timer):
    timer.do("until 1ms")
    assert "timer/mode" in timer.do("apic")
    assert "PERIODIC" in timer.do("apic")
    assert "scontrol/enable" in timer.do("synic")


def test_one_looks_at_one_vp_at_a_time(pair):
    assert pair.do("vp").split("\n")[0] == "* receiver.0  runs"
    assert "  two.1  waits for SIPI" in pair.do("vp")
    pair.do("vp two.1")
    assert pair.prompt.startswith("two.1 ")
    pair.do("vp 0")
    assert (pair.vm.name, pair.vp_index) == ("two", 0)
    assert "`three` is no VM" in refused(pair, "vp three.0")
    assert "two has no vp `7`; it has 0, 1" in refused(pair, "vp 7")
    assert "receiver" in pair.do("partitions")


def test_a_breakpoint_belongs_to_its_vm(pair):
    pair.do("vp two.0")
    pair.do("break count")
    assert pair.do("continue").startswith("breakpoint at")
    assert pair.vm.name == "two"


def test_objects_are_inspected_by_path(timer):
    assert "vm/timer" in timer.do("inspect")
    assert timer.do("inspect vm/timer/synic/sint2") == timer.do("inspect vm/1/vp/0/synic/sint2")
    assert "masked" in timer.do("inspect vm/timer/synic/sint2")
    assert "there is no `frob` in vm/timer" in refused(timer, "inspect vm/timer/frob")
    assert "has no parts" in refused(timer, "inspect vm/timer/state/x")


def test_live_objects_are_inspected_by_their_own_path(timer):
    assert timer.do("inspect vm.vps[0].apic") == timer.do("inspect vp.apic")
    assert timer.do("inspect vm.vps[0].apic") == timer.do("inspect vms[0].partition.vps[0].apic")
    assert "timer/mode" in timer.do("inspect vm.vps[0].apic")
    assert timer.do("inspect hypervisor.partitions[2]") == timer.do("inspect partition.vps[0].partition")


@pytest.mark.parametrize(("path", "said"), [
    ("vm.vps[7].apic", "there is no `[7]` in vm.vps; near: 0"), ("vm.vpz", "there is no `vpz` in vm; near: vp, vps"),
    ("nothing.at", "there is no `nothing` in the session"), ("vm.vps[0].apic()", "`()` is no part of a path"),
    ("vm.__class__", "is no part of a path"), ("vp.regs.rip[0]", "there is no `[0]` in vp.regs.rip"), (".", "no part"),
])
def test_a_path_that_leads_nowhere_says_how_far_it_came(timer, path, said):
    assert said in refused(timer, f"inspect {path}")


def test_the_stack_shows_who_is_returned_to(timer):
    timer.do("step 3")
    lines = timer.do("stack 3").split("\n")
    assert lines[0].endswith("000000000001000f  returns to start+0xf")
    assert len(lines) == 3
    assert "out of range" in refused(timer, "stack 0")


def test_python_has_the_last_word(timer):
    assert timer.do("!1 + 1") == "2"
    assert timer.do("hex(regs.rip)") == "0x10000"
    assert timer.do("n = 41") == ""
    assert timer.do("n + 1") == "0x2a"
    assert "NameError" in refused(timer, "!nothing")
    assert "ZeroDivisionError" in refused(timer, "1/0")
    assert timer.do("vm") == "<VirtualMachine>"


@pytest.mark.parametrize("line", ["break", "disasm", "pagewalk", "ept", "mem gva", "mem gpa", "mem spa", "until"])
@pytest.mark.parametrize("address", ["-1", "~0", "1<<64", "0x1ffffffffffffffff", "9" * 27])
def test_an_address_has_at_most_64_bits(timer, line, address):
    said = refused(timer, f"{line} {address}")
    assert f"`{address}` is" in said
    assert "expected" in said
    assert timer.breakpoints == []


@pytest.mark.parametrize("line", ["exit(7)", "!quit()", "!raise SystemExit", "session.do('!exit()')",
                                  "!raise GeneratorExit", "!raise KeyboardInterrupt", "!raise BaseException('x')"])
def test_python_does_not_end_the_session(timer, line):
    refused(timer, line)
    assert not timer.finished
    assert timer.do("!1 + 1") == "2"


def test_commands_may_be_written_as_calls(timer):
    assert timer.do("help()") == timer.do("help")
    assert timer.do("regs()") == timer.do("regs")
    assert timer.do("quit()") == ""
    assert timer.finished


def test_any_white_space_separates_words(timer):
    assert timer.do("mem\tgva   rip\t16") == timer.do("mem gva rip 16")


HOSTILE = (
    "-1", "1<<64", "9" * 5000, "(" * 5000, "a" * 5000, "1.5", "'a'", "\x1b[2J", "\0", "é", "²", "٣", "rsp rsp", "gva",
    "gva -1", "gpa 1<<63", "spa 1<<63 9", "gva 0xffffffffffffffff 16", "0xffffffffffffffff 200", "vm//", "../..",
    "vm/1/vp/9", f"vm/1/devices/{'9' * 5000}", "timer.", ".0", "timer.²", "0s", "1e5s", "99999999999999s", "None", "[]",
    "*", "lambda:1",
)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("quit", "continue")])
def test_a_hostile_argument_is_answered_or_refused_in_one_line(timer, name):
    said = []
    for argument in HOSTILE:
        try:
            timer.do(f"{name} {argument}")
        except DebugError as error:
            said.append(str(error))
    assert not any("\n" in message for message in said)
    assert not timer.finished


def test_help_explains_each_command(timer):
    listed = timer.do("help")
    for name, entry in COMMANDS.items():
        assert entry.usage in listed
        assert entry.summary in timer.do(f"help {name}")
    assert "did you mean `step`?" in refused(timer, "stepp")


NEED_A_PC = {"keys"}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_command_has_an_example_that_works(name):
    session = session_over(("timer", "timer", 1), pc=name in NEED_A_PC)
    assert COMMANDS[name].examples
    assert name in [line.split()[0] for line in COMMANDS[name].examples]
    for line in COMMANDS[name].examples:
        session.do(line)
    session.machine.close()


def test_help_is_by_families(timer):
    lines = timer.do("help").split("\n")
    moving = lines.index("moving the machine, and where it stops")
    assert lines[moving + 1].startswith("  step [N]")


def test_a_line_of_the_readme_may_be_typed_with_its_comment(timer):
    assert timer.do("step 2     # two instructions") == timer.do("disasm rip 1").split("\n")[-1]
    assert "rip 000000000001000a" in timer.do("regs # registers")
    assert timer.do("!'#' # Python knows comments") == "#"


def test_empty_lines_and_comments_do_nothing(timer):
    assert timer.do("") == timer.do("# a comment") == ""


def test_two_sessions_give_the_same_answers():
    answers = []
    for _ in range(2):
        session = session_over(("timer", "timer", 1))
        answers.append([session.do(line) for line in ("step 20", "until 1ms", "regs", "exits 20", "inspect vm/timer")])
        session.machine.close()
    assert answers[0] == answers[1]


def test_a_message_between_two_vms_is_seen():
    session = session_over(("receiver", "receiver", 1), ("sender", "hypercaller", 1),
                           connections=[ConnectionDescription("sender", "receiver")])
    session.do("continue")
    assert "got message 5" in session.do("serial")
    assert "MessagePosted" in "\n".join(str(record.event) for record in session.recent.records)
    session.machine.close()

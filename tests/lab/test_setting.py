"""A lab may have several VMs, VPs, devices and connections, and its checks look at any of them."""

import pytest

from hv.image.library import guests_folder
from hv.lab.errors import LabError
from hv.lab.report import report
from tests.lab.folders import HALTS, a_lab, verdict_on

SENDER = (guests_folder() / "hypercaller.asm").read_text()
TWO_VPS = (guests_folder() / "two_vps.asm").read_text()
DMA = (guests_folder() / "dma.asm").read_text()

PAIR = """
[limits]
events = 4000
[machine]
other = "receiver"
[[machine.vm]]
name = "receiver"
program = "receiver.asm"
memory_mib = 4
[[machine.connection]]
from = "lab"
to = "receiver"
[[checks]]
name = "five messages are posted"
kind = "event"
event = "Hypercall"
fields = { code = "POST_MESSAGE", status = "SUCCESS" }
count = 5
[[checks]]
name = "each arrives"
kind = "event"
event = "MessageDelivered"
fields = { sint = 2, message_type = 1 }
vm = "any"
count = 5
[[checks]]
name = "the privilege is missing"
kind = "event"
event = "Hypercall"
fields = { status = "ACCESS_DENIED" }
[[checks]]
name = "one after the other"
kind = "order"
steps = [ { event = "MsrWrite", fields = { msr = "HV_HYPERCALL" } },
          { exit = "VMCALL" },
          { event = "Injected", vm = "receiver", fields = { vector = 0x40 } } ]
[[checks]]
name = "no message is refused"
kind = "event"
event = "Hypercall"
fields = { code = "POST_MESSAGE", status = "INVALID_CONNECTION_ID" }
never = true
[[checks]]
name = "the receiver has all"
kind = "memory"
vm = "receiver"
symbol = "count"
value = 5
size = 4
[[checks]]
name = "both end"
kind = "ended"
vm = "receiver"
how = "shutdown"
"""


def test_a_guest_talks_to_a_given_one_and_checks_look_at_both(tmp_path):
    verdict = verdict_on(a_lab(tmp_path, PAIR), SENDER)
    assert report(verdict).count("PASS") == 7, report(verdict)


def test_what_a_guest_does_wrong_is_seen_at_both(tmp_path):
    verdict = verdict_on(a_lab(tmp_path, PAIR), SENDER.replace("MESSAGES    = 5", "MESSAGES    = 4"))
    posted = "exactly 5 events Hypercall code=POST_MESSAGE status=SUCCESS"
    arrived = "exactly 5 events MessageDelivered sint=2 message_type=1"
    messages = [finding.message for finding in verdict.findings]
    assert messages[0].startswith(f"expected {posted}, found 4 of them")
    assert messages[1].startswith(f"expected {arrived}, found 4 of them")
    assert messages[5] == "expected 5 at `count` of receiver, found 4"
    assert messages[6] == "expected receiver to end by shutdown, found halt"


def test_a_lab_may_have_two_processors_and_name_one(tmp_path):
    exercise = a_lab(tmp_path, """
[limits]
events = 4000
[machine]
vps = 2
[[checks]]
name = "VP 0 wakes VP 1"
kind = "order"
steps = [ { event = "MmioAccess", vp = 0, fields = { gpa = 0xFEE00300, write = true } }, { exit = "any", vp = 1 } ]
[[checks]]
name = "both counted"
kind = "memory"
gpa = 0x200000
value = 20000
[[checks]]
name = "VP 1 never used RBP"
kind = "register"
vp = 1
values = { rbp = 0 }
""")
    verdict = verdict_on(exercise, TWO_VPS)
    assert [finding.passed for finding in verdict.findings] == [True, True, True]


def test_a_lab_may_have_a_device(tmp_path):
    checks = '[[checks]]\nname = "it reads"\nkind = "event"\nevent = "InterruptRouted"\nvm = "any"\nat_least = 1\n'
    assert verdict_on(a_lab(tmp_path, f"[machine]\ndevice = true\n{checks}"), DMA).passed
    assert not verdict_on(a_lab(tmp_path, checks), DMA).passed


@pytest.mark.parametrize(("virtual", "count"), [("true", 0), ("false", 1)])
def test_a_lab_may_do_without_apic_virtualization(tmp_path, virtual, count):
    """Then an EOI is an exit, and the access is seen."""
    fields = "fields = { gpa = 0xFEE000B0, write = true }"
    checks = f'[[checks]]\nname = "e"\nkind = "event"\nevent = "MmioAccess"\n{fields}\ncount = {count}\n'
    setting = f"[machine]\ndevice = true\napic_virtualization = {virtual}\n"
    assert verdict_on(a_lab(tmp_path, setting + checks), DMA).passed


def test_a_lab_limits_exits(tmp_path):
    exercise = a_lab(tmp_path, f"[limits]\nexits = 50\n{HALTS}")
    verdict = verdict_on(exercise, "start: cpuid\n    jmp start\n")
    assert verdict.findings[0].found == "budget (more than 50 VM exits)"


@pytest.mark.parametrize(("exits", "passes"), [(51, True), (50, False)])
def test_the_limit_of_exits_is_exact(tmp_path, exits, passes):
    """The exit that is one too many is handled, and no guest goes on behind it."""
    checks = f'[[checks]]\nname = "work"\nkind = "work"\nexits = {exits}\n[limits]\nexits = 50\n'
    verdict = verdict_on(a_lab(tmp_path, checks), "start:\n cpuid\n jmp start\n")
    assert verdict.passed is passes, report(verdict)


@pytest.mark.parametrize("instruction", ["hlt", "pause", "wrmsr"])
def test_no_other_processor_goes_on_behind_the_last_exit(tmp_path, instruction):
    """Two VMs that take turns stop together."""
    checks = """
[machine]
[[machine.vm]]
name = "other"
program = "other.asm"
[limits]
exits = 40
[[checks]]
name = "work"
kind = "work"
exits = 41
vm = "any"
"""
    loop = f"start:\n mov ecx, 0x40000070\n mov eax, 0\n mov edx, 0\n{instruction}\n cpuid\n jmp start\n"
    exercise = a_lab(tmp_path, checks, other__asm=loop.replace("hlt", "pause"))
    verdict = verdict_on(exercise, loop)
    assert verdict.passed, report(verdict)


def test_a_given_program_that_is_missing_is_told_by_its_name(tmp_path):
    exercise = a_lab(tmp_path, f'[[machine.vm]]\nname = "b"\nprogram = "nosuch.asm"\n{HALTS}')
    assert "nosuch.asm" in verdict_on(exercise, "start: hlt\n").refused


VM = '[[machine.vm]]\nname = "b"\nprogram = "receiver.asm"\n'
BROKEN = {
    "vm-twice": (VM + VM, "can be called `b`"),
    "the-learners-name": (VM.replace('"b"', '"lab"'), "can be called `lab`"),
    "unknown-other": ('[machine]\nother = "x"\n', "no VM `x`"),
    "later-other": (VM + 'other = "c"\n' + VM.replace('"b"', '"c"'), "`other` of b is `c`"),
    "both-know": ('[machine]\nother = "b"\n' + VM + 'other = "lab"\n', "`other` of b is `lab`"),
    "connection-to-nobody": ('[[machine.connection]]\nfrom = "lab"\nto = "x"\n', "names `x`"),
    "same-connection": (VM + '[[machine.connection]]\nfrom = "lab"\nto = "b"\n' * 2, "the same id"),
    "too-many-flags": (VM + '[[machine.connection]]\nfrom = "lab"\nto = "b"\nkind = "event"\nbase = 9\nflags = 2048\n',
                       "more than 2048"),
    "too-many-devices": ('[machine]\ndevice = true\n' + "".join(
        VM.replace('"b"', f'"b{n}"') + "device = true\n" for n in range(4)), "4 devices"),
    "no-processor": ("[machine]\nvps = 0\n", "`int` >= 1"),
    "check-of-nobody": ('[[checks]]\nname = "x"\nkind = "serial"\ntext = ""\nvm = "z"\n', "VM `z`; expected lab"),
    "bare-with-device": ("[machine]\nbare = true\ndevice = true\n" + HALTS, "`bare` stands alone"),
    "bare-and-walked": ('[machine]\nbare = true\n[[checks]]\nname = "c"\nkind = "maps"\ngva = 0\n',
                        "neither answer nor walk"),
}


@pytest.mark.parametrize(("text", "says"), BROKEN.values(), ids=BROKEN)
def test_a_machine_that_cannot_be_is_refused_in_one_line(tmp_path, text, says):
    with pytest.raises(LabError) as caught:
        a_lab(tmp_path, text + HALTS)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_on_a_bare_machine_the_program_has_the_processor(tmp_path):
    exercise = a_lab(tmp_path, "[machine]\nbare = true\n" + HALTS)
    assert verdict_on(exercise, ".bits 64\nstart: cpuid\n    hlt\n").passed
    verdict = verdict_on(exercise, ".bits 64\nstart: ud2\n")
    assert "triple-faulted" in report(verdict)

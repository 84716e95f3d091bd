"""A machine may have a bug, which changes what its guest sees; the learner says which, and where it shows."""

import pytest

from hv.cli import main
from hv.lab import runner
from hv.lab.errors import LabError
from hv.lab.exercise import Limits, read, read_all
from hv.lab.faults import FAULTS
from hv.lab.runner import FinishedRun, program, rehearse
from hv.lab.setting import Setting
from hv.lab.telling import told
from tests.lab.exercises import LABS
from tests.lab.folders import HALTS, a_lab, verdict_on

TICKS = (LABS / "18_lost_interrupts/five_ticks.asm").read_text()
OVERLAY = """
.include "lib/machine.inc"
start:
    mov rax, [0x300000]         ; remembered by the processor
    mov ecx, 0x40000000
    mov eax, 0x10000
    mov edx, 0x81000000
    wrmsr
    mov ecx, 0x40000001         ; the hypercall page covers that page now
    mov eax, 0x300001
    xor edx, edx
    wrmsr
    mov rax, [0x300000]
    mov [0x200000], rax
    hlt
.org 0x200000
seen: .quad 0
"""
CPUID = """
start:
    mov eax, 0x40000000
    cpuid
    add eax, 1                  ; 83 C0 01; from its second byte on it is ROL BYTE PTR [RCX], B8h ...
    mov [0x200000], eax
    hlt
.org 0x200000
seen: .quad 0
"""
WAITS = """
.include "lib/machine.inc"
start:
    mov edi, 0x40
    mov eax, offset handler
    call idt_set
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    mov dword ptr [rbx + APIC_ICR_LOW], 0x40040     ; to myself, while IF is 0
    sti
    nop
    mov eax, [0x200000]         ; the handler should have run
    mov [0x200008], eax
    cli
    hlt
handler:
    mov dword ptr [0x200000], 1
    iretq
.include "lib/idt64.inc"
.org 0x200000
came: .quad 0
seen: .quad 0
"""
# The bug, a program that meets it, the label to look at, and the number of the exit where it acts.
MEETS = {
    "missing-eoi": (TICKS, "count", 7),
    "stale-tlb": (OVERLAY, "seen", 2),
    "wrong-rip-advance": (CPUID, "seen", 1),
    "no-interrupt-window": (WAITS, "seen", 2),
}


def seen(tmp_path, source, label, fault):
    place = tmp_path / "a.asm"
    place.write_text(source)
    run = FinishedRun(program(place, True), Limits(ticks=4_000_000), Setting(fault=fault))
    run.go()
    found = run.read("lab", run.symbol("lab", label), 8), run.fault
    run.close()
    return found


def test_every_bug_has_a_program_that_meets_it():
    assert MEETS.keys() == FAULTS.keys()


@pytest.mark.parametrize("name", MEETS)
def test_a_bug_changes_what_its_guest_sees_and_says_where(tmp_path, name):
    source, label, exit = MEETS[name]
    healthy, _ = seen(tmp_path, source, label, "")
    sick, fault = seen(tmp_path, source, label, name)
    assert healthy != sick
    assert name != "missing-eoi" or (healthy[0], sick[0]) == (5, 1)
    assert fault[:2] == (name, exit)
    assert fault[2].startswith("a.asm:")


@pytest.mark.parametrize("name", MEETS)
def test_a_bug_is_in_its_own_machine_only(tmp_path, name):
    source, label, _ = MEETS[name]
    before, _ = seen(tmp_path, source, label, "")
    seen(tmp_path, source, label, name)
    assert seen(tmp_path, source, label, "")[0] == before


@pytest.mark.parametrize(("truth", "right", "wrong"), [
    ('{ of = "fault" }', '"Missing EOI"', '"stale-tlb"'), ('{ of = "fault", asks = "position" }', '"E7"', '"E6"'),
    ('{ of = "fault", asks = "position" }', "7", "8"), ('{ of = "fault", asks = "position" }', '"e7:3"', '"seven"'),
    ('{ of = "fault", asks = "line" }', "43", "42"),
])
def test_the_bug_and_its_place_are_asked_for(tmp_path, truth, right, wrong):
    exercise = a_lab(tmp_path, f'program = "p.asm"\n[machine]\nfault = "missing-eoi"\n[limits]\nticks = 2_000_000\n'
                     f'[[checks]]\nkind = "answer"\nname = "it"\nquestion = "it"\ntruth = {truth}\n', kind="diagnose",
                     file="a.toml", p__asm=TICKS)
    assert verdict_on(exercise, f"it = {right}\n").passed
    assert verdict_on(exercise, f"it = {wrong}\n").findings[0].message.endswith("is not what the machine does")


@pytest.mark.parametrize(("text", "kind", "says"), [
    ('[machine]\nfault = "gremlins"\n' + HALTS, "guest", "`gremlins` is no fault; expected missing-eoi"),
    ('[machine]\nfault = "missing-eoi"\n' + HALTS, "guest", "a lab of kind diagnose has a fault"),
    ('program = "p.asm"\n' + HALTS, "diagnose", "a lab of kind diagnose has a fault"),
])
def test_a_bug_belongs_to_a_lab_of_its_kind(tmp_path, text, kind, says):
    with pytest.raises(LabError, match=says):
        a_lab(tmp_path, text, kind=kind, file="a.toml" if kind == "diagnose" else "a.asm")


def test_every_bug_is_the_matter_of_a_lab():
    assert {one.data.machine.fault for one in read_all(LABS)} - {""} == FAULTS.keys()


def test_a_run_is_told_with_numbers_of_its_exits():
    exercise = read(LABS / "18_lost_interrupts")
    run = rehearse(exercise, exercise.starter)
    run.go()
    lines = told(run)
    run.close()
    assert lines[0].startswith("E1  five_ticks.asm:16  exit CPUID")
    assert [line.split()[0] for line in lines if line.startswith("E")] == [f"E{n}" for n in range(1, 9)]
    assert lines[-1] == "ended: budget (the budget of virtual time is used up, five_ticks.asm:33)"


@pytest.mark.parametrize("exercise", [one for one in read_all(LABS) if one.data.kind == "diagnose"],
                         ids=lambda one: one.name)
def test_the_page_shows_what_the_machine_records(exercise):
    run = rehearse(exercise, exercise.starter)
    run.go()
    lines = told(run)
    run.close()
    for line in exercise.section("What you will see").splitlines():
        if line.startswith("    "):
            assert line.removeprefix("    ") in lines


def test_of_several_vms_each_line_says_whose_it_is(tmp_path):
    exercise = a_lab(tmp_path, '[[machine.vm]]\nname = "b"\nprogram = "receiver.asm"\n' + HALTS)
    place = tmp_path / "a.asm"
    place.write_text("start: cpuid\n    hlt\n")
    run = runner.prepare(exercise, place)
    run.go()
    lines = told(run)
    run.close()
    assert any(" lab " in line and "exit CPUID" in line for line in lines)
    assert lines[-2:] == ["lab ended: halt", "b ended: halt (receiver.asm:31)"]


# The way that hints and pages describe, on a sound machine.
WAYS = {
    "21_silent_call": ("record|goto E7|back|disasm 0x62000 1|goto E5|disasm 0x62000 1",
                       ["recorded up to E8", "00062000  0f 01 c1", "moving.asm:32", "vmcall", "moving.asm:30",
                        "mov eax, 0x21"]),
    "22_wild_return": ("record|goto E2|disasm rip 2|step|step|stack 2|back",
                       ["recorded up to E3", "0f a2", "41 89 1c 24", "mov dword ptr [r12], ebx",
                        "returns to start+0x19", "letters.asm:24"]),
    "23_late_interrupt": ("record|goto E2|apic|forth event == Injected",
                          ["cpuid", "deliverable           0x31", "Injected vector=0x31", "patience.asm:31"]),
}


@pytest.mark.parametrize(("lab", "lines", "shown"), [(lab, *way) for lab, way in WAYS.items()], ids=WAYS)
def test_the_repl_leads_back_on_a_sound_machine(lab, lines, shown, capsys):
    exercise = read(LABS / lab)
    for line in lines.split("|"):
        assert line.partition(" ")[0] in exercise.text("README.md") + " ".join(exercise.data.hints)
    commands = [word for line in lines.split("|") for word in ("-c", line)]
    assert main(["repl", str(exercise.folder / exercise.data.program), "--plain", *commands]) == 0
    out = capsys.readouterr().out
    for words in shown:
        assert words in out
        out = out[out.index(words) :]

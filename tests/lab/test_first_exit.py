"""The labs keep what they promise, and every way of going wrong ends in a verdict."""

import pytest

from hv.lab.exercise import read_all
from hv.lab.report import report
from hv.lab.verify import VARIANTS, verify
from tests.lab.exercises import LABS, SOLUTION, first_exit, judged


@pytest.mark.parametrize("exercise", read_all(LABS), ids=lambda exercise: exercise.name)
def test_solution_passes_starter_and_wrong_answers_fail_as_stated(exercise, full_size):
    """Of a lab with parameters as it stands, and for one student or, with `--full-size`, for three."""
    students = VARIANTS if full_size else 1
    assert [f"{proof.claim}: {proof.against}" for proof in verify(exercise, students) if proof.against] == []


def test_the_starter_earns_nothing_and_says_what_is_missing():
    from hv.lab import runner

    verdict = runner.check(first_exit(), first_exit().starter)
    assert verdict.score == 0
    assert "the guest never executed CPUID" in report(verdict)


def test_the_right_bytes_without_asking_earn_nothing(tmp_path):
    source = '.bits 64\nstart: hlt\n.org 0x200000\nsignature: .ascii "Microsoft Hv"\n'
    assert judged(tmp_path, source).score == 0


def test_a_right_order_of_other_instructions_passes_too(tmp_path):
    source = SOLUTION.replace("mov eax, 0x40000000 ", "xor eax, eax\n    cpuid\n    mov eax, 0x40000000 ")
    assert judged(tmp_path, source).passed


def test_the_expected_line_of_the_page_is_what_the_machine_records(tmp_path):
    text = report(judged(tmp_path, SOLUTION.replace("    hlt", "    jmp $")))
    assert "exit CPUID instruction_length=2" in text
    page = first_exit().text("README.md")
    assert "exit CPUID instruction_length=2" in page
    assert "Cpuid leaf=0x40000000 subleaf=0 answer=" in text
    assert "Cpuid leaf=0x40000000 subleaf=0 answer=" in page


REFUSED = {
    "typing-error": ("start:\n    mvo eax, 1\n", "first_exit.asm:2"),
    "empty": ("; nothing\n", "no instruction"),
    "binary": (b"\x7fELF\xff\xfe\x00", "not UTF-8"),
    "too-large": (b"nop\n" * 300_000, "larger than 1 MiB"),
    "outside-memory": (".org 0x7fffffff0000\nstart: nop\n", "has 16 MiB; place it lower, with .org"),
    "include-missing": ('.include "nosuch.inc"\n', "put it into the source, or name a file of guests/"),
    "latin-1": (b"hlt ; \xe9\n", "save it as UTF-8"),
    "include-outside": ('.include "../secret.asm"\nstart: hlt\n', "leaves the folder"),
}


@pytest.mark.parametrize(("source", "says"), REFUSED.values(), ids=REFUSED)
def test_a_program_that_cannot_run_is_refused_in_one_line(tmp_path, source, says):
    verdict = judged(tmp_path, source)
    assert says in verdict.refused
    assert "\n" not in verdict.refused
    assert str(tmp_path) not in verdict.refused
    assert (verdict.score, verdict.passed) == (0, False)


ENDS = {
    "loop": ("start: jmp start\n", "budget"),
    "loop-of-exits": ("start: cpuid\n    jmp start\n", "budget"),
    "loop-of-output": ("start: mov dx, 0x3f8\n.l: out dx, al\n    jmp .l\n", "budget"),
    "one-endless-instruction": ("start: mov rcx, -1\n    mov rsi, 0x200000\n    rep lodsb\n", "budget"),
    "garbage": ("start: ud2\n", "triple-fault"),
    "outside-of-memory": ("start: mov rax, 0x123456789\n    jmp rax\n", "triple-fault"),
    "string-output": ("start: mov dx, 0x3f8\n    mov rcx, -1\n    mov rsi, 0x200000\n    rep outsb\n", "budget"),
}


@pytest.mark.parametrize(("source", "how"), ENDS.values(), ids=ENDS)
def test_a_program_that_misbehaves_is_stopped_by_its_budget_or_its_fault(tmp_path, source, how):
    from hv.lab.runner import FinishedRun, program

    place = tmp_path / "first_exit.asm"
    place.write_text(source)
    run = FinishedRun(program(place, True), first_exit().data.limits)
    run.go()
    assert run.ended("lab")[0] == how
    run.close()
    assert len(run.happened) <= run.limits.events


def test_the_limit_of_time_is_the_programs_own(tmp_path):
    """What root needed to make its machine is not taken from it."""
    from hv.lab.runner import FinishedRun, program

    place = tmp_path / "first_exit.asm"
    place.write_text(ENDS["loop"][0])
    run = FinishedRun(program(place, True), first_exit().data.limits)
    began = run.machine.clock.tsc
    run.go()
    run.close()
    assert began > 0
    assert 0 <= run.machine.clock.tsc - began - run.limits.ticks < 1000


def test_a_loop_of_exits_is_told_that_not_all_was_looked_at(tmp_path):
    """Whether the right CPUID came after the first thousand events is not known: nobody may say that it never came."""
    loop = "start:\n    mov esi, 700\n.again:\n    mov eax, 5\n    cpuid\n    dec esi\n    jnz .again\n"
    verdict = judged(tmp_path, SOLUTION.replace("start:\n", loop))
    asked = verdict.findings[0]
    assert not asked.passed
    assert "among the first 1000 events;" in asked.message
    assert "more were not looked at: is there a loop" in asked.message


def test_what_a_program_prints_never_reaches_the_terminal_raw(tmp_path):
    assert "\x1b" not in report(judged(tmp_path, "start: mov eax, \x1b[31mred\x1b[0m\n"))


def test_a_report_is_plain_unless_colour_is_asked_for(tmp_path):
    verdict = judged(tmp_path, SOLUTION.replace("ebx", "edx"))
    plain = report(verdict)
    assert "\x1b" not in plain
    assert "\x1b[31mBAD" in report(verdict, colour=True)
    assert "MISSING" in plain


def test_a_report_fits_a_terminal_of_80_columns(tmp_path):
    for source in (SOLUTION.replace("0x40000000", "0"), "start: mov ecxx, 1\n", SOLUTION.replace("ebx", "edx")):
        told = report(judged(tmp_path, source))
        assert max(len(line) for line in told.split("\n") if "Cpuid leaf" not in line) <= 80


def test_two_lines_around_each_difference_are_shown():
    from hv.lab.checks import Mark
    from hv.lab.report import marked

    lines = [(Mark.NEAR, str(n)) for n in range(9)]
    lines[4] = (Mark.BAD, "4")
    assert marked(lines) == ["...", "         2", "         3", "BAD      4", "         5", "         6", "..."]
    assert marked(lines[:4]) == []

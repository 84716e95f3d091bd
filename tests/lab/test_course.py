"""Every lab of the course is whole: what a learner needs is there, and the page says what the machine really does."""

import re
import textwrap

import pytest

from hv.hypervisor.interrupts.apic_virtualization import msr_bitmap
from hv.lab.exercise import find, read_all
from hv.lab.report import report
from hv.lab.runner import check, prepare
from hv.lab.words import event_words
from tests.lab.exercises import LABS

COURSE = read_all(LABS)
SECTIONS = ("Read", "The task", "What you will see")


@pytest.mark.parametrize("exercise", COURSE, ids=lambda exercise: exercise.name)
def test_a_lab_has_its_sections_and_three_hints(exercise):
    assert [heading for heading in SECTIONS if not exercise.section(heading)] == []
    assert len(exercise.data.hints) == 3


def test_labs_are_numbered_and_each_has_a_file_of_its_own():
    assert all(exercise.name[:2].isdecimal() for exercise in COURSE)
    for values in ([exercise.name[:2] for exercise in COURSE], [exercise.data.file for exercise in COURSE]):
        assert len(values) == len(set(values))


def solved(exercise):
    """The run of the reference solution, over but not closed."""
    run = prepare(exercise, exercise.solution)
    run.go()
    return run


def lines_to_expect(exercise):
    """The events that the page shows, without what tells where: source line, VM and VP."""
    return re.findall(r"^    +(?:.*? )??((?:exit )?[A-Z][A-Za-z_]+(?: \S+=\S+| \.\.\.)*)$",
                      "    " + exercise.section("What you will see"), re.M)     # a section is without its first indent


WRITES_WHAT_RUNS = [one for one in COURSE if one.data.kind == "guest" or one.data.piece.answers]


@pytest.mark.parametrize("exercise", WRITES_WHAT_RUNS, ids=lambda one: one.name)
def test_the_lines_to_expect_are_what_the_machine_records_in_this_order(exercise):
    """`...` on the page stands for anything."""
    run = solved(exercise)
    run.close()
    recorded = iter([event_words(happening.event, always=True) for happening in run.happened])
    lines = lines_to_expect(exercise)
    patterns = [re.compile(".*".join(map(re.escape, line.split("...")))) for line in lines]
    assert lines
    assert [line for line, pattern in zip(lines, patterns, strict=True) if not any(map(pattern.match, recorded))] == []


def test_the_bitmap_of_the_lab_is_the_hypervisors_own():
    run = solved(find(COURSE, "msr_bitmap"))
    try:
        assert run.read("lab", run.symbol("lab", "bitmap"), 4096) == msr_bitmap()
    finally:
        run.close()


def test_the_program_to_predict_stands_on_its_page():
    exercise = find(COURSE, "reading_a_vmcs")
    program = textwrap.indent(exercise.text(exercise.data.program), " " * 8)
    assert program in exercise.section("The task")


LME_FIRST = "    mov ecx, EFER\n    mov eax, 1 << 8\n    xor edx, edx\n    wrmsr\n"
BIT_TEST = "    add r8, rbx\n    xor eax, eax\n    bt dword ptr [r8], esi\n    setc al\n    ret\n"
FILL_IN = "    mov qword ptr [input + 24], 0x61000 >> 12\n"
OTHER_WAYS = {
    "efer-first": ("long_mode", [("    mov eax, cr4\n", LME_FIRST + "    mov eax, cr4\n")]),
    "far-return": ("long_mode", [("    jmp 0x08:long_mode  ", "    push 0x08\n    push long_mode\n    retf ;")]),
    "user-pages": ("long_mode", [("PDPT | 3 ", "PDPT | 7 "), ("0x000000 | 0x83", "0x000000 | 0x87")]),
    "input-first": ("first_hypercall", [(FILL_IN, ""), ("start:\n", "start:\n" + FILL_IN)]),
    "call-by-address": ("first_hypercall", [("    call rax ", "    call HYPERCALL_PAGE ;")]),
    "partition-id": ("hypercall_errors", [("= 0x40 ", "= 0x46 ")]),
    "across-a-page": ("hypercall_errors", [("offset input + 4 ", "offset output - 8")]),
    "reserved-bit": ("hypercall_errors", [("1 << 32 | ", "1 << 44 | ")]),
    "rep-start": ("hypercall_errors", [("1 << 32 | ", "1 << 48 | ")]),
    "bit-test": ("msr_bitmap", [("    add r8, rbx\n", BIT_TEST)]),
    "pops-its-code": ("exceptions", [("    add rsp, 8                  ; IRETQ", "    pop qword ptr [gp_code] ;")]),
}


@pytest.mark.parametrize(("lab", "changes"), OTHER_WAYS.values(), ids=OTHER_WAYS)
def test_another_right_way_earns_all_points_too(tmp_path, lab, changes):
    exercise = find(COURSE, lab)
    source = exercise.solution.read_text()
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    place = tmp_path / exercise.data.file
    place.write_text(source)
    verdict = check(exercise, place)
    assert (verdict.score, verdict.refused) == (exercise.max_score, ""), report(verdict)

"""Classes for the tests of whoever grades many."""

from hv.lab.exercise import Exercise, read
from hv.lab.grading import Submission, submissions, with_student
from hv.lab.variants import drawn
from tests.lab.folders import lab_folder

_LAB = """
[[checks]]
name = "RAX holds the value"
kind = "register"
values = { rax = "{{value}}" }

[variants]
value = { from = 16, to = 4095 }
"""


def a_class_of_variants(tmp_path, seed: bytes) -> tuple[Exercise, list[Submission]]:
    """A lab with parameters, and the right answers of ann, ben and cem; cem hands in what is right for ben."""
    exercise = read(lab_folder(tmp_path / "lab", _LAB))
    folder = tmp_path / "variants"
    folder.mkdir()
    for student, whose in (("ann", "ann"), ("ben", "ben"), ("cem", "ben")):
        value = drawn(exercise.parameters, seed, whose, exercise.name)["value"]
        (folder / f"{student}.asm").write_text(f"start:\n    mov eax, {value}\n    hlt\n")
    return exercise, [with_student(one, exercise, "", False) for one in submissions([folder], exercise)]

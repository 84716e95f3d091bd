"""Every lab of the course is whole: what a learner needs is there, and the page says what the machine really does."""

import pytest

from hv.lab.exercise import read_all
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

"""What the page of a lab shows is what its solution does."""

import re

import pytest

from hv.lab.exercise import read_all
from hv.lab.runner import prepare
from hv.lab.words import event_words
from tests.lab.exercises import LABS

PLACE = re.compile(r"^\s+(?:VP \d+ +)?(?:[\w/]+\.\w+:\d+ +)?")


def shown(exercise):
    """The lines of "What you will see", without their places."""
    section = exercise.section("What you will see")
    return [PLACE.sub("", line) for line in section.split("\n") if line.startswith("    ")]


def happens(line, said):
    """*said* is *line*, where `...` stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, line.split("..."))), said)


@pytest.mark.parametrize("exercise", [one for one in read_all(LABS) if one.data.kind == "guest"],
                         ids=lambda exercise: exercise.name)
def test_the_expected_lines_of_a_page_happen_in_this_order(exercise):
    run = prepare(exercise, exercise.solution)
    run.go()
    run.close()
    said = iter([event_words(happening.event, always=True) for happening in run.happened])
    lines = shown(exercise)
    assert lines
    assert [line for line in lines if not any(happens(line, one) for one in said)] == []

"""A lab.toml is data with a shape; what is wrong with it is said in one line."""

import pytest

from hv.lab.errors import LabError
from hv.lab.exercise import find, read, read_all
from tests.lab.exercises import LABS, first_exit

GOOD = """
title = "t"
kind = "guest"
file = "a.asm"
starter_says = "no"
hints = ["h"]
[[checks]]
name = "one"
kind = "ended"
how = "halt"
"""
MEMORY = '[[checks]]\nname = "m"\nkind = "memory"\nsymbol = "s"\n'


def lab(tmp_path, text):
    folder = tmp_path / "01_it"
    folder.mkdir(exist_ok=True)
    (folder / "lab.toml").write_text(text)
    return folder


def test_a_good_description_is_read(tmp_path):
    exercise = read(lab(tmp_path, GOOD))
    assert (exercise.name, exercise.max_score, exercise.data.limits.ticks) == ("01_it", 1, 20_000_000)


BROKEN = {
    "not-toml": ("title = \n", "is no TOML"),
    "missing-field": ("title = 't'\n", "missing required field `kind`"),
    "wrong-type": (GOOD.replace('"t"', "7"), "Expected `str`, got `int` - at `$.title`"),
    "unknown-field": ("color = 1\n" + GOOD, "unknown field `color`"),
    "unknown-kind": (GOOD.replace('"guest"', '"essay"'), "'essay'"),
    "unknown-check": (GOOD.replace('"ended"', '"magic"'), "'magic'"),
    "negative-limit": (GOOD + "[limits]\nticks = 0\n", "`int` >= 1"),
    "needs-a-later-check": (GOOD + 'needs = "two"\n', "needs `two`, which is no check before it"),
    "same-name-twice": (GOOD + '[[checks]]\nname = "one"\nkind = "ended"\nhow = "x"\n', "two checks are called `one`"),
    "file-outside": (GOOD.replace('"a.asm"', '"../a.asm"'), "no plain file name"),
    "bytes-that-are-none": (GOOD + MEMORY + 'bytes = "xy"\n', "hexadecimal"),
    "memory-of-nothing": (GOOD + MEMORY, "needs text or bytes"),
}


@pytest.mark.parametrize(("text", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_description_is_refused_in_one_line(tmp_path, text, says):
    with pytest.raises(LabError) as caught:
        read(lab(tmp_path, text))
    assert says in str(caught.value)
    assert "01_it/lab.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_description_is_no_exercise(tmp_path):
    with pytest.raises(LabError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("folder", [None, LABS / "01_first_exit"], ids=["no-folder", "no-labs-in-it"])
def test_no_labs_at_all_is_an_error(folder):
    with pytest.raises(LabError, match="no labs here"):
        read_all(folder)


@pytest.mark.parametrize("wanted", ["01_first_exit", "1", "01", "first_exit"])
def test_a_lab_is_found_by_name_and_by_number(wanted):
    assert find(read_all(LABS), wanted).name == "01_first_exit"


def test_an_unknown_lab_gets_the_nearest_names():
    with pytest.raises(LabError, match="did you mean 01_first_exit"):
        find(read_all(LABS), "01_fist_exit")


def test_a_section_of_the_page_is_its_text_alone():
    task = first_exit().section("The task")
    assert task.startswith("Write a guest")
    assert "##" not in task
    assert first_exit().section("No such") == ""

"""A lab.toml is data with a shape; what is wrong with it is said in one line."""

import pytest

from hv.lab.errors import LabError
from hv.lab.exercise import Exercise, find, read, read_all
from tests.lab.exercises import LABS, first_exit

GOOD = """
title = "t"
kind = "guest"
file = "a.asm"
starter_says = "no"
hints = ["h", "i", "j"]
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
    "same-name-twice": (
        GOOD + '[[checks]]\nname = "one"\nkind = "ended"\nhow = "halt"\n', "two checks are called `one`"),
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


@pytest.fixture
def many(tmp_path):
    for name in ("01_first_exit", "02_second", "03_third", "04_fourth", "ten"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lab.toml").write_text(GOOD)
    return read_all(tmp_path)


@pytest.mark.parametrize(("wanted", "name"), [("2", "02_second"), ("003", "03_third"), ("fourth", "04_fourth"),
("ten", "ten")])
def test_one_of_many_is_found(many, wanted, name):
    assert find(many, wanted).name == name


@pytest.mark.parametrize(("wanted", "near"), [
    ("01_fist_exit", "did you mean 01_first_exit?"), ("xyz", "did you mean 01_first_exit or 02_second or 03_third?"),
    ("5", "did you mean 01_first_exit or"), ("²", "did you mean"), ("", "did you mean"),
])
def test_an_unknown_lab_gets_the_nearest_names_or_the_first(many, wanted, near):
    with pytest.raises(LabError) as caught:
        find(many, wanted)
    assert f"there is no lab `{wanted}`" in str(caught.value)
    assert near in str(caught.value)


def test_a_page_that_is_missing_or_no_text_says_so(tmp_path):
    exercise = read(lab(tmp_path, GOOD))
    with pytest.raises(LabError, match=r"01_it/why\.md cannot be read: No such file or directory"):
        exercise.text("why.md")
    (exercise.folder / "lab.toml").write_bytes(b"\xff")
    with pytest.raises(LabError, match=r"01_it/lab\.toml cannot be read: it is not UTF-8"):
        read(exercise.folder)


def test_a_section_of_the_page_is_its_text_alone():
    task = first_exit().section("The task")
    assert task.startswith("Write a guest")
    assert "##" not in task
    assert first_exit().section("No such") == ""


def test_the_hash_of_a_lab_changes_with_every_file_and_name_and_not_with_leftovers(tmp_path):
    def lab(name, **files):
        for file, text in {"lab.toml": "a", "wrong/b.asm": "b", **files}.items():
            place = tmp_path / name / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        return Exercise("x", tmp_path / name, None).sha256()

    same = [lab("one"), lab("two"), lab("three", **{".lab.toml.swp": "", "__pycache__/x.pyc": "", ".git/x": ""})]
    other = [lab("four", more=""), lab("five", **{"lab.toml": "ab"}), lab("six", **{"lab.toml": "a\n"})]
    assert len(set(same)) == 1
    assert len({*same, *other}) == 4

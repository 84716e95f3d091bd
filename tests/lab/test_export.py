"""Students get labs that work, and nothing that only staff may see."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.cli import main
from hv.lab import runner
from hv.lab.errors import LabError
from hv.lab.exercise import read, read_all
from hv.lab.export import export
from hv.lab.toml import dumps
from tests.lab.exercises import LABS
from tests.lab.folders import HALTS, a_lab

COURSE = read_all(LABS)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "labs"
    export(COURSE, folder)
    return folder


@pytest.mark.parametrize("exercise", COURSE, ids=lambda exercise: exercise.name)
def test_an_exported_lab_is_the_lab_without_what_staff_may_see(exported, exercise):
    students = read(exported / exercise.name).data
    assert students.checks == [check for check in exercise.data.checks if not check.hidden]
    assert (students.wrong, students.starter_says) == ([], "")
    for field in ("title", "kind", "file", "program", "hints", "limits", "machine", "piece"):
        assert getattr(students, field) == getattr(exercise.data, field)


@pytest.mark.parametrize("exercise", COURSE, ids=lambda exercise: exercise.name)
def test_no_solution_and_no_wrong_answer_is_anywhere_in_the_tree(exported, exercise):
    secret = [exercise.solution, *(exercise.folder / "wrong" / wrong.file for wrong in exercise.data.wrong)]
    texts = {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    for path in secret:
        assert path.read_bytes() not in texts.values()
    assert not [path for path in texts if {"solution", "wrong"} & set(path.parts)]


@pytest.mark.parametrize("exercise", COURSE, ids=lambda exercise: exercise.name)
def test_what_students_write_is_judged_the_same_there(exported, exercise):
    verdict = runner.check(read(exported / exercise.name), exercise.solution)
    assert verdict.passed
    assert not runner.check(read(exported / exercise.name), exported / exercise.name / exercise.starter.name).passed


def test_hidden_checks_and_staff_files_stay_at_home(tmp_path):
    hidden = '[[checks]]\nname = "a secret"\nkind = "serial"\ntext = ""\nhidden = true\n'
    exercise = a_lab(tmp_path / "all", HALTS + hidden, README__md="# r\n", starter__asm="hlt\n", notes__md="for staff",
                     shared__inc="; mine\n")
    (exercise.folder / "link.inc").symlink_to(exercise.folder / "notes.md")
    files = export([exercise], tmp_path / "students")
    assert [path.name for path in files] == ["README.md", "lab.toml", "shared.inc", "starter.asm", "course.toml"]
    assert "secret" not in (tmp_path / "students/01_it/lab.toml").read_text()


def test_a_folder_with_anything_in_it_is_left_alone(tmp_path):
    (tmp_path / "labs").mkdir()
    (tmp_path / "labs/mine.txt").write_text("x")
    with pytest.raises(LabError, match="is not empty"):
        export(COURSE, tmp_path / "labs")
    assert [path.name for path in (tmp_path / "labs").iterdir()] == ["mine.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["labs"]


@pytest.mark.parametrize("place", ["/dev/null/x", "a\0b"])
def test_a_folder_that_cannot_be_made_is_one_line(place):
    from pathlib import Path

    with pytest.raises(LabError, match="cannot be written"):
        export(COURSE, Path(place))


def test_a_check_that_students_see_needs_none_that_they_do_not(tmp_path):
    hidden = HALTS + "hidden = true\n"
    with pytest.raises(LabError, match="which is hidden"):
        a_lab(tmp_path, hidden + '[[checks]]\nname = "b"\nkind = "serial"\ntext = ""\nneeds = "it halts"\n')
    with pytest.raises(LabError, match="every check is hidden"):
        a_lab(tmp_path, hidden)


def test_the_command_exports_and_works_on_what_it_exported(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HVLAB_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "export", "students"]) == 0
    assert "no hidden checks" in capsys.readouterr().out
    assert main(["lab", "start", "1", "--labs", "students"]) == 0
    assert main(["lab", "check", "--labs", "students"]) == 1
    capsys.readouterr()
    assert main(["lab", "verify", "1", "--labs", "students"]) == 1
    assert "solution/first_exit.asm" in capsys.readouterr().out
    assert main(["lab", "export"]) == 2
    assert main(["lab", "export", "students"]) == 2
    assert main(["lab", "list", "--labs", "nosuch"]) == 2


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.one_of(st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), TEXT)
TABLES = st.recursive(st.dictionaries(TEXT, VALUES, max_size=4),
                      lambda inner: st.dictionaries(st.sampled_from(["a", "b c", "é", "d-1"]), st.one_of(
                          VALUES, st.lists(VALUES, max_size=3), inner, st.lists(inner, min_size=1, max_size=3)),
                          max_size=4), max_leaves=8)


@given(TABLES)
def test_what_is_written_as_toml_is_read_back(data):
    assert tomllib.loads(dumps(data)) == data


def test_what_toml_cannot_say_is_a_mistake_of_ours():
    with pytest.raises(TypeError, match="NoneType is no value"):
        dumps({"a": None})

"""`hv lab` works on our labs, another folder's, or those of the student's tree one stands in, each variant its own."""

import pytest

from hv.cli import main
from hv.lab.tree import whose
from tests.lab.test_variants import a_template

DRAWN = ("--student", "alice", "--seed", "a course")


@pytest.fixture(autouse=True)
def _at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HVLAB_STATE", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def labs(tmp_path):
    a_template(tmp_path / "labs")
    return str(tmp_path / "labs")


def said(capsys, *arguments):
    code = main(["lab", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def value_of(page):
    return page.partition("Put ")[2].partition(" into")[0]


def test_a_students_tree_has_their_values_and_judges_by_them(capsys, tmp_path, labs, monkeypatch):
    code, out, _ = said(capsys, "export", str(tmp_path / "alice"), "--labs", labs, *DRAWN)
    assert (code, "1 labs for alice" in out) == (0, True)
    assert whose(tmp_path / "alice") == "alice"
    monkeypatch.chdir(tmp_path / "alice")
    out = said(capsys, "start")[1]
    (tmp_path / "alice/a.asm").write_text(f"start:\n mov eax, {value_of(out)}\n hlt\n")
    code, out, _ = said(capsys, "check")
    assert (code, "01_it for alice: t" in out) == (0, True)
    assert value_of(out) != "16"
    (tmp_path / "alice/a.asm").write_text("start:\n mov eax, 16\n hlt\n")
    assert said(capsys, "check")[0] == 1


def test_one_student_gets_the_same_bytes_every_time_and_another_others(capsys, tmp_path, labs):
    for name, student in (("one", "alice"), ("two", "alice"), ("three", "bob")):
        assert said(capsys, "export", str(tmp_path / name), "--labs", labs, "--student", student, "--seed", "s")[0] == 0
    one, two, three = (tree(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one.keys() == three.keys()
    assert {name for name in one if one[name] != three[name]} >= {"course.toml", "01_it/README.md", "01_it/lab.toml"}
    assert b"{{" not in b"".join(one.values())


def test_a_check_may_be_by_a_students_values_and_grading_agrees(capsys, tmp_path, labs, monkeypatch):
    place = tmp_path / "work/a.asm"
    page = said(capsys, "next", "--labs", labs, *DRAWN)[1]
    place.write_text(f"start:\n mov eax, {value_of(page)}\n hlt\n")
    assert said(capsys, "check", "--labs", labs, *DRAWN)[0] == 0
    assert said(capsys, "check", "--labs", labs, "--student", "bob", "--seed", "a course")[0] == 1
    assert said(capsys, "check", "--labs", labs)[0] == 1
    monkeypatch.setattr("hv.commands.course.labs_folder", lambda: tmp_path / "labs")
    assert main(["grade", str(place), "--exercise", "1", *DRAWN]) == 0
    assert main(["grade", str(place), "--exercise", "1", "--student", "bob", "--seed", "a course"]) == 1


@pytest.mark.parametrize(("arguments", "says"), [
    (("--student", "alice"), "nothing to draw the variant of alice from"), (("--seed", "x"), "none is named"),
    (("--student", "../x", "--seed", "x"), "is no student id"), (("--seed", "x", "--key", "y"), "both say"),
    (("--student", "alice", "--key", "nosuch"), "cannot be read"),
], ids=str)
def test_half_a_choice_is_one_line(capsys, arguments, says):
    code, _, err = said(capsys, "list", *arguments)
    assert code == 2
    assert says in err


BROKEN = {"no-toml": b"student = ", "no-word": b"student = 5", "nothing": b"", "not-utf-8": b"student = \"\xff\"",
          "deep": b"a = " + b"[" * 5000}


@pytest.mark.parametrize("mark", BROKEN.values(), ids=BROKEN)
def test_a_broken_mark_of_a_tree_is_one_line(capsys, tmp_path, mark):
    (tmp_path / "work/course.toml").write_bytes(mark)
    code, _, err = said(capsys, "list")
    assert code == 2
    assert "course.toml makes no sense" in err
    assert "--labs" in err


def test_everybodys_labs_are_found_where_one_stands(capsys, tmp_path, labs, monkeypatch):
    assert said(capsys, "export", str(tmp_path / "all"), "--labs", labs)[0] == 0
    monkeypatch.chdir(tmp_path / "all")
    assert "0 of 1 done" in said(capsys, "list")[1]
    assert said(capsys, "list", "--dir", str(tmp_path / "all"))[0] == 0


def test_the_given_program_is_there_to_be_read_only(capsys, tmp_path):
    """Of a lab to predict or to diagnose; what the learner does to the copy changes no verdict."""
    out = said(capsys, "start", "18_lost_interrupts")[1]
    copy = tmp_path / "work/five_ticks.asm"
    assert "read   five_ticks.asm" in out
    assert copy.stat().st_mode & 0o777 == 0o444
    before = said(capsys, "check", "18_lost_interrupts")[1]
    copy.chmod(0o644)
    copy.write_text("start: hlt\n")
    assert said(capsys, "check", "18_lost_interrupts")[1] == before
    assert said(capsys, "start", "18_lost_interrupts")[0] == 0
    assert copy.read_text() == "start: hlt\n"

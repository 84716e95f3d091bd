"""Hidden checks are judged when work is graded, and nothing of them but their points reaches a student."""

import base64

import pytest

from hv.cli import main
from hv.lab.errors import LabError
from hv.lab.formats import FORMATS
from hv.lab.grading import Submission, grade
from hv.lab.result import Outcome, for_student
from tests.lab.folders import a_lab, verdict_on
from tests.lab.formats.validators import VALIDATORS

SECRET = "5ec2e7"
LAB = f"""
[[checks]]
name = "it halts"
kind = "ended"
how = "halt"
points = 2

[[checks]]
name = "the {SECRET} register"
kind = "register"
values = {{ rax = 0x{SECRET}, rbx = 7 }}
points = 3
hidden = true

[[checks]]
name = "the {SECRET} exit"
kind = "exit"
reason = "CPUID"
needs = "the {SECRET} register"
hidden = true
"""
GOOD = f"start:\n    mov eax, 1\n    cpuid\n    mov eax, 0x{SECRET}\n    mov ebx, 7\n    hlt\n"
BAD = "start:\n    hlt\n"


def result_of(tmp_path, source):
    exercise = a_lab(tmp_path, LAB)
    place = tmp_path / "a.asm"
    place.write_text(source)
    return grade(exercise, Submission("a.asm", place)).result


def test_staff_are_told_everything(tmp_path):
    whole = result_of(tmp_path, BAD)
    assert [check.hidden for check in whole.checks] == [False, True, True]
    assert (whole.score, whole.max_score) == (2, 6)
    assert SECRET in FORMATS["json"].write([whole])
    assert "(hidden)" in FORMATS["md"].write([whole])


@pytest.mark.parametrize(("source", "score", "outcome"), [(BAD, 0, Outcome.FAILED), (GOOD, 4, Outcome.PASSED)])
def test_a_student_is_told_how_many_and_their_points(tmp_path, source, score, outcome):
    *_, last = for_student(result_of(tmp_path, source)).checks
    assert (last.name, last.score, last.max_score, last.outcome) == ("2 hidden checks", score, 4, outcome)


@pytest.mark.parametrize("name", ["prairielearn", "classroom"])
def test_what_a_student_can_read_has_no_word_of_them(tmp_path, name):
    text = FORMATS[name].write([result_of(tmp_path, BAD)])
    if name == "classroom":
        text = base64.b64decode(text.partition("=")[2]).decode()
    assert SECRET not in text
    assert "2 hidden checks" in text


def test_gradescope_hides_them_itself(tmp_path):
    found = VALIDATORS["gradescope"](FORMATS["gradescope"].write([result_of(tmp_path, BAD)]).encode())
    for test in found["tests"]:
        assert (test.get("visibility") == "hidden") == (SECRET in test["name"])
    assert found["output"] == "t: 1 of 1 checks passed; 2 more are hidden"
    assert found["score"] == 2


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_dry_run_shows_no_word_of_them(tmp_path, name, capsys, monkeypatch):
    a_lab(tmp_path / "labs", LAB)
    (tmp_path / "a.asm").write_text(BAD)
    monkeypatch.setattr("hv.commands.course.labs_folder", lambda: tmp_path / "labs")
    code = main(["grade", str(tmp_path / "a.asm"), "--exercise", "1", "--format", name, "--dry-run"])
    out = capsys.readouterr().out
    assert code == 1
    assert SECRET not in out
    assert ("Score: not shown" in out) == (name == "gradescope")


def test_the_learners_own_check_leaves_them_out(tmp_path, capsys, monkeypatch):
    folder = a_lab(tmp_path / "labs", LAB, why__md="Why", README__md="\n## The task\nDo").folder
    monkeypatch.setattr("hv.commands.lab_choice.labs_folder", lambda: folder.parent)
    (tmp_path / "a.asm").write_text(BAD)
    assert main(["lab", "check", "1", "--dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "all 1 checks passed. 2 more are judged when it is handed in." in out
    assert SECRET not in out


@pytest.mark.parametrize(("old", "new", "says"), [
    ('how = "halt"', 'how = "halt"\nhidden = true', "every check is hidden"),
    ('reason = "CPUID"\nneeds = "the 5ec2e7 register"\nhidden = true',
     'reason = "CPUID"\nneeds = "the 5ec2e7 register"', "which is hidden; hide both"),
])
def test_a_visible_check_cannot_depend_on_a_hidden_one(tmp_path, old, new, says):
    assert old in LAB
    with pytest.raises(LabError, match=says):
        a_lab(tmp_path, LAB.replace(old, new))


PARTS = {
    "registers": ('kind = "register"\nvalues = { rax = 1, rbx = 2, rcx = 3 }', "mov eax, 1\n mov ebx, 2", "6.66"),
    "memory": ('kind = "memory"\nsymbol = "here"\ntext = "abcdefgh"',
               "jmp over\nhere: .ascii \"abcdEFGH\"\nover:", "5"),
    "all": ('kind = "register"\nvalues = { rax = 1 }', "mov eax, 1", "10"),
    "none": ('kind = "register"\nvalues = { rax = 1, rbx = 2 }', "nop", "0"),
}


@pytest.mark.parametrize(("check", "source", "score"), PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("partial", [True, False])
def test_a_partial_check_gives_points_for_each_part(tmp_path, check, source, score, partial):
    line = "partial = true\n" if partial else ""
    exercise = a_lab(tmp_path, f'[[checks]]\nname = "it"\npoints = 10\n{line}{check}\n')
    verdict = verdict_on(exercise, f"start:\n {source}\n hlt\n")
    assert str(verdict.score) == (score if partial else "10" if score == "10" else "0")


def test_points_of_parts_are_in_every_format(tmp_path):
    exercise = a_lab(tmp_path, f'[[checks]]\nname = "it"\npoints = 10\npartial = true\n{PARTS["registers"][0]}\n')
    (tmp_path / "a.asm").write_text("start:\n mov eax, 1\n mov ebx, 2\n hlt\n")
    whole = grade(exercise, Submission("a.asm", tmp_path / "a.asm")).result
    assert whole.checks[0].outcome is Outcome.PARTIAL
    found = {name: validate(FORMATS[name].text([whole], True).encode()) for name, validate in VALIDATORS.items()}
    assert found["gradescope"]["score"] == 6.66
    assert found["prairielearn"]["score"] == 0.666
    assert found["classroom"]["tests"][0]["score"] == 6.66
    assert found["junit"].find(".//failure").get("message").startswith("6.66/10 points: ")
    assert found["csv"][0]["score"] == "6.66"
    assert found["json"][0]["score"] == 6.66
    assert "6.66/10" in found["md"]
    assert "PART  it" in found["text"]


def test_only_what_has_parts_can_be_partial(tmp_path):
    with pytest.raises(LabError, match="cannot be partial"):
        a_lab(tmp_path, '[[checks]]\nname = "it"\nkind = "ended"\nhow = "halt"\npartial = true\n')

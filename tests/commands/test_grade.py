"""`hv grade` prints scores as text or JSON, the same bytes each time, with an exit code to build on."""

import json

import pytest

from hv.cli import main
from hv.lab.formats import FORMATS
from tests.lab.exercises import LABS, SOLUTION, first_exit

WRONG = LABS / "01_first_exit/wrong"


@pytest.fixture(autouse=True)
def _at_home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def said(capsys, *arguments):
    code = main(["grade", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_solution_gets_all_points_and_code_0(capsys):
    code, out, _ = said(capsys, first_exit().solution.parent, "--format", "json")
    data = json.loads(out)
    assert code == 0
    assert (data["score"], data["max_score"]) == (10, 10)
    assert len(data["tests"]) == 3
    assert all(set(test) >= {"name", "score", "max_score", "passed", "message"} for test in data["tests"])


def test_a_class_is_graded_in_order_with_code_1_when_not_all_passed(capsys):
    code, out, _ = said(capsys, WRONG, "--format", "json")
    data = json.loads(out)
    assert code == 1
    assert [one["submission"] for one in data["submissions"]] == sorted(wrong.name for wrong in WRONG.iterdir())
    assert (data["count"], data["passed"]) == (11, 0)


@pytest.mark.parametrize("name", ["text", "json", "junit", "csv", "md"])
def test_two_runs_are_the_same_bytes(capsys, name):
    assert said(capsys, WRONG, "--format", name)[1] == said(capsys, WRONG, "--format", name)[1]


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_what_is_printed(capsys, tmp_path, name):
    one = WRONG / "register_order.asm"
    printed = said(capsys, one, "--format", name, "--plain")
    code, out, err = said(capsys, one, "--format", name, "--output", tmp_path / "results/it")
    assert (code, out, err) == (1, "", "")
    assert (tmp_path / "results/it").read_text() == printed[1]
    assert [place.name for place in (tmp_path / "results").iterdir()] == ["it"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_class_goes_into_a_folder(capsys, tmp_path, name):
    said(capsys, WRONG, "--format", name, "--output", f"{tmp_path}/results/")
    names = sorted(place.name for place in (tmp_path / "results").iterdir())
    suffix = FORMATS[name].file.partition(".")[2]
    single = sorted(f"{wrong.name}.{suffix}" for wrong in WRONG.iterdir())
    assert names == (single if FORMATS[name].single else [FORMATS[name].file])


def test_one_submission_goes_into_a_folder_under_the_name_its_reader_looks_for(capsys, tmp_path):
    place = f"{tmp_path}/grade/results/"
    assert said(capsys, WRONG / "no_hlt.asm", "--format", "prairielearn", "--output", place)[0] == 1
    assert json.loads((tmp_path / "grade/results/results.json").read_text())["gradable"]


def test_a_grader_that_is_killed_leaves_a_result_that_says_so(capsys, tmp_path, monkeypatch):
    from hv.lab import grading

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(grading.grade, "__defaults__", (killed,))
    code, _, _ = said(capsys, WRONG / "no_hlt.asm", "--format", "prairielearn", "--output", tmp_path / "results.json")
    assert code == 130
    data = json.loads((tmp_path / "results.json").read_text())
    assert (data["gradable"], data["message"]) == (False, "grading did not come to its end; the mistake is not yours")


def test_a_dry_run_shows_the_report_and_writes_nothing(capsys, tmp_path):
    code, out, _ = said(capsys, WRONG / "register_order.asm", "--format", "gradescope", "--dry-run")
    assert (code, list(tmp_path.iterdir())) == (1, [])
    assert out == said(capsys, WRONG / "register_order.asm", "--plain")[1]


def test_text_shows_a_line_for_each_and_a_sum(capsys):
    code, out, _ = said(capsys, WRONG)
    assert code == 1
    assert "6/10  register_order.asm  the signature stands" in out
    assert "0 of 11 submissions earned all points" in out


def test_text_of_one_submission_is_its_whole_report(capsys):
    code, out, _ = said(capsys, WRONG / "register_order.asm")
    assert code == 1
    assert "MISSING  0x200004" in out
    assert "Score: 6 of 10 points" in out


MISTAKES = {
    "no-such-path": (["nowhere"], "nowhere cannot be read"),
    "empty-folder": (["."], "is empty"),
    "other-format": ([str(WRONG), "--format", "junitt"], "there is no format `junitt`; expected classroom, csv,"),
    "several-in-one": ([str(WRONG), "--format", "gradescope"], "holds one submission; there are 11"),
    "dry-and-written": ([str(WRONG), "--dry-run", "--output", "a"], "--dry-run writes nothing"),
    "no-such-place": ([str(WRONG), "--output", "/dev/null/a"], "cannot be written"),
    "unknown-exercise": ([str(WRONG), "--exercise", "99"], "there is no lab `99`"),
    "no-path": ([], "PATH"),
    "nul-byte": (["a\0b"], "cannot be read"),
}


@pytest.mark.parametrize(("arguments", "says"), MISTAKES.values(), ids=MISTAKES)
def test_wrong_use_gets_one_line_and_code_2(capsys, arguments, says):
    code, out, err = said(capsys, *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_a_mistake_of_the_grader_is_code_4_and_the_others_are_graded(capsys, tmp_path, monkeypatch):
    from hv.lab import grading, runner

    def sometimes(exercise, path, own_includes):
        if path.name == "a.asm":
            raise RuntimeError("no")
        return runner.check(exercise, path, own_includes)

    for name in ("a.asm", "b.asm"):
        (tmp_path / name).write_text(SOLUTION)
    monkeypatch.setattr(grading.grade, "__defaults__", (sometimes,))
    code, out, _ = said(capsys, tmp_path)
    assert code == 4
    assert "the grader failed, not you" in out
    assert "10/10  b.asm" in out


def test_jobs_and_a_report_change_nothing_but_the_time(capsys, tmp_path):
    alone = said(capsys, WRONG, "--format", "json")
    for _ in ("graded", "taken from the report"):
        assert said(capsys, WRONG, "--format", "json", "--jobs", "2", "--resume", tmp_path / "report") == alone


def test_lines_come_in_order_whoever_is_first(capsys):
    """And nothing but them: no bar where no terminal is."""
    assert said(capsys, WRONG, "--jobs", "2") == said(capsys, WRONG)


@pytest.mark.parametrize("jobs", [0, -1, 257])
def test_a_senseless_number_of_jobs_is_refused(capsys, jobs):
    code, out, err = said(capsys, WRONG, "--jobs", jobs)
    assert (code, out) == (2, "")
    assert f"--jobs is {jobs}; expected 1..256" in err


def test_a_damaged_report_is_said_in_one_line(capsys, tmp_path):
    report = tmp_path / "report"
    report.write_bytes(b"hvlab journal 1\nnonsense\n")
    code, _, err = said(capsys, WRONG / "no_hlt.asm", "--resume", report)
    assert (code, err) == (1, "note: report:2 is damaged; it is graded again\n")


@pytest.mark.parametrize(("on", "code"), [(["rlimits"], 2), (["rlimits", "landlock", "seccomp"], 0)])
def test_a_host_that_cannot_confine_is_refused_when_that_is_asked_for(capsys, monkeypatch, on, code):
    monkeypatch.setattr("hv.lab.sandbox.piece.protections", lambda: on)
    found, out, err = said(capsys, first_exit().solution, "--require-sandbox")
    assert found == code
    assert ("this host cannot confine a learner's Python: no landlock and no seccomp" in err) is (code == 2)
    assert bool(out) is (code == 0)


def test_a_cluster_that_is_not_there_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("hv.lab.cluster._CONNECT_SECONDS", 1)
    code, out, err = said(capsys, WRONG, "--cluster", "tcp://127.0.0.1:1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no scheduler answers at" in err or "the extra `cluster` is not installed" in err

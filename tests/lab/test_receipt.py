"""A receipt holds for one submission, one lab and one key; whoever has the key can run it again."""

import json
import shutil
import zipfile

import pytest

from hv.cli import main
from tests.lab.exercises import LABS, SOLUTION
from tests.lab.test_variants import a_template


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """A folder with labs, a key, and a submission."""
    shutil.copytree(LABS / "01_first_exit", tmp_path / "labs/01_first_exit")
    monkeypatch.setattr("hv.commands.course.labs_folder", lambda: tmp_path / "labs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("07" * 32 + "\n")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "a.asm").write_text(SOLUTION)
    return tmp_path


def graded(place, receipt="r.json", *more):
    return main(["grade", str(place), "--key", "key", "--receipt", receipt, *more])


def verified(capsys, receipt="r.json", place="a.asm", key="key"):
    capsys.readouterr()
    code = main(["grade", "verify", receipt, place, "--key", key])
    out, err = capsys.readouterr()
    return code, out + err


def test_a_receipt_is_genuine_and_the_same_when_run_again(at_home, capsys):
    assert graded("a.asm") == 0
    assert verified(capsys) == (
        0, "GENUINE    a.asm: 10 of 10 points in 01_first_exit, and the same when it is run again\n")


def test_a_receipt_is_the_same_bytes_wherever_it_is_made(at_home):
    (at_home / "deep/er").mkdir(parents=True)
    (at_home / "deep/er/a.asm").write_text(SOLUTION)
    graded("a.asm")
    graded("deep/er/a.asm", "other.json")
    assert (at_home / "r.json").read_bytes() == (at_home / "other.json").read_bytes()
    assert str(at_home) not in (at_home / "r.json").read_text()


def test_of_a_class_each_has_a_receipt_which_is_that_of_one_alone(at_home, capsys):
    for student in ("alice", "bob"):
        (at_home / "class" / student).mkdir(parents=True)
        (at_home / "class" / student / "first_exit.asm").write_text(SOLUTION.replace("hlt", "nop" * (student == "bob")))
    graded("class", "receipts/")
    assert sorted(place.name for place in (at_home / "receipts").iterdir()) == ["alice.json", "bob.json"]
    code, out = verified(capsys, "receipts/alice.json", "class/alice")
    assert (code, out[:7]) == (0, "GENUINE")


CHANGES = {"score": 9, "submission_sha256": "0" * 64, "student": "eve", "file": "b.asm", "trace_sha256": "",
           "signature": "0" * 64, "tool": "hvlab 9", "key": "x"}


@pytest.mark.parametrize(("name", "value"), CHANGES.items(), ids=CHANGES)
def test_a_receipt_that_was_changed_is_no_longer_genuine(at_home, capsys, name, value):
    graded("a.asm")
    data = json.loads((at_home / "r.json").read_text())
    assert data[name] != value
    (at_home / "r.json").write_text(json.dumps({**data, name: value}))
    code, out = verified(capsys)
    assert (code, out[:6]) == (1, "FORGED")


def test_a_receipt_of_another_key_is_not_genuine(at_home, capsys):
    graded("a.asm")
    (at_home / "other").write_text("08" * 32)
    (at_home / "other").chmod(0o600)
    assert verified(capsys, key="other")[1].startswith("FORGED")


def differing(out):
    return {line.split()[1].rstrip(":") for line in out.splitlines() if line.startswith("DIFFERENT")}


def test_another_submission_is_told_by_what_differs(at_home, capsys):
    graded("a.asm")
    (at_home / "a.asm").write_text(SOLUTION + "; the same program\n")
    code, out = verified(capsys)
    assert (code, differing(out)) == (1, {"submission_sha256", "result_sha256"})
    (at_home / "a.asm").write_text(SOLUTION.replace("mov [rdi + 8], edx", "nop"))
    assert differing(verified(capsys)[1]) == {"submission_sha256", "result_sha256", "trace_sha256", "score"}
    assert "DIFFERENT  score: 10 then, 6 now" in verified(capsys)[1]


def test_another_version_of_the_lab_is_told(at_home, capsys):
    graded("a.asm")
    with (at_home / "labs/01_first_exit/README.md").open("a") as file:
        file.write("more\n")
    assert differing(verified(capsys)[1]) == {"lab_sha256", "result_sha256"}


def test_the_name_of_the_file_may_be_another_one_now(at_home, capsys):
    (at_home / "a.asm").write_text("start:\n    cpuid\n    jmp nowhere\n")
    graded("a.asm")
    (at_home / "a.asm").rename(at_home / "renamed.asm")
    assert verified(capsys, place="renamed.asm")[0] == 0


@pytest.mark.parametrize("source", [b"\xff\xfe", b"", b"start: jmp start\n", b"start: mvo\n", b"x" * 2_000_000],
                         ids=["no-text", "empty", "endless", "no-program", "huge"])
def test_what_earned_nothing_has_a_receipt_too(at_home, capsys, source):
    (at_home / "a.asm").write_bytes(source)
    graded("a.asm")
    code, out = verified(capsys)
    assert (code, out[:7]) == (0, "GENUINE")


def test_a_file_whose_name_is_no_text_has_a_receipt(at_home, capsys):
    name = b"\xff.asm"
    (at_home / "a.asm").rename(at_home / name.decode(errors="surrogateescape"))
    graded(name.decode(errors="surrogateescape"))
    assert json.loads((at_home / "r.json").read_text())["file"] == "\\udcff.asm"
    assert verified(capsys, place=name.decode(errors="surrogateescape"))[0] == 0


def test_an_archive_has_the_receipt_of_what_is_in_it(at_home, capsys):
    with zipfile.ZipFile(at_home / "alice.zip", "w") as file:
        file.writestr("work/first_exit.asm", SOLUTION)
    (at_home / "first_exit.asm").write_text(SOLUTION)
    graded("alice.zip")
    graded("first_exit.asm", "other.json")
    assert (at_home / "r.json").read_bytes() == (at_home / "other.json").read_bytes()
    assert verified(capsys, place="alice.zip")[0] == 0
    (at_home / "alice.zip").write_bytes(b"PK\x03\x04 broken")
    graded("alice.zip")
    assert verified(capsys, place="alice.zip")[0] == 0


def test_several_processes_make_the_same_receipts(at_home):
    (at_home / "class").mkdir()
    for name, source in (("a.asm", SOLUTION), ("b.asm", SOLUTION.replace("hlt", "nop")), ("c.asm", SOLUTION)):
        (at_home / "class" / name).write_text(source)
    graded("class", "one/")
    graded("class", "two/", "--jobs", "2")
    for name in ("a.asm.json", "b.asm.json", "c.asm.json"):
        assert (at_home / "one" / name).read_bytes() == (at_home / "two" / name).read_bytes()


def test_a_variant_is_drawn_again(at_home, capsys):
    a_template(at_home / "labs")
    options = ("--exercise", "it", "--student", "alice")
    (at_home / "a.asm").write_text("start:\n    hlt\n")
    (at_home / "labs/01_first_exit").rename(at_home / "labs/02_first_exit")
    graded("a.asm", "r.json", *options)
    assert json.loads((at_home / "r.json").read_text())["student"] == "alice"
    assert verified(capsys)[0] == 0


MISTAKES = {
    "no-key": (["a.asm", "--receipt", "r"], "there is no key"),
    "dry-run": (["a.asm", "--receipt", "r", "--key", "key", "--dry-run"], "--dry-run writes nothing"),
    "class-in-a-file": (["labs/01_first_exit/wrong", "--receipt", "r", "--key", "key"], "holds one submission"),
    "verify-what": (["verify", "r"], "expected a receipt, a submission and a key"),
    "no-receipt": (["verify", "a.asm", "a.asm", "--key", "key"], "a.asm is no receipt"),
    "not-there": (["verify", "nowhere", "a.asm", "--key", "key"], "nowhere is no receipt: No such file"),
}


@pytest.mark.parametrize(("arguments", "says"), MISTAKES.values(), ids=MISTAKES)
def test_wrong_use_is_one_line(at_home, capsys, arguments, says):
    code = main(["grade", *arguments])
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert says in err


@pytest.mark.parametrize("change", [{"receipt": 2}, {"file": "../a"}, {"file": ""}, {"more": 1}, {"score": "10"},
                                    {"signature": "x"}, {"signature": "é"}])
def test_what_has_not_the_form_of_a_receipt_is_refused(at_home, capsys, change):
    graded("a.asm")
    data = json.loads((at_home / "r.json").read_text())
    (at_home / "r.json").write_text(json.dumps({**data, **change}))
    code, out = verified(capsys)
    assert code == 2
    assert "is no receipt" in out

"""A student's variant follows from the seed, the student and the lab, and from nothing else; each works."""

import gc

import pytest

from hv.cli import main
from hv.lab.errors import LabError
from hv.lab.exercise import Exercise, read
from hv.lab.variants import drawn, fill, first, parameters, words
from hv.lab.verify import verify
from tests.lab.folders import lab_folder

VARIANTS = """
[[checks]]
name = "RAX holds {{value:#x}}"
kind = "register"
values = { rax = "{{value}}" }

[[checks.mistakes]]
found = "rax=0x"
says = "it is {{leaf.text}} + {{value}}"

[[checks.mistakes]]
found = "rax=0"
says = "nothing was put into RAX"

[[wrong]]
file = "other.asm"
says = "it is {{leaf.text}} + {{value}}"

[variants]          # what differs
value = { from = 16, to = 4095 }
leaf = { choices = [{ number = 1, text = "one" }, { number = 2, text = "two" }] }
"""
FILES = {"README__md": "\n## The task\n\nPut {{value}} into RAX.\n", "why__md": "It is {{ value }}.",
         "starter__asm": "start:\n    hlt                 ; {{value:08x}}\n"}


def a_template(tmp_path, description=VARIANTS, **files):
    head = description.replace('starter_says = "no"', "")
    folder = lab_folder(tmp_path, head, **{**FILES, **files})
    toml = folder / "lab.toml"
    toml.write_text(toml.read_text().replace('starter_says = "no"', 'starter_says = "nothing was put into RAX"'))
    for name, source in (("solution/a.asm", "start:\n    mov eax, {{value}}\n    hlt\n"),
                         ("wrong/other.asm", "start:\n    mov eax, {{value}} + {{leaf.number}}\n    hlt\n")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(source)
    return folder


KNOWN = parameters({"value": {"from": 1, "to": 1000}, "name": {"choices": ["Ada", "Grace", "Jean"]}}, "lab.toml")


def test_a_variant_is_the_same_on_every_machine():
    """These values were drawn once, and are drawn for ever: handed-out work must stay gradable."""
    assert drawn(KNOWN, b"seed", "alice", "01_it") == {"value": 433, "name": "Grace"}


@pytest.mark.parametrize(("seed", "student", "lab"), [
    (b"other", "alice", "01_it"), (b"seed", "bob", "01_it"), (b"seed", "alice", "02_it"), (b"seed", "alice0", "1_it"),
])
def test_it_changes_with_seed_student_and_lab(seed, student, lab):
    assert drawn(KNOWN, seed, student, lab) != drawn(KNOWN, b"seed", "alice", "01_it")


def test_a_new_parameter_changes_no_other():
    more = {"before": KNOWN["value"], **KNOWN}
    assert drawn(more, b"seed", "alice", "01_it")["value"] == drawn(KNOWN, b"seed", "alice", "01_it")["value"]


def test_all_values_of_a_range_are_drawn():
    known = parameters({"value": {"from": -1, "to": 2}}, "lab.toml")
    assert {drawn(known, b"s", str(n), "x")["value"] for n in range(100)} == {-1, 0, 1, 2}
    assert first(known) == {"value": -1}


VALUES = {"value": 255, "name": "Ada", "leaf": {"number": 1, "text": "one"}}
FILLED = {
    "number": ("a {{value}} b", "a 255 b"), "hexadecimal": ("{{value:#x}} {{value:08x}}", "0xff 000000ff"),
    "text": ("{{name}}", "Ada"), "field": ("{{leaf.text}}", "one"), "blanks": ("{{ value }}", "255"),
    "quoted-number": ('rax = "{{value}}"', "rax = 255"), "quoted-text": ('says = "{{name}}"', 'says = "Ada"'),
    "in-a-text": ('says = "it is {{value}}"', 'says = "it is 255"'), "form-in-quotes": ('"{{value:x}}"', '"ff"'),
    "no-hole": ("{ value } {{1}} {{}}", "{ value } {{1}} {{}}"),
}


@pytest.mark.parametrize(("text", "filled"), FILLED.values(), ids=FILLED)
def test_a_text_is_filled_in(text, filled):
    assert fill(text, VALUES, "a.asm") == filled


@pytest.mark.parametrize(("text", "says"), [
    ("{{other}}", "a.asm: there is no parameter `other`; [variants] has value, name, leaf.number, leaf.text"),
    ("{{leaf}}", "there is no parameter `leaf`"), ("{{name:x}}", "`name` is no number"),
])
def test_a_hole_that_nothing_fits_is_named(text, says):
    with pytest.raises(LabError) as caught:
        fill(text, VALUES, "a.asm")
    assert says in str(caught.value)


@pytest.mark.parametrize(("table", "says"), [
    ({}, "holds no parameters"), ([], "holds no parameters"), ({"a": {"from": 2, "to": 1}}, "holds no number"),
    ({"a": {"choices": []}}, "there are no choices"), ({"a": {"choices": [1, "b"]}}, "not of one kind"),
    ({"a": {"choices": [{"x": 1}, {"y": 1}]}}, "not of one kind"), ({"a": 1}, "parameter `a`"),
    ({"a": {"from": 1, "to": 2, "step": 1}}, "step"), ({"a": {"choices": [True]}}, "parameter `a`"),
])
def test_a_broken_parameter_is_refused(table, says):
    with pytest.raises(LabError) as caught:
        parameters(table, "lab.toml")
    assert says in str(caught.value)


def test_a_lab_reads_with_the_first_values_and_a_variant_with_its_own(tmp_path):
    lab = read(a_template(tmp_path))
    assert lab.values == {"value": 16, "leaf": {"number": 1, "text": "one"}}
    assert (lab.data.checks[0].name, lab.data.checks[0].values) == ("RAX holds 0x10", {"rax": 16})
    assert lab.section("The task") == "Put 16 into RAX."
    alice = lab.variant(b"seed", "alice")
    assert alice.values == lab.variant(b"seed", "alice").values != lab.variant(b"seed", "bob").values
    assert str(alice.values["value"]) in alice.solution.read_text()
    assert (alice.name, alice.sha256()) == (lab.name, lab.sha256())
    assert "[variants]" not in (alice.folder / "lab.toml").read_text()


def test_the_folder_of_a_variant_goes_with_it(tmp_path):
    lab = read(a_template(tmp_path))
    place = lab.variant(b"seed", "alice").folder
    gc.collect()
    assert not place.exists()
    assert lab.folder.exists()


def test_several_variants_are_proved(tmp_path):
    proofs = list(verify(read(a_template(tmp_path))))
    assert [proof.claim for proof in proofs if proof.against] == []
    assert sum("solution/a.asm earns all" in proof.claim for proof in proofs) == 4


def test_a_variant_that_does_not_work_is_found(tmp_path):
    folder = a_template(tmp_path)
    (folder / "solution/a.asm").write_text("start:\n    mov eax, 16\n    hlt\n")
    against = [proof.claim for proof in verify(read(folder)) if proof.against]
    assert len(against) == 3
    assert all(claim.startswith("value=") for claim in against)


def test_a_lab_whose_variants_do_not_differ_is_found(tmp_path):
    text = VARIANTS.replace("from = 16, to = 4095", "from = 16, to = 16").replace(', { number = 2, text = "two" }', "")
    proofs = [proof for proof in verify(read(a_template(tmp_path, text))) if proof.against]
    assert [proof.against for proof in proofs] == ["they all get the same values"]


@pytest.mark.parametrize("text", ["[ variants ]", "['variants']"])
def test_a_table_that_is_written_otherwise_is_refused_and_not_read_for_ever(tmp_path, text):
    with pytest.raises(LabError, match="write `\\[variants\\]` on a line"):
        read(a_template(tmp_path, VARIANTS.replace("[variants]", text)))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    folder = a_template(tmp_path)
    (folder / "picture.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(LabError, match="its files are text"):
        read(folder)


def hv(tmp_path, capsys, *arguments):
    code = main(["grade", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def course(tmp_path, monkeypatch, capsys):
    """A course of two students, handed out."""
    a_template(tmp_path / "labs")
    monkeypatch.setattr("hv.commands.course.labs_folder", lambda: tmp_path / "labs")
    monkeypatch.chdir(tmp_path)
    assert hv(tmp_path, capsys, "keygen", "key")[0] == 0
    options = ("--exercise", "1", "--key", "key")
    code, out, _ = hv(tmp_path, capsys, "handout", "alice", "bob", *options, "--output", "class")
    assert (code, out) == (0, "2 folders in class\n")
    return options


def test_a_class_is_graded_each_by_its_own_values(tmp_path, capsys, course):
    values = []
    for student in ("alice", "bob"):
        task = (tmp_path / "class" / student / "README.md").read_text()
        values.append(task.partition("Put ")[2].partition(" ")[0])
        (tmp_path / "class" / student / "a.asm").write_text(f"start:\n    mov eax, {values[-1]}\n    hlt\n")
    code, out, _ = hv(tmp_path, capsys, "class", *course)
    assert (code, out.splitlines()[-1]) == (0, "2 of 2 submissions earned all points")
    (tmp_path / "class/bob/a.asm").write_text((tmp_path / "class/alice/a.asm").read_text())
    code, out, _ = hv(tmp_path, capsys, "class", *course, "--format", "csv")
    assert code == 1
    assert f",graded,,value={values[0]} leaf.number=" in out.splitlines()[1]
    assert "bob,,01_it,0,1,graded" in out.splitlines()[2]


def test_one_alone_needs_its_student(tmp_path, capsys, course):
    code, _, err = hv(tmp_path, capsys, "class/alice", *course)
    assert code == 2
    assert "whose is class/alice/a.asm?" in err
    code, out, _ = hv(tmp_path, capsys, "class/alice", *course, "--student", "alice", "--format", "json")
    assert code == 1
    assert '"student": "alice"' in out


MISTAKES = {
    "again": (["handout", "alice", "--key", "key", "--output", "class"], "cannot be made: File exists"),
    "bad-id": (["handout", "../eve", "--key", "key", "--output", "class"], "is no student id"),
    "no-key": (["handout", "eve", "--output", "class"], "needs students, a key"),
    "both": (["class", "--key", "key", "--seed", "x"], "leave one of them out"),
    "several": (["class", "--key", "key", "--student", "x"], "there are several submissions"),
    "key-again": (["keygen", "key"], "already there, and is left as it is"),
    "no-such-key": (["class", "--key", "nowhere"], "nowhere cannot be read"),
}


@pytest.mark.parametrize(("arguments", "says"), MISTAKES.values(), ids=MISTAKES)
def test_wrong_use_is_one_line(tmp_path, capsys, course, arguments, says):
    code, out, err = hv(tmp_path, capsys, *arguments, "--exercise", "1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_values_are_told_in_one_line():
    assert words(VALUES) == "value=255 name=Ada leaf.number=1 leaf.text=one"


def test_the_folder_of_a_course_is_hashed_once(tmp_path, monkeypatch):
    """Its hash stands in every result; all variants are of one folder."""
    exercise, worked_out = read(a_template(tmp_path)), []
    real = Exercise._sha256
    monkeypatch.setattr(Exercise, "_sha256", lambda self: worked_out.append(self.name) or real(self))
    seen = {exercise.variant(b"s", str(student)).sha256() for student in range(3)} | {exercise.sha256()}
    assert (len(seen), worked_out) == (1, ["01_it"])

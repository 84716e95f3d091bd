"""Results reach their place whole, under names that every file system takes."""

import os

import pytest

from hv.lab.errors import LabError
from hv.lab.formats import FORMATS
from hv.lab.formats.output import Output, file_names, replace_file
from tests.lab.formats.results import RESULTS, graded


@pytest.mark.parametrize(("submissions", "names"), [
    (["alice", "bob.asm"], ["alice.json", "bob.asm.json"]),
    (["Alice", "alice", "ALICE"], ["Alice.json", "alice-2.json", "ALICE-3.json"]),
    (["../../etc", "a/b", "..", ""], ["_.._etc.json", "a_b.json", "_.json", "_-2.json"]),
    (["\\udcff", "é", "\x00"], ["_udcff.json", "_.json", "_-2.json"]),
    (["x" * 300], [f"{'x' * 80}.json"]),
])
def test_a_name_is_made_of_plain_letters_and_given_once(submissions, names):
    assert file_names(submissions, ".json") == names


def test_a_file_is_replaced_in_one_step_and_nothing_is_left(tmp_path):
    place = tmp_path / "results.json"
    place.write_text("old")
    with place.open() as reader:
        replace_file(place, b"new")
        assert reader.read() == "old"
    assert (place.read_text(), os.listdir(tmp_path)) == ("new", ["results.json"])
    assert place.stat().st_mode & 0o777 == 0o644


def test_a_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "solution").write_text("secret")
    (tmp_path / "results.json").symlink_to(tmp_path / "solution")
    replace_file(tmp_path / "results.json", b"new")
    assert (tmp_path / "solution").read_text() == "secret"


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    place = tmp_path / "results.json"
    place.write_text("old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "no space left")))
    with pytest.raises(LabError, match=r"results\.json cannot be written: no space left"):
        Output(FORMATS["json"], str(place), True).save([RESULTS["all"]])
    assert (place.read_text(), os.listdir(tmp_path)) == ("old", ["results.json"])


def test_a_device_is_written_to(tmp_path):
    replace_file(type(tmp_path)("/dev/null"), b"x")
    assert not os.path.isfile("/dev/null")


def test_a_file_of_one_submission_holds_no_class(tmp_path):
    with pytest.raises(LabError, match="holds one submission; there are 2"):
        Output(FORMATS["gradescope"], str(tmp_path / "a"), False).save([RESULTS["all"]] * 2)


def test_a_class_of_one_in_a_folder_is_named_by_its_submission(tmp_path):
    Output(FORMATS["gradescope"], str(tmp_path), False).save([graded(name="alice")])
    assert os.listdir(tmp_path) == ["alice.json"]

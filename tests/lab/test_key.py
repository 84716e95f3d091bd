"""A course key is random, secret, and never overwritten."""

import os

import pytest

from hv.lab.errors import LabError
from hv.lab.key import key_name, make_key, read_key


def test_a_key_is_read_back_and_only_its_owner_may(tmp_path):
    name = make_key(tmp_path / "key")
    key = read_key(tmp_path / "key")
    assert (len(key), key_name(key)) == (32, name)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert key.hex() not in name
    make_key(tmp_path / "other")
    assert read_key(tmp_path / "other") != key


def test_a_key_is_never_overwritten(tmp_path):
    make_key(tmp_path / "key")
    before = (tmp_path / "key").read_text()
    with pytest.raises(LabError, match="is left as it is"):
        make_key(tmp_path / "key")
    assert (tmp_path / "key").read_text() == before


@pytest.mark.parametrize("text", ["", "00" * 31, "zz" * 32, "00" * 33, "00" * 500_000, "\xff" * 64])
def test_what_is_no_key_is_refused(tmp_path, text):
    (tmp_path / "key").write_text(text)
    os.chmod(tmp_path / "key", 0o600)
    with pytest.raises(LabError, match="is no course key"):
        read_key(tmp_path / "key")


def test_a_key_that_others_can_read_is_refused(tmp_path):
    make_key(tmp_path / "key")
    os.chmod(tmp_path / "key", 0o640)
    with pytest.raises(LabError, match="can be read by others"):
        read_key(tmp_path / "key")


@pytest.mark.parametrize("name", ["nowhere", "", "a\0b"])
def test_a_key_that_is_not_there_is_told_in_a_line(tmp_path, name):
    with pytest.raises(LabError, match="cannot be read"):
        read_key(tmp_path / name)

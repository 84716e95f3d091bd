"""An archive is unpacked below its folder or refused as a whole, with one line that says why."""

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from hv.lab.grading import Submission, submissions
from hv.lab.sandbox.archive import MOST_BYTES, MOST_FILES, ArchiveError, find, unpack, without_suffix
from hv.lab.whole_class import Here, grade_all, unpacked
from tests.lab.exercises import SOLUTION, first_exit

FIRST = first_exit()
SOURCE = SOLUTION.encode()


def a_zip(*files, method=zipfile.ZIP_DEFLATED):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return data.getvalue()


def a_tar(*files, mode="w:gz", kind=tarfile.REGTYPE, link=""):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.type, entry.linkname = len(content) * (kind == tarfile.REGTYPE), kind, link
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def a_link_in_a_zip(target):
    entry = zipfile.ZipInfo("first_exit.asm")
    entry.create_system, entry.external_attr = 3, 0o120777 << 16
    return a_zip((entry, target))


def lying_about_its_size():
    """The headers claim one byte; the data is ten million."""
    data = bytearray(a_zip(("first_exit.asm", bytes(10 << 20))))
    struct.pack_into("<I", data, 22, 1)
    at = data.rindex(b"PK\1\2")
    struct.pack_into("<I", data, at + 24, 1)
    return bytes(data)


def encrypted():
    data = bytearray(a_zip(("first_exit.asm", SOURCE)))
    for at in (6, data.rindex(b"PK\1\2") + 8):
        data[at] |= 1
    return bytes(data)


def a_long_header():
    """A pax header that says it is 4 GiB long."""
    entry = tarfile.TarInfo("a")
    entry.type, entry.size = tarfile.XHDTYPE, 4 << 30
    return entry.tobuf() + bytes(1024)


def unpacked_names(tmp_path, data, name="a.zip"):
    (tmp_path / name).write_bytes(data)
    folder = tmp_path / "out"
    return sorted(place.relative_to(folder).as_posix() for place in unpack(tmp_path / name, folder))


GOOD = {
    "zip": ("a.zip", a_zip(("first_exit.asm", SOURCE))),
    "stored-zip": ("a.zip", a_zip(("first_exit.asm", SOURCE), method=zipfile.ZIP_STORED)),
    "zip-in-a-folder": ("A.ZIP", a_zip(("lab/", b""), ("lab/first_exit.asm", SOURCE), ("lab/notes.txt", b"x"))),
    "of-a-mac": ("a.zip", a_zip(("lab/first_exit.asm", SOURCE), ("__MACOSX/lab/._first_exit.asm", b"x"))),
    "tar": ("a.tar", a_tar(("./first_exit.asm", SOURCE), mode="w")),
    "tar.gz": ("a.tar.gz", a_tar(("lab/first_exit.asm", SOURCE))),
    "tgz": ("a.tgz", a_tar(("first_exit.asm", SOURCE))),
}


@pytest.mark.parametrize(("name", "data"), GOOD.values(), ids=GOOD)
def test_an_archive_is_graded_as_the_file_in_it(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    (result,) = grade_all(FIRST, unpacked(submissions([tmp_path / name], FIRST), FIRST, tmp_path / "out"), Here(FIRST))
    assert (result.submission, result.status, result.passed) == (name, "graded", True)
    assert str(tmp_path) not in repr(result)


BAD = {
    "up": (a_zip(("../first_exit.asm", SOURCE)), "the name ../first_exit.asm leaves the folder"),
    "up-in-the-middle": (a_zip(("a/../../x", b"")), "leaves the folder"),
    "absolute": (a_zip(("/etc/cron.d/x", b"")), "leaves the folder"),
    "drive": (a_zip(("C:/x", b"")), "leaves the folder"),
    "link": (a_link_in_a_zip("/etc/passwd"), "first_exit.asm is a link or a device"),
    "twice": (a_zip(("a.asm", b"1"), ("A.asm", b"2")), "A.asm is in it twice"),
    "file-and-folder": (a_zip(("a", b"1"), ("a/b", b"2")), "a file in it is also a folder"),
    "file-and-folder-by-case": (a_zip(("A", b"1"), ("a/b/c", b"2")), "a file in it is also a folder"),
    "escape": (a_zip(("a\x1b[2J", b"")), "no plain file name"),
    "long-name": (a_zip(("a" * 300, b"")), "no plain file name"),
    "deep": (a_zip(("a/" * 9 + "b", b"")), "no plain file name"),
    "many": (a_zip(*((f"f{number}", b"") for number in range(MOST_FILES + 1))), "more than 200 files"),
    "bomb": (a_zip(("first_exit.asm", bytes(4 << 20))), "100 times as large"),
    "sum": (a_zip(*((f"f{number}", bytes(1 << 19)) for number in range(40))), "100 times as large"),
    "large": (bytes(MOST_BYTES + 1), "larger than 8 MiB"),
    "liar": (lying_about_its_size(), "damaged"),
    "encrypted": (encrypted(), "is encrypted"),
    "lzma": (a_zip(("first_exit.asm", SOURCE), method=zipfile.ZIP_LZMA), "in a way that is not read"),
    "no-zip": (b"PK\3\4 nonsense", "damaged"),
    "empty": (b"", "damaged"),
    "cut": (a_zip(("first_exit.asm", SOURCE))[:-30], "damaged"),
}
BAD_TARS = {
    "up": (a_tar(("../x", b"")), "leaves the folder"),
    "absolute": (a_tar(("/x", b"")), "leaves the folder"),
    "symlink": (a_tar(("first_exit.asm", b""), kind=tarfile.SYMTYPE, link="/etc/passwd"), "is a link or a device"),
    "hardlink": (a_tar(("first_exit.asm", b""), kind=tarfile.LNKTYPE, link="/etc/passwd"), "is a link or a device"),
    "device": (a_tar(("first_exit.asm", b""), kind=tarfile.CHRTYPE), "is a link or a device"),
    "pipe": (a_tar(("first_exit.asm", b""), kind=tarfile.FIFOTYPE), "is a link or a device"),
    "bomb": (a_tar(("first_exit.asm", bytes(6 << 20))), "100 times as large"),
    "many": (a_tar(*((f"f{number}", b"") for number in range(MOST_FILES + 1))), "more than 200 files"),
    "cut": (a_tar(("first_exit.asm", SOURCE))[:-20], "damaged"),
    "no-tar": (b"nonsense", "damaged"),
}


@pytest.mark.parametrize(("name", "data", "says"), [
    *(pytest.param("a.zip", *row, id=f"zip-{name}") for name, row in BAD.items()),
    *(pytest.param("a.tar.gz", *row, id=f"tar-{name}") for name, row in BAD_TARS.items()),
    pytest.param("a.tar", a_long_header(), "damaged", id="tar-long-header"),
    pytest.param("a.tar", b"nonsense" * 100, "damaged", id="tar-nonsense"),
])
def test_a_bad_archive_is_refused_and_nothing_is_written(tmp_path, name, data, says):
    with pytest.raises(ArchiveError, match=says) as caught:
        unpacked_names(tmp_path, data, name)
    assert str(caught.value).isprintable()
    assert [place.name for place in tmp_path.iterdir()] == [name]


def test_backslashes_are_no_way_out(tmp_path):
    entry = zipfile.ZipInfo("a")
    entry.filename = "..\\x"
    with pytest.raises(ArchiveError, match="leaves the folder"):
        unpacked_names(tmp_path, a_zip((entry, b"")))


@pytest.mark.parametrize(("names", "says"), [
    (["a.asm"], "there is no first_exit.asm in it"),
    (["a/first_exit.asm", "b/first_exit.asm"], "there are 2 files called first_exit.asm in it; hand in one"),
])
def test_the_exercises_file_must_be_in_it_once(tmp_path, names, says):
    (tmp_path / "a.zip").write_bytes(a_zip(*((name, SOURCE) for name in names)))
    with pytest.raises(ArchiveError, match=says):
        find(unpack(tmp_path / "a.zip", tmp_path / "out"), "first_exit.asm")


def test_a_bad_archive_is_not_gradable_and_the_next_one_is_graded(tmp_path):
    (tmp_path / "class").mkdir()
    (tmp_path / "class/a.zip").write_bytes(BAD["up"][0])
    (tmp_path / "class/b.zip").write_bytes(a_zip(("first_exit.asm", SOURCE)))
    handed_in = unpacked(submissions([tmp_path / "class"], FIRST), FIRST, tmp_path / "out")
    first, second = grade_all(FIRST, handed_in, Here(FIRST))
    assert (first.status, first.score) == ("not_gradable", 0)
    assert first.message == "a.zip cannot be unpacked: the name ../first_exit.asm leaves the folder"
    assert second.passed


@pytest.mark.parametrize("name", ["ann.zip", "ann.tar", "ann.tar.gz", "Ann.TGZ"])
def test_an_archive_is_named_for_its_student(name):
    assert without_suffix(Path("class") / name).lower() == "ann"


def test_an_archive_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "real.zip").write_bytes(a_zip(("first_exit.asm", SOURCE)))
    (tmp_path / "a.zip").symlink_to(tmp_path / "real.zip")
    (one,) = unpacked([Submission("a.zip", tmp_path / "a.zip")], FIRST, tmp_path / "out")
    assert one.problem == "a.zip cannot be unpacked: it is no ordinary file"

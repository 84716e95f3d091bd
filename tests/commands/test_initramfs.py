"""hv initramfs: an archive that Linux unpacks, read here by its documentation, and what is no busybox."""

import struct

import pytest

from hv import cli
from hv.image import initramfs


def program(kind=2, machine=62, segment=1):
    """An ELF64 file of one program header: static for x86-64, unless told otherwise."""
    ident = b"\x7fELF\x02\x01\x01"
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, kind, machine, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    return header + struct.pack("<IIQQQQQQ", segment, 5, 0, 0, 0, 120, 120, 4096)


def entries(archive):
    """Name -> (mode, major, minor, data): "newc", 110 bytes of header in hexadecimal, and padding to four bytes."""
    found, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110 : at + 109 + name_size].decode()
        at += 110 + name_size + -(110 + name_size) % 4
        if name == "TRAILER!!!":
            assert at == len(archive)
            return found
        found[name] = (fields[1], fields[9], fields[10], archive[at : at + size])
        at += size + -size % 4


def test_the_archive_has_the_program_and_what_starts_it(tmp_path, capsys):
    place, out = tmp_path / "busybox", tmp_path / "out.cpio"
    place.write_bytes(program() + b"odd")
    assert cli.main(["initramfs", str(place), str(out)]) == 0
    found = entries(out.read_bytes())
    assert capsys.readouterr().out == f"{out}: {out.stat().st_size} bytes\n"
    assert found["bin/busybox"] == (0o100755, 0, 0, program() + b"odd")
    assert found["init"] == (0o100755, 0, 0, initramfs.INIT)
    assert found["dev/console"] == (0o20600, 5, 1, b"")
    assert {name for name, entry in found.items() if entry[0] == 0o40755} >= {"bin", "dev", "proc", "sys"}


@pytest.mark.parametrize(("content", "said"), [
    (None, "cannot be read"), (b"", "the identification ends"), (b"\x7fELF" + bytes(60), "ELF class 0"),
    (b"#!/bin/sh\necho this is no program\n", "does not begin as an ELF file"),
    (program(machine=183), "AArch64"), (program(3, 183), "another processor"), (program(kind=1), "an object file"),
    (program(segment=3), "dynamically linked"), (program(3, segment=3), "dynamically linked"),
    (program()[:70], "the program header table ends")])
def test_what_is_no_busybox_is_said_in_a_line(tmp_path, capsys, content, said):
    place, out = tmp_path / "busybox", tmp_path / "out.cpio"
    if content is not None:
        place.write_bytes(content)
    assert cli.main(["initramfs", str(place), str(out)]) == 2
    err = capsys.readouterr().err
    assert (said in err, err.count("\n"), out.exists()) == (True, 1, False)


def test_a_position_independent_program_will_do(tmp_path):
    """Linux moves it; here nobody loads it."""
    (tmp_path / "busybox").write_bytes(program(3))
    assert cli.main(["initramfs", str(tmp_path / "busybox"), str(tmp_path / "out")]) == 0


def test_nothing_is_written_over(tmp_path, capsys):
    place = tmp_path / "busybox"
    place.write_bytes(program())
    assert cli.main(["initramfs", str(place), str(place)]) == 2
    assert "is there already; name a new file" in capsys.readouterr().err
    assert cli.main(["initramfs", str(place), str(tmp_path / "no" / "folder")]) == 2
    assert "cannot be written" in capsys.readouterr().err

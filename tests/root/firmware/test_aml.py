"""The encoder of ACPI Machine Language against the encodings that its specification prints, and against `iasl`."""

import re
import shutil
import subprocess

import pytest

from hv.root.firmware.acpi import aml
from tests.root.firmware.reading import FULL, SMALL, firmware, tables

IASL = shutil.which("iasl")
HEADER, CREATOR = 36, slice(28, 36)
needs_iasl = pytest.mark.skipif(IASL is None, reason="iasl is not installed: package acpica-tools")


@pytest.mark.parametrize(("value", "encoded"), [
    (0, "00"), (1, "01"), (2, "0a02"), (0xFF, "0aff"), (0x100, "0b0001"), (0x10000, "0c00000100"),
    (0x1_0000_0000, "0e0000000001000000"), ((1 << 64) - 1, "0effffffffffffffff"),
])
def test_an_integer_takes_the_shortest_form(value, encoded):
    """ACPI "Data Objects Encoding"."""
    assert aml.integer(value).hex() == encoded


@pytest.mark.parametrize(("path", "encoded"), [
    ("\\", b"\\\0"), ("_SB", b"_SB_"), ("\\_SB.PCI0", b"\\\x2e_SB_PCI0"), ("^A", b"^A___"),
    ("A.B.C", b"\x2f\x03A___B___C___"),
])
def test_a_path_is_its_prefix_its_count_and_its_names(path, encoded):
    """ACPI "Name Objects Encoding"."""
    assert aml.name_string(path) == encoded


@pytest.mark.parametrize(("content", "length"), [
    (0, "01"), (62, "3f"), (63, "4104"), (0xFFD, "4fff"), (0xFFE, "810001"), (0xFFFFC, "8fffff"), (0xFFFFD, "c1000001"),
])
def test_a_length_counts_itself(content, length):
    """ACPI "Package Length Encoding": up to 63 in one byte, then a nibble and bytes. A scope's name has four."""
    encoded = aml.scope("TEST", bytes(content - 4)) if content >= 4 else aml._with_length(bytes(content))
    assert encoded.removeprefix(b"\x10" if content >= 4 else b"")[: len(length) // 2].hex() == length


def test_an_eisa_id_is_an_integer():
    """ACPI "EISAID": 3 letters of 5 bits and 4 digits, the highest byte first."""
    assert aml.eisa_id("PNP0A08").hex() == "0c41d00a08"
    assert aml.eisa_id("PNP0303").hex() == "0c41d00303"


def ran(place, *arguments):
    """What iasl says, and whether it was content."""
    done = subprocess.run([IASL, *arguments], cwd=place, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module", params=[SMALL, FULL], ids=["small", "full"])
def disassembled(request, tmp_path_factory):
    """(folder, tables, what iasl said) of all tables of a board."""
    place = tmp_path_factory.mktemp("acpi")
    found = tables(firmware(request.param)[1])
    for signature, table in found.items():
        (place / f"{signature}.aml").write_bytes(table.data)
    return place, found, ran(place, "-d", *(f"{signature}.aml" for signature in found))


@needs_iasl
def test_iasl_disassembles_every_table_without_complaint(disassembled):
    place, found, (code, said) = disassembled
    assert code == 0
    assert not re.findall(r".*(?:error|warning|invalid|incorrect|unknown).*", said, re.IGNORECASE), said
    for signature in found:
        text = (place / f"{signature}.dsl").read_text()
        assert not re.findall(r".*(?:\*\*\*\*|Invalid|Unknown|incorrect).*", text), signature


@needs_iasl
def test_iasl_makes_the_same_bytes_again(disassembled):
    """But for the creator of the table, which then is iasl, and so the checksum."""
    place, found, _ = disassembled
    sources = {signature: f"{signature}.dsl" for signature in found}
    code, said = ran(place, "-p", "again", sources.pop("DSDT"))
    assert (code, "0 Errors, 0 Warnings, 0 Remarks" in said) == (0, True), said
    remade = {"DSDT": (place / "again.aml").read_bytes()}
    for signature, source in sources.items():
        code, said = ran(place, "-p", f"again_{signature}", source)
        assert code == 0, said
        remade[signature] = (place / f"again_{signature}.aml").read_bytes()
    for signature, data in remade.items():
        assert anonymous(signature, data) == anonymous(signature, found[signature].data), signature


def anonymous(signature, data):
    """*data* without what iasl always writes itself."""
    plain = bytearray(data)
    if signature != "FACS":
        plain[9], plain[CREATOR] = 0, bytes(8)
    return bytes(plain)

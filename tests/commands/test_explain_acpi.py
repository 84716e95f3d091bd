"""hv explain acpi: what stands in a PC's memory, in words; and what a file says, whoever made it."""

import json
import random
import shutil
import subprocess

import pytest

from hv import cli
from hv.debug.acpi_reading import BadTable, all_of, in_memory
from hv.debug.acpi_text import as_data, told
from hv.debug.aml_tree import tree
from hv.debug.entry_text import plain
from tests.root.firmware.reading import FULL, MEMORY, firmware, tables

BYTES = firmware(FULL)[1]
TABLES = tables(BYTES)


def read(gpa, size):
    if gpa + size > MEMORY:
        raise ValueError
    return bytes(BYTES[gpa : gpa + size])


ALL = {found.signature: found for found in in_memory(read)}


def words(signature):
    """The lines about one table of a full board, with single spaces."""
    return [" ".join(line.split()) for line in plain(told(ALL[signature])).splitlines()]


@pytest.fixture
def explain(capsys):
    """`explain("FADT")`: exit code, lines of stdout, stderr."""
    def run(*arguments):
        code = cli.main(["explain", "acpi", *arguments])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err
    return run


def test_every_table_is_reached_from_the_root_pointer():
    assert list(ALL) == ["RSDP", "XSDT", "FACP", "FACS", "DSDT", "APIC", "WAET", "MCFG", "HPET", "DMAR"]
    assert {name: table.data for name, table in ALL.items() if name != "RSDP"} == {
        name: table.data for name, table in TABLES.items()}


@pytest.mark.parametrize(("signature", "line"), [
    ("RSDP", "24 xsdt_address 0x3ff"), ("FACP", "56 pm1a_evt_blk 0x600 ports"),
    ("FACP", "reset_reg_sup bit 10: reset_reg and reset_value work"), ("FACP", "116 reset_reg port 0xcf9, 8 bits"),
    ("APIC", "local_apic processor 3 has APIC id 3, enabled"),
    ("APIC", "io_apic I/O APIC 15 is at 0xfec00000; its pin 0 is line 0"),
    ("APIC", "interrupt_source_override irq 0 of ISA is line 2, as the bus has it"),
    ("APIC", "interrupt_source_override irq 9 of ISA is line 9, level, active high"),
    ("APIC", "local_apic_nmi NMI is on LINT1 of every processor, as the bus has it"),
    ("MCFG", "allocation segment 0, buses 0 to 15: bus 0 is at 0xe0000000"),
    ("DMAR", "drhd a remapping unit at 0xfed90000, segment 0, in front of all functions of PCI"),
    ("DMAR", "scope_io_apic f0:1f.0, which has the id 255 in other tables"),
    ("WAET", "pm_timer_good bit 1: one read of the PM timer is enough"),
    ("DSDT", "_S5 = { 0x0, 0x0, 0x0, 0x0 }"), ("DSDT", "Device PCI0"), ("DSDT", "_HID = PNP0A08"),
    ("DSDT", "device 3: INTA 19, INTB 16, INTC 17, INTD 18"), ("DSDT", "ports 0x3f8..0x3ff"), ("DSDT", "irq 4"),
    ("DSDT", "buses 0x0..0xf, for what is below"), ("DSDT", "memory 0xf0000000..0xfebfffff, for what is below"),
    ("DSDT", "memory 0xe0000000..0xe0ffffff"), ("DSDT", '_HID = "ACPI0007"'),
])
def test_a_table_is_told_field_by_field(signature, line):
    assert any(told.startswith(line) for told in words(signature)), "\n".join(words(signature))


def test_everything_of_our_own_dsdt_is_known():
    assert "not decoded" not in "\n".join(words("DSDT"))


def test_a_pc_has_what_its_board_has(explain, tmp_path):
    code, lines, _ = explain("--smp", "3", "--mem", "8", "--raw", str(tmp_path / "raw"))
    assert code == 0
    assert all("checksum right" in line or "no checksum" in line for line in lines)
    signatures = [line.split()[1] for line in lines]
    assert signatures[:6] == ["RSDP", "XSDT", "FACP", "FACS", "DSDT", "APIC"]
    assert {file.name for file in (tmp_path / "raw").iterdir()} == {f"{name}.aml" for name in signatures}
    code, lines, _ = explain(str(tmp_path / "raw" / "APIC.aml"), "--json")
    (madt,) = json.loads("\n".join(lines))
    assert (code, madt["checksum_right"], madt["gpa"]) == (0, True, None)
    assert [entry["apic_id"] for entry in madt["structures"] if entry["name"] == "local_apic"] == [0, 1, 2]


def test_a_table_has_two_names(explain):
    assert explain("madt", "--mem", "4")[1] == explain("APIC", "--mem", "4")[1]


@pytest.mark.parametrize(("arguments", "said"), [
    (("DMAR",), "this PC has no DMAR"), (("nowhere",), "cannot be read as a file"), (("--mem", "0"), "expected 1 to"),
    (("--mem", "1"), "a PC has tables from 2 MiB on"), (("--smp", "0"), "give it one of each"),
    (("a\0b",), "as a file"),
])
def test_what_is_not_there_is_one_clear_error(explain, arguments, said):
    code, lines, error = explain(*arguments)
    assert (code, lines, error.count("\n")) == (2, [], 1)
    assert said in error


@pytest.mark.parametrize(("content", "said"), [
    (b"", "empty"), (b"APIC", "a table begins with"), (b"\x7fELF" + bytes(60), "no table begins with"),
    (b"APIC\xff\xff\xff\xff" + bytes(40), "says that it has 4294967295 bytes"),
    (b"APIC\x08\0\0\0" + bytes(40), "expected 36"),
    (b"RSD PTR " + bytes(7) + b"\2" + bytes(4), "it has 36"), (bytes(64), "no table begins"),
])
def test_a_file_that_is_no_table_is_one_clear_error(explain, tmp_path, content, said):
    (tmp_path / "file").write_bytes(content)
    code, lines, error = explain(str(tmp_path / "file"))
    assert (code, lines, error.count("\n")) == (2, [], 1)
    assert said in error


def test_a_wrong_checksum_is_shown_and_not_refused(explain, tmp_path):
    data = bytearray(TABLES["APIC"].data)
    data[9] = (data[9] + 3) & 0xFF
    (tmp_path / "file").write_bytes(data)
    assert "checksum off by 0x03" in explain(str(tmp_path / "file"))[1][0]


@pytest.mark.parametrize("signature", ["FACP", "APIC", "DMAR", "MCFG", "DSDT", "XSDT", "HPET"])
def test_no_bytes_of_a_table_crash_its_reader(signature):
    """With bytes changed and cut off: an answer, or a BadTable."""
    chance, whole = random.Random(signature), TABLES[signature].data
    for _ in range(60 if signature == "DSDT" else 150):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(4, len(data))] = chance.randrange(256)
        size = chance.randrange(8, len(data) + 1)
        data[4:8] = size.to_bytes(4, "little")
        try:
            for found in all_of(bytes(data[:size])):
                json.dumps(as_data(found))
                plain(told(found))
        except BadTable:
            assert size < 36


def test_a_tree_as_deep_as_the_file_is_long_ends():
    """Scopes inside one another: each with a length that is right."""
    body = b""
    for _ in range(300):
        size = len(body) + 4
        body = b"\x10" + (bytes([size + 1]) if size < 0x3F else
                          bytes([0x80 | (size + 3) & 0xF]) + (size + 3 >> 4).to_bytes(2, "little")) + b"ABCD" + body
    text = json.dumps([term.inspect() for term in tree(body)])
    assert "not decoded" in text


@pytest.mark.skipif(shutil.which("iasl") is None, reason="iasl is not installed: package acpica-tools")
def test_what_iasl_compiled_is_read(tmp_path):
    """A DSDT with what ours does not have: it is read as far as it is known, and the rest is said."""
    (tmp_path / "a.asl").write_text('''DefinitionBlock ("", "DSDT", 2, "OTHER ", "OTHERTBL", 1) {
        Scope (\\_SB) { Device (UART) { Name (_HID, EisaId ("PNP0501")) Method (_STA, 0) { Return (0x0F) } }
        OperationRegion (PORT, SystemIO, 0x80, 1) Field (PORT, ByteAcc, NoLock, Preserve) { POST, 8 } }
        Name (AFTR, "seen") }''')
    subprocess.run(["iasl", "-vs", "a.asl"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    (found,) = all_of((tmp_path / "a.aml").read_bytes())
    text = plain(told(found))
    assert "_HID = PNP0501" in text
    assert "Method _STA, 0 arguments: 3 bytes, not decoded" in text
    assert 'AFTR = "seen"' in text
    assert text.count("not decoded") == 2

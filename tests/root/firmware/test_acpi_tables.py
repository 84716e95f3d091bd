"""The ACPI tables, read by offsets as the specification prints them."""

import struct
from itertools import pairwise

import pytest

from hv.root.firmware.board import Board
from hv.root.firmware.place import NOTHING, place
from hv.root.memory_map import MemoryMap
from tests.root.firmware.reading import FULL, MEMORY, SMALL, find, firmware, table_at, tables

MEMORY_MAP, BYTES = firmware(FULL)
TABLES = tables(BYTES)


def structures(table, first, kind="<BB"):
    """[(type, whole structure)] behind the fixed part of a table."""
    found, at = [], first
    while at < len(table.data):
        type, length = struct.unpack_from(kind, table.data, at)
        found.append((type, table.data[at : at + length]))
        at += length
    assert at == len(table.data)
    return found


def test_the_root_pointer_is_on_16_bytes_in_the_bios_area():
    """ACPI "Finding the RSDP on IA-PC Systems", "RSDP Structure": revision 2, 36 bytes, two sums."""
    root = find(BYTES, b"RSD PTR ", 0xE0000, 0x100000)
    assert BYTES[root + 15] == 2
    assert struct.unpack_from("<I", BYTES, root + 20) == (36,)
    assert sum(BYTES[root : root + 20]) & 0xFF == 0
    assert sum(BYTES[root : root + 36]) & 0xFF == 0


def test_rsdt_and_xsdt_name_the_same_tables_and_the_fadt_first():
    root = find(BYTES, b"RSD PTR ", 0xE0000, 0x100000)
    rsdt, xsdt = table_at(BYTES, struct.unpack_from("<I", BYTES, root + 16)[0]), TABLES["XSDT"]
    assert (rsdt.data[:4], xsdt.data[:4]) == (b"RSDT", b"XSDT")
    assert rsdt.sum == 0
    gpas = struct.unpack_from(f"<{(len(rsdt.data) - 36) // 4}I", rsdt.data, 36)
    assert gpas == struct.unpack_from(f"<{(len(xsdt.data) - 36) // 8}Q", xsdt.data, 36)
    assert [table_at(BYTES, gpa).data[:4] for gpa in gpas] == [b"FACP", b"APIC", b"WAET", b"MCFG", b"HPET", b"DMAR"]


@pytest.mark.parametrize("signature", [name for name in TABLES if name != "FACS"])
def test_a_table_adds_up_to_0_and_says_who_made_it(signature):
    """ACPI "DESCRIPTION_HEADER Fields"."""
    table = TABLES[signature]
    assert table.sum == 0
    assert (table.data[10:16], table.data[28:32]) == (b"HVLAB ", b"HVLB")


def test_all_tables_are_in_memory_that_the_map_gives_to_nobody():
    """ACPI "System Address Map Interfaces": type 4 is in use, and saved when the machine sleeps."""
    reserved = [(part.start, part.start + part.size) for part in MEMORY_MAP.parts if part.kind == 4]
    assert reserved == [(MEMORY_MAP.low_end, MEMORY)]
    assert all(MEMORY_MAP.low_end <= table.gpa and table.gpa + len(table.data) <= MEMORY for table in TABLES.values())


def test_the_tables_do_not_overlap():
    places = sorted((table.gpa, table.gpa + len(table.data)) for table in TABLES.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(places))


def test_the_facs_is_on_64_bytes_and_nobody_holds_its_lock():
    """ACPI "Firmware ACPI Control Structure (FACS)"."""
    facs = TABLES["FACS"]
    assert (facs.gpa % 64, len(facs.data), facs.number(16, 4), facs.data[32]) == (0, 64, 0, 2)


@pytest.mark.parametrize(("offset", "size", "value"), [
    pytest.param(8, 1, 6, id="revision"), pytest.param(131, 1, 3, id="minor-revision"),
    pytest.param(46, 2, 9, id="sci"), pytest.param(48, 4, 0, id="no-smi"), pytest.param(52, 1, 0, id="acpi-is-on"),
    pytest.param(56, 4, 0x600, id="pm1a-event"), pytest.param(88, 1, 4, id="pm1a-event-length"),
    pytest.param(64, 4, 0x604, id="pm1a-control"), pytest.param(89, 1, 2, id="pm1a-control-length"),
    pytest.param(76, 4, 0x608, id="pm-timer"), pytest.param(91, 1, 4, id="pm-timer-length"),
    pytest.param(80, 4, 0, id="no-gpe"), pytest.param(108, 1, 0x32, id="century"),
    pytest.param(109, 2, 0b111, id="legacy-devices-and-8042-and-no-vga"),
    pytest.param(112, 4, 1 << 0 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10, id="flags"),
    pytest.param(116, 4, 0x01000801, id="reset-register-is-a-byte-of-io"), pytest.param(120, 8, 0xCF9, id="reset-port"),
    pytest.param(128, 1, 6, id="reset-value"), pytest.param(132, 8, 0, id="the-facs-is-named-once"),
    pytest.param(148, 4, 0x02002001, id="x-pm1a-event-in-words"), pytest.param(152, 8, 0x600, id="x-pm1a-event-port"),
    pytest.param(172, 4, 0x02001001, id="x-pm1a-control-a-word"), pytest.param(176, 8, 0x604, id="x-pm1a-control-port"),
    pytest.param(208, 4, 0x03002001, id="x-pm-timer-a-dword"), pytest.param(212, 8, 0x608, id="x-pm-timer-port"),
])
def test_the_fadt_says_where_the_registers_of_acpi_are(offset, size, value):
    """ACPI "FADT Format"."""
    assert len(TABLES["FACP"].data) == 276
    assert TABLES["FACP"].number(offset, size) == value


def test_a_board_without_a_keyboard_has_no_8042():
    """ACPI "IA-PC Boot Architecture Flags", bit 1."""
    _, memory = firmware(SMALL)
    assert tables(memory)["FACP"].number(109, 2) == 0b101


def test_the_madt_lists_processors_the_io_apic_and_the_lines_that_are_elsewhere():
    """ACPI "Multiple APIC Description Table (MADT)": type 0, 1, 2, 4."""
    madt = TABLES["APIC"]
    assert struct.unpack_from("<II", madt.data, 36) == (0xFEE00000, 1)
    found = structures(madt, 44)
    assert [body for type, body in found if type == 0] == [struct.pack("<BBBBI", 0, 8, n, n, 1) for n in range(4)]
    assert [body for type, body in found if type == 1] == [struct.pack("<BBBBII", 1, 12, 0xF, 0, 0xFEC00000, 0)]
    assert [body for type, body in found if type == 2] == [
        struct.pack("<BBBBIH", 2, 10, 0, 0, 2, 0), struct.pack("<BBBBIH", 2, 10, 0, 9, 9, 0b1101)]
    assert [body for type, body in found if type == 4] == [struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)]


def test_a_processor_with_an_id_from_255_on_needs_an_x2apic_entry():
    """ACPI "Processor Local x2APIC Structure": xAPIC id 255 is the broadcast."""
    _, memory = firmware(Board(257))
    found = structures(tables(memory)["APIC"], 44)
    assert max(body[3] for type, body in found if type == 0) == 254
    assert [body for type, body in found if type == 9] == [
        struct.pack("<BBHIII", 9, 16, 0, n, 1, n) for n in (255, 256)]
    assert [body for type, body in found if type == 10] == [struct.pack("<BBHIB3x", 10, 12, 0, 0xFFFFFFFF, 1)]


def test_the_mcfg_says_where_configuration_space_is():
    """PCI Firmware Specification "MCFG Table Description"."""
    assert struct.unpack("<QHBBI", TABLES["MCFG"].data[44:]) == (0xE0000000, 0, 0, 15, 0)


def test_the_hpet_table_says_where_it_is():
    """IA-PC HPET Specification "The HPET Description Table"."""
    assert struct.unpack("<IBBBBQBHB", TABLES["HPET"].data[36:]) == (
        0x8086A201, 0, 64, 0, 0, 0xFED00000, 0, 5000, 0)


def test_the_waet_says_that_one_read_of_the_timer_is_enough():
    """Our RTC does need its register C read, as silicon does."""
    assert TABLES["WAET"].number(36, 4) == 0b10


def test_the_dmar_has_one_unit_in_front_of_everything_and_the_io_apic_by_name():
    """VT-d "DMA Remapping Reporting Structure": the enumeration id is the I/O APIC's of the MADT."""
    dmar = TABLES["DMAR"]
    assert (dmar.data[36], dmar.data[37]) == (45, 1)
    (kind, drhd), = structures(dmar, 48, "<HH")
    assert (kind, struct.unpack_from("<BBHQ", drhd, 4)) == (0, (1, 0, 0, 0xFED90000))
    assert drhd[16:] == bytes([3, 8, 0, 0, 0xFF, 0xF0, 0x1F, 0])


def test_what_is_not_on_the_board_has_no_table():
    _, memory = firmware(SMALL)
    assert set(tables(memory)) == {"XSDT", "FACP", "APIC", "WAET", "FACS", "DSDT"}


@pytest.mark.parametrize("mebibytes", [1, 2, 3, 4])
def test_a_vm_too_small_for_tables_has_none_and_keeps_its_memory(mebibytes):
    memory_map = MemoryMap(mebibytes << 20)
    placed = place(memory_map, SMALL)
    assert (placed == NOTHING) == (memory_map.low_end == mebibytes << 20) == (mebibytes == 1)

"""SMBIOS, the MP table and the BIOS data area, read as old programs do: by looking for their signatures."""

import struct
from itertools import pairwise

import pytest

from hv.root.firmware.board import Board
from hv.root.firmware.place import place
from hv.root.memory_map import MemoryMap
from tests.root.firmware.reading import FULL, MEMORY, SMALL, find, firmware

BYTES = firmware(FULL)[1]


def smbios(memory):
    """[(type, formatted part, strings)] by the 32-bit entry point."""
    entry = find(memory, b"_SM_", 0xF0000, 0x100000)
    size, at, count = struct.unpack_from("<HIH", memory, entry + 0x16)
    found, end = [], at + size
    for _ in range(count):
        type, length = memory[at], memory[at + 1]
        stop = memory.index(b"\0\0", at + length)
        found.append((type, bytes(memory[at : at + length]), bytes(memory[at + length : stop]).decode().split("\0")))
        at = stop + 2
    assert at == end
    return found


def mp_entries(memory):
    """[(type, entry)] of the MP table, and the table."""
    pointer = find(memory, b"_MP_", 0xF0000, 0x100000)
    gpa, = struct.unpack_from("<I", memory, pointer + 4)
    size, = struct.unpack_from("<H", memory, gpa + 4)
    table, at, found = bytes(memory[gpa : gpa + size]), 44, []
    for _ in range(struct.unpack_from("<H", table, 34)[0]):
        length = 20 if table[at] == 0 else 8
        found.append((table[at], table[at : at + length]))
        at += length
    assert at == size
    return found, table


def test_both_entry_points_are_whole_and_lead_to_the_same():
    """SMBIOS "SMBIOS 2.1 (32-bit) Entry Point", "SMBIOS 3.0 (64-bit) Entry Point"."""
    old, new = find(BYTES, b"_SM_", 0xF0000, 0x100000), find(BYTES, b"_SM3_", 0xF0000, 0x100000)
    assert (BYTES[old + 5], BYTES[new + 6]) == (31, 24)
    assert sum(BYTES[old : old + 31]) & 0xFF == sum(BYTES[old + 16 : old + 31]) & 0xFF == 0
    assert sum(BYTES[new : new + 24]) & 0xFF == 0
    assert struct.unpack_from("<HI", BYTES, old + 0x16) == struct.unpack_from("<IQ", BYTES, new + 12)


def test_the_required_structures_are_there_once_with_handles_of_their_own():
    """SMBIOS "Required Structures and Data"."""
    found = smbios(BYTES)
    assert [type for type, _, _ in found] == [0, 1, 3, 4, 16, 17, 19, 32, 127]
    assert len({body[2:4] for _, body, _ in found}) == len(found)
    entry = find(BYTES, b"_SM_", 0xF0000, 0x100000)
    assert struct.unpack_from("<H", BYTES, entry + 8)[0] >= max(len(body) for _, body, _ in found)


def text(found, type, offset):
    _, body, strings = next(each for each in found if each[0] == type)
    return strings[body[offset] - 1]


def test_strings_are_found_by_their_number():
    found = smbios(BYTES)
    assert (text(found, 1, 4), text(found, 1, 5), text(found, 0, 8)) == ("hvlab", "hvlab PC", "01/01/2026")
    assert (text(found, 4, 4), text(found, 17, 16)) == ("CPU 0", "DIMM 0")


@pytest.mark.parametrize(("vps", "short"), [(1, 1), (4, 4), (300, 255)])
def test_the_processor_has_a_core_for_each_vp(vps, short):
    """SMBIOS "Processor Information (Type 4)": from 256 on the count is in the second field."""
    body = next(body for type, body, _ in smbios(firmware(Board(vps))[1]) if type == 4)
    assert (body[0x23], body[0x24], body[0x25]) == (short, short, short)
    assert struct.unpack_from("<HHH", body, 0x2A) == (vps, vps, vps)


def test_the_processor_is_the_one_that_cpuid_says():
    """SMBIOS "Processor ID Field Format"; MPS "Processor Entries"."""
    expected = struct.pack("<II", 0x306A9, 0x0F8BFBFF)
    assert [body[8:16] for type, body, _ in smbios(BYTES) if type == 4] == [expected]
    assert {entry[4:12] for type, entry in mp_entries(BYTES)[0] if type == 0} == {expected}


def test_memory_is_one_piece_from_0_on():
    bodies = {type: body for type, body, _ in smbios(BYTES)}
    assert struct.unpack_from("<I", bodies[16], 7)[0] == MEMORY >> 10
    assert struct.unpack_from("<H", bodies[17], 12)[0] == MEMORY >> 20
    assert struct.unpack_from("<II", bodies[19], 4) == (0, (MEMORY >> 10) - 1)


def test_the_mp_table_is_whole():
    """MPS "MP Floating Pointer Structure", "MP Configuration Table Header"."""
    pointer = find(BYTES, b"_MP_", 0xF0000, 0x100000)
    assert sum(BYTES[pointer : pointer + 16]) & 0xFF == 0
    assert bytes(BYTES[pointer + 8 : pointer + 10]) == b"\x01\x04"
    _, table = mp_entries(BYTES)
    assert (sum(table) & 0xFF, table[:4], struct.unpack_from("<I", table, 36)[0]) == (0, b"PCMP", 0xFEE00000)


def test_the_mp_table_lists_processors_buses_and_the_io_apic():
    found, _ = mp_entries(BYTES)
    assert [type for type, _ in found] == sorted(type for type, _ in found)
    assert [(entry[1], entry[3]) for type, entry in found if type == 0] == [(0, 3), (1, 1), (2, 1), (3, 1)]
    assert [entry[1:] for type, entry in found if type == 1] == [b"\0PCI   ", b"\1ISA   "]
    assert [entry for type, entry in found if type == 2] == [struct.pack("<BBBBI", 2, 15, 0x20, 1, 0xFEC00000)]


@pytest.mark.parametrize(("bus", "source", "kind", "pin", "flags"), [
    pytest.param(1, 0, 3, 0, 0, id="the-8259s-are-on-pin-0"), pytest.param(1, 0, 0, 2, 0, id="the-timer-on-pin-2"),
    pytest.param(1, 4, 0, 4, 0, id="com1"), pytest.param(1, 9, 0, 9, 0b1101, id="the-sci-is-a-level"),
    pytest.param(0, 3 << 2 | 1, 0, 16, 0b1111, id="intb-of-device-3"),
])
def test_a_line_is_on_a_pin(bus, source, kind, pin, flags):
    """MPS "I/O Interrupt Assignment Entries"; lines of PCI are numbered as "PCI devices" there says."""
    found, _ = mp_entries(BYTES)
    lines = [entry for type, entry in found if type == 3]
    assert struct.pack("<BBHBBBB", 3, kind, flags, bus, source, 15, pin) in lines


def test_no_pin_but_pci_s_has_two_lines():
    pins = [entry[7] for type, entry in mp_entries(firmware(SMALL)[1])[0] if type == 3]
    assert sorted(pins) == [0, 1, 2, *range(3, 16)]


def test_lint0_is_the_8259s_and_lint1_nmi_of_every_processor():
    found, _ = mp_entries(BYTES)
    assert [(entry[1], entry[6], entry[7]) for type, entry in found if type == 4] == [(3, 0xFF, 0), (1, 0xFF, 1)]


def test_the_mp_table_names_no_processor_by_the_io_apic_s_id():
    """MPS "APIC Identification": ids are unique."""
    assert [entry[1] for type, entry in mp_entries(firmware(Board(40))[1])[0] if type == 0] == list(range(15))


def test_the_bios_data_area_names_com1_and_the_end_of_conventional_memory():
    """IBM PC/AT Technical Reference: 40:00, 40:0E, 40:13; the extension begins with its size in KiB."""
    assert [struct.unpack_from("<H", BYTES, 0x400 + at)[0] for at in (0, 0x0E, 0x13)] == [0x3F8, 0x9F00, 636]
    assert BYTES[0x9F000] == 4


def test_the_firmware_s_pieces_do_not_overlap_with_the_most_processors():
    placed = place(MemoryMap(MEMORY), FULL._replace(vp_count=2048))
    pieces = sorted((gpa, gpa + len(data)) for gpa, data in placed.memory.items())
    assert all(end <= start for (_, end), (start, _) in pairwise(pieces))


def ip_sum(data):
    """RFC 1071: 0xFFFF when the checksum is in it and right."""
    total = sum(struct.unpack(f"<{len(data) // 2}H", data))
    return (total & 0xFFFF) + (total >> 16)


@pytest.mark.parametrize("step", [16, 24])
def test_the_tables_of_coreboot_are_where_payloads_look(step):
    """coreboot "coreboot_tables.h" wants 16; GRUB looks at each 24th byte, which is the size of the header."""
    at = find(BYTES, b"LBIO", 0xF0000, 0x100000, step)
    header_size, _, size, table_sum, count = struct.unpack_from("<5I", BYTES, at + 4)
    assert (header_size, count) == (24, 2)
    assert ip_sum(BYTES[at : at + 24]) == 0xFFFF
    assert ip_sum(BYTES[at + 24 : at + 24 + size]) + table_sum == 0xFFFF
    tag, length = struct.unpack_from("<II", BYTES, at + 24)
    parts = [struct.unpack_from("<QQI", BYTES, at + 32 + 20 * number) for number in range((length - 8) // 20)]
    assert (tag, tuple(parts)) == (1, tuple(tuple(part) for part in firmware(FULL)[0].parts))
    assert struct.unpack_from("<6I", BYTES, at + 24 + length) == (0xF, 32, 1, 0x3F8, 115200, 1)
    assert 24 + length + 32 == 24 + size

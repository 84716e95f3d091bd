"""The firmware configuration device, as a program asks it at its two ports."""

import pytest

from hv.image.model import BootOptions
from hv.root.firmware.configuration import describe
from hv.root.memory_map import MemoryMap
from hv.root.vdev.fw_cfg import FwCfg

SELECT, DATA = 0x510, 0x511


@pytest.fixture
def device():
    device = FwCfg()
    describe(device, MemoryMap(64 << 20), 3, BootOptions("console=ttyS0", b"files"))
    return device


def read(device, item, size):
    device.write_port(SELECT, 2, item)
    return bytes(device.read_port(DATA, 1) for _ in range(size))


@pytest.mark.parametrize(("item", "content"), [
    (0x00, b"QEMU"), (0x01, b"\1\0\0\0"), (0x03, (64 << 20).to_bytes(8, "little")), (0x05, b"\3\0"), (0x0F, b"\3\0"),
    (0x14, b"\x0e\0\0\0"), (0x15, b"console=ttyS0\0"), (0x0B, b"\5\0\0\0"), (0x12, b"files")])
def test_an_item_is_read_from_its_beginning_each_time_it_is_selected(device, item, content):
    assert read(device, item, len(content)) == content
    assert read(device, item, len(content)) == content
    assert device.read_port(DATA, 1) == 0                   # behind its end


def test_the_directory_names_the_file_of_the_memory_map(device):
    assert read(device, 0x19, 4) == b"\0\0\0\1"
    entry = bytes(device.read_port(DATA, 1) for _ in range(64))
    size, item = int.from_bytes(entry[:4], "big"), int.from_bytes(entry[4:6], "big")
    assert entry[8:].rstrip(b"\0") == b"etc/e820"
    assert size % 20 == 0
    first = read(device, item, size)[:20]
    assert (int.from_bytes(first[:8], "little"), first[16]) == (0, 1)       # RAM from 0 on


def test_wide_reads_take_that_many_bytes(device):
    device.write_port(SELECT, 2, 0)
    assert device.read_port(DATA, 4) == int.from_bytes(b"QEMU", "little")


@pytest.mark.parametrize("item", [0x02, 0x18, 0x21, 0x3FFF])
def test_what_is_not_there_reads_zero(device, item):
    assert read(device, item, 4) == bytes(4)


def test_the_selector_reads_nothing_and_data_takes_none(device):
    device.write_port(DATA, 1, 0xAA)
    assert device.read_port(SELECT, 2) == 0
    assert read(device, 0, 4) == b"QEMU"
    assert device.inspect()["files"] == {"etc/e820": 0x20}

"""A VM with a PC board has its firmware's tables in memory each time it begins; any other VM has nothing there."""

import struct

import pytest

from hv.image.model import Image, Segment
from hv.platform import Machine
from tests.root.firmware.reading import find

# Real mode: while "RSD " is at E000:0, spoil it and reset by port CF9; else HLT.
SPOIL_AND_RESET = bytes.fromhex("b800e0 8ed8 66813e000052534420 750d c606000000 baf90c b006 ee ebfe f4")
TICKS = 20_000_000


@pytest.fixture(scope="module")
def machine():
    return Machine(64)


def a_vm(machine, name, code, **options):
    return machine.create_vm(name, Image("flat", [Segment(0x7C00, code, True, True)], 0x7C00, 16), 8, **options)


def test_a_reset_writes_the_tables_again(machine):
    """ACPI "Initialization": firmware makes the tables whenever the machine begins."""
    vm = a_vm(machine, "spoils", SPOIL_AND_RESET, pc=True)
    machine.run(machine.clock.tsc + TICKS, paused=lambda: vm.resets > 2)
    assert (vm.ended, vm.resets > 2) == (None, True)
    machine.destroy_vm(vm)


def test_the_processor_of_the_mp_table_is_the_one_that_the_guest_finds(machine):
    """MPS "Processor Entries": signature and features are those of CPUID leaf 1."""
    vm = a_vm(machine, "asks", b"\xf4", pc=True, vps=2)
    low = vm.worker.read(0, 0x100000)
    table, = struct.unpack_from("<I", low, find(low, b"_MP_", 0xF0000, 0x100000) + 4)
    eax, _, _, edx = vm.partition.cpuid.lookup(1, 0)
    assert [struct.unpack_from("<II", low, table + entry + 4) for entry in (44, 64)] == [(eax, edx)] * 2
    assert eax
    machine.destroy_vm(vm)


def test_a_vm_without_a_pc_board_has_no_tables(machine):
    vm = a_vm(machine, "plain", SPOIL_AND_RESET)
    machine.run(machine.clock.tsc + TICKS, paused=lambda: vm.ended is not None)
    assert (vm.ended, vm.resets) == ("halt", 0)
    assert find(vm.worker.read(0xE0000, 0x20000), b"RSD PTR ", 0, 0x20000) is None
    machine.destroy_vm(vm)

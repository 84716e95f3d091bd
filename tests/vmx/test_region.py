"""The VMCS region: what a processor writes there it finds again, and whatever else it finds is some VMCS."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.machine.ram import PhysicalMemory
from hv.spec.vmcs import VmcsField, VmxAbort
from hv.vmx.root_operation.region import (
    clear_region,
    load_region,
    read_physical,
    revision_of,
    store_region,
    write_abort,
)
from hv.vmx.vmcs import LaunchState, Vmcs
from tests.proves import proves

PAGE, COPY, END = 0x1000, 0x3000, 0x4000


@pytest.fixture(scope="module")
def memory():
    memory = PhysicalMemory(END)
    yield memory
    memory.close()


@proves("capability/VmxBasic.region_size", "capability/VmxBasic.memory_type")
def test_every_field_comes_back(memory):
    vmcs = Vmcs(fields={field: 0x8877_6655_4433_2211 + field & field.mask for field in VmcsField}, address=PAGE,
                launch_state=LaunchState.LAUNCHED)
    store_region(memory, vmcs)
    found = load_region(memory, PAGE)
    assert all(found.read(field) == vmcs.read(field) for field in VmcsField)
    assert (found.launch_state, found.address, found.state) == (LaunchState.LAUNCHED, PAGE, None)


def test_revision_and_abort_indicator_stay_when_fields_are_written(memory):
    """SDM "Format of the VMCS Region"."""
    memory.write_u32(PAGE, 0x8000_1234)
    write_abort(memory, PAGE, VmxAbort.LOADING_HOST_MSRS)
    store_region(memory, Vmcs(fields={}, address=PAGE))
    assert memory.read(PAGE, 8) == bytes.fromhex("34120080 04000000")
    assert (revision_of(memory, PAGE).revision_id, revision_of(memory, PAGE).shadow) == (0x1234, 1)
    assert load_region(memory, PAGE).shadow


def test_a_copy_of_a_region_is_a_vmcs_of_its_own(memory):
    store_region(memory, Vmcs(fields={VmcsField.GUEST_RIP: 0x1234}, address=PAGE))
    memory.write(COPY, memory.read(PAGE, 4096))
    copy = load_region(memory, COPY)
    copy.write(VmcsField.GUEST_RIP, 5)
    assert (copy.address, load_region(memory, PAGE).read(VmcsField.GUEST_RIP)) == (COPY, 0x1234)


def test_clearing_touches_the_launch_state_only(memory):
    memory.write(PAGE, b"\xff" * 4096)
    clear_region(memory, PAGE)
    assert load_region(memory, PAGE).launch_state is LaunchState.CLEAR
    assert load_region(memory, PAGE).read(VmcsField.GUEST_RIP) == (1 << 64) - 1


def test_where_there_is_no_ram_all_ones_are_read_and_nothing_is_written(memory):
    assert read_physical(memory, END - 2, 4) == b"\xff" * 4
    vmcs = load_region(memory, END)
    assert vmcs.read(VmcsField.PIN_BASED_CONTROLS) == 0xFFFF_FFFF
    store_region(memory, vmcs)
    clear_region(memory, END)
    write_abort(memory, END, VmxAbort.HOST_PDPTE)


@given(st.binary(max_size=4096))
def test_any_content_is_a_vmcs(memory, content):
    """Nothing that stands in a region raises an error; storing gives back what was read."""
    memory.write(PAGE, content.ljust(4096, b"\xa5"))
    vmcs = load_region(memory, PAGE)
    before = vmcs.snapshot()
    vmcs.inspect()
    store_region(memory, vmcs)
    again = load_region(memory, PAGE)
    assert (again.snapshot(), again.launch_state) == (before, vmcs.launch_state)

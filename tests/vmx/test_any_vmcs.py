"""Whatever stands in a VMCS, VMLAUNCH ends in one of the manual's ways, and the host is in one piece afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hv.spec.exits import ExitReason
from hv.spec.vmcs import VmcsField
from hv.vmx.capabilities import PROCESSOR, REVISION_ID
from hv.vmx.exit import VmExit
from hv.vmx.fields import existing_fields
from hv.vmx.root_operation.operation import VmFail, VmxMode
from hv.vmx.vmcs import Vmcs
from tests.vmx.root_box import HOST, VMCS, RootBox, valid_fields

F = VmcsField
FIELDS = st.sampled_from(sorted(existing_fields(PROCESSOR)))
EDGES = st.sampled_from((0, 1, 2, 0xF, 0x80, 0xFFF, 0x1000, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 47, 1 << 63,
                         (1 << 64) - 1))
VALUES = st.one_of(EDGES, st.integers(0, (1 << 64) - 1))
BITS = st.integers(0, 63).map(lambda bit: 1 << bit)


@pytest.fixture(scope="module")
def root() -> Iterator[RootBox]:
    box = RootBox()
    box.in_root()
    box.put("hlt", 64, HOST)
    box.image = box.engine.save_image(box.cpu.state)
    yield box
    box.close()


def launch(root: RootBox) -> None:
    """VMLAUNCH of the current VMCS, and its guest for a moment; whatever happened, the host then goes on."""
    state, operation = root.cpu.state, root.operation
    try:
        root.transitions.enter(launch=True, blocked_by_mov_ss=False)
    except VmFail as failure:
        operation.fail(failure)
        assert operation.vmread(F.VM_INSTRUCTION_ERROR) in (7, 8)
        assert operation.mode is VmxMode.ROOT
        return
    if operation.mode is VmxMode.NON_ROOT:
        root.cpu.run(root.clock.tsc + 5000)
    if operation.mode is VmxMode.NON_ROOT:
        root.cpu.exit(VmExit(ExitReason.EXTERNAL_INTERRUPT))
    if operation.mode is VmxMode.ABORTED:
        assert root.memory.read_u32(VMCS + 4) in (1, 2, 4, 6)
    else:
        assert (state.rip, state.rflags) == (operation.vmread(F.HOST_RIP), 2)


def begin(root: RootBox, region: bytes = b"") -> None:
    """The host as it was, and a clear VMCS of what *region* holds, current."""
    root.operation.mode = VmxMode.ROOT
    root.operation.vmclear(VMCS)
    root.memory.write(VMCS, REVISION_ID.to_bytes(8, "little") + region.ljust(4088, b"\0"))
    root.operation.vmclear(VMCS)
    root.operation.vmptrld(VMCS)
    root.cpu.attach(Vmcs(fields={}))
    root.cpu.non_register.reset()
    root.engine.load_image(root.cpu.state, root.image)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(FIELDS, VALUES, max_size=2), st.dictionaries(FIELDS, BITS, max_size=2))
def test_a_vmcs_with_anything_in_some_fields(root, values, flipped):
    begin(root)
    fields = valid_fields() | values
    for field, bit in flipped.items():
        fields[field] = fields.get(field, 0) ^ bit
    for field, value in fields.items():
        root.operation.vmwrite(field, value)
    launch(root)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(min_size=64, max_size=2048))
def test_a_region_with_anything_in_it(root, content):
    begin(root, content)
    launch(root)

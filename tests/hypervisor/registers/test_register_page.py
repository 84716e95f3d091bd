"""The state pages: what a parent finds in memory while a VP waits, and how it gives the VP other registers."""

import pytest

from hv.machine.faults import NestedFault
from hv.root.winhv import HvError
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hv_status import HvStatus as S
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.vp_state import MapVpStatePageInput, UnmapVpStatePageInput
from hv.spec.intercepts import HvInterceptType
from hv.spec.synic import HvMessage, HvSegmentRegister, IoPortIntercept
from hv.spec.vp_state import HvRegisterPage, HvRegisterPageDirtyFlags
from hv.spec.x86 import PAGE_SIZE
from tests.hypervisor.hypercalls.test_call_parameters import GUEST
from tests.hypervisor.hypercalls.test_call_parameters import Bench as FakeBench
from tests.hypervisor.registers_bench import Bench

CODE = bytes.fromhex("e6 80 e6 80 f4")                  # out 0x80, al, twice; hlt
REAL = HvSegmentRegister(limit=0xFFFF, attributes=0x93)


class PageBench(Bench):
    """A VP in real mode that meets two intercepts."""

    def __init__(self):
        super().__init__()
        self.memory.write(self.pages[1] * PAGE_SIZE, CODE)
        self.winhv.install_intercept(self.id, HvInterceptType.IO_PORT, 0x80, 3)
        self.winhv.set_vp_registers(self.id, 0, {
            N.RIP: 0x1000, N.RAX: 0x11, N.R15: 0xF, N.XMM5: 5 << 64 | 6, N.RFLAGS: 2,
            N.CS: HvSegmentRegister(limit=0xFFFF, attributes=0x9B), N.DS: REAL, N.CR8: 3})

    def go(self):
        self.winhv.set_vp_registers(self.id, 0, {N.EXPLICIT_SUSPEND: 0, N.INTERCEPT_SUSPEND: 0})
        self.machine.run(until_tsc=self.machine.clock.tsc + 100_000)

    def read(self, place):
        return HvRegisterPage.parse(self.memory.read(place * PAGE_SIZE, HvRegisterPage.SIZE))

    def write(self, place, page, **dirty):
        page.dirty = HvRegisterPageDirtyFlags(**dirty).raw
        self.memory.write(place * PAGE_SIZE, page.pack())


@pytest.fixture
def bench():
    made = PageBench()
    yield made
    made.close()


def refused(status):
    return pytest.raises(HvError, match=rf": {status.name}$")


def test_the_fields_stand_where_the_headers_say():
    places = {"is_valid": 2, "dirty": 4, "gp_registers": 8, "rip": 136, "rflags": 144, "xmm": 160, "segments": 256,
              "cr0": 352, "pending_interruption": 400, "interrupt_state": 408, "instruction_emulation_hints": 416}
    assert {name: HvRegisterPage.offset_of(name) for name in places} == places
    assert (MapVpStatePageInput.SIZE, UnmapVpStatePageInput.SIZE) == (24, 16)


def test_a_parent_reads_the_registers_of_a_vp_that_waits(bench):
    place = bench.winhv.map_register_page(bench.id, 0)
    assert bench.read(place).is_valid == 0
    bench.go()
    page = bench.read(place)
    assert (page.version, page.is_valid, page.dirty, page.rip, page.rflags) == (1, 1, 0, 0x1000, 2)
    assert (page.gp_registers[0], page.gp_registers[15], page.xmm[10:], page.cr8) == (0x11, 0xF, (6, 5), 3)
    assert (page.segments[1].attributes, page.segments[3]) == (0x9B, REAL)
    assert page.cr0 == bench.number(N.CR0)


def test_what_it_marks_dirty_the_vp_has_when_it_goes_on(bench):
    place = bench.winhv.map_register_page(bench.id, 0)
    bench.go()
    page = bench.read(place)
    page.gp_registers, page.rip, page.rflags = (0x22, *range(1, 16)), 0x1002, 0x46
    page.xmm = tuple(range(12))
    other = HvSegmentRegister(base=0x50, selector=5, limit=0xFFFF, attributes=0x93)
    page.segments = (*page.segments[:3], other, *page.segments[4:])
    bench.write(place, page, general_purpose=1, instruction_pointer=1, xmm=1, segments=1, flags=1)
    bench.go()
    assert bench.vp.intercept_suspend                       # at the second OUT
    again = bench.read(place)
    assert (again.rip, again.gp_registers, again.rflags) == (0x1002, (0x22, *range(1, 16)), 0x46)
    assert (again.xmm, again.segments[3], again.dirty) == (tuple(range(12)), other, 0)
    assert (bench.number(N.RAX), bench.get(N.DS)) == (0x22, other.pack())


def test_what_is_not_dirty_is_not_taken(bench):
    place = bench.winhv.map_register_page(bench.id, 0)
    bench.go()
    page = bench.read(place)
    page.gp_registers, page.rip, page.rflags = (0x99,) * 16, 0x1002, 0x46
    bench.write(place, page, instruction_pointer=1)
    bench.go()
    assert (bench.number(N.RAX), bench.number(N.RIP), bench.number(N.RFLAGS)) == (0x11, 0x1002, 2)


def test_while_the_vp_runs_the_page_is_not_valid_and_nobody_looks_at_it(bench):
    place = bench.winhv.map_register_page(bench.id, 0)
    bench.go()
    page = bench.read(place)
    page.rip = 0x1004                                       # HLT
    bench.write(place, page, instruction_pointer=1)
    bench.go()
    assert (bench.vp.halted, bench.read(place).is_valid) == (True, 0)
    bench.write(place, page, general_purpose=1)
    assert bench.number(N.RAX) == 0x11


def test_registers_that_cannot_be_leave_the_vp_waiting(bench):
    place = bench.winhv.map_register_page(bench.id, 0)
    bench.go()
    page = bench.read(place)
    page.rflags = 1 << 40
    bench.write(place, page, flags=1)
    with refused(S.INVALID_REGISTER_VALUE):
        bench.winhv.set_vp_registers(bench.id, 0, {N.INTERCEPT_SUSPEND: 0})
    assert (bench.vp.intercept_suspend, bench.number(N.RFLAGS)) == (True, 2)


def test_a_page_of_a_vp_that_waits_already_is_valid_at_once(bench):
    bench.go()
    place = bench.memory.allocate()[0]
    assert bench.winhv.map_register_page(bench.id, 0, place) == place
    assert (bench.read(place).is_valid, bench.read(place).rip) == (1, 0x1000)


def test_what_lay_beneath_is_there_again_and_the_books_are_right(bench):
    place = bench.memory.allocate()[0]
    bench.memory.write(place * PAGE_SIZE, b"beneath")
    bench.winhv.map_register_page(bench.id, 0)              # deposits what it takes
    bench.winhv.unmap_register_page(bench.id, 0)
    before = bench.winhv.get_memory_balance(bench.id)
    bench.winhv.map_register_page(bench.id, 0, place)
    available, in_use = bench.winhv.get_memory_balance(bench.id)
    assert (available, in_use) == (before[0] - 1, before[1] + 1)
    with refused(S.OBJECT_IN_USE):
        bench.winhv.map_register_page(bench.id, 0)
    bench.winhv.unmap_register_page(bench.id, 0)
    assert bench.memory.read(place * PAGE_SIZE, 7) == b"beneath"
    assert bench.winhv.get_memory_balance(bench.id) == before
    with refused(S.INVALID_PARAMETER):
        bench.winhv.unmap_register_page(bench.id, 0)


def test_the_message_page_has_each_intercept_message_as_the_slot_had_it(bench):
    place, taken = bench.winhv.map_message_page(bench.id, 0), []
    bench.machine.root.vid.register(bench.id, taken.append)
    assert bench.memory.read(place * PAGE_SIZE, HvMessage.SIZE) == bytes(HvMessage.SIZE)
    for rip in (0x1000, 0x1002):
        bench.go()
        message = HvMessage.parse(bench.memory.read(place * PAGE_SIZE, HvMessage.SIZE))
        assert IoPortIntercept.parse(message.payload).header.rip == rip
        assert message.pack() == taken[-1].pack()
        bench.winhv.set_vp_registers(bench.id, 0, {N.RIP: rip + 2})


def test_the_two_pages_come_and_go_one_without_the_other(bench):
    bench.winhv.map_message_page(bench.id, 0)
    bench.winhv.unmap_message_page(bench.id, 0)             # deposits what it takes
    before = bench.winhv.get_memory_balance(bench.id)
    place = bench.winhv.map_message_page(bench.id, 0)
    registers = bench.winhv.map_register_page(bench.id, 0)
    with refused(S.OBJECT_IN_USE):
        bench.winhv.map_message_page(bench.id, 0)
    bench.winhv.unmap_register_page(bench.id, 0)
    space = bench.machine.hypervisor.root.space
    assert (space.overlay_at(registers), space.overlay_at(place) is not None) == (None, True)
    bench.winhv.unmap_message_page(bench.id, 0)
    assert sum(bench.winhv.get_memory_balance(bench.id)) >= sum(before)
    assert bench.winhv.get_memory_balance(bench.id)[1] == before[1]
    with refused(S.INVALID_PARAMETER):
        bench.winhv.unmap_message_page(bench.id, 0)


@pytest.mark.parametrize("end", ["delete_vp", "finalize_partition"])
@pytest.mark.parametrize("page", ["map_register_page", "map_message_page"])
def test_a_vp_that_ends_takes_its_page_with_it(bench, end, page):
    place = getattr(bench.winhv, page)(bench.id, 0)
    arguments = (bench.id, 0) if end == "delete_vp" else (bench.id,)
    getattr(bench.winhv, end)(*arguments)
    with pytest.raises(NestedFault):
        bench.memory.read(place * PAGE_SIZE, 8)
    assert bench.machine.hypervisor.root.space.overlay_at(place) is None


@pytest.mark.parametrize(("fields", "status"), [
    ({}, S.SUCCESS), ({"page_type": 1}, S.SUCCESS), ({"page_type": 2}, S.INVALID_PARAMETER),
    ({"page_type": 3}, S.INVALID_PARAMETER),
    ({"flags": 2}, S.INVALID_PARAMETER), ({"flags": 1, "requested_map_location": 1 << 40}, S.INVALID_PARAMETER),
    ({"flags": 1, "requested_map_location": 600}, S.SUCCESS), ({"vp_index": 5}, S.INVALID_VP_INDEX),
    ({"input_vtl": 0x11}, S.INVALID_VTL_STATE), ({"partition_id": 1}, S.ACCESS_DENIED)])
def test_a_page_is_refused(fields, status):
    assert FakeBench().ask(C.MAP_VP_STATE_PAGE, **{"partition_id": GUEST, **fields})[0] == status

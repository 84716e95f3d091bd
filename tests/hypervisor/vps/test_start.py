"""HvCallStartVirtualProcessor and HvCallGetVpIndexFromApicId, on a machine that runs what is started."""

import pytest

from hv.platform import Machine
from hv.root import boot
from hv.root.winhv import HvError
from hv.spec.cpuid import CpuidLeaf, HvPrivilege
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.vps import HvInitialVpContext
from hv.spec.synic import HvSegmentRegister, HvTableRegister
from hv.spec.x86 import PAGE_SIZE, PAT_RESET
from hv.trace import events

CODE = 0x4000
COUNT_UP = bytes.fromhex("48 ff c0 f4 eb fa")            # inc rax; hlt; jmp
WRONG = HvStatus.INVALID_REGISTER_VALUE


class Bench:
    """A child of three VPs with page tables and `COUNT_UP`; VP 1 and 2 wait for SIPI."""

    def __init__(self):
        self.machine = Machine(4)
        self.winhv, memory = self.machine.root.winhv, self.machine.root.memory
        self.id = self.winhv.create_partition()
        self.winhv.initialize_partition(self.id)
        pages = memory.allocate(16)
        self.winhv.map_gpa_pages(self.id, 0, pages)
        for page, entry in ((1, 0x2007), (2, 0x3007), (3, 0x87)):
            memory.write(pages[page] * PAGE_SIZE, entry.to_bytes(8, "little"))
        memory.write(pages[CODE >> 12] * PAGE_SIZE, COUNT_UP)
        for index in range(3):
            self.winhv.create_vp(self.id, index)
        self.records = []
        self.machine.trace.listen(self.records.append)

    def start(self, index=1, **changed):
        self.winhv.start_virtual_processor(self.id, index, context(**changed))

    def register(self, name, index=1):
        return self.winhv.get_vp_register(self.id, index, name)

    @property
    def vps(self):
        return self.machine.hypervisor.partitions[self.id].vps

    def run(self):
        for index in self.vps:
            self.winhv.set_vp_registers(self.id, index, {N.EXPLICIT_SUSPEND: 0})
        self.machine.run(until_tsc=self.machine.clock.tsc + 100_000)


def context(**changed):
    """64-bit code at CODE, with flat segments."""
    data = segment(attributes=0xC093, selector=0x10)
    fields = {"rip": CODE, "rsp": 0x8000, "rflags": 2, "cs": segment(), "ds": data, "es": data, "fs": data, "gs": data,
              "ss": data, "tr": segment(limit=0x67, selector=0x20, attributes=0x8B), "ldtr": HvSegmentRegister(),
              "idtr": HvTableRegister(limit=0xFFF, base=0x6000), "gdtr": HvTableRegister(limit=0x2F, base=0x7000),
              "efer": 0xD00, "cr0": 0x80010033, "cr3": 0x1000, "cr4": 0x620, "pat": PAT_RESET}
    return HvInitialVpContext(**{**fields, **changed})


def segment(**changed):
    return HvSegmentRegister(**{"base": 0, "limit": 0xFFFF_FFFF, "selector": 8, "attributes": 0xA09B, **changed})


def refused(status):
    return pytest.raises(HvError, match=rf": {status.name}$")


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.machine.close()


def test_a_vp_that_is_started_runs_in_long_mode_at_once(bench):
    bench.start()
    bench.run()
    assert [bench.register(name) for name in (N.RAX, N.RIP, N.RSP, N.CR0, N.CR3, N.CR4, N.EFER, N.PAT)] == [
        1, CODE + 4, 0x8000, 0x80010033, 0x1000, 0x620, 0xD00, PAT_RESET]
    started = [record.event for record in bench.records if isinstance(record.event, events.VpStarted)]
    assert started == [events.VpStarted(bench.id, 1, CODE)]
    assert bench.vps[2].wait_for_sipi


def test_what_is_started_holds_every_register_of_the_context(bench):
    given = context(fs=segment(base=0x1234, attributes=0xC093, selector=0x10), rflags=0x246)
    bench.winhv.start_virtual_processor(bench.id, 1, given)
    names = [N[name.upper()] for name in given.FIELDS]
    values = bench.winhv.get_vp_registers(bench.id, 1, names)
    for name, value in zip(given.FIELDS, values, strict=True):
        wanted = getattr(given, name)
        assert value == (wanted.to_bytes(16, "little") if isinstance(wanted, int) else wanted.pack()), name


def test_a_started_vp_is_still_its_parents_to_let_go(bench):
    bench.start()
    bench.machine.run(until_tsc=bench.machine.clock.tsc + 10_000)
    assert (bench.vps[1].explicit_suspend, bench.register(N.RAX)) == (True, 0)


def test_a_real_mode_context_is_legal_too(bench):
    """Unrestricted guest: VM entry takes CR0.PE = 0."""
    real = segment(limit=0xFFFF, selector=0, attributes=0x93)
    bench.start(cr0=0x10, cr4=0, efer=0, cs=segment(limit=0xFFFF, selector=0, attributes=0x9B), ds=real, es=real,
                fs=real, gs=real, ss=real)
    bench.run()
    assert bench.register(N.RIP) == CODE + 4        # 48 is DEC AX there
    assert bench.vps[1].stopped_because == ""


@pytest.mark.parametrize("changed", [
    {"cr0": 0x33}, {"cr4": 0x600}, {"efer": 0x900}, {"efer": 0x400}, {"efer": 0xD02}, {"cr0": 1 << 32 | 0x80010033},
    {"cr4": 0x2620}, {"cr4": 1 << 30 | 0x620}, {"cr3": 1 << 60}, {"rflags": 0}, {"rflags": 1 << 22 | 2},
    {"rip": 1 << 48}, {"pat": 2}, {"gdtr": HvTableRegister(base=1 << 47)},
    {"cs": segment(attributes=0xE09B)}, {"cs": segment(attributes=0xA39B)}, {"cs": segment(attributes=0xA01B)},
    {"tr": segment(attributes=0x89)}, {"fs": segment(base=1 << 47, attributes=0xC093)}, {"rflags": 0x20002}])
def test_what_vm_entry_would_refuse_is_refused_and_nothing_is_changed(bench, changed):
    names = [N[name.upper()] for name in HvInitialVpContext.FIELDS]
    before = bench.winhv.get_vp_registers(bench.id, 1, names)
    with refused(WRONG):
        bench.start(**changed)
    assert bench.winhv.get_vp_registers(bench.id, 1, names) == before
    assert bench.vps[1].wait_for_sipi
    bench.start()
    bench.run()
    assert bench.register(N.RAX) == 1


def test_a_vp_is_started_once(bench):
    with refused(HvStatus.INVALID_VP_STATE):
        bench.start(0)                              # the first one never waits
    bench.start()
    with refused(HvStatus.INVALID_VP_STATE):
        bench.start()
    with refused(HvStatus.INVALID_VP_INDEX):
        bench.start(7)


def test_after_init_it_can_be_started_again(bench):
    bench.start()
    bench.run()
    bench.vps[1].apic.on_init()
    bench.start(rip=CODE)
    bench.machine.run(until_tsc=bench.machine.clock.tsc + 100_000)
    assert bench.register(N.RAX) == 1


def test_vps_are_found_by_their_apic_ids(bench):
    assert bench.winhv.get_vp_index_from_apic_id(bench.id, [2, 0, 1, 1]) == [2, 0, 1, 1]
    with refused(HvStatus.INVALID_PARAMETER):
        bench.winhv.get_vp_index_from_apic_id(bench.id, [0, 9])


def test_the_privilege_is_offered_to_children(bench):
    cpuid = bench.machine.hypervisor.partitions[bench.id].cpuid
    assert cpuid.lookup(CpuidLeaf.HV_FEATURES, 0)[1] << 32 & HvPrivilege.START_VIRTUAL_PROCESSOR


# --- the end of a VP ----------------------------------------------------------------------------------------------

def test_a_vp_that_runs_is_deleted_and_made_again(bench):
    """Its context goes to the host, its pages to the pool; the new one begins from reset."""
    bench.start()
    bench.run()
    engine = bench.vps[1].vcpu.engine
    balance = bench.winhv.get_memory_balance(bench.id)
    for _ in range(70):
        bench.winhv.delete_vp(bench.id, 1)
        bench.winhv.create_vp(bench.id, 1)
    assert bench.winhv.get_memory_balance(bench.id) == balance
    assert len(engine._states) == 3
    assert (bench.register(N.RIP), bench.register(N.EFER), bench.vps[1].wait_for_sipi) == (0xFFF0, 0, True)
    bench.start()
    bench.run()
    assert bench.register(N.RAX) == 1


def test_sixty_four_vps_and_no_more(bench):
    for index in range(3, 64):
        bench.winhv.create_vp(bench.id, index)
        bench.start(index)
    with refused(HvStatus.INVALID_VP_INDEX):
        bench.winhv.create_vp(bench.id, 64)
    with refused(HvStatus.INVALID_VP_INDEX):
        bench.winhv.create_vp(bench.id, 63)
    bench.winhv.set_vp_registers(bench.id, 63, {N.EXPLICIT_SUSPEND: 0})
    bench.machine.run(until_tsc=bench.machine.clock.tsc + 100_000)
    assert [bench.register(N.RAX, index) for index in (62, 63)] == [0, 1]


def test_the_page_of_a_deleted_vps_vmcs_is_never_written_again(bench):
    """VMCLEAR of a page that somebody else has by now would write to it."""
    memory, hypervisor = bench.machine.memory, bench.machine.hypervisor
    page = hypervisor.partitions[bench.id].vp_pages[1].vmcs
    bench.winhv.delete_vp(bench.id, 1)
    pages = [spa << 12 for spa in bench.winhv.withdraw_memory(bench.id)]
    assert page in pages
    memory.write(page, b"\xaa" * PAGE_SIZE)
    bench.winhv.finalize_partition(bench.id)
    assert memory.read(page, PAGE_SIZE) == b"\xaa" * PAGE_SIZE


def test_boot_and_start_agree_about_long_mode(bench):
    """What the loader gives VP 0 register by register is a legal context."""
    values = boot._long_mode()
    bench.start(**{name.name.lower(): value for name, value in values.items()
                   if name.name.lower() in HvInitialVpContext.FIELDS})

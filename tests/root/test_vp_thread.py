"""The worker's thread for a VP: port accesses answered in the two pages, everything else handed on."""

import pytest

from hv.root.vp_thread import CLEAR_INTERCEPT_SUSPEND as AGAIN
from hv.root.winhv import HvError
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hv_status import HvStatus
from hv.spec.synic import (
    HvInterceptHeader,
    HvMessage,
    HvMessageHeader,
    HvMessageType,
    InterceptAccess,
    IoPortIntercept,
    MsrIntercept,
)
from hv.spec.vp_state import HvRegisterPage
from hv.spec.x86 import PAGE_SIZE
from tests.guest_runner import image_of
from tests.root.bench_clock import Clock
from tests.root.test_vmwp import MESSAGE_PAGE, PARTITION, REGISTER_PAGE
from tests.root.test_vmwp import Bench as WorkerBench

READ, WRITE = InterceptAccess.READ, InterceptAccess.WRITE
RIP, GENERAL = 2, 1                     # HvRegisterPageDirtyFlags


class Bench(WorkerBench):
    """A worker with a PC board, whose VP 1 has intercepts."""

    def __init__(self):
        super().__init__(timers=Clock())

    def come_back(self, kind, payload, vp=1):
        header = HvMessageHeader(message_type=kind, payload_size=payload.SIZE, sender=PARTITION)
        message = HvMessage(header=header, payload=payload.pack())
        self.winhv.store((MESSAGE_PAGE + vp) * PAGE_SIZE, message.pack())
        self.winhv.store((REGISTER_PAGE + vp) * PAGE_SIZE, HvRegisterPage(is_valid=1).pack())
        return self.vid.threads[PARTITION, vp]()

    def port(self, port, size, access, rax=0, rip=0x1000, length=1, vp=1):
        return self.come_back(HvMessageType.X64_IO_PORT_INTERCEPT, IoPortIntercept(
            header=HvInterceptHeader(vp_index=vp, length_and_cr8=length | 0xF0, access_type=access, rip=rip), port=port,
            access_info=size, rax=rax), vp)

    @property
    def page(self):
        return HvRegisterPage.parse(bytes(self.winhv.ram[(REGISTER_PAGE + 1) * PAGE_SIZE :][: HvRegisterPage.SIZE]))

    @property
    def calls(self):
        return [call for call in self.winhv.calls if call[0] == "set"]


@pytest.fixture
def bench():
    return Bench()


def test_every_vp_of_a_pc_is_dispatched(bench):
    assert sorted(bench.vid.threads) == [(PARTITION, 0), (PARTITION, 1)]
    assert [call[1:] for call in bench.made if call[0] == "dispatch_vp"] == [(PARTITION, 0), (PARTITION, 1)]


def test_one_without_a_pc_hears_by_messages():
    assert WorkerBench().vid.threads == {}


def test_out_reaches_the_device_and_rip_is_behind_it(bench):
    assert bench.port(0x3FF, 1, WRITE, rax=0x1_0055, rip=0x2000, length=2) == AGAIN
    assert (bench.page.dirty, bench.page.rip) == (RIP, 0x2002)
    assert bench.worker.inspect()["devices"]["com1"]["scratch"] == 0x55
    assert bench.calls == []


@pytest.mark.parametrize(("size", "rax"), [(1, 0x1122_3344_5566_7755), (2, 0x1122_3344_5566_FF55), (4, 0xFFFF_FF55)])
def test_in_changes_as_much_of_rax_as_the_instruction_does(bench, size, rax):
    bench.port(0x3FF, 1, WRITE, rax=0x55)
    bench.worker.motherboard.read = lambda port, count: 0xFFFF_FF55 & (1 << 8 * count) - 1
    assert bench.port(0x3FF, size, READ, rax=0x1122_3344_5566_7788) == AGAIN
    assert (bench.page.dirty, bench.page.gp_registers[0], bench.page.rip) == (RIP | GENERAL, rax, 0x1001)


def test_rip_wraps_as_64_bits_do(bench):
    bench.port(0x80, 1, WRITE, rip=(1 << 64) - 1)
    assert bench.page.rip == 0


def test_what_is_no_port_access_goes_to_the_worker(bench):
    header = HvInterceptHeader(vp_index=1, rip=0x1000)
    assert bench.come_back(HvMessageType.X64_MSR_INTERCEPT, MsrIntercept(header=header, msr_number=5)) == 0
    assert [(vp, values[N.INTERCEPT_SUSPEND]) for _, vp, values in bench.calls] == [(1, 0)]


def test_an_access_that_ends_the_vm_is_completed_first(bench):
    assert bench.port(0x604, 2, WRITE, rax=0x2000) == 0
    assert bench.calls[0] == ("set", 1, {N.INTERCEPT_SUSPEND: 0})
    assert (bench.worker.ended, bench.page.dirty) == ("shutdown", RIP)


def test_a_vm_that_has_ended_answers_nothing(bench):
    bench.port(0x604, 2, WRITE, rax=0x2000)
    bench.winhv.calls.clear()
    assert bench.port(0x80, 1, WRITE) == 0
    assert bench.winhv.calls == []


def test_a_device_that_is_refused_ends_the_vm(bench):
    def refuse(port, size, value):
        raise HvError(HvStatus.ACCESS_DENIED, "ASSERT_VIRTUAL_INTERRUPT")
    bench.worker.motherboard.write = refuse
    bench.port(0x80, 1, WRITE)
    assert (bench.worker.ended, bench.worker.why) == (
        "error", "its worker was refused ASSERT_VIRTUAL_INTERRUPT: ACCESS_DENIED")


def test_a_vp_that_asked_before_a_reset_is_not_answered_but_goes_on(bench):
    bench.winhv.get_vp_cpuid_values = lambda *_: [(0x663, 0, 0, 0)]
    bench.worker.load(image_of("hlt"))
    bench.winhv.registers[N.INTERCEPT_SUSPEND] = 1
    bench.winhv.set_vp_registers = lambda partition, vp, values: bench.winhv.calls.append(("set", vp, dict(values)))
    bench.port(0xCF9, 1, WRITE, 4, vp=0)
    bench.winhv.calls.clear()
    assert bench.port(0x3FF, 1, WRITE, rax=0x55) == 0
    assert bench.winhv.calls == [("set", 1, {N.INTERCEPT_SUSPEND: 0})]
    assert bench.worker.inspect()["devices"]["com1"]["scratch"] == 0

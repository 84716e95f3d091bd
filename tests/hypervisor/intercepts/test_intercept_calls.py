"""HvCallInstallIntercept: what a parent may ask for, and what of; TLFS "Intercepts"."""

import pytest

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.intercepts import install_intercept
from hv.hypervisor.hypercalls.registry import Call
from hv.spec.hv_status import HvStatus
from hv.spec.intercepts import HvInterceptType, InstallInterceptInput
from hv.spec.vmcs import VmcsField
from hv.trace.events import InterceptInstalled
from tests.hypervisor.exit_fakes import new_vp
from tests.hypervisor.fakes import Machine

T = HvInterceptType


class Bench:
    """Root, a child with two VPs, and a call of either."""

    def __init__(self):
        self.machine = Machine()
        hypervisor = self.machine.hypervisor
        hypervisor.vp_factory = lambda partition, index: new_vp(hypervisor, partition, index)
        self.child = self.machine.child(vps=2)

    @property
    def bitmaps(self):
        return {index: vp.vcpu.vmcs.read(VmcsField.EXCEPTION_BITMAP) for index, vp in self.child.vps.items()}

    def install(self, kind, parameter, access, caller=None, partition=None):
        call = Call(self.machine.hypervisor, caller or self.machine.root_vp)
        install_intercept(call, InstallInterceptInput(
            partition_id=self.child.id if partition is None else partition, access_type=access, intercept_type=kind,
            intercept_parameter=parameter))

    def refuses(self, *arguments, **more):
        with pytest.raises(HypercallError) as caught:
            self.install(*arguments, **more)
        assert not self.child.intercepts.inspect()
        return caught.value.status


@pytest.mark.parametrize(("kind", "parameter", "access"), [
    (T.IO_PORT, 0x3F8, 3), (T.IO_PORT, 0xFFFF, 3), (T.MSR, 0xC000_0080, 3), (T.CPUID, 0x4000_0000, 4),
    (T.EXCEPTION, 31, 4)])
def test_what_is_installed_is_wanted_and_nothing_else(kind, parameter, access):
    bench = Bench()
    bench.install(kind, parameter, access)
    table = bench.child.intercepts

    def wants(kind, parameter, access):
        return table.wants_port(parameter & 0xFFFF, access) if kind == T.IO_PORT else \
            table.wants(kind, parameter, access)

    assert [bool(wants(kind, parameter, bit)) for bit in (1, 2, 4)] == [bool(access & bit) for bit in (1, 2, 4)]
    assert not wants(kind, parameter + 1, 7)
    assert not wants(kind, parameter - 1, 7)
    bench.install(kind, parameter, 0)
    assert not wants(kind, parameter, 7)
    assert not bench.child.intercepts.inspect()


def test_a_range_of_ports_is_all_of_them():
    bench = Bench()
    bench.install(T.IO_PORT_RANGE, 0x3F8 | 0x3FF << 16, 3)
    wanted = [port for port in range(0x3F0, 0x408) if bench.child.intercepts.wants_port(port, 1)]
    assert wanted == list(range(0x3F8, 0x400))
    bench.install(T.IO_PORT_RANGE, 0x3F8 | 0x3FF << 16, 0)
    assert not bench.child.intercepts.inspect()


@pytest.mark.parametrize(("kind", "parameter", "access"), [
    pytest.param(T.IO_PORT, 0x10000, 3, id="port-beyond-64k"),
    pytest.param(T.IO_PORT, 0x70, 1, id="a-port-is-intercepted-both-ways"),
    pytest.param(T.IO_PORT, 0x70, 4, id="a-port-is-not-executed"),
    pytest.param(T.MSR, 1 << 32, 3, id="msr-index-has-32-bits"),
    pytest.param(T.CPUID, 0, 1, id="cpuid-is-executed"),
    pytest.param(T.CPUID, 1 << 32, 4, id="leaf-has-32-bits"),
    pytest.param(T.EXCEPTION, 32, 4, id="exceptions-are-0-to-31"),
    pytest.param(T.EXCEPTION, 6, 2, id="exceptions-are-executed"),
    pytest.param(T.IO_PORT_RANGE, 5 | 4 << 16, 3, id="empty-range"),
    pytest.param(T.IO_PORT_RANGE, 1 << 32, 3, id="range-has-32-bits"),
    pytest.param(T.IO_PORT, 0x70, 8, id="unknown-access-bit"),
    pytest.param(0x0B, 0, 4, id="a-type-that-is-not-built"),
    pytest.param(0xFFFF_FFFF, 0, 4, id="no-type-at-all"),
])
def test_a_request_that_makes_no_sense_is_invalid_parameter(kind, parameter, access):
    assert Bench().refuses(kind, parameter, access) == HvStatus.INVALID_PARAMETER


def test_only_a_parent_asks():
    bench = Bench()
    other = bench.machine.child().vps[0]
    own = bench.child.vps[0]
    assert bench.refuses(T.IO_PORT, 0x70, 3, caller=other) == HvStatus.ACCESS_DENIED
    assert bench.refuses(T.IO_PORT, 0x70, 3, caller=own) == HvStatus.ACCESS_DENIED
    assert bench.refuses(T.IO_PORT, 0x70, 3, partition=77) == HvStatus.INVALID_PARTITION_ID
    assert bench.refuses(T.IO_PORT, 0x70, 3, partition=1) == HvStatus.ACCESS_DENIED


def test_the_exception_bitmap_of_every_vp_follows():
    """SDM "Exception Bitmap"."""
    bench = Bench()
    bench.install(T.EXCEPTION, 6, 4)
    bench.install(T.EXCEPTION, 13, 4)
    assert bench.bitmaps == {0: 1 << 6 | 1 << 13, 1: 1 << 6 | 1 << 13}
    bench.install(T.EXCEPTION, 6, 0)
    assert bench.bitmaps == {0: 1 << 13, 1: 1 << 13}


def test_a_vp_made_later_knows_what_was_installed():
    bench = Bench()
    bench.install(T.EXCEPTION, 6, 4)
    bench.machine.hypervisor.create_vp(bench.child, 2)
    assert bench.bitmaps == {0: 1 << 6, 1: 1 << 6, 2: 1 << 6}


def test_what_is_installed_is_told():
    bench = Bench()
    heard = []
    bench.machine.hypervisor.trace.listen(lambda record: heard.append(record.event))
    bench.install(T.IO_PORT_RANGE, 0x60 | 0x64 << 16, 3)
    bench.install(T.MSR, 0x1234, 0)
    assert heard == [InterceptInstalled(bench.child.id, T.IO_PORT_RANGE, 0x60, 0x64, 3),
                     InterceptInstalled(bench.child.id, T.MSR, 0x1234, 0x1234, 0)]

"""HvCallRegisterInterceptResult: what CPUID answers without asking the parent; HvCallCheckForIoIntercept."""

import pytest

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.exits.cpuid import handle_cpuid
from hv.hypervisor.hypercalls.intercepts import (
    check_for_io_intercept,
    install_intercept,
    register_intercept_result,
    unregister_intercept_result,
)
from hv.hypervisor.hypercalls.registry import Call
from hv.hypervisor.partitions.cpuid_results import RESULT_SIZE
from hv.hypervisor.verdicts import ADVANCE, ASK_PARENT
from hv.spec.exits import ExitReason
from hv.spec.hv_status import HvStatus
from hv.spec.intercepts import (
    CheckForIoInterceptInput,
    CpuidResultRegister,
    HvInterceptType,
    InstallInterceptInput,
    InterceptResultInput,
    RegisterInterceptResultInput,
)
from hv.spec.partition import ANY_VP
from hv.spec.x86 import PAGE_SIZE
from hv.vmx.exit import VmExit
from tests.hypervisor.exit_fakes import new_vp
from tests.hypervisor.fakes import Machine

T = HvInterceptType
LEAF = 0x4000_0001
ALL = 0xFFFF_FFFF


class Bench:
    """Root, and a child with two VPs."""

    def __init__(self):
        self.machine = Machine()
        hypervisor = self.machine.hypervisor
        hypervisor.vp_factory = lambda partition, index: new_vp(hypervisor, partition, index)
        self.child = self.machine.child(vps=2)
        self.call = Call(hypervisor, self.machine.root_vp)

    def key(self, vp=ANY_VP, leaf=LEAF, subleaf=None, always=0, kind=T.CPUID):
        return InterceptResultInput(partition_id=self.child.id, vp_index=vp, intercept_type=kind, eax=leaf,
                                    ecx=subleaf or 0, subleaf_specific=int(subleaf is not None), always_override=always)

    def register(self, value=0, mask=0, caller=None, **key):
        """*value* under *mask* is EAX; the other registers stay."""
        nothing = CpuidResultRegister()
        call = Call(self.machine.hypervisor, caller) if caller else self.call
        register_intercept_result(call, RegisterInterceptResultInput(
            input=self.key(**key), eax=CpuidResultRegister(value=value, mask=mask), ebx=nothing, ecx=nothing,
            edx=nothing))

    def unregister(self, **key):
        unregister_intercept_result(self.call, self.key(**key))

    def install(self, kind=T.CPUID, parameter=LEAF, access=4):
        install_intercept(self.call, InstallInterceptInput(
            partition_id=self.child.id, access_type=access, intercept_type=kind, intercept_parameter=parameter))

    def cpuid(self, vp=0, leaf=LEAF, subleaf=0):
        """EAX, or None when the parent is asked."""
        regs = self.child.vps[vp].regs
        regs.rax, regs.rcx = leaf, subleaf
        verdict = handle_cpuid(self.child.vps[vp], VmExit(ExitReason.CPUID, 0, 2))
        assert verdict in (ADVANCE, ASK_PARENT)
        return regs.rax if verdict is ADVANCE else None


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def default(bench):
    return bench.cpuid()


def test_a_result_stands_in_for_the_message(bench, default):
    """result = default & ~mask | value & mask."""
    bench.install()
    assert bench.cpuid() is None
    bench.register(0x1234_5678, 0xFFFF)
    assert bench.cpuid() == default & 0xFFFF_0000 | 0x5678
    bench.unregister()
    assert bench.cpuid() is None


@pytest.mark.parametrize(("always", "answered"), [(0, False), (1, True)])
def test_without_an_intercept_only_a_result_that_always_overrides_is_answered(bench, default, always, answered):
    bench.register(7, ALL, always=always)
    assert bench.cpuid() == (7 if answered else default)


def test_a_result_for_one_vp_comes_before_one_for_all_and_a_subleaf_before_the_leaf(bench):
    bench.register(1, ALL, always=1)
    bench.register(2, ALL, always=1, subleaf=5)
    bench.register(3, ALL, always=1, vp=1)
    bench.register(4, ALL, always=1, vp=1, subleaf=6)
    assert [bench.cpuid(vp, subleaf=subleaf) for vp, subleaf in [(0, 0), (0, 5), (1, 0), (1, 5), (1, 6)]] == \
        [1, 2, 3, 3, 4]


def test_all_leaves_can_be_intercepted_at_once(bench):
    bench.install(T.GLOBAL_CPUID, 0)
    assert bench.cpuid(leaf=0x1234) is None
    bench.install(T.GLOBAL_CPUID, 0, 0)
    assert bench.cpuid(leaf=0x1234) == 0


@pytest.mark.parametrize(("key", "status"), [
    pytest.param({"vp": 9}, HvStatus.INVALID_VP_INDEX, id="no-such-vp"),
    pytest.param({"kind": T.MSR}, HvStatus.INVALID_PARAMETER, id="only-cpuid-has-results"),
    pytest.param({"always": 2}, HvStatus.INVALID_PARAMETER, id="always-override-is-a-flag"),
])
def test_a_result_that_makes_no_sense_is_refused(bench, key, status):
    with pytest.raises(HypercallError) as caught:
        bench.register(1, 1, **key)
    assert caught.value.status == status
    assert not bench.child.cpuid_results.inspect()


def test_what_is_not_registered_cannot_be_taken_away(bench):
    bench.register(1, ALL)
    with pytest.raises(HypercallError) as caught:
        bench.unregister(subleaf=0)
    assert caught.value.status == HvStatus.INVALID_PARAMETER


def test_only_the_parent_registers(bench):
    with pytest.raises(HypercallError) as caught:
        bench.register(1, 1, caller=bench.child.vps[0])
    assert caught.value.status == HvStatus.ACCESS_DENIED


def test_results_are_paid_for_until_they_go(bench):
    pool = bench.child.pool
    free = pool.available
    fit = PAGE_SIZE // RESULT_SIZE
    for leaf in range(fit + 1):
        bench.register(1, ALL, leaf=leaf, vp=leaf & 1)
        bench.register(2, ALL, leaf=leaf, vp=leaf & 1)      # again costs nothing
    assert pool.available == free - 2
    before = len(bench.child.cpuid_results.inspect())
    bench.machine.hypervisor.delete_vp(bench.child, 1)
    assert len(bench.child.cpuid_results.inspect()) < before
    bench.child.finalize()
    assert not bench.child.cpuid_results.inspect()


def test_a_parent_asks_whether_a_port_would_be_a_message(bench):
    bench.install(T.IO_PORT, 0x70, 3)

    def asks(port, size=1, write=0):
        return check_for_io_intercept(bench.call, CheckForIoInterceptInput(
            partition_id=bench.child.id, vp_index=0, port=port, size=size, is_write=write)).intercept

    assert [asks(0x70), asks(0x70, write=1), asks(0x71)] == [1, 1, 0]
    for size, write in ((3, 0), (0, 0), (1, 2)):
        with pytest.raises(HypercallError):
            asks(0x70, size, write)

"""Every call and every synthetic MSR with and without the privilege that it names; TLFS "Partition Privilege Flags"."""

from contextlib import suppress

import pytest

from hv.hypervisor.hypercalls.door import hypercall
from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.hypervisor.msrs.registry import MSRS, read_msr, write_msr
from hv.machine.faults import GuestFault
from hv.spec.cpuid import HvPrivilege as P
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hv_status import HvStatus as S
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.hypercalls.registers import RegisterName, VpRegistersInput
from hv.trace.events import Hypercall
from tests.hypervisor.fakes import Machine

IN, OUT = 0x4000, 0x5000
ALL = (1 << 64) - 1

# The calls that a privilege opens, by the manual; also those that are not built.
OPENS = {
    P.CREATE_PARTITIONS: {C.CREATE_PARTITION, C.RESTORE_PARTITION_STATE},
    P.ACCESS_PARTITION_ID: {C.GET_PARTITION_ID},
    P.ACCESS_MEMORY_POOL: {C.DEPOSIT_MEMORY, C.WITHDRAW_MEMORY, C.GET_MEMORY_BALANCE},
    P.POST_MESSAGES: {C.POST_MESSAGE},
    P.SIGNAL_EVENTS: {C.SIGNAL_EVENT},
    P.CREATE_PORT: {C.CREATE_PORT_V1, C.CREATE_PORT, C.SET_PORT_PROPERTY, C.GET_PORT_PROPERTY, C.DELETE_PORT},
    P.CONNECT_PORT: {C.CONNECT_PORT_V1, C.CONNECT_PORT, C.DISCONNECT_PORT},
    P.ACCESS_STATS: {C.MAP_STATS_PAGE, C.UNMAP_STATS_PAGE, C.MAP_STATS_PAGE2},
    P.DEBUGGING: {C.POST_DEBUG_DATA, C.RETRIEVE_DEBUG_DATA, C.RESET_DEBUG_SESSION, C.COLLECT_LIVEDUMP},
    P.CPU_MANAGEMENT: {C.GET_LOGICAL_PROCESSOR_RUN_TIME, C.PARKED_VIRTUAL_PROCESSORS, C.ADD_LOGICAL_PROCESSOR,
                       C.REMOVE_LOGICAL_PROCESSOR, C.QUERY_NUMA_DISTANCE, C.SET_LOGICAL_PROCESSOR_PROPERTY,
                       C.GET_LOGICAL_PROCESSOR_PROPERTY, C.GET_SYSTEM_PROPERTY, C.MAP_DEVICE_INTERRUPT,
                       C.UNMAP_DEVICE_INTERRUPT, C.ATTACH_DEVICE, C.DETACH_DEVICE},
    P.CONFIGURE_PROFILER: {C.SET_SYSTEM_PROPERTY},
    P.ACCESS_VSM: {C.MODIFY_VTL_PROTECTION_MASK, C.ENABLE_PARTITION_VTL, C.ENABLE_VP_VTL},
    P.START_VIRTUAL_PROCESSOR: {C.START_VIRTUAL_PROCESSOR, C.GET_VP_INDEX_FROM_APIC_ID},
}
NEEDS = {code: privilege for privilege, codes in OPENS.items() for code in codes}
# And the synthetic MSRs.
OPENS_MSRS = {
    P.ACCESS_VP_RUN_TIME_REG: {0x10}, P.ACCESS_PARTITION_REFERENCE_COUNTER: {0x20},
    P.ACCESS_SYNIC_REGS: {*range(0x80, 0x86), *range(0x90, 0xA0)}, P.ACCESS_SYNTHETIC_TIMER_REGS: {*range(0xB0, 0xB8)},
    P.ACCESS_INTR_CTRL_REGS: {*range(0x70, 0x74)}, P.ACCESS_HYPERCALL_MSRS: {0, 1}, P.ACCESS_VP_INDEX: {2},
    P.ACCESS_RESET_REG: {3}, P.ACCESS_STATS_REG: {*range(0xE0, 0xE4)}, P.ACCESS_PARTITION_REFERENCE_TSC: {0x21},
    P.ACCESS_GUEST_IDLE_REG: {0xF0}, P.ACCESS_FREQUENCY_REGS: {0x22, 0x23}, P.ACCESS_DEBUG_MSRS: {*range(0xF1, 0xF6)},
    P.CPU_MANAGEMENT: {*range(0xC1, 0xC4), *range(0xD1, 0xD4)},
    P.ACCESS_REENLIGHTENMENT_CONTROLS: {0x106, 0x107, 0x108}, P.ACCESS_TSC_INVARIANT_CONTROLS: {0x118},
}
MSR_NEEDS = {0x4000_0000 + number: privilege for privilege, numbers in OPENS_MSRS.items() for number in numbers}
THERE = sorted(index for index, provided in MSRS.items()
               if index >> 12 == 0x40000 and (provided.read or provided.write))


@pytest.fixture(scope="module")
def machine():
    """A child asks; what it is refused for other reasons changes nothing."""
    made = Machine()
    made.guest = made.child()
    made.guest.space.write(IN, bytes(256))
    return made


def asked(machine, code, privileges):
    """(status, why) of the call with an input of zeros."""
    machine.guest.privileges = privileges
    word = HypercallControl(call_code=code, rep_count=int(HYPERCALLS[code].rep))
    result = HypercallResult(hypercall(machine.hypervisor, machine.guest.vps[0], word.raw, IN, OUT))
    return S(result.status), machine.events(Hypercall)[-1].why


@pytest.mark.parametrize("code", [code for code in HYPERCALLS if code in NEEDS], ids=lambda code: C(code).name)
def test_a_call_needs_its_privilege_and_no_other(machine, code):
    """Whatever else is wrong with it: ACCESS_DENIED takes precedence."""
    needs = NEEDS[C(code)]
    missing = f"{C(code).name} needs privilege {int(needs):#x}"
    assert asked(machine, code, ALL & ~int(needs)) == (S.ACCESS_DENIED, missing)
    assert asked(machine, code, int(needs))[1] != missing


@pytest.mark.parametrize("code", [code for code in HYPERCALLS if code not in NEEDS and code < 0x8000],
                         ids=lambda code: C(code).name)
def test_a_call_that_no_privilege_opens_names_none(code):
    """Who may make it is said by whom it names: the caller itself, or its child."""
    assert HYPERCALLS[code].privilege == 0


@pytest.mark.parametrize("code", [C.GET_VP_REGISTERS, C.SET_VP_REGISTERS], ids=lambda code: code.name)
def test_the_registers_of_ones_own_partition_need_a_privilege(machine, code):
    header = VpRegistersInput(partition_id=machine.guest.id).pack() + RegisterName(name=HvRegisterName.RIP).pack()
    machine.guest.space.write(IN, header + bytes(28))
    assert asked(machine, code, ALL & ~int(P.ACCESS_VP_REGISTERS))[0] == S.ACCESS_DENIED
    assert asked(machine, code, int(P.ACCESS_VP_REGISTERS))[0] == S.SUCCESS
    machine.guest.space.write(IN, bytes(256))


def reached(vp, index, monkeypatch):
    """Which of read and write come through to who provides the MSR."""
    provided, heard = MSRS[index], []
    monkeypatch.setitem(MSRS, index, provided._replace(
        read=provided.read and (lambda vp, index: heard.append("read")),
        write=provided.write and (lambda vp, index, value: heard.append("write"))))
    for act, arguments in ((read_msr, (vp, index)), (write_msr, (vp, index, 0))):
        with suppress(GuestFault):
            act(*arguments)
    return heard


@pytest.mark.parametrize("index", THERE, ids=hex)
def test_an_msr_needs_its_privilege_and_no_other(index, monkeypatch):
    """The crash MSRs need none: CPUID says that they are there."""
    vp = Machine().child().vps[0]
    needs = int(MSR_NEEDS.get(index, 0))
    there = [name for name in ("read", "write") if getattr(MSRS[index], name)]
    vp.partition.privileges = needs
    assert reached(vp, index, monkeypatch) == there
    vp.partition.privileges = ALL & ~needs
    assert reached(vp, index, monkeypatch) == ([] if needs else there)


def test_an_msr_that_is_not_there_faults_with_every_privilege():
    vp = Machine().child().vps[0]
    vp.partition.privileges = ALL
    for index in sorted(index for index in set(MSRS) - set(THERE) if index >> 12 == 0x40000):
        for act, arguments in ((read_msr, (vp, index)), (write_msr, (vp, index, 0))):
            with pytest.raises(GuestFault) as refused:
                act(*arguments)
            assert (refused.value.vector, refused.value.error_code) == (13, 0)


def test_every_bit_that_root_may_give_is_one_that_opens_something(machine):
    """A bit is offered exactly when what it promises is there."""
    opened = {int(HYPERCALLS[code].privilege) for code in HYPERCALLS} | {MSRS[index].privilege for index in THERE}
    elsewhere = int(P.ACCESS_VP_REGISTERS | P.ENABLE_EXTENDED_HYPERCALLS | P.FAST_HYPERCALL_OUTPUT
                    | P.ENABLE_EXTENDED_GVA_RANGES | P.ADJUST_MESSAGE_BUFFERS)      # asked for inside a call
    offered = machine.root.privileges & ~elsewhere
    assert [hex(1 << bit) for bit in range(64) if offered >> bit & 1 and 1 << bit not in opened] == []

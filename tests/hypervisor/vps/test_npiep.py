"""NPIEP: what exits when, and that nothing of it stays. TLFS "Non-Privileged Instruction Execution Prevention"."""

import pytest

from hv.hypervisor.msrs.registry import read_msr, write_msr
from hv.hypervisor.partitions.cpuid import CHILD_PRIVILEGES, CpuidTable
from hv.hypervisor.partitions.reset import reset
from hv.hypervisor.run import obey
from hv.instructions.decode import decode
from hv.machine.faults import GuestFault
from hv.spec.cpuid import HvFeatures
from hv.spec.exits import ExitReason
from hv.spec.msrs import Msr
from hv.spec.vmcs import PrimaryControls, SecondaryControls, VmcsField
from hv.vmx.exit import VmExit, operand_exit
from tests.hypervisor.exit_fakes import new_vp
from tests.hypervisor.fakes import Machine

R = ExitReason
SIDT = operand_exit(R.GDTR_IDTR_ACCESS, decode(b"\x0f\x01\x0c\x25\0\0\0\0", 64), 0x1000)
STR = operand_exit(R.LDTR_TR_ACCESS, decode(b"\x0f\x00\xc8", 64), 0x1000)
LGDT = operand_exit(R.GDTR_IDTR_ACCESS, decode(b"\x0f\x01\x14\x25\0\0\0\0", 64), 0x1000)


@pytest.fixture
def vp():
    machine = Machine()
    hypervisor = machine.hypervisor
    hypervisor.vp_factory = lambda partition, index: new_vp(hypervisor, partition, index)
    return machine.child().vps[0]


def controls(vp):
    """Descriptor-table instructions exit; one instruction runs alone."""
    return (bool(vp.vmcs.read(VmcsField.SECONDARY_PROC_CONTROLS) & SecondaryControls.DESCRIPTOR_TABLE_EXITING),
            bool(vp.vmcs.read(VmcsField.PRIMARY_PROC_CONTROLS) & PrimaryControls.MONITOR_TRAP_FLAG))


def test_nothing_exits_while_nothing_is_asked_for(vp):
    assert (read_msr(vp, Msr.HV_NPIEP_CONFIG), controls(vp)) == (0, (False, False))
    write_msr(vp, Msr.HV_NPIEP_CONFIG, 5)
    assert (read_msr(vp, Msr.HV_NPIEP_CONFIG), controls(vp)) == (5, (True, False))
    write_msr(vp, Msr.HV_NPIEP_CONFIG, 0)
    assert controls(vp) == (False, False)


@pytest.mark.parametrize("bit", [4, 5, 31, 32, 63])
def test_a_reserved_bit_is_refused(vp, bit):
    with pytest.raises(GuestFault):
        write_msr(vp, Msr.HV_NPIEP_CONFIG, 1 << bit | 1)
    assert (read_msr(vp, Msr.HV_NPIEP_CONFIG), controls(vp)) == (0, (False, False))


@pytest.mark.parametrize(("exit", "cpl", "config", "refused"), [
    (SIDT, 3, 2, True), (SIDT, 3, 1, False), (SIDT, 0, 15, False), (SIDT, 1, 2, True), (SIDT, 2, 2, True),
    (STR, 3, 8, True), (STR, 3, 7, False), (STR, 3, 4, False), (STR, 0, 15, False), (LGDT, 0, 15, False)])
def test_who_is_refused(vp, exit, cpl, config, refused):
    """#GP(0) for a program; what goes on runs alone, and the control is back behind it."""
    write_msr(vp, Msr.HV_NPIEP_CONFIG, config)
    vp.regs.cpl = cpl
    assert obey(vp, exit) is True
    assert [event.vector for event in vp.vcpu.injected] == [13] * refused
    assert controls(vp) == ((True, False) if refused else (False, True))
    if not refused:
        assert obey(vp, VmExit(R.MONITOR_TRAP_FLAG)) is True
        assert controls(vp) == (True, False)


def test_a_reset_takes_it_back_in_the_midst_of_an_instruction(vp):
    write_msr(vp, Msr.HV_NPIEP_CONFIG, 1)
    obey(vp, SIDT)
    reset(vp.partition)
    assert (read_msr(vp, Msr.HV_NPIEP_CONFIG), controls(vp)) == (0, (False, False))


def test_cpuid_offers_it():
    assert CpuidTable(CHILD_PRIVILEGES).lookup(0x40000003, 0)[3] & HvFeatures.NPIEP1_AVAILABLE

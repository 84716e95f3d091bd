"""Get and set a VP's registers by name: what a parent does to start a VP and to complete an intercept.

TLFS "HvCallGetVpRegisters", "HvCallSetVpRegisters". A VP may name itself if it has AccessVpRegisters; a parent may
name any VP of a child. `hv/hypervisor/registers/` gives each name its way in and out.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.registry import Call, Reps, hypercall, require, require_vtl0
from hv.hypervisor.partitions.partition import PartitionState
from hv.hypervisor.registers.table import get_register, set_register
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_registers import (
    HvRegisterName,
)
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.registers import RegisterAssoc, RegisterName, RegisterValue, VpRegistersInput

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

# Registers that no check of VM entry reads (RIP: an address that is not canonical faults at the fetch).
_UNCHECKED = frozenset({HvRegisterName.EXPLICIT_SUSPEND, HvRegisterName.INTERCEPT_SUSPEND,
                        HvRegisterName.PENDING_INTERRUPTION,
                        *range(HvRegisterName.XMM0, HvRegisterName.XMM_CONTROL_STATUS + 1),
                        *range(HvRegisterName.RAX, HvRegisterName.RIP + 1)})


_ASSOC = Struct("<" + RegisterAssoc.FORMAT)
_NO_PADDING = bytes(12)


@hypercall(HypercallCode.GET_VP_REGISTERS, input=VpRegistersInput, rep_input=RegisterName, rep_output=RegisterValue)
def get_vp_registers(call: Call, input: VpRegistersInput, reps: Reps) -> None:
    """The values of the registers named; INVALID_PARAMETER at the first name that is unknown."""
    vp = _target(call, input)
    for element in reps:
        reps.answer(RegisterValue(value=get_register(vp, element.name)))


@hypercall(HypercallCode.SET_VP_REGISTERS, input=VpRegistersInput, rep_input=RegisterAssoc)
def set_vp_registers(call: Call, input: VpRegistersInput, reps: Reps) -> None:
    """Set registers in order; those before a refused one stay set, and reps completed tells which it was."""
    vp = _target(call, input)
    if vp is call.vp:
        vp.end_run_with(_nothing)           # it may not run any more, and VM entry has something to check
    for name, padding, value in reps.unpacked(_ASSOC):
        if padding != _NO_PADDING:
            raise HypercallError(HvStatus.INVALID_PARAMETER, f"register {name:#x}: bytes 4..15 must be zero")
        set_register(vp, name, value)
        if name not in _UNCHECKED:
            vp.registers_written()


def _nothing() -> None:
    """The run ends, and that is all."""


def _target(call: Call, input: VpRegistersInput) -> VirtualProcessor:
    partition = call.find(input.partition_id)
    if partition is call.partition:
        allowed = partition.has(HvPrivilege.ACCESS_VP_REGISTERS)
        require(allowed, "own registers need AccessVpRegisters", HvStatus.ACCESS_DENIED)
    vp = call.find_vp(partition, input.vp_index)
    require_vtl0(input.input_vtl)
    partition.require_state(PartitionState.ACTIVE)      # the registers go with the engine
    return vp

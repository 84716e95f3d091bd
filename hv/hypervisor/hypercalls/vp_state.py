"""Save and restore what of a VP are no registers; what CPUID answers it; whom an interrupt's destination means.

TLFS "HvCallGetVpState", "HvCallSetVpState", "HvCallMapVpStatePage", "HvCallGetVpCpuidValues", "HvCallGetVpSetFromMda".
State of a page or less goes through one page of the caller's, but for the synthetic timers, which fit the parameters.
Of the pages that a parent may map there are those of registers and of the intercept message.
"""

from __future__ import annotations

import struct

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.registry import Call, Reps, hypercall, require, require_vtl0
from hv.hypervisor.partitions.partition import PartitionState
from hv.hypervisor.registers.register_page import RegisterPage
from hv.hypervisor.registers.state_pages import MessagePage, StatePage
from hv.hypervisor.vps.state import SSE, STATES, X87, State
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.machine.faults import Access, NestedFault
from hv.spec.apic import BROADCAST_X2APIC, BROADCAST_XAPIC
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.vp_state import (
    CpuidLeafInfo,
    CpuidValues,
    GetVpCpuidValuesFlags,
    GetVpCpuidValuesInput,
    GetVpSetFromMdaInput,
    GetVpSetFromMdaOutput,
    MapVpStatePageInput,
    MapVpStatePageOutput,
    UnmapVpStatePageInput,
    VpStateInput,
)
from hv.spec.vp_set import VPS_PER_BANK, HvGenericSetFormat
from hv.spec.vp_state import HvGetSetVpStateType, HvVpStatePageType, SyntheticTimersState
from hv.spec.x86 import PAGE_SHIFT

_IN_PAGES = 1 << 31                     # of a state's type
# Where a VP has them, by type. GHCB is a page of isolated partitions, which are not built.
_PAGES: dict[int, tuple[str, type[StatePage]]] = {
    HvVpStatePageType.REGISTERS: ("register_page", RegisterPage),
    HvVpStatePageType.INTERCEPT_MESSAGE: ("message_page", MessagePage)}
_LOCATION_GIVEN = 1                     # of the flags of MapVpStatePage


@hypercall(HypercallCode.GET_VP_STATE, input=VpStateInput, output=SyntheticTimersState, variable=True)
def get_vp_state(call: Call, input: VpStateInput, units: tuple[int, ...]) -> SyntheticTimersState | None:
    """The state of a child's VP: into the page named, or (synthetic timers) into the output."""
    vp, state = _asked_for(call, input)
    if not input.state_type & _IN_PAGES:
        require(not units, "these timers need no page")
        return SyntheticTimersState.parse(state.save(vp))
    gpa = _page(call, units, Access.WRITE)
    call.partition.space.write(gpa, state.save(vp))
    return None


@hypercall(HypercallCode.SET_VP_STATE, input=VpStateInput, variable=True)
def set_vp_state(call: Call, input: VpStateInput, units: tuple[int, ...]) -> None:
    """The reverse of HvCallGetVpState; INVALID_SAVE_RESTORE_STATE for what no VP, or not this one, can be in."""
    vp, state = _asked_for(call, input)
    if input.state_type & _IN_PAGES:
        data = call.partition.space.read(_page(call, units, Access.READ), state.size)
    else:
        require(len(units) * 8 == state.size, f"{len(units)} units for {state.size} bytes")
        data = struct.pack(f"<{len(units)}Q", *units)
    state.restore(vp, data)


def _asked_for(call: Call, input: VpStateInput) -> tuple[VirtualProcessor, State]:
    partition = call.find_child(input.partition_id)
    vp = call.find_vp(partition, input.vp_index)
    require_vtl0(input.input_vtl)
    state = STATES.get(input.state_type)
    if state is None:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"no state {input.state_type:#x}")
    wanted = input.xsave_states if input.state_type == HvGetSetVpStateType.XSAVE else 0
    require(not input.xsave_flags and input.xsave_states == wanted and not wanted & ~(X87 | SSE),
            f"xsave flags {input.xsave_flags:#x}, components {input.xsave_states:#x}")
    partition.require_state(PartitionState.ACTIVE)
    return vp, state


def _page(call: Call, units: tuple[int, ...], access: Access) -> int:
    """The gpa of the one page named, which the caller itself can access."""
    require(len(units) == 1, f"{len(units)} pages are named, not 1")
    gpa = units[0] << PAGE_SHIFT
    try:
        call.partition.space.translate(gpa, access)
    except NestedFault as fault:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"page {units[0]:#x} is not the caller's") from fault
    return gpa


@hypercall(HypercallCode.MAP_VP_STATE_PAGE, input=MapVpStatePageInput, output=MapVpStatePageOutput)
def map_vp_state_page(call: Call, input: MapVpStatePageInput) -> MapVpStatePageOutput:
    """The registers of a child's VP, or its last intercept message, appear in the caller's memory; OBJECT_IN_USE while
    they are there already."""
    vp = _page_owner(call, input)
    given = input.flags & _LOCATION_GIVEN
    require(not input.flags & ~_LOCATION_GIVEN, f"unknown flags {input.flags:#x}")
    require(not given or input.requested_map_location < call.partition.space.page_limit,
            f"page {input.requested_map_location:#x} is outside the gpa space")
    holder, make = _PAGES[input.page_type]
    require(getattr(vp, holder) is None, "the page is mapped", HvStatus.OBJECT_IN_USE)
    page = make(vp, call.partition, input.requested_map_location if given else None)
    setattr(vp, holder, page)
    return MapVpStatePageOutput(map_location=page.place)


@hypercall(HypercallCode.UNMAP_VP_STATE_PAGE, input=UnmapVpStatePageInput)
def unmap_vp_state_page(call: Call, input: UnmapVpStatePageInput) -> None:
    """They disappear again, and the VP is not dispatched any more; INVALID_PARAMETER when they are not there."""
    vp = _page_owner(call, input)
    holder, _ = _PAGES[input.page_type]
    page: StatePage | None = getattr(vp, holder)
    if page is None:
        raise HypercallError(HvStatus.INVALID_PARAMETER, "the page is not mapped")
    if vp.dispatched is not None:
        vp.dispatched.end()
    page.close()
    setattr(vp, holder, None)


def _page_owner(call: Call, input: MapVpStatePageInput | UnmapVpStatePageInput) -> VirtualProcessor:
    partition = call.find_child(input.partition_id)
    vp = call.find_vp(partition, input.vp_index)
    require_vtl0(input.input_vtl)
    require(input.page_type in _PAGES, f"no state page {input.page_type}")
    partition.require_state(PartitionState.ACTIVE)
    return vp


@hypercall(HypercallCode.GET_VP_CPUID_VALUES, input=GetVpCpuidValuesInput, rep_input=CpuidLeafInfo,
           rep_output=CpuidValues)
def get_vp_cpuid_values(call: Call, input: GetVpCpuidValuesInput, reps: Reps) -> None:
    """What CPUID answers a child's VP, with or without what was registered for it. XSAVE is not offered, so no XFEM or
    XSS changes an answer."""
    partition = call.find_child(input.partition_id)
    vp = call.find_vp(partition, input.vp_index)
    require(not input.flags & GetVpCpuidValuesFlags.RESERVED, f"unknown flags {input.flags:#x}")
    registered = GetVpCpuidValuesFlags(input.flags).apply_registered_values
    for asked in reps:
        answer = partition.cpuid.lookup(asked.eax, asked.ecx, vp.index)
        result = partition.cpuid_results.find(vp.index, asked.eax, asked.ecx) if registered else None
        eax, ebx, ecx, edx = answer if result is None else result.over(answer)
        reps.answer(CpuidValues(eax=eax, ebx=ebx, ecx=ecx, edx=edx))


@hypercall(HypercallCode.GET_VP_SET_FROM_MDA, input=GetVpSetFromMdaInput, output=GetVpSetFromMdaOutput)
def get_vp_set_from_mda(call: Call, input: GetVpSetFromMdaInput) -> GetVpSetFromMdaOutput:
    """The VPs that take an interrupt with this destination, by the modes their APICs are in."""
    partition = call.find_child(input.partition_id)
    require_vtl0(input.input_vtl)
    require(input.destination_mode_logical < 2, f"destination mode {input.destination_mode_logical}")
    require(not input.destination_address >> 32, f"destination {input.destination_address:#x}")
    partition.require_state(PartitionState.ACTIVE)
    x2apic = any(vp.apic.is_x2apic for vp in partition.vps.values())
    named = partition.interconnect.targets(input.destination_address, bool(input.destination_mode_logical),
                                           BROADCAST_X2APIC if x2apic else BROADCAST_XAPIC)
    banks = [0] * 64
    for index, vp in partition.vps.items():
        if vp.apic in named:
            banks[index // VPS_PER_BANK] |= 1 << index % VPS_PER_BANK
    held = [bank for bank in banks if bank]
    return GetVpSetFromMdaOutput(format=HvGenericSetFormat.SPARSE_4K, banks=tuple(held + [0] * (64 - len(held))),
                                 valid_bank_mask=sum(1 << n for n, bank in enumerate(banks) if bank))

"""The translation caches of a partition's VPs: flush them, and switch the address space. TLFS "Virtual MMU".

The VPs of a partition share an engine, which caches translations of one address space at a time. So a flush is done
when the call returns, for VPs that run and for those that do not.
# Simplified: more is flushed than is asked for, as any processor may: a list of ranges means the address space, and
global mappings go with the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.registry import Call, Reps, hypercall, require
from hv.hypervisor.partitions.processor_leaves import ADDRESS_BITS_PHYSICAL
from hv.hypervisor.vps.sets import vps_in_mask, vps_in_set
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.tlb import (
    FlushVirtualAddressExInput,
    FlushVirtualAddressInput,
    GvaRange,
    HvExtendedGvaRange,
    HvFlushFlags,
    SwitchVirtualAddressSpaceInput,
)
from hv.spec.vp_set import HvGenericSetFormat
from hv.trace.events import TranslationsFlushed

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

_F = HvFlushFlags
_ALL_PROCESSORS, _ALL_SPACES, _EXTENDED = (int(flag) for flag in (
    _F.ALL_PROCESSORS, _F.ALL_VIRTUAL_ADDRESS_SPACES, _F.USE_EXTENDED_RANGE_FORMAT))
_OF_A_SPACE = _ALL_PROCESSORS | _ALL_SPACES | int(_F.NON_GLOBAL_MAPPINGS_ONLY)
_OF_A_LIST = _ALL_PROCESSORS | _ALL_SPACES | _EXTENDED


@hypercall(HypercallCode.SWITCH_VIRTUAL_ADDRESS_SPACE, input=SwitchVirtualAddressSpaceInput)
def switch_virtual_address_space(call: Call, input: SwitchVirtualAddressSpaceInput) -> None:
    """MOV to CR3 of the caller, which flushes what is cached of the space before."""
    _check_space(input.address_space)
    call.vp.load_cr3(input.address_space)


@hypercall(HypercallCode.FLUSH_VIRTUAL_ADDRESS_SPACE, input=FlushVirtualAddressInput)
def flush_virtual_address_space(call: Call, input: FlushVirtualAddressInput) -> None:
    """No VP of the mask uses a translation of the space any more that was cached before."""
    if input.flags:
        _check_flags(input.flags, _OF_A_SPACE)
    _flush(call, _masked(call, input), input.flags, input.address_space)


@hypercall(HypercallCode.FLUSH_VIRTUAL_ADDRESS_SPACE_EX, input=FlushVirtualAddressExInput, variable=True)
def flush_virtual_address_space_ex(call: Call, input: FlushVirtualAddressExInput, banks: tuple[int, ...]) -> None:
    """The same for the VPs of a set."""
    _check_flags(input.flags, _OF_A_SPACE)
    _flush(call, _listed(call, input, banks), input.flags, input.address_space)


@hypercall(HypercallCode.FLUSH_VIRTUAL_ADDRESS_LIST, input=FlushVirtualAddressInput, rep=True, rep_input=GvaRange)
def flush_virtual_address_list(call: Call, input: FlushVirtualAddressInput, reps: Reps) -> None:
    """The same for ranges of the space."""
    _check_flags(input.flags, _OF_A_LIST, call)
    _flush_list(call, _masked(call, input), input, reps)


@hypercall(HypercallCode.FLUSH_VIRTUAL_ADDRESS_LIST_EX, input=FlushVirtualAddressExInput, variable=True,
           rep_input=GvaRange)
def flush_virtual_address_list_ex(call: Call, input: FlushVirtualAddressExInput, banks: tuple[int, ...],
                                  reps: Reps) -> None:
    """The same for ranges of the space and the VPs of a set."""
    _check_flags(input.flags, _OF_A_LIST, call)
    _flush_list(call, _listed(call, input, banks), input, reps)


def _check_flags(flags: int, known: int, call: Call | None = None) -> None:
    """INVALID_PARAMETER for a flag that the call does not have, or that the caller was not offered."""
    if flags & ~known:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"flags {flags & ~known:#x} of a flush")
    if call is not None and flags & _EXTENDED:
        require(call.partition.has(HvPrivilege.ENABLE_EXTENDED_GVA_RANGES), "extended ranges were not offered")


def _check_space(address_space: int) -> None:
    if address_space >> ADDRESS_BITS_PHYSICAL:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"{address_space:#x} is no value for CR3")


def _masked(call: Call, input: FlushVirtualAddressInput) -> list[VirtualProcessor]:
    """INVALID_PARAMETER for an empty mask: that does not mean everybody."""
    if input.flags & _ALL_PROCESSORS:
        return _everybody(call)
    if not input.processor_mask:
        raise HypercallError(HvStatus.INVALID_PARAMETER, "no vp is to be flushed")
    return vps_in_mask(call.partition, input.processor_mask)


def _listed(call: Call, input: FlushVirtualAddressExInput, banks: tuple[int, ...]) -> list[VirtualProcessor]:
    if input.flags & _ALL_PROCESSORS:
        return _everybody(call)
    found = vps_in_set(call.partition, input.processor_set, banks)
    require(any(banks) or input.processor_set.format == HvGenericSetFormat.ALL, "no vp is to be flushed")
    return found


def _everybody(call: Call) -> list[VirtualProcessor]:
    return [vp for _, vp in sorted(call.partition.vps.items())]


def _flush(call: Call, vps: list[VirtualProcessor], flags: int, address_space: int) -> None:
    space = None if flags & _ALL_SPACES else address_space
    if space is not None and space >> ADDRESS_BITS_PHYSICAL:
        _check_space(space)
    if call.hypervisor.trace.listening:
        call.emit(TranslationsFlushed(tuple(vp.index for vp in vps), space))
    for vp in vps:
        if vp.flush_translations(space):
            return                      # they were everybody's


def _flush_list(call: Call, vps: list[VirtualProcessor],
                input: FlushVirtualAddressInput | FlushVirtualAddressExInput, reps: Reps) -> None:
    flushed = False
    for element in reps:
        if input.flags & _EXTENDED:
            _check_extended(HvExtendedGvaRange(element.gva_range))
        if not flushed:
            _flush(call, vps, input.flags, input.address_space)
            flushed = True


def _check_extended(wanted: HvExtendedGvaRange) -> None:
    require(not wanted.large_page or not wanted.large_reserved, f"reserved bits in gva range {wanted.raw:#x}")

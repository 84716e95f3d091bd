"""Which VPs of a partition a hypercall means: a mask of 64, or a sparse set of banks. TLFS "Virtual Processor Sets"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.spec.hv_status import HvStatus
from hv.spec.vp_set import VPS_PER_BANK, HvGenericSetFormat, HvVpSet

if TYPE_CHECKING:
    from hv.hypervisor.partitions.partition import Partition
    from hv.hypervisor.vps.vp import VirtualProcessor


def vps_in_mask(partition: Partition, mask: int) -> list[VirtualProcessor]:
    """The VPs 0..63 whose bits are set, in order; one that does not exist is passed over."""
    found, vps = [], partition.vps
    while mask:
        lowest = mask & -mask
        vp = vps.get(lowest.bit_length() - 1)
        if vp is not None:
            found.append(vp)
        mask ^= lowest
    return found


def vps_in_set(partition: Partition, named: HvVpSet, banks: tuple[int, ...]) -> list[VirtualProcessor]:
    """The VPs that *named* and its *banks* mean, in order; one that does not exist is passed over.

    INVALID_PARAMETER for an unknown format, INVALID_HYPERCALL_INPUT when the banks are not as many as the mask says.
    """
    if named.format == HvGenericSetFormat.ALL:
        return [partition.vps[index] for index in sorted(partition.vps)]
    if named.format != HvGenericSetFormat.SPARSE_4K:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"format {named.format} of a vp set")
    if len(banks) != named.valid_bank_mask.bit_count():
        raise HypercallError(HvStatus.INVALID_HYPERCALL_INPUT,
                             f"{len(banks)} banks for the bank mask {named.valid_bank_mask:#x}")
    numbers = [number for number in range(VPS_PER_BANK) if named.valid_bank_mask >> number & 1]
    held = dict(zip(numbers, banks, strict=True))
    return [vp for index, vp in sorted(partition.vps.items())
            if held.get(index // VPS_PER_BANK, 0) >> index % VPS_PER_BANK & 1]

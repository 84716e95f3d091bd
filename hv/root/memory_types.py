"""The memory types that firmware leaves in the MTRRs of a PC: RAM is cached, devices are not.

SDM "Memory Type Range Registers". An operating system that finds them off uses no PAT either.
"""

from __future__ import annotations

from hv.root.winhv import WinHv
from hv.spec.hv_registers import HvRegisterName
from hv.spec.msrs import MtrrDefType, MtrrPhysBase, MtrrPhysMask
from hv.spec.pc import LARGEST_LOW_MEMORY
from hv.spec.x86 import PAGE_SHIFT, MemoryType

N = HvRegisterName
_END = 1 << 32                  # of the addresses below which devices are
_WHOLE_ADDRESS = (1 << 40) - 1  # CPUID leaf 0x80000008
_FIRST_FIXED = N.MTRR_FIX64K00000


def _eight(kind: MemoryType) -> int:
    """The same type for each part of a fixed range."""
    return int.from_bytes(bytes((kind,)) * 8, "little")


def of_a_pc() -> dict[HvRegisterName, int]:
    """Write-back for all but VGA's memory, the ROMs (write-protected), and the devices below 4 GiB."""
    mask = _WHOLE_ADDRESS & ~(_END - LARGEST_LOW_MEMORY - 1)
    fixed = [MemoryType.WB, MemoryType.WB, MemoryType.UC, *[MemoryType.WP] * 8]
    return {**{HvRegisterName(_FIRST_FIXED + n): _eight(kind) for n, kind in enumerate(fixed)},
            N.MTRR_PHYS_BASE0: MtrrPhysBase(type=MemoryType.UC, base=LARGEST_LOW_MEMORY >> PAGE_SHIFT).raw,
            N.MTRR_PHYS_MASK0: MtrrPhysMask(valid=1, mask=mask >> PAGE_SHIFT).raw,
            N.MTRR_DEF_TYPE: MtrrDefType(type=MemoryType.WB, fixed_enable=1, enable=1).raw}


def set_as_firmware_does(winhv: WinHv, partition_id: int, vp_count: int) -> None:
    """On each processor, before it runs."""
    values = of_a_pc()
    for index in range(vp_count):
        winhv.set_vp_registers(partition_id, index, values)

"""The VMCS region: 4 KiB of physical memory that holds a VMCS while no processor works with it.

SDM "Format of the VMCS Region". Software owns the first dword (revision identifier); the processor writes the second
(VMX-abort indicator) and lays out the rest as it likes: here the launch state, then every field in order of its
encoding, each as wide as it is. So a copy of a region that VMCLEAR has written is a VMCS of its own; and any content
at all is some VMCS, for VM entry to judge.
"""

from __future__ import annotations

import struct
from typing import Final

from hv.machine.ram import PhysicalMemory, read_physical, write_physical
from hv.spec.vmcs import FieldWidth, RevisionIdentifier, VmcsField, VmcsRegion, VmxAbort
from hv.spec.x86 import PAGE_SIZE
from hv.vmx.vmcs import LaunchState, Vmcs

_CODES = {FieldWidth.BITS_16: "H", FieldWidth.BITS_32: "I", FieldWidth.BITS_64: "Q", FieldWidth.NATURAL: "Q"}
_FIELDS: Final = tuple(sorted(VmcsField))
_DATA = struct.Struct("<I" + "".join(_CODES[field.width] for field in _FIELDS))
_LAUNCH_STATE = struct.Struct("<I")
_ABORT = VmcsRegion.offset_of("vmx_abort")
assert VmcsRegion.SIZE + _DATA.size <= PAGE_SIZE, "the fields do not fit a region"


def revision_of(memory: PhysicalMemory, spa: int) -> RevisionIdentifier:
    """The first dword of the region at *spa*."""
    return RevisionIdentifier(int.from_bytes(read_physical(memory, spa, 4), "little"))


def load_region(memory: PhysicalMemory, spa: int) -> Vmcs:
    """The VMCS that the region at *spa* holds, whatever stands there."""
    launch, *values = _DATA.unpack(read_physical(memory, spa + VmcsRegion.SIZE, _DATA.size))
    state = LaunchState(launch) if launch in (LaunchState.CLEAR, LaunchState.LAUNCHED) else LaunchState.ORPHANED
    return Vmcs(fields=dict(zip(_FIELDS, values, strict=True)), address=spa, launch_state=state,
                shadow=bool(revision_of(memory, spa).shadow))


def store_region(memory: PhysicalMemory, vmcs: Vmcs) -> None:
    """Write the fields and the launch state of *vmcs* to its region; the two dwords before them stay."""
    data = _DATA.pack(vmcs.launch_state, *(vmcs.read(field) for field in _FIELDS))
    write_physical(memory, vmcs.address + VmcsRegion.SIZE, data)


def clear_region(memory: PhysicalMemory, spa: int) -> None:
    """The region's VMCS, which is not active, is not launched."""
    write_physical(memory, spa + VmcsRegion.SIZE, _LAUNCH_STATE.pack(LaunchState.CLEAR))


def write_abort(memory: PhysicalMemory, spa: int, abort: VmxAbort) -> None:
    """Store the VMX-abort indicator; SDM "VMX Aborts"."""
    write_physical(memory, spa + _ABORT, int(abort).to_bytes(4, "little"))

"""A VP as a value: what is needed to go on somewhere else, read and written by hypercalls alone.

Saving a virtual machine and moving it to another host come down to this and to its memory. The order of what is
written matters: the APIC's mode before its registers, the guest's identity before the hypercall page, and what lets
the VP be interrupted last. A VP that waits for an answer of its parent's gets it first, and is saved afterwards.
Left out: messages that wait for a slot, and what stands in the VP assist page, which the guest writes anew.
"""

from __future__ import annotations

from typing import NamedTuple

from hv.root.winhv import WinHv
from hv.spec.hv_registers import HvRegisterName
from hv.spec.vp_state import HvGetSetVpStateType

N = HvRegisterName


def _range(first: HvRegisterName, last: HvRegisterName) -> tuple[HvRegisterName, ...]:
    return tuple(N(number) for number in range(first, last + 1))


# The partition's own: with the second VP they are there already.
PARTITION_WIDE = (N.GUEST_OS_ID, N.HYPERCALL, N.REFERENCE_TSC, *_range(N.GUEST_CRASH_P0, N.GUEST_CRASH_P4))
PROCESSOR = (
    *_range(N.RAX, N.RFLAGS), N.CR0, N.CR2, N.CR3, N.CR4, N.EFER, *_range(N.DR0, N.DR7), *_range(N.ES, N.TR), N.IDTR,
    N.GDTR, N.TSC, N.TSC_ADJUST, N.KERNEL_GS_BASE, N.PAT, *_range(N.SYSENTER_CS, N.SFMASK), N.TSC_AUX, N.DEBUG_CTL,
    N.APIC_BASE, N.SPEC_CTRL, N.MTRR_DEF_TYPE, *_range(N.MTRR_PHYS_BASE0, N.MTRR_PHYS_BASE7),
    *_range(N.MTRR_PHYS_MASK0, N.MTRR_PHYS_MASK7), *_range(N.MTRR_FIX64K00000, N.MTRR_FIX4KF8000))
STATES = (HvGetSetVpStateType.LAPIC_STATE, HvGetSetVpStateType.XSAVE, HvGetSetVpStateType.SIM_PAGE,
          HvGetSetVpStateType.SIEF_PAGE, HvGetSetVpStateType.SYNTHETIC_TIMERS)
CONTROLLERS = (N.APIC_TPR, N.TSC_DEADLINE, N.VP_ASSIST_PAGE, *_range(N.SINT0, N.SINT15), N.SIEFP, N.SIMP, N.SCONTROL)
EXECUTION = (N.PENDING_INTERRUPTION, N.PENDING_EVENT0, N.INTERRUPT_STATE, N.INTERNAL_ACTIVITY_STATE)


class SavedVp(NamedTuple):
    """What `save` read: values of 16 bytes by name, and the states that are no registers."""

    registers: dict[HvRegisterName, bytes]
    states: dict[HvGetSetVpStateType, bytes]


class VpWaits(Exception):
    """The VP waits for its parent's answer to an intercept."""


def save(winhv: WinHv, partition_id: int, vp_index: int) -> SavedVp:
    """All of a VP that does not run; VpWaits."""
    if winhv.get_vp_register(partition_id, vp_index, N.INTERCEPT_SUSPEND):
        raise VpWaits(f"vp {vp_index} of partition {partition_id} waits for its parent")
    names = (*PARTITION_WIDE, *PROCESSOR, *CONTROLLERS, *EXECUTION)
    values = winhv.get_vp_registers(partition_id, vp_index, names)
    states = {kind: winhv.get_vp_state(partition_id, vp_index, kind) for kind in STATES}
    return SavedVp(dict(zip(names, values, strict=True)), states)


def restore(winhv: WinHv, partition_id: int, vp_index: int, saved: SavedVp) -> None:
    """Make a VP that does not run what *saved* was. The memory it will see should be there already."""
    def write(names: tuple[HvRegisterName, ...]) -> None:
        winhv.set_vp_registers(partition_id, vp_index, {name: saved.registers[name] for name in names})

    there = winhv.get_vp_registers(partition_id, vp_index, PARTITION_WIDE)
    write(tuple(name for name, value in zip(PARTITION_WIDE, there, strict=True) if value != saved.registers[name]))
    write(PROCESSOR)
    for kind in STATES:
        if kind is HvGetSetVpStateType.SYNTHETIC_TIMERS:
            write(CONTROLLERS)          # a message that is late may be delivered at once
        winhv.set_vp_state(partition_id, vp_index, kind, saved.states[kind])
    write(EXECUTION)

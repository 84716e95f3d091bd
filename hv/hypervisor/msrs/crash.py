"""How a guest says that it crashed; TLFS "Guest Crash Enlightenment Interface"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.msrs.registry import provide
from hv.hypervisor.partitions.reset import tell_parent
from hv.machine.faults import NestedFault
from hv.spec.msrs import CRASH_MESSAGE_SIZE, HvCrashCtl, Msr
from hv.trace.events import GuestCrashed

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

_CRASH_CAPABILITIES = HvCrashCtl(crash_notify=1, crash_message=1)


def _write_crash_parameter(vp: VirtualProcessor, index: int, value: int) -> None:
    vp.partition.crash_parameters[index - Msr.HV_CRASH_P0] = value


def _write_crash_control(vp: VirtualProcessor, index: int, value: int) -> None:
    """TLFS "Guest Crash Enlightenment Interface": CrashNotify reports, CrashMessage says that P3, P4 hold a text.

    A parent that has installed an MSR intercept of HV_CRASH_CTL gets that message, and the VP waits for it. Bits that
    are not supported say nothing.
    """
    control = HvCrashCtl(value)
    if not control.crash_notify:
        return
    if vp.partition.trace.listening:
        first, second, third, fourth, fifth = vp.partition.crash_parameters
        text = _crash_text(vp, fourth, fifth) if control.crash_message else ""
        vp.partition.trace.emit(GuestCrashed((first, second, third, fourth, fifth), text))
    if not vp.partition.is_root:
        vp.end_run_with(lambda: tell_parent(vp, Msr.HV_CRASH_CTL))


def _crash_text(vp: VirtualProcessor, gpa: int, size: int) -> str:
    try:
        return vp.partition.space.read(gpa, min(size, CRASH_MESSAGE_SIZE)).decode("utf-8", "replace")
    except NestedFault:
        return ""


provide(Msr.HV_CRASH_CTL, lambda vp, _: _CRASH_CAPABILITIES.raw, _write_crash_control)
for _index in range(Msr.HV_CRASH_P0, Msr.HV_CRASH_P4 + 1):
    provide(_index, lambda vp, index: vp.partition.crash_parameters[index - Msr.HV_CRASH_P0], _write_crash_parameter)

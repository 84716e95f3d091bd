"""What a VM says of its own crash; TLFS "Guest Crash Enlightenment Interface".

The guest writes five numbers of its own meaning and then the control register, which the worker hears of. The numbers
are registers of the VP; a text, if there is one, is in the guest's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hv.root.winhv import WinHv
from hv.spec.hv_registers import HvRegisterName
from hv.spec.msrs import CRASH_MESSAGE_SIZE, CRASH_PARAMETERS, HvCrashCtl


class CrashReport(NamedTuple):
    """The five parameters, and the guest's text ("" when it gave none)."""

    parameters: tuple[int, ...]
    message: str

    def __str__(self) -> str:
        numbers = " ".join(f"{parameter:#x}" for parameter in self.parameters)
        return f"{numbers}: {self.message}" if self.message else numbers


def collect(winhv: WinHv, partition_id: int, vp_index: int, control: int,
            read: Callable[[int, int], bytes], memory_bytes: int) -> CrashReport:
    """The report behind a write of *control* to HV_CRASH_CTL; *read* gives the guest's memory, of *memory_bytes*.

    A text that is not all in memory is left out, and one that is too long is cut.
    """
    parameters = tuple(winhv.get_vp_register(partition_id, vp_index, HvRegisterName(HvRegisterName.GUEST_CRASH_P0 + n))
                       for n in range(CRASH_PARAMETERS))
    gpa, size = parameters[3], min(parameters[4], CRASH_MESSAGE_SIZE)
    if not HvCrashCtl(control).crash_message or gpa + size > memory_bytes:
        return CrashReport(parameters, "")
    return CrashReport(parameters, read(gpa, size).decode("utf-8", "replace").rstrip("\0"))

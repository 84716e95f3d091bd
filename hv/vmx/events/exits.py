"""The exits of events: exceptions that the bitmap asks for, interrupts, NMIs, and events that lead to a task gate.

SDM "Information for VM Exits Due to Vectored Events".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.machine.idt import Event
from hv.spec.exits import ExitReason, InterruptionInfo, InterruptionType
from hv.spec.x86 import Vector
from hv.vmx.events.injection import info_of
from hv.vmx.exit import VmExit

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu


def bitmap_exits(vcpu: Vcpu, vector: int, error_code: int) -> bool:
    """Exception *vector* exits; SDM "Exception Bitmap", and for #PF "Page-Fault Exceptions" in "VM Exits"."""
    wanted = bool(vcpu.controls.exception_bitmap >> vector & 1)
    if vector == Vector.PF:
        return wanted == (error_code & vcpu.controls.pf_mask == vcpu.controls.pf_match)
    return wanted


def exception_exit(event: Event, qualification: int, length: int = 0) -> VmExit:
    """The exit of an exception."""
    exit = VmExit(ExitReason.EXCEPTION_OR_NMI, qualification, length)
    exit.interruption_info = info_of(event)
    exit.interruption_error_code = event.error_code or 0
    return exit


def external_interrupt(vector: int) -> VmExit:
    """A physical interrupt while a guest runs, acknowledged on exit."""
    exit = VmExit(ExitReason.EXTERNAL_INTERRUPT)
    exit.interruption_info = InterruptionInfo(vector=vector, type=InterruptionType.EXTERNAL_INTERRUPT, valid=1).raw
    return exit


def interrupt_pending() -> VmExit:
    """A physical interrupt that the exit does not acknowledge."""
    return VmExit(ExitReason.EXTERNAL_INTERRUPT)


def nmi() -> VmExit:
    """A physical NMI while a guest runs."""
    exit = VmExit(ExitReason.EXCEPTION_OR_NMI)
    exit.interruption_info = InterruptionInfo(vector=Vector.NMI, type=InterruptionType.NMI, valid=1).raw
    return exit


def task_gate(selector: int, event: Event) -> VmExit:
    """An event that leads to a task gate: a task switch always exits."""
    exit = VmExit(ExitReason.TASK_SWITCH, selector | 3 << 30, event.instruction_length)
    exit.idt_vectoring_info, exit.idt_vectoring_error_code = info_of(event), event.error_code or 0
    return exit

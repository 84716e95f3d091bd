"""What one calls things in an answer: who did it, by which instruction, on which control bit."""

from __future__ import annotations

from enum import IntFlag
from typing import Any

from hv.debug.facts import Fact
from hv.debug.interface_text import call_name
from hv.debug.render import record_line
from hv.debug.session import Session
from hv.spec.exits import INSTRUCTIONS, ExitReason
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.msrs import Msr
from hv.spec.vmcs import PinControls, PrimaryControls, SecondaryControls, VmcsField
from hv.spec.x86 import Vector
from hv.trace.bus import Record

FIELDS: dict[type[IntFlag], VmcsField] = {
    PinControls: VmcsField.PIN_BASED_CONTROLS, PrimaryControls: VmcsField.PRIMARY_PROC_CONTROLS,
    SecondaryControls: VmcsField.SECONDARY_PROC_CONTROLS,
}


def who(session: Session, partition: int, vp: int) -> str:
    """`timer.0`, `root.0`, or the hypervisor itself."""
    if partition == 0:
        return "the hypervisor"
    names = {vm.partition_id: vm.name for vm in session.vms} | {session.machine.hypervisor.root.id: "root"}
    return f"{names.get(partition, f'partition {partition}')}.{vp}"


def hypercall_name(code: int) -> str:
    """`HvCallMapGpaPages`, or the number of one that does not exist."""
    return call_name(HypercallCode(code)) if code in HypercallCode._value2member_map_ else f"hypercall {code:#x}"


def msr_name(index: int) -> str:
    """`HV_SCONTROL (0x40000080)`."""
    member = Msr._value2member_map_.get(index)
    return f"{Msr(index).name} ({index:#x})" if member is not None else f"{index:#x}"


def vector_name(vector: int) -> str:
    """`#PF` of an exception, else `vector 0x30`."""
    return f"#{Vector(vector).name}" if vector in Vector._value2member_map_ else f"vector {vector:#x}"


def control_name(control: IntFlag) -> str:
    """`HLT exiting (bit 7 of PRIMARY_PROC_CONTROLS)`."""
    words = str(control.name).replace("_", " ")
    return f"{words} (bit {int(control).bit_length() - 1} of {FIELDS[type(control)].name})"


def deed(fact: Fact) -> str:
    """What a VP did that is at this exit: `HvCallUnmapGpaPages`, `WRMSR HV_SCONTROL (0x40000080)`, `OUT`."""
    reason, get = ExitReason(fact.record.event.reason), fact.get
    match reason:
        case ExitReason.VMCALL:
            return hypercall_name(get("code") or 0)
        case ExitReason.RDMSR | ExitReason.WRMSR:
            return f"{reason.name} {msr_name(get('msr') or 0)}"
        case ExitReason.IO_INSTRUCTION:
            return f"{'OUT to' if get('write') else 'IN from'} port {get('port') or 0:#x}"
        case _ if reason in INSTRUCTIONS and len(INSTRUCTIONS[reason]) == 1:
            return reason.name
    return f"exit {reason.name}"


def event_text(record: Record) -> str:
    """An event without its number, time and place: `PagesUnmapped partition=2 gpa=0x5000 count=1`."""
    return record_line(record).split(None, 3)[-1]


def shown(value: Any) -> str:
    """A number as the manual writes it."""
    return f"{value:#x}"
